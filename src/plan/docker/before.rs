//! How containers were before any operation touched them.

use std::collections::HashSet;

use super::facts::{HostFacts, RunState};
use super::stopping::StopEntry;

impl HostFacts {
    /// Puts those that other operations hold still back to how those have found them: what they are now is not
    /// what they are to be again. Returns the ids of those that do not run at all for now.
    pub fn as_before(&mut self, held: &[StopEntry]) -> HashSet<String> {
        let mut down = HashSet::new();
        for container in &mut self.containers {
            let Some(entry) = held.iter().find(|entry| entry.id == container.id) else { continue };
            match container.state {
                RunState::Running | RunState::Restarting => continue,
                RunState::Stopped => {
                    down.insert(container.id.clone());
                }
                RunState::Paused => {}
            }
            container.state = if entry.paused { RunState::Paused } else { RunState::Running };
            container.is_ill = entry.was_ill;
            container.is_unproven = entry.was_unproven;
        }
        down
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::ContainerFacts;
    use super::super::stopping::entries;
    use super::*;

    fn container(state: RunState) -> ContainerFacts {
        ContainerFacts { state, ..ContainerFacts::of_shop("db", "") }
    }

    /// It was frozen for good by the last of two Backups that had paused it, or left running though somebody had
    /// frozen it.
    #[test]
    fn what_another_operation_has_done_to_one_is_not_how_it_was() {
        use RunState::{Paused, Restarting, Running, Stopped};
        let second = |was: RunState, now: RunState| {
            let held = entries(&[&container(was)]);
            let mut host = HostFacts { containers: vec![container(now)], ..HostFacts::default() };
            let down = host.as_before(&held).len();
            (host.containers[0].state, entries(&[&host.containers[0]])[0].paused, down)
        };
        assert_eq!(second(Running, Paused), (Running, false, 0));
        assert_eq!(second(Running, Stopped), (Running, false, 1));
        assert_eq!(second(Paused, Stopped), (Paused, true, 1));
        assert_eq!(second(Paused, Paused), (Paused, true, 0));
        // It is let go by now.
        assert_eq!(second(Paused, Running), (Running, false, 0));
        assert_eq!(second(Running, Restarting), (Restarting, false, 0));
    }

    #[test]
    fn who_was_ill_when_it_was_stopped_is_not_awaited_by_the_next_either() {
        let ill = ContainerFacts { is_ill: true, ..container(RunState::Running) };
        let held = entries(&[&ill]);
        let containers = vec![container(RunState::Stopped), ContainerFacts::of_shop("web", "")];
        let mut host = HostFacts { containers, ..HostFacts::default() };
        assert_eq!(host.as_before(&held), HashSet::from(["id-db".to_owned()]));
        assert!(host.containers[0].is_ill);
        assert!(!host.containers[1].is_ill, "nobody holds it");
    }
}
