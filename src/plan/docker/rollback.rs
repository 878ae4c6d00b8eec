//! What the rollback of an upgrade puts back, and what it does not.

use super::facts::{HostFacts, MountKind, is_anonymous};
use super::replacing::Replaced;
use super::selection::{Root, RootSource, Selection, is_system};

impl Selection {
    /// The same with the anonymous volumes of the selected containers. Their names are known as long as the
    /// containers are there, and an upgrade mounts the very same volumes again: what the new version writes
    /// there has to be undone with the rest.
    #[must_use]
    pub fn with_anonymous(mut self, host: &HostFacts) -> Self {
        let mut uncovered = std::mem::take(&mut self.uncovered);
        uncovered.retain(|left| {
            let container = host.containers.iter().find(|found| found.name == left.container);
            let mounts = container.into_iter().flat_map(|found| &found.mounts);
            let name =
                mounts.filter(|mount| mount.destination == left.place).find_map(
                    |mount| match &mount.kind {
                        MountKind::Volume(name) if is_anonymous(name) => Some(name.clone()),
                        _ => None,
                    },
                );
            // One that somebody left out on purpose is usual, and stays left out.
            let Some(name) = name.filter(|_| !left.usual) else { return true };
            let source = RootSource::Volume(name);
            let containers = [left.container.clone()];
            match self.roots.iter_mut().find(|root| root.source == source) {
                Some(root) => root.containers.extend(containers),
                None => self.roots.push(Root { source, containers: containers.into() }),
            }
            false
        });
        self.roots.sort();
        self.uncovered = uncovered;
        self
    }

    /// Where these containers write what no backup of this selection holds, each with why. Memory, what is
    /// the system's and what lies outside of mounts are not among it: nobody expects those to come back.
    pub fn not_put_back(&self, chosen: &[Replaced], host: &HostFacts) -> Vec<String> {
        let mut found = Vec::new();
        for left in &self.uncovered {
            let replaced = chosen.iter().filter(|one| one.name == left.container);
            let containers = replaced.filter_map(|one| host.container(&one.id));
            let mut mounts = containers.flat_map(|container| &container.mounts);
            let is_written = mounts.any(|mount| {
                mount.destination == left.place
                    && mount.writable
                    && match &mount.kind {
                        MountKind::Volume(_) => true,
                        MountKind::Bind(path) => !is_system(path, host),
                        MountKind::Temporary => false,
                    }
            });
            if is_written {
                found.push(format!("{} of {} ({})", left.place, left.container, left.why));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{ContainerFacts, MountFacts};
    use super::super::selection::select;
    use super::*;

    fn mount(kind: MountKind, destination: &str) -> MountFacts {
        MountFacts { kind, destination: destination.to_owned(), writable: true }
    }

    #[test]
    fn a_rollback_holds_anonymous_volumes_and_says_what_it_does_not_hold() {
        let anonymous = "a1".repeat(32);
        let volume = |name: &str| MountKind::Volume(name.to_owned());
        let web = ContainerFacts {
            id: "id-web".to_owned(),
            name: "web".to_owned(),
            labels: [("eider.exclude".to_owned(), "cache".to_owned())].into(),
            mounts: vec![
                mount(volume("data"), "/data"),
                mount(volume(&anonymous), "/anonymous"),
                mount(volume("cache"), "/cache"),
                mount(MountKind::Temporary, "/tmp"),
                mount(MountKind::Bind("/run/lock".to_owned()), "/lock"),
            ],
            ..ContainerFacts::default()
        };
        let host = HostFacts { containers: vec![web], ..HostFacts::default() };
        let target = serde_json::from_str("{\"containers\": [\"web\"]}").unwrap();
        let plain = select(&target, &host).unwrap();
        let names = |selection: &Selection| -> Vec<String> {
            selection.roots.iter().map(Root::name).collect()
        };
        assert_eq!(names(&plain), ["volumes/data"], "a backup of somebody's own leaves it out");
        let selection = plain.with_anonymous(&host);
        assert_eq!(names(&selection), [format!("volumes/{anonymous}"), "volumes/data".to_owned()]);
        assert!(selection.uncovered.iter().all(|left| left.usual), "{:?}", selection.uncovered);
        let chosen = [Replaced {
            id: "id-web".to_owned(),
            name: "web".to_owned(),
            aside: "web.before-0a1b2c3d".to_owned(),
            image: "web:2".to_owned(),
            keeps_image: false,
        }];
        assert_eq!(
            selection.not_put_back(&chosen, &host),
            ["/cache of web (the label eider.exclude names it)"]
        );
        assert_eq!(selection.not_put_back(&[], &host), [""; 0]);
    }
}
