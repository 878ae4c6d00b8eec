//! How far long work is: a bar on a terminal, a line now and then in a log, nothing when quiet.
//!
//! Independent of what does the work; safe to call from every worker thread, and cheap enough to
//! call for every entry. Always on stderr: stdout belongs to results.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, format};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
const KNOWN: &str = "{msg} [{bar:24}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}  \
                     {binary_bytes_per_sec}  {eta} left";
const UNKNOWN: &str = "{msg} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}";

/// One piece of long work.
pub struct Progress {
    output: Output,
    display: Display,
    entries: AtomicU64,
    bytes: AtomicU64,
    total_entries: AtomicU64,
    total_bytes: AtomicU64,
    state: Mutex<State>,
    started: Instant,
}

enum Display {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

struct State {
    phase: String,
    phase_started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Work that starts now; `phase` says what is done first (`archiving`, `verifying`).
    pub(super) fn new(output: Output, phase: &str) -> Self {
        let display = if output.is_quiet() {
            Display::Nothing
        } else if output.draws() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            set_style(&bar, UNKNOWN);
            bar.set_message(phase.to_owned());
            Display::Bar(bar)
        } else {
            Display::Lines
        };
        let now = Instant::now();
        Self {
            output,
            display,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_entries: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            state: Mutex::new(State {
                phase: phase.to_owned(),
                phase_started: now,
                last_line: now,
            }),
            started: now,
        }
    }

    /// How much the current phase has to do; 0 is unknown. May be corrected while it runs.
    pub fn total(&self, entries: u64, bytes: u64) {
        self.total_entries.store(entries, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
        if let Display::Bar(bar) = &self.display {
            set_style(bar, if bytes == 0 { UNKNOWN } else { KNOWN });
            bar.set_length(bytes);
        }
    }

    /// More is done, counted from the last call.
    pub fn advance(&self, entries: u64, bytes: u64) {
        self.advance_at(entries, bytes, Instant::now());
    }

    /// The next phase starts, at zero and with an unknown total.
    pub fn phase(&self, name: &str) {
        for counter in [&self.entries, &self.bytes, &self.total_entries, &self.total_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone_into(&mut state.phase);
        state.phase_started = now;
        state.last_line = now;
        drop(state);
        match &self.display {
            Display::Bar(bar) => {
                bar.reset();
                bar.unset_length();
                set_style(bar, UNKNOWN);
                bar.set_message(name.to_owned());
            }
            Display::Lines => self.output.note(name),
            Display::Nothing => {}
        }
    }

    /// Runs `print` with the bar out of the way, so that a line does not end up inside it.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.display {
            Display::Bar(bar) => bar.suspend(print),
            Display::Lines | Display::Nothing => print(),
        }
    }

    /// The work has ended, well or not: the bar goes. Returns how long it took.
    pub fn finish(&self) -> Duration {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }

    fn advance_at(&self, entries: u64, bytes: u64, now: Instant) {
        let entries = self.entries.fetch_add(entries, Ordering::Relaxed).saturating_add(entries);
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        match &self.display {
            Display::Bar(bar) => bar.set_position(bytes),
            Display::Nothing => {}
            Display::Lines => {
                // A worker that finds the lock taken has nothing to add: another one prints.
                let Ok(mut state) = self.state.try_lock() else { return };
                if now.saturating_duration_since(state.last_line) < LINE_EVERY {
                    return;
                }
                state.last_line = now;
                let took = now.saturating_duration_since(state.phase_started);
                let total = self.total_bytes.load(Ordering::Relaxed);
                let line = line(&state.phase, entries, bytes, total, took);
                drop(state);
                self.output.note(&line);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error path that forgets `finish` must not leave half a bar on the screen.
        self.finish();
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// `archiving: 1200 files, 482.1 MiB of 1.0 GiB (47%), 48.2 MiB/s, 11s left`
fn line(phase: &str, entries: u64, bytes: u64, total: u64, took: Duration) -> String {
    let milliseconds = took.as_millis().max(1);
    let rate = u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX);
    let done = format::size(bytes);
    let mut text = if total == 0 {
        format!("{phase}: {entries} files, {done}")
    } else {
        let percent = (u128::from(bytes) * 100 / u128::from(total)).min(100);
        format!("{phase}: {entries} files, {done} of {} ({percent}%)", format::size(total))
    };
    let _ = write!(text, ", {}/s", format::size(rate));
    if total > bytes && rate > 0 {
        let left = Duration::from_secs((total - bytes).div_ceil(rate));
        let _ = write!(text, ", {} left", format::duration(left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::captured;
    use super::*;

    #[test]
    fn a_log_gets_one_line_every_ten_seconds() {
        let (output, results, errors) = captured(Settings::default());
        let progress = output.progress("archiving");
        progress.total(100, 100 << 20);
        let start = progress.started;
        for second in 1..=25 {
            progress.advance_at(2, 2 << 20, start + Duration::from_secs(second));
        }
        progress.finish();
        assert_eq!(
            errors.text(),
            "archiving: 20 files, 20.0 MiB of 100.0 MiB (20%), 2.0 MiB/s, 40s left\n\
             archiving: 40 files, 40.0 MiB of 100.0 MiB (40%), 2.0 MiB/s, 30s left\n"
        );
        assert_eq!(results.text(), "");
    }

    #[test]
    fn quiet_means_nothing_at_all() {
        let (output, _, errors) = captured(Settings { quiet: true, ..Settings::default() });
        let progress = output.progress("archiving");
        progress.phase("verifying");
        progress.advance_at(1, 1, progress.started + Duration::from_mins(1));
        assert_eq!(errors.text(), "");
    }

    #[test]
    fn many_threads_lose_no_count() {
        let (output, _, _) = captured(Settings::default());
        let progress = output.progress("archiving");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| progress.advance(1, 3)));
            }
        });
        assert_eq!(progress.entries.load(Ordering::Relaxed), 4000);
        assert_eq!(progress.bytes.load(Ordering::Relaxed), 12_000);
    }

    #[test]
    fn a_line_without_a_total_promises_no_end() {
        assert_eq!(
            line("reading", 3, 1024, 0, Duration::from_secs(2)),
            "reading: 3 files, 1.0 KiB, 512 B/s"
        );
    }
}
