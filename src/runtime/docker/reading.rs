//! The moment at which everything has been read: whoever is held still has to have stood still until then,
//! and may run from then on, though the archive is not complete yet.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Notify;

use super::{DockerRuntime, on_host, places};
use crate::engine::Progress;
use crate::plan::{Action, Failure, Job, Log};
use crate::runtime::Handles;
use crate::spec::Reason;

/// Passes on everything but that all has been read, which is to be looked into first.
struct Reading {
    progress: Arc<dyn Progress>,
    read: Notify,
}

impl Progress for Reading {
    fn total(&self, entries: u64, bytes: u64) {
        self.progress.total(entries, bytes);
    }

    fn advance(&self, entries: u64, bytes: u64) {
        self.progress.advance(entries, bytes);
    }

    fn phase(&self, name: &str) {
        self.progress.phase(name);
    }

    fn all_read(&self) {
        self.read.notify_one();
    }

    fn waits(&self, cause: Option<(Reason, &str)>) {
        self.progress.waits(cause);
    }
}

impl DockerRuntime {
    /// Archives the data, and fails if somebody whom it holds still has run before all of it was read.
    pub(super) async fn archive(
        &self,
        job: &Job,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let progress = Arc::clone(&handles.progress);
        let reading = Arc::new(Reading { progress, read: Notify::new() });
        let inner =
            Handles { progress: Arc::clone(&reading) as Arc<dyn Progress>, ..handles.clone() };
        let witness = self.witness(job, &log).await?;
        let (translated, places) = (on_host(job, &log), places(&log));
        let mut archived =
            Box::pin(self.on_data(&translated, &places, &Action::Archive, log, &inner));
        let still = tokio::select! {
            biased;
            () = reading.read.notified() => self.check_undisturbed(job, witness.as_ref()).await,
            facts = &mut archived => {
                // It was complete before anybody could look, or failed.
                let facts = facts?;
                let warnings = self.check_undisturbed(job, witness.as_ref()).await?;
                return Ok(with(facts, warnings));
            }
        };
        if still.is_ok() {
            handles.progress.all_read();
        }
        let facts = archived.await?;
        still.map(|warnings| with(facts, warnings))
    }
}

/// What an archive has left, and what people have to know besides.
fn with(mut facts: Value, warnings: Vec<String>) -> Value {
    if let Some(known) = facts.get_mut("warnings").and_then(Value::as_array_mut) {
        known.extend(warnings.into_iter().map(Value::String));
    }
    facts
}
