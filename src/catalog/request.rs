//! What can be asked of the catalog, and what it answers.
//!
//! The same types go over the channel to the owner thread and, as JSON, over the socket.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::activity::{
    HistoryFilter, Notification, PerformanceMetric, ServiceStatus, SystemCheck, UserAction,
};
use super::backup::{BackupFilter, BackupKey, BackupRecord, UpgradeRecord};
use super::configuration::ConfigEntry;
use super::current::{ApplicationState, CurrentService, Host, ResourceRecord, ScheduledTask};
use crate::plan::{JournalEntry, OperationId};

/// A request. What each does is said at the method of [`super::Catalog`] of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at the methods")]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "do", content = "with")]
pub enum Request {
    AppendJournal(JournalEntry),
    Journal(OperationId),
    OpenOperations,
    PruneJournal { before: Timestamp },
    PutResource(Box<ResourceRecord>),
    Resource { kind: String, namespace: String, name: String },
    Resources { kind: Option<String> },
    Labelled { kind: String, namespace: String, label: String, value: String },
    RemoveResource { kind: String, namespace: String, name: String, at: Timestamp },
    InsertBackup(Box<BackupRecord>),
    UpdateBackup(Box<BackupRecord>),
    Backup(BackupKey),
    Backups(BackupFilter),
    MarkBackupDeleted { id: i64, at: Timestamp },
    MarkBackupGone { seen: Box<BackupRecord>, message: String, at: Timestamp },
    PutUpgrade(Box<UpgradeRecord>),
    Upgrades(HistoryFilter),
    AppendUserAction(Box<UserAction>),
    UserActions(HistoryFilter),
    AppendChecks(Vec<SystemCheck>),
    Checks(HistoryFilter),
    AppendMetrics(Vec<PerformanceMetric>),
    Metrics(HistoryFilter),
    AppendServiceStatuses(Vec<ServiceStatus>),
    ServiceHistory(HistoryFilter),
    CurrentServices,
    AppendNotification(Box<Notification>),
    Notifications(HistoryFilter),
    PutHost(Host),
    Hosts,
    PutScheduledTask(Box<ScheduledTask>),
    ScheduledTasks,
    RemoveScheduledTask { namespace: String, name: String },
    Configuration,
    SetConfiguration { key: String, value: Value, at: Timestamp },
    ResetConfiguration { key: String, at: Timestamp },
    StartSession { session: String, at: Timestamp },
    StopSession { error: Option<String>, at: Timestamp },
    State,
    Query { sql: String, limit: u32 },
    Export { directory: PathBuf },
    BackUpTo { file: PathBuf },
    RestoreFrom { file: PathBuf, at: Timestamp },
    Check { archives: Vec<ArchiveOnDisk> },
    Maintain { at: Timestamp },
    Rebuild { backups: Vec<BackupRecord> },
    Checkpoint,
    Close,
}

impl Request {
    /// Whether it writes one of the rows that operations leave: how it went says whether the catalog can be
    /// written to.
    pub(super) const fn writes_a_row(&self) -> bool {
        matches!(
            self,
            Self::AppendJournal(_)
                | Self::PutResource(_)
                | Self::InsertBackup(_)
                | Self::UpdateBackup(_)
                | Self::PutUpgrade(_)
                | Self::AppendUserAction(_)
                | Self::AppendServiceStatuses(_)
                | Self::PutHost(_)
        )
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after what they carry")]
#[serde(rename_all = "camelCase", tag = "is", content = "of")]
pub enum Reply {
    Done,
    Id(i64),
    Count(u64),
    Journal(Vec<JournalEntry>),
    Operations(Vec<OperationId>),
    Resource(Option<Box<ResourceRecord>>),
    Resources(Vec<ResourceRecord>),
    Backup(Option<Box<BackupRecord>>),
    Backups(Vec<BackupRecord>),
    Upgrades(Vec<UpgradeRecord>),
    UserActions(Vec<UserAction>),
    Checks(Vec<SystemCheck>),
    Metrics(Vec<PerformanceMetric>),
    ServiceHistory(Vec<ServiceStatus>),
    CurrentServices(Vec<CurrentService>),
    Notifications(Vec<Notification>),
    Hosts(Vec<Host>),
    ScheduledTasks(Vec<ScheduledTask>),
    Configuration(Vec<ConfigEntry>),
    State(Option<ApplicationState>),
    Rows(QueryResult),
    Paths(Vec<PathBuf>),
    Findings(Vec<Finding>),
    Maintenance(MaintenanceReport),
    Rebuild(RebuildReport),
}

/// Rows of a query.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows; integers and booleans as such, times in RFC 3339.
    pub rows: Vec<Vec<Value>>,
    /// Whether there were more rows than asked for.
    pub truncated: bool,
}

/// What the caller of a check found where an archive should lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveOnDisk {
    /// The record's `backup_path`.
    pub path: String,
    /// Bytes of the file; unset if there is none.
    pub size: Option<i64>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// Something is lost or wrong.
    Error,
    /// Something is unusual.
    Warning,
}

/// Something a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The table.
    pub table: String,
    /// The row or file.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

/// What maintenance removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceReport {
    /// Rows removed, by table.
    pub removed: Vec<(String, u64)>,
}

/// What a rebuild wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildReport {
    /// Records that were not there.
    pub added: u64,
    /// Records that were there and were written again from their manifest.
    pub rewritten: u64,
    /// Records without a manifest, left as they are.
    pub kept: u64,
    /// Archives whose manifest cannot be used, in the order of stores and names; filled in by
    /// whoever read the manifests.
    #[serde(default)]
    pub skipped: Vec<SkippedManifest>,
}

/// A manifest that no record could be made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedManifest {
    /// The archive's path.
    pub archive: String,
    /// What is wrong, one sentence.
    pub message: String,
}
