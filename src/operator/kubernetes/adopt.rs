//! What a catalog that lacks it learns from the cluster: journals, and records of what has ended.

use serde_json::{Value, json};

use super::journal;
use crate::catalog::{BackupFilter, BackupRecord, RecordStatus};
use crate::operator::{Operator, OperatorError};
use crate::plan::status::recorded;
use crate::plan::{Failure, Log, OperationId};
use crate::spec::{ArchiveStatus, BackupSpec, BackupType, JournalLine, Kind, Reason};

impl Operator {
    /// Takes over the lines of a journal that the status has and this catalog lacks.
    pub(in crate::operator) async fn adopt_lines(
        &self,
        operation: &OperationId,
        status: &Value,
    ) -> Result<(), OperatorError> {
        let lines: Vec<JournalLine> =
            serde_json::from_value(status["journal"].clone()).unwrap_or_default();
        if lines.is_empty() || status["observedGeneration"].as_i64() != Some(operation.generation) {
            return Ok(());
        }
        let local = self.catalog.journal(operation).await?;
        let entries = journal::from_lines(operation, &lines);
        for entry in journal::missing_from(&local, entries) {
            self.catalog.append_journal(entry).await?;
        }
        Ok(())
    }

    /// The record of a Backup object.
    pub(in crate::operator) async fn record_of_object(
        &self,
        operation: &OperationId,
    ) -> Result<Option<BackupRecord>, OperatorError> {
        let filter = BackupFilter {
            namespace: Some(operation.namespace.clone()),
            object: Some(operation.name.clone()),
            ..BackupFilter::default()
        };
        let records = self.catalog.backups(filter).await?;
        Ok(records.into_iter().find(|record| record.uid == operation.uid || record.uid.is_none()))
    }

    /// Ends a journal that somebody else has brought to its end, who led while this catalog lay idle.
    pub(in crate::operator) async fn close_from_status(
        &self,
        operation: &OperationId,
        status: &Value,
    ) -> Result<(), OperatorError> {
        let journal = self.journal(operation).await?;
        if journal.is_empty() || Log::new(&journal).conclusion().is_some() {
            return Ok(());
        }
        match recorded(status, operation.generation) {
            Some(conclusion) => self.close(operation, &conclusion).await,
            None => Ok(()),
        }
    }

    /// Ends the record of a Backup of which nobody knows any more how it went.
    pub(in crate::operator) async fn end_record(
        &self,
        operation: &OperationId,
        failure: &Failure,
    ) -> Result<(), OperatorError> {
        if operation.kind != Kind::Backup.as_str() {
            return Ok(());
        }
        let known = self.record_of_object(operation).await?;
        if let Some(known) = known.filter(|known| known.status == RecordStatus::Running) {
            let record = BackupRecord {
                status: RecordStatus::Failed,
                error_message: Some(failure.to_string()),
                ..known
            };
            self.catalog.update_backup(record).await?;
        }
        Ok(())
    }

    /// Makes the record of a finished Backup from its status, unless there is one that says how it ended. Other
    /// kinds have none, nor has one that has not ended.
    pub(in crate::operator) async fn record_from_status(
        &self,
        operation: &OperationId,
        status: &Value,
    ) -> Result<(), OperatorError> {
        let kind = Kind::Backup.as_str();
        if operation.kind != kind || recorded(status, operation.generation).is_none() {
            return Ok(());
        }
        let known = self.record_of_object(operation).await?;
        if let Some(known) = known.as_ref().filter(|known| known.status != RecordStatus::Running) {
            // Made of the manifest: retention would remove the archive and leave the object.
            if known.uid.is_none()
                && operation.uid.is_some()
                && status["archive"]["name"] == known.backup_name.as_str()
            {
                let uid = operation.uid.clone();
                self.catalog.update_backup(BackupRecord { uid, ..known.clone() }).await?;
            }
            return Ok(());
        }
        let resource = self.catalog.resource(kind, &operation.namespace, &operation.name).await?;
        let Some(resource) = resource else { return Ok(()) };
        let Ok(spec) = serde_json::from_value::<BackupSpec>(resource.document["spec"].clone())
        else {
            return Ok(());
        };
        let archive: Option<ArchiveStatus> = serde_json::from_value(status["archive"].clone()).ok();
        let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let completed = time(&status["completedAt"]);
        let started = time(&status["startedAt"]).or(completed);
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let verified = conditions
            .clone()
            .find(|condition| condition["type"] == "Verified" && condition["status"] == "True");
        let succeeded = status["phase"] == "Succeeded";
        let labels = &resource.document["metadata"]["labels"];
        let mut record = BackupRecord {
            backup_name: operation.to_string(),
            backup_type: format!("{:?}", spec.backup_type),
            compression_type: spec.archive.format.extension().to_owned(),
            description: spec.description.clone(),
            created_at: started.unwrap_or_else(jiff::Timestamp::now),
            status: if succeeded { RecordStatus::Succeeded } else { RecordStatus::Failed },
            error_message: (!succeeded)
                .then(|| status["message"].as_str().unwrap_or_default().to_owned()),
            target: spec.target.summary(),
            namespace: operation.namespace.clone(),
            object: operation.name.clone(),
            generation: Some(operation.generation),
            uid: operation.uid.clone(),
            store: spec.store_ref.name.clone(),
            schedule: labels[crate::operator::resolve::SCHEDULE_LABEL].as_str().map(str::to_owned),
            trigger: Some(spec.trigger.as_str().to_owned()),
            target_spec: Some(json!(spec.target)),
            verified_at: verified.and_then(|condition| time(&condition["lastTransitionTime"])),
            ..BackupRecord::default()
        };
        if let (Some(started), Some(completed)) = (started, completed) {
            let took: jiff::SignedDuration = completed.duration_since(started);
            record.duration_seconds = Some(took.as_secs_f64().max(0.0));
        }
        if let Some(archive) = archive {
            record.backup_name = archive.name;
            record.backup_path = archive.location;
            record.backup_size = Some(archive.size_bytes);
            record.file_count = Some(archive.files);
            record.source_bytes = Some(archive.source_bytes);
            record.backup_hash = Some(archive.sha256);
            record.source_version = archive.service_version;
            record.parent = archive.parent;
            if spec.backup_type == BackupType::Incremental && record.parent.is_none() {
                record.backup_type = format!("{:?}", BackupType::Full);
            }
            record.expires_at = archive.expires_at.map(|time| time.0);
        }
        let missing = conditions.clone().find(|condition| {
            condition["type"] == "Verified"
                && condition["reason"] == Reason::ArchiveMissing.as_str()
        });
        if let Some(missing) = missing {
            // Whoever led before has looked for it.
            record.status = RecordStatus::Deleted;
            record.deleted_at =
                time(&missing["lastTransitionTime"]).or(Some(jiff::Timestamp::now()));
            record.error_message = missing["message"].as_str().map(str::to_owned);
        }
        match known {
            // Begun here, and brought to its end by somebody else.
            Some(known) => {
                self.catalog.update_backup(BackupRecord { id: known.id, ..record }).await?;
            }
            None => {
                self.catalog.insert_backup(record).await?;
            }
        }
        Ok(())
    }
}
