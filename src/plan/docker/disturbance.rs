//! Who ran while everybody was to stand still, by what the engine tells of the meantime: who runs in the end
//! is not all who ran.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::facts::{HostFacts, MountFacts, MountKind, RunState};
use super::selection::Selection;
use super::stopping::{Stopping, Touch, holds, stop_set};
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
    /// Files were copied into it, which needs no process of its own.
    Copied(String),
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

/// Names of those who have worked on the data while it was to stand still.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disturbers {
    /// They ran.
    pub ran: BTreeSet<String>,
    /// They stood still, and somebody copied files into them.
    pub copied: BTreeSet<String>,
}

/// Who has worked on the data since it stands still.
///
/// # Errors
/// [`crate::spec::Reason::QuiesceFailed`] if one of them is made by others again and again.
pub fn disturbers(
    happenings: &[Happening],
    held: &Held,
    selection: &Selection,
    host: &HostFacts,
    touch: Touch,
) -> Result<Disturbers, Failure> {
    let later = || happenings.iter().filter(|happening| happening.at > held.since);
    let acted: Vec<(&str, &str, bool)> = later()
        .filter_map(|happening| match &happening.what {
            Did::Run(name) => Some((happening.container.as_str(), name.as_str(), true)),
            Did::Copied(name) => Some((happening.container.as_str(), name.as_str(), false)),
            Did::Mount { .. } => None,
        })
        .collect();
    let has_acted = |id: &str| acted.iter().any(|(other, ..)| *other == id);
    // As if they still ran: whoever would have to stand still then has disturbed.
    let mut then = host.clone();
    for container in then.containers.iter_mut().filter(|container| has_acted(&container.id)) {
        container.state = RunState::Running;
    }
    let up = stop_set(selection, &then, touch, ConsistencyMode::Pause)?;
    let known = up.order.iter().chain(&held.stopping.order);
    let known: BTreeSet<&str> = known.map(|entry| entry.id.as_str()).collect();
    let mounted = |id: &str| {
        later().filter(|happening| happening.container == id).any(|happening| {
            let Did::Mount { volume, writable } = &happening.what else { return false };
            let mount = MountFacts {
                kind: MountKind::Volume(volume.clone()),
                destination: String::new(),
                writable: *writable,
            };
            selection.roots.iter().any(|root| holds(&mount, &root.source, host, touch))
        })
    };
    let mut found = Disturbers::default();
    for (id, name, ran) in &acted {
        if known.contains(id) || (host.container(id).is_none() && mounted(id)) {
            let names = if *ran { &mut found.ran } else { &mut found.copied };
            // It may be called something else by now.
            let name = host.container(id).map_or(*name, |container| container.name.as_str());
            names.insert(name.to_owned());
        }
    }
    found.copied.retain(|name| !found.ran.contains(name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::docker::{ContainerFacts, Root, RootSource, StopEntry, VolumeFacts};

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
        let found = found(happenings, touch);
        assert!(found.copied.is_empty(), "{found:?}");
        found.ran.into_iter().collect()
    }

    fn found(happenings: &[Happening], touch: Touch) -> Disturbers {
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
        let volume = |name: &str| VolumeFacts {
            name: name.to_owned(),
            device: Some("/srv/data".to_owned()),
            ..VolumeFacts::default()
        };
        let volumes = vec![volume("data"), volume("twin")];
        let host = HostFacts { containers, volumes, ..HostFacts::default() };
        disturbers(happenings, &held, &selection, &host, touch).unwrap()
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
    fn one_that_files_were_copied_into_is_told_though_it_never_ran() {
        let copied = |id: &str, seconds: i64| {
            let what = Did::Copied(id.to_owned());
            Happening { at: at(seconds), container: id.to_owned(), what }
        };
        let names = |happenings: &[Happening]| {
            let Disturbers { ran, copied } = found(happenings, Touch::Read);
            (ran.into_iter().collect::<Vec<_>>(), copied.into_iter().collect::<Vec<_>>())
        };
        let web = || vec!["web".to_owned()];
        assert_eq!(names(&[copied("web", 110)]), (vec![], web()));
        assert_eq!(names(&[copied("off", 110)]), (vec![], vec!["off".to_owned()]));
        assert_eq!(names(&[copied("web", 110), run("web", 111)]), (web(), vec![]));
        assert_eq!(names(&[copied("web", 90), copied("reader", 110)]), (vec![], vec![]));
    }

    #[test]
    fn who_came_and_went_in_the_middle_is_told_by_what_it_mounted() {
        for volume in ["data", "twin"] {
            let happenings = [run("once", 110), mount("once", volume, true)];
            assert_eq!(told(&happenings, Touch::Read), ["once"], "{volume}");
        }
        for other in [mount("once", "other", true), mount("once", "data", false)] {
            assert!(told(&[run("once", 110), other], Touch::Read).is_empty());
        }
        assert!(told(&[mount("once", "data", true)], Touch::Read).is_empty(), "it never ran");
    }
}
