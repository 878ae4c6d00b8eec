//! `BackupStore`: where archives are kept.

#![expect(
    clippy::duplicated_attributes,
    reason = "printcolumns share arguments; the lint misfires"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::ByteSize;
use super::reference::SecretReference;

/// Where archives are kept: exactly one of `local`, `volumeClaim` and `s3`.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eider.dev",
    version = "v1alpha1",
    kind = "BackupStore",
    namespaced,
    status = "BackupStoreStatus",
    shortname = "est",
    category = "eider",
    doc = "Where archives are kept.",
    derive = "PartialEq",
    cel,
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Backups",
        type_ = "integer",
        format = "int64",
        json_path = ".status.backups"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.local), has(self.volumeClaim), has(self.s3)].filter(x, x).size() == 1")
        .message("a store needs exactly one of local, volumeClaim and s3")
)]
pub struct BackupStoreSpec {
    /// A directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalStore>,
    /// A Kubernetes claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<VolumeClaimStore>,
    /// A bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// Encryption of what is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// A backup that would leave less free than this fails in preflight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free: Option<ByteSize>,
}

/// A directory on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.path.startsWith('/')").message("path must be absolute").field_path(".path")
)]
pub struct LocalStore {
    /// Absolute path; created when it is not there.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// A claim in the same namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.path) || (!self.path.startsWith('/') && !self.path.contains('..'))")
        .message("path is relative to the claim and may not leave it").field_path(".path"),
    validation = Rule::new("!has(self.__namespace__)")
        .message("a store's claim is one of its own namespace: pods mount no other")
)]
pub struct VolumeClaimStore {
    /// Name of the claim.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Refused: pods mount the claims of their own namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Directory within it; default its top.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub path: String,
}

/// A bucket that speaks S3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.credentialsSecretRef) != has(self.credentialsFile)")
        .message("s3 needs exactly one of credentialsSecretRef and credentialsFile")
)]
pub struct S3Store {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// Prefix of every key.
    #[serde(default)]
    pub prefix: String,
    /// Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of the service where it is not the region's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Where the credentials are, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
    /// Where the credentials are, elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<String>,
}

/// Encryption of what is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// age recipients.
    #[schemars(length(min = 1, max = 32), inner(regex(pattern = r"^age1[0-9a-z]+$")))]
    pub recipients: Vec<String>,
}

/// As whom a mover reads and writes, where it may not be root; as in a pod's `securityContext`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoverSecurityContext {
    /// The user.
    pub run_as_user: i64,
    /// The group; the number of the user when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<i64>,
    /// The group of the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
}

/// How a BackupStore is doing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStoreStatus {
    /// The generation this status speaks of; -1 before Eider has seen the object.
    #[serde(default = "super::reference::unobserved")]
    pub observed_generation: i64,
    /// Archives with a manifest.
    #[serde(default)]
    pub backups: i64,
    /// Their bytes.
    #[serde(default)]
    pub bytes: i64,
    /// Bytes free where they lie.
    #[serde(default)]
    pub free_bytes: i64,
    /// The bytes of the archives for people, as in `482.1 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The free bytes for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<String>,
    /// When it was last looked into, by reading every manifest; in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_inspected_at: Option<Time>,
    /// The value of the annotation `eider.dev/reconcile-at` that the last look answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// As whom the last backup was written, in a cluster: whoever looks into the store or prunes it
    /// runs as the same user, or could not read what belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mover_security_context: Option<MoverSecurityContext>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Conditions `Ready`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
