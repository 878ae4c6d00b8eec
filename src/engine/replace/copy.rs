//! A faithful copy of one entry that is no directory, for where a hard link is not possible.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Result;

use super::metadata::Metadata;
use super::primitive::step;
use crate::engine::attributes::{Refused, tell_owner};

/// Copies `name` from one directory to another with its metadata; `false` for a socket, which is
/// left out. Hard links among copied files become separate files.
pub(super) fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    status: &Stat,
    refused: &mut Refused<'_>,
) -> Result<bool> {
    step()?;
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => {
            copy_file(from, to, name, refused)?;
            return Ok(true);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            rustix::fs::mknodat(to, name, kind, mode, status.st_rdev)?;
        }
        _ => return Ok(false),
    }
    let (owner, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    if rustix::process::geteuid().is_root() {
        let numbers = (status.st_uid.into(), status.st_gid.into());
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let owned = rustix::fs::chownat(to, name, Some(owner), Some(group), flags);
        tell_owner(numbers, owned, refused);
    }
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(to, name, &times(status), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(true)
}

#[allow(clippy::useless_conversion, clippy::cast_possible_wrap, clippy::unnecessary_cast)]
fn times(status: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: i64::from(status.st_atime),
            tv_nsec: status.st_atime_nsec as i64,
        },
        last_modification: Timespec {
            tv_sec: i64::from(status.st_mtime),
            tv_nsec: status.st_mtime_nsec as i64,
        },
    }
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    refused: &mut Refused<'_>,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let metadata = Metadata::read(source.as_fd())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
    std::io::copy(&mut source, &mut target).map_err(|error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    })?;
    metadata.apply(target.as_fd(), refused)
}
