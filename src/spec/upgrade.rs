//! `Upgrade`: a service moved to a new version, or back, in one transaction.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::JournalLine;
use super::hooks::Hooks;
use super::quantity::DurationText;
use super::reference::{NameReference, default_true};
use super::target::{Consistency, Target};

/// What becomes what, and when it counts as done.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eider.dev",
    version = "v1alpha1",
    kind = "Upgrade",
    namespaced,
    status = "UpgradeStatus",
    shortname = "eup",
    category = "eider",
    doc = "A service moved to a new version, or back, in one transaction.",
    derive = "PartialEq",
    cel,
    // On the object, not on the spec type: a schedule's template holds the same type and may change.
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("an Upgrade is immutable; create a new one").field_path(".spec"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "From", type_ = "string", json_path = ".status.fromVersion"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.toVersion"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backupName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // `package` is a reserved word of CEL and has to be escaped.
    validation = Rule::new("(has(self.images) && self.images.size() > 0) || has(self.__package__)").message("an upgrade needs images, a package or both"),
    validation = Rule::new("!has(self.target.host)").message("host paths have no version to upgrade").field_path(".target"),
    validation = Rule::new("!has(self.target.volumeClaims)").message("claims have no version to upgrade").field_path(".target"),
    validation = Rule::new("self.backup.mode == 'Skip' || has(self.backup.storeRef)")
        .message("backup.storeRef is required unless backup.mode is Skip").field_path(".backup.storeRef"),
    validation = Rule::new("!has(self.imageArchives) || (has(self.target.docker) && has(self.images))")
        .message("imageArchives hold images for a Docker host; nodes of a cluster take theirs from a registry").field_path(".imageArchives"),
    validation = Rule::new("!has(self.imageArchives) || self.imageArchives.all(p, p.startsWith('/'))")
        .message("paths must be absolute").field_path(".imageArchives"),
    validation = Rule::new("!has(self.dataFrom) || self.backup.mode == 'Required'")
        .message("dataFrom replaces the data, which needs a backup of it").field_path(".dataFrom"),
    validation = Rule::new("self.backup.mode == 'Required' || !self.rollback.data || self.rollback.mode == 'Never'")
        .message("without a backup the data cannot be rolled back; set rollback.data to false").field_path(".rollback.data")
)]
pub struct UpgradeSpec {
    /// The service.
    pub target: Target,
    /// The version it is to have.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"))]
    pub to_version: String,
    /// What kind of change it is; kept with the record.
    #[serde(default, rename = "type")]
    pub upgrade_type: UpgradeType,
    /// Container or service to image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub images: Option<BTreeMap<String, String>>,
    /// Files as `docker save` writes them (tar, gzip or zstd), which images of `images` are loaded from; a
    /// file that holds none of them is refused. For Docker hosts; absolute paths where Eider runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 4096)))]
    pub image_archives: Option<Vec<String>>,
    /// Files and images to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageReference>,
    /// The backup that is taken after the stop and before the change.
    pub backup: UpgradeBackup,
    /// The Backup whose data goes with the version, for going back; put in place before the new
    /// containers start. For Docker hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_from: Option<NameReference>,
    /// How the service is held still.
    #[serde(default)]
    pub consistency: Consistency,
    /// Commands and requests before and after.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// When the new version counts as good.
    #[serde(default)]
    pub health_gate: HealthGate,
    /// What happens when it does not become good.
    #[serde(default)]
    pub rollback: RollbackPolicy,
    /// Whether the same or an older version is accepted.
    #[serde(default)]
    pub force: bool,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Time>,
}

/// What kind of change an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeType {
    /// Everything.
    #[default]
    Full,
    /// Only what changed.
    Incremental,
    /// One fix.
    Hotfix,
}

/// A package of files and images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageReference {
    /// Where its manifest lies.
    #[serde(rename = "manifestURL")]
    #[schemars(length(min = 8, max = 2048))]
    pub manifest_url: String,
}

/// The backup of an upgrade.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeBackup {
    /// The store; required unless `mode` is `Skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<NameReference>,
    /// Whether a backup is taken.
    #[serde(default)]
    pub mode: UpgradeBackupMode,
}

/// Whether an upgrade takes a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeBackupMode {
    /// A verified backup is taken, or the upgrade does not happen.
    #[default]
    Required,
    /// None is taken; the data cannot be rolled back.
    Skip,
}

/// When the new version counts as good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthGate {
    /// How long it may take to become healthy.
    pub timeout: DurationText,
    /// How long it has to stay healthy.
    pub soak: DurationText,
    /// Requests that have to succeed, besides the containers' own health checks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub probes: Vec<Probe>,
}

impl Default for HealthGate {
    fn default() -> Self {
        Self {
            timeout: DurationText::seconds(300),
            soak: DurationText::seconds(30),
            probes: Vec::new(),
        }
    }
}

/// One probe of a health gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The request.
    pub http: HttpProbe,
}

/// A `GET` that has to answer with a status from 200 to 399.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.url.startsWith('http://') || self.url.startsWith('https://')")
        .message("url must start with http:// or https://").field_path(".url")
)]
pub struct HttpProbe {
    /// What to ask for; `http://` or `https://`.
    #[schemars(length(min = 8, max = 2048))]
    pub url: String,
    /// Headers that are no secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// File whose content is sent as the `Authorization` header (host, Docker and sidecar).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_file: Option<String>,
}

/// What happens when an upgrade fails after it changed something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RollbackPolicy {
    /// Whether it is undone by itself.
    pub mode: RollbackMode,
    /// Whether the data is put back too.
    #[serde(default = "default_true")]
    pub data: bool,
}

impl Default for RollbackPolicy {
    fn default() -> Self {
        Self { mode: RollbackMode::Auto, data: true }
    }
}

/// Whether a failed upgrade is undone by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum RollbackMode {
    /// At once.
    #[default]
    Auto,
    /// When somebody asks for it; everything for it is kept.
    Manual,
    /// Not at all.
    Never,
}

/// How an Upgrade is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// Where the operation stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<UpgradePhase>,
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
    /// The version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
    /// The version asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_version: Option<String>,
    /// The Backup taken before the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// Why it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_reason: Option<String>,
    /// How long the service was held still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<String>,
    /// What people should know: who scales or manages the workload, who else works on its data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Every step with its outcome.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// The operation's journal while it is carried out in a cluster, so that another process can go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalLine>,
    /// Conditions `Succeeded`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The phases of an Upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UpgradePhase {
    /// Accepted.
    #[default]
    Pending,
    /// Checking everything that can be checked before any downtime.
    Preflight,
    /// Stopping and backing up.
    BackingUp,
    /// Fetching images and packages.
    Downloading,
    /// Changing the service.
    Applying,
    /// Waiting for health.
    Verifying,
    /// Done.
    Succeeded,
    /// Undoing.
    RollingBack,
    /// Undone; the old version runs on the old data.
    RolledBack,
    /// Not done.
    Failed,
}

/// One step of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Name of the step.
    pub name: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// `Running`, `Done` or `Failed`.
    pub outcome: String,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
