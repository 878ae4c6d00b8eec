//! What a store holds of one archive, for a process that finds it after another has died.

use std::io::ErrorKind;
use std::path::Path;

use super::files::store_failed;
use super::{LocalStore, PendingArchive};
use crate::engine::error::EngineError;
use crate::engine::progress::Cancel;
use crate::engine::survey::file_digest;

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

    /// Whether the archive or its manifest is there: one that could be removed by half only is still to be removed.
    /// What cannot be looked at is not missed.
    pub fn is_there(&self, name: &str) -> bool {
        let is_missing = |path: &Path| {
            let found = path.symlink_metadata();
            found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        !is_missing(&self.manifest_path(name)) || !is_missing(&self.archive_path(name))
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
