//! What is in a store, and clearing away what dead processes left there.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::SystemTime;

use jiff::Timestamp;
use rustix::fs::FlockOperation;

use super::files::{store_failed, sync_directory};
use super::{LocalStore, MANIFEST_PREFIX, PARTIAL_PREFIX};
use crate::engine::error::EngineError;
use crate::engine::manifest::{MANIFEST_SUFFIX, Manifest};
use crate::spec::ArchiveFormat;

/// An archive that has a manifest.
#[derive(Debug)]
pub struct StoredArchive {
    /// Name of the archive.
    pub name: String,
    /// Its manifest, or why it cannot be used.
    pub manifest: Result<Manifest, EngineError>,
    /// Size of the archive file in bytes; nothing if the file is missing.
    pub size_bytes: Option<u64>,
}

/// Everything in a store, by name.
#[derive(Debug, Default)]
pub struct StoreListing {
    /// Archives with a manifest, the file itself possibly missing.
    pub archives: Vec<StoredArchive>,
    /// Archives without a manifest: being committed, or unfinished.
    pub unfinished: Vec<String>,
    /// Archives under a temporary name: being written, or left over.
    pub partial: Vec<String>,
}

/// What [`LocalStore::clean_unfinished`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// File names in the store.
    pub removed: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

impl LocalStore {
    /// Lists the store. Files that are no archives are passed over.
    pub fn list(&self) -> Result<StoreListing, EngineError> {
        let mut listing = StoreListing::default();
        let files = self.files()?;
        for name in files.keys() {
            if let Some(archive) = name.strip_suffix(MANIFEST_SUFFIX) {
                if super::check_name(archive).is_ok() {
                    listing.archives.push(StoredArchive {
                        name: archive.to_owned(),
                        manifest: self.read_manifest(archive),
                        size_bytes: files.get(archive).copied(),
                    });
                }
            } else if let Some(archive) = name.strip_prefix(PARTIAL_PREFIX) {
                listing.partial.push(archive.to_owned());
            } else if is_archive_name(name)
                && !files.contains_key(&format!("{name}{MANIFEST_SUFFIX}"))
            {
                listing.unfinished.push(name.clone());
            }
        }
        Ok(listing)
    }

    /// Removes what was begun and never committed, is not locked, and was last written to more than
    /// `grace` before `now`. Only archives' names are looked at, foreign files are safe.
    pub fn clean_unfinished(
        &self,
        grace: jiff::SignedDuration,
        now: Timestamp,
    ) -> Result<Cleaned, EngineError> {
        let mut cleaned = Cleaned::default();
        let files = self.files()?;
        for (name, size) in &files {
            let unfinished =
                is_archive_name(name) && !files.contains_key(&format!("{name}{MANIFEST_SUFFIX}"));
            let temporary = name.starts_with(PARTIAL_PREFIX) || name.starts_with(MANIFEST_PREFIX);
            if (unfinished || temporary) && self.remove_if_dead(name, grace, now)? {
                cleaned.removed.push(name.clone());
                cleaned.bytes = cleaned.bytes.saturating_add(*size);
            }
        }
        if !cleaned.removed.is_empty() {
            sync_directory(self.path())?;
        }
        Ok(cleaned)
    }

    fn remove_if_dead(
        &self,
        name: &str,
        grace: jiff::SignedDuration,
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        let path = self.path().join(name);
        let Ok(file) = File::open(&path) else { return Ok(false) };
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let written = written.map_err(store_failed("reading", &path))?;
        // Without a usable time nothing is old.
        let written = Timestamp::try_from(written.max(SystemTime::UNIX_EPOCH)).unwrap_or(now);
        if now.duration_since(written) < grace {
            return Ok(false);
        }
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        // Whoever commits holds the lock until the manifest is there: look again, under the lock.
        if self.path().join(format!("{name}{MANIFEST_SUFFIX}")).exists() {
            return Ok(false);
        }
        super::remove_if_present(&path)?;
        Ok(true)
    }

    /// Names and sizes of the regular files in the store.
    fn files(&self) -> Result<BTreeMap<String, u64>, EngineError> {
        let report = || store_failed("reading the store", self.path());
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.path()).map_err(report())? {
            let entry = entry.map_err(report())?;
            // One that is removed meanwhile is simply not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.insert(name, metadata.len());
            }
        }
        Ok(files)
    }
}

/// Whether a visible file is named like an archive of this program: `backup_….tar.gz`.
fn is_archive_name(name: &str) -> bool {
    name.starts_with("backup_")
        && [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar]
            .iter()
            .any(|format| name.ends_with(&format!(".{}", format.extension())))
}
