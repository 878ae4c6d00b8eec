//! The records of how things stand: resources, schedules, hosts, services, the program itself.
//!
//! Each has a key; writing it again replaces the row.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::activity::ServiceStatus;
use super::row::{Column, Kind, Record, column};
use crate::plan::JournalEntry;

/// A document of file mode or of the command line: a row of `resources`, by kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceRecord {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Counts changes of the specification, from 1.
    pub generation: i64,
    /// SHA-256 of the specification.
    pub spec_digest: String,
    /// The whole object without its status.
    pub document: Value,
    /// Its status.
    pub status: Value,
    /// The file it came from, or `cli`.
    pub source: String,
    /// When it was last read.
    pub observed_at: Timestamp,
    /// When it was found to be gone.
    pub removed_at: Option<Timestamp>,
}

impl Record for ResourceRecord {
    const TABLE: &'static str = "resources";
    const COLUMNS: &'static [Column] = &[
        column("kind", "kind", Kind::Text),
        column("namespace", "namespace", Kind::Text),
        column("name", "name", Kind::Text),
        column("generation", "generation", Kind::Integer),
        column("spec_digest", "specDigest", Kind::Text),
        column("document", "document", Kind::Json),
        column("status", "status", Kind::Json),
        column("source", "source", Kind::Text),
        column("observed_at", "observedAt", Kind::Time),
        column("removed_at", "removedAt", Kind::Time),
    ];
}

impl Record for JournalEntry {
    const TABLE: &'static str = "operation_journal";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("operation", "operation", Kind::Text),
        column("step", "step", Kind::Text),
        column("mark", "mark", Kind::Text),
        column("recorded_at", "at", Kind::Time),
        column("session", "session", Kind::Text),
        column("detail", "detail", Kind::Json),
    ];
}

/// How a schedule stands: a row of `scheduled_tasks`, by namespace and name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScheduledTask {
    /// Name of the schedule.
    pub task_name: String,
    /// Its namespace.
    pub namespace: String,
    /// `BACKUP` or `MAINTENANCE`.
    pub task_type: String,
    /// The cron expression.
    pub schedule: String,
    /// Its time zone.
    pub time_zone: Option<String>,
    /// Whether it rests.
    pub suspended: bool,
    /// How the last run came out; empty before the first.
    pub status: String,
    /// When the last run began.
    pub last_run_at: Option<Timestamp>,
    /// When the last successful run began.
    pub last_success_at: Option<Timestamp>,
    /// When the next run is due.
    pub next_run_at: Option<Timestamp>,
    /// Runs that did not happen.
    pub missed_runs: i64,
    /// Every time up to here has been decided on.
    pub decided_until: Option<Timestamp>,
    /// Why the last run failed.
    pub error_message: Option<String>,
    /// When the row was first made.
    pub created_at: Timestamp,
    /// When the row was last written.
    pub updated_at: Timestamp,
}

impl Record for ScheduledTask {
    const TABLE: &'static str = "scheduled_tasks";
    const COLUMNS: &'static [Column] = &[
        column("task_name", "taskName", Kind::Text),
        column("namespace", "namespace", Kind::Text),
        column("task_type", "taskType", Kind::Text),
        column("schedule", "schedule", Kind::Text),
        column("time_zone", "timeZone", Kind::Text),
        column("suspended", "suspended", Kind::Boolean),
        column("status", "status", Kind::Text),
        column("last_run_at", "lastRunAt", Kind::Time),
        column("last_success_at", "lastSuccessAt", Kind::Time),
        column("next_run_at", "nextRunAt", Kind::Time),
        column("missed_runs", "missedRuns", Kind::Integer),
        column("decided_until", "decidedUntil", Kind::Time),
        column("error_message", "errorMessage", Kind::Text),
        column("created_at", "createdAt", Kind::Time),
        column("updated_at", "updatedAt", Kind::Time),
    ];
}

/// A machine or cluster whose backups the catalog knows: a row of `hosts`, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// `host`, `docker` or `kubernetes`.
    pub kind: String,
    /// The name people use.
    pub alias: Option<String>,
    /// Free text.
    pub note: Option<String>,
    /// Version of the program there.
    pub client_version: Option<String>,
    /// Further facts.
    pub details: Value,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
    /// When it was last seen.
    pub last_seen_at: Timestamp,
}

impl Record for Host {
    const TABLE: &'static str = "hosts";
    const COLUMNS: &'static [Column] = &[
        column("name", "name", Kind::Text),
        column("kind", "kind", Kind::Text),
        column("alias", "alias", Kind::Text),
        column("note", "note", Kind::Text),
        column("client_version", "clientVersion", Kind::Text),
        column("details", "details", Kind::Json),
        column("first_seen_at", "firstSeenAt", Kind::Time),
        column("last_seen_at", "lastSeenAt", Kind::Time),
    ];
}

/// How a service stands: a row of `current_service_status`, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CurrentService {
    /// Name of the service.
    pub service_name: String,
    /// Its container.
    pub container_id: Option<String>,
    /// As in the history.
    pub status: String,
    /// As in the history.
    pub health_status: String,
    /// When it was seen so.
    pub last_updated: Timestamp,
    /// Seconds since it started.
    pub uptime_seconds: i64,
    /// How often it was started again.
    pub restart_count: i64,
}

impl From<ServiceStatus> for CurrentService {
    fn from(status: ServiceStatus) -> Self {
        Self {
            service_name: status.service_name,
            container_id: status.container_id,
            status: status.status,
            health_status: status.health_status,
            last_updated: status.recorded_at,
            uptime_seconds: status.uptime_seconds.unwrap_or_default(),
            restart_count: status.restart_count.unwrap_or_default(),
        }
    }
}

impl Record for CurrentService {
    const TABLE: &'static str = "current_service_status";
    const COLUMNS: &'static [Column] = &[
        column("service_name", "serviceName", Kind::Text),
        column("container_id", "containerId", Kind::Text),
        column("status", "status", Kind::Text),
        column("health_status", "healthStatus", Kind::Text),
        column("last_updated", "lastUpdated", Kind::Time),
        column("uptime_seconds", "uptimeSeconds", Kind::Integer),
        column("restart_count", "restartCount", Kind::Integer),
    ];
}

/// How the program stands: the only row of `app_state`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplicationState {
    /// Always 1.
    pub id: i64,
    /// `RUNNING` while a session is open, `STOPPED` after a clean end.
    pub current_state: String,
    /// The session, and when it started and stopped.
    pub state_data: SessionState,
    /// What the session ended with.
    pub last_error: Option<String>,
    /// When the row was first made.
    pub created_at: Timestamp,
    /// When the row was last written.
    pub updated_at: Timestamp,
}

/// The session that last used the catalog.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionState {
    /// Its name, as in the journal.
    pub session: Option<String>,
    /// When it began.
    pub last_start: Option<Timestamp>,
    /// When it ended cleanly; unset while it runs and after a crash.
    pub last_stop: Option<Timestamp>,
}

impl Record for ApplicationState {
    const TABLE: &'static str = "app_state";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("current_state", "currentState", Kind::Text),
        column("state_data", "stateData", Kind::Json),
        column("last_error", "lastError", Kind::Text),
        column("created_at", "createdAt", Kind::Time),
        column("updated_at", "updatedAt", Kind::Time),
    ];
}
