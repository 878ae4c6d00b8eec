//! The new container of an upgrade: everything that somebody chose for the old one, and what the new
//! image brings by itself. Pure: from the engine's JSON to the engine's JSON.
//!
//! The engine writes into a container's configuration what its image says, and does not say which is
//! which. Whatever is the same in the old image was the image's; to keep it would run the old command
//! of the old image in the new one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::facts::SHORT_ID;

/// Label that Compose compares with the id of the image that it would use.
const COMPOSE_IMAGE: &str = "com.docker.compose.image";

/// A container to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recreation {
    /// The body of `POST /containers/create`, with at most one network in it: engines before API 1.44
    /// take no more.
    pub body: Value,
    /// Networks to connect it to before it is started, each with the settings of its endpoint.
    pub networks: Vec<(String, Value)>,
}

/// Makes of the description of a container (`inspect`), the configuration of its image and the new
/// image the container to be made.
///
/// `own_labels` are added, and `names` are those of replaced containers by their ids: who shares the
/// network of one finds the new one by it. `old_image` and `new_image` are the `Config` of the images.
pub fn recreate(
    old: &Value,
    old_image: &Value,
    image: &str,
    image_id: &str,
    own_labels: &BTreeMap<String, String>,
    names: &BTreeMap<String, String>,
) -> Recreation {
    let mut body = chosen(&old["Config"], old_image);
    let id = old["Id"].as_str().unwrap_or_default();
    // A name that the engine made up of the id is not to be that of another container; a name of
    // somebody's own may well be how an id begins.
    let hostname = old["Config"]["Hostname"].as_str().unwrap_or_default();
    if hostname.is_empty() || hostname == short(id) {
        body.remove("Hostname");
    }
    body.insert("Image".to_owned(), json!(image));
    let mut labels = chosen_map(&old["Config"]["Labels"], &old_image["Labels"]);
    if labels.contains_key(COMPOSE_IMAGE) {
        labels.insert(COMPOSE_IMAGE.to_owned(), json!(image_id));
    }
    labels.extend(own_labels.iter().map(|(name, value)| (name.clone(), json!(value))));
    body.insert("Labels".to_owned(), Value::Object(labels));
    let mut host = old["HostConfig"].clone();
    keep_anonymous_volumes(&mut host, &old["Mounts"]);
    for field in ["NetworkMode", "PidMode", "IpcMode"] {
        let id = host[field].as_str().and_then(|mode| mode.strip_prefix("container:"));
        if let Some(name) = id.and_then(|id| name_of(id, names)) {
            host[field] = json!(format!("container:{name}"));
        }
    }
    for entry in host["VolumesFrom"].as_array_mut().into_iter().flatten() {
        let text = entry.as_str().unwrap_or_default();
        let (id, mode) = text.split_once(':').map_or((text, None), |(id, mode)| (id, Some(mode)));
        if let Some(name) = name_of(id, names) {
            *entry = json!(mode.map_or_else(|| name.clone(), |mode| format!("{name}:{mode}")));
        }
    }
    let shared = host["NetworkMode"].as_str().is_some_and(|mode| mode.starts_with("container:"));
    if shared {
        // Its name and ports are those of the container whose network it uses.
        for field in ["Hostname", "Domainname", "ExposedPorts"] {
            body.remove(field);
        }
    }
    body.insert("HostConfig".to_owned(), host);
    let mut networks = endpoints(old, id);
    if !networks.is_empty() {
        let mode = old["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
        let first = networks.iter().position(|(name, _)| name == mode).unwrap_or(0);
        let (name, mut settings) = networks.remove(first);
        // Newer engines want it here, older ones where it was; each ignores the other.
        if let Some(address) = body.get("MacAddress")
            && settings["MacAddress"].is_null()
        {
            settings["MacAddress"] = address.clone();
        }
        body.insert("NetworkingConfig".to_owned(), json!({"EndpointsConfig": {name: settings}}));
    }
    Recreation { body: Value::Object(body), networks }
}

/// The name of the one that is meant by its id, in full or in short as the engine keeps it in `VolumesFrom`.
fn name_of<'a>(id: &str, names: &'a BTreeMap<String, String>) -> Option<&'a String> {
    let means = |full: &str| id.len() >= SHORT_ID && full.starts_with(id);
    names.get(id).or_else(|| names.iter().find(|(full, _)| means(full)).map(|(_, name)| name))
}

/// The fields of a container's configuration that are not its image's.
pub(super) fn chosen(configuration: &Value, image: &Value) -> Map<String, Value> {
    let mut chosen = Map::new();
    for (field, value) in configuration.as_object().into_iter().flatten() {
        let of_image = &image[field];
        let kept = match field.as_str() {
            "Env" => json!(chosen_list(value, of_image)),
            "ExposedPorts" | "Volumes" => match (value, of_image) {
                (Value::Array(_), _) => json!(chosen_list(value, of_image)),
                _ => Value::Object(chosen_map(value, of_image)),
            },
            // An entry point of somebody's own takes no arguments from the image: both or neither.
            "Cmd" if configuration["Entrypoint"] != image["Entrypoint"] => value.clone(),
            _ if value == of_image => continue,
            _ => value.clone(),
        };
        if !kept.is_null() {
            chosen.insert(field.clone(), kept);
        }
    }
    keep_what_is_missing(&mut chosen, configuration, image);
    chosen
}

/// Keeps that somebody took the image's entry point away, or its arguments. The engine fills in from the image
/// what is not there: no entry point by an empty word, and no arguments by an entry point.
fn keep_what_is_missing(chosen: &mut Map<String, Value>, configuration: &Value, image: &Value) {
    let is_given = |value: &Value| value.as_array().is_some_and(|words| !words.is_empty());
    // What an image says that is not known is not known either.
    let is_filled_in = |field: &str| image.is_null() || is_given(&image[field]);
    let (entry_point, command) = (&configuration["Entrypoint"], &configuration["Cmd"]);
    match (is_given(entry_point), is_given(command)) {
        (true, false) if is_filled_in("Cmd") => {
            chosen.insert("Entrypoint".to_owned(), entry_point.clone());
        }
        (false, true) if is_filled_in("Entrypoint") => {
            chosen.insert("Entrypoint".to_owned(), json!([""]));
            chosen.insert("Cmd".to_owned(), command.clone());
        }
        _ => {}
    }
}

fn chosen_list(list: &Value, of_image: &Value) -> Vec<Value> {
    let of_image = of_image.as_array().map(Vec::as_slice).unwrap_or_default();
    let list = list.as_array().into_iter().flatten();
    list.filter(|item| !of_image.contains(item)).cloned().collect()
}

fn chosen_map(map: &Value, of_image: &Value) -> Map<String, Value> {
    let entries = map.as_object().into_iter().flatten();
    entries
        .filter(|(name, value)| of_image.get(name.as_str()) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Volumes without a name of anybody's go with the service, not with the container: the new one mounts
/// the very same.
fn keep_anonymous_volumes(host: &mut Value, mounts: &Value) {
    let is_target = |mount: &Value, destination: &str| {
        mount["Target"].as_str().is_some_and(|target| cleaned(target) == destination)
    };
    let named = |host: &Value, destination: &str| {
        let binds = host["Binds"].as_array().into_iter().flatten();
        let in_binds = binds
            .filter_map(Value::as_str)
            .any(|bind| bind.split(':').nth(1).is_some_and(|found| cleaned(found) == destination));
        let mut mounts = host["Mounts"].as_array().into_iter().flatten();
        in_binds || mounts.any(|mount| is_target(mount, destination) && mount["Source"].is_string())
    };
    for mount in mounts.as_array().into_iter().flatten() {
        let (Some(name), Some(destination)) =
            (mount["Name"].as_str(), mount["Destination"].as_str())
        else {
            continue;
        };
        let destination = cleaned(destination);
        if mount["Type"] != "volume" || named(host, &destination) {
            continue;
        }
        let mut list: Vec<Value> = host["Mounts"].as_array().cloned().unwrap_or_default();
        list.retain(|mount| !is_target(mount, &destination));
        list.push(json!({
            "Type": "volume", "Source": name, "Target": destination,
            "ReadOnly": mount["RW"] == false,
        }));
        host["Mounts"] = json!(list);
    }
}

/// A path as the engine compares it: `/data/` and `/srv//../data` are `/data`.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// What the engine calls a container in short, within its networks and as its host name.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The settings of each network that somebody chose; what the engine filled in is left to it.
fn endpoints(old: &Value, id: &str) -> Vec<(String, Value)> {
    let networks = old["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    networks
        .filter(|(name, _)| !matches!(name.as_str(), "host" | "none"))
        .map(|(name, found)| {
            let mut settings = Map::new();
            for field in ["IPAMConfig", "Links", "DriverOpts", "GwPriority"] {
                let value = &found[field];
                let empty = value.is_null()
                    || value.as_object().is_some_and(Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value == 0;
                if !empty {
                    settings.insert(field.to_owned(), value.clone());
                }
            }
            let aliases: Vec<&Value> = found["Aliases"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|alias| alias.as_str() != Some(short(id)))
                .collect();
            if !aliases.is_empty() {
                settings.insert("Aliases".to_owned(), json!(aliases));
            }
            if let Some(address) = chosen_address(found) {
                settings.insert("MacAddress".to_owned(), json!(address));
            }
            (name.clone(), Value::Object(settings))
        })
        .collect()
}

/// A hardware address that is not the one that the engine makes of the IP address: `02:42` and its four
/// bytes. Engines from 28 on draw a random one, which is not worth keeping; they tell of a chosen one
/// nowhere else, and are given it again.
pub fn chosen_address(endpoint: &Value) -> Option<&str> {
    let address = endpoint["MacAddress"].as_str().filter(|address| !address.is_empty())?;
    let bytes: Vec<String> = endpoint["IPAddress"]
        .as_str()?
        .split('.')
        .filter_map(|part| Some(format!("{:02x}", part.parse::<u8>().ok()?)))
        .collect();
    (address.to_lowercase() != format!("02:42:{}", bytes.join(":"))).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Value {
        json!({
            "Id": "0123456789abcdef0123",
            "Config": {
                "Hostname": "0123456789ab",
                "User": "app",
                "Env": ["PATH=/bin", "PASSWORD=x"],
                "Cmd": ["serve", "--old-default"],
                "Entrypoint": ["/entry"],
                "Labels": {
                    "org.opencontainers.image.version": "1.0.0",
                    "com.docker.compose.project": "shop",
                    "com.docker.compose.image": "sha256:old"
                },
                "Healthcheck": {"Test": ["CMD", "old-check"]},
                "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
                "StopTimeout": 30,
                "WorkingDir": "/srv"
            },
            "HostConfig": {
                "Binds": ["shop_data:/data"],
                "NetworkMode": "shop_default",
                "RestartPolicy": {"Name": "always"},
                "Memory": 67_108_864,
                "CapAdd": ["NET_ADMIN"]
            },
            "Mounts": [
                {"Type": "volume", "Name": "shop_data", "Destination": "/data", "RW": true},
                {"Type": "volume", "Name": "a1b2", "Destination": "/cache", "RW": true}
            ],
            "NetworkSettings": {"Networks": {
                "back": {"IPAMConfig": {"IPv4Address": "10.9.0.7"}, "Aliases": ["web", "0123456789ab"],
                         "IPAddress": "10.9.0.7", "MacAddress": "02:42:0a:09:00:07"},
                "shop_default": {"IPAMConfig": null, "Aliases": null,
                         "IPAddress": "172.18.0.2", "MacAddress": "aa:bb:cc:dd:ee:ff"}
            }}
        })
    }

    fn old_image() -> Value {
        json!({
            "Env": ["PATH=/bin"], "Cmd": ["serve", "--old-default"], "Entrypoint": ["/entry"],
            "Labels": {"org.opencontainers.image.version": "1.0.0"},
            "Healthcheck": {"Test": ["CMD", "old-check"]},
            "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/srv", "User": ""
        })
    }

    fn names() -> BTreeMap<String, String> {
        BTreeMap::from([("beef".to_owned(), "vpn".to_owned())])
    }

    #[test]
    fn what_somebody_chose_stays_and_what_the_image_said_goes() {
        let own = BTreeMap::from([("eider.upgrade".to_owned(), "u1".to_owned())]);
        let made = recreate(&old(), &old_image(), "shop/web:2", "sha256:new", &own, &names());
        let body = &made.body;
        assert_eq!(body["Image"], "shop/web:2");
        assert_eq!(body["Env"], json!(["PASSWORD=x"]));
        assert_eq!(body["User"], "app");
        assert_eq!(body["StopTimeout"], 30);
        assert_eq!(body["ExposedPorts"], json!({"81/tcp": {}}));
        for inherited in ["Cmd", "Entrypoint", "Healthcheck", "WorkingDir", "Hostname"] {
            assert!(body.get(inherited).is_none(), "{inherited}: {body:#}");
        }
        assert_eq!(
            body["Labels"],
            json!({"com.docker.compose.project": "shop", "com.docker.compose.image": "sha256:new",
                   "eider.upgrade": "u1"})
        );
        for kept in ["Binds", "RestartPolicy", "Memory", "CapAdd", "NetworkMode"] {
            assert_eq!(body["HostConfig"][kept], old()["HostConfig"][kept]);
        }
    }

    #[test]
    fn data_and_networks_go_with_the_service() {
        let made =
            recreate(&old(), &old_image(), "shop/web:2", "sha256:new", &BTreeMap::new(), &names());
        assert_eq!(
            made.body["HostConfig"]["Mounts"],
            json!([{"Type": "volume", "Source": "a1b2", "Target": "/cache", "ReadOnly": false}])
        );
        // The network of its mode first, with the address that somebody gave it.
        assert_eq!(
            made.body["NetworkingConfig"],
            json!({"EndpointsConfig": {"shop_default": {"MacAddress": "aa:bb:cc:dd:ee:ff"}}})
        );
        let settings = json!({"IPAMConfig": {"IPv4Address": "10.9.0.7"}, "Aliases": ["web"]});
        assert_eq!(made.networks, [("back".to_owned(), settings)]);
    }

    #[test]
    fn an_own_command_or_entry_point_is_kept_with_its_arguments() {
        let mut changed = old();
        changed["Config"]["Entrypoint"] = json!(["/mine"]);
        let body = recreate(&changed, &old_image(), "i", "d", &BTreeMap::new(), &names()).body;
        assert_eq!(body["Entrypoint"], json!(["/mine"]));
        assert_eq!(body["Cmd"], json!(["serve", "--old-default"]));
        changed["Config"]["Hostname"] = json!("db.example");
        changed["HostConfig"]["NetworkMode"] = json!("container:beef");
        changed["NetworkSettings"]["Networks"] = json!({});
        let made = recreate(&changed, &old_image(), "i", "d", &BTreeMap::new(), &names());
        assert!(made.body.get("Hostname").is_none() && made.networks.is_empty());
        assert_eq!(made.body["HostConfig"]["NetworkMode"], "container:vpn");
    }

    /// The new version ran with the entry point of its image, or with arguments that nobody gave it.
    #[test]
    fn an_entry_point_or_arguments_that_were_taken_away_do_not_come_back() {
        let made = |entry_point: Value, command: Value, image: &Value| {
            let mut changed = old();
            changed["Config"]["Entrypoint"] = entry_point;
            changed["Config"]["Cmd"] = command;
            let body = recreate(&changed, image, "i", "d", &BTreeMap::new(), &names()).body;
            (body.get("Entrypoint").cloned(), body.get("Cmd").cloned())
        };
        let (shell, entry) = (json!(["/bin/sh"]), json!(["/entry"]));
        let cleared = Some(json!([""]));
        let unknown = Value::Null;
        for image in [&old_image(), &unknown] {
            assert_eq!(
                made(Value::Null, shell.clone(), image),
                (cleared.clone(), Some(shell.clone()))
            );
            assert_eq!(made(entry.clone(), Value::Null, image), (Some(entry.clone()), None));
        }
        // With the image's own arguments it is still not its entry point.
        let arguments = json!(["serve", "--old-default"]);
        assert_eq!(
            made(Value::Null, arguments.clone(), &old_image()),
            (cleared, Some(arguments.clone()))
        );
        let plain = json!({"Cmd": arguments});
        assert_eq!(made(Value::Null, arguments, &plain), (None, None), "all of it is the image's");
    }

    #[test]
    fn a_destination_with_a_trailing_slash_is_mounted_once() {
        let mut changed = old();
        changed["HostConfig"]["Binds"] = json!(["shop_data:/data/"]);
        changed["HostConfig"]["Mounts"] = json!([{"Type": "volume", "Target": "/var//cache/"}]);
        changed["Mounts"][1]["Destination"] = json!("/var/cache");
        let body = recreate(&changed, &old_image(), "i", "d", &BTreeMap::new(), &names()).body;
        assert_eq!(
            body["HostConfig"]["Mounts"],
            json!([{"Type": "volume", "Source": "a1b2", "Target": "/var/cache", "ReadOnly": false}])
        );
        for (path, clean) in [("/", "/"), ("/a/./b/", "/a/b"), ("/a/../b", "/b"), ("//a", "/a")] {
            assert_eq!(cleaned(path), clean);
        }
    }

    #[test]
    fn a_chosen_host_name_that_the_id_begins_with_is_kept() {
        let mut changed = old();
        changed["Config"]["Hostname"] = json!("0");
        let body = recreate(&changed, &old_image(), "i", "d", &BTreeMap::new(), &names()).body;
        assert_eq!(body["Hostname"], "0");
    }
}
