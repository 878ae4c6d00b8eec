//! Progress of long work, drawn for whoever watches.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format::size;

/// Where nobody watches, a line this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// How progress is shown.
enum Kind {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

struct State {
    phase: String,
    bytes: u64,
    total: u64,
    began: Instant,
    said: Instant,
}

/// Shows how far long work has come. Shared between threads; cheap to call often.
pub struct ProgressReporter {
    kind: Kind,
    state: Mutex<State>,
}

impl ProgressReporter {
    /// A bar on a terminal, lines elsewhere, nothing when quiet.
    pub(super) fn new(quiet: bool, terminal: bool) -> Self {
        let kind = match (quiet, terminal) {
            (true, _) => Kind::Nothing,
            (false, true) => {
                Kind::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()))
            }
            (false, false) => Kind::Lines,
        };
        let now = Instant::now();
        let state = State { phase: String::new(), bytes: 0, total: 0, began: now, said: now };
        Self { kind, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is to do.
    pub fn total(&self, _entries: u64, bytes: u64) {
        self.state().total = bytes;
        if let Kind::Bar(bar) = &self.kind {
            bar.set_length(bytes);
        }
    }

    /// How much more was done.
    pub fn advance(&self, _entries: u64, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_add(bytes);
        match &self.kind {
            Kind::Bar(bar) => bar.set_position(state.bytes),
            Kind::Lines if state.said.elapsed() >= INTERVAL => {
                state.said = Instant::now();
                eprint_line(&describe(&state));
            }
            _ => {}
        }
    }

    /// Something else is being done; counting begins anew.
    pub fn phase(&self, name: &str) {
        let mut state = self.state();
        name.clone_into(&mut state.phase);
        state.bytes = 0;
        state.total = 0;
        state.began = Instant::now();
        if let Kind::Bar(bar) = &self.kind {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            // The template is fixed text: should it not parse, the default bar serves too.
            if let Ok(style) = ProgressStyle::with_template(
                "{msg:12} {wide_bar:.cyan/dim} {binary_bytes:>10}/{binary_total_bytes:10} {binary_bytes_per_sec:>12} {eta:>5}",
            ) {
                bar.set_style(style.progress_chars("━━─"));
            }
            bar.reset();
            bar.set_message(name.to_owned());
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }
}

fn describe(state: &State) -> String {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut text = format!("{}: {}", state.phase, size(signed(state.bytes)));
    if state.total > 0 {
        let percent = (u128::from(state.bytes) * 100 / u128::from(state.total)).min(100);
        text.push_str(&format!(" of {} ({percent} %)", size(signed(state.total))));
    }
    if let Some(rate) = state.bytes.checked_div(state.began.elapsed().as_secs()) {
        text.push_str(&format!(", {}/s", size(signed(rate))));
    }
    text
}

fn eprint_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_phase_amount_and_share() {
        let reporter = ProgressReporter::new(false, false);
        reporter.phase("archiving");
        reporter.total(10, 4096);
        reporter.advance(1, 1024);
        assert_eq!(describe(&reporter.state()), "archiving: 1.0 KiB of 4.0 KiB (25 %)");
        reporter.phase("verifying");
        assert_eq!(describe(&reporter.state()), "verifying: 0 B");
    }
}
