//! Schedules: what the planner decides is made into Backup documents and written down.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde_json::json;
use tracing::{info, warn};

use super::resolve::SCHEDULE_LABEL;
use super::{Operator, OperatorError};
use crate::catalog::{BackupFilter, BackupRecord, RecordStatus, ResourceRecord, ScheduledTask};
use crate::plan::conditions::{self, ConditionType};
use crate::plan::schedule::{self, Cron, ScheduleDecision, ScheduleInput};
use crate::plan::{Failure, OperationId};
use crate::spec::{
    Backup, BackupScheduleSpec, BackupScheduleStatus, BackupTrigger, Document, DurationText, Kind,
    Reason,
};
use crate::telemetry::metrics::ScheduleFacts;

/// How soon a schedule is looked at again whose store is not there: in a cluster nothing else tells it.
const STORE_PAUSE: Duration = Duration::from_secs(30);

/// What a turn over the schedules asks of the loop.
pub(super) struct Turn {
    /// To be carried out now.
    pub(super) start: Vec<OperationId>,
    /// How long nothing will be due.
    pub(super) pause: Duration,
}

/// A schedule as its document has it.
pub struct KnownSchedule {
    /// Its record.
    pub resource: ResourceRecord,
    /// Its specification.
    pub spec: BackupScheduleSpec,
}

impl KnownSchedule {
    /// Of a resource that is still there, and that is a schedule.
    fn read(resource: ResourceRecord) -> Option<Self> {
        let spec = serde_json::from_value(resource.document["spec"].clone()).ok()?;
        resource.removed_at.is_none().then_some(Self { resource, spec })
    }
}

impl Operator {
    /// Every schedule that is known.
    pub async fn schedules(&self) -> Result<Vec<KnownSchedule>, OperatorError> {
        let kind = Kind::BackupSchedule.as_str().to_owned();
        let resources = self.catalog.resources(Some(kind)).await?;
        Ok(resources.into_iter().filter_map(KnownSchedule::read).collect())
    }

    /// A schedule by name.
    pub async fn schedule(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<KnownSchedule, OperatorError> {
        let kind = Kind::BackupSchedule.as_str();
        let found = self.catalog.resource(kind, namespace, name).await?;
        found.and_then(KnownSchedule::read).ok_or_else(|| {
            Failure::new(
                Reason::TargetNotFound,
                format!("there is no BackupSchedule {namespace}/{name}"),
            )
            .hint("`eider schedule list` shows what there is; a document of kind BackupSchedule makes one")
            .into()
        })
    }

    /// The Backup that a run of a schedule is.
    pub fn scheduled_backup(
        known: &KnownSchedule,
        name: String,
        trigger: BackupTrigger,
    ) -> Document {
        let mut spec = known.spec.template.spec.clone();
        spec.trigger = trigger;
        let labels = BTreeMap::from([(SCHEDULE_LABEL.to_owned(), known.resource.name.clone())]);
        Document::Backup(Box::new(Backup {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(known.resource.namespace.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        }))
    }

    /// The kept state of a schedule; made when it is first seen.
    pub async fn schedule_task(
        &self,
        known: &KnownSchedule,
        now: Timestamp,
    ) -> Result<ScheduledTask, OperatorError> {
        let (namespace, name) = (&known.resource.namespace, &known.resource.name);
        let tasks = self.catalog.scheduled_tasks().await?;
        let mut task = tasks
            .into_iter()
            .find(|task| task.namespace == *namespace && task.task_name == *name)
            // One that was deleted and made again owes nothing of the time before.
            .filter(|task| created_at(known).is_none_or(|created| created <= task.created_at))
            .unwrap_or_else(|| first_task(known, now));
        if self.cluster.is_some() {
            catch_up(&mut task, known, now);
        }
        task.schedule.clone_from(&known.spec.schedule);
        task.time_zone = Some(known.spec.time_zone.clone());
        Ok(task)
    }

    /// Decides every schedule once and writes down what was decided.
    pub(super) async fn turn_schedules(&self, now: Timestamp) -> Result<Turn, OperatorError> {
        let mut turn = Turn { start: Vec::new(), pause: Duration::from_hours(1) };
        for known in self.schedules().await? {
            match self.turn_schedule(&known, now).await {
                Ok((start, pause)) => {
                    turn.start.extend(start);
                    turn.pause = turn.pause.min(pause);
                }
                Err(OperatorError::Refused(failure)) => {
                    warn!(schedule = known.resource.name, "{}", failure.message);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(turn)
    }

    /// Decides one schedule of a cluster; returns how long nothing will be due.
    pub(super) async fn turn_object(
        &self,
        known: &KnownSchedule,
    ) -> Result<Duration, OperatorError> {
        let (_, pause) = self.turn_schedule(known, Timestamp::now()).await?;
        Ok(pause)
    }

    async fn turn_schedule(
        &self,
        known: &KnownSchedule,
        now: Timestamp,
    ) -> Result<(Option<OperationId>, Duration), OperatorError> {
        let spec = &known.spec;
        let (namespace, name) = (&known.resource.namespace, &known.resource.name);
        let cron = Cron::parse(&spec.schedule, &spec.time_zone)
            .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
        let mut task = self.schedule_task(known, now).await?;
        let before = task.clone();
        let history = self.schedule_history(namespace, name).await?;
        task.last_success_at = match self.cluster {
            // The history may lack the runs of another replica; the status does not.
            Some(_) => last_success(&history).max(task.last_success_at),
            None => last_success(&history).or(task.last_success_at),
        };
        let limit = spec.jitter.as_ref().map_or(SignedDuration::ZERO, DurationText::to_signed);
        let running = self.running_of(namespace, name).await?;
        let decision = schedule::decide(
            &ScheduleInput {
                name: name.clone(),
                cron,
                jitter: schedule::jitter(namespace, name, limit),
                suspend: spec.suspend || task.suspended,
                concurrency_policy: spec.concurrency_policy,
                starting_deadline: spec.starting_deadline.to_signed(),
                overdue_after: spec.overdue_after.as_ref().map(DurationText::to_signed),
                created_at: task.created_at,
                last_run_at: task.last_run_at,
                decided_until: task.decided_until,
                last_success_at: task.last_success_at,
                running: running.iter().map(|operation| operation.name.clone()).collect(),
            },
            now,
        );
        for skipped in &decision.skip {
            warn!(schedule = name, at = %skipped.scheduled_for, reason = %skipped.reason, "run skipped");
        }
        for operation in
            running.iter().filter(|operation| decision.cancel.contains(&operation.name))
        {
            info!(%operation, "replaced by a newer run");
            // One that waits, too: else each would begin, stop its service and be cancelled in turn.
            self.cancel_for_good(operation);
        }
        let mut start = None;
        if let Some(run) = &decision.start {
            // The document is written before the schedule is moved on, under a name that is derived
            // from the time: a crash in between makes the same document again, not a second one.
            let document =
                Self::scheduled_backup(known, run.name.clone(), BackupTrigger::Scheduled);
            start = self.begin_run(known, document).await?;
            task.last_run_at = Some(run.scheduled_for);
        }
        let missed = i64::try_from(decision.missed).unwrap_or(i64::MAX);
        task.missed_runs = task.missed_runs.saturating_add(missed);
        task.decided_until = decision.decided_until;
        task.next_run_at = decision.next_run_at;
        if let Some(newest) = history.first() {
            task.status = format!("{:?}", newest.status);
            task.error_message.clone_from(&newest.error_message);
        }
        let is_new = before.updated_at == ScheduledTask::default().updated_at;
        if task != before || is_new {
            task.updated_at = now;
            self.catalog.put_scheduled_task(task.clone()).await?;
        }
        let unusable = self.store(namespace, &spec.template.spec.store_ref.name).await?.err();
        // A catalog that begins learns of one object after another: what was ready may be so still.
        let is_said = unusable.as_ref().filter(|_| !(is_new && is_ready(&known.resource)));
        self.publish_schedule(known, &task, &history, &decision, is_said, now).await?;
        let mut pause = Duration::try_from(decision.requeue_after).unwrap_or_default();
        if unusable.is_some() {
            pause = pause.min(STORE_PAUSE);
        }
        // At the very instant a run is due the clock may still show the moment before.
        Ok((start, pause.max(Duration::from_millis(50))))
    }

    /// Writes the document of a due run down: here, or as an object of the cluster, where its own
    /// controller takes it up.
    async fn begin_run(
        &self,
        known: &KnownSchedule,
        document: Document,
    ) -> Result<Option<OperationId>, OperatorError> {
        let name = &known.resource.name;
        let Some(link) = &self.cluster else {
            let applied = self.apply(document, &format!("schedule {name}")).await?;
            return Ok(applied.operation());
        };
        let mut value = document.to_value();
        value["metadata"]["ownerReferences"] = json!([{
            "apiVersion": crate::spec::API_VERSION,
            "kind": Kind::BackupSchedule.as_str(),
            "name": name,
            "uid": known.resource.document["metadata"]["uid"],
            "controller": true,
        }]);
        link.ensure(Kind::Backup, &value).await?;
        Ok(None)
    }

    /// The unfinished Backups of a schedule in a cluster, by their objects.
    async fn unfinished_objects(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<OperationId>, OperatorError> {
        let kind = Kind::Backup.as_str();
        // Not all of them: with many schedules every look would read every Backup there is.
        let resources = self.catalog.labelled(kind, namespace, SCHEDULE_LABEL, name).await?;
        Ok(resources
            .into_iter()
            .filter(|resource| {
                crate::plan::status::recorded(&resource.status, resource.generation).is_none()
            })
            .map(|resource| OperationId {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                uid: resource.document["metadata"]["uid"].as_str().map(str::to_owned),
                generation: resource.generation,
                name: resource.name,
            })
            .collect())
    }

    async fn schedule_history(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<BackupRecord>, OperatorError> {
        let filter = BackupFilter {
            namespace: Some(namespace.to_owned()),
            schedule: Some(name.to_owned()),
            limit: Some(100),
            ..BackupFilter::default()
        };
        Ok(self.catalog.backups(filter).await?)
    }

    /// The runs of a schedule that wait or work.
    async fn running_of(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<OperationId>, OperatorError> {
        if self.cluster.is_some() {
            return self.unfinished_objects(namespace, name).await;
        }
        let mut running = Vec::new();
        for operation in self.queued() {
            if operation.kind != Kind::Backup.as_str() || operation.namespace != namespace {
                continue;
            }
            let resource = self
                .catalog
                .resource(&operation.kind, &operation.namespace, &operation.name)
                .await?;
            let label = resource.as_ref().and_then(|resource| {
                resource.document["metadata"]["labels"][SCHEDULE_LABEL].as_str()
            });
            if label == Some(name) {
                running.push(operation);
            }
        }
        Ok(running)
    }

    async fn publish_schedule(
        &self,
        known: &KnownSchedule,
        task: &ScheduledTask,
        history: &[BackupRecord],
        decision: &ScheduleDecision,
        unusable: Option<&Failure>,
        now: Timestamp,
    ) -> Result<(), OperatorError> {
        let resource = &known.resource;
        // What retention has said meanwhile stays.
        let kind = Kind::BackupSchedule.as_str();
        let fresh = self.catalog.resource(kind, &resource.namespace, &resource.name).await?;
        let mut conditions = conditions_of(fresh.as_ref().unwrap_or(resource));
        let suspended = known.spec.suspend || task.suspended;
        let (reason, message) = if suspended {
            (Reason::Suspended, "suspended".to_owned())
        } else {
            let next = task.next_run_at.map_or_else(|| "never".to_owned(), |next| next.to_string());
            (Reason::Ready, format!("next run {next}"))
        };
        let generation = resource.generation;
        match unusable {
            Some(failure) => {
                let (reason, message) = (failure.reason, &failure.message);
                conditions::waiting(&mut conditions, reason, message, generation, now);
            }
            None => conditions::ready(&mut conditions, true, reason, &message, generation, now),
        }
        conditions::overdue(&mut conditions, decision.overdue_since, generation, now);
        // One that runs has not failed and not succeeded yet.
        let ended = history.iter().filter(|record| record.status != RecordStatus::Running);
        let failures = ended.take_while(|record| record.status == RecordStatus::Failed).count();
        let message = match (unusable, decision.overdue_since) {
            (Some(failure), _) => failure.message.clone(),
            (None, Some(since)) => format!("overdue since {since}"),
            (None, None) => message,
        };
        let status = json!(BackupScheduleStatus {
            observed_generation: generation,
            last_run_at: task.last_run_at.map(Time),
            last_success_at: task.last_success_at.map(Time),
            next_run_at: task.next_run_at.map(Time),
            last_backup: history.first().map(|record| record.object.clone()),
            consecutive_failures: i64::try_from(failures).unwrap_or(i64::MAX),
            missed_runs: task.missed_runs,
            message: Some(message),
            conditions,
        });
        self.metrics.schedule(&ScheduleFacts {
            namespace: resource.namespace.clone(),
            name: resource.name.clone(),
            next_run: task.next_run_at,
            overdue: decision.overdue_since.is_some(),
            missed_runs: u64::try_from(task.missed_runs).unwrap_or(0),
        });
        if resource.status != status {
            if let Some(link) = &self.cluster {
                let uid = resource.document["metadata"]["uid"].as_str();
                let kind = Kind::BackupSchedule;
                link.put_status(kind, &resource.namespace, &resource.name, uid, &status).await?;
            }
            let mut resource = resource.clone();
            resource.status = status;
            self.catalog.put_resource(resource).await?;
        }
        Ok(())
    }
}

/// Whether a schedule is said to be of use.
fn is_ready(resource: &ResourceRecord) -> bool {
    let ready = ConditionType::Ready.as_str();
    conditions_of(resource).iter().any(|one| one.type_ == ready && one.status == "True")
}

/// When the object was made, where it is one of a cluster.
fn created_at(known: &KnownSchedule) -> Option<Timestamp> {
    known.resource.document["metadata"]["creationTimestamp"].as_str()?.parse().ok()
}

/// The state of a schedule that this catalog has not seen: new, or known to the cluster, where its
/// status says how far it has come.
fn first_task(known: &KnownSchedule, now: Timestamp) -> ScheduledTask {
    let status: BackupScheduleStatus =
        serde_json::from_value(known.resource.status.clone()).unwrap_or_default();
    let last_run_at = status.last_run_at.map(|time| time.0);
    ScheduledTask {
        task_name: known.resource.name.clone(),
        namespace: known.resource.namespace.clone(),
        task_type: "BACKUP".to_owned(),
        created_at: created_at(known).unwrap_or(now),
        last_run_at,
        decided_until: last_run_at,
        last_success_at: status.last_success_at.map(|time| time.0),
        missed_runs: status.missed_runs,
        ..ScheduledTask::default()
    }
}

/// Takes over how far the cluster says that a schedule has come: another replica may have led since this catalog
/// was written to.
fn catch_up(task: &mut ScheduledTask, known: &KnownSchedule, now: Timestamp) {
    let told = first_task(known, now);
    task.last_run_at = task.last_run_at.max(told.last_run_at);
    task.decided_until = task.decided_until.max(told.decided_until);
    task.last_success_at = task.last_success_at.max(told.last_success_at);
    task.missed_runs = task.missed_runs.max(told.missed_runs);
}

/// The conditions that a schedule's status has.
pub(super) fn conditions_of(resource: &ResourceRecord) -> Vec<Condition> {
    let status = serde_json::from_value::<BackupScheduleStatus>(resource.status.clone());
    status.map(|status| status.conditions).unwrap_or_default()
}

/// When the newest success was complete.
fn last_success(history: &[BackupRecord]) -> Option<Timestamp> {
    let record = history
        .iter()
        .find(|record| matches!(record.status, RecordStatus::Succeeded | RecordStatus::Deleted))?;
    let took = SignedDuration::try_from_secs_f64(record.duration_seconds.unwrap_or(0.0)).ok()?;
    record.created_at.checked_add(took).ok()
}
