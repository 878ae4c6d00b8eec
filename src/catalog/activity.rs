//! The records of what was done and seen: actions, checks, metrics, service status, notifications.
//!
//! All of them are histories: rows are added and, when they are old enough, removed, never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row::{Column, Kind, Record, column};

/// A command, or a reconcile that changed something: a row of `user_actions`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserAction {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// `BACKUP`, `RESTORE`, `UPGRADE`, `CONFIG_CHANGE` ...
    pub action_type: String,
    /// One sentence.
    pub action_description: String,
    /// The parameters, without secrets.
    pub action_params: Value,
    /// `SUCCESS`, `FAILED` or `CANCELLED`.
    pub status: String,
    /// What came of it.
    pub result_message: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Seconds it took.
    pub duration_seconds: Option<f64>,
    /// Who: a user name, or `operator`.
    pub actor: String,
    /// The process.
    pub session_id: Option<String>,
    /// Version of the program.
    pub client_version: Option<String>,
    /// Operating system and architecture.
    pub platform_info: Option<String>,
}

impl Record for UserAction {
    const TABLE: &'static str = "user_actions";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("action_type", "actionType", Kind::Text),
        column("action_description", "actionDescription", Kind::Text),
        column("action_params", "actionParams", Kind::Json),
        column("status", "status", Kind::Text),
        column("result_message", "resultMessage", Kind::Text),
        column("started_at", "startedAt", Kind::Time),
        column("completed_at", "completedAt", Kind::Time),
        column("duration_seconds", "durationSeconds", Kind::Real),
        column("actor", "actor", Kind::Text),
        column("session_id", "sessionId", Kind::Text),
        column("client_version", "clientVersion", Kind::Text),
        column("platform_info", "platformInfo", Kind::Text),
    ];
}

/// Which rows of a history are wanted; newest first. Unset fields do not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryFilter {
    /// Action type, check type, metric name, service name or channel, by table.
    pub name: Option<String>,
    /// Only rows of this time or later.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<u32>,
}

/// The result of a preflight check: a row of `system_checks`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemCheck {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// `STORAGE_SPACE`, `DOCKER_STATUS`, `NETWORK`, `PERMISSIONS` ...
    pub check_type: String,
    /// What was checked.
    pub check_name: String,
    /// Operating system and architecture.
    pub platform: Option<String>,
    /// What is needed.
    pub required_value: Option<String>,
    /// What was found.
    pub actual_value: Option<String>,
    /// `PASS`, `FAIL`, `WARNING` or `SKIPPED`.
    pub status: String,
    /// One sentence.
    pub message: Option<String>,
    /// When.
    pub checked_at: Timestamp,
}

impl Record for SystemCheck {
    const TABLE: &'static str = "system_checks";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("check_type", "checkType", Kind::Text),
        column("check_name", "checkName", Kind::Text),
        column("platform", "platform", Kind::Text),
        column("required_value", "requiredValue", Kind::Text),
        column("actual_value", "actualValue", Kind::Text),
        column("status", "status", Kind::Text),
        column("message", "message", Kind::Text),
        column("checked_at", "checkedAt", Kind::Time),
    ];
}

/// A measured value of a run: a row of `performance_metrics`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PerformanceMetric {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// Name of the metric.
    pub metric_name: String,
    /// The value, finite.
    pub metric_value: f64,
    /// Unit of the value.
    pub metric_unit: Option<String>,
    /// What it is about.
    pub tags: Value,
    /// When.
    pub recorded_at: Timestamp,
}

impl Record for PerformanceMetric {
    const TABLE: &'static str = "performance_metrics";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("metric_name", "metricName", Kind::Text),
        column("metric_value", "metricValue", Kind::Real),
        column("metric_unit", "metricUnit", Kind::Text),
        column("tags", "tags", Kind::Json),
        column("recorded_at", "recordedAt", Kind::Time),
    ];
}

/// The state of a service at a time: a row of `service_status_history`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// Name of the service.
    pub service_name: String,
    /// Its container.
    pub container_id: Option<String>,
    /// `running`, `stopped`, `error`, `starting` or `stopping`.
    pub status: String,
    /// Percent of one processor.
    pub cpu_usage: Option<f64>,
    /// Bytes.
    pub memory_usage: Option<i64>,
    /// Bytes received and sent.
    pub network_io: Value,
    /// `healthy`, `unhealthy` or `unknown`.
    pub health_status: String,
    /// What is wrong.
    pub error_message: Option<String>,
    /// Seconds since it started.
    pub uptime_seconds: Option<i64>,
    /// How often it was started again.
    pub restart_count: Option<i64>,
    /// When.
    pub recorded_at: Timestamp,
}

impl Record for ServiceStatus {
    const TABLE: &'static str = "service_status_history";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("service_name", "serviceName", Kind::Text),
        column("container_id", "containerId", Kind::Text),
        column("status", "status", Kind::Text),
        column("cpu_usage", "cpuUsage", Kind::Real),
        column("memory_usage", "memoryUsage", Kind::Integer),
        column("network_io", "networkIo", Kind::Json),
        column("health_status", "healthStatus", Kind::Text),
        column("error_message", "errorMessage", Kind::Text),
        column("uptime_seconds", "uptimeSeconds", Kind::Integer),
        column("restart_count", "restartCount", Kind::Integer),
        column("recorded_at", "recordedAt", Kind::Time),
    ];
}

/// A message that was sent, or could not be: a row of `notifications`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Notification {
    /// Number of the row; 0 before it is inserted.
    pub id: i64,
    /// `webhook`, `ntfy`, `smtp` ...
    pub channel: String,
    /// To whom, without secrets.
    pub recipient: String,
    /// The headline.
    pub subject: String,
    /// The text.
    pub body: Option<String>,
    /// What it is about: `kind/namespace/name`.
    pub object: Option<String>,
    /// Why it was sent.
    pub reason: Option<String>,
    /// `SENT` or `FAILED`.
    pub status: String,
    /// Why it could not be sent.
    pub error_message: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was last tried.
    pub sent_at: Timestamp,
}

impl Record for Notification {
    const TABLE: &'static str = "notifications";
    const COLUMNS: &'static [Column] = &[
        column("id", "id", Kind::Integer),
        column("channel", "channel", Kind::Text),
        column("recipient", "recipient", Kind::Text),
        column("subject", "subject", Kind::Text),
        column("body", "body", Kind::Text),
        column("object", "object", Kind::Text),
        column("reason", "reason", Kind::Text),
        column("status", "status", Kind::Text),
        column("error_message", "errorMessage", Kind::Text),
        column("attempts", "attempts", Kind::Integer),
        column("sent_at", "sentAt", Kind::Time),
    ];
}
