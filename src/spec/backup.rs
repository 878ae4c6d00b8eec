//! `Backup`: one archive of one target, taken once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hooks::Hooks;
use super::quantity::{ByteSize, DurationText};
use super::reference::NameReference;
use super::target::{Consistency, Target};

/// What to back up, where to, and what counts as success.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eider.dev",
    version = "v1alpha1",
    kind = "Backup",
    namespaced,
    status = "BackupStatus",
    shortname = "ebk",
    category = "eider",
    doc = "One archive of one target, taken once.",
    derive = "PartialEq",
    cel,
    // On the object, not on the spec type: a schedule's template holds the same type and may change.
    validation = Rule::new("self.spec == oldSelf.spec")
        .message("a Backup is immutable; create a new one").field_path(".spec"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.archive.size"
    ),
    printcolumn(
        name = "Files",
        type_ = "integer",
        format = "int64",
        json_path = ".status.archive.files",
        priority = 1
    ),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Verified')].status"
    ),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.parentRef) || self.type == 'Incremental'")
        .message("parentRef is for type Incremental").field_path(".parentRef"),
    validation = Rule::new("!has(self.maxChain) || self.type == 'Incremental'")
        .message("maxChain is for type Incremental").field_path(".maxChain"),
    validation = Rule::new("!has(self.target.workload) || self.target.workload.kind != 'DaemonSet' || self.consistency.mode == 'Live'")
        .message("a DaemonSet cannot be stopped; set consistency.mode to Live").field_path(".consistency.mode"),
    validation = Rule::new("self.archive.format != 'tar' || !has(self.archive.level)")
        .message("format tar is not compressed and takes no level").field_path(".archive.level"),
    validation = Rule::new("self.archive.format != 'tar.gz' || !has(self.archive.level) || self.archive.level <= 12")
        .message("tar.gz takes a level from 1 to 12").field_path(".archive.level")
)]
pub struct BackupSpec {
    /// What to back up.
    pub target: Target,
    /// The BackupStore, in the same namespace, that keeps the archive.
    pub store_ref: NameReference,
    /// Whether everything, only changes, or only data without configuration is kept.
    #[serde(default, rename = "type")]
    pub backup_type: BackupType,
    /// The parent of an incremental; default the newest verified backup of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<NameReference>,
    /// Archives that a restore of an incremental may need, the full one and itself included; then the next
    /// is a full one. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub max_chain: Option<u8>,
    /// Version of the service, for the archive's name; default read from the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"))]
    pub service_version: Option<String>,
    /// Free text kept with the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Patterns in gitignore syntax, relative to each root, that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub exclude: Vec<String>,
    /// How the service is held still.
    #[serde(default)]
    pub consistency: Consistency,
    /// Commands and requests before and after.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Format and level of the archive.
    #[serde(default)]
    pub archive: ArchiveOptions,
    /// How the finished archive is checked.
    #[serde(default)]
    pub verify: VerifyMode,
    /// Whether paths that cannot be read are warnings instead of a failure.
    #[serde(default)]
    pub allow_unreadable: bool,
    /// Whether other file systems mounted under a root are read too.
    #[serde(default)]
    pub cross_file_systems: bool,
    /// Limits that turn a suspicious success into a failure.
    #[serde(default)]
    pub guards: Guards,
    /// When retention may remove the archive at the earliest, counted from completion; unset means never by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<DurationText>,
    /// What happens to the archive when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Why the backup is taken; part of the archive's name. Set by Eider for its own backups.
    #[serde(default, skip_serializing_if = "BackupTrigger::is_manual")]
    pub trigger: BackupTrigger,
}

/// How much a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum BackupType {
    /// Everything.
    #[default]
    Full,
    /// What changed against the parent.
    Incremental,
    /// Volumes and directories without configuration.
    DataOnly,
}

/// Why a backup is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupTrigger {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// A schedule was due.
    Scheduled,
    /// An upgrade is about to change the target.
    PreUpgrade,
    /// A restore is about to replace the target.
    PreRestore,
}

impl BackupTrigger {
    /// The word in the archive's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
            Self::PreUpgrade => "pre-upgrade",
            Self::PreRestore => "pre-restore",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_manual(&self) -> bool {
        *self == Self::Manual
    }
}

/// Format and compression level.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveOptions {
    /// The archive's format; any tar reads each of them.
    #[serde(default)]
    pub format: ArchiveFormat,
    /// 1 to 12 for tar.gz (default 6), 1 to 19 for tar.zst (default 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 19))]
    pub level: Option<u8>,
    /// Threads that compress; as many as there are cores if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub threads: Option<u8>,
    /// The most bytes of files that are read in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_limit: Option<ByteSize>,
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ArchiveFormat {
    /// tar in gzip members.
    #[default]
    #[serde(rename = "tar.gz")]
    TarGz,
    /// tar in zstd frames.
    #[serde(rename = "tar.zst")]
    TarZst,
    /// Plain tar.
    #[serde(rename = "tar")]
    Tar,
}

impl ArchiveFormat {
    /// The file name extension without its leading dot, which is also the name in documents.
    pub fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::TarZst => "tar.zst",
            Self::Tar => "tar",
        }
    }
}

/// How a finished archive is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum VerifyMode {
    /// Read back every byte.
    #[default]
    Full,
    /// Check the manifest, size and structure only.
    Quick,
}

/// Limits that turn a suspicious success into a failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Guards {
    /// Percent of files or bytes that may be gone against the target's last verified backup; 100 turns the guard off.
    #[schemars(range(max = 100))]
    pub max_shrink: u8,
    /// Whether a source without a single file is accepted although the last verified backup held some.
    pub allow_empty: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { max_shrink: 50, allow_empty: false }
    }
}

/// What happens to the archive when its Backup object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is removed.
    Delete,
}

/// How a Backup is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// Where the operation stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
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
    /// How long it took from its first step to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How long the service was held still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<String>,
    /// The archive, once it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// How far the data has been read, at most every 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// What was noticed but did not fail the backup, at most 20 lines; the archive has all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The operation's journal while it is carried out in a cluster, so that another process can go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalLine>,
    /// Conditions `Succeeded`, `Verified`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The phases of a Backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum BackupPhase {
    /// Accepted.
    #[default]
    Pending,
    /// Reading and writing.
    Running,
    /// Reading back.
    Verifying,
    /// Done and, unless `verify: Quick`, proved.
    Succeeded,
    /// Not done; put back as it was.
    Failed,
}

/// The archive of a Backup.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// File name.
    pub name: String,
    /// Where it lies.
    pub location: String,
    /// `tar.gz`, `tar.zst` or `tar`.
    pub format: ArchiveFormat,
    /// Bytes of the archive.
    pub size_bytes: i64,
    /// The same for people, as in `482.1 MiB`.
    #[serde(default)]
    pub size: String,
    /// Bytes of the files in it.
    pub source_bytes: i64,
    /// Number of regular files in it.
    pub files: i64,
    /// SHA-256 of the archive file, in hexadecimal.
    pub sha256: String,
    /// Version of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_version: Option<String>,
    /// Archive name of the parent of an incremental.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When retention may remove it by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// The claims it was taken of, in the order of its roots: a restore makes missing ones like them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimFacts>,
}

/// A claim, as far as it takes to make one like it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimFacts {
    /// Its name.
    pub name: String,
    /// The StorageClass, where it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Requested size, as Kubernetes writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Access modes, as Kubernetes writes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_modes: Vec<String>,
}

/// One line of an operation's journal, as an object in a cluster keeps it while it is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalLine {
    /// Name of the step.
    pub step: String,
    /// `Intent`, `Done` or `Failed`.
    pub mark: String,
    /// When it was written, RFC 3339 with all its digits.
    pub at: String,
    /// The process that wrote it.
    pub session: String,
    /// Facts as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many earlier lines like this one a long journal leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u32>,
}

/// How far an operation has come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// Entries done.
    pub files: i64,
    /// Bytes done.
    pub bytes: i64,
    /// Bytes expected; 0 when unknown.
    pub total_bytes: i64,
}
