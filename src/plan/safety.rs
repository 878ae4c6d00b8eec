//! The backup that is taken of a stopped service before it is changed. May not touch anything but values.

use super::journal::OperationId;
use super::{BackupJob, StoreBinding, UpgradeJob};
use crate::spec::upgrade::UpgradeBackupMode;
use crate::spec::{
    ArchiveOptions, BackupSpec, BackupTrigger, BackupType, Consistency, ConsistencyMode,
    DeletionPolicy, DurationText, Guards, Hooks, NameReference, Target, VerifyMode,
};

/// Days for which these backups are kept: long enough to notice that the change was wrong.
const DAYS: u64 = 30;

/// The backup that an Upgrade takes once its service stands still; none if it takes none.
///
/// By the Upgrade's own identity: to look whether it could be taken. The one that is taken is an operation
/// of its own.
pub fn of_upgrade(job: &UpgradeJob) -> Option<BackupJob> {
    let store =
        job.store.as_ref().filter(|_| job.spec.backup.mode == UpgradeBackupMode::Required)?;
    Some(before_upgrade(&job.operation, job.spec.target.clone(), store))
}

/// The backup of a target before it is upgraded. On a Docker host it holds anonymous volumes too: the new
/// containers mount the very same, and a rollback has to find in them what the old ones left.
pub fn before_upgrade(operation: &OperationId, target: Target, store: &StoreBinding) -> BackupJob {
    let job = backup(operation, target, store, BackupTrigger::PreUpgrade);
    BackupJob { anonymous_volumes: true, ..job }
}

/// A backup of a target that its parent holds still.
///
/// What looks at target and store before the stop looks with the same job, so that nothing fails while the
/// service is down that could have been known before.
pub fn backup(
    operation: &OperationId,
    target: Target,
    store: &StoreBinding,
    trigger: BackupTrigger,
) -> BackupJob {
    BackupJob::new(
        operation.clone(),
        BackupSpec {
            target,
            store_ref: NameReference::new(&store.name),
            backup_type: BackupType::Full,
            parent_ref: None,
            max_chain: None,
            service_version: None,
            description: None,
            exclude: Vec::new(),
            consistency: Consistency { mode: ConsistencyMode::Live, ..Consistency::default() },
            hooks: Hooks::default(),
            archive: ArchiveOptions::default(),
            verify: VerifyMode::Full,
            allow_unreadable: false,
            cross_file_systems: false,
            // What is there may well be the damage that the restore is for.
            guards: Guards { max_shrink: 100, allow_empty: true },
            expires_after: Some(DurationText::seconds(DAYS * 86_400)),
            deletion_policy: DeletionPolicy::Retain,
            trigger,
        },
        store.clone(),
    )
}
