//! The archive that an incremental one continues: found in the store, proved, and looked at again where
//! it counts.
//!
//! Which one it is, is decided in `plan/chain.rs`. Whatever is wrong with it is told as a warning, and
//! everything is stored; only who cancels is heard as a failure.

use super::{Handles, local_path};
use crate::engine::{self, EngineError, LocalStore, Manifest, ParentArchive, ParentOptions};
use crate::plan::chain::{self, Candidate};
use crate::plan::{ArchiveFacts, BackupJob, Failure, Job, ParentFacts};
use crate::spec::{BackupType, Reason, VerifyMode};

/// The archive that a Backup is to continue, and the warnings that there are of it.
pub(super) fn choose(
    job: &BackupJob,
    store: &LocalStore,
    handles: &Handles,
) -> Result<(Option<ParentFacts>, Vec<String>), Failure> {
    if job.spec.backup_type != BackupType::Incremental {
        return Ok((None, Vec::new()));
    }
    let everything = |why: &str| (None, vec![format!("{why}: everything is stored")]);
    let parent = match chain::choose(job, &candidates(store)?) {
        Ok(parent) => parent,
        Err(why) => return Ok(everything(&why)),
    };
    handles.progress.phase("verifying the parent");
    // With `Full` every byte that the new archive will rest on is read here, before anything is held
    // still: damage costs a full backup, and not a service that stands still for nothing.
    let progress = handles.progress.as_ref();
    match engine::verify(store, &parent.name, job.spec.verify, progress, &handles.cancel) {
        Ok(_) => Ok((Some(parent), Vec::new())),
        Err(error) => {
            let why = not_continued(&parent, error)?;
            Ok(everything(&why))
        }
    }
}

fn candidates(store: &LocalStore) -> Result<Vec<Candidate>, EngineError> {
    let listed = store.list()?.archives.into_iter();
    Ok(listed
        .filter_map(|archive| archive.manifest.ok())
        // What has no index cannot be compared with.
        .filter(|manifest| manifest.format_version >= 2)
        .map(candidate)
        .collect())
}

/// What an incremental Backup would continue as things are, for `--dry-run`; nothing of other backups, and
/// nothing where the store cannot be looked at from here. Nothing is read but manifests.
pub fn explain_parent(job: &Job) -> Option<String> {
    let Job::Backup(job) = job else { return None };
    if job.spec.backup_type != BackupType::Incremental {
        return None;
    }
    let store = local_path(&job.store).ok()?;
    let candidates =
        LocalStore::open(&store, &job.store.name, false).and_then(|store| candidates(&store));
    let found = match candidates {
        Ok(candidates) => chain::choose(job, &candidates),
        // The first backup makes it.
        _ => Err(format!("store {} is not there yet", job.store.name)),
    };
    Some(match found {
        Ok(parent) => format!("incremental, continues {}", parent.name),
        Err(why) => format!("incremental, but {why}: everything is stored"),
    })
}

/// Looks at the parent again when it is needed; it may have been removed since.
pub(super) fn confirm(
    store: &LocalStore,
    parent: Option<ParentFacts>,
    handles: &Handles,
) -> Result<(Option<ParentOptions>, Option<String>), Failure> {
    let Some(parent) = parent else { return Ok((None, None)) };
    let progress = handles.progress.as_ref();
    let cancel = &handles.cancel;
    let found = engine::verify(store, &parent.name, VerifyMode::Quick, progress, cancel)
        .and_then(|_| options(store, &parent));
    match found {
        Ok(options) => Ok((Some(options), None)),
        Err(error) => {
            let why = not_continued(&parent, error)?;
            Ok((None, Some(format!("{why}: everything is stored"))))
        }
    }
}

/// Why a parent is not continued; a cancellation is no reason for that.
fn not_continued(parent: &ParentFacts, error: EngineError) -> Result<String, Failure> {
    let failure = Failure::from(error);
    if failure.reason == Reason::Cancelled {
        return Err(failure);
    }
    Ok(format!("{} cannot be continued ({})", parent.name, failure.message))
}

/// What the engine has to know of the parent.
pub(super) fn options(
    store: &LocalStore,
    parent: &ParentFacts,
) -> Result<ParentOptions, EngineError> {
    let manifest = store.read_manifest(&parent.name)?;
    if manifest.sha256 != parent.sha256 {
        let detail = "another archive of this name has taken its place".to_owned();
        return Err(EngineError::Missing { name: parent.name.clone(), detail });
    }
    Ok(ParentOptions {
        path: store.archive_path(&parent.name),
        format: manifest.format,
        archive: named(parent.clone()),
        started: manifest.created_at.as_second(),
    })
}

/// Fails if the archive that was continued has gone since: what rests on it could never be restored.
pub(super) fn check_there(store: &LocalStore, facts: &ArchiveFacts) -> Result<(), Failure> {
    let Some(parent) = &facts.parent else { return Ok(()) };
    options(store, parent).map(|_| ()).map_err(|error| {
        let failure = Failure::from(error);
        let message = format!(
            "{} was to continue {}, which has been removed meanwhile: {}",
            facts.name, parent.name, failure.message
        );
        Failure::new(failure.reason, message).hint("take the backup again; it will be a full one")
    })
}

pub(super) fn named(parent: ParentFacts) -> ParentArchive {
    ParentArchive { name: parent.name, sha256: parent.sha256 }
}

pub(super) fn facts(parent: ParentArchive) -> ParentFacts {
    ParentFacts { name: parent.name, sha256: parent.sha256 }
}

fn candidate(manifest: Manifest) -> Candidate {
    Candidate {
        archive: ParentFacts { name: manifest.name, sha256: manifest.sha256 },
        parent: manifest.parent.map(facts),
        namespace: manifest.namespace,
        backup: manifest.backup,
        backup_type: manifest.backup_type,
        target: manifest.target,
        exclude: manifest.exclude,
        cross_file_systems: manifest.cross_file_systems,
        created_at: manifest.created_at,
        verified: manifest.verified_at.is_some(),
    }
}
