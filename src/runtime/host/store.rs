//! Stores that are directories of this machine.

use std::path::PathBuf;

use crate::engine::LocalStore;
use crate::plan::chain::{self, Link, Removal};
use crate::plan::{Failure, StoreBinding};
use crate::spec::Reason;

/// The directory of a store, if it is one that this version can use.
pub fn local_path(store: &StoreBinding) -> Result<PathBuf, Failure> {
    if store.spec.encryption.is_some() {
        return Err(Failure::new(
            Reason::StoreUnavailable,
            format!("store {} asks for encryption, which this version does not write", store.name),
        )
        .hint("remove `spec.encryption`, or put the store on an encrypted file system"));
    }
    match &store.spec.local {
        Some(local) => Ok(PathBuf::from(&local.path)),
        None => Err(Failure::new(
            Reason::StoreUnavailable,
            format!("store {} is not a local directory", store.name),
        )
        .hint("use `spec.local.path` on a plain host")),
    }
}

/// Opens a store; creates its directory when it is not there.
pub fn open_store(store: &StoreBinding) -> Result<LocalStore, Failure> {
    Ok(LocalStore::open(&local_path(store)?, &store.name, true)?)
}

/// Every archive of a store, with the one that it continues: as its manifests say, by name and hash.
pub fn links(store: &LocalStore) -> Result<Vec<Link>, Failure> {
    let archives = store.list()?.archives;
    let manifests: Vec<_> =
        archives.into_iter().filter_map(|archive| archive.manifest.ok()).collect();
    let is_there = |name: &str, sha256: &str| {
        manifests.iter().any(|manifest| manifest.name == name && manifest.sha256 == sha256)
    };
    Ok(manifests
        .iter()
        .map(|manifest| Link {
            name: manifest.name.clone(),
            // Another archive of the parent's name is nobody's parent.
            parent: manifest
                .parent
                .as_ref()
                .filter(|parent| is_there(&parent.name, &parent.sha256))
                .map(|parent| parent.name.clone()),
        })
        .collect())
}

/// Which of these archives may be removed from the store, and in which order.
pub fn removable(store: &LocalStore, names: &[String]) -> Result<Removal, Failure> {
    Ok(chain::removal(names, &links(store)?))
}
