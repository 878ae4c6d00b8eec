//! What Eider's own container is, if it runs in one: its image and what it mounts.

use std::path::Path;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, MountPoint};
use bollard::query_parameters::ListContainersOptionsBuilder;

use crate::plan::Failure;
use crate::plan::docker::{HostFacts, Place, RootSource, directory, is_beneath};
use crate::runtime::docker::connection::{ANSWER, limited};
use crate::runtime::docker::identity::{Traces, own};
use crate::runtime::docker::listing::inspected;
use crate::spec::Reason;

/// Eider's own container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Own {
    /// Its id.
    pub id: String,
    /// The id of its image: a tag may mean another one by now.
    pub image: String,
    /// Its user namespace mode, which decides whose files the worker may read.
    pub user_namespace: Option<String>,
    /// What it mounts.
    pub mounts: Vec<OwnMount>,
}

/// One thing that Eider's own container mounts.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnMount {
    /// What.
    pub source: RootSource,
    /// Where.
    pub destination: String,
}

impl Own {
    /// Looks for the container that this process runs in; none if the engine knows no such container.
    pub async fn find(docker: &Docker) -> Result<Option<Self>, Failure> {
        let traces = Traces::of_this_process();
        // One that has ended too: others may live in its network on.
        let everything = ListContainersOptionsBuilder::new().all(true).build();
        let listing = docker.list_containers(Some(everything));
        let listed = limited("list the containers", ANSWER, listing).await?;
        let mut ids = listed.into_iter().filter_map(|summary| summary.id);
        if !ids.any(|id| traces.lead_to(&id)) {
            return Ok(None);
        }
        // Those files are of whoever's network this is.
        let all = inspected(docker).await?;
        let Some(id) = own(&traces, &all)? else { return Ok(None) };
        let is_own = |found: &ContainerInspectResponse| found.id.as_ref() == Some(&id);
        let Some(found) = all.into_iter().find(is_own) else { return Ok(None) };
        Ok(Some(Self {
            id,
            image: found.image.unwrap_or_default(),
            user_namespace: found.host_config.and_then(|host| host.userns_mode),
            mounts: found.mounts.unwrap_or_default().iter().filter_map(own_mount).collect(),
        }))
    }

    /// What is mounted where the store is.
    ///
    /// # Errors
    /// [`Reason::StoreUnavailable`] if nothing is: the archives would go with the container.
    pub fn store_mount(&self, store: &Path) -> Result<&OwnMount, Failure> {
        let covers = |mount: &&OwnMount| store.starts_with(&mount.destination);
        let nearest = self.mounts.iter().filter(covers).max_by_key(|mount| mount.destination.len());
        nearest.ok_or_else(|| {
            Failure::new(
                Reason::StoreUnavailable,
                format!(
                    "the store {} lies in Eider's own container and would go with it",
                    store.display()
                ),
            )
            .hint("mount a volume or a path of the host there")
        })
    }

    /// Fails if the store is on what is to be read or replaced, or that lies in the store: paths in here do not
    /// tell. `host` has the volumes, as two of them may show one directory.
    pub fn check_apart(
        &self,
        store: &Path,
        places: &[Place],
        host: &HostFacts,
    ) -> Result<(), Failure> {
        let mount = self.store_mount(store)?;
        let inside = store.strip_prefix(&mount.destination).ok().and_then(Path::to_str);
        let is_touched = |place: &&Place| {
            let is_same = place.source == mount.source;
            is_same || overlap(&place.source, &mount.source, inside.unwrap_or_default(), host)
        };
        let Some(place) = places.iter().find(is_touched) else { return Ok(()) };
        Err(Failure::new(
            Reason::InvalidSpec,
            format!(
                "the store {} is on {}, which is to be backed up or replaced",
                store.display(),
                place.root
            ),
        )
        .hint("keep the store apart from the data, or leave it out by the label eider.exclude"))
    }
}

/// Whether a root is what lies at a path in a mount, or one lies in the other.
fn overlap(root: &RootSource, mount: &RootSource, inside: &str, host: &HostFacts) -> bool {
    let (Some(root), Some(mount)) = (directory(root, host), directory(mount, host)) else {
        return false;
    };
    let store = match inside {
        "" => mount.to_owned(),
        inside => format!("{}/{inside}", mount.trim_end_matches('/')),
    };
    is_beneath(&store, root) || is_beneath(root, &store)
}

fn own_mount(point: &MountPoint) -> Option<OwnMount> {
    let kind = point.typ.as_ref().map(ToString::to_string);
    let source = match (kind.as_deref(), &point.name, &point.source) {
        (Some("volume"), Some(name), _) => RootSource::Volume(name.clone()),
        (Some("bind"), _, Some(path)) => RootSource::Bind(path.clone()),
        _ => return None,
    };
    Some(OwnMount { source, destination: point.destination.clone()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::docker::VolumeFacts;

    fn own() -> Own {
        let mount =
            |source, destination: &str| OwnMount { source, destination: destination.to_owned() };
        Own {
            mounts: vec![
                mount(RootSource::Volume("state".to_owned()), "/var/lib/eider"),
                mount(RootSource::Bind("/srv/backups".to_owned()), "/var/lib/eider/backups"),
            ],
            ..Own::default()
        }
    }

    fn place(source: RootSource) -> Place {
        let path = "/eider/volumes/binds/x".to_owned();
        Place { root: "binds/x".to_owned(), source, path, is_file: false }
    }

    #[test]
    fn the_nearest_mount_holds_the_store_and_none_is_refused() {
        let own = own();
        let found = own.store_mount(Path::new("/var/lib/eider/backups/main")).unwrap();
        assert_eq!(found.source, RootSource::Bind("/srv/backups".to_owned()));
        let found = own.store_mount(Path::new("/var/lib/eider/other")).unwrap();
        assert_eq!(found.source, RootSource::Volume("state".to_owned()));
        let refused = own.store_mount(Path::new("/backups")).unwrap_err();
        assert_eq!(refused.reason, Reason::StoreUnavailable);
    }

    #[test]
    fn a_store_on_the_data_is_refused_whatever_its_path_is_here() {
        let own = own();
        let store = Path::new("/var/lib/eider/backups");
        for path in ["/srv", "/srv/backups", "/srv/backups/deeper"] {
            let places = [place(RootSource::Bind(path.to_owned()))];
            assert!(own.check_apart(store, &places, &HostFacts::default()).is_err(), "{path}");
        }
        let apart = [place(RootSource::Bind("/srv/shop".to_owned()))];
        own.check_apart(store, &apart, &HostFacts::default()).unwrap();
        let state = [place(RootSource::Volume("state".to_owned()))];
        let store = Path::new("/var/lib/eider");
        assert!(own.check_apart(store, &state, &HostFacts::default()).is_err());
    }

    /// A Backup would lie in what it backs up, and the next Restore take it away.
    #[test]
    fn a_store_on_a_volume_that_shows_the_data_too_is_refused() {
        let volume = |name: &str, device: &str| VolumeFacts {
            name: name.to_owned(),
            mountpoint: format!("/var/lib/docker/volumes/{name}/_data"),
            device: Some(device.to_owned()).filter(|device| !device.is_empty()),
            elsewhere: Some("it is mounted for containers only".to_owned())
                .filter(|_| !device.is_empty()),
            ..VolumeFacts::default()
        };
        let refused = |state: &str, data: RootSource| {
            let volumes = vec![
                volume("state", state),
                volume("data", "/srv/shop"),
                volume("share", "nfs 10.0.0.7 :/export"),
                volume("plain", ""),
            ];
            let host = HostFacts { volumes, ..HostFacts::default() };
            own().check_apart(Path::new("/var/lib/eider/store"), &[place(data)], &host).is_err()
        };
        let named = |name: &str| RootSource::Volume(name.to_owned());
        let bind = |path: &str| RootSource::Bind(path.to_owned());
        assert!(refused("/srv/shop", named("data")), "one directory");
        assert!(refused("/srv/shop/backups", named("data")), "a directory in it");
        assert!(refused("/srv/shop", bind("/srv/shop")), "a volume and its directory");
        assert!(refused("/srv", bind("/srv/store")), "the store itself");
        assert!(refused("nfs 10.0.0.7 :/export", named("share")), "one share");
        assert!(refused("/var/lib/docker/volumes/plain/_data", named("plain")));
        assert!(!refused("/srv/shopping", named("data")));
        assert!(!refused("/srv", named("data")), "beside each other in one directory");
        assert!(!refused("nfs 10.0.0.8 :/export", named("share")), "another server");
        assert!(!refused("", named("plain")));
    }
}
