//! The records of backups and upgrades.
//!
//! Plain types without behaviour; how they reach their tables is the business of `row`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row::{Column, Kind, Record, column};

/// How a backup came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RecordStatus {
    /// Not finished.
    #[default]
    Running,
    /// The archive is sealed, in its place and accepted.
    Succeeded,
    /// There is no usable archive.
    Failed,
    /// There was an archive; it has been removed.
    Deleted,
}

impl RecordStatus {
    /// The word in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Deleted => "Deleted",
        }
    }
}

/// One backup: a row of `backup_records`.
///
/// The fields from `namespace` on have no column of their own and lie in `backup_metadata`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupRecord {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// File name of the archive: unique within a store, see [`Self::is_same_archive`].
    pub backup_name: String,
    /// `Full`, `Incremental` or `DataOnly`.
    pub backup_type: String,
    /// Version of the service.
    pub source_version: Option<String>,
    /// Where the archive lies.
    pub backup_path: String,
    /// Bytes of the archive.
    pub backup_size: Option<i64>,
    /// Regular files in the archive.
    pub file_count: Option<i64>,
    /// `tar.gz`, `tar.zst` or `tar`.
    pub compression_type: String,
    /// SHA-256 of the archive, in hexadecimal.
    pub backup_hash: Option<String>,
    /// Free text of the specification.
    pub description: Option<String>,
    /// When the backup began.
    pub created_at: Timestamp,
    /// When retention may remove it by age.
    pub expires_at: Option<Timestamp>,
    /// How it came out.
    pub status: RecordStatus,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Seconds from beginning to end.
    pub duration_seconds: Option<f64>,
    /// The target in one line.
    pub target: String,
    /// When the archive was last read back without a fault.
    pub verified_at: Option<Timestamp>,
    /// When the archive was removed.
    pub deleted_at: Option<Timestamp>,
    /// Namespace of the Backup.
    pub namespace: String,
    /// Name of the Backup.
    pub object: String,
    /// Generation of the Backup that was carried out.
    pub generation: Option<i64>,
    /// The run that made it: the operation and when its journal began. None for records that were
    /// made again from manifests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// UID of the Backup in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Name of the BackupStore.
    pub store: String,
    /// Name of the BackupSchedule, if one made it.
    pub schedule: Option<String>,
    /// `manual`, `scheduled`, `pre-upgrade` or `pre-restore`.
    pub trigger: Option<String>,
    /// Archive name of the parent of an incremental.
    pub parent: Option<String>,
    /// Bytes of the files in the archive.
    pub source_bytes: Option<i64>,
    /// Seconds for which the service was held still.
    pub downtime_seconds: Option<f64>,
    /// Digest of the content, independent of compression.
    pub content_digest: Option<String>,
    /// Name of the host or cluster.
    pub host: Option<String>,
    /// The target of the specification.
    pub target_spec: Option<Value>,
    /// What was noticed but did not fail the backup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl BackupRecord {
    /// Whether both speak of one archive: of one name in one store, or of the same bytes in two.
    ///
    /// The name alone does not tell: it holds a time to the second, and schedules of many namespaces
    /// run at two in the morning.
    pub fn is_same_archive(&self, other: &Self) -> bool {
        let known = |store: &str| !store.is_empty();
        let place = self.namespace == other.namespace
            && (self.store == other.store || !known(&self.store) || !known(&other.store));
        let content = self.backup_hash.is_some() && self.backup_hash == other.backup_hash;
        self.backup_name == other.backup_name && (place || content)
    }

    /// Whether both say the same of where the archive lies, which bytes it has, and how it came out: whoever has
    /// looked for it by the one has looked for it by the other. What else they say may differ.
    pub(super) fn tells_of_the_archive_of(&self, other: &Self) -> bool {
        let place = |one: &Self| (one.backup_name.clone(), one.backup_path.clone(), one.deleted_at);
        let content = |one: &Self| (one.backup_hash.clone(), one.verified_at, one.status);
        place(self) == place(other) && content(self) == content(other)
    }
}

impl Record for BackupRecord {
    const TABLE: &'static str = "backup_records";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("backup_name", "backupName", Kind::Text),
        column("backup_type", "backupType", Kind::Text),
        column("source_version", "sourceVersion", Kind::Text),
        column("backup_path", "backupPath", Kind::Text),
        column("backup_size", "backupSize", Kind::Integer),
        column("file_count", "fileCount", Kind::Integer),
        column("compression_type", "compressionType", Kind::Text),
        column("backup_hash", "backupHash", Kind::Text),
        column("description", "description", Kind::Text),
        column("backup_metadata", "", Kind::Rest),
        column("created_at", "createdAt", Kind::Time),
        column("expires_at", "expiresAt", Kind::Time),
        column("status", "status", Kind::Text),
        column("error_message", "errorMessage", Kind::Text),
        column("duration_seconds", "durationSeconds", Kind::Real),
        column("target", "target", Kind::Text),
        column("verified_at", "verifiedAt", Kind::Time),
        column("deleted_at", "deletedAt", Kind::Time),
    ];
}

/// What identifies a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackupKey {
    /// Number of the row.
    Id(i64),
    /// File name of the archive.
    Name(String),
    /// The Backup; its newest record, should there be several.
    Object {
        /// Namespace of the Backup.
        namespace: String,
        /// Name of the Backup.
        name: String,
    },
}

/// Which backups are wanted; newest first. Unset fields do not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupFilter {
    /// The target in one line.
    pub target: Option<String>,
    /// Namespace of the Backup.
    pub namespace: Option<String>,
    /// Name of the Backup's object.
    #[serde(default)]
    pub object: Option<String>,
    /// Name of the BackupSchedule.
    pub schedule: Option<String>,
    /// Name of the BackupStore.
    pub store: Option<String>,
    /// How it came out.
    pub status: Option<RecordStatus>,
    /// Only those that have been verified and not been deleted.
    pub verified: bool,
    /// Only those begun at this time or later.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<u32>,
}

/// How an upgrade came out, as in the seed documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpgradeStatusWord {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// The new version runs and is healthy.
    Success,
    /// The upgrade failed and could not be, or needed not be, undone.
    Failed,
    /// The old version runs on the old data.
    RolledBack,
}

/// One upgrade: a row of `upgrade_history`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpgradeRecord {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// The operation: `Upgrade/namespace/name/generation`.
    pub upgrade_id: String,
    /// Version before.
    pub from_version: Option<String>,
    /// Version wanted.
    pub to_version: String,
    /// `FULL`, `INCREMENTAL` or `HOTFIX`.
    pub upgrade_type: String,
    /// How it came out.
    pub status: UpgradeStatusWord,
    /// When it was asked for.
    pub scheduled_at: Option<Timestamp>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// The safety backup: `backup_records.id`.
    pub backup_id: Option<i64>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Why it was undone.
    pub rollback_reason: Option<String>,
    /// The steps in text.
    pub upgrade_log: Option<String>,
    /// Bytes of the images.
    pub download_size: Option<i64>,
    /// Seconds for the images.
    pub download_time_seconds: Option<f64>,
    /// Seconds for the exchange itself.
    pub installation_time_seconds: Option<f64>,
    /// The target in one line.
    pub target: String,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When the row was last written.
    pub updated_at: Timestamp,
}

impl Record for UpgradeRecord {
    const TABLE: &'static str = "upgrade_history";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("upgrade_id", "upgradeId", Kind::Text),
        column("from_version", "fromVersion", Kind::Text),
        column("to_version", "toVersion", Kind::Text),
        column("upgrade_type", "upgradeType", Kind::Text),
        column("status", "status", Kind::Text),
        column("scheduled_at", "scheduledAt", Kind::Time),
        column("started_at", "startedAt", Kind::Time),
        column("completed_at", "completedAt", Kind::Time),
        column("backup_id", "backupId", Kind::Integer),
        column("error_message", "errorMessage", Kind::Text),
        column("rollback_reason", "rollbackReason", Kind::Text),
        column("upgrade_log", "upgradeLog", Kind::Text),
        column("download_size", "downloadSize", Kind::Integer),
        column("download_time_seconds", "downloadTimeSeconds", Kind::Real),
        column("installation_time_seconds", "installationTimeSeconds", Kind::Real),
        column("target", "target", Kind::Text),
        column("created_at", "createdAt", Kind::Time),
        column("updated_at", "updatedAt", Kind::Time),
    ];
}
