//! `Restore`: an archive put back, once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::JournalLine;
use super::backup::ProgressStatus;
use super::hooks::Hooks;
use super::quantity::DurationText;
use super::reference::{NameReference, default_true};
use super::target::{Consistency, Target};

/// What to put back, from where, and how.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eider.dev",
    version = "v1alpha1",
    kind = "Restore",
    namespaced,
    status = "RestoreStatus",
    shortname = "ers",
    category = "eider",
    doc = "An archive put back, once.",
    derive = "PartialEq",
    cel,
    // On the object, not on the spec type: a schedule's template holds the same type and may change.
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("a Restore is immutable; create a new one").field_path(".spec"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Archive", type_ = "string", json_path = ".status.archiveName"),
    printcolumn(name = "Files", type_ = "integer", format = "int64", json_path = ".status.files"),
    printcolumn(name = "Downtime", type_ = "string", json_path = ".status.downtime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.preserve) || self.mode == 'Replace'")
        .message("preserve is for mode Replace; Merge leaves everything else as it is").field_path(".preserve"),
    validation = Rule::new("!has(self.target) || !has(self.target.workload) || self.target.workload.kind != 'DaemonSet' || self.consistency.mode == 'Live'")
        .message("a DaemonSet cannot be stopped; set consistency.mode to Live").field_path(".consistency.mode"),
    validation = Rule::new("!has(self.recreateContainers) || !self.recreateContainers || (self.start && self.consistency.mode == 'Stop')")
        .message("recreateContainers needs start and consistency.mode Stop").field_path(".recreateContainers"),
    validation = Rule::new("!has(self.recreateContainers) || !self.recreateContainers || !has(self.target) || has(self.target.docker)")
        .message("only containers of a Docker host can be made again").field_path(".recreateContainers")
)]
pub struct RestoreSpec {
    /// The archive.
    pub from: RestoreSource,
    /// Where to; default where the backup was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Patterns in gitignore syntax on the names in the archive; default everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub include: Vec<String>,
    /// Patterns in gitignore syntax, relative to each root, that stay as they are now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub preserve: Vec<String>,
    /// Whether the target becomes the archive or files are laid over it.
    #[serde(default)]
    pub mode: RestoreMode,
    /// Whether what is there is backed up and verified first.
    #[serde(default = "default_true")]
    pub safety_backup: bool,
    /// How the service is held still.
    #[serde(default)]
    pub consistency: Consistency,
    /// Commands and requests before and after.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Whether services are started afterwards.
    #[serde(default = "default_true")]
    pub start: bool,
    /// How long services may take afterwards until they are healthy; past it the data is put back.
    #[serde(default = "default_health_timeout")]
    pub health_timeout: DurationText,
    /// Whether containers that are gone are made again from what the archive keeps of them, with their
    /// networks; for Docker hosts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recreate_containers: bool,
}

/// As for an Upgrade.
fn default_health_timeout() -> DurationText {
    super::upgrade::HealthGate::default().timeout
}

/// Where the archive comes from: exactly one of `backupRef`, `archive` and `latest`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.backupRef), has(self.archive), has(self.latest)].filter(x, x).size() == 1")
        .message("from needs exactly one of backupRef, archive and latest")
)]
pub struct RestoreSource {
    /// A Backup by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<NameReference>,
    /// An archive in a store by file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReference>,
    /// The newest verified backup of a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestReference>,
}

/// An archive in a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveReference {
    /// The store.
    pub store_ref: NameReference,
    /// File name of the archive.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^/]+$"))]
    pub name: String,
}

/// The newest verified backup of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatestReference {
    /// The schedule.
    pub schedule_ref: NameReference,
    /// Only backups created before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Time>,
}

/// What a restore does with files that are not in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum RestoreMode {
    /// The target becomes the archive.
    #[default]
    Replace,
    /// Files are laid over what is there.
    Merge,
}

/// How a Restore is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// Where the operation stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// The generation this status speaks of; -1 before Eider has seen the object.
    #[serde(default = "super::reference::unobserved")]
    pub observed_generation: i64,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When a terminal state was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The target in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The archive that is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_name: Option<String>,
    /// Name of the Backup of what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_backup_name: Option<String>,
    /// Regular files restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<i64>,
    /// Bytes restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// How long the service was held still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<String>,
    /// How far it has come, at most every 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// What was noticed but did not fail the restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The operation's journal while it is carried out in a cluster, so that another process can go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalLine>,
    /// Conditions `Succeeded`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The phases of a Restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum RestorePhase {
    /// Accepted.
    #[default]
    Pending,
    /// Checking the archive.
    Verifying,
    /// Unpacking beside the live data.
    Extracting,
    /// Backing up what is there.
    BackingUp,
    /// Putting the new tree in place.
    Swapping,
    /// Undoing.
    RollingBack,
    /// Done.
    Succeeded,
    /// Not done; put back as it was.
    Failed,
}
