//! Which of the containers that an upgrade makes are started, and in which order.

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, HostFacts};
use super::replacing::Replaced;
use super::stopping::{StopEntry, Stopping, depends_on, entries};

/// Who is started after an exchange.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Starting {
    /// In the order of stopping, as in [`Stopping`]: they start in reverse order.
    pub order: Vec<StopEntry>,
    /// Ids of those among them that do their work once and have to end with 0 before the others start that
    /// depend on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_shots: Vec<String>,
}

/// What becomes of the replaced containers that are not held still.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resting<'a> {
    /// They have done their work and somebody who runs depends on that: their successors do it again.
    pub one_shots: Vec<&'a str>,
    /// Names of those that do not run, and whose successors are not started either.
    pub idle: Vec<&'a str>,
    /// Names of those that run and are not stopped.
    pub going_on: Vec<&'a str>,
}

/// Sorts the replaced containers that are not held still. `stopping` says who is.
pub fn resting<'a>(
    chosen: &'a [Replaced],
    stopping: &Stopping,
    host: &'a HostFacts,
) -> Resting<'a> {
    let is_held = |id: &str| stopping.order.iter().any(|entry| entry.id == id);
    let mut resting = Resting::default();
    let not_held = chosen.iter().filter(|one| !is_held(&one.id));
    for container in not_held.filter_map(|one| host.container(&one.id)) {
        let waits = |other: &ContainerFacts| {
            (is_held(&other.id) || chosen.iter().any(|one| one.id == other.id))
                && depends_on(other, container) == Some("service_completed_successfully")
        };
        if container.is_up() {
            resting.going_on.push(&container.name);
        } else if container.exit_code == Some(0) && host.containers.iter().any(waits) {
            resting.one_shots.push(&container.id);
        } else {
            resting.idle.push(&container.name);
        }
    }
    resting
}

/// Who starts: everybody who was held still, and those of the replaced that do their work once.
pub fn starting(chosen: &[Replaced], stopping: &Stopping, host: &HostFacts) -> Starting {
    let one_shots: Vec<String> =
        resting(chosen, stopping, host).one_shots.into_iter().map(str::to_owned).collect();
    if one_shots.is_empty() {
        return Starting { order: stopping.order.clone(), one_shots };
    }
    let held = |id: &str| stopping.order.iter().find(|entry| entry.id == id);
    let is_started = |container: &&ContainerFacts| {
        held(&container.id).is_some() || one_shots.contains(&container.id)
    };
    let all: Vec<&ContainerFacts> = host.containers.iter().filter(is_started).collect();
    let as_held = |entry: StopEntry| match held(&entry.id) {
        Some(earlier) => entry.as_before(earlier),
        None => entry,
    };
    let order = entries(&all).into_iter().map(as_held).collect();
    Starting { order, one_shots }
}

#[cfg(test)]
mod tests {
    use super::super::facts::RunState;
    use super::*;

    fn service(name: &str, depends: &str, exit_code: Option<i64>) -> ContainerFacts {
        let state = if exit_code.is_none() { RunState::Running } else { RunState::Stopped };
        ContainerFacts { state, exit_code, ..ContainerFacts::of_shop(name, depends) }
    }

    fn host(migrate: i64) -> HostFacts {
        let after = "migrate:service_completed_successfully:false";
        let containers = vec![
            service("db", "", None),
            service("migrate", "db:service_healthy:false", Some(migrate)),
            service("web", after, None),
            service("worker", after, Some(0)),
        ];
        HostFacts { containers, ..HostFacts::default() }
    }

    fn chosen(names: &[&str]) -> Vec<Replaced> {
        let one = |name: &&str| Replaced {
            id: format!("id-{name}"),
            name: (*name).to_owned(),
            aside: format!("{name}.before-u1"),
            image: format!("{name}:2"),
            keeps_image: false,
        };
        names.iter().map(one).collect()
    }

    fn held(host: &HostFacts) -> Stopping {
        let up: Vec<&ContainerFacts> =
            host.containers.iter().filter(|container| container.is_up()).collect();
        Stopping { order: entries(&up), warnings: Vec::new() }
    }

    #[test]
    fn a_migration_that_others_wait_for_runs_again_between_the_database_and_them() {
        let host = host(0);
        let chosen = chosen(&["migrate", "web", "worker"]);
        let found = resting(&chosen, &held(&host), &host);
        assert_eq!((found.one_shots, found.idle), (vec!["id-migrate"], vec!["worker"]));
        let starting = starting(&chosen, &held(&host), &host);
        let names: Vec<&str> = starting.order.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["web", "migrate", "db"], "the last is started first");
        assert_eq!(starting.order[1].after_healthy, ["id-db"]);
        assert_eq!(starting.one_shots, ["id-migrate"]);
    }

    #[test]
    fn what_has_failed_or_nobody_waits_for_is_made_and_not_started() {
        let failed = host(1);
        let all = chosen(&["migrate", "web"]);
        assert_eq!(resting(&all, &held(&failed), &failed).idle, ["migrate"]);
        let alone = chosen(&["worker"]);
        let host = host(0);
        assert_eq!(resting(&alone, &held(&host), &host).idle, ["worker"]);
        assert_eq!(starting(&alone, &held(&host), &host).order, held(&host).order);
    }

    #[test]
    fn who_is_not_stopped_is_told() {
        let host = host(0);
        let chosen = chosen(&["web"]);
        assert_eq!(resting(&chosen, &Stopping::default(), &host).going_on, ["web"]);
    }
}
