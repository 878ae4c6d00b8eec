//! Puts archives back: checked as a whole first, then written beneath open directories only.
//!
//! An archive is data from elsewhere. Nothing of it is written before every name and link in it was
//! found safe; every path is resolved by the kernel beneath its destination and without following
//! symlinks; symlinks themselves are created last. Existing files are never overwritten.

mod attributes;
mod beneath;
mod check;
mod names;
mod one;
mod place;
mod run;
mod salvage;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::error::EngineError;
use super::progress::{Cancel, Progress};
use super::summary::UnpackSummary;
use crate::failpoint;
use crate::spec::ArchiveFormat;
pub use one::extract_one;
pub(super) use run::entries_elsewhere;
pub use salvage::{Ancestors, Salvaged, count_salvageable, salvage};

/// What an archive may hold at most; none means that only its own size limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Entries of every kind; a manifest's `counts.entries`.
    pub entries: Option<u64>,
    /// Bytes of all files, holes included; a manifest's `sourceBytes`.
    pub bytes: Option<u64>,
}

/// What to unpack, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackOptions {
    /// What is unpacked: gitignore syntax on archive names; empty for everything.
    pub include: Vec<String>,
    /// What is left out: gitignore syntax relative to each root.
    pub preserve: Vec<String>,
    /// For each root, by its name in the archive, the place it is unpacked to: an existing directory
    /// for a root that is a directory, else the path to create. What lies under no root given here
    /// is left out.
    pub destinations: Vec<(String, PathBuf)>,
    /// Restore owners, and with them setuid and setgid bits.
    pub restore_owner: bool,
    /// Create device nodes; an archive that holds any is refused otherwise.
    pub allow_devices: bool,
    /// Bounds on what is written.
    pub limits: Limits,
    /// Threads that decompress and write; as many as there are cores if none is given.
    pub threads: Option<NonZeroUsize>,
}

impl Default for UnpackOptions {
    /// Everything that the rights of this process allow, to nowhere yet.
    fn default() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            include: Vec::new(),
            preserve: Vec::new(),
            destinations: Vec::new(),
            restore_owner: root,
            allow_devices: root,
            limits: Limits::default(),
            threads: None,
        }
    }
}

/// Unpacks roots of an archive to their destinations, synced to disk at the end.
///
/// [`EngineError::Unsafe`] and [`EngineError::Damaged`] that the check finds come before anything
/// is written. After any other error the destinations hold a part and are to be thrown away.
pub fn unpack(
    path: &Path,
    format: ArchiveFormat,
    options: &UnpackOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<UnpackSummary, EngineError> {
    failpoint::hit("extract.started");
    progress.phase("check");
    let archive = Archive::open(path, format)?;
    let plan = check::check(&archive, options, cancel)?;
    progress.phase("extract");
    progress.total(plan.entries, plan.bytes);
    let summary = run::extract(&archive, options, &plan, progress, cancel)?;
    failpoint::hit("extract.finished");
    Ok(summary)
}

/// Unpacks a whole archive, all roots by their names in it, beneath one directory.
///
/// The directory is created if it does not exist; files in it are never overwritten.
pub fn extract_tree(
    path: &Path,
    format: ArchiveFormat,
    include: &[String],
    destination: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<UnpackSummary, EngineError> {
    let options = tree_options(include, destination)?;
    unpack(path, format, &options, progress, cancel)
}

/// Everything, beneath one directory, which is created if it does not exist.
fn tree_options(include: &[String], destination: &Path) -> Result<UnpackOptions, EngineError> {
    std::fs::create_dir_all(destination).map_err(|source| EngineError::Extract {
        action: "creating",
        path: destination.to_owned(),
        source,
    })?;
    Ok(UnpackOptions {
        include: include.to_vec(),
        destinations: vec![(String::new(), destination.to_owned())],
        ..UnpackOptions::default()
    })
}

/// Reads a whole archive and refuses, as [`unpack`] would, what must never be written: names and links
/// that lead out of their destination, entries beneath a symlink, data that is damaged.
pub fn check_names(path: &Path, format: ArchiveFormat, cancel: &Cancel) -> Result<(), EngineError> {
    let options = UnpackOptions {
        destinations: vec![(String::new(), PathBuf::from("/"))],
        allow_devices: true,
        ..UnpackOptions::default()
    };
    let archive = Archive::open(path, format)?;
    check::check(&archive, &options, cancel).map(|_| ())
}
