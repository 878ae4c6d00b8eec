//! Whether a container that is stopped can be started again.

use super::facts::{ContainerFacts, HostFacts, KUBELET, RunState};
use super::stopping::{Stopping, Touch};
use crate::plan::Failure;
use crate::spec::Reason;

/// What is to be done instead, where stopping is what does the harm.
const WITHOUT_A_STOP: &str = "use `consistency.mode: Pause` or `Live`";

/// Whether a container is stopped in mode Stop. Frozen processes write nothing: they are in the way only of what
/// replaces their files.
pub(super) fn is_stopped(container: &ContainerFacts, touch: Touch) -> bool {
    container.is_up() && (container.state != RunState::Paused || touch == Touch::Replace)
}

/// Refuses one that would not be there to be started again, or be another by then.
///
/// # Errors
/// [`Reason::QuiesceFailed`]
pub(super) fn check_comes_back(container: &ContainerFacts, touch: Touch) -> Result<(), Failure> {
    if !is_stopped(container, touch) {
        return Ok(());
    }
    let name = &container.name;
    if container.auto_remove {
        let frozen = match container.state {
            RunState::Paused => " (it is paused now, and holds the files that are replaced)",
            _ => "",
        };
        let message = format!(
            "container {name} was started with --rm and would be removed when it stops{frozen}"
        );
        let hint = match touch {
            Touch::Read => format!("{WITHOUT_A_STOP}, or start it without --rm"),
            Touch::Replace => "end it before, or start it without --rm".to_owned(),
        };
        return Err(Failure::new(Reason::QuiesceFailed, message).hint(hint));
    }
    if let Some(keeper) = container.keeper() {
        let message = format!("{keeper} would start another container when {name} stops");
        let hint = match keeper {
            KUBELET => format!("{WITHOUT_A_STOP}, or run Eider's operator in the cluster"),
            _ => WITHOUT_A_STOP.to_owned(),
        };
        return Err(Failure::new(Reason::QuiesceFailed, message).hint(hint));
    }
    Ok(())
}

/// Refuses one that runs in the network, processes or memory of another one that is gone or has ended: its engine
/// starts it only beside that one. Those that `is_held` by another operation are stopped by that one.
///
/// # Errors
/// [`Reason::QuiesceFailed`]
pub fn check_company(
    stopping: &Stopping,
    host: &HostFacts,
    touch: Touch,
    is_held: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    let stopped = stopping.order.iter().filter(|entry| !is_held(&entry.id));
    let stopped = stopped.filter_map(|entry| host.container(&entry.id));
    for container in stopped.filter(|container| is_stopped(container, touch)) {
        let Some((used, found)) = missed(container, host) else { continue };
        let (other, how, hint) = match found {
            Some(other) => (other.name.as_str(), "has ended", "start that one before"),
            None => (used, "is gone", "remove it, and have it made again beside a new one"),
        };
        let name = &container.name;
        let message = format!(
            "container {name} lives in {other}, which {how}: once stopped it could not be started again"
        );
        return Err(Failure::new(Reason::QuiesceFailed, message)
            .hint(format!("{hint}, or {WITHOUT_A_STOP}")));
    }
    Ok(())
}

/// The first that a container lives in and that does not run, by what it calls it.
pub(super) fn missed<'a>(
    container: &'a ContainerFacts,
    host: &'a HostFacts,
) -> Option<(&'a str, Option<&'a ContainerFacts>)> {
    container.uses.iter().find_map(|used| {
        let found = host.containers.iter().find(|other| {
            // The engine takes the beginning of an id, however short.
            other.is_called(used) || (!used.is_empty() && other.id.starts_with(used))
        });
        let runs = found.is_some_and(ContainerFacts::is_up);
        (!runs).then_some((used.as_str(), found))
    })
}

#[cfg(test)]
mod tests {
    use super::super::selection::{Root, RootSource, Selection};
    use super::super::stopping::stop_set;
    use super::super::{MountFacts, MountKind};
    use super::*;
    use crate::spec::ConsistencyMode::{Pause, Stop};

    /// A database on a volume, and a proxy in its network.
    fn shop() -> (HostFacts, Selection) {
        let kind = MountKind::Volume("data".to_owned());
        let mount = MountFacts { kind, destination: "/data".to_owned(), writable: true };
        let mut db = ContainerFacts::of_shop("db", "");
        db.mounts = vec![mount];
        let mut proxy = ContainerFacts::of_shop("proxy", "");
        proxy.uses = vec![db.id.clone()];
        let source = RootSource::Volume("data".to_owned());
        let selection = Selection {
            containers: vec![db.id.clone()],
            roots: vec![Root { source, containers: [].into() }],
            uncovered: Vec::new(),
        };
        (HostFacts { containers: vec![db, proxy], ..HostFacts::default() }, selection)
    }

    fn names(stopping: &Stopping) -> Vec<&str> {
        stopping.order.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn what_is_said_of_one_that_removes_itself_can_be_done() {
        let (mut host, selection) = shop();
        host.containers[0].auto_remove = true;
        let refused = |touch| stop_set(&selection, &host, touch, Stop).unwrap_err();
        for touch in [Touch::Read, Touch::Replace] {
            assert_eq!(refused(touch).reason, Reason::QuiesceFailed);
            assert!(refused(touch).message.contains("--rm"));
        }
        assert!(refused(Touch::Read).hint.unwrap().contains("Pause"));
        // What is open in a container cannot be replaced, whether it is frozen or not.
        assert!(!refused(Touch::Replace).hint.unwrap().contains("Pause"));
        assert!(stop_set(&selection, &host, Touch::Read, Pause).is_ok());
    }

    /// It stays frozen and is not stopped, so nothing removes it.
    #[test]
    fn one_that_is_paused_and_removes_itself_is_read_as_it_is_and_not_replaced() {
        let (mut host, selection) = shop();
        let running = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
        assert_eq!(names(&running), ["proxy", "db"]);
        host.containers[0].auto_remove = true;
        host.containers[0].state = RunState::Paused;
        let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
        // Whoever lives in it keeps its network.
        assert_eq!(names(&stopping), ["db"]);
        assert!(stopping.order[0].paused);
        let refused = stop_set(&selection, &host, Touch::Replace, Stop).unwrap_err();
        assert!(refused.message.contains("--rm") && refused.message.contains("is paused now"));
    }

    /// It ran in what is left of the other one, and nobody could start it again.
    #[test]
    fn one_whose_company_is_gone_is_not_stopped() {
        let (mut host, selection) = shop();
        let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
        let check = |host: &HostFacts, held: bool| {
            check_company(&stopping, host, Touch::Read, |_| held).map_err(|found| found.message)
        };
        check(&host, false).unwrap();
        host.containers[1].uses = vec!["id-d".to_owned()];
        check(&host, false).unwrap();
        host.containers[0].state = RunState::Stopped;
        assert!(check(&host, false).unwrap_err().contains("lives in db, which has ended"));
        let db = host.containers.remove(0);
        assert!(check(&host, false).unwrap_err().contains("lives in id-d, which is gone"));
        // Whoever stops it for another operation has looked.
        check(&host, true).unwrap();
        host.containers[0].state = RunState::Paused;
        check(&host, false).unwrap();
        host.containers.insert(0, db);
        host.containers[1].state = RunState::Running;
        assert!(check(&host, false).is_err());
    }
}
