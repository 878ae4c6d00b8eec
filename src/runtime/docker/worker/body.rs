//! What a worker is made of: Eider's own image, exactly the data and the store, no network, no socket.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions,
};

use super::own::Own;
use crate::plan::docker::{Place, RootSource};
use crate::plan::{Failure, OperationId};
use crate::runtime::mover::{READING_CAPABILITIES, VOLUMES_DIRECTORY, WRITING_CAPABILITIES};

/// Label on a worker: the key of the operation that it works for.
pub const WORKER_LABEL: &str = "eider.worker";
/// Label with the operation, for people.
const OPERATION_LABEL: &str = "eider.operation";

/// What a worker is for.
pub struct Order<'a> {
    pub own: &'a Own,
    pub operation: &'a OperationId,
    /// The data.
    pub places: &'a [Place],
    /// Whether the data is replaced, and not only read.
    pub writes: bool,
    /// Where the store is in Eider's own container, and in the worker.
    pub store: &'a Path,
    /// The program in the image.
    pub program: &'a str,
    /// How far its work gives way to others', 0 to 19.
    pub niceness: u8,
}

/// Where a root is mounted in a worker.
pub fn path_of(root: &str) -> String {
    format!("{VOLUMES_DIRECTORY}/{root}")
}

impl Order<'_> {
    /// Tells the operation from all others on this engine, also after Eider's own container has been
    /// made again: two that keep their archives in different places may have operations of one name.
    ///
    /// # Errors
    /// [`crate::spec::Reason::StoreUnavailable`] if the store is on no mount.
    pub fn key(&self) -> Result<String, Failure> {
        let source = match &self.own.store_mount(self.store)?.source {
            RootSource::Volume(name) => name,
            RootSource::Bind(path) => path,
        };
        let text = format!("{}\n{source}\n{}", self.operation, self.store.display());
        Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
    }
}

/// The worker's name: one operation has one worker at a time.
pub fn name_of(key: &str) -> String {
    format!("eider-worker-{key}")
}

/// The container to make.
///
/// # Errors
/// [`crate::spec::Reason::StoreUnavailable`] if the store is on no mount.
pub fn body(order: &Order<'_>) -> Result<ContainerCreateBody, Failure> {
    let store = order.own.store_mount(order.store)?;
    let mut mounts = vec![mount(&store.source, &store.destination, false)];
    let mut binds = BTreeSet::new();
    for place in order.places {
        match &place.source {
            RootSource::Bind(path) if order.writes => {
                let (mut path, mut target) = (path.as_str(), path_of(&place.root));
                if place.is_file {
                    // A file that is mounted by itself has no place beside it for the new one.
                    path = above(path);
                    target.truncate(above(&target).len());
                }
                // Paths that are missing are made by the engine for this way of mounting only.
                if path.contains(':') {
                    let known = |one: &Mount| one.target.as_ref() == Some(&target);
                    if !mounts.iter().any(known) {
                        let source = RootSource::Bind(path.to_owned());
                        mounts.push(mount(&source, &target, false));
                    }
                } else {
                    binds.insert(format!("{path}:{target}"));
                }
            }
            source => mounts.push(mount(source, &path_of(&place.root), !order.writes)),
        }
    }
    let binds = binds.into_iter().collect();
    let capabilities = if order.writes { WRITING_CAPABILITIES } else { READING_CAPABILITIES };
    let text = |list: &[&str]| Some(list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
    Ok(ContainerCreateBody {
        image: Some(order.own.image.clone()),
        entrypoint: text(&[order.program]),
        cmd: text(&["mover", "--pipe", "--nice", &order.niceness.to_string()]),
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        env: failpoint(),
        labels: Some(HashMap::from([
            (WORKER_LABEL.to_owned(), order.key()?),
            (OPERATION_LABEL.to_owned(), order.operation.to_string()),
        ])),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // Its input ends when we do, and it ends with its input.
        stdin_once: Some(true),
        tty: Some(false),
        healthcheck: Some(HealthConfig { test: text(&["NONE"]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            mounts: Some(mounts),
            binds: Some(binds),
            network_mode: Some("none".to_owned()),
            userns_mode: order.own.user_namespace.clone(),
            auto_remove: Some(true),
            cpu_shares: Some(cpu_shares(order.niceness)),
            readonly_rootfs: Some(true),
            cap_drop: text(&["ALL"]),
            cap_add: text(capabilities),
            // Where SELinux keeps containers apart, nobody could read another's volume otherwise.
            security_opt: text(&["no-new-privileges", "label=disable"]),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    })
}

/// The weight of a container whose work is so nice, where niceness counts only inside each container: a quarter
/// more or less for each level, as the kernel weighs threads (`sched_prio_to_weight`); 1024 is a container's default.
fn cpu_shares(niceness: u8) -> i64 {
    let mut shares = 1024;
    for _ in 0..niceness {
        shares = shares * 4 / 5;
    }
    shares.max(2)
}

/// The directory that a path lies in.
fn above(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((directory, _)) if !directory.is_empty() => directory,
        _ => "/",
    }
}

fn mount(source: &RootSource, target: &str, read_only: bool) -> Mount {
    let (kind, name) = match source {
        RootSource::Volume(name) => (MountType::VOLUME, name),
        RootSource::Bind(path) => (MountType::BIND, path),
    };
    let options = MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() };
    Mount {
        target: Some(target.to_owned()),
        source: Some(name.clone()),
        typ: Some(kind),
        read_only: Some(read_only),
        volume_options: (kind == MountType::VOLUME).then_some(options),
        ..Mount::default()
    }
}

/// Where tests want a worker to die.
#[cfg(debug_assertions)]
fn failpoint() -> Option<Vec<String>> {
    let point = std::env::var("EIDER_WORKER_FAILPOINT").ok()?;
    Some(vec![format!("EIDER_FAILPOINT={point}")])
}

#[cfg(not(debug_assertions))]
fn failpoint() -> Option<Vec<String>> {
    None
}

#[cfg(test)]
mod tests {
    use super::super::own::OwnMount;
    use super::*;

    fn made(writes: bool) -> ContainerCreateBody {
        let place = |root: &str, source| Place {
            root: root.to_owned(),
            source,
            path: path_of(root),
            is_file: root.contains(".conf"),
        };
        let own = Own {
            id: "beef".to_owned(),
            image: "sha256:cafe".to_owned(),
            user_namespace: None,
            mounts: vec![OwnMount {
                source: RootSource::Volume("eider_backups".to_owned()),
                destination: "/backups".to_owned(),
            }],
        };
        let places = [
            place("volumes/shop_data", RootSource::Volume("shop_data".to_owned())),
            place("binds/srv/site", RootSource::Bind("/srv/site".to_owned())),
            place("binds/srv/a.conf", RootSource::Bind("/srv/a.conf".to_owned())),
            place("binds/srv/b.conf", RootSource::Bind("/srv/b.conf".to_owned())),
        ];
        let operation: OperationId = "Backup/shop/b/1/u".parse().unwrap();
        let order = Order {
            own: &own,
            operation: &operation,
            places: &places,
            writes,
            store: Path::new("/backups/main"),
            program: "/usr/local/bin/eider",
            niceness: 15,
        };
        body(&order).unwrap()
    }

    #[test]
    fn a_worker_has_the_data_and_the_store_and_nothing_else() {
        let host = made(false).host_config.unwrap();
        let mounted: Vec<(String, String, bool)> = host
            .mounts
            .unwrap()
            .into_iter()
            .map(|mount| (mount.source.unwrap(), mount.target.unwrap(), mount.read_only.unwrap()))
            .collect();
        let expected = [
            ("eider_backups", "/backups", false),
            ("shop_data", "/eider/volumes/volumes/shop_data", true),
            ("/srv/site", "/eider/volumes/binds/srv/site", true),
            ("/srv/a.conf", "/eider/volumes/binds/srv/a.conf", true),
            ("/srv/b.conf", "/eider/volumes/binds/srv/b.conf", true),
        ];
        let expected = expected.map(|(from, to, only)| (from.to_owned(), to.to_owned(), only));
        assert_eq!(mounted, expected);
        assert_eq!(host.binds.unwrap().len(), 0);
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cpu_shares, Some(34), "a thread of that niceness weighs 36");
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add.unwrap(), ["DAC_OVERRIDE", "FOWNER"]);
    }

    #[test]
    fn one_that_writes_may_set_owners_and_makes_missing_paths() {
        let host = made(true).host_config.unwrap();
        // Two files of one directory are put back from it, once.
        let expected = ["/srv/site:/eider/volumes/binds/srv/site", "/srv:/eider/volumes/binds/srv"];
        assert_eq!(host.binds.unwrap(), expected);
        assert!(host.mounts.unwrap().iter().all(|mount| mount.read_only == Some(false)));
        assert!(host.cap_add.unwrap().contains(&"CHOWN".to_owned()));
    }
}
