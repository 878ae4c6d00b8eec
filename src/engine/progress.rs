//! How long work reports on itself and is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::EngineError;
use crate::spec::Reason;

/// Receives the progress of long work; called from the working thread, often, and must be cheap.
pub trait Progress: Send + Sync {
    /// How much there is to do; may be called again when a better number is known.
    fn total(&self, entries: u64, bytes: u64);
    /// How much was done since the last call.
    fn advance(&self, entries: u64, bytes: u64);
    /// A new phase begins, such as `check` or `extract`; counts start again from zero.
    fn phase(&self, name: &str) {
        let _ = name;
    }
    /// Everything has been read: what is being archived may change from here on, though the archive is not
    /// complete yet. Called once, and not at all by work that fails before.
    fn all_read(&self) {}
    /// The work cannot begin yet and waits for the cause to go, or, with nothing, waits no more.
    fn waits(&self, cause: Option<(Reason, &str)>) {
        let _ = cause;
    }
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn total(&self, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}
}

/// A flag that asks long work to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop; it ends with [`EngineError::Cancelled`] soon after.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if the work was asked to stop.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }
}
