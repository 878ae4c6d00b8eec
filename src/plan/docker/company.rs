//! Eider's own container and those by which it reaches the engine: who holds others still must not stop
//! itself, nor what it needs to let them run again.

use super::facts::{ContainerFacts, HostFacts};
use crate::plan::Failure;
use crate::spec::Reason;

/// What is to be done instead, where Eider works on itself.
const BY_ANOTHER: &str = "name other volumes, or have it done by an Eider on the host";
/// What is to be done instead, where Eider would be left without a network.
const WITHOUT_A_STOP: &str =
    "use `consistency.mode: Pause` or `Live`, or have it done by an Eider on the host";

/// What a container is to Eider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// It runs in it.
    Itself,
    /// It reaches the engine by it.
    Way,
}

impl HostFacts {
    /// What this container is to Eider, if it could not go on without it.
    pub fn company(&self, id: &str) -> Option<Company> {
        if self.own_container.as_deref() == Some(id) {
            return Some(Company::Itself);
        }
        self.ways_to_engine.contains(id).then_some(Company::Way)
    }
}

impl Company {
    /// What people have to know of one that goes on in the middle of an operation.
    ///
    /// # Errors
    /// [`Reason::UnsupportedTarget`] if it works on what is replaced.
    pub(super) fn goes_on(
        self,
        container: &ContainerFacts,
        selected: bool,
        shares: bool,
        loses: bool,
    ) -> Result<Option<String>, Failure> {
        let name = &container.name;
        let what = match self {
            Self::Itself => "is Eider itself",
            Self::Way => "is what Eider reaches the engine by",
        };
        if loses {
            let message = format!("{name} {what} and works on what is to be replaced");
            return Err(Failure::new(Reason::UnsupportedTarget, message).hint(BY_ANOTHER));
        }
        // Eider itself mounts the data in order to reach it.
        let is_told = selected || (shares && self == Self::Way);
        Ok(is_told
            .then(|| format!("{name} {what} and goes on: what it writes is read while it runs")))
    }

    /// It would be left without a network or its processes when the other one stops.
    pub(super) fn cannot_lose(self, container: &ContainerFacts, other: &ContainerFacts) -> Failure {
        let (name, other) = (&container.name, &other.name);
        let message = match self {
            Self::Itself => format!("{name} is Eider itself and lives in {other}"),
            Self::Way => format!("Eider reaches the engine by {name}, which lives in {other}"),
        };
        Failure::new(Reason::UnsupportedTarget, message).hint(WITHOUT_A_STOP)
    }

    /// It would be replaced.
    pub fn cannot_be_replaced(self, name: &str) -> Failure {
        let (message, hint) = match self {
            Self::Itself => (
                "Eider runs in one of the containers and cannot replace itself".to_owned(),
                "leave its service out of `spec.images`, and use `docker compose up` for it",
            ),
            Self::Way => (
                format!("Eider reaches the engine by {name} and cannot replace it"),
                "leave its service and those that it lives in out of `spec.images`, and use \
                 `docker compose up` for them",
            ),
        };
        Failure::new(Reason::UnsupportedTarget, message).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::docker::{
        MountFacts, MountKind, Root, RootSource, Selection, Touch, stop_set,
    };
    use crate::spec::ConsistencyMode::{Pause, Stop};

    fn host() -> HostFacts {
        let mut containers = ["web", "proxy", "vpn"].map(|name| ContainerFacts::of_shop(name, ""));
        for container in &mut containers {
            let kind = MountKind::Volume("data".to_owned());
            let destination = "/data".to_owned();
            container.mounts = vec![MountFacts { kind, destination, writable: true }];
        }
        let ways_to_engine = ["id-proxy".to_owned()].into();
        HostFacts { containers: containers.into(), ways_to_engine, ..HostFacts::default() }
    }

    fn selection(host: &HostFacts) -> Selection {
        let source = RootSource::Volume("data".to_owned());
        Selection {
            containers: host.containers.iter().map(|one| one.id.clone()).collect(),
            roots: vec![Root { source, containers: [].into() }],
            uncovered: Vec::new(),
        }
    }

    #[test]
    fn who_serves_the_engine_is_not_held_still() {
        let host = host();
        for mode in [Stop, Pause] {
            let stopping = stop_set(&selection(&host), &host, Touch::Read, mode).unwrap();
            let names: Vec<&str> = stopping.order.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(names, ["vpn", "web"]);
            let told = &stopping.warnings;
            assert!(told[0].starts_with("proxy is what Eider reaches the engine by"), "{told:?}");
        }
        let refused = stop_set(&selection(&host), &host, Touch::Replace, Stop).unwrap_err();
        assert_eq!(refused.reason, Reason::UnsupportedTarget);
    }

    #[test]
    fn whose_network_the_way_to_the_engine_lives_in_is_not_stopped() {
        let mut host = host();
        host.containers[1].uses = vec!["vpn".to_owned()];
        let refused = stop_set(&selection(&host), &host, Touch::Read, Stop).unwrap_err();
        let expected = "Eider reaches the engine by proxy, which lives in vpn";
        assert_eq!(refused.message, expected);
        assert!(stop_set(&selection(&host), &host, Touch::Read, Pause).is_ok());
    }
}
