//! Containers that an upgrade has put aside: they carry the labels of their service and are none of it.

use super::facts::HostFacts;
use super::replacing::Replaced;
use super::selection::Selection;

/// What stands between the name of a container that is put aside and the mark of its upgrade.
const BEFORE: &str = ".before-";
/// How many hexadecimal digits a mark has.
const MARK: usize = 8;

/// The name that a container had before an upgrade put it aside; nothing for the name of any other.
fn name_before(name: &str) -> Option<&str> {
    let (before, mark) = name.rsplit_once(BEFORE)?;
    let is_mark = mark.len() == MARK && mark.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_mark && !before.is_empty()).then_some(before)
}

/// Whether a container of this name was put aside by an upgrade.
pub fn is_put_aside(name: &str) -> bool {
    name_before(name).is_some()
}

/// The containers that upgrades have left aside in whose place these are, by name.
pub fn left_aside<'a>(chosen: &[Replaced], host: &'a HostFacts) -> Vec<&'a str> {
    let is_of = |name: &str| {
        name_before(name).is_some_and(|before| chosen.iter().any(|one| one.name == before))
    };
    let names = host.containers.iter().map(|container| container.name.as_str());
    names.filter(|name| is_of(name)).collect()
}

impl Selection {
    /// The same without the containers that upgrades have put aside: nobody replaces those.
    #[must_use]
    pub fn in_place(mut self, host: &HostFacts) -> Self {
        self.containers
            .retain(|id| host.container(id).is_none_or(|container| !is_put_aside(&container.name)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::ContainerFacts;
    use super::*;

    #[test]
    fn what_an_upgrade_has_kept_is_no_container_of_its_service() {
        assert!(is_put_aside("shop-web-1.before-0a1b2c3d"));
        for name in ["shop-web-1", "web.before-lunch", "web.before-0a1b2c3", ".before-0a1b2c3d"] {
            assert!(!is_put_aside(name), "{name}");
        }
        let container = |name: &str| ContainerFacts {
            id: format!("id-{name}"),
            name: name.to_owned(),
            ..ContainerFacts::default()
        };
        let containers: Vec<ContainerFacts> =
            ["web", "web.before-0a1b2c3d", "db.before-0a1b2c3d"].map(container).into();
        let ids = containers.iter().map(|container| container.id.clone()).collect();
        let host = HostFacts { containers, ..HostFacts::default() };
        let selection = Selection { containers: ids, ..Selection::default() }.in_place(&host);
        assert_eq!(selection.containers, ["id-web"]);
        let chosen = [Replaced {
            id: "id-web".to_owned(),
            name: "web".to_owned(),
            aside: "web.before-ffffffff".to_owned(),
            image: "web:2".to_owned(),
            keeps_image: false,
        }];
        assert_eq!(left_aside(&chosen, &host), ["web.before-0a1b2c3d"]);
    }
}
