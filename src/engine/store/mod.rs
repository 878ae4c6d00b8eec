//! A directory of archives with their manifests.
//!
//! The order of writing is what makes a crash harmless: archive under a temporary name, sync,
//! rename, sync of the directory, then the manifest the same way. An archive without a manifest is
//! unfinished; deleting goes the other way round. Locks tell a writer at work from a dead one.

mod copy;
mod files;
mod listing;
mod pending;
mod presence;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FlockOperation};

pub use listing::{Cleaned, StoreListing, StoredArchive};
pub use pending::PendingArchive;
pub use presence::Presence;

use super::error::EngineError;
use super::manifest::{MANIFEST_SUFFIX, Manifest};
use crate::failpoint;
use files::{read_bounded, replace_file, store_failed, sync_directory};

/// Prefix of the names that archives have while they are written.
pub(super) const PARTIAL_PREFIX: &str = ".eider-partial-";
/// Prefix of the names that manifests have while they are written.
const MANIFEST_PREFIX: &str = ".eider-manifest-";
/// The largest manifest that is read, in bytes.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// A store on a file system.
#[derive(Debug, Clone)]
pub struct LocalStore {
    name: String,
    path: PathBuf,
}

impl LocalStore {
    /// Opens the directory of the store called `name`; creates it if asked to.
    ///
    /// Fails with [`EngineError::Store`] if it is missing, no directory, or not accessible. Whether
    /// it can be written to shows with [`Self::check_writable`]: reading needs less.
    pub fn open(path: &Path, name: &str, create: bool) -> Result<Self, EngineError> {
        // Said before the attempt to create it, whose error would be that something exists.
        if create && !path.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            std::fs::create_dir_all(path).map_err(store_failed("creating the store", path))?;
        }
        let metadata = path.metadata().map_err(store_failed("opening the store", path))?;
        if !metadata.is_dir() {
            let source = ErrorKind::NotADirectory.into();
            return Err(store_failed("opening the store", path)(source));
        }
        std::fs::read_dir(path).map_err(store_failed("reading the store", path))?;
        Ok(Self { name: name.to_owned(), path: path.to_owned() })
    }

    /// The bytes that could be written to a store that is not there yet; fails if its directory could not be made.
    /// Makes nothing: whether it may lie there is for the first backup to find out.
    pub fn foresee(path: &Path) -> Result<u64, EngineError> {
        let failed = store_failed("creating the store", path);
        let above = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        if !above.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(rustix::fs::CWD, above, wanted, AtFlags::EACCESS)
            .map_err(|error| failed(error.into()))?;
        Self { name: String::new(), path: above.to_owned() }.free_bytes()
    }

    /// Fails unless files can be created here.
    pub fn check_writable(&self) -> Result<(), EngineError> {
        let action = "writing to the store";
        // Others may be asking the same, in this process or, from a container, under the same number.
        for number in 0_u32.. {
            let name = format!("{PARTIAL_PREFIX}probe-{}-{number}", std::process::id());
            let probe = self.path.join(name);
            match files::create_exclusive(&probe) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(store_failed(action, &self.path)(error)),
                Ok(_) => {
                    return match std::fs::remove_file(&probe) {
                        // A clean-up took it for what somebody who was killed has left.
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            Err(store_failed(action, &self.path)(error))
                        }
                        _ => Ok(()),
                    };
                }
            }
        }
        Ok(())
    }

    /// Name of the BackupStore.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the archives are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where an archive of this name is or would be.
    pub fn archive_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}{MANIFEST_SUFFIX}"))
    }

    fn partial_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{PARTIAL_PREFIX}{name}"))
    }

    /// Bytes that this user can still write.
    pub fn free_bytes(&self) -> Result<u64, EngineError> {
        let action = "asking for the free space of";
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|error| store_failed(action, &self.path)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Starts an archive called `base_name`, or `…-2`, `…-3` before the extension if that is taken.
    pub fn begin(&self, base_name: &str) -> Result<PendingArchive, EngineError> {
        PendingArchive::create(self, base_name)
    }

    /// Syncs a partial archive and gives it its final name; it still lacks its manifest.
    ///
    /// Repeating it after a crash is success: an archive that has its name already stays as it is.
    pub fn publish(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        let (partial, path) = (self.partial_path(name), self.archive_path(name));
        match std::fs::File::open(&partial) {
            Ok(file) => {
                file.sync_all().map_err(store_failed("syncing", &partial))?;
                failpoint::hit("seal.synced");
                files::rename_new(&partial, &path)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && path.exists() => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(EngineError::Missing {
                    name: name.to_owned(),
                    detail: format!("nothing was written to {}", partial.display()),
                });
            }
            Err(error) => return Err(store_failed("opening", &partial)(error)),
        }
        sync_directory(&self.path)?;
        failpoint::hit("seal.renamed");
        Ok(())
    }

    /// Writes or replaces a manifest in one step; with the first one the archive is committed.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), EngineError> {
        check_name(&manifest.name)?;
        let path = self.manifest_path(&manifest.name);
        let temporary =
            self.path.join(format!("{MANIFEST_PREFIX}{}-{}", std::process::id(), manifest.name));
        replace_file(&temporary, &path, manifest.to_text().as_bytes(), "seal.manifest-written")?;
        sync_directory(&self.path)?;
        failpoint::hit("seal.manifest-renamed");
        Ok(())
    }

    /// Reads and checks a manifest.
    ///
    /// [`EngineError::Missing`] says whether the manifest alone or the archive too is gone.
    pub fn read_manifest(&self, name: &str) -> Result<Manifest, EngineError> {
        check_name(name)?;
        let path = self.manifest_path(name);
        match read_bounded(&path, MANIFEST_LIMIT) {
            Ok(Some(text)) => Manifest::from_text(name, &text),
            Ok(None) => Err(EngineError::damaged(name, "its manifest is longer than any real one")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let detail = if self.archive_path(name).exists() {
                    "it has no manifest in the store, so it was never finished"
                } else {
                    "it is not in the store"
                };
                let detail = format!("{detail} ({})", self.path.display());
                Err(EngineError::Missing { name: name.to_owned(), detail })
            }
            Err(error) => Err(store_failed("reading", &path)(error)),
        }
    }

    /// Removes an archive: manifest first, so that what is left is never taken for a backup.
    ///
    /// What is missing already counts as removed.
    pub fn delete(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        remove_if_present(&self.manifest_path(name))?;
        sync_directory(&self.path)?;
        remove_if_present(&self.archive_path(name))?;
        sync_directory(&self.path)
    }

    /// Removes the partial file of an archive that failed, and an archive that lacks its manifest.
    ///
    /// A committed archive of that name stays. What is missing already counts as removed.
    /// [`EngineError::Busy`] if another process is still writing it.
    pub fn discard(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        let mut paths = vec![self.partial_path(name)];
        if !self.manifest_path(name).exists() {
            paths.push(self.archive_path(name));
        }
        for path in paths {
            if is_locked(&path) {
                return Err(EngineError::Busy { name: name.to_owned() });
            }
            remove_if_present(&path)?;
        }
        sync_directory(&self.path)
    }
}

/// Whether a living process is writing this file. A lock dies with its process.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
}

fn remove_if_present(path: &Path) -> Result<(), EngineError> {
    match rustix::fs::unlinkat(rustix::fs::CWD, path, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(store_failed("removing", path)(error.into())),
    }
}

/// Refuses names that are no plain, visible file name: they come from documents and manifests.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    let longest =
        255 - PARTIAL_PREFIX.len().max(MANIFEST_SUFFIX.len() + MANIFEST_PREFIX.len() + 11);
    let detail = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.contains(['/', '\0', '\n']) {
        "it contains a slash, a NUL or a line break".to_owned()
    } else if name.starts_with('.') {
        "it begins with a dot".to_owned()
    } else if name.ends_with(MANIFEST_SUFFIX) {
        "it is the name of a manifest".to_owned()
    } else if name.len() > longest {
        format!("it is longer than {longest} bytes")
    } else {
        return Ok(());
    };
    Err(EngineError::InvalidName { name: name.to_owned(), detail })
}
