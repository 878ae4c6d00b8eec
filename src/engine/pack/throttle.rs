//! Keeps reading below a number of bytes a second.

use std::time::{Duration, Instant};

use crate::engine::error::EngineError;
use crate::engine::progress::Cancel;

/// The longest sleep: whoever cancels does not wait longer.
const NAP: Duration = Duration::from_millis(100);

/// A limit on reading, or none.
pub(super) struct Throttle {
    limit: Option<u64>,
    started: Instant,
    taken: u64,
}

impl Throttle {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.filter(|limit| *limit > 0), started: Instant::now(), taken: 0 }
    }

    /// Waits until so many more bytes are allowed.
    pub(super) fn take(&mut self, bytes: u64, cancel: &Cancel) -> Result<(), EngineError> {
        let Some(limit) = self.limit else { return Ok(()) };
        self.taken = self.taken.saturating_add(bytes);
        let due = due_after(self.taken, limit);
        loop {
            let passed = self.started.elapsed();
            let Some(left) = due.checked_sub(passed).filter(|left| !left.is_zero()) else {
                // Time in which nothing was read is no credit for later.
                if passed.saturating_sub(due) > Duration::from_secs(1) {
                    self.started = Instant::now();
                    self.taken = 0;
                }
                return Ok(());
            };
            cancel.check()?;
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// How long so many bytes take at `limit` bytes a second.
fn due_after(bytes: u64, limit: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(limit.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_bytes_a_second() {
        assert_eq!(due_after(3_000_000, 2_000_000), Duration::from_millis(1500));
        assert_eq!(due_after(u64::MAX, 1), Duration::from_nanos(u64::MAX));
        let mut throttle = Throttle::new(Some(1 << 40));
        assert!(throttle.take(1 << 20, &Cancel::new()).is_ok());
        let stopped = Cancel::new();
        stopped.cancel();
        let mut throttle = Throttle::new(Some(1));
        assert!(matches!(throttle.take(1 << 30, &stopped), Err(EngineError::Cancelled)));
    }
}
