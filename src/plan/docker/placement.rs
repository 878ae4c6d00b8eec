//! Where the roots of an archive go on a host: back to where they came from, into volumes of another
//! project, or into volumes that the target names.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{HostFacts, PROJECT, VOLUME};
use super::selection::{Root, RootSource, is_beneath, is_system};
use crate::plan::Failure;
use crate::spec::Reason;
use crate::spec::target::DockerTarget;

const VOLUMES: &str = "volumes/";
const BINDS: &str = "binds/";
/// The option of the local driver that says what a volume shows.
const DEVICE: &str = "device";

/// What an archive keeps besides the data, so that it can be put back where nothing is left.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Definitions {
    /// The volumes among the roots, and others that show the data of one.
    pub volumes: Vec<VolumeDefinition>,
    /// The selected containers, as the engine described them: name, image with digest,
    /// configuration, host configuration and networks.
    pub containers: Vec<serde_json::Value>,
    /// The networks that somebody made and they are connected to, as bodies of
    /// `POST /networks/create`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<serde_json::Value>,
}

/// A volume, as far as it takes to make one like it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeDefinition {
    /// Its name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// The driver's options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// More roots than this are no roots of a Docker target.
const MANY_ROOTS: usize = 1000;

/// Whether a root of an archive is one of a Docker target.
pub fn is_root_name(name: &str) -> bool {
    name.starts_with(VOLUMES) || name.starts_with(BINDS)
}

/// The roots of a Docker target as the names of entries tell them, where no manifest does: a volume is the
/// first directory in `volumes`, a path of the host the first name there is of it, as none is written above
/// its root.
#[derive(Debug, Default)]
pub struct RootNames {
    roots: BTreeSet<String>,
    is_other: bool,
}

impl RootNames {
    /// Takes in the name of an entry, in the order of the archive.
    pub fn see(&mut self, name: &str) {
        let name = name.trim_end_matches('/');
        if let Some(volume) = name.strip_prefix(VOLUMES) {
            let volume = volume.split('/').next().unwrap_or_default();
            self.roots.insert(format!("{VOLUMES}{volume}"));
        } else if name.starts_with(BINDS) {
            if name.match_indices('/').any(|(end, _)| self.roots.contains(&name[..end])) {
                return;
            }
            // Another program has written what lies in a root before it, or the root of a root.
            self.is_other |= self.roots.iter().any(|root| is_beneath(root, name));
            self.roots.insert(name.to_owned());
        } else {
            self.is_other |= name != VOLUMES.trim_end_matches('/');
        }
        self.is_other |= self.roots.len() > MANY_ROOTS;
        if self.is_other {
            self.roots.clear();
        }
    }

    /// The roots, by name; none if that is not known for certain.
    pub fn found(self) -> Vec<String> {
        if self.is_other { Vec::new() } else { self.roots.into_iter().collect() }
    }
}

/// One root of an archive and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Its name in the archive.
    pub root: String,
    /// Where it goes.
    pub source: RootSource,
    /// The volume to make first, where there is none of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<VolumeDefinition>,
}

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placements {
    /// The roots that are put back.
    pub roots: Vec<Placement>,
    /// Volumes to make besides, where there are none of these names: they show the data of a root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub besides: Vec<VolumeDefinition>,
    /// What is not, and why.
    pub warnings: Vec<String>,
}

/// Decides for each root of an archive where it goes.
///
/// Names of `target.volumes` mean volumes of the archive where it has them; otherwise they are new
/// homes for its volumes, in their order. In another project volumes go by their names in the Compose
/// file, and paths of the host stay where they are: they belong to the project that was backed up.
///
/// # Errors
/// [`Reason::InvalidSpec`] if the archive holds no roots of a Docker target, or if the names in the
/// target are neither all of the archive nor as many as its volumes.
pub fn place(
    target: &DockerTarget,
    origin: Option<&DockerTarget>,
    roots: &[String],
    definitions: &Definitions,
    host: &HostFacts,
) -> Result<Placements, Failure> {
    if let Some(foreign) = roots.iter().find(|root| !is_root_name(root)) {
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!("the archive's root `{foreign}` is not a volume or path of a Docker host"),
        )
        .hint("use `target.host.paths` to put it back"));
    }
    let volumes: Vec<&str> = roots.iter().filter_map(|root| root.strip_prefix(VOLUMES)).collect();
    let definition = |name: &str| definitions.volumes.iter().find(|volume| volume.name == name);
    let mut placements = Placements::default();
    if let Some(names) = &target.volumes {
        let by_compose_name = |name: &String| {
            volumes.iter().copied().find(|volume| compose_name(definition(volume)) == Some(name))
        };
        let of_archive: Vec<Option<&str>> = names
            .iter()
            .map(|name| {
                let exact = volumes.iter().copied().find(|volume| volume == name);
                exact.or_else(|| by_compose_name(name))
            })
            .collect();
        let pairs: Vec<(&str, &str)> = if of_archive.iter().all(Option::is_some) {
            of_archive.into_iter().flatten().map(|volume| (volume, volume)).collect()
        } else if of_archive.iter().all(Option::is_none) && names.len() == volumes.len() {
            volumes.iter().copied().zip(names.iter().map(String::as_str)).collect()
        } else {
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!(
                    "the target names {} and the archive holds {}",
                    names.join(", "),
                    volumes.join(", ")
                ),
            )
            .hint("name volumes of the archive, or as many new ones as it holds, in that order"));
        };
        let chosen: BTreeSet<&str> = pairs.iter().map(|(from, _)| *from).collect();
        for root in roots {
            if !root.strip_prefix(VOLUMES).is_some_and(|name| chosen.contains(name)) {
                placements.warnings.push(format!("{root} is left in the archive: it is not named"));
            }
        }
        for (from, to) in pairs {
            placements.roots.push(volume(from, to, definition(from), None, host));
        }
        placements.warn_of_own_ones(definitions);
        return Ok(placements);
    }
    let moved = match (origin.and_then(|origin| origin.project.as_ref()), &target.project) {
        (Some(from), Some(to)) if from != to => Some(to.as_str()),
        _ => None,
    };
    if moved.is_none() {
        let is_missing = |volume: &&VolumeDefinition| {
            !volumes.contains(&volume.name.as_str()) && host.volume(&volume.name).is_none()
        };
        placements.besides = definitions.volumes.iter().filter(is_missing).cloned().collect();
    }
    for root in roots {
        if let Some(name) = root.strip_prefix(VOLUMES) {
            let home = match moved {
                Some(project) => in_project(name, project, definition(name), host),
                None => name.to_owned(),
            };
            placements.roots.push(volume(name, &home, definition(name), moved, host));
        } else if let Some(path) = root.strip_prefix(BINDS) {
            if moved.is_some() {
                placements.warnings.push(format!(
                    "/{path} is left in the archive: it is a path of the project that was backed up"
                ));
                continue;
            }
            if is_system(&format!("/{path}"), host) {
                placements
                    .warnings
                    .push(format!("/{path} is left in the archive: it belongs to the system"));
                continue;
            }
            let source = RootSource::Bind(format!("/{path}"));
            placements.roots.push(Placement { root: root.clone(), source, create: None });
        }
    }
    placements.warn_of_own_ones(definitions);
    Ok(placements)
}

impl Placements {
    /// Tells which volumes are not made of what others like them are made of.
    fn warn_of_own_ones(&mut self, definitions: &Definitions) {
        for placement in &self.roots {
            let Some(made) = &placement.create else { continue };
            let like = definitions
                .volumes
                .iter()
                .find(|volume| placement.root.strip_prefix(VOLUMES) == Some(volume.name.as_str()));
            if let Some(device) = like.and_then(|volume| volume.options.get(DEVICE))
                && !made.options.contains_key(DEVICE)
            {
                self.warnings.push(format!(
                    "volume {} is made without the `device={device}` of {}: that one's data stays as it is",
                    made.name,
                    placement.root.trim_start_matches(VOLUMES)
                ));
            }
        }
    }

    /// Leaves as they are the paths of which the archive holds nothing, and tells which those are.
    pub fn leave_empty(&mut self, holds: impl Fn(&str) -> bool) -> Vec<String> {
        let mut left = Vec::new();
        self.roots.retain(|placement| {
            let RootSource::Bind(path) = &placement.source else { return true };
            let is_held = holds(&placement.root);
            if !is_held {
                left.push(format!("{path} stays as it is: the archive holds nothing of it"));
            }
            is_held
        });
        left
    }

    /// The roots as those of a selection, to find out who works on them.
    pub fn as_roots(&self) -> Vec<Root> {
        let root = |placement: &Placement| Root {
            source: placement.source.clone(),
            containers: BTreeSet::new(),
        };
        self.roots.iter().map(root).collect()
    }
}

fn compose_name(definition: Option<&VolumeDefinition>) -> Option<&String> {
    definition?.labels.get(VOLUME)
}

/// What a volume of another project is called in this one.
fn in_project(
    name: &str,
    project: &str,
    definition: Option<&VolumeDefinition>,
    host: &HostFacts,
) -> String {
    let label = compose_name(definition);
    let existing = host.volumes.iter().find(|volume| {
        label.is_some()
            && volume.labels.get(VOLUME) == label
            && volume.labels.get(PROJECT).is_some_and(|found| found == project)
    });
    match (existing, label) {
        (Some(volume), _) => volume.name.clone(),
        (None, Some(label)) => format!("{project}_{label}"),
        (None, None) => format!("{project}_{name}"),
    }
}

fn volume(
    from: &str,
    to: &str,
    like: Option<&VolumeDefinition>,
    project: Option<&str>,
    host: &HostFacts,
) -> Placement {
    let create = host.volume(to).is_none().then(|| {
        let mut definition = like.cloned().unwrap_or_default();
        to.clone_into(&mut definition.name);
        if let Some(project) = project {
            definition.labels.insert(PROJECT.to_owned(), project.to_owned());
        }
        if to != from && definition.options.contains_key(DEVICE) {
            // It would be the same data, under those who work on it.
            definition.options.clear();
        }
        if to != from && project.is_none() {
            // Compose would take a copy with these labels for its own.
            definition.labels.retain(|label, _| !label.starts_with("com.docker.compose."));
        }
        definition
    });
    let root = format!("{VOLUMES}{from}");
    Placement { root, source: RootSource::Volume(to.to_owned()), create }
}
