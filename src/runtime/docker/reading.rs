//! The moment at which everything has been read: whoever is held still has to have stood still until then,
//! and may run from then on, though the archive is not complete yet.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Notify;

use super::looking::mode;
use super::{DockerRuntime, on_host, places};
use crate::engine::{PackSummary, Progress, Warning, WarningKind};
use crate::plan::docker::{Touch, stop_set};
use crate::plan::{Action, Failure, Job, Log};
use crate::runtime::Handles;
use crate::spec::{BackupTrigger, ConsistencyMode, Reason, counted};

/// The label by which a container may go on while its data is read.
const GOES_ON: &str = "eider.stop";

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
        let nobody_works = self.nobody_works(job).await?;
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
                check_whole(&facts, nobody_works)?;
                return Ok(with(facts, warnings));
            }
        };
        if still.is_ok() {
            handles.progress.all_read();
        }
        let facts = archived.await?;
        let warnings = still?;
        check_whole(&facts, nobody_works)?;
        Ok(with(facts, warnings))
    }

    /// Whether nobody whom the engine knows may change the data: everybody stands still, and nobody goes on
    /// by a label. Who asked to leave everybody alone expects changes.
    async fn nobody_works(&self, job: &Job) -> Result<bool, Failure> {
        let Job::Backup(backup) = job else { return Ok(false) };
        let of_another =
            matches!(backup.spec.trigger, BackupTrigger::PreRestore | BackupTrigger::PreUpgrade);
        if mode(job) == ConsistencyMode::Live && !of_another {
            return Ok(false);
        }
        let mut look = self.look(job).await?;
        if look.selection.containers.iter().any(|id| look.facts.company(id).is_some()) {
            return Ok(false);
        }
        for container in &mut look.facts.containers {
            container.labels.remove(GOES_ON);
        }
        let up = stop_set(&look.selection, &look.facts, Touch::Read, ConsistencyMode::Pause)?;
        Ok(up.order.iter().all(|entry| entry.paused || !entry.holds_data))
    }
}

/// Fails if files went while nobody could have taken them away but somebody who replaces them: another Eider
/// with another catalog, for instance, which this one's locks do not keep away.
fn check_whole(facts: &Value, nobody_works: bool) -> Result<(), Failure> {
    if !nobody_works {
        return Ok(());
    }
    let summary: Option<PackSummary> = serde_json::from_value(facts["runtime"].clone()).ok();
    let warnings = summary.map(|summary| summary.warnings).unwrap_or_default();
    let gone: Vec<&Warning> =
        warnings.iter().filter(|warning| warning.kind == WarningKind::Vanished).collect();
    let Some(first) = gone.first() else { return Ok(()) };
    Err(Failure::new(
        Reason::QuiesceFailed,
        format!(
            "{} went while nobody was to work on the data, the first of them {}: {}",
            counted(gone.len(), "path"),
            first.path,
            first.message
        ),
    )
    .hint("find out who writes there (another Eider, a job of the host), and try again"))
}

/// What an archive has left, and what people have to know besides.
fn with(mut facts: Value, warnings: Vec<String>) -> Value {
    if let Some(known) = facts.get_mut("warnings").and_then(Value::as_array_mut) {
        known.extend(warnings.into_iter().map(Value::String));
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_that_went_while_nobody_could_take_them_are_no_mere_warning() {
        let facts = |kind: WarningKind| {
            let mut summary = PackSummary::default();
            let path = "/data/two".to_owned();
            summary.warnings = vec![Warning { path, kind, message: "it was removed".to_owned() }];
            json!({"runtime": summary})
        };
        let failure = check_whole(&facts(WarningKind::Vanished), true).unwrap_err();
        assert_eq!(failure.reason, Reason::QuiesceFailed);
        assert!(failure.message.contains("1 path went"), "{}", failure.message);
        check_whole(&facts(WarningKind::Vanished), false).unwrap();
        check_whole(&facts(WarningKind::SocketSkipped), true).unwrap();
    }
}
