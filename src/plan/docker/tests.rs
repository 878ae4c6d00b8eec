//! Targets against small hosts.

use std::collections::BTreeMap;

use super::*;
use crate::spec::ConsistencyMode::{Pause, Stop};
use crate::spec::Reason;
use crate::spec::target::DockerTarget;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn mount(kind: MountKind, destination: &str, writable: bool) -> MountFacts {
    MountFacts { kind, destination: destination.to_owned(), writable }
}

fn volume(name: &str, writable: bool) -> MountFacts {
    mount(MountKind::Volume(name.to_owned()), &format!("/{name}"), writable)
}

fn bind(path: &str) -> MountFacts {
    mount(MountKind::Bind(path.to_owned()), path, true)
}

fn service(name: &str, depends_on: &str, mounts: Vec<MountFacts>) -> ContainerFacts {
    ContainerFacts {
        id: format!("id-of-{name}"),
        name: format!("shop-{name}-1"),
        labels: labels(&[
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", name),
            ("com.docker.compose.depends_on", depends_on),
        ]),
        state: RunState::Running,
        mounts,
        ..ContainerFacts::default()
    }
}

/// A shop of three services, and a container of somebody else.
fn shop() -> HostFacts {
    let mut reporter = service("ignored", "", vec![volume("shop_data", true)]);
    reporter.name = "reporter".to_owned();
    reporter.labels.clear();
    let of_project =
        [("com.docker.compose.project", "shop"), ("com.docker.compose.volume", "data")];
    HostFacts {
        containers: vec![
            service("db", "", vec![volume("shop_data", true), volume(&"a1".repeat(32), true)]),
            service("web", "api:service_healthy:true", vec![bind("/srv/web")]),
            service("api", "db:service_started:false", vec![volume("shop_data", false)]),
            reporter,
        ],
        volumes: vec![
            VolumeFacts {
                name: "shop_data".to_owned(),
                labels: labels(&of_project),
                mountpoint: "/var/lib/docker/volumes/shop_data/_data".to_owned(),
                ..VolumeFacts::default()
            },
            VolumeFacts { name: "other".to_owned(), ..VolumeFacts::default() },
        ],
        ..HostFacts::default()
    }
}

fn project() -> DockerTarget {
    DockerTarget { project: Some("shop".to_owned()), ..DockerTarget::default() }
}

fn names(stopping: &Stopping) -> Vec<&str> {
    stopping.order.iter().map(|entry| entry.name.as_str()).collect()
}

#[test]
fn a_project_is_its_containers_with_their_named_volumes_and_paths() {
    let selection = select(&project(), &shop()).unwrap();
    assert_eq!(selection.containers, ["id-of-api", "id-of-db", "id-of-web"]);
    let sources: Vec<&RootSource> = selection.roots.iter().map(|root| &root.source).collect();
    let data = RootSource::Volume("shop_data".to_owned());
    assert_eq!(sources, [&data, &RootSource::Bind("/srv/web".to_owned())]);
    assert_eq!(selection.roots[0].containers.len(), 2);
    // The anonymous volume, and what each of the three writes elsewhere.
    assert_eq!(selection.uncovered.len(), 4);
    assert!(selection.uncovered.iter().any(|left| left.why.contains("anonymous")));
}

#[test]
fn who_depends_on_others_stops_first_and_sharers_stop_too() {
    let host = shop();
    let selection = select(&project(), &host).unwrap();
    let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["reporter", "shop-web-1", "shop-api-1", "shop-db-1"]);
    assert!(!stopping.order[0].selected && stopping.order[1].selected);
    assert_eq!(stopping.order[1].after_healthy, ["id-of-api"]);
    assert!(stopping.order[2].after_healthy.is_empty(), "the database has only to be started");
}

#[test]
fn readers_go_on_while_data_is_read_and_not_while_it_is_replaced() {
    let host = shop();
    let target = DockerTarget { volumes: Some(vec!["shop_data".to_owned()]), ..Default::default() };
    let selection = select(&target, &host).unwrap();
    assert!(selection.containers.is_empty());
    let reading = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&reading), ["reporter", "shop-db-1"]);
    let replacing = stop_set(&selection, &host, Touch::Replace, Stop).unwrap();
    assert_eq!(names(&replacing), ["reporter", "shop-api-1", "shop-db-1"]);
}

#[test]
fn what_was_stopped_or_frozen_before_stays_so() {
    let mut host = shop();
    host.containers[0].state = RunState::Stopped;
    host.containers[1].state = RunState::Paused;
    let stopping = stop_set(&select(&project(), &host).unwrap(), &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["reporter", "shop-web-1", "shop-api-1"]);
    let frozen: Vec<bool> = stopping.order.iter().map(|entry| entry.paused).collect();
    assert_eq!(frozen, [false, true, false]);
}

#[test]
fn a_circle_of_dependencies_still_has_an_order() {
    let mut host = shop();
    host.containers[0]
        .labels
        .insert("com.docker.compose.depends_on".to_owned(), "web:service_started:false".to_owned());
    let stopping = stop_set(&select(&project(), &host).unwrap(), &host, Touch::Read, Stop).unwrap();
    assert_eq!(stopping.order.len(), 4);
}

#[test]
fn a_container_that_lives_in_anothers_network_stops_before_it() {
    let mut host = shop();
    host.containers[3].uses = vec!["id-of-web".to_owned()];
    host.containers[3].name = "zz".to_owned();
    let stopping = stop_set(&select(&project(), &host).unwrap(), &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["zz", "shop-web-1", "shop-api-1", "shop-db-1"]);
}

#[test]
fn what_would_be_gone_or_must_go_on_is_not_stopped() {
    let mut host = shop();
    host.containers[3].labels.insert("eider.stop".to_owned(), "false".to_owned());
    host.own_container = Some("id-of-web".to_owned());
    let selection = select(&project(), &host).unwrap();
    let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["shop-api-1", "shop-db-1"]);
    assert_eq!(stopping.warnings.len(), 2);
    host.containers[0].auto_remove = true;
    let refused = stop_set(&selection, &host, Touch::Read, Stop).unwrap_err();
    assert_eq!(refused.reason, Reason::QuiesceFailed);
    assert!(refused.message.contains("--rm") && refused.hint.is_some());
    assert!(stop_set(&selection, &host, Touch::Read, Pause).is_ok());
}

#[test]
fn what_is_not_there_is_named_with_what_there_is() {
    let refused = |target: DockerTarget| {
        let failure = select(&target, &shop()).unwrap_err();
        assert_eq!(failure.reason, Reason::TargetNotFound);
        failure.hint.unwrap()
    };
    let none = DockerTarget::default;
    assert_eq!(refused(DockerTarget { project: Some("x".into()), ..none() }), "there are: shop");
    let services = Some(vec!["x".into()]);
    assert_eq!(refused(DockerTarget { services, ..project() }), "there are: api, db, web");
    let volumes = Some(vec!["x".into()]);
    assert_eq!(refused(DockerTarget { volumes, ..none() }), "there are: other, shop_data");
    let containers = Some(vec!["x".into()]);
    assert!(refused(DockerTarget { containers, ..none() }).contains("reporter"));
}

#[test]
fn a_volume_may_be_called_as_in_the_compose_file() {
    let target = DockerTarget { volumes: Some(vec!["data".to_owned()]), ..project() };
    let selection = select(&target, &shop()).unwrap();
    assert_eq!(selection.roots.len(), 1);
    assert_eq!(selection.roots[0].source, RootSource::Volume("shop_data".to_owned()));
    assert!(selection.uncovered.iter().any(|left| left.place == "/srv/web"));
}

#[test]
fn sockets_excluded_mounts_and_nested_paths_are_no_roots() {
    let mut host = shop();
    let web = &mut host.containers[1];
    web.mounts = vec![
        bind("/var/run/docker.sock"),
        bind("/srv/web"),
        bind("/srv/web/uploads"),
        bind("/srv/website"),
        bind("/srv/cache"),
        mount(MountKind::Temporary, "/tmp", true),
    ];
    web.labels.insert("eider.exclude".to_owned(), "/srv/cache, x".to_owned());
    let target = DockerTarget { services: Some(vec!["web".to_owned()]), ..project() };
    let selection = select(&target, &host).unwrap();
    let sources: Vec<RootSource> = selection.roots.into_iter().map(|root| root.source).collect();
    let expected = ["/srv/web", "/srv/website"].map(|path| RootSource::Bind(path.to_owned()));
    assert_eq!(sources, expected);
    let places: Vec<&str> = selection.uncovered.iter().map(|left| left.place.as_str()).collect();
    assert_eq!(places, ["/", "/srv/cache", "/tmp", "/var/run/docker.sock"]);
}

#[test]
fn what_belongs_to_the_system_is_neither_read_nor_replaced() {
    let mut host = shop();
    let system = [
        "/",
        "/etc",
        "/etc/localtime",
        "/lib/modules",
        "/usr/src",
        "/var/log",
        "/var",
        "/var/lib/docker",
        "/var/lib/docker/volumes",
        "/var/lib/docker/containers/",
        "/usr/share/zoneinfo/Europe/Berlin",
    ];
    let own = [
        "/etc/shop/site.conf",
        "/srv/web",
        "/usr/local/etc/shop",
        "/var/lib/dockery/x",
        "/var/lib/docker/volumes/other/_data",
        "/var/log/shop",
        "/var/lib/shop",
    ];
    host.containers[1].mounts = system.iter().chain(&own).map(|path| bind(path)).collect();
    let target = DockerTarget { services: Some(vec!["web".to_owned()]), ..project() };
    let selection = select(&target, &host).unwrap();
    let mut expected = own.map(|path| RootSource::Bind(path.to_owned()));
    expected.sort();
    let sources: Vec<RootSource> = selection.roots.into_iter().map(|root| root.source).collect();
    assert_eq!(sources, expected);
    let of_system = |left: &&Uncovered| left.why.contains("belongs to the system");
    assert_eq!(selection.uncovered.iter().filter(of_system).count(), system.len());
    // An engine may keep its things elsewhere.
    host.volumes[0].mountpoint = "/srv/web/volumes/shop_data/_data".to_owned();
    let selection = select(&target, &host).unwrap();
    assert!(!selection.roots.iter().any(|root| root.name() == "binds/srv/web"));
}

#[test]
fn who_is_made_again_when_he_stops_is_not_stopped() {
    for label in ["com.docker.swarm.task.id", "io.kubernetes.pod.uid"] {
        let mut host = shop();
        host.containers[3].labels.insert(label.to_owned(), "x".to_owned());
        let selection = select(&project(), &host).unwrap();
        let refused = stop_set(&selection, &host, Touch::Read, Stop).unwrap_err();
        assert_eq!(refused.reason, Reason::QuiesceFailed);
        assert!(refused.message.contains("reporter"), "{refused}");
        assert!(stop_set(&selection, &host, Touch::Read, Pause).is_ok());
    }
}

#[test]
fn the_paths_of_an_engine_on_another_machine_lead_nowhere() {
    let mut host = shop();
    let roots = select(&project(), &host).unwrap().roots;
    assert!(roots.iter().all(|root| root.path(&host).is_ok()));
    host.remote = Some("it is far away".to_owned());
    for root in roots {
        let refused = root.path(&host).unwrap_err();
        assert_eq!(refused.reason, Reason::UnsupportedTarget);
        assert!(refused.message.contains("far away") && refused.hint.is_some());
    }
}

#[test]
fn who_is_never_to_be_stopped_is_stopped_when_its_data_is_replaced() {
    let mut host = shop();
    for container in &mut host.containers {
        container.labels.insert("eider.stop".to_owned(), "false".to_owned());
    }
    let mut selection = select(&project(), &host).unwrap();
    let reading = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert!(reading.order.is_empty(), "{reading:?}");
    let replacing = stop_set(&selection, &host, Touch::Replace, Stop).unwrap();
    assert_eq!(names(&replacing), ["reporter", "shop-web-1", "shop-api-1", "shop-db-1"]);
    assert!(replacing.warnings.iter().all(|warning| warning.contains("is stopped, whatever")));
    // Who has nothing to do with the data goes on.
    selection.roots.retain(|root| root.name() != "binds/srv/web");
    let replacing = stop_set(&selection, &host, Touch::Replace, Stop).unwrap();
    assert_eq!(names(&replacing), ["reporter", "shop-api-1", "shop-db-1"]);
}

#[test]
fn eiders_own_catalog_is_never_put_back_under_it() {
    let mut host = shop();
    host.containers[1].mounts.push(volume("shop_data", false));
    host.own_container = Some("id-of-web".to_owned());
    let selection = select(&project(), &host).unwrap();
    let roots: Vec<String> = selection.roots.iter().map(Root::name).collect();
    assert_eq!(roots, ["volumes/shop_data"], "what others mount too is theirs");
    assert!(selection.uncovered.iter().any(|left| left.why == "it is Eider's own"));
    assert!(stop_set(&selection, &host, Touch::Read, Stop).is_ok());
    let refused = stop_set(&selection, &host, Touch::Replace, Stop).unwrap_err();
    assert_eq!(refused.reason, Reason::UnsupportedTarget);
}

#[test]
fn a_volume_is_excluded_by_its_name_in_the_compose_file_too() {
    for (excluded, held) in [("data", false), ("shop_data", false), ("other", true)] {
        let mut host = shop();
        for container in &mut host.containers {
            container.labels.insert("eider.exclude".to_owned(), excluded.to_owned());
        }
        let roots = select(&project(), &host).unwrap().roots;
        assert_eq!(roots.iter().any(|root| root.name() == "volumes/shop_data"), held, "{excluded}");
    }
}

#[test]
fn data_only_leaves_out_what_is_only_read_from_the_host() {
    let mut host = shop();
    let mut web = service("web2", "", vec![volume("shop_data", false), bind("/srv/shop/etc")]);
    web.mounts[1].writable = false;
    let nested = MountFacts { writable: false, ..bind("/srv/both") };
    web.mounts.push(nested);
    web.mounts.push(bind("/srv/both/cache"));
    host.containers.push(web);
    let target = DockerTarget {
        project: None,
        services: None,
        containers: Some(vec!["shop-web2-1".to_owned()]),
        volumes: None,
    };
    let whole = select(&target, &host).unwrap();
    let data = whole.clone().data_only(&host);
    let names = |selection: &Selection| -> Vec<String> {
        selection.roots.iter().map(super::Root::name).collect()
    };
    assert_eq!(names(&whole), ["volumes/shop_data", "binds/srv/both", "binds/srv/shop/etc"]);
    // A volume is data whoever writes to it, and so is a path that is written to further down.
    assert_eq!(names(&data), ["volumes/shop_data", "binds/srv/both"]);
    let left = data.uncovered.iter().find(|left| left.place.ends_with("etc")).unwrap();
    assert!(left.why.contains("DataOnly") && left.usual);
}

#[test]
fn who_lives_in_the_network_of_one_that_stops_is_not_left_without_it() {
    let mut host = shop();
    let stranger = |name: &str, used: &str| {
        let mut stranger = service(name, "", Vec::new());
        stranger.name = name.to_owned();
        stranger.labels.clear();
        stranger.uses = vec![used.to_owned()];
        stranger
    };
    let mut off = stranger("off", "id-of-web");
    off.state = RunState::Stopped;
    host.containers.extend([
        off,
        stranger("torrent", "id-of-web"),
        stranger("watcher", "torrent"),
        stranger("other", "elsewhere"),
    ]);
    let target = DockerTarget { services: Some(vec!["web".to_owned()]), ..project() };
    let selection = select(&target, &host).unwrap();
    let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["watcher", "torrent", "shop-web-1"]);
    let why: Vec<Option<&str>> =
        stopping.order.iter().map(|entry| entry.lives_with.as_deref()).collect();
    assert_eq!(why, [Some("torrent"), Some("shop-web-1"), None]);
    // A frozen one keeps its network.
    let frozen = stop_set(&selection, &host, Touch::Read, Pause).unwrap();
    assert_eq!(names(&frozen), ["shop-web-1"]);
    // A label is about data, and nobody wants to go on without a network.
    let torrent = host.containers.iter_mut().find(|one| one.name == "torrent").unwrap();
    torrent.labels.insert("eider.stop".to_owned(), "false".to_owned());
    let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["watcher", "torrent", "shop-web-1"]);
    assert!(stopping.warnings[0].contains("it lives in shop-web-1"), "{stopping:?}");
    host.own_container = Some("id-of-torrent".to_owned());
    let refused = stop_set(&selection, &host, Touch::Read, Stop).unwrap_err();
    assert_eq!(refused.reason, Reason::UnsupportedTarget);
    assert!(stop_set(&selection, &host, Touch::Read, Pause).is_ok());
}

#[test]
fn who_took_over_mounts_goes_on_while_they_are_read() {
    let mut host = shop();
    host.containers[3].mounts.clear();
    host.containers[3].mounts_of = vec!["shop-web-1".to_owned()];
    let target = DockerTarget { services: Some(vec!["web".to_owned()]), ..project() };
    let selection = select(&target, &host).unwrap();
    let reading = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&reading), ["shop-web-1"]);
    let replacing = stop_set(&selection, &host, Touch::Replace, Stop).unwrap();
    assert_eq!(names(&replacing), ["reporter", "shop-web-1"]);
}

#[test]
fn one_that_is_linked_to_another_stops_before_it() {
    let mut host = shop();
    host.containers[3].name = "zz".to_owned();
    host.containers[3].links = vec!["shop-web-1".to_owned()];
    let stopping = stop_set(&select(&project(), &host).unwrap(), &host, Touch::Read, Stop).unwrap();
    assert_eq!(names(&stopping), ["zz", "shop-web-1", "shop-api-1", "shop-db-1"]);
}

/// Whether somebody who mounts this path works on the data of a service with these mounts.
fn is_in_the_way(host: &mut HostFacts, mounts: Vec<MountFacts>, other: MountFacts) -> [bool; 2] {
    host.containers[1].mounts = mounts;
    host.containers[3].mounts = vec![other];
    let target = DockerTarget { services: Some(vec!["web".to_owned()]), ..project() };
    let selection = select(&target, host).unwrap();
    [Touch::Read, Touch::Replace].map(|touch| {
        let stopping = stop_set(&selection, host, touch, Stop).unwrap();
        names(&stopping).contains(&"reporter")
    })
}

#[test]
fn a_writer_is_seen_whatever_path_it_takes_to_the_data() {
    let mut host = shop();
    host.real_paths = [("/srv/link", "/srv/real"), ("/mnt/volumes", "/var/lib/docker/volumes")]
        .map(|(path, real)| (path.to_owned(), real.to_owned()))
        .into();
    let data = || vec![volume("shop_data", true)];
    let inside = "/var/lib/docker/volumes/shop_data/_data/sub";
    assert_eq!(is_in_the_way(&mut host, data(), bind(inside)), [true, true]);
    let beside = "/var/lib/docker/volumes/shop_data2/_data";
    assert_eq!(is_in_the_way(&mut host, data(), bind(beside)), [false, false]);
    assert_eq!(
        is_in_the_way(&mut host, vec![bind("/srv/link")], bind("/srv/real/x")),
        [true, true]
    );
    assert_eq!(is_in_the_way(&mut host, vec![bind("/srv/real")], bind("/srv/link")), [true, true]);
    let read_only = |path: &str| MountFacts { writable: false, ..bind(path) };
    assert_eq!(
        is_in_the_way(&mut host, vec![bind("/srv/link")], read_only("/srv/real")),
        [false, true]
    );
    // A volume may be a directory of the host under another name.
    host.volumes[0].device = Some("/srv/real".to_owned());
    assert_eq!(is_in_the_way(&mut host, data(), bind("/srv/link")), [true, true]);
}

#[test]
fn who_looks_at_a_whole_tree_from_above_is_no_writer() {
    let mut host = shop();
    let read_only = |path: &str| MountFacts { writable: false, ..bind(path) };
    for path in ["/", "/srv"] {
        let web = || vec![bind("/srv/web")];
        assert_eq!(is_in_the_way(&mut host, web(), read_only(path)), [false, false], "{path}");
        assert_eq!(is_in_the_way(&mut host, web(), bind(path)), [true, true], "{path}");
    }
    // Who is given all volumes looks after the engine: it goes on, and that is said.
    let all = bind("/var/lib/docker/volumes");
    assert_eq!(is_in_the_way(&mut host, vec![volume("shop_data", true)], all), [false, false]);
    let selection = select(&project(), &host).unwrap();
    let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
    assert!(stopping.warnings[0].contains("every volume, by /var/lib/docker/volumes"));
}

#[test]
fn every_way_to_say_no_keeps_a_container_from_being_stopped() {
    for (word, stops) in
        [("no", false), ("False", false), ("0", false), (" off ", false), ("yes", true)]
    {
        let mut host = shop();
        host.containers[3].labels.insert("eider.stop".to_owned(), word.to_owned());
        let selection = select(&project(), &host).unwrap();
        let stopping = stop_set(&selection, &host, Touch::Read, Stop).unwrap();
        assert_eq!(names(&stopping).contains(&"reporter"), stops, "{word}");
    }
}

#[test]
fn a_stop_that_cannot_be_in_time_is_told_before() {
    let mut host = shop();
    for container in &mut host.containers {
        container.stop_timeout = Some(4);
    }
    host.containers[0].stop_timeout = None;
    let mut stopping =
        stop_set(&select(&project(), &host).unwrap(), &host, Touch::Read, Stop).unwrap();
    stopping.warn_if_slower_than(std::time::Duration::from_secs(18));
    assert!(stopping.warnings.is_empty(), "{stopping:?}");
    stopping.warn_if_slower_than(std::time::Duration::from_secs(5));
    let warning = &stopping.warnings[0];
    assert!(warning.contains("18 s") && warning.contains("is 5 s"), "{warning}");
}
