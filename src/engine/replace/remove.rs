//! Deleting a tree by directory descriptors: no symlink is followed, no mount is entered.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags};

use super::error::{ReplaceError, Step, failed};
use super::primitive;

/// Deletes the entry `name` of `parent` and all below it; fine if there is none.
///
/// `path` only names it in errors. `point` is passed before each entry, for the crash tests.
pub(super) fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    point: &str,
) -> Result<(), ReplaceError> {
    let step = Step::Swap;
    let Some(status) = primitive::status(parent, name).map_err(failed("look at", path, step))?
    else {
        return Ok(());
    };
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        crate::failpoint::hit(point);
        return primitive::unlink(parent, name).map_err(failed("delete", path, step));
    }
    if is_mount_point(parent, name).map_err(failed("look at", path, step))? {
        return Err(ReplaceError::WrongState {
            action: "delete",
            path: path.to_owned(),
            why: "another file system is mounted there",
            hint: "unmount it and try again; its content is left alone",
        });
    }
    let directory =
        primitive::open_writable(parent, name).map_err(failed("open directory", path, step))?;
    let names = primitive::names(directory.as_fd()).map_err(failed("list", path, step))?;
    for child in &names {
        let child = primitive::as_name(child);
        remove_tree(directory.as_fd(), child, &path.join(child), point)?;
    }
    drop(directory);
    crate::failpoint::hit(point);
    primitive::remove_directory(parent, name).map_err(failed("delete directory", path, step))
}

/// Whether something is mounted on `name`; bind mounts of the same file system count.
pub(in crate::engine) fn is_mount_point(
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> rustix::io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let status = rustix::fs::statx(parent, name, flags, StatxFlags::BASIC_STATS)?;
    if status.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Kernels before 5.8 do not say; a bind mount of the same file system goes unseen there.
    let above = rustix::fs::fstat(parent)?;
    let device = rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor);
    Ok(device != above.st_dev)
}
