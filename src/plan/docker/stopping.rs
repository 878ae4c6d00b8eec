//! Who has to stand still while data is read or replaced, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, HostFacts, MountKind, RunState};
use super::selection::{RootSource, Selection, is_beneath};
use crate::plan::Failure;
use crate::spec::Reason;

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
}

/// The containers to hold still. What is not up is not among them and stays as it is.
///
/// # Errors
/// [`Reason::QuiesceFailed`] for a container that would be gone once stopped, and for Eider's own.
pub fn stop_set(
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
) -> Result<Stopping, Failure> {
    let mut stopping = Stopping::default();
    let mut chosen: Vec<&ContainerFacts> = Vec::new();
    for container in host.containers.iter().filter(|container| container.is_up()) {
        let selected = selection.containers.contains(&container.id);
        if !selected && !shares(container, selection, touch) {
            continue;
        }
        if host.own_container.as_ref() == Some(&container.id) {
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
            stopping.warnings.push(format!(
                "{} goes on, as its label eider.stop says: its data may not be consistent",
                container.name
            ));
            continue;
        }
        if container.auto_remove {
            let message = format!(
                "container {} was started with --rm and would be removed when it stops",
                container.name
            );
            return Err(Failure::new(Reason::QuiesceFailed, message)
                .hint("use `consistency.mode: Pause` or `Live`, or start it without --rm"));
        }
        chosen.push(container);
    }
    stopping.order = in_order(&chosen)
        .into_iter()
        .map(|container| StopEntry {
            id: container.id.clone(),
            name: container.name.clone(),
            timeout: container.stop_timeout,
            paused: container.state == RunState::Paused,
            selected: selection.containers.contains(&container.id),
        })
        .collect();
    Ok(stopping)
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
fn in_order<'a>(containers: &[&'a ContainerFacts]) -> Vec<&'a ContainerFacts> {
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
    let depends = one.project().is_some()
        && one.project() == other.project()
        && other.service().is_some_and(|service| one.depends_on().any(|name| name == service));
    depends || one.uses.iter().any(|used| *used == other.id || *used == other.name)
}
