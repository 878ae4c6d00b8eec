//! What a store holds of one archive, for a process that finds it after another has died.

use std::io::ErrorKind;
use std::path::Path;

use super::files::store_failed;
use super::{LocalStore, PendingArchive, StoredArchive};
use crate::engine::error::EngineError;
use crate::engine::manifest::Manifest;
use crate::engine::progress::Cancel;
use crate::engine::survey::file_digest;

/// What a store holds under the name of an archive.
#[derive(Debug)]
pub enum Presence {
    /// Archive and manifest, of the size that the manifest says.
    Whole(Box<Manifest>),
    /// Something is there, and why it is no backup as it is: its manifest is missing, or cannot be used, or says
    /// another size. What cannot be looked at is not missed.
    Broken(EngineError),
    /// No archive. A manifest alone is none.
    Gone,
}

impl Presence {
    /// Its manifest, if all of it is there.
    pub fn whole(self) -> Option<Manifest> {
        match self {
            Self::Whole(manifest) => Some(*manifest),
            Self::Broken(_) | Self::Gone => None,
        }
    }

    fn of(name: &str, manifest: Result<Manifest, EngineError>, size: u64) -> Self {
        match manifest {
            Ok(manifest) if manifest.size_bytes == size => Self::Whole(Box::new(manifest)),
            Ok(manifest) => Self::Broken(EngineError::damaged(
                name,
                format!("it has {size} bytes, its manifest says {}", manifest.size_bytes),
            )),
            Err(error) => Self::Broken(error),
        }
    }
}

impl LocalStore {
    /// Whether the archive is committed: its manifest is there.
    pub fn has_manifest(&self, name: &str) -> bool {
        self.manifest_path(name).is_file()
    }

    /// Whether anything of the archive is there, committed or not.
    pub fn has_any(&self, name: &str) -> bool {
        self.has_manifest(name)
            || self.archive_path(name).exists()
            || self.partial_path(name).exists()
    }

    /// What is there of an archive, by its size: whether every byte is right is for whoever verifies it.
    pub fn presence(&self, name: &str) -> Presence {
        let path = self.archive_path(name);
        match path.symlink_metadata().and_then(|_| path.metadata()) {
            Ok(found) => Presence::of(name, self.read_manifest(name), found.len()),
            Err(error) if is_missing(&path, &error) => Presence::Gone,
            Err(error) => Presence::Broken(store_failed("reading", &path)(error)),
        }
    }

    /// What is there of an archive that was listed.
    pub fn presence_of(&self, archive: StoredArchive) -> Presence {
        match archive.size_bytes {
            Some(size) => Presence::of(&archive.name, archive.manifest, size),
            None => self.presence(&archive.name),
        }
    }

    /// Whether the archive's file lies under its final name.
    pub fn is_published(&self, name: &str) -> bool {
        self.archive_path(name).is_file()
    }

    /// Checks that what an ended process left under the temporary or the final name is, byte for
    /// byte, what it says it wrote.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when it is not, [`EngineError::Missing`] when nothing is there.
    pub fn check_left_behind(
        &self,
        name: &str,
        sha256: &str,
        size: u64,
    ) -> Result<(), EngineError> {
        let published = self.archive_path(name);
        let path = if published.is_file() { published } else { self.partial_path(name) };
        let (found, bytes) = file_digest(&path, &Cancel::new())?;
        if found != sha256 || bytes != size {
            let detail = "what was left of it is not what had been written";
            return Err(EngineError::damaged(name, detail));
        }
        Ok(())
    }

    /// Notes in the manifest that the archive was read back completely.
    pub fn mark_verified(&self, name: &str, at: jiff::Timestamp) -> Result<(), EngineError> {
        let mut manifest = self.read_manifest(name)?;
        manifest.mark_verified(at);
        self.write_manifest(&manifest)
    }

    /// Takes that back: the archive, or one that it builds on, was found damaged.
    pub fn mark_unverified(&self, name: &str) -> Result<(), EngineError> {
        let mut manifest = self.read_manifest(name)?;
        if manifest.verified_at.take().is_some() {
            self.write_manifest(&manifest)?;
        }
        Ok(())
    }
}

/// Whether nothing lies there. A link that leads nowhere is something.
fn is_missing(path: &Path, error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_err()
}

impl PendingArchive {
    /// Copies a finished archive file into this one.
    pub fn fill_from(
        &mut self,
        path: &std::path::Path,
        cancel: &crate::engine::Cancel,
        progress: &dyn crate::engine::Progress,
    ) -> Result<(), EngineError> {
        use std::io::{Read, Write};
        let mut input = crate::engine::codec::open_archive(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            cancel.check()?;
            let count = input.read(&mut buffer).map_err(store_failed("reading", path))?;
            if count == 0 {
                return Ok(());
            }
            self.write_all(&buffer[..count])
                .map_err(|source| EngineError::WriteArchive { source })?;
            progress.advance(0, count as u64);
        }
    }
}
