//! Who ran while everybody was to stand still, by what the engine tells of the meantime: who runs in the end
//! is not all who ran.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::{HostFacts, RunState};
use super::selection::{RootSource, Selection};
use super::stopping::{Stopping, Touch, stop_set};
use crate::plan::Failure;
use crate::spec::ConsistencyMode;

/// Something that a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// Id of the container.
    pub container: String,
    /// What it did.
    pub what: Did,
}

/// What a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// It was started or woken up. Its name is told, because it may be gone by now.
    Run(String),
    /// It mounted a volume.
    Mount {
        /// The volume's name.
        volume: String,
        /// Whether it may write to it.
        writable: bool,
    },
}

/// What is held still, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Who is held.
    pub stopping: Stopping,
    /// When the last of them stood still.
    pub since: Timestamp,
}

/// Names of those who have worked on the data since it stands still.
///
/// # Errors
/// [`crate::spec::Reason::QuiesceFailed`] if one of them is made by others again and again.
pub fn disturbers(
    happenings: &[Happening],
    held: &Held,
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
) -> Result<BTreeSet<String>, Failure> {
    let later = || happenings.iter().filter(|happening| happening.at > held.since);
    let ran: Vec<(&str, &str)> = later()
        .filter_map(|happening| match &happening.what {
            Did::Run(name) => Some((happening.container.as_str(), name.as_str())),
            Did::Mount { .. } => None,
        })
        .collect();
    let has_run = |id: &str| ran.iter().any(|(other, _)| *other == id);
    // As if they still ran: whoever would have to stand still then has disturbed.
    let mut then = host.clone();
    for container in then.containers.iter_mut().filter(|container| has_run(&container.id)) {
        container.state = RunState::Running;
    }
    let up = stop_set(selection, &then, touch, ConsistencyMode::Pause)?;
    let known = up.order.iter().chain(&held.stopping.order);
    let mut names: BTreeSet<String> =
        known.filter(|entry| has_run(&entry.id)).map(|entry| entry.name.clone()).collect();
    let mounted = |id: &str| {
        later().filter(|happening| happening.container == id).any(|happening| {
            let Did::Mount { volume, writable } = &happening.what else { return false };
            let is_root =
                |source: &RootSource| matches!(source, RootSource::Volume(name) if name == volume);
            (*writable || touch == Touch::Replace)
                && selection.roots.iter().any(|root| is_root(&root.source))
        })
    };
    let gone = ran.iter().filter(|(id, _)| host.container(id).is_none() && mounted(id));
    names.extend(gone.map(|(_, name)| (*name).to_owned()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::docker::{ContainerFacts, MountFacts, MountKind, Root, StopEntry};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn container(id: &str, writable: bool) -> ContainerFacts {
        let kind = MountKind::Volume("data".to_owned());
        ContainerFacts {
            id: id.to_owned(),
            name: id.to_owned(),
            mounts: vec![MountFacts { kind, destination: "/data".to_owned(), writable }],
            ..ContainerFacts::default()
        }
    }

    fn told(happenings: &[Happening], touch: Touch) -> Vec<String> {
        let entry = StopEntry {
            id: "web".to_owned(),
            name: "web".to_owned(),
            timeout: None,
            paused: false,
            selected: true,
            holds_data: true,
            was_ill: false,
            was_unproven: false,
            lives_with: None,
            after_healthy: Vec::new(),
            after: None,
        };
        let stopping = Stopping { order: vec![entry], warnings: Vec::new() };
        let held = Held { stopping, since: at(100) };
        let source = RootSource::Volume("data".to_owned());
        let selection = Selection {
            containers: vec!["web".to_owned()],
            roots: vec![Root { source, containers: [].into() }],
            uncovered: Vec::new(),
        };
        let containers =
            vec![container("web", true), container("reader", false), container("off", true)];
        let host = HostFacts { containers, ..HostFacts::default() };
        disturbers(happenings, &held, &selection, &host, touch).unwrap().into_iter().collect()
    }

    fn run(id: &str, seconds: i64) -> Happening {
        Happening { at: at(seconds), container: id.to_owned(), what: Did::Run(id.to_owned()) }
    }

    fn mount(id: &str, volume: &str, writable: bool) -> Happening {
        let what = Did::Mount { volume: volume.to_owned(), writable };
        Happening { at: at(110), container: id.to_owned(), what }
    }

    #[test]
    fn who_was_started_and_stopped_again_in_the_middle_is_told() {
        assert_eq!(told(&[run("web", 110)], Touch::Read), ["web"]);
        assert_eq!(told(&[run("off", 110)], Touch::Read), ["off"], "it shares the data");
        assert!(told(&[run("web", 90)], Touch::Read).is_empty(), "that was before the stop");
        assert!(told(&[run("reader", 110)], Touch::Read).is_empty(), "it only reads");
        assert_eq!(told(&[run("reader", 110)], Touch::Replace), ["reader"]);
    }

    #[test]
    fn who_came_and_went_in_the_middle_is_told_by_what_it_mounted() {
        assert_eq!(told(&[run("once", 110), mount("once", "data", true)], Touch::Read), ["once"]);
        for other in [mount("once", "other", true), mount("once", "data", false)] {
            assert!(told(&[run("once", 110), other], Touch::Read).is_empty());
        }
        assert!(told(&[mount("once", "data", true)], Touch::Read).is_empty(), "it never ran");
    }
}
