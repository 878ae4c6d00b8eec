//! Which containers an upgrade replaces, and by what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, HostFacts};
use super::selection::Selection;
use super::stopping::in_order;
use crate::plan::Failure;
use crate::spec::Reason;

/// A container that makes way for a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Id of the old container.
    pub id: String,
    /// Its name, which the new one takes over.
    pub name: String,
    /// What the old one is called meanwhile.
    pub aside: String,
    /// The image of the new one.
    pub image: String,
    /// It is made again for another's sake, of the very image that it has: its name may mean another by now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_image: bool,
}

/// The containers that images are named for, and every container of the host that lives in one of them,
/// whoever it belongs to and whether it runs or not: it names them by their ids and could never start
/// again otherwise. Those that others need come first.
///
/// `mark` tells this upgrade from others in the names of what is kept.
///
/// # Errors
/// [`Reason::InvalidSpec`] with the names there are, for a name that is none of the target.
pub fn replaced(
    images: &BTreeMap<String, String>,
    selection: &Selection,
    host: &HostFacts,
    mark: &str,
) -> Result<Vec<Replaced>, Failure> {
    let selected: Vec<&ContainerFacts> =
        selection.containers.iter().filter_map(|id| host.container(id)).collect();
    let mut chosen: Vec<(&ContainerFacts, Option<String>)> = Vec::new();
    for (name, image) in images {
        let is_meant = |container: &&&ContainerFacts| {
            container.name == *name || container.service() == Some(name)
        };
        let mut found = selected.iter().filter(is_meant).peekable();
        if found.peek().is_none() {
            let known: Vec<&str> = selected
                .iter()
                .map(|container| container.service().unwrap_or(&container.name))
                .collect();
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!("the target has no container or service `{name}`"),
            )
            .hint(format!("it has {}", known.join(", "))));
        }
        chosen.extend(found.map(|container| (*container, Some(image.clone()))));
    }
    loop {
        let dependent = host.containers.iter().find(|container| {
            chosen.iter().all(|(known, _)| known.id != container.id)
                && chosen.iter().any(|(used, _)| container.is_made_with(used))
        });
        let Some(dependent) = dependent else { break };
        chosen.push((dependent, None));
    }
    let containers: Vec<&ContainerFacts> = chosen.iter().map(|(container, _)| *container).collect();
    let mut order = in_order(&containers);
    order.reverse();
    Ok(order
        .into_iter()
        .filter_map(|container| {
            let (_, image) = chosen.iter().find(|(known, _)| known.id == container.id)?;
            Some(Replaced {
                id: container.id.clone(),
                name: container.name.clone(),
                aside: format!("{}.before-{mark}", container.name),
                image: image.as_ref().unwrap_or(&container.image).clone(),
                keeps_image: image.is_none(),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::facts::RunState;
    use super::*;

    fn container(name: &str, uses: &[&str]) -> ContainerFacts {
        ContainerFacts {
            id: format!("id-{name}"),
            name: name.to_owned(),
            image: format!("{name}:1"),
            uses: uses.iter().map(|name| (*name).to_owned()).collect(),
            ..ContainerFacts::default()
        }
    }

    fn shop() -> (Selection, HostFacts) {
        let containers =
            vec![container("web", &[]), container("tunnel", &["id-web"]), container("db", &[])];
        let ids = containers.iter().map(|container| container.id.clone()).collect();
        let selection = Selection { containers: ids, ..Selection::default() };
        (selection, HostFacts { containers, ..HostFacts::default() })
    }

    #[test]
    fn who_lives_in_the_network_of_a_replaced_one_is_made_again_after_it() {
        let (selection, host) = shop();
        let images = BTreeMap::from([("web".to_owned(), "web:2".to_owned())]);
        let found = replaced(&images, &selection, &host, "u1").unwrap();
        let said: Vec<String> =
            found.iter().map(|one| format!("{} {} {}", one.name, one.aside, one.image)).collect();
        assert_eq!(said, ["web web.before-u1 web:2", "tunnel tunnel.before-u1 tunnel:1"]);
    }

    #[test]
    fn who_lives_in_a_replaced_one_is_made_again_even_if_nobody_selected_it() {
        let (selection, mut host) = shop();
        let mut off = container("off", &["tunnel"]);
        off.state = RunState::Stopped;
        let mut heir = container("heir", &[]);
        heir.mounts_of = vec!["off".to_owned()];
        host.containers.extend([heir, off, container("stranger", &["db"])]);
        let images = BTreeMap::from([("web".to_owned(), "web:2".to_owned())]);
        let found = replaced(&images, &selection, &host, "u1").unwrap();
        let said: Vec<String> =
            found.iter().map(|one| format!("{} {}", one.name, one.image)).collect();
        assert_eq!(said, ["web web:2", "tunnel tunnel:1", "off off:1", "heir heir:1"]);
    }

    #[test]
    fn a_name_that_is_none_is_told_with_those_there_are() {
        let (selection, host) = shop();
        let images = BTreeMap::from([("shop".to_owned(), "web:2".to_owned())]);
        let failure = replaced(&images, &selection, &host, "u1").unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidSpec);
        assert_eq!(failure.hint.as_deref(), Some("it has web, tunnel, db"));
    }
}
