//! Mode, owner, times and extended attributes of a directory or file: read, kept, put back.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::primitive::step;

/// What a directory or file carries beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    mode: u32,
    owner: u32,
    group: u32,
    /// Seconds and nanoseconds of the last access.
    accessed: (i64, i64),
    /// Seconds and nanoseconds of the last change.
    modified: (i64, i64),
    /// Names and values of the extended attributes, access control lists included.
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Metadata {
    /// Reads the metadata of an open directory or file.
    #[allow(clippy::useless_conversion, clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    pub(super) fn read(file: BorrowedFd<'_>) -> Result<Self> {
        let status = rustix::fs::fstat(file)?;
        Ok(Self {
            mode: status.st_mode & 0o7777,
            owner: status.st_uid,
            group: status.st_gid,
            accessed: (i64::from(status.st_atime), status.st_atime_nsec as i64),
            modified: (i64::from(status.st_mtime), status.st_mtime_nsec as i64),
            attributes: read_attributes(file)?,
        })
    }

    /// The same with the permissions of another mode, for a directory that was widened to be opened.
    pub(super) fn with_mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o7777;
        self
    }

    /// Gives all of it to an open directory or file.
    ///
    /// The order matters: a change of owner clears set-id bits and capabilities, and every change
    /// moves the times.
    pub(super) fn apply(&self, file: BorrowedFd<'_>) -> Result<()> {
        step()?;
        let status = rustix::fs::fstat(file)?;
        if (status.st_uid, status.st_gid) != (self.owner, self.group) {
            let (owner, group) = (Uid::from_raw(self.owner), Gid::from_raw(self.group));
            tolerated(rustix::fs::fchown(file, Some(owner), Some(group)))?;
        }
        let present = read_attributes(file)?;
        for (name, _) in &present {
            if !self.attributes.iter().any(|(wanted, _)| wanted == name) {
                tolerated(rustix::fs::fremovexattr(file, name.as_c_str()))?;
            }
        }
        for (name, value) in &self.attributes {
            if !present.iter().any(|(found, held)| found == name && held == value) {
                let flags = XattrFlags::empty();
                tolerated(rustix::fs::fsetxattr(file, name.as_c_str(), value, flags))?;
            }
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        self.apply_times(file)
    }

    /// Gives only mode and times back, after children were added or removed.
    pub(super) fn apply_mode_and_times(&self, file: BorrowedFd<'_>) -> Result<()> {
        step()?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?;
        self.apply_times(file)
    }

    /// Makes or removes a child of a directory that has to look untouched afterwards.
    ///
    /// One step for the tests: a process killed between the two calls leaves the directory with a
    /// newer modification time, which no order of calls can prevent.
    pub(super) fn keep_times(
        directory: BorrowedFd<'_>,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        step()?;
        let before = Self::read(directory)?;
        let changed = change();
        before.apply_times(directory)?;
        changed
    }

    fn apply_times(&self, file: BorrowedFd<'_>) -> Result<()> {
        rustix::fs::futimens(file, &self.times())
    }

    fn times(&self) -> Timestamps {
        let time = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
        Timestamps { last_access: time(self.accessed), last_modification: time(self.modified) }
    }
}

/// An unprivileged process may not give files away or set trusted attributes, and not every file
/// system has them; neither is worth more than the data.
fn tolerated(result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::NODATA) => Ok(()),
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

fn read_attributes(file: BorrowedFd<'_>) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut list = match rustix::fs::flistxattr(file, &mut [0_u8; 0][..]) {
        Ok(size) => vec![0_u8; size],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let size = rustix::fs::flistxattr(file, &mut list[..])?;
    list.truncate(size);
    let mut attributes = Vec::new();
    for name in list.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let size = rustix::fs::fgetxattr(file, name, &mut [0_u8; 0][..]);
        let mut value = match size {
            Ok(size) => vec![0_u8; size],
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => continue,
            Err(errno) => return Err(errno),
        };
        let size = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(size);
        attributes.push((name.to_owned(), value));
    }
    attributes.sort();
    Ok(attributes)
}
