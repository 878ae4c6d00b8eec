//! What of the mounts of a target becomes a root.

use super::*;
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
