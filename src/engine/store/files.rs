//! The few file operations that the store's promises rest on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::engine::error::EngineError;
use crate::failpoint;

/// Adds what was done to which path to an error of the system.
pub(super) fn store_failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Store { action, path, source }
}

/// A new file that only its owner can read: archives hold everything that the source held.
pub(super) fn create_exclusive(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Makes renames and removals in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), EngineError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(store_failed("syncing", path))
}

/// Renames unless the new name exists.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<(), EngineError> {
    let report = |error: Errno| store_failed("renaming to", to)(error.into());
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems do not know the flag; a link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::link(from, to).map_err(report)?;
            rustix::fs::unlink(from).map_err(report)
        }
        result => result.map_err(report),
    }
}

/// Writes a file under a temporary name, syncs it, and puts it in the place of `path`.
///
/// After a failed sync the temporary file is thrown away: its pages may be lost although a second
/// sync would succeed.
pub(super) fn replace_file(
    temporary: &Path,
    path: &Path,
    text: &[u8],
    written: &str,
) -> Result<(), EngineError> {
    let write = || -> io::Result<()> {
        let _ = std::fs::remove_file(temporary);
        let mut file = create_exclusive(temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        failpoint::hit(written);
        std::fs::rename(temporary, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(temporary);
        store_failed("writing", path)(source)
    })
}

/// Reads a small file; nothing if it is larger than `limit`.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= limit).then_some(text))
}
