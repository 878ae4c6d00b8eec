//! How urgent the reading and writing of data is: a process that stays, such as the daemon, gives way to the
//! services that it works beside.
//!
//! Niceness belongs to a thread on Linux, and the threads that a thread starts inherit it. It sets the priority
//! of reading and writing too: where no class was chosen, the kernel's level is (niceness + 20) / 5, so that 15
//! and more are the lowest level of "best effort" (`ioprio_set(2)`).

use std::sync::atomic::{AtomicI32, Ordering};

use crate::plan::Failure;
use crate::spec::Reason;

/// What the daemon does data work with unless it is told otherwise.
pub const DEFAULT_NICENESS: u8 = 15;

/// Of this process; a thread cannot take it back without rights, so that it is only ever set on threads
/// made for the purpose.
static NICENESS: AtomicI32 = AtomicI32::new(0);

/// Sets the niceness, 0 to 19, of data work that begins from now on.
pub fn set(niceness: u8) {
    NICENESS.store(i32::from(niceness.min(19)), Ordering::Relaxed);
}

/// The niceness of data work that begins now, 0 to 19.
pub fn niceness() -> u8 {
    u8::try_from(NICENESS.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Runs data work on a thread of its own, with the niceness that was set.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(
            Reason::InternalError,
            format!("a thread that works on data ended unexpectedly: {error}"),
        )
    };
    std::thread::Builder::new()
        .name("eider-data".to_owned())
        .spawn(move || {
            let niceness = NICENESS.load(Ordering::Relaxed);
            // Work that is more urgent than wished is better than none. Whoever is nicer already stays so.
            if niceness > 0
                && rustix::process::getpriority_process(None).is_ok_and(|now| now < niceness)
            {
                let _ = rustix::process::setpriority_process(None, niceness);
            }
            let _ = sender.send(work());
        })
        .map_err(|error| failed(&error))?;
    receiver.await.map_err(|error| failed(&error))?
}
