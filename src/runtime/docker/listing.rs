//! What there is on the host, as facts for the planner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HealthStatusEnum,
    HostConfig, MountPoint, Volume,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListVolumesOptions,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde_json::json;

use super::connection::{ANSWER, Connection, address, is_missing, limited};
use super::identity::{Traces, is_local, own, ways};
use super::reach::remote;
use super::worker::WORKER_LABEL;
use crate::plan::Failure;
use crate::plan::docker::{
    ContainerFacts, FOREVER, HostFacts, MountFacts, MountKind, RunState, VolumeFacts,
};

/// Containers that are asked about at once.
const AT_ONCE: usize = 8;
/// How long it may take to find out what is at paths of the host.
const LOOKING_AT_PATHS: Duration = Duration::from_secs(5);

/// Everything that a decision may need. A container that goes meanwhile is left out.
pub async fn host_facts(connection: &Connection) -> Result<HostFacts, Failure> {
    let docker = connection.docker().await?;
    let found = inspected(&docker).await?;
    let mut facts = facts_of(&found, volumes(&docker).await?)?;
    // In a container the host's paths are not what they are on the host.
    if facts.own_container.is_none() && facts.remote.is_none() {
        (facts.real_paths, facts.sockets) = mounted_paths(&facts).await;
    }
    Ok(facts)
}

/// Where mounted paths lead that go over symbolic links, as one directory may be mounted by several names,
/// and which are sockets. A file system that does not answer keeps nobody waiting; its paths are what they
/// say then.
async fn mounted_paths(facts: &HostFacts) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let paths: Vec<String> = facts.data_paths().into_iter().map(str::to_owned).collect();
    let looking = tokio::task::spawn_blocking(move || {
        let real = |path: String| {
            let real = std::fs::canonicalize(&path).ok()?.into_os_string().into_string().ok()?;
            (real != path).then_some((path, real))
        };
        let is_socket = |path: &String| {
            std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        };
        let sockets = paths.iter().filter(|path| is_socket(path)).cloned().collect();
        (paths.into_iter().filter_map(real).collect(), sockets)
    });
    let found = tokio::time::timeout(LOOKING_AT_PATHS, looking).await;
    found.ok().and_then(Result::ok).unwrap_or_default()
}

/// These containers and volumes as facts.
///
/// # Errors
/// See [`own`].
pub fn facts_of(
    found: &[ContainerInspectResponse],
    volumes: Vec<VolumeFacts>,
) -> Result<HostFacts, Failure> {
    let containers: Vec<ContainerFacts> = found.iter().map(container_facts).collect();
    let own_container = own(&Traces::of_this_process(), found)?;
    let remote = remote(&address(), found);
    let ways_to_engine = ways(&address(), own_container.as_deref(), found, is_local);
    let facts = HostFacts::default();
    Ok(HostFacts { containers, volumes, own_container, ways_to_engine, remote, ..facts })
}

/// Every container but workers: they touch data on behalf of an operation and belong to nobody's target.
pub async fn inspected(docker: &Docker) -> Result<Vec<ContainerInspectResponse>, Failure> {
    let everything = ListContainersOptionsBuilder::new().all(true).build();
    let listed =
        limited("list the containers", ANSWER, docker.list_containers(Some(everything))).await?;
    let is_worker = |labels: &Option<HashMap<String, String>>| {
        labels.as_ref().is_some_and(|labels| labels.contains_key(WORKER_LABEL))
    };
    let ids = listed
        .into_iter()
        .filter(|summary| !is_worker(&summary.labels))
        .filter_map(|summary| summary.id);
    let mut looking = futures_util::stream::iter(ids.map(|id| inspect(docker.clone(), id)))
        .buffer_unordered(AT_ONCE);
    let mut containers = Vec::new();
    while let Some(found) = looking.next().await {
        containers.extend(found?);
    }
    Ok(containers)
}

/// Every volume.
pub async fn volumes(docker: &Docker) -> Result<Vec<VolumeFacts>, Failure> {
    let listing = docker.list_volumes(None::<ListVolumesOptions>);
    let found = limited("list the volumes", ANSWER, listing).await?;
    Ok(found.volumes.unwrap_or_default().into_iter().map(volume_facts).collect())
}

/// One container, unless it is gone.
pub async fn inspect(
    docker: Docker,
    id: String,
) -> Result<Option<ContainerInspectResponse>, Failure> {
    let what = format!("look at container {id}");
    let call = async {
        match docker.inspect_container(&id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    limited(&what, ANSWER, call).await
}

/// What a container does, by the engine's own words.
pub fn run_state(state: Option<&ContainerState>) -> RunState {
    let Some(state) = state else { return RunState::Stopped };
    if state.paused == Some(true) {
        RunState::Paused
    } else if state.restarting == Some(true) {
        RunState::Restarting
    } else if state.running == Some(true) {
        RunState::Running
    } else {
        RunState::Stopped
    }
}

/// A container that its engine has started again often, and a moment ago, is in a crash loop though it runs.
const CRASH_LOOP: (i64, i64) = (3, 90);

fn is_ill(found: &ContainerInspectResponse) -> bool {
    let Some(state) = &found.state else { return false };
    let unhealthy = Some(HealthStatusEnum::UNHEALTHY);
    let started = state.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    let (times, seconds) = CRASH_LOOP;
    let falls_over = || {
        found.restart_count.is_some_and(|count| count >= times)
            && started.is_some_and(|at| Timestamp::now().duration_since(at).as_secs() < seconds)
    };
    match run_state(Some(state)) {
        RunState::Running => {
            state.health.as_ref().and_then(|health| health.status) == unhealthy || falls_over()
        }
        RunState::Restarting => true,
        RunState::Paused | RunState::Stopped => false,
    }
}

fn is_unproven(found: &ContainerInspectResponse) -> bool {
    let health = found.state.as_ref().and_then(|state| state.health.as_ref()?.status);
    run_state(found.state.as_ref()) == RunState::Running
        && health == Some(HealthStatusEnum::STARTING)
}

/// How a container has ended. One that has never run has the code of a success as well.
fn exit_code(state: &ContainerState) -> Option<i64> {
    state.exit_code.filter(|_| state.status == Some(ContainerStateStatusEnum::EXITED))
}

fn sorted(map: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// One container's answer as facts.
pub fn container_facts(found: &ContainerInspectResponse) -> ContainerFacts {
    let configuration = found.config.clone().unwrap_or_default();
    let host = found.host_config.clone().unwrap_or_default();
    let name = found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    ContainerFacts {
        id: found.id.clone().unwrap_or_default(),
        name,
        labels: sorted(configuration.labels.unwrap_or_default()),
        image: configuration.image.unwrap_or_default(),
        state: run_state(found.state.as_ref()),
        is_ill: is_ill(found),
        is_unproven: is_unproven(found),
        exit_code: found.state.as_ref().and_then(exit_code),
        auto_remove: host.auto_remove == Some(true),
        stop_timeout: configuration
            .stop_timeout
            .map(|seconds| u32::try_from(seconds).unwrap_or(FOREVER)),
        mounts: mounts(found.mounts.as_deref().unwrap_or_default(), &host),
        ..ContainerFacts::default()
    }
    .tied_by(&json!(host))
}

fn mounts(points: &[MountPoint], host: &HostConfig) -> Vec<MountFacts> {
    let mut facts: Vec<MountFacts> = points
        .iter()
        .map(|point| MountFacts {
            kind: match (point.typ.as_deref(), &point.name, &point.source) {
                (Some("volume"), Some(name), _) => MountKind::Volume(name.clone()),
                (Some("bind"), _, Some(path)) => MountKind::Bind(path.clone()),
                _ => MountKind::Temporary,
            },
            destination: point.destination.clone().unwrap_or_default(),
            writable: point.rw.unwrap_or(true),
        })
        .collect();
    // `--tmpfs` is not among the mount points.
    for destination in host.tmpfs.iter().flatten().map(|(destination, _)| destination.clone()) {
        facts.push(MountFacts { kind: MountKind::Temporary, destination, writable: true });
    }
    facts.sort_by(|one, other| one.destination.cmp(&other.destination));
    facts
}

fn volume_facts(volume: Volume) -> VolumeFacts {
    let option = |name: &str| volume.options.get(name).map(String::as_str).unwrap_or_default();
    let device = Some(option("device")).filter(|device| !device.is_empty());
    let is_local = volume.driver == "local";
    let source = device.filter(|_| is_local);
    let source = source.and_then(|device| mounted_from(option("type"), option("o"), device));
    let in_memory = is_local && matches!(option("type"), "tmpfs" | "ramfs");
    let elsewhere = if is_local {
        device.map(|device| format!("{device} is mounted there for containers only"))
    } else {
        Some(format!("its driver {} mounts it for containers only", volume.driver))
    };
    VolumeFacts {
        name: volume.name,
        labels: sorted(volume.labels),
        mountpoint: volume.mountpoint,
        device: source,
        in_memory,
        elsewhere,
    }
}

/// What the local driver mounts by its options (`mount(8)`), in one way of writing it; none for what is another one
/// with each mount, or is put together.
fn mounted_from(kind: &str, options: &str, device: &str) -> Option<String> {
    let mut options = options.split(',').map(str::trim);
    let is_bind = matches!(kind, "" | "none" | "bind")
        || options.clone().any(|option| matches!(option, "bind" | "rbind"));
    let server = options.find_map(|option| option.strip_prefix("addr=")).unwrap_or_default();
    let path = match device.trim_end_matches('/') {
        "" => device,
        path => path,
    };
    match kind {
        _ if is_bind && path.starts_with('/') => Some(path.to_owned()),
        "nfs" | "nfs4" => Some(format!("nfs {server} {path}")),
        "cifs" | "smb3" => Some(format!("cifs {server} {path}")),
        _ if path.starts_with("/dev/") => Some(path.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::mounted_from;

    #[test]
    fn volumes_are_known_by_what_is_mounted_there() {
        let from = |kind, options, device| mounted_from(kind, options, device).unwrap_or_default();
        assert_eq!(from("none", "bind,ro", "/srv/x/"), "/srv/x");
        assert_eq!(from("", "rbind", "/"), "/");
        assert_eq!(from("ext4", "", "/dev/sdb1"), "/dev/sdb1");
        let share = from("nfs", "addr=10.0.0.7,rw", ":/export");
        assert_eq!(share, from("nfs4", "ro, addr=10.0.0.7", ":/export/"));
        assert_ne!(share, from("nfs", "addr=10.0.0.8,rw", ":/export"));
        for (kind, device) in [("tmpfs", "tmpfs"), ("overlay", "overlay"), ("none", "relative")] {
            assert_eq!(from(kind, "", device), "", "{kind}");
        }
    }
}
