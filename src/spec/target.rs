//! What an operation acts on, and how it is held still meanwhile.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::DurationText;

/// What is backed up, restored or upgraded: exactly one of `host`, `docker`, `workload` and `volumeClaims`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.host), has(self.docker), has(self.workload), has(self.volumeClaims)].filter(x, x).size() == 1")
        .message("target needs exactly one of host, docker, workload and volumeClaims")
)]
pub struct Target {
    /// Directories that this process can see (plain host, sidecar).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostTarget>,
    /// Containers, Compose projects or volumes of a Docker host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerTarget>,
    /// A Kubernetes workload and the claims its pods mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadTarget>,
    /// Kubernetes claims that belong to no workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub volume_claims: Option<Vec<String>>,
}

/// Directories and files on the machine that Eider runs on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.paths.all(p, p.startsWith('/'))").message("paths must be absolute").field_path(".paths")
)]
pub struct HostTarget {
    /// Absolute paths of directories or files; none may lie inside another.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 4096)))]
    pub paths: Vec<String>,
}

/// A selection of containers and volumes on a Docker host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.project) || has(self.containers) || has(self.volumes)")
        .message("docker needs a project, containers or volumes"),
    validation = Rule::new("!(has(self.project) && has(self.containers))")
        .message("project and containers exclude each other"),
    validation = Rule::new("!has(self.services) || has(self.project)")
        .message("services needs a project").field_path(".services")
)]
pub struct DockerTarget {
    /// Name of a Compose project (label `com.docker.compose.project`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub project: Option<String>,
    /// Some services of the project; default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub services: Option<Vec<String>>,
    /// Containers by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub containers: Option<Vec<String>>,
    /// Only these volumes; default every named volume and bind mount of the selection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 253)))]
    pub volumes: Option<Vec<String>>,
}

/// A Kubernetes workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadTarget {
    /// The kind of the workload.
    pub kind: WorkloadKind,
    /// The name of the workload, in the namespace of this object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Only these claims; default every claim that its pods mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub volume_claims: Option<Vec<String>>,
}

/// The workload kinds that Eider can hold still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet; it cannot be scaled, so only `Live` applies.
    DaemonSet,
}

/// How a service is held still while its data is read or replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Consistency {
    /// Stop and start again, pause, or read the live data.
    pub mode: ConsistencyMode,
    /// How long a service may take to stop; past it the operation fails and the service is started again.
    pub timeout: DurationText,
}

impl Default for Consistency {
    fn default() -> Self {
        Self { mode: ConsistencyMode::Stop, timeout: DurationText::seconds(60) }
    }
}

/// How a service is held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ConsistencyMode {
    /// Stop it (or scale it to zero), work, start it again.
    #[default]
    Stop,
    /// Freeze its processes meanwhile.
    Pause,
    /// Do not touch it.
    Live,
}

impl Target {
    /// Whether it names something of a Kubernetes cluster.
    pub fn in_cluster(&self) -> bool {
        self.workload.is_some() || self.volume_claims.is_some()
    }

    /// One line that names the target in tables, errors and metrics.
    pub fn summary(&self) -> String {
        if let Some(host) = &self.host {
            format!("host:{}", host.paths.join(","))
        } else if let Some(docker) = &self.docker {
            let list = |items: &Option<Vec<String>>| items.as_deref().unwrap_or_default().join(",");
            match (&docker.project, &docker.containers) {
                (Some(project), _) if docker.services.is_some() => {
                    format!("docker:{project}/{}", list(&docker.services))
                }
                (Some(project), _) => format!("docker:{project}"),
                (None, Some(containers)) => format!("docker:{}", containers.join(",")),
                (None, None) => format!("docker:volumes/{}", list(&docker.volumes)),
            }
        } else if let Some(workload) = &self.workload {
            let title = format!("{:?}/{}", workload.kind, workload.name).to_lowercase();
            // Another selection is another target: its size says nothing about this one's.
            match &workload.volume_claims {
                Some(claims) => format!("{title}[{}]", claims.join(",")),
                None => title,
            }
        } else {
            format!("claims:{}", self.volume_claims.as_deref().unwrap_or_default().join(","))
        }
    }
}
