//! Which of the recorded archives are in their stores.
//!
//! Somebody may have removed one by hand, and in a cluster another replica may have while this catalog lay idle.
//! A record alone must not take the place of an archive that there is: retention would remove the last one. Nor must
//! one that is there by half, or that builds on one that is not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::warn;

use super::stores::blocking;
use super::{Operator, OperatorError};
use crate::catalog::{BackupRecord, RecordStatus};
use crate::engine::{LocalStore, Manifest, Presence};
use crate::plan::chain::{self, Stored};
use crate::plan::{Failure, ParentFacts, StoreBinding};
use crate::spec::Reason;

/// A store by namespace and name.
pub(super) type StoreKey = (String, String);

/// The archives of a store that cannot be restored although something of them is there, and what they lack.
pub(super) type Lacks = HashMap<String, Failure>;

/// What is under way with the stores of a cluster.
#[derive(Default)]
pub(super) struct Looks(Mutex<HashMap<StoreKey, Arc<StoreLook>>>);

/// What is under way with one.
#[derive(Default)]
pub(super) struct StoreLook {
    /// Held by whoever looks into it or removes what retention does not keep.
    pub(super) turn: tokio::sync::Mutex<()>,
    settled: AtomicBool,
    lacks: Mutex<Lacks>,
}

impl StoreLook {
    /// The store was looked into by this process, or cannot be for now.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }

    /// Keeps what the archives lack that a look has just found.
    pub(super) fn found(&self, lacks: Lacks) {
        *self.lacks.lock().unwrap_or_else(PoisonError::into_inner) = lacks;
    }

    /// What this archive lacked when it was looked for last.
    pub(super) fn lack_of(&self, archive: &str) -> Option<Failure> {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner).get(archive).cloned()
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
pub(super) fn has_archive(record: &BackupRecord) -> bool {
    record.deleted_at.is_none()
        && !matches!(record.status, RecordStatus::Running | RecordStatus::Deleted)
        && !record.backup_path.is_empty()
}

/// Whether a record's archive lies directly in a directory.
pub(super) fn lies_in(record: &BackupRecord, directory: &Path) -> bool {
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

/// What the archives of a store lack, from those that are all there and those that are broken by themselves.
pub(super) fn lacks(whole: &BTreeMap<String, Stored>, broken: Lacks) -> Lacks {
    let of_chain = |name: &String| {
        let missing = chain::missing_ancestor(name, whole)?;
        let (reason, what) = match broken.get(missing) {
            Some(failure) => (failure.reason, "not all there"),
            None => (Reason::ArchiveMissing, "not there"),
        };
        let message = format!("{name} builds on {missing}, which is {what}");
        Some((name.clone(), Failure::new(reason, message)))
    };
    let mut all: Lacks = whole.keys().filter_map(of_chain).collect();
    all.extend(broken);
    all
}

/// An archive that is all there.
pub(super) fn stored(manifest: &Manifest) -> (String, Stored) {
    let parent = manifest.parent.as_ref();
    let parent = parent
        .map(|parent| ParentFacts { name: parent.name.clone(), sha256: parent.sha256.clone() });
    (manifest.name.clone(), Stored { sha256: manifest.sha256.clone(), parent })
}

/// What is said of an archive that is gone.
pub(super) fn gone_message(record: &BackupRecord) -> String {
    format!("{} is not in store {} any more", record.backup_name, record.store)
}

impl Operator {
    /// Ends a record whose archive is gone, unless it says something else of it by now; a failure stays one.
    pub(super) async fn end_as_gone(&self, record: &BackupRecord) -> Result<(), OperatorError> {
        let message = gone_message(record);
        let marked =
            self.catalog.mark_backup_gone(record.clone(), message.clone(), Timestamp::now());
        if marked.await? > 0 {
            warn!(backup = record.object, namespace = record.namespace, "{message}");
        }
        Ok(())
    }

    /// Those of these records that retention may judge: their archives are there, as far as can be seen from here.
    ///
    /// On a host the files are looked at, and unless `only_look` records of what is gone are ended. In a cluster a
    /// mover did that (`looks`); what was recorded in another claim than the store's is left alone. What the others
    /// lack to be restored is told by their numbers.
    pub(super) async fn without_the_gone(
        &self,
        records: Vec<BackupRecord>,
        only_look: bool,
    ) -> Result<(Vec<BackupRecord>, HashMap<i64, Failure>), OperatorError> {
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
        let (mut missing, mut lacking) = (HashSet::new(), HashMap::new());
        for (directory, (present, mut lacks)) in found {
            for record in records.iter().filter(|record| lies_in(record, &directory)) {
                lacking.extend(lacks.remove(&record.backup_name).map(|lack| (record.id, lack)));
            }
            for record in gone(&records, &directory, &present) {
                missing.insert(record.id);
                // Nothing there at all is a disk that is not mounted rather than somebody's work.
                if !only_look && !present.is_empty() {
                    self.end_as_gone(record).await?;
                }
            }
        }
        let left = records.into_iter().filter(|record| !missing.contains(&record.id));
        Ok((left.collect(), lacking))
    }

    /// Those of a cluster's records whose archives lie where their stores are now.
    async fn where_their_stores_are(
        &self,
        records: Vec<BackupRecord>,
    ) -> Result<(Vec<BackupRecord>, HashMap<i64, Failure>), OperatorError> {
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
        let left: Vec<BackupRecord> = records.into_iter().filter(is_there).collect();
        let lack = |record: &BackupRecord| {
            let look = self.cluster.as_ref()?.looks.of(&record.namespace, &record.store);
            Some((record.id, look.lack_of(&record.backup_name)?))
        };
        let lacking = left.iter().filter(|record| has_archive(record)).filter_map(lack).collect();
        Ok((left, lacking))
    }
}

/// The stores that the archives of these records lie in.
pub(super) fn stores_of(records: &[BackupRecord]) -> BTreeSet<StoreKey> {
    let own = records.iter().filter(|record| has_archive(record));
    own.map(|record| (record.namespace.clone(), record.store.clone())).collect()
}

/// Which of these archives are in a directory, and what they lack.
fn present_of(directory: &Path, names: Vec<String>) -> (HashSet<String>, Lacks) {
    let (mut present, mut whole, mut broken) = (HashSet::new(), BTreeMap::new(), Lacks::new());
    let Ok(store) = LocalStore::open(directory, "store", false) else { return (present, broken) };
    let (mut open, mut seen) = (names, HashSet::new());
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        match store.presence(&name) {
            Presence::Gone => continue,
            Presence::Broken(error) => {
                broken.insert(name.clone(), error.into());
            }
            Presence::Whole(manifest) => {
                let (_, found) = stored(&manifest);
                open.extend(found.parent.as_ref().map(|parent| parent.name.clone()));
                whole.insert(name.clone(), found);
            }
        }
        present.insert(name);
    }
    (present, lacks(&whole, broken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{PackSummary, ParentArchive};
    use crate::spec::ArchiveFormat;

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

    /// A manifest alone passed for a verified archive, and retention removed the last real one for it.
    #[test]
    fn an_archive_is_there_when_it_and_its_chain_are() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path(), "main", false).unwrap();
        let write = |name: &str, parent: Option<&str>, bytes: Option<&str>| {
            let summary = PackSummary::default();
            let (format, at) = (ArchiveFormat::TarGz, Timestamp::UNIX_EPOCH);
            let mut manifest = Manifest::new(name, format, &summary, at);
            (manifest.size_bytes, manifest.sha256) = (5, format!("hash of {name}"));
            manifest.parent = parent.map(|name| ParentArchive {
                name: name.to_owned(),
                sha256: format!("hash of {name}"),
            });
            store.write_manifest(&manifest).unwrap();
            if let Some(bytes) = bytes {
                std::fs::write(directory.path().join(name), bytes).unwrap();
            }
        };
        write("full", None, Some("bytes"));
        write("increment", Some("full"), Some("bytes"));
        write("manifest-alone", None, None);
        write("cut", None, Some("byt"));
        write("of-cut", Some("cut"), Some("bytes"));
        write("orphan", Some("manifest-alone"), Some("bytes"));
        write("its-child", Some("orphan"), Some("bytes"));
        std::fs::write(directory.path().join("archive-alone"), "bytes").unwrap();
        let all = [
            "full",
            "increment",
            "manifest-alone",
            "cut",
            "of-cut",
            "its-child",
            "archive-alone",
            "nothing",
        ];
        let names = all.iter().map(|name| (*name).to_owned()).collect();
        let (present, lacks) = present_of(directory.path(), names);
        let there = |name: &&&str| present.contains(**name);
        assert_eq!(
            all.iter().filter(there).copied().collect::<Vec<_>>(),
            ["full", "increment", "cut", "of-cut", "its-child", "archive-alone"]
        );
        let lack = |name: &str| {
            let lack = lacks.get(name)?;
            Some((lack.reason, lack.message.replace(directory.path().to_str().unwrap(), "@")))
        };
        assert_eq!((lack("full"), lack("increment")), (None, None));
        for (name, reason, message) in [
            ("cut", Reason::ArchiveDamaged, "it has 3 bytes, its manifest says 5"),
            ("of-cut", Reason::ArchiveDamaged, "of-cut builds on cut, which is not all there"),
            (
                "its-child",
                Reason::ArchiveMissing,
                "its-child builds on manifest-alone, which is not there",
            ),
            ("archive-alone", Reason::ArchiveMissing, "it has no manifest in the store"),
        ] {
            let (found, said) = lack(name).unwrap();
            assert_eq!(found, reason, "{name}");
            assert!(said.contains(message), "{said}");
        }
    }
}
