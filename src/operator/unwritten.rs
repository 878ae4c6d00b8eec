//! The journal of an operation while the catalog cannot be written to, as on a full disk.
//!
//! What has happened is kept in memory and written as soon as the catalog takes it: losing it with the process
//! is what being killed between an effect and its outcome is. What is still to happen needs its intent on disk
//! first, or in the status of a cluster's object; only a service that stands still is let run again without,
//! which does no harm when it is done twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tracing::warn;

use super::{Operator, OperatorError};
use crate::catalog::CatalogError;
use crate::plan::{Action, Failure, JournalEntry, Log, Mark, OperationId, status};
use crate::spec::{Kind, Reason};
use crate::telemetry::Health;

/// How often a catalog that failed is tried again for `/readyz`.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);
/// How what waits for the catalog is told.
const GOES_ON: &str = "the operation goes on as soon as the catalog can be written";

/// What is known of the journals of operations that are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Journals(Arc<Mutex<HashMap<OperationId, Known>>>);

#[derive(Debug, Default)]
struct Known {
    /// What the catalog has, as it was last read or written.
    read: Vec<JournalEntry>,
    /// What the catalog has not taken yet, oldest first.
    unwritten: Vec<JournalEntry>,
}

impl Journals {
    fn map(&self) -> MutexGuard<'_, HashMap<OperationId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, entry: JournalEntry) {
        self.map().entry(entry.operation.clone()).or_default().unwritten.push(entry);
    }

    fn oldest_unwritten(&self, operation: &OperationId) -> Option<JournalEntry> {
        self.map().get(operation)?.unwritten.first().cloned()
    }

    /// The catalog has it now.
    fn written(&self, entry: JournalEntry) {
        if let Some(known) = self.map().get_mut(&entry.operation) {
            known.unwritten.retain(|other| *other != entry);
            known.read.push(entry);
        }
    }

    /// What is known after a look into the catalog, and whether that is anything.
    fn after(
        &self,
        operation: &OperationId,
        read: Result<Vec<JournalEntry>, CatalogError>,
    ) -> Result<Vec<JournalEntry>, CatalogError> {
        let mut map = self.map();
        let known = map.entry(operation.clone()).or_default();
        match read {
            Ok(journal) => known.read = journal,
            Err(error) if known.read.is_empty() => return Err(error),
            Err(error) => warn!(%operation, "{error}; going on from what is known of its journal"),
        }
        Ok(known.read.iter().chain(&known.unwritten).cloned().collect())
    }

    /// Forgets an operation that is not under way any more.
    pub(super) fn forget(&self, operation: &OperationId) {
        let mut map = self.map();
        if map.get(operation).is_some_and(|known| known.unwritten.is_empty()) {
            map.remove(operation);
        }
    }
}

/// The failure of a step that was not begun, because nobody could have known of it after a crash.
fn not_begun(error: &CatalogError) -> Failure {
    let message = format!("{error}; what stood still was let run again before anything was done");
    Failure::new(Reason::CatalogFailed, message).hint(error.hint())
}

/// The failure of a step by the catalog, where a service stands still that is not to wait for it.
pub(super) fn heed<T>(
    log: &Log<'_>,
    result: Result<Result<T, Failure>, OperatorError>,
) -> Result<Result<T, Failure>, OperatorError> {
    match result {
        Err(OperatorError::Catalog(error)) if status::stands_still(log) => {
            Ok(Err(not_begun(&error)))
        }
        result => result,
    }
}

impl Operator {
    /// The journal of an operation under way: what the catalog has, and behind it what it could not take yet.
    pub(super) async fn journal(
        &self,
        operation: &OperationId,
    ) -> Result<Vec<JournalEntry>, OperatorError> {
        // What cannot be written now is read from memory.
        let _ = self.catch_up(operation).await;
        let read = self.catalog.journal(operation).await;
        Ok(self.journals.after(operation, read)?)
    }

    /// Writes what the catalog could not take before, in its order.
    async fn catch_up(&self, operation: &OperationId) -> Result<(), CatalogError> {
        while let Some(entry) = self.journals.oldest_unwritten(operation) {
            self.catalog.append_journal(entry.clone()).await?;
            self.journals.written(entry);
        }
        Ok(())
    }

    /// Writes an entry, behind those that wait to be written.
    pub(super) async fn append(&self, entry: JournalEntry) -> Result<(), CatalogError> {
        self.catch_up(&entry.operation).await?;
        self.catalog.append_journal(entry.clone()).await?;
        self.journals.written(entry);
        Ok(())
    }

    /// Writes what became of a step, now or later.
    pub(super) async fn write_outcome(
        &self,
        operation: &OperationId,
        step: &str,
        mark: Mark,
        detail: Value,
    ) {
        let entry = self.entry(operation, step, mark, detail);
        if let Err(error) = self.append(entry.clone()).await {
            warn!(%operation, step, "{error}; its outcome is written later");
            self.journals.keep(entry);
        }
    }

    /// Writes the intent of a step. False if the step has failed by that: its intent could not be written,
    /// and a service stands still, which is not to wait for the catalog.
    ///
    /// # Errors
    /// If the intent could not be written and nothing suffers from waiting.
    pub(super) async fn write_intent(
        &self,
        log: &Log<'_>,
        action: &Action,
        intent: JournalEntry,
    ) -> Result<bool, OperatorError> {
        let Err(error) = self.append(intent.clone()).await else { return Ok(true) };
        let (operation, step) = (intent.operation.clone(), intent.step.clone());
        // In a cluster nothing is done before the status of the object has the intent.
        if action.may_come_first() || self.cluster.is_some() {
            warn!(%operation, step, "{error}; its intent is written later");
            self.journals.keep(intent);
            return Ok(true);
        }
        if !status::stands_still(log) {
            return Err(error.into());
        }
        warn!(%operation, step, "{error}; what stands still is let run again");
        let failed = self.entry(&operation, &step, Mark::Failed, json!(not_begun(&error)));
        self.journals.keep(intent);
        self.journals.keep(failed);
        Ok(false)
    }

    /// Whether an effect may come about that no status could be written of: it only lets run again what stands
    /// still, or it puts things back and the catalog has its intent.
    pub(super) fn may_go_untold(&self, operation: &OperationId, action: &Action) -> bool {
        let is_written = self.journals.oldest_unwritten(operation).is_none();
        action.may_come_first() || (action.is_compensation() && is_written)
    }

    /// Says in the status of a cluster's object that its operation waits for the catalog: a status that says
    /// what it said before would hide it.
    pub(super) async fn say_catalog_failed(&self, operation: &OperationId, error: &CatalogError) {
        let Some(link) = &self.cluster else { return };
        let (reason, message) = (error.reason(), format!("{error}; {GOES_ON}"));
        link.event(operation, true, reason.as_str(), "Record", &message).await;
        let Ok(kind) = operation.kind.parse::<Kind>() else { return };
        let found = link.api(kind, &operation.namespace).get_opt(&operation.name).await;
        let Ok(Some(object)) = found else { return };
        let mut value = object.data["status"].clone();
        if !value.is_object() {
            value = json!({"phase": "Pending", "observedGeneration": operation.generation});
        }
        let is_said = value["message"].as_str().is_some_and(|said| said.ends_with(GOES_ON));
        let is_over = status::recorded(&value, operation.generation).is_some();
        if !kind.runs_once() || is_said || is_over {
            return;
        }
        super::publish::waiting(&mut value, reason, &message, operation.generation);
        let uid = operation.uid.as_deref();
        let (namespace, name) = (&operation.namespace, &operation.name);
        if let Err(failure) = link.put_status(kind, namespace, name, uid, &value).await {
            warn!(%operation, "{failure}");
        }
    }

    /// Lets `/readyz` say when the catalog cannot be written to. Runs until it is dropped.
    pub async fn watch_catalog(self, health: Arc<Health>) {
        let Some(mut trouble) = self.catalog.trouble() else { return std::future::pending().await };
        loop {
            let message = trouble.borrow_and_update().clone();
            match message {
                None => health.ready("catalog"),
                Some(message) => {
                    health.waiting("catalog", message);
                    // Nothing may be there to be written: only trying tells that it works again.
                    tokio::select! {
                        _ = trouble.changed() => continue,
                        () = tokio::time::sleep(AGAIN) => {}
                    }
                    let _ = self.remember_host().await;
                    continue;
                }
            }
            if trouble.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::catalog::{Catalog, OpenOptions};
    use crate::spec;
    use crate::telemetry::Metrics;
    use crate::telemetry::metrics::BuildInformation;

    fn operator(directory: &Path) -> Operator {
        let options = OpenOptions { probe: None, now: Timestamp::now() };
        let catalog = Catalog::open(&directory.join("eider.duckdb"), &options).unwrap().catalog;
        let build = BuildInformation { version: "0", commit: "0", duckdb: "0" };
        let metrics = Arc::new(Metrics::new(&build, Timestamp::now()).unwrap());
        Operator::new(catalog, metrics, None, 1)
    }

    /// The catalog fails for good while the data is held still: nothing is read, and it runs again.
    #[tokio::test]
    async fn what_stands_still_does_not_wait_for_a_catalog_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        std::fs::create_dir(place.join("live")).unwrap();
        std::fs::write(place.join("live/f"), "x").unwrap();
        let documents = "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: main}\n\
             spec: {local: {path: @/store}}\n---\n\
             apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: held}\n\
             spec: {target: {host: {paths: [@/live]}}, storeRef: {name: main}, hooks: {\n\
             before: [{exec: {command: [sh, -c, 'echo >> @/held; until [ -e @/closed ]; do sleep 0.05; done']}}],\n\
             after: [{exec: {command: [sh, -c, 'echo >> @/running']}}]}}\n"
            .replace('@', &place.display().to_string());
        let held = operator(place);
        let mut operation = None;
        for document in spec::load(&documents, "test").unwrap() {
            operation = held.apply(document.value, "test").await.unwrap().operation();
        }
        let operation = operation.unwrap();
        let closing = async {
            while !place.join("held").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            held.catalog().close().await.unwrap();
            std::fs::write(place.join("closed"), "").unwrap();
        };
        let (ended, ()) = tokio::join!(held.drive(&operation), closing);
        assert!(matches!(ended, Err(OperatorError::Catalog(CatalogError::Stopped))), "{ended:?}");
        assert!(place.join("running").exists(), "it was left as it was");
        let names = |log: &Log<'_>| -> Vec<String> {
            log.entries().iter().map(|entry| format!("{} {:?}", entry.step, entry.mark)).collect()
        };
        let journal = held.journal(&operation).await.unwrap();
        assert_eq!(
            names(&Log::new(&journal))[3..],
            [
                "hooks-before Intent",
                "hooks-before Done",
                "archive Intent",
                "archive Failed",
                "hooks-after Intent",
                "hooks-after Done",
            ]
        );
        let sealed =
            place.join("store").read_dir().unwrap().any(|file| {
                file.unwrap().file_name().to_string_lossy().ends_with(".manifest.json")
            });
        assert!(!sealed, "an archive was finished without its intent");

        // The next process knows nothing of it, and undoes what the catalog says was begun.
        let next = operator(place);
        let conclusion = next.drive(&operation).await.unwrap();
        assert_eq!(conclusion.failure.unwrap().reason, Reason::Interrupted);
        assert_eq!(std::fs::read_to_string(place.join("running")).unwrap(), "\n\n");
    }
}
