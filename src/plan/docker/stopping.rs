//! Who has to stand still while data is read or replaced, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, HostFacts, MountKind, RunState};
use super::selection::{RootSource, Selection, is_beneath};
use crate::plan::Failure;
use crate::spec::{ConsistencyMode, Reason};

/// What an operation does to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// It reads: whoever only reads too may go on.
    Read,
    /// It replaces: nobody may hold it.
    Replace,
}

/// Who is held still.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopping {
    /// In the order of stopping: who depends on others comes first. They start in reverse order.
    pub order: Vec<StopEntry>,
    /// What people have to know.
    pub warnings: Vec<String>,
}

/// One container that is held still.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its own time to stop in, in seconds.
    pub timeout: Option<u32>,
    /// It was frozen already: it is to be frozen again, and not to run.
    pub paused: bool,
    /// Whether the target selects it; otherwise it shares data with what is selected.
    pub selected: bool,
    /// Ids of others among them that have to be healthy before it starts, as Compose is told by
    /// `condition: service_healthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_healthy: Vec<String>,
}

/// The containers to hold still in this way. What is not up is not among them and stays as it is.
///
/// # Errors
/// [`Reason::QuiesceFailed`] for a container that would be gone once stopped, or made again by others.
pub fn stop_set(
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
    mode: ConsistencyMode,
) -> Result<Stopping, Failure> {
    let mut stopping = Stopping::default();
    let mut chosen: Vec<&ContainerFacts> = Vec::new();
    for container in host.containers.iter().filter(|container| container.is_up()) {
        let selected = selection.containers.contains(&container.id);
        let sharing = shares(container, selection, touch);
        if !selected && !sharing {
            continue;
        }
        let loses = sharing && touch == Touch::Replace;
        if host.own_container.as_ref() == Some(&container.id) {
            if loses {
                let message = format!(
                    "{} is Eider itself and works on what is to be replaced",
                    container.name
                );
                return Err(Failure::new(Reason::UnsupportedTarget, message)
                    .hint("name other volumes, or have it done by an Eider on the host"));
            }
            if selected {
                stopping.warnings.push(format!(
                    "{} is Eider itself and goes on: what it writes is read while it runs",
                    container.name
                ));
                continue;
            }
            // It mounts the data in order to reach it.
            continue;
        }
        if container.own_label("stop") == Some("false") {
            let name = &container.name;
            if !loses {
                stopping.warnings.push(format!(
                    "{name} goes on, as its label eider.stop says: its data may not be consistent"
                ));
                continue;
            }
            // It would go on with a tree that nobody finds again.
            stopping.warnings.push(format!(
                "{name} is stopped, whatever its label eider.stop says: its data is replaced"
            ));
        }
        if container.auto_remove && mode == ConsistencyMode::Stop {
            let message = format!(
                "container {} was started with --rm and would be removed when it stops",
                container.name
            );
            return Err(Failure::new(Reason::QuiesceFailed, message)
                .hint("use `consistency.mode: Pause` or `Live`, or start it without --rm"));
        }
        if let Some(keeper) = container.keeper()
            && mode == ConsistencyMode::Stop
        {
            let name = &container.name;
            let message = format!("{keeper} would start another container when {name} stops");
            return Err(Failure::new(Reason::QuiesceFailed, message).hint(
                "use `consistency.mode: Pause` or `Live`; in a cluster run Eider's operator",
            ));
        }
        chosen.push(container);
    }
    stopping.order = entries(&chosen);
    for entry in &mut stopping.order {
        entry.selected = selection.containers.contains(&entry.id);
    }
    Ok(stopping)
}

/// These containers in the order of stopping; they start in reverse order.
pub fn entries(containers: &[&ContainerFacts]) -> Vec<StopEntry> {
    let entry = |container: &ContainerFacts| StopEntry {
        id: container.id.clone(),
        name: container.name.clone(),
        timeout: container.stop_timeout,
        paused: container.state == RunState::Paused,
        selected: true,
        after_healthy: containers
            .iter()
            .filter(|other| waits_for_health_of(container, other))
            .map(|other| other.id.clone())
            .collect(),
    };
    in_order(containers).into_iter().map(entry).collect()
}

/// Whether a container that is not selected works on selected data.
fn shares(container: &ContainerFacts, selection: &Selection, touch: Touch) -> bool {
    container.mounts.iter().filter(|mount| mount.writable || touch == Touch::Replace).any(|mount| {
        selection.roots.iter().any(|root| match (&root.source, &mount.kind) {
            (RootSource::Volume(name), MountKind::Volume(mounted)) => name == mounted,
            (RootSource::Bind(path), MountKind::Bind(mounted)) => {
                is_beneath(mounted, path) || is_beneath(path, mounted)
            }
            _ => false,
        })
    })
}

/// Dependents before what they depend on, otherwise by name. Members of a circle come by name too:
/// the engine stops them in any order.
pub(super) fn in_order<'a>(containers: &[&'a ContainerFacts]) -> Vec<&'a ContainerFacts> {
    let mut left: BTreeMap<&str, &ContainerFacts> =
        containers.iter().map(|container| (container.name.as_str(), *container)).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let needed: BTreeSet<&str> = left
            .values()
            .flat_map(|container| {
                left.values().filter(|other| needs(container, other)).map(|other| &*other.name)
            })
            .collect();
        let next = left.keys().find(|name| !needed.contains(*name)).or_else(|| left.keys().next());
        let Some(next) = next.copied() else { break };
        order.extend(left.remove(next));
    }
    order
}

/// Whether `one` has to stop before `other`.
fn needs(one: &ContainerFacts, other: &ContainerFacts) -> bool {
    if one.id == other.id {
        return false;
    }
    depends_on(one, other).is_some()
        || one.uses.iter().any(|used| *used == other.id || *used == other.name)
}

/// Under which condition `one` depends on `other`, if it does.
fn depends_on<'a>(one: &'a ContainerFacts, other: &ContainerFacts) -> Option<&'a str> {
    if one.project().is_none() || one.project() != other.project() {
        return None;
    }
    let service = other.service()?;
    one.depends_on().find(|(name, _)| *name == service).map(|(_, condition)| condition)
}

fn waits_for_health_of(one: &ContainerFacts, other: &ContainerFacts) -> bool {
    one.id != other.id && depends_on(one, other) == Some("service_healthy")
}
