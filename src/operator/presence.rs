//! Which of the recorded archives are in their stores.
//!
//! Somebody may have removed one by hand, and in a cluster another replica may have while this catalog lay idle.
//! A record alone must not take the place of an archive that there is: retention would remove the last one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::warn;

use super::stores::blocking;
use super::{Operator, OperatorError};
use crate::catalog::{BackupRecord, RecordStatus};
use crate::engine::LocalStore;
use crate::plan::StoreBinding;

/// A store by namespace and name.
pub(super) type StoreKey = (String, String);

/// What is under way with the stores of a cluster.
#[derive(Default)]
pub(super) struct Looks(Mutex<HashMap<StoreKey, Arc<StoreLook>>>);

/// What is under way with one.
#[derive(Default)]
pub(super) struct StoreLook {
    /// Held by whoever looks into it or removes what retention does not keep.
    pub(super) turn: tokio::sync::Mutex<()>,
    settled: AtomicBool,
}

impl StoreLook {
    /// The store was looked into by this process, or cannot be for now.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }

    /// Whether it was settled.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }
}

impl Looks {
    /// That of a store.
    pub(super) fn of(&self, namespace: &str, name: &str) -> Arc<StoreLook> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(looks.entry((namespace.to_owned(), name.to_owned())).or_default())
    }
}

/// Where the archives of a store lie, as records say it: `claim/path`, or a directory.
pub(super) fn directory_of(binding: &StoreBinding) -> PathBuf {
    let spec = &binding.spec;
    match (&spec.volume_claim, &spec.local) {
        (Some(claim), _) => {
            let path = format!("{}/{}", claim.name, claim.path.trim_matches('/'));
            PathBuf::from(path.trim_end_matches('/'))
        }
        (None, Some(local)) => PathBuf::from(&local.path),
        (None, None) => PathBuf::new(),
    }
}

/// Whether a record says that there is an archive.
fn has_archive(record: &BackupRecord) -> bool {
    record.deleted_at.is_none()
        && !matches!(record.status, RecordStatus::Running | RecordStatus::Deleted)
        && !record.backup_path.is_empty()
}

/// Whether a record's archive lies directly in a directory.
fn lies_in(record: &BackupRecord, directory: &Path) -> bool {
    Path::new(&record.backup_path).parent() == Some(directory)
}

/// The records whose archives were in a directory and are not among those that are there. `before` is what was
/// recorded before anybody looked: what was sealed meanwhile is not missed.
pub(super) fn gone<'a>(
    before: &'a [BackupRecord],
    directory: &Path,
    present: &HashSet<String>,
) -> Vec<&'a BackupRecord> {
    let is_gone = |record: &&BackupRecord| {
        has_archive(record) && lies_in(record, directory) && !present.contains(&record.backup_name)
    };
    before.iter().filter(is_gone).collect()
}

/// What is said of an archive that is gone.
pub(super) fn gone_message(record: &BackupRecord) -> String {
    format!("{} is not in store {} any more", record.backup_name, record.store)
}

impl Operator {
    /// Ends a record whose archive is gone; a failure stays one.
    pub(super) async fn end_as_gone(&self, record: &BackupRecord) -> Result<(), OperatorError> {
        let mut ended = BackupRecord { deleted_at: Some(Timestamp::now()), ..record.clone() };
        if record.status == RecordStatus::Succeeded {
            ended.status = RecordStatus::Deleted;
            ended.error_message = Some(gone_message(record));
        }
        warn!(backup = record.object, namespace = record.namespace, "{}", gone_message(record));
        Ok(self.catalog.update_backup(ended).await?)
    }

    /// Those of these records that retention may judge: their archives are there, as far as can be seen from here.
    ///
    /// On a host the files are looked at, and unless `only_look` records of what is gone are ended. In a cluster a
    /// mover did that (`looks`); what was recorded in another claim than the store's is left alone.
    pub(super) async fn without_the_gone(
        &self,
        records: Vec<BackupRecord>,
        only_look: bool,
    ) -> Result<Vec<BackupRecord>, OperatorError> {
        if self.cluster.is_some() {
            return self.where_their_stores_are(records).await;
        }
        let mut directories: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for record in records.iter().filter(|record| has_archive(record)) {
            let directory = Path::new(&record.backup_path).parent().unwrap_or(Path::new("/"));
            let names = directories.entry(directory.to_owned()).or_default();
            names.push(record.backup_name.clone());
        }
        let found = blocking(move || {
            let found = directories.into_iter().map(|(directory, names)| {
                let present = present_of(&directory, names);
                (directory, present)
            });
            Ok(found.collect::<Vec<_>>())
        })
        .await?;
        let mut missing = HashSet::new();
        for (directory, present) in found {
            for record in gone(&records, &directory, &present) {
                missing.insert(record.id);
                // Nothing there at all is a disk that is not mounted rather than somebody's work.
                if !only_look && !present.is_empty() {
                    self.end_as_gone(record).await?;
                }
            }
        }
        Ok(records.into_iter().filter(|record| !missing.contains(&record.id)).collect())
    }

    /// Those of a cluster's records whose archives lie where their stores are now.
    async fn where_their_stores_are(
        &self,
        records: Vec<BackupRecord>,
    ) -> Result<Vec<BackupRecord>, OperatorError> {
        let mut directories: BTreeMap<StoreKey, Option<PathBuf>> = BTreeMap::new();
        for key in stores_of(&records) {
            let binding = self.store(&key.0, &key.1).await?.ok();
            directories.insert(key, binding.as_ref().map(directory_of));
        }
        let is_there = |record: &BackupRecord| {
            let key = (record.namespace.clone(), record.store.clone());
            let directory = directories.get(&key).and_then(Option::as_ref);
            !has_archive(record) || directory.is_some_and(|directory| lies_in(record, directory))
        };
        Ok(records.into_iter().filter(is_there).collect())
    }
}

/// The stores that the archives of these records lie in.
pub(super) fn stores_of(records: &[BackupRecord]) -> BTreeSet<StoreKey> {
    let own = records.iter().filter(|record| has_archive(record));
    own.map(|record| (record.namespace.clone(), record.store.clone())).collect()
}

/// Which of these archives are in a directory, each with its manifest.
fn present_of(directory: &Path, names: Vec<String>) -> HashSet<String> {
    let Ok(store) = LocalStore::open(directory, "store", false) else { return HashSet::new() };
    names.into_iter().filter(|name| store.is_there(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, status: RecordStatus, path: &str) -> BackupRecord {
        BackupRecord {
            backup_name: name.to_owned(),
            backup_path: path.to_owned(),
            store: "main".to_owned(),
            status,
            ..BackupRecord::default()
        }
    }

    #[test]
    fn what_is_missed_was_recorded_in_that_very_place_and_has_ended() {
        let mut deleted = record("deleted", RecordStatus::Deleted, "claim/deleted");
        deleted.deleted_at = Some(Timestamp::UNIX_EPOCH);
        let records = [
            record("there", RecordStatus::Succeeded, "claim/there"),
            record("gone", RecordStatus::Succeeded, "claim/gone"),
            record("kept", RecordStatus::Failed, "claim/kept"),
            record("failed", RecordStatus::Failed, ""),
            record("running", RecordStatus::Running, "claim/running"),
            record("elsewhere", RecordStatus::Succeeded, "other/elsewhere"),
            record("beneath", RecordStatus::Succeeded, "claim/shop/beneath"),
            deleted,
        ];
        let present = HashSet::from(["there".to_owned()]);
        let names: Vec<&str> = gone(&records, Path::new("claim"), &present)
            .into_iter()
            .map(|record| record.backup_name.as_str())
            .collect();
        assert_eq!(names, ["gone", "kept"]);
    }
}
