//! The loop: observe → plan → execute → record → publish, for every kind alike.
//!
//! It is level-triggered and keeps no state of its own: each turn reads the journal, looks at the
//! world, asks the planner, and writes an intent before and an outcome after what it does. Killing
//! the process between any two lines changes nothing about the end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{debug, error, info, warn};

use super::resolve::Resolved;
use super::unwritten::heed;
use super::waiting::Admitted;
use super::{Operator, OperatorError};
use crate::engine::{Cancel, Progress};
use crate::failpoint;
use crate::plan::{
    self, Action, Child, ChildFacts, Conclusion, Decision, Failure, Job, JournalEntry, Log, Mark,
    OperationId, status,
};
use crate::runtime::{BoxFuture, Handles, Runtime, Turn};
use crate::spec::{Kind, Reason};

/// How often a status in a cluster says how far the work has come.
const PROGRESS: Duration = Duration::from_secs(5);

/// One operation under way: what may be asked of it from outside.
#[derive(Clone)]
pub struct Running {
    /// Its identity.
    pub operation: OperationId,
    /// The target in one line.
    pub target: String,
    /// Stops it, and puts everything back.
    pub cancel: Cancel,
    /// How far it has come.
    pub meter: Arc<super::progress::Meter>,
}

impl Operator {
    /// Carries out one operation to its end, from wherever its journal stands. Returns at once with
    /// the recorded conclusion when it has ended before.
    ///
    /// # Errors
    /// Only when the catalog fails: everything else is a conclusion.
    pub async fn drive(&self, operation: &OperationId) -> Result<Conclusion, OperatorError> {
        match self.drive_in_turn(operation, None).await? {
            Some(conclusion) => Ok(conclusion),
            None => Ok(Conclusion::failed(cancelled())),
        }
    }

    /// The same, as one of those that share `permits`. Returns nothing when the process stops before
    /// its turn has come.
    pub(super) async fn drive_in_turn(
        &self,
        operation: &OperationId,
        permits: Option<&Arc<Semaphore>>,
    ) -> Result<Option<Conclusion>, OperatorError> {
        let result = Box::pin(self.drive_on(operation, permits)).await;
        self.journals.forget(operation);
        result
    }

    async fn drive_on(
        &self,
        operation: &OperationId,
        permits: Option<&Arc<Semaphore>>,
    ) -> Result<Option<Conclusion>, OperatorError> {
        if let Some(conclusion) = self.recorded_conclusion(operation).await? {
            self.locks.give_up(operation);
            return Ok(Some(conclusion));
        }
        let journal = self.journal(operation).await?;
        let resolved = loop {
            let failure = match self.resolve(operation).await? {
                Ok(resolved) => break resolved,
                Err(failure) => failure,
            };
            // A Backup that is still being taken is no reason to fail, only to wait.
            // Where operations take turns somebody takes up the Backup; elsewhere nobody may.
            if permits.is_none() || !self.is_on_its_way(operation, &failure).await? {
                return self.conclude_unresolved(operation, &journal, failure).await.map(Some);
            }
            if permits.is_some_and(|permits| permits.is_closed()) {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        // What it is was written down before it waited, by an earlier process perhaps.
        let fresh = Log::new(&journal).latest_step().is_none();
        let admission = match self.admit(&resolved, fresh, permits).await? {
            Admitted::Now(admission) => admission,
            Admitted::Unwanted => {
                return self.conclude_unresolved(operation, &journal, cancelled()).await.map(Some);
            }
            Admitted::Stopping => return Ok(None),
        };
        let running = self.begin(operation, &resolved);
        let result = self.turn(&resolved, &running, admission.turn.clone()).await;
        self.docker.conclude(operation).await;
        self.end(operation);
        // Only where somebody comes back to it: who recovers one after the other would wait for this one for ever, and
        // with him the service that another of them stopped.
        let is_taken_up_again = permits.is_some_and(|permits| !permits.is_closed());
        if is_taken_up_again && result.is_err() && self.is_under_way(operation).await {
            admission.stay();
        }
        result.map(Some)
    }

    /// Whether something of an operation was begun, and it has not ended, as far as can be read.
    async fn is_under_way(&self, operation: &OperationId) -> bool {
        let journal = self.journal(operation).await.unwrap_or_default();
        let log = Log::new(&journal);
        log.latest_step().is_some() && log.conclusion().is_none()
    }

    /// Whether a Restore's Backup is known and has not ended.
    async fn is_on_its_way(
        &self,
        operation: &OperationId,
        failure: &Failure,
    ) -> Result<bool, OperatorError> {
        if !matches!(failure.reason, Reason::BackupNotReady | Reason::BackupNotFound) {
            return Ok(false);
        }
        let found =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        let backup = found
            .as_ref()
            .and_then(|resource| resource.document["spec"]["from"]["backupRef"]["name"].as_str());
        let Some(backup) = backup else { return Ok(false) };
        let kind = Kind::Backup.as_str();
        let found = self.catalog.resource(kind, &operation.namespace, backup).await?;
        let Some(backup) = found.filter(|backup| backup.removed_at.is_none()) else {
            return Ok(false);
        };
        let awaited = OperationId {
            kind: kind.to_owned(),
            namespace: operation.namespace.clone(),
            name: backup.name.clone(),
            generation: backup.generation,
            uid: backup.document["metadata"]["uid"].as_str().map(str::to_owned),
        };
        Ok(self.recorded_conclusion(&awaited).await?.is_none())
    }

    /// How an operation ended, once it has. Maintenance removes old journals; then the object's status
    /// is what says that this generation has been carried out.
    pub(super) async fn recorded_conclusion(
        &self,
        operation: &OperationId,
    ) -> Result<Option<Conclusion>, OperatorError> {
        let journal = self.journal(operation).await?;
        if let Some((conclusion, _)) = Log::new(&journal).conclusion() {
            return Ok(Some(conclusion));
        }
        if !journal.is_empty() {
            return Ok(None);
        }
        let resource = self
            .catalog
            .resource(&operation.kind, &operation.namespace, &operation.name)
            .await?
            .filter(|resource| resource.generation == operation.generation);
        Ok(resource.and_then(|resource| status::recorded(&resource.status, operation.generation)))
    }

    /// Drives a child on behalf of a parent that already holds the target.
    fn drive_child<'a>(
        &'a self,
        operation: &'a OperationId,
        cancel: Cancel,
    ) -> BoxFuture<'a, Result<Conclusion, OperatorError>> {
        Box::pin(async move {
            let journal = self.journal(operation).await?;
            if let Some((conclusion, _)) = Log::new(&journal).conclusion() {
                return Ok(conclusion);
            }
            match self.resolve(operation).await? {
                Ok(resolved) => {
                    let mut running = self.begin(operation, &resolved);
                    running.cancel = cancel;
                    // Its parent has a turn already, which is not the child's to lend.
                    let result = self.turn(&resolved, &running, Turn::default()).await;
                    self.docker.conclude(operation).await;
                    self.end(operation);
                    self.journals.forget(operation);
                    result
                }
                Err(failure) => self.conclude_unresolved(operation, &journal, failure).await,
            }
        })
    }

    async fn turn(
        &self,
        resolved: &Resolved,
        running: &Running,
        turn: Turn,
    ) -> Result<Conclusion, OperatorError> {
        let job = &resolved.job;
        let operation = job.operation();
        let runtime = match self.runtime_for(job) {
            Ok(runtime) => runtime,
            Err(failure) => {
                let journal = self.journal(operation).await?;
                return self.conclude_unresolved(operation, &journal, failure).await;
            }
        };
        match self.record_start(resolved).await {
            Err(OperatorError::Catalog(error)) if self.is_under_way(operation).await => {
                warn!(%operation, "{error}; what has begun is not to wait for it");
            }
            result => result?,
        }
        let handles = Handles {
            progress: Arc::clone(&running.meter) as Arc<dyn Progress>,
            cancel: running.cancel.clone(),
            turn,
        };
        let mut blind = false;
        loop {
            let journal = self.journal(operation).await?;
            let log = Log::new(&journal);
            // In a cluster the status is written with the next intent: one write a step.
            if self.cluster.is_none() {
                self.publish(job, &log, running).await?;
            }
            let observed = match runtime.observe(job, log).await {
                Ok(observed) => {
                    if std::mem::take(&mut blind) {
                        running.meter.waits(None);
                    }
                    observed
                }
                Err(failure) => {
                    // Not seeing is no ground for deciding: look again, as long as it takes.
                    warn!(%operation, %failure, "cannot observe; looking again in 5 s");
                    running.meter.waits(Some((failure.reason, &failure.message)));
                    blind = true;
                    if running.cancel.is_cancelled() && journal.is_empty() {
                        return self
                            .conclude(resolved, &journal, Conclusion::failed(failure))
                            .await;
                    }
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    continue;
                }
            };
            match plan::next(job, &log, &observed, Timestamp::now()) {
                Decision::Finish(conclusion) => {
                    return self.conclude(resolved, &journal, conclusion).await;
                }
                Decision::Wait { until, message } => {
                    debug!(%operation, %until, message, "waiting");
                    self.publish(job, &log, running).await?;
                    let wait = until.duration_since(Timestamp::now());
                    let wait = Duration::try_from(wait).unwrap_or_default();
                    // Short enough that a cancellation is noticed while nothing has begun.
                    if running.cancel.is_cancelled() && log.latest_step().is_none() {
                        let conclusion = Conclusion::failed(cancelled());
                        return self.conclude(resolved, &journal, conclusion).await;
                    }
                    // Whoever stops while the engine is away leaves the rest to the next start.
                    if let Some(failure) = log.engine_away()
                        && self.permits.is_closed()
                    {
                        return Err(failure.into());
                    }
                    tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
                }
                Decision::Perform { action: Action::Archive, .. } => {
                    self.archive(resolved, runtime.as_ref(), log, running, &handles).await?;
                }
                Decision::Perform { step, action, back } => {
                    let uncut = Handles { cancel: Cancel::default(), ..handles.clone() };
                    let handles = if back { &uncut } else { &handles };
                    self.execute(resolved, runtime.as_ref(), step, &action, log, running, handles)
                        .await?;
                }
            }
        }
    }

    /// Intent, effect, outcome.
    #[expect(clippy::too_many_arguments, reason = "everything about one step")]
    pub(super) async fn execute(
        &self,
        resolved: &Resolved,
        runtime: &dyn Runtime,
        step: &'static str,
        action: &Action,
        log: Log<'_>,
        running: &Running,
        handles: &Handles,
    ) -> Result<(), OperatorError> {
        let job = &resolved.job;
        let operation = job.operation();
        let point = |moment: &str| {
            failpoint::hit(&format!("{}.{step}.{moment}", operation.kind.to_lowercase()));
        };
        point("before");
        let intent = match runtime.intend(job, action, log).await {
            Ok(detail) => detail,
            Err(failure) => {
                self.write_outcome(operation, step, Mark::Intent, Value::Null).await;
                self.write_outcome(operation, step, Mark::Failed, json!(failure)).await;
                return Ok(());
            }
        };
        let intent = self.entry(operation, step, Mark::Intent, intent);
        if !self.write_intent(&log, action, intent.clone()).await? {
            return Ok(());
        }
        point("intended");
        self.watch_service(job, action, false).await;
        // The runtime reads facts from the journal, its own intent included.
        let mut entries = log.entries().to_vec();
        entries.push(intent);
        // No effect in a cluster without its intent there: whoever takes over goes on from it. But for what puts
        // things back: a service is not left down because nobody can be told.
        if self.cluster.is_some()
            && let Err(failure) = self.announce(job, &Log::new(&entries), running).await?
        {
            if !self.may_go_untold(operation, action) {
                self.write_outcome(operation, step, Mark::Failed, json!(failure)).await;
                return Ok(());
            }
            warn!(%operation, step, %failure, "it is done without being told");
        }
        point("announced");
        let started = std::time::Instant::now();
        let forward = !action.is_compensation();
        let outcome = if forward && handles.cancel.is_cancelled() {
            Err(cancelled())
        } else {
            match action {
                Action::RunChild(child) => {
                    heed(&log, self.run_child(resolved, *child, handles).await)?
                }
                _ => self.perform(runtime, job, action, &entries, running, handles).await?,
            }
        };
        point("performed");
        let failed = outcome.as_ref().err().map(|failure| failure.reason);
        let kind = super::record::metric_kind(operation);
        match failed {
            // In a cluster a turn is a look at an object: a step there is a mover's work of hours.
            Some(reason) if self.cluster.is_some() => self.metrics.reconcile_failed(kind, reason),
            None if self.cluster.is_some() => {}
            failed => self.metrics.reconcile(kind, started.elapsed(), failed),
        }
        match outcome {
            Ok(facts) => {
                info!(%operation, step, seconds = started.elapsed().as_secs_f64(), "done");
                self.write_outcome(operation, step, Mark::Done, facts).await;
                self.watch_service(job, action, true).await;
            }
            Err(failure) => {
                let failure =
                    if handles.cancel.is_cancelled() && forward { cancelled() } else { failure };
                warn!(%operation, step, reason = %failure.reason, "failed: {}", failure.message);
                self.write_outcome(operation, step, Mark::Failed, json!(failure)).await;
            }
        }
        point("recorded");
        Ok(())
    }

    /// The effect; in a cluster the status says now and then how far it has come.
    async fn perform(
        &self,
        runtime: &dyn Runtime,
        job: &Job,
        action: &Action,
        entries: &[JournalEntry],
        running: &Running,
        handles: &Handles,
    ) -> Result<Result<Value, Failure>, OperatorError> {
        let log = Log::new(entries);
        let mut effect = runtime.perform(job, action, log, handles);
        if self.cluster.is_none() {
            return Ok(effect.await);
        }
        let reading = || (running.meter.status(), running.meter.cause_of_waiting());
        let mut said = reading();
        loop {
            tokio::select! {
                outcome = &mut effect => return Ok(outcome),
                () = tokio::time::sleep(PROGRESS) => {
                    let now = reading();
                    if now != said {
                        said = now;
                        // What cannot be said now is said the next time.
                        let _ = self.announce(job, &log, running).await?;
                    }
                }
            }
        }
    }

    /// Makes sure the child exists, and drives it to its end.
    async fn run_child(
        &self,
        parent: &Resolved,
        child: Child,
        handles: &Handles,
    ) -> Result<Result<Value, Failure>, OperatorError> {
        let operation = match self.ensure_child(&parent.job, child).await? {
            Ok(operation) => operation,
            Err(failure) => return Ok(Err(failure)),
        };
        let conclusion = self.drive_child(&operation, handles.cancel.clone()).await?;
        // Its archive is in the store now, which nobody else would say.
        if let Err(error) = self.after_operation(&operation).await {
            warn!(%operation, "{error}");
        }
        if let Some(failure) = conclusion.failure {
            let failure = match child {
                Child::UpgradeRollback => {
                    super::going_back::or_unmounted(&parent.job, failure).await
                }
                _ => failure,
            };
            let reason = match child {
                _ if failure.reason == Reason::Cancelled => Reason::Cancelled,
                Child::SafetyBackup | Child::UpgradeBackup => Reason::SafetyBackupFailed,
                Child::UpgradeRollback => match failure.reason {
                    // What is gone is not tried for again.
                    Reason::ArchiveMissing => failure.reason,
                    // A disk that is away is waited for; a claim is there or is not.
                    Reason::StoreUnavailable if self.cluster.is_none() => failure.reason,
                    _ => Reason::RollbackFailed,
                },
                Child::UpgradeData => failure.reason,
            };
            let message = format!("{} {}: {}", operation.kind, operation.name, failure.message);
            return Ok(Err(Failure { reason, message, hint: failure.hint }));
        }
        let verified = match child {
            Child::UpgradeRollback | Child::UpgradeData => false,
            _ => self.is_verified(&operation).await?,
        };
        Ok(Ok(json!(ChildFacts { name: operation.name, verified })))
    }

    /// Writes the end of an operation: the records first, the journal's closing line last, so that a
    /// crash between them repeats the records instead of losing them.
    async fn conclude(
        &self,
        resolved: &Resolved,
        journal: &[JournalEntry],
        conclusion: Conclusion,
    ) -> Result<Conclusion, OperatorError> {
        let operation = resolved.job.operation();
        let point = |moment: &str| {
            failpoint::hit(&format!("{}.conclude.{moment}", operation.kind.to_lowercase()));
        };
        point("before");
        if let Some(link) = &self.cluster
            && let Err(failure) = link.runtime.dismiss(&resolved.job).await
        {
            warn!(%operation, "its mover could not be ended: {}", failure.message);
        }
        let at = Timestamp::now();
        self.record_end(resolved, &Log::new(journal), &conclusion, at).await?;
        point("recorded");
        self.close(operation, &conclusion).await?;
        point("closed");
        self.note_end(operation, &conclusion).await?;
        let journal = self.journal(operation).await?;
        let status = status::of(&resolved.job, &Log::new(&journal), None);
        self.put_status(operation, status).await?;
        self.catalog.checkpoint().await?;
        point("published");
        match &conclusion.failure {
            None => info!(%operation, "{}", conclusion.message),
            Some(failure) => error!(%operation, reason = %failure.reason, "{}", failure.message),
        }
        Ok(conclusion)
    }
}

fn cancelled() -> Failure {
    Failure::new(Reason::Cancelled, "cancelled; everything was put back as it was")
}
