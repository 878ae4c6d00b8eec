//! Copies an archive with its manifest to another store, in steps that may be repeated.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::LocalStore;
use super::files::{create_exclusive, store_failed};
use crate::engine::codec::{hex, open_archive};
use crate::engine::error::EngineError;
use crate::engine::manifest::Manifest;
use crate::engine::progress::{Cancel, Progress};
use crate::failpoint;

impl LocalStore {
    /// Copies an archive to `other` under the same name and returns its manifest there.
    ///
    /// The copy is synced and read back against the manifest's SHA-256 before its manifest is
    /// written. After an interruption the same call goes on: a partial copy is begun anew, a
    /// complete one is checked and kept. The original stays.
    pub fn copy_archive(
        &self,
        name: &str,
        other: &Self,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Manifest, EngineError> {
        let manifest = self.read_manifest(name)?;
        let target = other.archive_path(name);
        if let Ok(existing) = other.read_manifest(name)
            && existing.sha256 != manifest.sha256
        {
            return Err(EngineError::InvalidName {
                name: name.to_owned(),
                detail: format!("{} already has another archive of this name", other.name()),
            });
        }
        progress.total(1, manifest.size_bytes);
        if !target.exists() {
            let partial = other.partial_path(name);
            let _lock = self.copy_file(name, other, progress, cancel)?;
            if hash_file(&partial, cancel)? != manifest.sha256 {
                super::remove_if_present(&partial)?;
                let detail = "its SHA-256 is not that of its manifest, so it was not copied";
                return Err(EngineError::damaged(name, detail));
            }
            failpoint::hit("migrate.copied");
            other.publish(name)?;
        } else if hash_file(&target, cancel)? != manifest.sha256 {
            let detail = format!("the file of this name in {} is a different one", other.name());
            return Err(EngineError::damaged(name, detail));
        }
        failpoint::hit("migrate.manifest");
        let copied = Manifest { store: other.name().to_owned(), ..manifest };
        other.write_manifest(&copied)?;
        progress.advance(1, 0);
        Ok(copied)
    }

    /// Fills the partial file of the copy, and returns it with its lock held.
    fn copy_file(
        &self,
        name: &str,
        other: &Self,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<File, EngineError> {
        let partial = other.partial_path(name);
        let source_path = self.archive_path(name);
        let mut source = open_archive(&source_path)?;
        // What a killed copy left is worth nothing; what a living one writes is not ours.
        if super::is_locked(&partial) {
            return Err(EngineError::Busy { name: name.to_owned() });
        }
        super::remove_if_present(&partial)?;
        let mut copy = create_exclusive(&partial).map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                return EngineError::Busy { name: name.to_owned() };
            }
            store_failed("creating", &partial)(error)
        })?;
        rustix::fs::flock(&copy, FlockOperation::LockExclusive)
            .map_err(|error| store_failed("locking", &partial)(error.into()))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            if let Err(error) = cancel.check() {
                super::remove_if_present(&partial)?;
                return Err(error);
            }
            let count = source.read(&mut buffer).map_err(store_failed("reading", &source_path))?;
            if count == 0 {
                break;
            }
            if let Err(error) = copy.write_all(&buffer[..count]) {
                let _ = std::fs::remove_file(&partial);
                return Err(store_failed("writing", &partial)(error));
            }
            progress.advance(0, count as u64);
        }
        copy.sync_all().map_err(store_failed("syncing", &partial))?;
        Ok(copy)
    }
}

/// SHA-256 of a file, in hex.
fn hash_file(path: &std::path::Path, cancel: &Cancel) -> Result<String, EngineError> {
    let mut file = open_archive(path)?;
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        let count = file.read(&mut buffer).map_err(store_failed("reading", path))?;
        if count == 0 {
            return Ok(hex(&sha256.finalize()));
        }
        sha256.update(&buffer[..count]);
    }
}
