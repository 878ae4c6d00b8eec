//! The engine's progress, drawn.

use super::output::Output;
use super::output::progress::ProgressReporter;
use crate::engine::Progress;

/// Draws what the engine reports.
pub struct Bar(ProgressReporter);

impl Bar {
    /// A bar that shows nothing before work begins.
    pub fn new(output: &Output) -> Self {
        Self(output.progress())
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish();
    }
}

impl Progress for Bar {
    fn total(&self, entries: u64, bytes: u64) {
        self.0.total(entries, bytes);
    }

    fn advance(&self, entries: u64, bytes: u64) {
        self.0.advance(entries, bytes);
    }

    fn phase(&self, name: &str) {
        self.0.phase(name);
    }
}
