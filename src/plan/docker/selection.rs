//! From a target to containers and data, and to what is left out and why.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, HostFacts, MountKind, VOLUME, is_anonymous};
use crate::plan::Failure;
use crate::spec::target::DockerTarget;
use crate::spec::{Reason, there_are};

/// Directories of a host, and what lies in them, that are the kernel's, the engine's or the
/// distribution's. Containers are shown them to look at; to archive them is never meant, and to replace
/// them by those of another day would break the host.
const SYSTEM_PATHS: [&str; 23] = [
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/run",
    "/boot",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/src",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/journal",
    "/tmp/.X11-unix",
];
/// Files and whole directories that tell a machine from others; what lies deeper may be a service's.
const OF_THE_MACHINE: [&str; 15] = [
    "/etc",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/tmp",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/machine-id",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/group",
];

/// What a target selects.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// Ids of the selected containers, by name.
    pub containers: Vec<String>,
    /// The data, volumes first, by name.
    pub roots: Vec<Root>,
    /// What a backup of this target does not hold.
    pub uncovered: Vec<Uncovered>,
}

/// One volume or path that is archived as a root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// Where it is.
    pub source: RootSource,
    /// Names of the selected containers that mount it.
    pub containers: BTreeSet<String>,
}

impl Root {
    /// Its name in an archive: `volumes/shop_data`, `binds/srv/shop/config`. Names of volumes have no
    /// slash and no path is archived that lies in another, so that none is a directory above another.
    pub fn name(&self) -> String {
        match &self.source {
            RootSource::Volume(name) => format!("volumes/{name}"),
            RootSource::Bind(path) => format!("binds/{}", path.trim_matches('/')),
        }
    }

    /// Where its data is on the host.
    ///
    /// # Errors
    /// [`Reason::UnsupportedTarget`] for a volume whose data is there only while somebody mounts it, and
    /// for everything of an engine on another machine; [`Reason::TargetNotFound`] for a volume that is
    /// gone.
    pub fn path(&self, host: &HostFacts) -> Result<String, Failure> {
        host.check_paths()?;
        let name = match &self.source {
            RootSource::Bind(path) => return Ok(path.clone()),
            RootSource::Volume(name) => name,
        };
        let volume = host.volume(name).ok_or_else(|| {
            Failure::new(Reason::TargetNotFound, format!("volume {name} is not there"))
        })?;
        match &volume.elsewhere {
            None => Ok(volume.mountpoint.clone()),
            Some(why) => Err(Failure::new(
                Reason::UnsupportedTarget,
                format!("the data of volume {name} cannot be read at {}: {why}", volume.mountpoint),
            )
            .hint("name other volumes in `spec.target.docker.volumes`")),
        }
    }
}

/// Where a root is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RootSource {
    /// A volume by name.
    Volume(String),
    /// A path of the host.
    Bind(String),
}

/// Where the data of one root is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Name of the root in the archive.
    pub root: String,
    /// What it is of.
    pub source: RootSource,
    /// Where it is: on the host, or in a worker.
    pub path: String,
    /// Whether the archive holds a single file there and no directory. A worker puts it back from the
    /// directory that it lies in: a file that is mounted by itself cannot be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_file: bool,
}

/// Data that is not archived.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Uncovered {
    /// The container it belongs to.
    pub container: String,
    /// Where it is in the container.
    pub place: String,
    /// Why it is left out, as a sentence's end.
    pub why: String,
    /// Whether that is no surprise: a plan lists it, a Backup needs no warning of it.
    pub usual: bool,
}

/// Resolves a target against what there is on the host.
///
/// # Errors
/// [`Reason::TargetNotFound`] with what there is instead, if a project, service, container or volume
/// that was named does not exist; [`Reason::UnsupportedTarget`] if a volume that was named lies in memory.
pub fn select(target: &DockerTarget, host: &HostFacts) -> Result<Selection, Failure> {
    let mut chosen = chosen_containers(target, host)?;
    chosen.sort_by(|one, other| one.name.cmp(&other.name));
    let wanted = wanted_volumes(target, host)?;
    let mut roots: Vec<Root> = Vec::new();
    let mut uncovered = BTreeSet::new();
    for container in &chosen {
        for mount in &container.mounts {
            let found = left_out(container, &mount.kind, &mount.destination, host)
                .and_then(|source| not_eiders(container, source, &chosen, host));
            let source = match found {
                Ok(source) => source,
                Err((why, usual)) => {
                    let (container, place) = (container.name.clone(), mount.destination.clone());
                    uncovered.insert(Uncovered { container, place, why, usual });
                    continue;
                }
            };
            if let Some(wanted) = &wanted
                && !matches!(&source, RootSource::Volume(name) if wanted.contains(name))
            {
                let why = "the target names other volumes only".to_owned();
                let (container, place) = (container.name.clone(), mount.destination.clone());
                uncovered.insert(Uncovered { container, place, why, usual: true });
                continue;
            }
            add(&mut roots, source, Some(&container.name));
        }
        uncovered.insert(Uncovered {
            container: container.name.clone(),
            place: "/".to_owned(),
            why: "what it writes outside of mounts goes with the container".to_owned(),
            usual: true,
        });
    }
    for name in wanted.into_iter().flatten() {
        if host.volume(&name).is_some_and(|volume| volume.in_memory) {
            let message =
                format!("volume {name} lies in memory: it holds nothing once nobody uses it");
            return Err(Failure::new(Reason::UnsupportedTarget, message)
                .hint("leave it out of `spec.target.docker.volumes`"));
        }
        add(&mut roots, RootSource::Volume(name), None);
    }
    merge(&mut roots, host);
    roots.sort();
    let containers = chosen.iter().map(|container| container.id.clone()).collect();
    Ok(Selection { containers, roots, uncovered: uncovered.into_iter().collect() })
}

impl Selection {
    /// The volumes among the roots, and those of the selected containers that show the data of one.
    pub fn volumes(&self, host: &HostFacts) -> BTreeSet<String> {
        let roots = self.roots.iter().filter(|root| matches!(root.source, RootSource::Volume(_)));
        let roots: Vec<&RootSource> = roots.map(|root| &root.source).collect();
        let selected = self.containers.iter().filter_map(|id| host.container(id));
        let mounted = selected.flat_map(|container| &container.mounts).filter_map(|mount| {
            let MountKind::Volume(name) = &mount.kind else { return None };
            Some(RootSource::Volume(name.clone()))
        });
        let shows_one = |source: &RootSource| {
            let inner = directory(source, host);
            roots.iter().any(|root| {
                inner.zip(directory(root, host)).is_some_and(|(one, other)| is_beneath(one, other))
            })
        };
        let besides = mounted.filter(shows_one);
        let all = roots.iter().copied().cloned().chain(besides);
        all.filter_map(|source| match source {
            RootSource::Volume(name) => Some(name),
            RootSource::Bind(_) => None,
        })
        .collect()
    }

    /// The same without configuration: paths of the host that no selected container may write to, as
    /// files and directories of settings are mounted. Volumes are data, whoever may write to them.
    #[must_use]
    pub fn data_only(mut self, host: &HostFacts) -> Self {
        let selected: Vec<&ContainerFacts> =
            self.containers.iter().filter_map(|id| host.container(id)).collect();
        let mut uncovered: BTreeSet<Uncovered> = self.uncovered.into_iter().collect();
        self.roots.retain(|root| {
            let RootSource::Bind(path) = &root.source else { return true };
            // Mounts that lie in this path belong to it.
            let mounts = selected.iter().copied().flat_map(|container| {
                container.mounts.iter().filter_map(move |mount| match &mount.kind {
                    MountKind::Bind(found)
                        if is_beneath(host.real_path(found), host.real_path(path)) =>
                    {
                        Some((container, mount))
                    }
                    _ => None,
                })
            });
            if mounts.clone().any(|(_, mount)| mount.writable) {
                return true;
            }
            uncovered.extend(mounts.map(|(container, mount)| Uncovered {
                container: container.name.clone(),
                place: mount.destination.clone(),
                why: "it is only read, and DataOnly leaves configuration out".to_owned(),
                usual: true,
            }));
            false
        });
        self.uncovered = uncovered.into_iter().collect();
        self
    }
}

fn not_found(message: String, known: impl IntoIterator<Item = String>) -> Failure {
    // Those of a kubelet are nobody's target, and a host may have hundreds.
    let known = known.into_iter().filter(|name| !name.starts_with("k8s_")).collect();
    let hint = there_are(known).unwrap_or_else(|| "there are none on this host".to_owned());
    Failure::new(Reason::TargetNotFound, message).hint(hint)
}

fn chosen_containers<'a>(
    target: &DockerTarget,
    host: &'a HostFacts,
) -> Result<Vec<&'a ContainerFacts>, Failure> {
    if let Some(project) = &target.project {
        let of_project: Vec<&ContainerFacts> = host
            .containers
            .iter()
            .filter(|container| container.project() == Some(project.as_str()))
            .collect();
        if of_project.is_empty() {
            let projects = host.containers.iter().filter_map(ContainerFacts::project);
            let message = format!("there is no container of Compose project `{project}`");
            return Err(not_found(message, projects.map(str::to_owned)));
        }
        let Some(services) = &target.services else { return Ok(of_project) };
        let is = |container: &ContainerFacts, name: &str| container.service() == Some(name);
        for service in services {
            if !of_project.iter().any(|container| is(container, service)) {
                let known = of_project.iter().filter_map(|container| container.service());
                let message = format!("Compose project `{project}` has no service `{service}`");
                return Err(not_found(message, known.map(str::to_owned)));
            }
        }
        let named = |container: &&ContainerFacts| services.iter().any(|name| is(container, name));
        return Ok(of_project.into_iter().filter(named).collect());
    }
    let names = target.containers.iter().flatten();
    names
        .map(|name| {
            host.containers.iter().find(|container| container.name == *name).ok_or_else(|| {
                let known = host.containers.iter().map(|container| container.name.clone());
                not_found(format!("there is no container `{name}`"), known)
            })
        })
        .collect()
}

/// The volumes that the target names, by their names on the host. In a project a volume may be called
/// as in the Compose file.
fn wanted_volumes(
    target: &DockerTarget,
    host: &HostFacts,
) -> Result<Option<BTreeSet<String>>, Failure> {
    let Some(names) = &target.volumes else { return Ok(None) };
    let of_project = |name: &str| {
        let project = target.project.as_ref()?;
        host.volumes.iter().find(|volume| {
            volume.labels.get(super::facts::PROJECT) == Some(project)
                && volume.labels.get(VOLUME).is_some_and(|label| label == name)
        })
    };
    let found = names.iter().map(|name| {
        let exact = host.volumes.iter().find(|volume| volume.name == *name);
        exact.or_else(|| of_project(name)).map(|volume| volume.name.clone()).ok_or_else(|| {
            let known = host.volumes.iter().map(|volume| volume.name.clone());
            not_found(format!("there is no volume `{name}`"), known.filter(|n| !is_anonymous(n)))
        })
    });
    found.collect::<Result<_, _>>().map(Some)
}

/// The source of a mount, or why it is not archived and whether that is no surprise.
fn left_out(
    container: &ContainerFacts,
    kind: &MountKind,
    destination: &str,
    host: &HostFacts,
) -> Result<RootSource, (String, bool)> {
    let excluded = container.own_label("exclude").unwrap_or_default();
    let named = |text: &str| excluded.split(',').map(str::trim).any(|entry| entry == text);
    let usual = |why: &str| Err((why.to_owned(), true));
    if named(destination) {
        return usual("the label eider.exclude names it");
    }
    match kind {
        MountKind::Volume(name) if named(name) || is_called(name, &named, container, host) => {
            usual("the label eider.exclude names it")
        }
        MountKind::Volume(name) if host.volume(name).is_some_and(|volume| volume.in_memory) => {
            usual("it lies in memory")
        }
        MountKind::Volume(name) if is_anonymous(name) => Err((
            "it is an anonymous volume, which no other container finds again".to_owned(),
            false,
        )),
        MountKind::Volume(name) => Ok(RootSource::Volume(name.clone())),
        MountKind::Bind(path) if is_system(path, host) => {
            Err((format!("{path} belongs to the system"), true))
        }
        // It is whoever listens behind it; a copy of it answers nobody, and a place that it was restored to
        // would be that of the living one.
        MountKind::Bind(path) if host.sockets.contains(path) => usual("it is a socket"),
        MountKind::Bind(path) => Ok(RootSource::Bind(path.clone())),
        MountKind::Temporary => usual("it lies in memory"),
    }
}

/// Whether the Compose file calls a volume of the container's project by a name like this.
fn is_called(
    volume: &str,
    is_meant: &dyn Fn(&str) -> bool,
    container: &ContainerFacts,
    host: &HostFacts,
) -> bool {
    let Some(labels) = host.volume(volume).map(|volume| &volume.labels) else { return false };
    labels.get(super::facts::PROJECT).map(String::as_str) == container.project()
        && labels.get(VOLUME).is_some_and(|name| is_meant(name))
}

/// What nobody but Eider itself mounts is its catalog or its store: to put back yesterday's under a running
/// Eider would take away the journal of just that operation.
fn not_eiders(
    container: &ContainerFacts,
    source: RootSource,
    chosen: &[&ContainerFacts],
    host: &HostFacts,
) -> Result<RootSource, (String, bool)> {
    let mounts = |other: &&&ContainerFacts| {
        other.mounts.iter().any(|mount| match (&mount.kind, &source) {
            (MountKind::Volume(name), RootSource::Volume(own)) => name == own,
            (MountKind::Bind(path), RootSource::Bind(own)) => path == own,
            _ => false,
        })
    };
    let is_own = host.own_container.as_ref() == Some(&container.id);
    if is_own && !chosen.iter().any(|other| other.id != container.id && mounts(&other)) {
        return Err(("it is Eider's own".to_owned(), true));
    }
    Ok(source)
}

/// Whether a path of the host is the system's and not a service's.
pub(super) fn is_system(path: &str, host: &HostFacts) -> bool {
    let path = match path.trim_end_matches('/') {
        "" => return true,
        path => path,
    };
    let of_engine = host.engine_directory().into_iter().chain(["/var/lib/docker"]).any(|engine| {
        let volumes = format!("{engine}/volumes");
        // Somebody may mount a volume by its path: that is data.
        let is_data = path != volumes && is_beneath(path, &volumes);
        is_beneath(engine, path) || (is_beneath(path, engine) && !is_data)
    });
    of_engine
        || OF_THE_MACHINE.contains(&path)
        || SYSTEM_PATHS.iter().any(|system| is_beneath(path, system))
}

/// Whether `path` is `above` or lies in it.
pub fn is_beneath(path: &str, above: &str) -> bool {
    path.strip_prefix(above.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn add(roots: &mut Vec<Root>, source: RootSource, container: Option<&str>) {
    let containers = container.map(str::to_owned);
    match roots.iter_mut().find(|root| root.source == source) {
        Some(root) => root.containers.extend(containers),
        None => roots.push(Root { source, containers: containers.into_iter().collect() }),
    }
}

/// Where the data of a root really is, if that is known.
pub fn directory<'a>(source: &'a RootSource, host: &'a HostFacts) -> Option<&'a str> {
    match source {
        RootSource::Bind(path) => Some(host.real_path(path)),
        RootSource::Volume(name) => host.volume_path(name),
    }
}

/// What is mounted in several ways is archived once: a path with the one that it lies in, a link with what it
/// leads to, the path of a volume with the volume, and one of two volumes with the same `device=`. In whatever
/// path a volume lies, it stays a volume.
fn merge(roots: &mut Vec<Root>, host: &HostFacts) {
    let mut found = std::mem::take(roots);
    found.sort_by_cached_key(|root| match &root.source {
        // What can be read where it is before what only containers see.
        RootSource::Volume(name) => {
            let is_elsewhere = host.volume(name).is_some_and(|volume| volume.elsewhere.is_some());
            let real = host.volume_path(name).unwrap_or_default();
            (0, real.to_owned(), is_elsewhere, root.clone())
        }
        // Outer paths before those in them, and what a link leads to before the link.
        RootSource::Bind(path) => {
            let real = host.real_path(path);
            (1, real.to_owned(), real != path, root.clone())
        }
    });
    for root in found {
        let lies_in = |kept: &&mut Root| {
            let (inner, outer) = (directory(&root.source, host), directory(&kept.source, host));
            inner.zip(outer).is_some_and(|(inner, outer)| is_beneath(inner, outer))
        };
        match roots.iter_mut().find(lies_in) {
            Some(kept) => kept.containers.extend(root.containers),
            None => roots.push(root),
        }
    }
}
