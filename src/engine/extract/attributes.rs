//! Owner, mode, attributes and times of what was unpacked.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::engine::attributes::{ACCESS_LISTS, Wanted, owner, tell_attribute, tell_owner, times};
use crate::engine::entry::{EntryInfo, EntryKind, Moment};
use crate::engine::summary::{UnpackSummary, WarningKind};

/// Sets everything on an open file or directory.
pub(super) fn apply(
    file: impl AsFd,
    info: &EntryInfo,
    restore_owner: bool,
    summary: &mut UnpackSummary,
) -> rustix::io::Result<()> {
    // Access control lists that a new file or directory has from the directory above, and the entry has not: who may
    // read what is put back is for the archive to say.
    let is_surplus = |list: &&[u8]| {
        (info.kind == EntryKind::Directory || *list != ACCESS_LISTS[1])
            && !info.xattrs.iter().any(|(name, _)| name == list)
    };
    let wanted = Wanted {
        owner: restore_owner.then_some((info.uid, info.gid)),
        mode: mode(info, restore_owner).as_raw_mode(),
        attributes: &info.xattrs,
        surplus: ACCESS_LISTS.into_iter().filter(is_surplus).collect(),
        times: [seconds(info.modified); 2],
    };
    wanted.put(file, &mut |kind, message| summary.warn(info.display_name(), kind, message))
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
        let owned = owner(info.uid, info.gid).and_then(|(uid, gid)| {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        });
        tell_owner((info.uid, info.gid), owned, &mut warn(info, summary));
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
            tell_attribute(attribute, "set", set, &mut warn(info, summary));
        }
    }
    rustix::fs::utimensat(
        parent,
        name,
        &times([seconds(info.modified); 2]),
        AtFlags::SYMLINK_NOFOLLOW,
    )
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
        let owned = owner(info.uid, info.gid).and_then(|(uid, gid)| {
            rustix::fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        });
        tell_owner((info.uid, info.gid), owned, &mut warn(info, summary));
    }
    let list = ACCESS_LISTS[0];
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
        tell_attribute(attribute, "set", set, &mut warn(info, summary));
    }
    rustix::fs::utimensat(
        parent,
        name,
        &times([seconds(info.modified); 2]),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Without its owner a file must not run as somebody else.
fn mode(info: &EntryInfo, restore_owner: bool) -> Mode {
    Mode::from_raw_mode(if restore_owner { info.mode & 0o7777 } else { info.mode & 0o1777 })
}

fn seconds(moment: Moment) -> (i64, i64) {
    (moment.seconds, i64::from(moment.nanoseconds))
}

/// What could not be set becomes a warning.
fn warn<'a>(
    info: &'a EntryInfo,
    summary: &'a mut UnpackSummary,
) -> impl FnMut(WarningKind, String) + 'a {
    move |kind, message| summary.warn(info.display_name(), kind, message)
}
