//! What is known of a Docker host, as far as it decides anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Failure;
use crate::spec::Reason;

/// Label with the name of the Compose project.
pub(super) const PROJECT: &str = "com.docker.compose.project";
/// Label with the name of the service in it.
pub(super) const SERVICE: &str = "com.docker.compose.service";
/// Label that is `True` on what `docker compose run` made.
const ONE_OFF: &str = "com.docker.compose.oneoff";
/// Label with what the service depends on: `name:condition:restart`, with commas between them.
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// Digits of an id that the engine shows people; nobody writes less of one into a script.
pub(super) const SHORT_ID: usize = 12;
/// Label on a volume with its name in the Compose file.
pub(super) const VOLUME: &str = "com.docker.compose.volume";

/// Who keeps the containers of a cluster's node.
pub(super) const KUBELET: &str = "a kubelet";

/// The time to stop of a container that its engine never kills (`--stop-timeout -1`).
pub const FOREVER: u32 = u32::MAX;

/// Everything that a decision about a target may need.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostFacts {
    /// Every container, running or not.
    pub containers: Vec<ContainerFacts>,
    /// Every volume.
    pub volumes: Vec<VolumeFacts>,
    /// Id of the container that Eider itself runs in.
    pub own_container: Option<String>,
    /// Ids of the containers by which Eider reaches the engine, such as a proxy before its socket.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ways_to_engine: BTreeSet<String>,
    /// Why a path of the engine is not the same path here; none where it is. What is read and written
    /// there by a worker does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Paths that are mounted somewhere and lead over symbolic links, each with where it leads. Empty
    /// where the host's paths cannot be looked at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub real_paths: BTreeMap<String, String>,
    /// Paths that are mounted somewhere and are sockets, as far as the host's paths can be looked at.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub sockets: BTreeSet<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerFacts {
    /// The full id, 64 hexadecimal digits.
    pub id: String,
    /// Its name, without the slash that the API puts before it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image it was made from, as it was named then.
    pub image: String,
    /// What it does now.
    pub state: RunState,
    /// It runs and is not well: its health check says so, or the engine starts it again and again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_ill: bool,
    /// It runs and its health check has not said yet how it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_unproven: bool,
    /// How it ended, unless it runs or has never run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// It removes itself when it stops (`--rm`).
    pub auto_remove: bool,
    /// Its own time to stop in, in seconds; none for the engine's default of ten, [`FOREVER`] for no limit.
    pub stop_timeout: Option<u32>,
    /// Ids or names of containers whose network, processes or shared memory it lives in: it cannot go on
    /// when one of them stops, and never finds another one that is made in its place.
    pub uses: Vec<String>,
    /// Ids or names of containers whose mounts it was given when it was made (`--volumes-from`).
    pub mounts_of: Vec<String>,
    /// Names of containers that have to run when it starts (`--link`).
    pub links: Vec<String>,
    /// What is mounted into it.
    pub mounts: Vec<MountFacts>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RunState {
    /// Its processes run.
    Running,
    /// They are frozen.
    Paused,
    /// The engine starts it again and again.
    Restarting,
    /// It is created, exited or dead.
    #[default]
    Stopped,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountFacts {
    /// What is mounted.
    pub kind: MountKind,
    /// Where in the container.
    pub destination: String,
    /// Whether the container may write to it.
    pub writable: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A volume by name; an anonymous one has 64 hexadecimal digits.
    Volume(String),
    /// A path of the host.
    Bind(String),
    /// Memory, or anything else that is gone when the container stops.
    Temporary,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where its data is on the host.
    pub mountpoint: String,
    /// What is mounted there, by the options of the local driver: a directory of the host, a block device, or
    /// a share with its server. Volumes that say the same are the same data.
    pub device: Option<String>,
    /// Whether its data lies in memory.
    pub in_memory: bool,
    /// Why nobody finds the data at the mount point while no container mounts the volume; none for a
    /// plain local volume.
    pub elsewhere: Option<String>,
}

impl HostFacts {
    /// Fails where paths of the engine are those of another machine.
    ///
    /// # Errors
    /// [`Reason::UnsupportedTarget`]: what is at these paths here is somebody else's.
    pub fn check_paths(&self) -> Result<(), Failure> {
        let Some(why) = &self.remote else { return Ok(()) };
        let message = format!("the data of this engine is not on this machine: {why}");
        Err(Failure::new(Reason::UnsupportedTarget, message).hint(
            "run Eider on the engine's own machine, or there in a container (docs/guides/docker.md)",
        ))
    }

    /// The directory in which the engine keeps everything that is its own, if a volume tells.
    pub(super) fn engine_directory(&self) -> Option<&str> {
        self.volumes.iter().find_map(|volume| {
            let above = volume.mountpoint.strip_suffix("/_data")?.strip_suffix(&volume.name)?;
            above.strip_suffix("/volumes/").filter(|directory| !directory.is_empty())
        })
    }

    /// The same path without symbolic links, as far as that is known.
    pub(super) fn real_path<'a>(&'a self, path: &'a str) -> &'a str {
        self.real_paths.get(path).map_or(path, String::as_str)
    }

    /// Where the data of a volume really is, if that is known: on the host, or what a file system of its own is
    /// mounted from.
    pub(super) fn volume_path(&self, name: &str) -> Option<&str> {
        let volume = self.volume(name)?;
        let path = match (&volume.device, &volume.elsewhere) {
            (Some(device), _) => device,
            (None, None) => &volume.mountpoint,
            (None, Some(_)) => return None,
        };
        (!path.is_empty()).then(|| self.real_path(path))
    }

    /// Every path of the host at which data is mounted into a container, or kept for that.
    pub fn data_paths(&self) -> BTreeSet<&str> {
        let mounts = self.containers.iter().flat_map(|container| &container.mounts);
        let binds = mounts.filter_map(|mount| match &mount.kind {
            MountKind::Bind(path) => Some(path.as_str()),
            MountKind::Volume(_) | MountKind::Temporary => None,
        });
        let volumes = self
            .volumes
            .iter()
            .map(|volume| volume.device.as_deref().unwrap_or(&volume.mountpoint));
        binds.chain(volumes).filter(|path| path.starts_with('/')).collect()
    }

    /// A container by its id.
    pub fn container(&self, id: &str) -> Option<&ContainerFacts> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// A volume by its name.
    pub fn volume(&self, name: &str) -> Option<&VolumeFacts> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}

#[cfg(test)]
impl ContainerFacts {
    /// A service of the Compose project `shop` that runs.
    pub fn of_shop(name: &str, depends_on: &str) -> Self {
        let labels = [("project", "shop"), ("service", name), ("depends_on", depends_on)];
        Self {
            id: format!("id-{name}"),
            name: name.to_owned(),
            labels: labels
                .map(|(label, value)| (format!("com.docker.compose.{label}"), value.to_owned()))
                .into(),
            state: RunState::Running,
            ..Self::default()
        }
    }
}

impl ContainerFacts {
    /// Whether it does anything that has to be held still, and begun again afterwards.
    pub fn is_up(&self) -> bool {
        self.state != RunState::Stopped
    }

    /// Takes from the engine's `HostConfig` which other containers this one needs.
    #[must_use]
    pub fn tied_by(mut self, host: &Value) -> Self {
        let modes = ["NetworkMode", "PidMode", "IpcMode"];
        let modes = modes.iter().filter_map(|mode| host[*mode].as_str());
        self.uses =
            modes.filter_map(|mode| mode.strip_prefix("container:")).map(str::to_owned).collect();
        // `NAME:ro`, and `/NAME:/OWN-NAME/ALIAS`.
        let first = |list: &Value| -> Vec<String> {
            let entries = list.as_array().into_iter().flatten().filter_map(Value::as_str);
            let names = entries.filter_map(|entry| entry.split(':').next());
            names.map(|name| name.trim_start_matches('/').to_owned()).collect()
        };
        self.mounts_of = first(&host["VolumesFrom"]);
        self.links = first(&host["Links"]);
        self
    }

    /// Whether the engine means this one by a name, an id or the beginning of an id.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let is_short = name.len() >= SHORT_ID && self.id.starts_with(name);
        name == self.name || name == self.id || is_short
    }

    /// Whether another one that is made in the place of `other` is not enough for this one: it was made
    /// with the very `other`.
    pub(super) fn is_made_with(&self, other: &Self) -> bool {
        self.uses.iter().chain(&self.mounts_of).any(|used| other.is_called(used))
    }

    /// Its Compose project, unless it is a one-off run beside the project's services.
    pub(super) fn project(&self) -> Option<&str> {
        self.labels.get(PROJECT).filter(|_| !self.is_one_off()).map(String::as_str)
    }

    /// Whether it is such a run: it has the labels of its service, and none of its tasks.
    pub(super) fn is_one_off(&self) -> bool {
        self.labels.get(ONE_OFF).is_some_and(|value| value == "True")
    }

    /// Its service in the project.
    pub fn service(&self) -> Option<&str> {
        self.labels.get(SERVICE).map(String::as_str)
    }

    /// The services that have to run before it does, each with its condition.
    pub(super) fn depends_on(&self) -> impl Iterator<Item = (&str, &str)> {
        let list = self.labels.get(DEPENDS_ON).map_or("", String::as_str);
        list.split(',').filter(|entry| !entry.is_empty()).map(|entry| {
            let mut parts = entry.split(':');
            (parts.next().unwrap_or_default(), parts.next().unwrap_or("service_started"))
        })
    }

    /// Who makes another one when it stops, if somebody does: stopping it holds nothing still.
    pub(super) fn keeper(&self) -> Option<&'static str> {
        let keepers =
            [("com.docker.swarm.task.id", "Docker Swarm"), ("io.kubernetes.pod.uid", KUBELET)];
        keepers.iter().find(|(label, _)| self.labels.contains_key(*label)).map(|(_, name)| *name)
    }

    /// One of Eider's own labels.
    pub(super) fn own_label(&self, name: &str) -> Option<&str> {
        self.labels.get(&format!("eider.{name}")).map(String::as_str)
    }

    /// One of Eider's own labels that says yes or no.
    pub(super) fn own_flag(&self, name: &str) -> Option<bool> {
        flag(self.own_label(name)?)
    }
}

/// What a label says that says yes or no, in any of the words that YAML has for it.
pub fn flag(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Whether the engine made up the name: nobody finds such a volume again once its container is gone.
pub(super) fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
