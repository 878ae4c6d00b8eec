//! What is known of a Docker host, as far as it decides anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
/// Label on a volume with its name in the Compose file.
pub(super) const VOLUME: &str = "com.docker.compose.volume";

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
    /// Why a path of the engine is not the same path here; none where it is. What is read and written
    /// there by a worker does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
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
    /// It removes itself when it stops (`--rm`).
    pub auto_remove: bool,
    /// Its own time to stop in, in seconds; none for the engine's default of ten, [`FOREVER`] for no limit.
    pub stop_timeout: Option<u32>,
    /// Ids or names of containers whose network or volumes it uses.
    pub uses: Vec<String>,
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

    /// A container by its id.
    pub fn container(&self, id: &str) -> Option<&ContainerFacts> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// A volume by its name.
    pub fn volume(&self, name: &str) -> Option<&VolumeFacts> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}

impl ContainerFacts {
    /// Whether it does anything that has to be held still, and begun again afterwards.
    pub fn is_up(&self) -> bool {
        self.state != RunState::Stopped
    }

    /// Its Compose project, unless it is a one-off run beside the project's services.
    pub(super) fn project(&self) -> Option<&str> {
        let one_off = self.labels.get(ONE_OFF).is_some_and(|value| value == "True");
        self.labels.get(PROJECT).filter(|_| !one_off).map(String::as_str)
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
            [("com.docker.swarm.task.id", "Docker Swarm"), ("io.kubernetes.pod.uid", "a kubelet")];
        keepers.iter().find(|(label, _)| self.labels.contains_key(*label)).map(|(_, name)| *name)
    }

    /// One of Eider's own labels.
    pub(super) fn own_label(&self, name: &str) -> Option<&str> {
        self.labels.get(&format!("eider.{name}")).map(String::as_str)
    }
}

/// Whether the engine made up the name: nobody finds such a volume again once its container is gone.
pub(super) fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
