//! What the operator tells the metrics: plain facts and the closed sets behind labels.
//!
//! Nothing here knows Prometheus.

use std::time::Duration;

use jiff::Timestamp;

use crate::spec::Reason;

/// The label `operation`: what can stop a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Taking a backup.
    Backup,
    /// Putting one back.
    Restore,
    /// Changing the version.
    Upgrade,
}

impl Operation {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Upgrade => "upgrade",
        }
    }
}

/// The label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    /// The operation did all it was asked to.
    Success,
    /// Anything else.
    Failure,
}

impl Result {
    /// The result that a terminal reason stands for.
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::Succeeded | Reason::Verified => Self::Success,
            _ => Self::Failure,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// What is running, for `eider_build_info`.
#[derive(Debug, Clone, Copy)]
pub struct BuildInformation<'a> {
    /// Version of Eider.
    pub version: &'a str,
    /// Commit it was built from, or `unknown`.
    pub commit: &'a str,
    /// Version of DuckDB.
    pub duckdb: &'a str,
}

/// A Backup that ended.
#[derive(Debug, Clone, Copy)]
pub struct BackupFinished<'a> {
    /// Namespace of the Backup.
    pub namespace: &'a str,
    /// What was backed up; one value for each target, not for each Backup.
    pub target: &'a str,
    /// [`Reason::Succeeded`], or why it failed.
    pub reason: Reason,
    /// Whether the archive was read back and found whole.
    pub verified: bool,
    /// From start to end.
    pub duration: Duration,
    /// When it ended.
    pub completed_at: Timestamp,
    /// Size of the archive; ignored on failure.
    pub archive_bytes: u64,
    /// Bytes read; ignored on failure.
    pub source_bytes: u64,
    /// Files read; ignored on failure.
    pub files: u64,
}

/// An Upgrade that ended.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeFinished<'a> {
    /// Namespace of the Upgrade.
    pub namespace: &'a str,
    /// What was upgraded.
    pub target: &'a str,
    /// [`Reason::Succeeded`], [`Reason::RolledBack`], or why it failed.
    pub reason: Reason,
    /// From start to end.
    pub duration: Duration,
    /// When it ended.
    pub completed_at: Timestamp,
}

/// How a BackupSchedule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it runs next; none while suspended.
    pub next_run: Option<Timestamp>,
    /// Whether the last success is too long ago.
    pub overdue: bool,
    /// Runs missed since the schedule was made.
    pub missed_runs: u64,
}

/// How a BackupStore stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Backups kept.
    pub backups: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Bytes free; none if unknown.
    pub free_bytes: Option<u64>,
    /// Size of the file system; none if unknown or without limit.
    pub capacity_bytes: Option<u64>,
    /// `spec.minFree` in bytes.
    pub minimum_free_bytes: u64,
}

/// What the catalog remembers of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetFacts {
    /// Namespace of the target's objects.
    pub namespace: String,
    /// The target, as in [`BackupFinished::target`].
    pub target: String,
    /// When its newest successful backup ended.
    pub last_success: Option<Timestamp>,
    /// When an archive of it was last found whole.
    pub last_verified: Option<Timestamp>,
    /// When its newest backup ended; none if there was never one.
    pub last_backup_attempt: Option<Timestamp>,
    /// Whether that one succeeded.
    pub last_backup_succeeded: bool,
    /// Archive size of the newest successful backup.
    pub archive_bytes: u64,
    /// Source bytes of the newest successful backup.
    pub source_bytes: u64,
    /// Files in the newest successful backup.
    pub files: u64,
    /// When the newest upgrade ended and why it ended so.
    pub last_upgrade: Option<(Timestamp, Reason)>,
    /// Whether the service ran when the newest operation ended.
    pub service_up: Option<bool>,
}

/// Everything that comes back from the catalog after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptFacts {
    /// Every target with a record.
    pub targets: Vec<TargetFacts>,
    /// Every BackupSchedule.
    pub schedules: Vec<ScheduleFacts>,
    /// Every BackupStore.
    pub stores: Vec<StoreFacts>,
}
