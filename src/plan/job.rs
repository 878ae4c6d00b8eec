//! What the planners work on: a specification with its references resolved.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::chain::ParentFacts;
use super::docker;
use super::journal::OperationId;
pub use crate::spec::ClaimFacts;
use crate::spec::{
    BackupSpec, BackupStoreSpec, ConsistencyMode, MoverSecurityContext, RestoreSpec, Target,
    UpgradeSpec,
};

/// A store by name, with its specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreBinding {
    /// Name of the BackupStore.
    pub name: String,
    /// Its specification.
    pub spec: BackupStoreSpec,
}

/// How large a source was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceSize {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One backup to take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupJob {
    /// Its identity.
    pub operation: OperationId,
    /// What is wanted.
    pub spec: BackupSpec,
    /// Where the archive goes.
    pub store: StoreBinding,
    /// The schedule that asked for it.
    pub schedule: Option<String>,
    /// The target's last verified backup, for the guards.
    pub previous: Option<SourceSize>,
    /// What the archive is to say it was taken of, where the target names the places it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Target>,
    /// Names of the archive's roots, in the order of the target's paths, where the paths do not say
    /// what they are of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root_names: Vec<String>,
    /// Where the data of a Docker target is, where that is known already: what is kept before a restore is
    /// what the restore replaces, whether or not there still are containers that mount it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<docker::Place>,
    /// Whether volumes without a name of anybody's are data too: whoever mounts them stays, and mounts them
    /// again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous_volumes: bool,
    /// What the archive is to keep besides the data: how containers and volumes were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definitions: Option<docker::Definitions>,
}

impl BackupJob {
    /// A backup that nothing is known of yet besides what is wanted.
    pub fn new(operation: OperationId, spec: BackupSpec, store: StoreBinding) -> Self {
        Self {
            operation,
            spec,
            store,
            schedule: None,
            previous: None,
            origin: None,
            root_names: Vec::new(),
            places: Vec::new(),
            anonymous_volumes: false,
            definitions: None,
        }
    }
}

/// One archive to put back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreJob {
    /// Its identity.
    pub operation: OperationId,
    /// What is wanted.
    pub spec: RestoreSpec,
    /// Where the archive is.
    pub store: StoreBinding,
    /// File name of the archive.
    pub archive: String,
    /// Where it goes.
    pub target: Target,
    /// Namespace of the Backup that made the archive, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_namespace: Option<String>,
    /// The claims that were backed up, where they are known: missing ones are made like them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimFacts>,
    /// Names of the archive's roots that are put back, in the order of the target's paths, where the
    /// paths do not say which goes where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root_names: Vec<String>,
}

/// One service to move to another version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeJob {
    /// Its identity.
    pub operation: OperationId,
    /// What is wanted.
    pub spec: UpgradeSpec,
    /// Where the backup goes; none with `backup.mode: Skip`.
    pub store: Option<StoreBinding>,
}

/// Any of them. It is written to the journal when the operation begins, so that what was begun is
/// finished or undone as it was meant then, whatever its document says by now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Job {
    /// A backup.
    Backup(BackupJob),
    /// A restore.
    Restore(RestoreJob),
    /// An upgrade.
    Upgrade(UpgradeJob),
}

impl Job {
    /// The operation's identity.
    pub fn operation(&self) -> &OperationId {
        match self {
            Self::Backup(job) => &job.operation,
            Self::Restore(job) => &job.operation,
            Self::Upgrade(job) => &job.operation,
        }
    }

    /// Gives the job its identity, once that is known.
    pub fn set_operation(&mut self, operation: OperationId) {
        match self {
            Self::Backup(job) => job.operation = operation,
            Self::Restore(job) => job.operation = operation,
            Self::Upgrade(job) => job.operation = operation,
        }
    }

    /// What it acts on.
    pub fn target(&self) -> &Target {
        match self {
            Self::Backup(job) => &job.spec.target,
            Self::Restore(job) => &job.target,
            Self::Upgrade(job) => &job.spec.target,
        }
    }
}

/// What a runtime saw; the only way the world comes into a decision.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// What the store holds of this backup.
    pub archive: ArchivePresence,
    /// What the live roots are.
    pub replacement: ReplacementState,
    /// Whether a step that was interrupted can be performed again and is picked up where it is:
    /// somebody else carries it out, or it only brings about a state. Then a dead process is no
    /// reason to undo anything.
    pub resumable: bool,
}

/// What a store holds of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ArchivePresence {
    /// Nothing.
    #[default]
    Absent,
    /// A file without its manifest.
    Unfinished,
    /// The archive and its manifest.
    Sealed,
}

/// What the live roots of a restore are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReplacementState {
    /// All old.
    #[default]
    Old,
    /// All new.
    New,
    /// Some old, some new.
    Mixed,
}

/// What the archive step found and wrote.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveFacts {
    /// File name of the archive.
    pub name: String,
    /// The service's version, where known.
    pub service_version: Option<String>,
    /// Entries of any type.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of the regular files.
    pub source_bytes: u64,
    /// Bytes of the archive.
    pub size_bytes: u64,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// BLAKE3 of the tar stream.
    pub content_digest: String,
    /// The archive that it continues; none where it holds everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentFacts>,
    /// Warnings, at most the first hundred.
    pub warnings: Vec<String>,
    /// How many there were.
    pub warning_count: u64,
    /// When reading began.
    pub started_at: Option<Timestamp>,
    /// Whatever else the runtime needs again to seal; the planner does not look into it.
    pub runtime: serde_json::Value,
}

/// What sealing left.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SealFacts {
    /// Where the archive lies.
    pub location: String,
}

/// What verifying found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VerifyFacts {
    /// When it was proved; nothing after a quick check, which proves nothing about the content.
    pub verified_at: Option<Timestamp>,
}

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightFacts {
    /// Bytes the operation is expected to move.
    pub estimated_bytes: u64,
    /// Entries it is expected to move.
    pub estimated_entries: u64,
    /// Whether there is anything live to lose.
    pub live_data: bool,
    /// The live paths of a host target, for the safety backup.
    pub live_paths: Vec<String>,
    /// Whether every path is live, so that nothing can come to it that nobody has looked for.
    pub all_live: bool,
    /// The running version, for upgrades.
    pub from_version: Option<String>,
    /// Namespace of the Backup that made the archive, as its manifest says, for restores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_namespace: Option<String>,
    /// The claims of a target in a cluster, in the order of the archive's roots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimFacts>,
    /// The data of a Docker target, in the order of the archive's roots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<docker::Place>,
    /// How the containers and volumes of a Docker target were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definitions: Option<docker::Definitions>,
    /// What the rollback of an Upgrade does not put back although the service writes it, in a few words each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_put_back: Vec<String>,
    /// As whom the mover of a cluster reads and writes, where it may not be root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mover: Option<MoverSecurityContext>,
    /// The archive that an incremental one continues; none where everything is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentFacts>,
    /// What was noticed.
    pub warnings: Vec<String>,
    /// Each check: name, outcome (`PASS`, `WARNING`), what was found.
    pub checks: Vec<(String, String, String)>,
}

/// What there is to lose, once the service stands still.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveFacts {
    /// The live paths.
    pub live_paths: Vec<String>,
}

/// What hooks left.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HookFacts {
    /// Failures of hooks with `onError: Continue`.
    pub warnings: Vec<String>,
}

/// What extracting and swapping moved.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtractFacts {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was noticed.
    pub warnings: Vec<String>,
}

/// What a child operation left.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChildFacts {
    /// Name of the child object.
    pub name: String,
    /// Whether it left a verified archive.
    pub verified: bool,
}

/// Whether this target is held still by Eider itself; a host's services are held still by hooks.
pub(super) fn quiesced(target: &Target, mode: ConsistencyMode) -> bool {
    target.host.is_none() && mode != ConsistencyMode::Live
}
