//! What is kept of an operation when its journal is gone: rows, audit, metrics.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::resolve::Resolved;
use super::{Operator, OperatorError};
use crate::catalog::{
    BackupKey, BackupRecord, Host, PerformanceMetric, RecordStatus, ServiceStatus, UpgradeRecord,
    UpgradeStatusWord,
};
use crate::plan::{
    Action, ArchiveFacts, BackupJob, ChildFacts, Conclusion, Failure, HookPhase, Job, JournalEntry,
    Log, Mark, OPERATION, OperationId, PreflightFacts, SealFacts, UpgradeJob, VerifyFacts, backup,
    status, upgrade,
};
use crate::spec::{BackupType, Kind, Reason};
use crate::telemetry::metrics::{BackupFinished, Operation, UpgradeFinished};

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn positive(span: SignedDuration) -> Duration {
    Duration::try_from(span).unwrap_or_default()
}

pub(super) fn metric_kind(operation: &OperationId) -> Kind {
    match operation.kind.as_str() {
        "Restore" => Kind::Restore,
        "Upgrade" => Kind::Upgrade,
        _ => Kind::Backup,
    }
}

impl Operator {
    /// A row says from the beginning that the backup runs: a crash leaves a trace in the history.
    pub(super) async fn record_start(&self, resolved: &Resolved) -> Result<(), OperatorError> {
        let operation = resolved.job.operation();
        self.metrics.operation_started(
            metric_kind(operation),
            &operation.namespace,
            &operation.name,
        );
        self.remember_host().await?;
        if let Job::Backup(job) = &resolved.job {
            let record = self.backup_row(job).await?;
            self.put_backup(record).await?;
        }
        Ok(())
    }

    pub(super) async fn remember_host(&self) -> Result<(), OperatorError> {
        let now = Timestamp::now();
        let name = host_name();
        let known = self.catalog.hosts().await?.into_iter().find(|host| host.name == name);
        let host = Host {
            name,
            kind: "host".to_owned(),
            client_version: Some(crate::VERSION.to_owned()),
            first_seen_at: known.as_ref().map_or(now, |host| host.first_seen_at),
            last_seen_at: now,
            ..known.unwrap_or_default()
        };
        self.catalog.put_host(host).await?;
        Ok(())
    }

    /// The row of this operation: the one it already has, or a new one.
    ///
    /// It is known by the run, not by object and generation alone: after the catalog was made again, or
    /// in a cluster after the object was, another run of the same object must not overwrite the record
    /// of a backup that there is.
    async fn backup_row(&self, job: &BackupJob) -> Result<BackupRecord, OperatorError> {
        let operation = &job.operation;
        let journal = self.catalog.journal(operation).await?;
        let began = Log::new(&journal).began_at();
        let run = began.map(|began| format!("{operation}@{began}"));
        let key = BackupKey::Object {
            namespace: operation.namespace.clone(),
            name: operation.name.clone(),
        };
        if let Some(record) = self.catalog.backup(key).await?
            && record.run == run
        {
            return Ok(record);
        }
        Ok(BackupRecord {
            // Until the archive has a name the operation stands in for it; names are unique.
            backup_name: operation.to_string(),
            backup_type: format!("{:?}", job.spec.backup_type),
            source_version: job.spec.service_version.clone(),
            compression_type: job.spec.archive.format.extension().to_owned(),
            description: job.spec.description.clone(),
            created_at: Timestamp::now(),
            status: RecordStatus::Running,
            target: job.spec.target.summary(),
            namespace: operation.namespace.clone(),
            object: operation.name.clone(),
            generation: Some(operation.generation),
            uid: operation.uid.clone(),
            run,
            store: job.store.name.clone(),
            schedule: job.schedule.clone(),
            trigger: Some(job.spec.trigger.as_str().to_owned()),
            host: Some(host_name()),
            target_spec: Some(json!(job.spec.target)),
            ..BackupRecord::default()
        })
    }

    async fn put_backup(&self, record: BackupRecord) -> Result<i64, OperatorError> {
        let id = record.id;
        if id == 0 {
            return Ok(self.catalog.insert_backup(record).await?);
        }
        self.catalog.update_backup(record).await?;
        Ok(id)
    }

    /// Writes everything that is kept of a finished operation. May be repeated after a crash: rows
    /// are found again by the operation they belong to.
    pub(super) async fn record_end(
        &self,
        resolved: &Resolved,
        log: &Log<'_>,
        conclusion: &Conclusion,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        let operation = resolved.job.operation();
        let began = log.began_at().unwrap_or(at);
        let took = positive(at.duration_since(began));
        let reason =
            conclusion.failure.as_ref().map_or(Reason::Succeeded, |failure| failure.reason);
        match &resolved.job {
            Job::Backup(job) => self.end_backup(job, log, conclusion, at, took).await?,
            Job::Restore(_) => self.metrics.restore_finished(reason, took),
            Job::Upgrade(job) => {
                self.end_upgrade(job, log, conclusion, at).await?;
                self.metrics.upgrade_finished(&UpgradeFinished {
                    namespace: &operation.namespace,
                    target: &job.spec.target.summary(),
                    reason,
                    duration: took,
                    completed_at: at,
                });
            }
        }
        if status::left_down(log) {
            let target = resolved.job.target().summary();
            self.metrics.service_up(&operation.namespace, &target, false);
        }
        if let Some(downtime) = status::downtime(log) {
            let kind = match resolved.job {
                Job::Backup(_) => Operation::Backup,
                Job::Restore(_) => Operation::Restore,
                Job::Upgrade(_) => Operation::Upgrade,
            };
            self.metrics.downtime(kind, positive(downtime));
        }
        self.metrics.operation_finished(
            metric_kind(operation),
            &operation.namespace,
            &operation.name,
        );
        // The histories have no key to find a row again by. The audit is written last: when it is
        // there, an earlier process wrote the rest too and died before it could close the journal.
        if self.is_audited(operation, began).await? {
            return Ok(());
        }
        if let Job::Backup(job) = &resolved.job
            && conclusion.is_success()
        {
            let facts = log.facts(backup::step::ARCHIVE).unwrap_or_default();
            self.measure(job, &facts, took, at).await?;
        }
        self.record_checks(log, at).await?;
        self.record_action(operation, conclusion, began, at).await
    }

    async fn end_backup(
        &self,
        job: &BackupJob,
        log: &Log<'_>,
        conclusion: &Conclusion,
        at: Timestamp,
        took: Duration,
    ) -> Result<(), OperatorError> {
        use backup::step::{ARCHIVE, SEAL, VERIFY};
        let mut record = self.backup_row(job).await?;
        let facts: ArchiveFacts = log.facts(ARCHIVE).unwrap_or_default();
        let verified_at = log.facts::<VerifyFacts>(VERIFY).and_then(|facts| facts.verified_at);
        let kept = match &conclusion.failure {
            None => true,
            Some(failure) => log.done(SEAL) && backup::keeps_archive(failure.reason),
        };
        record.status =
            if conclusion.is_success() { RecordStatus::Succeeded } else { RecordStatus::Failed };
        record.error_message = conclusion.failure.as_ref().map(Failure::to_string);
        // From when it was taken up: together they are when it was done.
        record.duration_seconds = Some(at.duration_since(record.created_at).as_secs_f64().max(0.0));
        record.downtime_seconds = status::downtime(log).map(|span| span.as_secs_f64());
        record.warnings = status::warnings(log, facts.warnings.clone());
        record.verified_at = verified_at.filter(|_| kept);
        if facts.service_version.is_some() {
            record.source_version.clone_from(&facts.service_version);
        }
        if kept {
            record.backup_name.clone_from(&facts.name);
            record.backup_path = log.facts::<SealFacts>(SEAL).unwrap_or_default().location;
            record.backup_size = Some(signed(facts.size_bytes));
            record.file_count = Some(signed(facts.files));
            record.source_bytes = Some(signed(facts.source_bytes));
            record.backup_hash = Some(facts.sha256.clone());
            record.content_digest = Some(facts.content_digest.clone());
            record.parent = facts.parent.as_ref().map(|parent| parent.name.clone());
            if job.spec.backup_type == BackupType::Incremental && record.parent.is_none() {
                record.backup_type = format!("{:?}", BackupType::Full);
            }
            record.expires_at = status::expires_at(job, log);
        }
        let target = record.target.clone();
        self.put_backup(record).await?;
        let reason =
            conclusion.failure.as_ref().map_or(Reason::Succeeded, |failure| failure.reason);
        self.metrics.backup_finished(&BackupFinished {
            namespace: &job.operation.namespace,
            target: &target,
            reason,
            verified: verified_at.is_some() && kept,
            duration: took,
            completed_at: at,
            archive_bytes: facts.size_bytes,
            source_bytes: facts.source_bytes,
            files: facts.files,
        });
        Ok(())
    }

    async fn measure(
        &self,
        job: &BackupJob,
        facts: &ArchiveFacts,
        took: Duration,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        let tags =
            json!({"operation": job.operation.to_string(), "target": job.spec.target.summary()});
        let metric = |name: &str, value: f64, unit: &str| PerformanceMetric {
            id: 0,
            metric_name: name.to_owned(),
            metric_value: value,
            metric_unit: Some(unit.to_owned()),
            tags: tags.clone(),
            recorded_at: at,
        };
        let seconds = took.as_secs_f64();
        let mut metrics = vec![metric("backup_duration", seconds, "seconds")];
        if seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = facts.source_bytes as f64 / seconds;
            metrics.push(metric("backup_throughput", rate, "bytes/second"));
        }
        self.catalog.append_metrics(metrics).await?;
        Ok(())
    }

    async fn end_upgrade(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        conclusion: &Conclusion,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        use upgrade::step::{APPLY, BACKUP, HEALTH, PREFLIGHT};
        let backup_id = match log.facts::<ChildFacts>(BACKUP) {
            Some(facts) => {
                let namespace = job.operation.namespace.clone();
                let key = BackupKey::Object { namespace, name: facts.name };
                self.catalog.backup(key).await?.map(|record| record.id)
            }
            None => None,
        };
        let failure = conclusion.failure.as_ref();
        let rolled_back = failure.is_some_and(|failure| failure.reason == Reason::RolledBack);
        let record = UpgradeRecord {
            id: 0,
            upgrade_id: job.operation.to_string(),
            from_version: log
                .facts::<PreflightFacts>(PREFLIGHT)
                .and_then(|facts| facts.from_version),
            to_version: job.spec.to_version.clone(),
            upgrade_type: format!("{:?}", job.spec.upgrade_type).to_uppercase(),
            status: match failure {
                None => UpgradeStatusWord::Success,
                Some(_) if rolled_back => UpgradeStatusWord::RolledBack,
                Some(_) => UpgradeStatusWord::Failed,
            },
            scheduled_at: job.spec.scheduled_at.as_ref().map(|time| time.0),
            started_at: log.began_at(),
            completed_at: Some(at),
            backup_id,
            error_message: failure.map(Failure::to_string),
            rollback_reason: failure.filter(|_| rolled_back).map(|failure| failure.message.clone()),
            upgrade_log: serde_json::to_string(&status::steps(log)).ok(),
            download_size: None,
            download_time_seconds: None,
            installation_time_seconds: log.between(APPLY, HEALTH).map(|span| span.as_secs_f64()),
            target: job.spec.target.summary(),
            created_at: log.began_at().unwrap_or(at),
            updated_at: at,
        };
        self.catalog.put_upgrade(record).await?;
        Ok(())
    }

    /// On a plain host a service is held still by hooks, and Eider's word is all there is of its
    /// state: down from the hooks before until the hooks after have done their work.
    pub(super) async fn watch_service(&self, job: &Job, action: &Action, finished: bool) {
        let up = match (action, finished) {
            (Action::Quiesce { .. } | Action::RunHooks(HookPhase::Before), false) => false,
            (Action::Resume | Action::RunHooks(HookPhase::After), true) => true,
            _ => return,
        };
        let service_name = job.target().summary();
        // A planned stop is no outage; what is told is how an operation leaves the service.
        if up {
            self.metrics.service_up(&job.operation().namespace, &service_name, true);
        }
        let status = ServiceStatus {
            service_name,
            status: if up { "running" } else { "stopped" }.to_owned(),
            health_status: "unknown".to_owned(),
            recorded_at: Timestamp::now(),
            ..ServiceStatus::default()
        };
        // The journal is what counts.
        if let Err(error) = self.catalog.append_service_status(status).await {
            tracing::warn!("a line of the service's history is missing: {error}");
        }
    }

    /// Records the end of an operation that cannot be carried out at all: a reference that leads
    /// nowhere, a target that this place cannot act on.
    pub(super) async fn refuse(
        &self,
        operation: &OperationId,
        resolved: Option<Resolved>,
        failure: Failure,
    ) -> Result<Conclusion, OperatorError> {
        let at = Timestamp::now();
        let conclusion = Conclusion::failed(failure);
        if let Some(resolved) = resolved {
            let journal = self.catalog.journal(operation).await?;
            self.record_end(&resolved, &Log::new(&journal), &conclusion, at).await?;
        } else {
            self.record_refused_backup(operation, &conclusion, at).await?;
            self.record_action(operation, &conclusion, at, at).await?;
        }
        self.close(operation, &conclusion).await?;
        self.note_end(operation, &conclusion).await?;
        let status = status::refused(operation.generation, &conclusion, at);
        self.put_status(operation, status).await?;
        self.catalog.checkpoint().await?;
        Ok(conclusion)
    }

    pub(super) async fn note_end(
        &self,
        operation: &OperationId,
        conclusion: &Conclusion,
    ) -> Result<(), OperatorError> {
        let reason =
            conclusion.failure.as_ref().map_or(Reason::Succeeded, |failure| failure.reason);
        self.note(operation, Some(reason)).await
    }

    async fn record_refused_backup(
        &self,
        operation: &OperationId,
        conclusion: &Conclusion,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        let resource =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        let Some(resource) = resource.filter(|_| operation.kind == "Backup") else {
            return Ok(());
        };
        let Ok(spec) =
            serde_json::from_value::<crate::spec::BackupSpec>(resource.document["spec"].clone())
        else {
            return Ok(());
        };
        let record = BackupRecord {
            backup_name: operation.to_string(),
            backup_type: format!("{:?}", spec.backup_type),
            compression_type: spec.archive.format.extension().to_owned(),
            created_at: at,
            status: RecordStatus::Failed,
            error_message: conclusion.failure.as_ref().map(Failure::to_string),
            target: spec.target.summary(),
            namespace: operation.namespace.clone(),
            object: operation.name.clone(),
            generation: Some(operation.generation),
            uid: operation.uid.clone(),
            store: spec.store_ref.name.clone(),
            trigger: Some(spec.trigger.as_str().to_owned()),
            host: Some(host_name()),
            ..BackupRecord::default()
        };
        self.put_backup(record).await?;
        Ok(())
    }

    pub(super) async fn write(
        &self,
        operation: &OperationId,
        step: &str,
        mark: Mark,
        detail: serde_json::Value,
    ) -> Result<(), OperatorError> {
        self.append(self.entry(operation, step, mark, detail)).await?;
        Ok(())
    }

    /// Ends a journal, whoever did what it says.
    pub(in crate::operator) async fn close(
        &self,
        operation: &OperationId,
        conclusion: &Conclusion,
    ) -> Result<(), OperatorError> {
        let mark = if conclusion.is_success() { Mark::Done } else { Mark::Failed };
        self.write(operation, OPERATION, mark, serde_json::json!(conclusion)).await?;
        self.locks.give_up(operation);
        Ok(())
    }

    pub(super) fn entry(
        &self,
        operation: &OperationId,
        step: &str,
        mark: Mark,
        detail: serde_json::Value,
    ) -> JournalEntry {
        JournalEntry {
            operation: operation.clone(),
            step: step.to_owned(),
            mark,
            at: Timestamp::now(),
            session: self.session().to_owned(),
            detail,
        }
    }
}

fn host_name() -> String {
    crate::runtime::host::host_name()
}
