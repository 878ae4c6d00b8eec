//! Removing what retention does not keep from a cluster's stores.
//!
//! A Backup is marked before its archive is removed, and deleted before its record is: whoever dies in between has
//! left a mark by which the next look knows that the archive is not missed.

use std::collections::HashSet;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::{info, warn};

use super::{ClusterLink, StoreNews};
use crate::catalog::BackupRecord;
use crate::operator::{Operator, OperatorError};
use crate::plan::{Failure, OperationId};
use crate::runtime::kubernetes::{FIELD_MANAGER, StoreErrand, StoreWork, failure, is_missing};
use crate::spec::Kind;

/// Annotation on a Backup that goes: the archive that retention is removing.
pub(super) const REMOVING_ANNOTATION: &str = "eider.dev/removing";

impl Operator {
    /// Removes archives by one mover for each store, then their objects and their records.
    pub(in crate::operator) async fn remove_from_cluster(
        &self,
        records: &[BackupRecord],
    ) -> Result<(), OperatorError> {
        let Some(link) = &self.cluster else { return Ok(()) };
        let mut stores: Vec<(&str, &str)> =
            records.iter().map(|record| (&*record.namespace, &*record.store)).collect();
        stores.sort_unstable();
        stores.dedup();
        for (namespace, store) in stores {
            let own: Vec<&BackupRecord> = records
                .iter()
                .filter(|record| record.namespace == namespace && record.store == store)
                .collect();
            // Nobody looks into the store until the records say what was done.
            let look = link.looks.of(namespace, store);
            let _turn = look.turn.lock().await;
            let stay = self.remove_archives(link, namespace, store, &own).await?;
            for record in own {
                if !stay.contains(&record.backup_name) {
                    self.finish_removal(link, record).await?;
                }
            }
        }
        Ok(())
    }

    /// Has a mover remove the archives of these records; returns those that stay, as others build on them.
    async fn remove_archives(
        &self,
        link: &ClusterLink,
        namespace: &str,
        store: &str,
        records: &[&BackupRecord],
    ) -> Result<HashSet<String>, OperatorError> {
        let own: Vec<&BackupRecord> =
            records.iter().copied().filter(|record| !record.backup_path.is_empty()).collect();
        if own.is_empty() {
            return Ok(HashSet::new());
        }
        let names: Vec<String> = own.iter().map(|record| record.backup_name.clone()).collect();
        let binding = self.store(namespace, store).await??;
        let owner = self.store_identity(namespace, store).await?;
        let digest = blake3::hash(names.join("\n").as_bytes()).to_hex();
        let purpose = format!("delete-{}", &digest[..12]);
        let writer = self.store_writer(namespace, store).await?;
        for record in &own {
            mark(link, record, true).await?;
        }
        let errand = StoreErrand::new(StoreWork::Delete(names), writer, self.take_turn().await);
        let done = link.runtime.work_on_store(&owner, &purpose, &binding, errand).await?;
        self.publish_store(&owner, Ok(done.figures), StoreNews::default()).await?;
        let mut stay = HashSet::new();
        for (name, child) in done.stay {
            warn!(backup = name, "retention: {child} builds on it");
            for record in own.iter().filter(|record| record.backup_name == name) {
                mark(link, record, false).await?;
            }
            stay.insert(name);
        }
        Ok(stay)
    }

    /// Ends what stands for an archive that has been removed. The object goes first: nobody comes by the object of a
    /// record that has ended.
    async fn finish_removal(
        &self,
        link: &ClusterLink,
        record: &BackupRecord,
    ) -> Result<(), OperatorError> {
        if let Some(uid) = &record.uid {
            link.delete(Kind::Backup, &record.namespace, &record.object, uid).await?;
        }
        Ok(self.catalog.mark_backup_deleted(record.id, Timestamp::now()).await?)
    }

    /// Finishes the removal of a record whose archive is gone, if it was retention that has removed it.
    pub(super) async fn was_removed_here(
        &self,
        record: &BackupRecord,
    ) -> Result<bool, OperatorError> {
        let Some(link) = &self.cluster else { return Ok(false) };
        let api = link.api(Kind::Backup, &record.namespace);
        let what = format!("read Backup {}/{}", record.namespace, record.object);
        let found = api.get_opt(&record.object).await.map_err(|error| failure(&what, &error))?;
        let marked = found.is_some_and(|object| {
            object.metadata.uid == record.uid
                && object.annotations().get(REMOVING_ANNOTATION) == Some(&record.backup_name)
        });
        if marked {
            info!(backup = record.object, "retention had removed {}", record.backup_name);
            self.finish_removal(link, record).await?;
        }
        Ok(marked)
    }

    /// Takes the marks off Backups whose archives stayed: retention may want something else by now.
    pub(super) async fn forget_unfinished_removals(
        &self,
        store: &OperationId,
        before: &[BackupRecord],
        present: &HashSet<String>,
    ) -> Result<(), OperatorError> {
        let Some(link) = &self.cluster else { return Ok(()) };
        let namespace = [store.namespace.clone()];
        let objects = link.list(Kind::Backup, &namespace).await;
        for object in objects.map_err(|error| failure("list Backups", &error))? {
            let Some(archive) = object.annotations().get(REMOVING_ANNOTATION) else { continue };
            let own = |record: &&BackupRecord| {
                record.uid == object.uid() && record.backup_name == *archive
            };
            if present.contains(archive)
                && let Some(record) = before.iter().find(own)
            {
                mark(link, record, false).await?;
            }
        }
        Ok(())
    }
}

/// Marks the object of a record as one whose archive is being removed, or takes that back. One that is gone, or
/// another by now, needs no mark.
async fn mark(link: &ClusterLink, record: &BackupRecord, removing: bool) -> Result<(), Failure> {
    let Some(uid) = &record.uid else { return Ok(()) };
    let api = link.api(Kind::Backup, &record.namespace);
    let value = removing.then_some(&record.backup_name);
    let patch = Patch::Merge(json!({
        "metadata": {"uid": uid, "annotations": {REMOVING_ANNOTATION: value}},
    }));
    let parameters =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let what = format!("mark Backup {}/{}", record.namespace, record.object);
    let call = || api.patch(&record.object, &parameters, &patch);
    match link.runtime.cluster().patiently(&what, None, call).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(failure(&what, &error)),
    }
}
