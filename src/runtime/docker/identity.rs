//! Which of the engine's containers this process runs in, and by which of them it reaches the engine.
//!
//! May not look at data: it goes by what the kernel says of this process and the engine of its containers.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};

use bollard::models::{ContainerInspectResponse, EndpointSettings, NetworkSettings};

use super::listing::run_state;
use crate::plan::Failure;
use crate::plan::docker::{RunState, is_beneath};
use crate::spec::Reason;

/// What is mounted into every container, whatever its own mounts are.
const OF_EVERY_CONTAINER: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/run/secrets",
    "/sbin/docker-init",
];

/// What the kernel says of a process.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// Its mounts (`proc(5)`, mountinfo).
    pub mounts: String,
    /// Its control groups (`cgroups(7)`, `/proc/PID/cgroup`).
    pub groups: String,
}

impl Traces {
    /// Of this process; nothing where there is no `/proc`.
    pub fn of_this_process() -> Self {
        let read = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
        Self { mounts: read("/proc/self/mountinfo"), groups: read("/proc/self/cgroup") }
    }

    /// Whether these are traces of a process in the network of this container: the engine mounts files that
    /// lie in a directory of its id into whoever lives there. The host sees mounts of such directories too,
    /// but at other places.
    pub fn lead_to(&self, id: &str) -> bool {
        let directory = directory(id);
        self.mounts.lines().any(|line| {
            let (root, point) = root_and_point(line);
            root.contains(&directory)
                && matches!(point, "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf")
        })
    }

    /// The directory that what is written outside of mounts goes to.
    fn upper_directory(&self) -> Option<&str> {
        let root = self.mounts.lines().find(|line| root_and_point(line).1 == "/")?;
        root.split([' ', ',']).find_map(|option| option.strip_prefix("upperdir="))
    }

    /// Where something is mounted that is not in every container.
    fn points(&self) -> BTreeSet<&str> {
        let points = self.mounts.lines().map(|line| root_and_point(line).1);
        points.filter(|point| is_own_mount(point)).collect()
    }
}

fn directory(id: &str) -> String {
    format!("/containers/{id}/")
}

fn root_and_point(line: &str) -> (&str, &str) {
    let mut fields = line.split(' ').skip(3);
    (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
}

fn is_own_mount(point: &str) -> bool {
    !matches!(point, "" | "/") && !OF_EVERY_CONTAINER.iter().any(|above| is_beneath(point, above))
}

/// The id of the container that left these traces; none if the engine knows no such container.
///
/// # Errors
/// [`Reason::UnsupportedTarget`] if several live in one network and nothing tells which of them it is: a wrong
/// guess would stop Eider itself, or make its workers of another image.
pub fn own(traces: &Traces, found: &[ContainerInspectResponse]) -> Result<Option<String>, Failure> {
    let id = |one: &ContainerInspectResponse| one.id.clone().unwrap_or_default();
    let Some(owner) = found.iter().find(|one| traces.lead_to(&id(one))) else { return Ok(None) };
    let network = network_of(owner);
    let company: Vec<&ContainerInspectResponse> =
        found.iter().filter(|one| is_up(one) && network_of(one) == network).collect();
    let upper = traces.upper_directory();
    let by_group = |one: &&ContainerInspectResponse| traces.groups.contains(&id(one));
    let by_layer = |one: &&ContainerInspectResponse| {
        let driver = one.graph_driver.as_ref().map(|driver| &driver.data);
        upper.is_some() && driver.and_then(|data| data.get("UpperDir")).map(String::as_str) == upper
    };
    let points = traces.points();
    let by_mounts = |one: &&ContainerInspectResponse| destinations(one) == points;
    let signs: [&dyn Fn(&&ContainerInspectResponse) -> bool; 4] =
        [&|_| true, &by_group, &by_layer, &by_mounts];
    for sign in signs {
        let mut those = company.iter().copied().filter(|one| sign(one));
        if let (Some(one), None) = (those.next(), those.next()) {
            return Ok(Some(id(one)));
        }
    }
    if company.is_empty() {
        return Ok(Some(id(owner)));
    }
    let names: Vec<&str> = company.iter().map(|one| name(one)).collect();
    Err(Failure::new(
        Reason::UnsupportedTarget,
        format!(
            "Eider lives in the network of {}, and nothing tells which of {} it is itself",
            name(owner),
            names.join(", ")
        ),
    )
    .hint("give Eider's container a network of its own, or `network_mode: host` or `none`"))
}

/// Whether an address is one of this machine, or of this container.
pub fn is_local(address: IpAddr) -> bool {
    // The system binds to its own addresses alone, and sends nothing for that.
    UdpSocket::bind((address, 0)).is_ok()
}

/// Ids of the containers by which the engine at this address is reached, as far as the address tells: without
/// them Eider could let nobody run again. Names mean something only in a network that Eider's own container is in:
/// elsewhere others may bear them as well.
pub fn ways(
    address: &str,
    own: Option<&str>,
    found: &[ContainerInspectResponse],
    is_local: impl Fn(IpAddr) -> bool,
) -> BTreeSet<String> {
    let Some((scheme, rest)) = address.split_once("://") else { return BTreeSet::new() };
    if !matches!(scheme, "tcp" | "http" | "https") {
        return BTreeSet::new();
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let host = host.trim_matches(['[', ']']);
    let is_gateway = || found.iter().flat_map(gateways).any(|gateway| gateway == host);
    let is_here = ["localhost", "host.docker.internal"].contains(&host)
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback() || is_local(address))
        || is_gateway();
    let home = found.iter().find(|one| one.id.as_deref() == own && own.is_some()).map(network_of);
    let networks: BTreeSet<&str> = found
        .iter()
        .filter(|one| home.is_some() && one.id == home)
        .flat_map(|one| networks_of(one).map(|(name, _)| name))
        .collect();
    let serves = |one: &&ContainerInspectResponse| {
        let settings = one.network_settings.as_ref();
        let is_self = own.is_some() && one.id.as_deref() == own;
        if !is_up(one) || is_self {
            return false;
        }
        let shared = networks_of(one).filter(|(network, _)| networks.contains(network));
        let is_named = shared.clone().any(|(_, endpoint)| is_called(endpoint, host))
            || (name(one) == host && shared.count() > 0);
        if is_named || networks_of(one).any(|(_, endpoint)| has_address(endpoint, host)) {
            return true;
        }
        if !is_here {
            return false;
        }
        let is_beside = home.as_ref().is_some_and(|home| network_of(one) == *home);
        is_beside || settings.is_some_and(|found| publishes(found, port))
    };
    found.iter().filter(serves).filter_map(|one| one.id.clone()).collect()
}

/// The networks that a container is in, by name.
fn networks_of(
    found: &ContainerInspectResponse,
) -> impl Iterator<Item = (&str, &EndpointSettings)> + Clone {
    let settings = found.network_settings.iter();
    let networks = settings.flat_map(|settings| settings.networks.iter()).flatten();
    networks.map(|(name, endpoint)| (name.as_str(), endpoint))
}

/// Addresses of the host in the networks that a container is in.
fn gateways(found: &ContainerInspectResponse) -> impl Iterator<Item = &str> {
    networks_of(found).filter_map(|(_, endpoint)| endpoint.gateway.as_deref())
}

fn is_called(endpoint: &EndpointSettings, host: &str) -> bool {
    let names = [&endpoint.aliases, &endpoint.dns_names].into_iter().flatten().flatten();
    names.into_iter().any(|known| known == host)
}

fn has_address(endpoint: &EndpointSettings, host: &str) -> bool {
    let addresses = [&endpoint.ip_address, &endpoint.global_ipv6_address].into_iter().flatten();
    addresses.into_iter().any(|known| known == host)
}

fn publishes(settings: &NetworkSettings, port: &str) -> bool {
    let mut bindings = settings.ports.iter().flat_map(|ports| ports.values().flatten().flatten());
    !port.is_empty() && bindings.any(|binding| binding.host_port.as_deref() == Some(port))
}

fn is_up(found: &ContainerInspectResponse) -> bool {
    run_state(found.state.as_ref()) != RunState::Stopped
}

fn name(found: &ContainerInspectResponse) -> &str {
    found.name.as_deref().unwrap_or_default().trim_start_matches('/')
}

/// In whose network a container lives, by the id in the path of its file of host names; its own id where that
/// does not tell.
fn network_of(found: &ContainerInspectResponse) -> String {
    let paths = [&found.hostname_path, &found.hosts_path, &found.resolv_conf_path];
    let owner = paths.into_iter().flatten().find_map(|path| {
        let (_, rest) = path.rsplit_once("/containers/")?;
        rest.split_once('/').map(|(id, _)| id.to_owned())
    });
    owner.or_else(|| found.id.clone()).unwrap_or_default()
}

/// Where a container has mounts of its own.
fn destinations(found: &ContainerInspectResponse) -> BTreeSet<&str> {
    let mounts = found.mounts.iter().flatten().filter_map(|mount| mount.destination.as_deref());
    let host = found.host_config.as_ref();
    let memory = host.and_then(|host| host.tmpfs.as_ref()).into_iter().flat_map(|map| map.keys());
    let all = mounts.chain(memory.map(String::as_str));
    all.map(|point| point.trim_end_matches('/')).filter(|point| is_own_mount(point)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(id: &str, network: &str, more: &Value) -> ContainerInspectResponse {
        let mut value = json!({
            "Id": id, "Name": format!("/name-of-{id}"), "State": {"Running": true},
            "HostnamePath": format!("/var/lib/docker/containers/{network}/hostname"),
        });
        for (key, field) in more.as_object().into_iter().flatten() {
            value[key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    /// The mounts of a process in the network of `beef`.
    fn traces(layer: &str, more: &str, groups: &str) -> Traces {
        let mounts = format!(
            "583 307 0:156 / / rw - overlay overlay rw,lowerdir=/x,upperdir=/d/{layer}/diff,workdir=/y\n\
             584 583 0:5 / /proc rw - proc proc rw\n\
             601 583 8:1 /docker/containers/beef/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n{more}"
        );
        Traces { mounts, groups: groups.to_owned() }
    }

    fn layer(name: &str) -> Value {
        json!({"GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": format!("/d/{name}/diff")}}})
    }

    fn mounting(destination: &str) -> Value {
        json!({"Mounts": [{"Type": "bind", "Source": "/x", "Destination": destination}]})
    }

    #[test]
    fn the_host_is_not_taken_for_one_of_its_containers() {
        let mounts = "36 25 0:32 / /var/lib/docker/containers/beef/mounts/shm rw - tmpfs shm rw\n\
                      37 25 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let host = Traces { mounts: mounts.to_owned(), groups: String::new() };
        assert_eq!(own(&host, &[container("beef", "beef", &json!({}))]).unwrap(), None);
        let inside = traces("x", "", "");
        let others = [container("cafe", "cafe", &json!({})), container("beef", "beef", &json!({}))];
        assert_eq!(own(&inside, &others).unwrap().as_deref(), Some("beef"));
        assert_eq!(own(&inside, &others[..1]).unwrap(), None);
    }

    #[test]
    fn who_lives_in_the_network_of_another_is_not_taken_for_that_one() {
        let both = |more: [&Value; 2]| {
            [container("beef", "beef", more[0]), container("cafe", "beef", more[1])]
        };
        let is = |traces: &Traces, more: [&Value; 2]| own(traces, &both(more)).unwrap().unwrap();
        let nothing = json!({});
        let group = traces("x", "", "0::/docker/cafe\n");
        assert_eq!(is(&group, [&nothing, &nothing]), "cafe");
        assert_eq!(is(&traces("one", "", "0::/\n"), [&layer("one"), &layer("two")]), "beef");
        assert_eq!(is(&traces("two", "", "0::/\n"), [&layer("one"), &layer("two")]), "cafe");
        // Without both, by what is mounted.
        let socket = "602 583 0:9 /docker.sock /run/docker.sock rw - tmpfs tmpfs rw\n";
        let seen = traces("x", socket, "0::/\n");
        assert_eq!(is(&seen, [&nothing, &mounting("/run/docker.sock")]), "cafe");
        assert_eq!(is(&seen, [&mounting("/run/docker.sock"), &mounting("/data")]), "beef");
        // One that has ended is not it.
        let ended = json!({"State": {"Running": false}});
        assert_eq!(is(&traces("x", "", "0::/\n"), [&ended, &nothing]), "cafe");
    }

    #[test]
    fn nobody_guesses_who_eider_is() {
        let both = ["beef", "cafe"].map(|id| container(id, "beef", &mounting("/data")));
        let failure = own(&traces("x", "", "0::/\n"), &both).unwrap_err();
        assert_eq!(failure.reason, Reason::UnsupportedTarget);
        assert!(failure.message.contains("name-of-beef, name-of-cafe"), "{}", failure.message);
    }

    #[test]
    fn who_serves_the_engine_is_known_by_its_address() {
        let settings = json!({"NetworkSettings": {
            "Networks": {"back": {
                "Aliases": ["socket-proxy"], "IPAddress": "10.0.0.7", "Gateway": "10.0.0.1",
            }},
            "Ports": {"2375/tcp": [{"HostIp": "127.0.0.1", "HostPort": "12375"}]},
        }});
        let of = |network: &str, name: &str, address: &str| {
            let endpoint = json!({"Aliases": [name], "IPAddress": address});
            json!({"NetworkSettings": {"Networks": {network: endpoint}}})
        };
        let found = [
            container("proxy", "proxy", &settings),
            container("eider", "eider", &of("back", "eider", "10.0.0.8")),
            container("beside", "eider", &json!({})),
            // Another project's, which Eider has nothing to do with.
            container("namesake", "namesake", &of("shop", "socket-proxy", "10.0.1.7")),
        ];
        let ways = |address: &str, own: Option<&str>| -> Vec<String> {
            let is_local = |address: IpAddr| address == IpAddr::from([192, 0, 2, 5]);
            ways(address, own, &found, is_local).into_iter().collect()
        };
        for host in ["socket-proxy", "10.0.0.7", "name-of-proxy"] {
            assert_eq!(ways(&format!("tcp://{host}:2375"), Some("eider")), ["proxy"], "{host}");
        }
        // On the host those names are nobody's.
        assert!(ways("tcp://socket-proxy:2375", None).is_empty());
        assert_eq!(ways("tcp://10.0.0.7:2375", None), ["proxy"]);
        // It was stopped by an Eider that reached it by the host's own address, and nobody could start it again.
        for host in ["10.0.0.1", "192.0.2.5", "host.docker.internal"] {
            assert_eq!(ways(&format!("tcp://{host}:12375"), None), ["proxy"], "{host}");
        }
        assert_eq!(ways("https://localhost:12375", None), ["proxy"]);
        assert_eq!(ways("tcp://127.0.0.1:2375", Some("eider")), ["beside"]);
        assert_eq!(ways("tcp://[::1]:2375", Some("eider")), ["beside"]);
        for address in ["", "unix:///var/run/docker.sock", "tcp://elsewhere:2375", "tcp://[::1]"] {
            assert!(ways(address, None).is_empty(), "{address}");
        }
    }
}
