//! The requests as methods.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    ApplicationState, ArchiveOnDisk, BackupFilter, BackupKey, BackupRecord, Catalog, CatalogError,
    ConfigEntry, CurrentService, Finding, HistoryFilter, Host, MaintenanceReport, Notification,
    PerformanceMetric, QueryResult, RebuildReport, Reply, Request, ResourceRecord, ScheduledTask,
    ServiceStatus, Settings, SystemCheck, UpgradeRecord, UserAction,
};
use crate::plan::{JournalEntry, OperationId};

macro_rules! expect {
    ($reply:expr, Done) => {
        match $reply {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    };
    ($reply:expr, $variant:ident) => {
        match $reply {
            Reply::$variant(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    };
}

/// Only an owner of another version can answer with something else.
fn unexpected(reply: &Reply) -> CatalogError {
    let kind =
        serde_json::to_value(reply).ok().and_then(|value| value["is"].as_str().map(str::to_owned));
    CatalogError::statement("understand its owner", format!("unexpected answer {kind:?}"))
}

impl Catalog {
    /// Adds a line to the journal; it is on disk when this returns.
    pub async fn append_journal(&self, entry: JournalEntry) -> Result<i64, CatalogError> {
        expect!(self.call(Request::AppendJournal(entry)).await?, Id)
    }

    /// The lines of an operation, oldest first.
    pub async fn journal(
        &self,
        operation: &OperationId,
    ) -> Result<Vec<JournalEntry>, CatalogError> {
        expect!(self.call(Request::Journal(operation.clone())).await?, Journal)
    }

    /// The operations without a `Done` or `Failed` for the step `operation`, oldest first.
    pub async fn open_operations(&self) -> Result<Vec<OperationId>, CatalogError> {
        expect!(self.call(Request::OpenOperations).await?, Operations)
    }

    /// Removes the journals of operations that ended before a time; returns the number of lines.
    pub async fn prune_journal(&self, before: Timestamp) -> Result<u64, CatalogError> {
        expect!(self.call(Request::PruneJournal { before }).await?, Count)
    }

    /// Writes a resource in place of the one of the same kind, namespace and name.
    pub async fn put_resource(&self, record: ResourceRecord) -> Result<(), CatalogError> {
        expect!(self.call(Request::PutResource(Box::new(record))).await?, Done)
    }

    /// A resource, even a removed one.
    pub async fn resource(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ResourceRecord>, CatalogError> {
        expect!(
            self.call(Request::Resource {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned()
            })
            .await?,
            Resource
        )
        .map(|found| found.map(|found| *found))
    }

    /// The resources of a kind, or all, that are not removed.
    pub async fn resources(
        &self,
        kind: Option<String>,
    ) -> Result<Vec<ResourceRecord>, CatalogError> {
        expect!(self.call(Request::Resources { kind }).await?, Resources)
    }

    /// The resources of a kind in a namespace with this label that are not removed.
    pub async fn labelled(
        &self,
        kind: &str,
        namespace: &str,
        label: &str,
        value: &str,
    ) -> Result<Vec<ResourceRecord>, CatalogError> {
        expect!(
            self.call(Request::Labelled {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                label: label.to_owned(),
                value: value.to_owned()
            })
            .await?,
            Resources
        )
    }

    /// Marks a resource as removed; returns how many there were.
    pub async fn remove_resource(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        at: Timestamp,
    ) -> Result<u64, CatalogError> {
        expect!(
            self.call(Request::RemoveResource {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                at
            })
            .await?,
            Count
        )
    }

    /// Records a backup and returns its number. A record of the same archive name is rewritten and keeps its number: after a crash, the same insert may be repeated.
    pub async fn insert_backup(&self, record: BackupRecord) -> Result<i64, CatalogError> {
        expect!(self.call(Request::InsertBackup(Box::new(record))).await?, Id)
    }

    /// Writes a backup's record again, by its number.
    pub async fn update_backup(&self, record: BackupRecord) -> Result<(), CatalogError> {
        expect!(self.call(Request::UpdateBackup(Box::new(record))).await?, Done)
    }

    /// A backup's record.
    pub async fn backup(&self, key: BackupKey) -> Result<Option<BackupRecord>, CatalogError> {
        expect!(self.call(Request::Backup(key)).await?, Backup)
            .map(|found| found.map(|found| *found))
    }

    /// The backups that a filter lets through, newest first.
    pub async fn backups(&self, filter: BackupFilter) -> Result<Vec<BackupRecord>, CatalogError> {
        expect!(self.call(Request::Backups(filter)).await?, Backups)
    }

    /// Notes that a backup's archive has been removed.
    pub async fn mark_backup_deleted(&self, id: i64, at: Timestamp) -> Result<(), CatalogError> {
        expect!(self.call(Request::MarkBackupDeleted { id, at }).await?, Done)
    }

    /// Notes that a backup's archive is not where `seen` says any more, and says so of one that had succeeded. A
    /// record that says something else of its archive by now is left as it is; returns how many were changed.
    pub async fn mark_backup_gone(
        &self,
        seen: BackupRecord,
        message: String,
        at: Timestamp,
    ) -> Result<u64, CatalogError> {
        let request = Request::MarkBackupGone { seen: Box::new(seen), message, at };
        expect!(self.call(request).await?, Count)
    }

    /// Writes an upgrade in place of the one of the same `upgrade_id`; returns its number.
    pub async fn put_upgrade(&self, record: UpgradeRecord) -> Result<i64, CatalogError> {
        expect!(self.call(Request::PutUpgrade(Box::new(record))).await?, Id)
    }

    /// Upgrades, newest first; the filter's name is the target.
    pub async fn upgrades(
        &self,
        filter: HistoryFilter,
    ) -> Result<Vec<UpgradeRecord>, CatalogError> {
        expect!(self.call(Request::Upgrades(filter)).await?, Upgrades)
    }

    /// Records an action.
    pub async fn append_user_action(&self, action: UserAction) -> Result<i64, CatalogError> {
        expect!(self.call(Request::AppendUserAction(Box::new(action))).await?, Id)
    }

    /// Actions, newest first.
    pub async fn user_actions(
        &self,
        filter: HistoryFilter,
    ) -> Result<Vec<UserAction>, CatalogError> {
        expect!(self.call(Request::UserActions(filter)).await?, UserActions)
    }

    /// Records preflight results, all or none.
    pub async fn append_checks(&self, checks: Vec<SystemCheck>) -> Result<u64, CatalogError> {
        expect!(self.call(Request::AppendChecks(checks)).await?, Count)
    }

    /// Preflight results, newest first.
    pub async fn checks(&self, filter: HistoryFilter) -> Result<Vec<SystemCheck>, CatalogError> {
        expect!(self.call(Request::Checks(filter)).await?, Checks)
    }

    /// Records measured values, all or none.
    pub async fn append_metrics(
        &self,
        metrics: Vec<PerformanceMetric>,
    ) -> Result<u64, CatalogError> {
        expect!(self.call(Request::AppendMetrics(metrics)).await?, Count)
    }

    /// Measured values, newest first.
    pub async fn metrics(
        &self,
        filter: HistoryFilter,
    ) -> Result<Vec<PerformanceMetric>, CatalogError> {
        expect!(self.call(Request::Metrics(filter)).await?, Metrics)
    }

    /// Records a service's state, and makes it the current one.
    pub async fn append_service_status(&self, status: ServiceStatus) -> Result<u64, CatalogError> {
        self.append_service_statuses(vec![status]).await
    }

    /// Records the states of several services, all or none, and makes them the current ones.
    pub async fn append_service_statuses(
        &self,
        statuses: Vec<ServiceStatus>,
    ) -> Result<u64, CatalogError> {
        expect!(self.call(Request::AppendServiceStatuses(statuses)).await?, Count)
    }

    /// States of services, newest first.
    pub async fn service_history(
        &self,
        filter: HistoryFilter,
    ) -> Result<Vec<ServiceStatus>, CatalogError> {
        expect!(self.call(Request::ServiceHistory(filter)).await?, ServiceHistory)
    }

    /// The current state of every service.
    pub async fn current_services(&self) -> Result<Vec<CurrentService>, CatalogError> {
        expect!(self.call(Request::CurrentServices).await?, CurrentServices)
    }

    /// Records a message that was sent, or could not be.
    pub async fn append_notification(&self, sent: Notification) -> Result<i64, CatalogError> {
        expect!(self.call(Request::AppendNotification(Box::new(sent))).await?, Id)
    }

    /// Messages, newest first.
    pub async fn notifications(
        &self,
        filter: HistoryFilter,
    ) -> Result<Vec<Notification>, CatalogError> {
        expect!(self.call(Request::Notifications(filter)).await?, Notifications)
    }

    /// Writes a host in place of the one of the same name.
    pub async fn put_host(&self, host: Host) -> Result<(), CatalogError> {
        expect!(self.call(Request::PutHost(host)).await?, Done)
    }

    /// All hosts.
    pub async fn hosts(&self) -> Result<Vec<Host>, CatalogError> {
        expect!(self.call(Request::Hosts).await?, Hosts)
    }

    /// Writes how a schedule stands.
    pub async fn put_scheduled_task(&self, task: ScheduledTask) -> Result<(), CatalogError> {
        expect!(self.call(Request::PutScheduledTask(Box::new(task))).await?, Done)
    }

    /// How all schedules stand.
    pub async fn scheduled_tasks(&self) -> Result<Vec<ScheduledTask>, CatalogError> {
        expect!(self.call(Request::ScheduledTasks).await?, ScheduledTasks)
    }

    /// Forgets a schedule.
    pub async fn remove_scheduled_task(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<u64, CatalogError> {
        expect!(
            self.call(Request::RemoveScheduledTask {
                namespace: namespace.to_owned(),
                name: name.to_owned()
            })
            .await?,
            Count
        )
    }

    /// All settings, by key.
    pub async fn configuration(&self) -> Result<Vec<ConfigEntry>, CatalogError> {
        expect!(self.call(Request::Configuration).await?, Configuration)
    }

    /// Sets a setting, after judging its type and rule.
    pub async fn set_configuration(
        &self,
        key: &str,
        value: Value,
        at: Timestamp,
    ) -> Result<(), CatalogError> {
        expect!(
            self.call(Request::SetConfiguration { key: key.to_owned(), value, at }).await?,
            Done
        )
    }

    /// Sets a setting to its default.
    pub async fn reset_configuration(&self, key: &str, at: Timestamp) -> Result<(), CatalogError> {
        expect!(self.call(Request::ResetConfiguration { key: key.to_owned(), at }).await?, Done)
    }

    /// Notes that a session uses the catalog.
    pub async fn start_session(&self, session: String, at: Timestamp) -> Result<(), CatalogError> {
        expect!(self.call(Request::StartSession { session, at }).await?, Done)
    }

    /// Notes that the session ended in order.
    pub async fn stop_session(
        &self,
        error: Option<String>,
        at: Timestamp,
    ) -> Result<(), CatalogError> {
        expect!(self.call(Request::StopSession { error, at }).await?, Done)
    }

    /// The last session; if it is `RUNNING` and not ours, it crashed.
    pub async fn state(&self) -> Result<Option<ApplicationState>, CatalogError> {
        expect!(self.call(Request::State).await?, State)
    }

    /// Answers one reading SQL statement with at most `limit` rows, within 30 s.
    pub async fn query(&self, sql: &str, limit: u32) -> Result<QueryResult, CatalogError> {
        expect!(self.call(Request::Query { sql: sql.to_owned(), limit }).await?, Rows)
    }

    /// Writes every table as Parquet; the directory must be absolute.
    pub async fn export(&self, directory: &Path) -> Result<Vec<PathBuf>, CatalogError> {
        expect!(self.call(Request::Export { directory: directory.to_owned() }).await?, Paths)
    }

    /// Copies the catalog to a new file.
    pub async fn back_up_to(&self, file: &Path) -> Result<(), CatalogError> {
        expect!(self.call(Request::BackUpTo { file: file.to_owned() }).await?, Done)
    }

    /// Replaces the catalog; returns where the replaced one is kept.
    pub async fn restore_from(
        &self,
        file: &Path,
        at: Timestamp,
    ) -> Result<Vec<PathBuf>, CatalogError> {
        expect!(self.call(Request::RestoreFrom { file: file.to_owned(), at }).await?, Paths)
    }

    /// Judges every row, key and reference, and the archives the caller looked at.
    pub async fn check(&self, archives: Vec<ArchiveOnDisk>) -> Result<Vec<Finding>, CatalogError> {
        expect!(self.call(Request::Check { archives }).await?, Findings)
    }

    /// Removes records that are older than the settings say, and compacts the file.
    pub async fn maintain(&self, at: Timestamp) -> Result<MaintenanceReport, CatalogError> {
        expect!(self.call(Request::Maintain { at }).await?, Maintenance)
    }

    /// Writes the records that manifests tell of, in one transaction; may be repeated.
    pub async fn rebuild(&self, backups: Vec<BackupRecord>) -> Result<RebuildReport, CatalogError> {
        expect!(self.call(Request::Rebuild { backups }).await?, Rebuild)
    }

    /// Writes the log into the file; to be called when an operation has ended.
    pub async fn checkpoint(&self) -> Result<(), CatalogError> {
        expect!(self.call(Request::Checkpoint).await?, Done)
    }

    /// Closes the file; later calls fail. A remote catalog stays open.
    pub async fn close(&self) -> Result<(), CatalogError> {
        expect!(self.call(Request::Close).await?, Done)
    }

    /// The settings with their types.
    pub async fn settings(&self) -> Result<Settings, CatalogError> {
        Ok(Settings::from_entries(&self.configuration().await?))
    }

    /// The newest verified backup of a target whose archive is still there.
    pub async fn newest_verified(
        &self,
        filter: BackupFilter,
    ) -> Result<Option<BackupRecord>, CatalogError> {
        let filter = BackupFilter { verified: true, limit: Some(1), ..filter };
        Ok(self.backups(filter).await?.pop())
    }
}
