//! Owner, mode, attributes and times of what was unpacked, in the order that keeps them all.
//!
//! Owner before mode, because a change of owner clears setuid; both before the attributes, because
//! it clears capabilities too, and an ACL repeats the mode; times last, because everything else
//! touches them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::engine::entry::{EntryInfo, EntryKind, Moment, display_start};
use crate::engine::summary::{UnpackSummary, WarningKind};

/// Sets everything on an open file or directory.
pub(super) fn apply(
    file: impl AsFd,
    info: &EntryInfo,
    restore_owner: bool,
    summary: &mut UnpackSummary,
) -> rustix::io::Result<()> {
    if restore_owner {
        let owned = match owner(info) {
            Some((uid, gid)) => rustix::fs::fchown(&file, Some(uid), Some(gid)),
            None => Err(Errno::RANGE),
        };
        warn_owner(info, owned, summary);
    }
    uninherit(&file, info)?;
    let mut set = |of_users: bool| {
        for (name, value) in &info.xattrs {
            if name.starts_with(b"user.") == of_users {
                let set = rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty());
                warn_attribute(info, name, set, summary);
            }
        }
    };
    // Those of users need the right to write, which the mode may take away; access control lists change the mode.
    set(true);
    rustix::fs::fchmod(&file, mode(info, restore_owner))?;
    set(false);
    rustix::fs::futimens(&file, &times(info.modified))
}

/// Sets everything on a symlink, which has no mode of its own.
pub(super) fn apply_to_symlink(
    parent: BorrowedFd<'_>,
    name: &[u8],
    info: &EntryInfo,
    restore_owner: bool,
    summary: &mut UnpackSummary,
) -> rustix::io::Result<()> {
    if restore_owner {
        let owned = match owner(info) {
            Some((uid, gid)) => {
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            None => Err(Errno::RANGE),
        };
        warn_owner(info, owned, summary);
    }
    if !info.xattrs.is_empty() {
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        for (attribute, value) in &info.xattrs {
            let set = rustix::fs::lsetxattr(
                path.as_slice(),
                attribute.as_slice(),
                value,
                XattrFlags::empty(),
            );
            warn_attribute(info, attribute, set, summary);
        }
    }
    rustix::fs::utimensat(parent, name, &times(info.modified), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets everything on a FIFO or device, which must not be opened for that.
pub(super) fn apply_to_special(
    parent: BorrowedFd<'_>,
    name: &[u8],
    info: &EntryInfo,
    restore_owner: bool,
    summary: &mut UnpackSummary,
) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node: OwnedFd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    if restore_owner {
        let owned = match owner(info) {
            Some((uid, gid)) => {
                rustix::fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            }
            None => Err(Errno::RANGE),
        };
        warn_owner(info, owned, summary);
    }
    let list: &[u8] = b"system.posix_acl_access";
    if !info.xattrs.iter().any(|(name, _)| name == list) {
        match rustix::fs::removexattr(path.as_str(), list) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::chmod(path.as_str(), mode(info, restore_owner))?;
    for (attribute, value) in &info.xattrs {
        let set =
            rustix::fs::setxattr(path.as_str(), attribute.as_slice(), value, XattrFlags::empty());
        warn_attribute(info, attribute, set, summary);
    }
    rustix::fs::utimensat(parent, name, &times(info.modified), AtFlags::SYMLINK_NOFOLLOW)
}

/// Takes access control lists off that a new file or directory has from the directory above, and the entry has not:
/// who may read what is put back is for the archive to say.
fn uninherit(file: impl AsFd, info: &EntryInfo) -> rustix::io::Result<()> {
    let lists: [(&[u8], bool); 2] = [
        (b"system.posix_acl_access", true),
        (b"system.posix_acl_default", info.kind == EntryKind::Directory),
    ];
    for (list, may_be) in lists {
        if may_be && !info.xattrs.iter().any(|(name, _)| name == list) {
            match rustix::fs::fremovexattr(&file, list) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The kernel's number for "leave it" is no owner either.
fn owner(info: &EntryInfo) -> Option<(Uid, Gid)> {
    let number = |value: u64| u32::try_from(value).ok().filter(|number| *number != u32::MAX);
    Some((Uid::from_raw(number(info.uid)?), Gid::from_raw(number(info.gid)?)))
}

/// Without its owner a file must not run as somebody else.
fn mode(info: &EntryInfo, restore_owner: bool) -> Mode {
    Mode::from_raw_mode(if restore_owner { info.mode & 0o7777 } else { info.mode & 0o1777 })
}

fn times(modified: Moment) -> Timestamps {
    let modified = Timespec { tv_sec: modified.seconds, tv_nsec: i64::from(modified.nanoseconds) };
    Timestamps { last_access: modified, last_modification: modified }
}

fn warn_owner(info: &EntryInfo, result: rustix::io::Result<()>, summary: &mut UnpackSummary) {
    if let Err(error) = result {
        let message = format!(
            "its owner {}:{} could not be set: {}",
            info.uid,
            info.gid,
            std::io::Error::from(error)
        );
        summary.warn(info.display_name(), WarningKind::Owner, message);
    }
}

fn warn_attribute(
    info: &EntryInfo,
    name: &[u8],
    result: rustix::io::Result<()>,
    summary: &mut UnpackSummary,
) {
    if let Err(error) = result {
        let message = format!(
            "its attribute {} could not be set: {}",
            display_start(name),
            std::io::Error::from(error)
        );
        summary.warn(info.display_name(), WarningKind::Attributes, message);
    }
}
