//! How far an operation has come, readable while it works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::engine::Progress;
use crate::spec::{ProgressStatus, Reason};

/// Counts what the engine reports and passes it on to whoever draws it.
pub struct Meter {
    entries: AtomicU64,
    bytes: AtomicU64,
    total_entries: AtomicU64,
    total_bytes: AtomicU64,
    phase: Mutex<String>,
    waits: Mutex<Option<(Reason, String)>>,
    read: Notify,
    listener: Option<Arc<dyn Progress>>,
}

impl Meter {
    /// A meter at zero; `listener` hears everything too.
    pub fn new(listener: Option<Arc<dyn Progress>>) -> Self {
        Self {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_entries: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            phase: Mutex::new(String::new()),
            waits: Mutex::new(None),
            read: Notify::new(),
            listener,
        }
    }

    /// The present reading.
    pub fn status(&self) -> ProgressStatus {
        let read = |counter: &AtomicU64| {
            i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        ProgressStatus {
            files: read(&self.entries),
            bytes: read(&self.bytes),
            total_bytes: read(&self.total_bytes),
        }
    }

    /// What the work waits for, if it cannot begin.
    pub fn cause_of_waiting(&self) -> Option<(Reason, String)> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything that is to be archived has been read; for one at a time.
    pub async fn until_all_read(&self) {
        self.read.notified().await;
    }

    /// What is being done.
    pub fn current_phase(&self) -> String {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Meter {
    fn total(&self, entries: u64, bytes: u64) {
        self.total_entries.store(entries, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            listener.total(entries, bytes);
        }
    }

    fn advance(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            listener.advance(entries, bytes);
        }
    }

    fn all_read(&self) {
        // Kept for whoever asks after it.
        self.read.notify_one();
        if let Some(listener) = &self.listener {
            listener.all_read();
        }
    }

    fn phase(&self, name: &str) {
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        name.clone_into(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(listener) = &self.listener {
            listener.phase(name);
        }
    }

    fn waits(&self, cause: Option<(Reason, &str)>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) =
            cause.map(|(reason, message)| (reason, message.to_owned()));
        if let Some(listener) = &self.listener {
            listener.waits(cause);
        }
    }
}
