//! The loop that carries documents out: apply, resolve, drive, record, publish.
//!
//! ```text
//! files, command line → apply → resources → resolve → Job → drive ⇄ plan, runtime, journal
//!                                                          └→ record → backup_records, metrics
//! schedules (daemon)  → Backup documents ─┘                └→ publish → status
//! ```

mod afterwards;
mod apply;
mod audit;
mod children;
pub mod daemon;
mod drive;
mod files;
mod going_back;
mod import;
pub mod kubernetes;
mod labelled;
mod ledger;
mod locks;
mod maintenance;
mod meanwhile;
mod migrate;
pub mod permissions;
mod presence;
mod preview;
pub mod progress;
mod prune;
mod publish;
mod rebuild;
mod record;
mod recover;
mod resolve;
mod schedules;
mod services;
pub mod stores;
mod unwritten;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore};

use crate::catalog::{Catalog, CatalogError};
use crate::engine::{Cancel, Progress};
use crate::plan::{Conclusion, Failure, Job, OperationId, StoreBinding};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::host::HostRuntime;
use crate::runtime::{Runtime, Turn};
use crate::spec::Reason;
use crate::telemetry::Metrics;

pub use apply::Applied;
pub use drive::Running;
pub use files::{FileMark, Loaded, fingerprint, load, load_beside};
pub use import::Imported;
pub use prune::{PruneReport, PrunedBackup};
pub use resolve::Resolved;
pub use schedules::KnownSchedule;

/// Why the loop could not go on. What goes wrong with an operation is a conclusion, not this.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The catalog failed; without it nothing is safe to do.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Something that was asked for directly is not possible.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl OperatorError {
    /// The reason for machines.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Catalog(error) => error.reason(),
            Self::Refused(failure) => failure.reason,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Catalog(error) => Some(error.hint()),
            Self::Refused(failure) => failure.hint.clone(),
        }
    }
}

impl From<Failure> for OperatorError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Carries out operations. Clones share everything.
#[derive(Clone)]
pub struct Operator {
    catalog: Catalog,
    host: HostRuntime,
    docker: DockerRuntime,
    session: Arc<str>,
    locks: locks::TargetLocks,
    running: Arc<Mutex<HashMap<OperationId, Running>>>,
    metrics: Arc<Metrics>,
    listener: Option<Arc<dyn Progress>>,
    permits: Arc<Semaphore>,
    queued: Arc<Mutex<HashSet<OperationId>>>,
    waker: Arc<Notify>,
    /// Stores of documents that have not been applied, for previews.
    overlay: Arc<Vec<(String, StoreBinding)>>,
    /// The cluster that objects live in, when there is one.
    cluster: Option<Arc<kubernetes::ClusterLink>>,
    /// What has been carried out, for documents that the catalog does not know.
    ledger: Option<Arc<ledger::Ledger>>,
    /// Operations that are to be undone as soon as they are taken up.
    unwanted: Arc<Mutex<HashSet<OperationId>>>,
    /// What the catalog could not take yet.
    journals: unwritten::Journals,
}

impl Operator {
    /// An operator on this catalog that carries out at most `concurrency` queued operations at a
    /// time; `listener` hears the progress of every operation.
    pub fn new(
        catalog: Catalog,
        metrics: Arc<Metrics>,
        listener: Option<Arc<dyn Progress>>,
        concurrency: usize,
    ) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrency.max(1))),
            queued: Arc::default(),
            waker: Arc::default(),
            overlay: Arc::default(),
            cluster: None,
            ledger: None,
            unwanted: Arc::default(),
            journals: unwritten::Journals::default(),
            catalog,
            host: HostRuntime::default(),
            docker: DockerRuntime::default(),
            session: uuid::Uuid::now_v7().to_string().into(),
            locks: locks::TargetLocks::default(),
            running: Arc::default(),
            metrics,
            listener,
        }
    }

    /// The same operator with the ledger beside this catalog file: for whoever carries documents out.
    ///
    /// # Errors
    /// If the ledger cannot be read: without it nobody knows what must not run again.
    pub fn with_ledger(self, catalog: &std::path::Path) -> Result<Self, OperatorError> {
        let ledger = ledger::Ledger::open(catalog).map_err(|error| {
            Failure::new(
                Reason::CatalogFailed,
                format!(
                    "the ledger {}{} cannot be used: {error}",
                    catalog.display(),
                    ledger::LEDGER_SUFFIX
                ),
            )
            .hint("it says which documents have been carried out; make it readable and writable")
        })?;
        Ok(Self { ledger: Some(Arc::new(ledger)), ..self })
    }

    /// Writes to the ledger that an object's specification begins to be carried out, or how it ended.
    async fn note(
        &self,
        operation: &OperationId,
        outcome: Option<Reason>,
    ) -> Result<(), OperatorError> {
        let Some(ledger) = self.ledger.clone() else { return Ok(()) };
        let found =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        let Some(resource) = found.filter(|found| found.generation == operation.generation) else {
            return Ok(());
        };
        let object = format!("{}/{}/{}", operation.kind, operation.namespace, operation.name);
        stores::blocking(move || {
            ledger.note(&object, &resource.spec_digest, outcome).map_err(|error| {
                Failure::new(
                    Reason::CatalogFailed,
                    format!("the ledger cannot be written: {error}"),
                )
                .hint("free some space where the catalog lies")
            })
        })
        .await?;
        Ok(())
    }

    /// The same operator for the objects of a cluster.
    #[must_use]
    pub fn with_cluster(self, link: kubernetes::ClusterLink) -> Self {
        Self { cluster: Some(Arc::new(link)), ..self }
    }

    /// Whether documents are the objects of a cluster.
    pub fn serves_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Identifies this process in journal and audit.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// What is under way.
    pub fn running(&self) -> Vec<Running> {
        let map = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        map.values().cloned().collect()
    }

    /// Stops one operation; it puts everything back and fails with reason Cancelled.
    pub fn cancel(&self, operation: &OperationId) -> bool {
        let map = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(operation).is_some_and(|running| {
            running.cancel.cancel();
            true
        })
    }

    /// Stops an operation now, or as soon as it is taken up.
    pub(crate) fn cancel_for_good(&self, operation: &OperationId) {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).insert(operation.clone());
        self.cancel(operation);
    }

    /// Stops everything that is under way.
    pub fn cancel_all(&self) {
        for running in self.running() {
            running.cancel.cancel();
        }
    }

    /// Carries out an operation when its turn comes. Returns nothing when it is already waiting or
    /// running, or when the process is stopping and it has not begun.
    pub async fn drive_queued(
        &self,
        operation: &OperationId,
    ) -> Result<Option<Conclusion>, OperatorError> {
        let enter =
            || self.queued.lock().unwrap_or_else(PoisonError::into_inner).insert(operation.clone());
        if !enter() {
            return Ok(None);
        }
        let result = self.drive_in_spite_of_the_catalog(operation).await;
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).remove(operation);
        self.waker.notify_one();
        result
    }

    /// A catalog whose disk is full comes back, and whatever stands still meanwhile is not to stay so: what
    /// was begun is gone on with from its journal, as long as it takes.
    async fn drive_in_spite_of_the_catalog(
        &self,
        operation: &OperationId,
    ) -> Result<Option<Conclusion>, OperatorError> {
        let mut pause = 2;
        let mut said = None;
        loop {
            match self.drive_in_turn(operation, Some(&self.permits)).await {
                Err(OperatorError::Catalog(error)) if !self.permits.is_closed() => {
                    tracing::warn!(%operation, "{error}; going on in {pause} s");
                    if said.replace(error.to_string()) != Some(error.to_string()) {
                        self.say_catalog_failed(operation, &error).await;
                    }
                }
                result => {
                    if said.is_some() && result.is_ok() {
                        self.finish_children(operation).await?;
                    }
                    return result;
                }
            }
            for _ in 0..pause {
                if !self.permits.is_closed() {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
            pause = (pause * 2).min(30);
        }
    }

    /// A place among the operations at work, for work on a store that belongs to none.
    pub(super) async fn take_turn(&self) -> Turn {
        Turn::wait(&self.permits).await.unwrap_or_default()
    }

    /// What waits or works.
    fn queued(&self) -> Vec<OperationId> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn with_stores(&self, overlay: Vec<(String, StoreBinding)>) -> Self {
        Self { overlay: Arc::new(overlay), ..self.clone() }
    }

    /// Lets nothing begin any more and stops what is under way.
    pub fn stop(&self) {
        self.permits.close();
        self.cancel_all();
    }

    /// Asks the daemon's loop for an immediate turn.
    pub fn wake(&self) {
        self.waker.notify_one();
    }

    /// Puts the progress of a running operation into the metrics.
    pub fn report_progress(&self, operation: &OperationId, done: u64, total: u64) {
        let kind = record::metric_kind(operation);
        self.metrics.operation_progress(kind, &operation.namespace, &operation.name, done, total);
    }

    fn begin(&self, operation: &OperationId, resolved: &Resolved) -> Running {
        let running = Running {
            operation: operation.clone(),
            target: resolved.job.target().summary(),
            cancel: Cancel::new(),
            meter: Arc::new(progress::Meter::new(self.listener.clone())),
        };
        if self.is_unwanted(operation) {
            running.cancel.cancel();
        }
        let mut map = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(operation.clone(), running.clone());
        running
    }

    fn end(&self, operation: &OperationId) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(operation);
    }

    fn runtime_for(&self, job: &Job) -> Result<Arc<dyn Runtime>, Failure> {
        if let Some(link) = &self.cluster {
            link.runtime.accepts(job)?;
            return Ok(Arc::new(link.runtime.clone()));
        }
        let runtime: Arc<dyn Runtime> = if job.target().docker.is_some() {
            Arc::new(self.docker.clone())
        } else {
            Arc::new(self.host.clone())
        };
        runtime.accepts(job)?;
        Ok(runtime)
    }
}
