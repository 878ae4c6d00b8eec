//! Containers and networks made again from what an archive keeps of them, where they are gone. Pure:
//! from the engine's JSON to the engine's JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{ContainerFacts, HostFacts, PROJECT};
use super::placement::Definitions;
use super::recreation::{Recreation, recreate};
use super::returning::missed;
use super::stopping::in_order;
use crate::spec::target::DockerTarget;

/// A container of the archive that is not on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// The image as it was named when the container was made.
    pub image: String,
    /// The id of that image then.
    pub image_id: String,
    /// Its names in registries, with digests.
    pub image_digests: Vec<String>,
    /// Whether it ran when the archive was made; it is started only then.
    pub ran: bool,
    /// Whether it was frozen then: it is frozen again once it is started.
    pub paused: bool,
    /// How it was made.
    pub definition: Value,
}

impl Missing {
    /// Whether this is a target that it was of when its definition was kept: its project, or its name.
    pub fn is_of(&self, target: Option<&DockerTarget>) -> bool {
        let labels = &self.definition["config"]["Labels"];
        target.is_some_and(|target| {
            let of_project =
                target.project.as_deref().is_some_and(|project| labels[PROJECT] == project);
            of_project || target.containers.iter().flatten().any(|name| *name == self.name)
        })
    }
}

/// The containers of an archive whose names nobody has on this host, and those that have this label
/// with this value: made by an earlier turn.
pub fn missing(definitions: &Definitions, host: &HostFacts, made: (&str, &str)) -> Vec<Missing> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is_there = |name: &str| {
        host.containers.iter().any(|container| {
            container.name == name && container.labels.get(made.0).is_none_or(|mark| mark != made.1)
        })
    };
    definitions
        .containers
        .iter()
        .filter(|definition| !is_there(definition["name"].as_str().unwrap_or_default()))
        .map(|definition| Missing {
            name: text(&definition["name"]),
            image: text(&definition["config"]["Image"]),
            image_id: text(&definition["imageId"]),
            image_digests: definition["imageDigests"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect(),
            // Archives of versions that did not keep it were mostly of what ran.
            ran: definition["ran"].as_bool().unwrap_or(true),
            paused: definition["paused"].as_bool().unwrap_or(false),
            definition: definition.clone(),
        })
        .collect()
}

/// The order of making: whose network, processes or volumes others use comes before them.
pub fn making_order(missing: &[Missing]) -> Vec<&Missing> {
    let facts: Vec<ContainerFacts> = missing
        .iter()
        .map(|one| {
            let id = one.definition["id"].as_str().unwrap_or_default().to_owned();
            ContainerFacts { id, name: one.name.clone(), ..ContainerFacts::default() }
                .tied_by(&one.definition["hostConfig"])
        })
        .collect();
    let order = in_order(&facts.iter().collect::<Vec<_>>());
    let found = |facts: &ContainerFacts| missing.iter().find(|one| one.name == facts.name);
    order.into_iter().rev().filter_map(found).collect()
}

/// What is to be said of those of an archive that are there and cannot be started: they were made with the very one
/// that is gone, and another one in its place is not enough. Who calls it by its name finds the new one.
pub fn stranded(definitions: &Definitions, host: &HostFacts) -> Vec<String> {
    let is_kept = |name: &str| definitions.containers.iter().any(|one| one["name"] == name);
    let found = host.containers.iter().filter(|container| is_kept(&container.name));
    let found = found.filter_map(|container| {
        let (used, _) = missed(container, host).filter(|(_, found)| found.is_none())?;
        let name = &container.name;
        (!is_kept(used)).then(|| {
            format!(
                "{name} cannot be started any more: it lives in a container that is gone; remove {name}, and it is \
                 made again as well"
            )
        })
    });
    found.collect()
}

/// The container to make; `image` is what the host calls the image.
pub fn revive(
    missing: &Missing,
    definitions: &Definitions,
    image: &str,
    image_id: &str,
    own_labels: &BTreeMap<String, String>,
) -> Recreation {
    let definition = &missing.definition;
    let old = json!({
        "Id": definition["id"],
        "Config": definition["config"],
        "HostConfig": definition["hostConfig"],
        "NetworkSettings": {"Networks": definition["networks"]},
    });
    let names: BTreeMap<String, String> = definitions
        .containers
        .iter()
        .filter_map(|one| Some((one["id"].as_str()?.to_owned(), one["name"].as_str()?.to_owned())))
        .collect();
    // It is the same image: everything that it said is kept with what somebody chose.
    recreate(&old, &Value::Null, image, image_id, own_labels, &names)
}

/// The networks to make first: those that missing containers need and that are not there. Addresses
/// are asked for only where a container has one of its own: otherwise the engine finds free ones.
pub fn networks(definitions: &Definitions, missing: &[Missing], there: &[String]) -> Vec<Value> {
    let uses = |name: &str, check: &dyn Fn(&Value) -> bool| {
        missing.iter().any(|one| one.definition["networks"].get(name).is_some_and(check))
    };
    definitions
        .networks
        .iter()
        .filter(|network| {
            let name = network["Name"].as_str().unwrap_or_default();
            !there.iter().any(|known| known == name) && uses(name, &|_| true)
        })
        .map(|network| {
            let name = network["Name"].as_str().unwrap_or_default();
            let has_address = |endpoint: &Value| {
                let addresses = endpoint["IPAMConfig"].as_object();
                addresses.is_some_and(|addresses| addresses.values().any(|one| !one.is_null()))
            };
            let mut network = network.clone();
            if !uses(name, &has_address)
                && let Some(fields) = network.as_object_mut()
            {
                fields.remove("IPAM");
            }
            network
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions() -> Definitions {
        let network =
            |name: &str| json!({"Name": name, "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}});
        Definitions {
            containers: vec![
                json!({
                    "id": "beef0000", "name": "shop-db-1", "imageId": "sha256:db", "ran": true,
                    "imageDigests": ["shop/db@sha256:1"],
                    "paused": true,
                    "config": {"Image": "shop/db:1", "Cmd": ["serve"], "Hostname": "beef0000"},
                    "hostConfig": {"NetworkMode": "shop_back"},
                    "networks": {"shop_back": {"IPAMConfig": {"IPv4Address": "10.9.0.7"}}},
                }),
                json!({
                    "id": "cafe0000", "name": "shop-proxy-1", "imageId": "sha256:proxy", "ran": false,
                    "config": {"Image": "shop/proxy:1"},
                    "hostConfig": {"NetworkMode": "container:beef0000"},
                    "networks": {"shop_front": {"IPAMConfig": null}},
                }),
            ],
            networks: vec![network("shop_back"), network("shop_front"), network("other")],
            ..Definitions::default()
        }
    }

    #[test]
    fn those_are_missing_whose_names_are_free_or_whose_owner_this_restore_made() {
        let host = |label: Option<&str>| HostFacts {
            containers: vec![ContainerFacts {
                name: "shop-db-1".to_owned(),
                labels: label
                    .map(|mark| ("eider.restore".to_owned(), mark.to_owned()))
                    .into_iter()
                    .collect(),
                ..ContainerFacts::default()
            }],
            ..HostFacts::default()
        };
        let names = |host: &HostFacts| -> Vec<String> {
            let found = missing(&definitions(), host, ("eider.restore", "m1"));
            found.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&host(None)), ["shop-proxy-1"]);
        assert_eq!(names(&host(Some("other"))), ["shop-proxy-1"]);
        assert_eq!(names(&host(Some("m1"))), ["shop-db-1", "shop-proxy-1"]);
    }

    #[test]
    fn a_container_is_made_as_it_was_and_finds_the_others_by_name() {
        let definitions = definitions();
        let found = missing(&definitions, &HostFacts::default(), ("l", "m"));
        assert!(found[0].ran && !found[1].ran);
        assert!(found[0].paused && !found[1].paused);
        let labels = BTreeMap::from([("eider.restore".to_owned(), "m1".to_owned())]);
        let db = revive(&found[0], &definitions, "shop/db:1", "sha256:db", &labels).body;
        assert_eq!(db["Cmd"], json!(["serve"]), "nothing is left to the image");
        assert!(db.get("Hostname").is_none(), "the engine made it up");
        assert_eq!(db["Labels"]["eider.restore"], "m1");
        let proxy = revive(&found[1], &definitions, "shop/proxy:1", "x", &labels).body;
        assert_eq!(proxy["HostConfig"]["NetworkMode"], "container:shop-db-1");
    }

    #[test]
    fn who_uses_volumes_or_processes_of_others_is_made_after_them_however_long_the_chain() {
        let container = |name: &str, host: Value| json!({"id": format!("{name}0123456789"), "name": name, "hostConfig": host});
        let definitions = Definitions {
            containers: vec![
                container("a", json!({"PidMode": "container:b"})),
                container("b", json!({"VolumesFrom": ["c0123456789:ro"]})),
                container("c", json!({"IpcMode": "container:d0123456789", "PidMode": ""})),
                container("d", json!({"NetworkMode": "container:f0123456789"})),
                container("e", json!({"Links": ["/a:/e/database"]})),
                container("f", json!({"NetworkMode": "bridge", "VolumesFrom": null})),
            ],
            ..Definitions::default()
        };
        let found = missing(&definitions, &HostFacts::default(), ("l", "m"));
        let order: Vec<&str> = making_order(&found).iter().map(|one| &*one.name).collect();
        assert_eq!(order, ["f", "d", "c", "b", "a", "e"]);
        let names = |entry: &str| {
            let mut user = container("user", json!({"VolumesFrom": [entry]}));
            user["id"] = json!("0");
            let all = Definitions {
                containers: vec![user, definitions.containers[2].clone()],
                ..Definitions::default()
            };
            let found = missing(&all, &HostFacts::default(), ("l", "m"));
            revive(&found[0], &all, "i", "d", &BTreeMap::new()).body["HostConfig"]["VolumesFrom"]
                .clone()
        };
        assert_eq!(names("c0123456789:ro"), json!(["c:ro"]));
        assert_eq!(names("other"), json!(["other"]));
    }

    /// The engine keeps a short id as it was given: nobody has it on the new host.
    #[test]
    fn who_was_given_mounts_by_a_short_id_finds_them_by_name() {
        let id = "c0123456789abcdef";
        let definitions = Definitions {
            containers: vec![
                json!({"id": "u", "name": "user", "hostConfig": {
                    "VolumesFrom": ["c0123456789a:ro", "c0123456789a", "c01"],
                    "NetworkMode": format!("container:{id}"), "PidMode": "container:c0123456789a",
                }}),
                json!({"id": id, "name": "zz", "hostConfig": {}}),
            ],
            ..Definitions::default()
        };
        let found = missing(&definitions, &HostFacts::default(), ("l", "m"));
        let order: Vec<&str> = making_order(&found).iter().map(|one| &*one.name).collect();
        assert_eq!(order, ["zz", "user"]);
        let host =
            revive(&found[0], &definitions, "i", "d", &BTreeMap::new()).body["HostConfig"].clone();
        assert_eq!(host["VolumesFrom"], json!(["zz:ro", "zz", "c01"]));
        assert_eq!(host["NetworkMode"], "container:zz");
        assert_eq!(host["PidMode"], "container:zz");
    }

    #[test]
    fn who_lives_in_one_that_is_made_again_and_was_left_is_told() {
        let definitions = definitions();
        let proxy = |uses: &str| HostFacts {
            containers: vec![ContainerFacts {
                id: "cafe0000".to_owned(),
                name: "shop-proxy-1".to_owned(),
                uses: vec![uses.to_owned()],
                ..ContainerFacts::default()
            }],
            ..HostFacts::default()
        };
        let told = |uses: &str| {
            let host = proxy(uses);
            stranded(&definitions, &host)
        };
        assert!(told("beef0000")[0].starts_with("shop-proxy-1 cannot be started any more"));
        // It was made anew after the archive was, and is gone by now.
        assert_eq!(told("feed0000").len(), 1);
        assert_eq!(told("shop-db-1"), Vec::<String>::new());
        let mut others = proxy("feed0000");
        others.containers[0].name = "of-others".to_owned();
        assert_eq!(stranded(&definitions, &others), Vec::<String>::new());
    }

    #[test]
    fn networks_that_are_needed_and_gone_are_made_and_keep_addresses_somebody_chose() {
        let definitions = definitions();
        let found = missing(&definitions, &HostFacts::default(), ("l", "m"));
        let made = networks(&definitions, &found, &[]);
        let names: Vec<&str> = made.iter().filter_map(|one| one["Name"].as_str()).collect();
        assert_eq!(names, ["shop_back", "shop_front"]);
        assert!(made[0].get("IPAM").is_some() && made[1].get("IPAM").is_none());
        let there = ["shop_back".to_owned(), "shop_front".to_owned()];
        assert!(networks(&definitions, &found, &there).is_empty());
    }
}
