//! What a look into a store makes of its Backups: records that say what is there, and objects that do.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::catalog::{BackupFilter, BackupKey, BackupRecord, RecordStatus};
use crate::engine::Manifest;
use crate::operator::presence::{
    StoreLook, directory_of, gone, gone_message, has_archive, lies_in,
};
use crate::operator::rebuild::record_of;
use crate::operator::{Operator, OperatorError};
use crate::plan::conditions::{ConditionType, Truth};
use crate::plan::status::recorded;
use crate::plan::{Failure, OperationId, StoreBinding, conditions};
use crate::runtime::kubernetes::failure;
use crate::spec::{Kind, Reason};

/// The manifests that can be read.
pub(super) fn decoded(manifests: Vec<Value>) -> Vec<Manifest> {
    manifests.into_iter().filter_map(|manifest| serde_json::from_value(manifest).ok()).collect()
}

impl Operator {
    pub(super) async fn records_of_store(
        &self,
        store: &OperationId,
    ) -> Result<Vec<BackupRecord>, OperatorError> {
        let filter = BackupFilter {
            namespace: Some(store.namespace.clone()),
            store: Some(store.name.clone()),
            ..BackupFilter::default()
        };
        Ok(self.catalog.backups(filter).await?)
    }

    /// Adds records for archives that have none, and takes up again those of archives that are back. `before` is
    /// what was recorded before the look.
    pub(super) async fn record_manifests(
        &self,
        store: &OperationId,
        binding: &StoreBinding,
        before: &[BackupRecord],
        manifests: &[Manifest],
    ) -> Result<(), OperatorError> {
        let known = self.records_of_store(store).await?;
        let mut open = Vec::new();
        for operation in self.catalog.open_operations().await? {
            open.push((operation.namespace, operation.name));
        }
        let directory = directory_of(binding);
        let before: HashMap<i64, &BackupRecord> =
            before.iter().map(|record| (record.id, record)).collect();
        let mut rows = Vec::new();
        for manifest in manifests {
            let mut record = record_of(manifest, &directory);
            record.store.clone_from(&binding.name);
            let running = open.contains(&(record.namespace.clone(), record.object.clone()));
            if running || record.namespace != store.namespace {
                continue;
            }
            let mut same: Vec<&BackupRecord> =
                known.iter().filter(|known| known.is_same_archive(&record)).collect();
            same.sort_by_key(|known| (known.deleted_at.is_some(), std::cmp::Reverse(known.id)));
            match same.first() {
                None => rows.push(record),
                // Deleted meanwhile: it was there when the mover looked.
                Some(known) if before.get(&known.id) != Some(known) => {}
                Some(known) => self.take_up_again(known, &record).await?,
            }
        }
        if !rows.is_empty() {
            self.catalog.rebuild(rows).await?;
        }
        Ok(())
    }

    /// Makes a record say again where its archive is, if it was ended, or was made of the store's earlier claim.
    async fn take_up_again(
        &self,
        known: &BackupRecord,
        found: &BackupRecord,
    ) -> Result<(), OperatorError> {
        let ended = known.deleted_at.is_some();
        let elsewhere = known.deleted_at.is_none()
            && known.status != RecordStatus::Running
            && known.backup_path != found.backup_path;
        // Made of a status that said what it lacked then: its manifest knows that it was read back.
        let proved = known.status == RecordStatus::Succeeded
            && known.verified_at.is_none()
            && found.verified_at.is_some();
        if !ended && !elsewhere && !proved {
            return Ok(());
        }
        let mut record = BackupRecord { backup_path: found.backup_path.clone(), ..known.clone() };
        if ended {
            record.deleted_at = None;
        }
        if proved {
            record.verified_at = found.verified_at;
        }
        // The archive of a failure, as one that had shrunk, was kept to be looked at: a failure it stays.
        if ended && known.status == RecordStatus::Deleted {
            record.status = RecordStatus::Succeeded;
            record.error_message = None;
            record.verified_at = known.verified_at.or(found.verified_at);
            let message = format!("{} is in store {} again", known.backup_name, known.store);
            // The object of one that lacks what it builds on says so already.
            let look =
                self.cluster.as_ref().map(|link| link.looks.of(&known.namespace, &known.store));
            if look.is_none_or(|look| look.lack_of(&known.backup_name).is_none()) {
                self.tell_object(&record, Ok(message)).await?;
            }
        }
        Ok(self.catalog.update_backup(record).await?)
    }

    /// Ends the records of archives that are not there any more, and says so on their objects.
    pub(super) async fn end_the_gone(
        &self,
        binding: &StoreBinding,
        before: &[BackupRecord],
        present: &HashSet<String>,
    ) -> Result<(), OperatorError> {
        for record in gone(before, &directory_of(binding), present) {
            let key = BackupKey::Id(record.id);
            // One that retention, or its object's deletion, has ended meanwhile has its own end.
            if self.catalog.backup(key).await?.as_ref() != Some(record) {
                continue;
            }
            if self.was_removed_here(record).await? {
                continue;
            }
            // The object first: a record that has ended is not looked at again.
            if record.status == RecordStatus::Succeeded {
                let failure = Failure::new(Reason::ArchiveMissing, gone_message(record));
                self.tell_object(record, Err(failure)).await?;
            }
            self.end_as_gone(record).await?;
        }
        Ok(())
    }

    /// Says of archives that are there whether they can be restored, as far as that is not said yet.
    pub(super) async fn tell_what_lacks(
        &self,
        binding: &StoreBinding,
        before: &[BackupRecord],
        present: &HashSet<String>,
        look: &StoreLook,
    ) -> Result<(), OperatorError> {
        let directory = directory_of(binding);
        let succeeded = |record: &&BackupRecord| {
            record.status == RecordStatus::Succeeded
                && has_archive(record)
                && lies_in(record, &directory)
                && present.contains(&record.backup_name)
        };
        for record in before.iter().filter(succeeded) {
            match look.lack_of(&record.backup_name) {
                Some(failure) => self.tell_object(record, Err(failure)).await?,
                None if self.is_said_to_lack(record).await? => {
                    let message = format!("{} can be restored again", record.backup_name);
                    // As it is by now: the manifest may have told when it was read back.
                    let now = self.catalog.backup(BackupKey::Id(record.id)).await?;
                    self.tell_object(now.as_ref().unwrap_or(record), Ok(message)).await?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Whether an earlier look has said on a Backup that its archive cannot be restored.
    async fn is_said_to_lack(&self, record: &BackupRecord) -> Result<bool, OperatorError> {
        let kind = Kind::Backup.as_str();
        let found = self.catalog.resource(kind, &record.namespace, &record.object).await?;
        let status = found.map(|found| found.status).unwrap_or_default();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        // A Backup that was not to be verified says so for another reason than what it lacks.
        Ok(conditions.any(|condition| {
            condition["type"] == "Verified"
                && condition["status"] == "False"
                && condition["reason"] != Reason::NotVerified.as_str()
        }))
    }

    /// Says on the object of a finished Backup that its archive is there, or what it lacks.
    async fn tell_object(
        &self,
        record: &BackupRecord,
        presence: Result<String, Failure>,
    ) -> Result<(), OperatorError> {
        let (Some(link), kind) = (&self.cluster, Kind::Backup) else { return Ok(()) };
        let api = link.api(kind, &record.namespace);
        let what = format!("read Backup {}/{}", record.namespace, record.object);
        let found = api.get_opt(&record.object).await.map_err(|error| failure(&what, &error))?;
        let Some(object) = found else { return Ok(()) };
        let mut operation = super::look::identity(kind, &object);
        let mut status = object.data["status"].clone();
        operation.generation = status["observedGeneration"].as_i64().unwrap_or_default();
        let own = status["archive"]["name"] == record.backup_name.as_str()
            && object.metadata.deletion_timestamp.is_none()
            && recorded(&status, operation.generation).is_some();
        if !own || (record.uid.is_some() && record.uid != object.metadata.uid) {
            return Ok(());
        }
        let mut list: Vec<Condition> =
            serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
        let lacks = presence.is_err();
        let (truth, reason, message) = match (presence, record.verified_at) {
            (Err(failure), _) => (Truth::False, failure.reason, failure.message),
            (Ok(message), Some(_)) => (Truth::True, Reason::Verified, message),
            (Ok(message), None) => (Truth::False, Reason::NotVerified, message),
        };
        let is_said = |one: &Condition| {
            one.type_ == "Verified" && one.reason == reason.as_str() && one.message == message
        };
        if list.iter().any(is_said) {
            return Ok(());
        }
        let (generation, now) = (operation.generation, Timestamp::now());
        conditions::set(
            &mut list,
            ConditionType::Verified,
            truth,
            reason,
            &message,
            generation,
            now,
        );
        status["conditions"] = json!(list);
        status["message"] = json!(message);
        self.put_status(&operation, status).await?;
        link.event(&operation, lacks, reason.as_str(), "Inspect", &message).await;
        Ok(())
    }
}
