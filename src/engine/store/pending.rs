//! An archive that is being written.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::FlockOperation;

use super::files::{create_exclusive, store_failed};
use super::{LocalStore, check_name};
use crate::engine::error::EngineError;
use crate::engine::manifest::Manifest;
use crate::spec::ArchiveFormat;

/// The partial file of an archive, open and locked.
///
/// Dropping it leaves the file, as a crash would; [`Self::discard`] removes it. The lock is held
/// until then and survives the rename, so that nobody cleans up what is still being committed.
#[derive(Debug)]
pub struct PendingArchive {
    store: LocalStore,
    name: String,
    file: File,
}

impl PendingArchive {
    pub(super) fn create(store: &LocalStore, base_name: &str) -> Result<Self, EngineError> {
        check_name(base_name)?;
        let (stem, extension) = split_extension(base_name);
        let mut number = 1_u32;
        loop {
            let name = match number {
                1 => base_name.to_owned(),
                number => format!("{stem}-{number}{extension}"),
            };
            check_name(&name)?;
            if let Some(file) = reserve(store, &name)? {
                return Ok(Self { store: store.clone(), name, file });
            }
            number = number.saturating_add(1);
        }
    }

    /// The name that the archive will have; also the key of all steps by name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the archive its name and commits it with its manifest, which must bear the same name.
    pub fn seal(self, manifest: &Manifest) -> Result<(), EngineError> {
        if manifest.name != self.name {
            return Err(EngineError::InvalidName {
                name: manifest.name.clone(),
                detail: format!("the archive is called {}", self.name),
            });
        }
        self.publish()?;
        self.store.write_manifest(manifest)
    }

    /// The first half of [`Self::seal`]: sync and final name, no manifest yet.
    pub fn publish(&self) -> Result<(), EngineError> {
        // On the handle that wrote: another one need not hear of a failed write-back.
        let path = self.store.partial_path(&self.name);
        self.file.sync_all().map_err(store_failed("syncing", &path))?;
        self.store.publish(&self.name)
    }

    /// Throws away what was written.
    pub fn discard(self) -> Result<(), EngineError> {
        let Self { store, name, file } = self;
        drop(file);
        store.discard(&name)
    }
}

impl Write for PendingArchive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Creates and locks the partial file, unless the name is taken in any form.
fn reserve(store: &LocalStore, name: &str) -> Result<Option<File>, EngineError> {
    let path = store.partial_path(name);
    let taken = || store.archive_path(name).exists() || store.manifest_path(name).exists();
    if taken() {
        return Ok(None);
    }
    let report = || store_failed("writing to the store", store.path());
    let file = match create_exclusive(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(report()(error)),
    };
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| report()(error.into()))?;
    // Between creating and locking a clean-up may have taken the file for a dead one; and between
    // looking and creating another process may have sealed an archive of this name.
    let removed = file.metadata().map_err(report())?.nlink() == 0;
    if removed || taken() {
        if !removed {
            std::fs::remove_file(&path).map_err(report())?;
        }
        return Ok(None);
    }
    Ok(Some(file))
}

/// The name before its extension, and the extension with its dot.
fn split_extension(name: &str) -> (&str, String) {
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar] {
        let extension = format!(".{}", format.extension());
        if let Some(stem) = name.strip_suffix(extension.as_str()) {
            return (stem, extension);
        }
    }
    (name, String::new())
}
