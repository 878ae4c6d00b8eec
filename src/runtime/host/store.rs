//! Stores that are directories of this machine.

use std::path::PathBuf;

use crate::engine::LocalStore;
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
