//! Who has to stand still while data is read or replaced, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, FOREVER, HostFacts, MountFacts, MountKind, RunState};
use super::returning::{check_comes_back, is_stopped};
use super::selection::{Root, RootSource, Selection, directory, is_beneath};
use crate::plan::Failure;
use crate::spec::ConsistencyMode;

/// Seconds that the engine waits after SIGTERM where nobody said otherwise.
const DEFAULT_STOP: u32 = 10;

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
    /// Whether the target selects it; otherwise it shares data with what is selected, or lives in it.
    pub selected: bool,
    /// Whether it works on the data that is read or replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_data: bool,
    /// Whether it was not well before anything was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_ill: bool,
    /// Whether its health check had not said yet how it is, before anything was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_unproven: bool,
    /// The name of one that stops and whose network, processes or mounts it uses, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lives_with: Option<String>,
    /// Ids of others among them that have to be healthy before it starts, as Compose is told by
    /// `condition: service_healthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_healthy: Vec<String>,
    /// Ids of others among them that start before it, and stop after it. A journal of before this was known has
    /// none: it comes after everybody who is further back in the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
}

impl StopEntry {
    /// Whether others wait until it is healthy again. Who was not before may never be.
    pub fn is_to_be_awaited(&self) -> bool {
        !self.paused && !self.was_ill && !self.was_unproven
    }

    /// The same one, as an earlier look has found it: what was done since says nothing of how it was before. Who
    /// is needed is known best by the look that has seen most.
    #[must_use]
    pub fn as_before(self, earlier: &Self) -> Self {
        let both = |mut ids: Vec<String>, others: &[String]| {
            ids.extend(others.iter().filter(|id| !ids.contains(id)).cloned().collect::<Vec<_>>());
            ids
        };
        let after = self.after.map(|ids| both(ids, earlier.after.as_deref().unwrap_or_default()));
        let after_healthy = both(self.after_healthy, &earlier.after_healthy);
        Self { after_healthy, after, ..earlier.clone() }
    }

    /// How long the engine lets it end by itself.
    pub fn seconds_to_stop(&self) -> u32 {
        self.timeout.unwrap_or(DEFAULT_STOP)
    }
}

impl Stopping {
    /// Those that the one at this place of the order needs: they start before it and stop after it. Each with its
    /// place.
    pub fn needed_at(&self, place: usize) -> impl Iterator<Item = (usize, &StopEntry)> {
        let after = self.order.get(place).and_then(|entry| entry.after.as_ref());
        let further_back = self.order.iter().enumerate().skip(place.saturating_add(1));
        further_back.filter(move |(_, other)| after.is_none_or(|ids| ids.contains(&other.id)))
    }

    /// With those that an earlier turn held still: they ran before, whatever they do now.
    #[must_use]
    pub fn with_earlier(mut self, earlier: Self) -> Self {
        for entry in earlier.order {
            match self.order.iter_mut().find(|known| known.id == entry.id) {
                Some(known) => *known = known.clone().as_before(&entry),
                None => self.order.push(entry),
            }
        }
        self
    }

    /// Those that are to stop next, each with its place: they have not begun to, and everybody who needs them has
    /// stopped.
    pub fn ready(
        &self,
        begun: &BTreeSet<usize>,
        stopped: &BTreeSet<usize>,
    ) -> Vec<(usize, &StopEntry)> {
        let up = (0..self.order.len()).filter(|place| !stopped.contains(place));
        let needed: BTreeSet<usize> =
            up.flat_map(|place| self.needed_at(place).map(|(needed, _)| needed)).collect();
        let all = self.order.iter().enumerate();
        all.filter(|(place, _)| !begun.contains(place) && !needed.contains(place)).collect()
    }

    /// What all of them may take to stop, each in this time and after those that need it.
    pub fn longest(&self, time: impl Fn(&StopEntry) -> Duration) -> Duration {
        let mut beginnings = vec![Duration::ZERO; self.order.len()];
        let mut longest = Duration::ZERO;
        for (place, entry) in self.order.iter().enumerate() {
            let beginning = beginnings.get(place).copied().unwrap_or_default();
            let end = beginning.saturating_add(time(entry));
            longest = longest.max(end);
            for (needed, _) in self.needed_at(place) {
                if let Some(beginning) = beginnings.get_mut(needed) {
                    *beginning = end.max(*beginning);
                }
            }
        }
        longest
    }

    /// Those who have to be well in the end. Who was ill before is not among them, unless it `is_to_be_healed`:
    /// an operation that went back for its sake could never succeed.
    pub fn to_be_well(&self, is_to_be_healed: impl Fn(&StopEntry) -> bool) -> Vec<&StopEntry> {
        let counts =
            |entry: &&StopEntry| !entry.paused && (!entry.was_ill || is_to_be_healed(entry));
        self.order.iter().filter(counts).collect()
    }

    /// Tells who is ill before anything is done.
    pub fn warn_of_the_ill(&mut self) {
        let ill = self.order.iter().filter(|entry| entry.was_ill && !entry.paused);
        let told = ill.map(|entry| {
            format!("{} is not well: whether it gets well is waited for only if that is what this changes", entry.name)
        });
        let told: Vec<String> = told.collect();
        self.warnings.extend(told);
    }

    /// Tells who would be stopped and started again every night without ever being in time.
    pub fn warn_if_slower_than(&mut self, timeout: Duration) {
        let longest = self.longest(|entry| Duration::from_secs(entry.seconds_to_stop().into()));
        if longest > timeout {
            let most = match longest.as_secs() {
                seconds if seconds >= u64::from(FOREVER) => "for ever".to_owned(),
                seconds => format!("{seconds} s"),
            };
            self.warnings.push(format!(
                "{} containers may take {most} to stop, dependents first, and `consistency.timeout` is {} s: \
                 past it the operation fails and starts them again",
                self.order.len(),
                timeout.as_secs()
            ));
        }
    }
}

/// The containers to hold still in this way. What is not up is not among them and stays as it is.
///
/// Who lives in the network or the processes of one that stops is stopped as well, whoever it belongs to: it
/// would go on with nothing, and nobody would start it again.
///
/// # Errors
/// [`Reason::QuiesceFailed`] for a container that would be gone once stopped, or made again by others;
/// [`Reason::UnsupportedTarget`] if Eider itself could not go on.
pub fn stop_set(
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
    mode: ConsistencyMode,
) -> Result<Stopping, Failure> {
    let mut stopping = Stopping::default();
    let mut chosen: Vec<Chosen<'_>> = Vec::new();
    for container in host.containers.iter().filter(|container| container.is_up()) {
        let selected = selection.containers.contains(&container.id);
        let sharing = shares(container, selection, host, touch);
        let loses = sharing && touch == Touch::Replace;
        if let Some(company) = host.company(&container.id) {
            stopping.warnings.extend(company.goes_on(container, selected, sharing, loses)?);
        } else if selected || sharing {
            chosen.push(Chosen { container, shares: sharing, loses, lives_with: None });
        } else if let Some(path) = reaches_volumes(container, selection, host) {
            stopping.warnings.push(format!(
                "{} goes on: it may write to every volume, by {path}",
                container.name
            ));
        }
    }
    let goes_on = |one: &Chosen<'_>| !one.loses && one.container.own_flag("stop") == Some(false);
    let (kept, mut chosen): (Vec<_>, Vec<_>) = chosen.into_iter().partition(goes_on);
    if mode == ConsistencyMode::Stop {
        add_who_lives_with(&mut chosen, host, touch)?;
    }
    for Chosen { container, .. } in kept {
        if chosen.iter().all(|one| one.container.id != container.id) {
            stopping.warnings.push(format!(
                "{} goes on, as its label eider.stop says: its data may not be consistent",
                container.name
            ));
        }
    }
    for one in &chosen {
        stopping.warnings.extend(one.stopped_against_its_label());
        if mode == ConsistencyMode::Stop {
            check_comes_back(one.container, touch)?;
        }
    }
    let containers: Vec<&ContainerFacts> = chosen.iter().map(|one| one.container).collect();
    stopping.order = entries(&containers);
    for entry in &mut stopping.order {
        entry.selected = selection.containers.contains(&entry.id);
        let found = chosen.iter().find(|one| one.container.id == entry.id);
        entry.lives_with = found.and_then(|one| one.lives_with.clone());
        entry.holds_data = found.is_some_and(|one| one.shares);
    }
    Ok(stopping)
}

/// One that is to stand still, and why.
struct Chosen<'a> {
    container: &'a ContainerFacts,
    /// It works on the data.
    shares: bool,
    /// The data that it works on is replaced.
    loses: bool,
    /// The name of one that stops and that it cannot be without; none if it works on the data itself.
    lives_with: Option<String>,
}

impl Chosen<'_> {
    fn stopped_against_its_label(&self) -> Option<String> {
        if self.container.own_flag("stop") != Some(false) {
            return None;
        }
        // It would go on with a tree that nobody finds again, or without a network.
        let why = match &self.lives_with {
            Some(other) => format!("it lives in {other}, which stops"),
            None => "its data is replaced".to_owned(),
        };
        let name = &self.container.name;
        Some(format!("{name} is stopped, whatever its label eider.stop says: {why}"))
    }
}

/// Adds those who live in one that stops, and those who live in them.
fn add_who_lives_with<'a>(
    chosen: &mut Vec<Chosen<'a>>,
    host: &'a HostFacts,
    touch: Touch,
) -> Result<(), Failure> {
    let mut next = 0;
    while let Some(other) = chosen.get(next).map(|one| one.container) {
        next += 1;
        if !is_stopped(other, touch) {
            continue;
        }
        for container in host.containers.iter().filter(|container| container.is_up()) {
            if container.id == other.id || !cannot_go_on_without(container, other, touch) {
                continue;
            }
            if let Some(company) = host.company(&container.id) {
                return Err(company.cannot_lose(container, other));
            }
            if chosen.iter().all(|one| one.container.id != container.id) {
                let lives_with = Some(other.name.clone());
                chosen.push(Chosen { container, shares: false, loses: false, lives_with });
            }
        }
    }
    Ok(())
}

/// Whether a container is left with nothing when another one stops, or makes way for a new one.
fn cannot_go_on_without(one: &ContainerFacts, other: &ContainerFacts, touch: Touch) -> bool {
    match touch {
        // Mounts stay whoever gave them.
        Touch::Read => one.uses.iter().any(|used| other.is_called(used)),
        Touch::Replace => one.is_made_with(other),
    }
}

/// These containers in the order of stopping; they start in reverse order.
pub fn entries(containers: &[&ContainerFacts]) -> Vec<StopEntry> {
    let order = in_order(containers);
    let entry = |(place, container): (usize, &&ContainerFacts)| {
        let ids = |is_meant: &dyn Fn(&ContainerFacts) -> bool, from: usize| -> Vec<String> {
            let found = order.iter().skip(from).filter(|other| is_meant(other));
            found.map(|other| other.id.clone()).collect()
        };
        StopEntry {
            id: container.id.clone(),
            name: container.name.clone(),
            timeout: container.stop_timeout,
            paused: container.state == RunState::Paused,
            selected: true,
            holds_data: false,
            was_ill: container.is_ill,
            was_unproven: container.is_unproven,
            lives_with: None,
            after_healthy: ids(&|other| waits_for_health_of(container, other), 0),
            // Not those before it: in a circle nobody would ever be the first.
            after: Some(ids(&|other| needs(container, other), place.saturating_add(1))),
        }
    };
    order.iter().enumerate().map(entry).collect()
}

/// Whether a container works on selected data.
fn shares(
    container: &ContainerFacts,
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
) -> bool {
    let holds = |mount: &MountFacts| {
        selection.roots.iter().any(|root| holds(mount, &root.source, host, touch))
    };
    container.mounts.iter().any(holds)
}

/// Whether a mount is in the way of reading or replacing a root. Directories are compared by what is known
/// of where they really are: the same data may be mounted as a volume, by its path and by a link to it.
pub(super) fn holds(mount: &MountFacts, root: &RootSource, host: &HostFacts, touch: Touch) -> bool {
    let is_in_the_way = mount.writable || touch == Touch::Replace;
    if let (MountKind::Volume(mounted), RootSource::Volume(name)) = (&mount.kind, root)
        && mounted == name
    {
        return is_in_the_way;
    }
    let (Some(mounted), Some(path)) = (mounted_path(mount, host), directory(root, host)) else {
        return false;
    };
    if is_beneath(mounted, path) {
        return is_in_the_way;
    }
    // Through a directory above it everybody finds what is put in its place: only writers are in the way,
    // and who is given all volumes at once looks after the engine and works on none of them.
    let of_engine = matches!(root, RootSource::Volume(_)) && holds_volumes(mounted, host);
    mount.writable && is_beneath(path, mounted) && !of_engine
}

fn mounted_path<'a>(mount: &'a MountFacts, host: &'a HostFacts) -> Option<&'a str> {
    match &mount.kind {
        MountKind::Volume(name) => host.volume_path(name),
        MountKind::Bind(path) => Some(host.real_path(path)),
        MountKind::Temporary => None,
    }
}

/// Whether a directory is the engine's directory of all volumes, or above it.
fn holds_volumes(path: &str, host: &HostFacts) -> bool {
    host.engine_directory().is_some_and(|engine| {
        let volumes = format!("{engine}/volumes");
        is_beneath(host.real_path(&volumes), path) || is_beneath(&volumes, path)
    })
}

/// By which path a container may write to every volume, and so to selected ones.
fn reaches_volumes<'a>(
    container: &'a ContainerFacts,
    selection: &Selection,
    host: &HostFacts,
) -> Option<&'a str> {
    let is_volume = |root: &Root| matches!(root.source, RootSource::Volume(_));
    if !selection.roots.iter().any(is_volume) {
        return None;
    }
    container.mounts.iter().filter(|mount| mount.writable).find_map(|mount| match &mount.kind {
        MountKind::Bind(path) if holds_volumes(path, host) => Some(path.as_str()),
        _ => None,
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
        || one.is_made_with(other)
        || one.links.iter().any(|name| other.is_called(name))
}

/// Under which condition `one` depends on `other`, if it does.
pub(super) fn depends_on<'a>(one: &'a ContainerFacts, other: &ContainerFacts) -> Option<&'a str> {
    if one.project().is_none() || one.project() != other.project() {
        return None;
    }
    let service = other.service()?;
    one.depends_on().find(|(name, _)| *name == service).map(|(_, condition)| condition)
}

fn waits_for_health_of(one: &ContainerFacts, other: &ContainerFacts) -> bool {
    one.id != other.id && depends_on(one, other) == Some("service_healthy")
}
