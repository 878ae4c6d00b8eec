//! `BackupSchedule`: backups by cron, with retention.

#![expect(
    clippy::duplicated_attributes,
    reason = "printcolumns share arguments; the lint misfires"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::BackupSpec;
use super::quantity::DurationText;

/// When to back up what, and what to keep.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eider.dev",
    version = "v1alpha1",
    kind = "BackupSchedule",
    namespaced,
    status = "BackupScheduleStatus",
    shortname = "ebs",
    category = "eider",
    doc = "Backups by cron, with retention.",
    derive = "PartialEq",
    cel,
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last Success", type_ = "date", json_path = ".status.lastSuccessAt"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRunAt"),
    printcolumn(
        name = "Overdue",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Overdue')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.template.spec.parentRef)")
        .message("a schedule picks the parent itself").field_path(".template.spec.parentRef")
)]
pub struct BackupScheduleSpec {
    /// Five-field cron, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schemars(length(min = 6, max = 128))]
    pub schedule: String,
    /// IANA time zone of the schedule.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Each run is put off by a fixed part of this, derived from the object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<DurationText>,
    /// Whether runs are held back.
    #[serde(default)]
    pub suspend: bool,
    /// What happens when a run is due while one is running.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// A run missed by more than this is skipped and counted.
    #[serde(default = "default_starting_deadline")]
    pub starting_deadline: DurationText,
    /// When the last success is older than this, the schedule is overdue; default twice the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_after: Option<DurationText>,
    /// What is kept; empty keeps everything.
    #[serde(default)]
    pub retention: Retention,
    /// The backups it makes.
    pub template: BackupTemplate,
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}

fn default_starting_deadline() -> DurationText {
    DurationText::seconds(3600)
}

/// What happens when a run is due while one is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// The new run is skipped and counted.
    #[default]
    Forbid,
    /// The running one is cancelled.
    Replace,
    /// Both run.
    Allow,
}

/// What is kept. Rules add up: a backup that any rule keeps is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// The newest ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_last: Option<u32>,
    /// The newest of each hour that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_hourly: Option<u32>,
    /// The newest of each day that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_daily: Option<u32>,
    /// The newest of each ISO week that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_weekly: Option<u32>,
    /// The newest of each month that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_monthly: Option<u32>,
    /// The newest of each year that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_yearly: Option<u32>,
    /// All that are younger than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<DurationText>,
    /// Records of failed backups, the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub keep_failed: Option<u32>,
}

/// The backups of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTemplate {
    /// As in a Backup.
    pub spec: BackupSpec,
}

/// How a BackupSchedule is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupScheduleStatus {
    /// The generation this status speaks of; -1 before Eider has seen the object.
    #[serde(default = "super::reference::unobserved")]
    pub observed_generation: i64,
    /// The last time a run was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_at: Option<Time>,
    /// The last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<Time>,
    /// The next run, jitter included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<Time>,
    /// Name of the newest Backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// Failures since the last success.
    #[serde(default)]
    pub consecutive_failures: i64,
    /// Runs that were skipped.
    #[serde(default)]
    pub missed_runs: i64,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Conditions `Ready`, `Overdue`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
