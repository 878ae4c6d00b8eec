//! What of the mounts of a target becomes a root.

use super::*;
use crate::spec::Reason;
use crate::spec::target::DockerTarget;

fn mount(kind: MountKind) -> MountFacts {
    MountFacts { kind, destination: "/x".to_owned(), writable: true }
}

fn bind(path: &str) -> MountFacts {
    mount(MountKind::Bind(path.to_owned()))
}

fn host(mounts: Vec<MountFacts>) -> HostFacts {
    let name = "web".to_owned();
    let web =
        ContainerFacts { id: "id-of-web".to_owned(), name, mounts, ..ContainerFacts::default() };
    HostFacts { containers: vec![web], ..HostFacts::default() }
}

fn selected(host: &HostFacts) -> Selection {
    let containers = Some(vec!["web".to_owned()]);
    select(&DockerTarget { containers, ..DockerTarget::default() }, host).unwrap()
}

fn roots(host: &HostFacts) -> Vec<String> {
    selected(host).roots.iter().map(Root::name).collect()
}

#[test]
fn a_mounted_socket_is_no_root_that_a_restore_would_replace() {
    let mut host = host(vec![bind("/srv/app/app.sock"), bind("/srv/data")]);
    host.sockets.insert("/srv/app/app.sock".to_owned());
    let selection = selected(&host);
    assert_eq!(roots(&host), ["binds/srv/data"]);
    assert!(selection.uncovered.iter().any(|left| left.why == "it is a socket" && left.usual));
}

fn volume(name: &str) -> VolumeFacts {
    VolumeFacts {
        name: name.to_owned(),
        mountpoint: format!("/var/lib/docker/volumes/{name}/_data"),
        ..VolumeFacts::default()
    }
}

#[test]
fn one_directory_that_is_mounted_in_two_ways_is_one_root() {
    let data = "/var/lib/docker/volumes/data/_data";
    let mounts = vec![
        bind(data),
        mount(MountKind::Volume("data".to_owned())),
        bind(&format!("{data}/deeper")),
        bind("/srv/link"),
        bind("/srv/real"),
        bind("/srv/real-too"),
        bind("/mnt/into/it"),
    ];
    let mut host = host(mounts);
    host.volumes = vec![volume("data")];
    host.real_paths = [("/srv/link", "/srv/real"), ("/mnt/into/it", "/srv/real/deep")]
        .map(|(path, real)| (path.to_owned(), real.to_owned()))
        .into();
    assert_eq!(roots(&host), ["volumes/data", "binds/srv/real", "binds/srv/real-too"]);
    assert!(selected(&host).roots.iter().all(|root| root.containers.contains("web")));
}

fn on_device(name: &str, device: &str) -> VolumeFacts {
    let elsewhere = Some("it is mounted there for containers only".to_owned());
    VolumeFacts { device: Some(device.to_owned()), elsewhere, ..volume(name) }
}

#[test]
fn two_volumes_of_one_directory_are_one_root() {
    let of = |name: &str| mount(MountKind::Volume(name.to_owned()));
    let mut host = host(vec![of("two"), of("deep"), of("one"), of("other"), bind("/srv/x/y")]);
    host.volumes = vec![
        on_device("deep", "/srv/x/deep"),
        on_device("one", "/srv/x"),
        on_device("other", "/srv/xy"),
        on_device("two", "/srv/x"),
    ];
    assert_eq!(roots(&host), ["volumes/one", "volumes/other"]);
    // How the others were made is kept all the same: their containers cannot be made again without them.
    let volumes: Vec<String> = selected(&host).volumes(&host).into_iter().collect();
    assert_eq!(volumes, ["deep", "one", "other", "two"]);
    host.volumes[3].device = Some("nfs 10.0.0.7 :/x".to_owned());
    assert_eq!(roots(&host), ["volumes/one", "volumes/other", "volumes/two"]);
}

#[test]
fn a_volume_in_memory_is_told_and_keeps_nothing_else_from_being_archived() {
    let of = |name: &str| mount(MountKind::Volume(name.to_owned()));
    let mut host = host(vec![of("data"), of("scratch")]);
    let elsewhere = Some("tmpfs is mounted there for containers only".to_owned());
    host.volumes =
        vec![volume("data"), VolumeFacts { in_memory: true, elsewhere, ..volume("scratch") }];
    assert_eq!(roots(&host), ["volumes/data"]);
    let uncovered = selected(&host).uncovered;
    assert!(uncovered.iter().any(|left| left.why == "it lies in memory" && left.usual));
    let volumes = Some(vec!["scratch".to_owned()]);
    let target = DockerTarget { volumes, ..DockerTarget::default() };
    assert_eq!(select(&target, &host).unwrap_err().reason, Reason::UnsupportedTarget);
}

#[test]
fn volumes_that_a_driver_mounts_are_never_taken_for_a_path() {
    let mut host = host(vec![mount(MountKind::Volume("share".to_owned())), bind("/srv/data")]);
    let elsewhere = Some("its driver mounts it".to_owned());
    let mountpoint = "/".to_owned();
    host.volumes = vec![VolumeFacts { mountpoint, elsewhere, ..volume("share") }];
    assert_eq!(roots(&host), ["volumes/share", "binds/srv/data"]);
}

#[test]
fn a_path_that_is_written_over_a_link_to_it_is_no_configuration() {
    let mut read_only = bind("/srv/real");
    read_only.writable = false;
    let mut host = host(vec![read_only, bind("/srv/link")]);
    host.real_paths = [("/srv/link".to_owned(), "/srv/real".to_owned())].into();
    let kept = selected(&host).data_only(&host).roots;
    assert_eq!(kept.iter().map(Root::name).collect::<Vec<_>>(), ["binds/srv/real"]);
}
