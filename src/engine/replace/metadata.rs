//! Mode, owner, times and extended attributes of a directory or file: read, kept, put back.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, Timestamps};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::primitive::step;
use crate::engine::attributes::{self, Refused, Wanted};
use crate::engine::source::{self, AttributeSource};

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
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
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
    pub(super) fn apply(&self, file: BorrowedFd<'_>, refused: &mut Refused<'_>) -> Result<()> {
        step()?;
        let present = read_attributes(file)?;
        let is_surplus = |name: &&[u8]| !self.attributes.iter().any(|(wanted, _)| wanted == name);
        let wanted = Wanted {
            owner: Some((self.owner.into(), self.group.into())),
            mode: self.mode,
            attributes: &self.attributes,
            surplus: present.iter().map(|(name, _)| &name[..]).filter(is_surplus).collect(),
            times: [self.accessed, self.modified],
        };
        wanted.put(file, refused)
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
        attributes::times([self.accessed, self.modified])
    }
}

/// Extended attributes by name. What an unprivileged process may not read is not worth more than the data.
fn read_attributes(file: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let is_root = rustix::process::geteuid().is_root();
    let is_passed_over = |error| !is_root && matches!(error, Errno::PERM | Errno::ACCESS);
    let mut attributes = match source::attributes(&AttributeSource::Open(file)) {
        Err(error) if is_passed_over(error) => return Ok(Vec::new()),
        result => result?,
    };
    match attributes.unread.into_iter().find(|(_, error)| !is_passed_over(*error)) {
        Some((_, error)) => return Err(error),
        None => attributes.read.sort(),
    }
    Ok(attributes.read)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::fd::AsFd;

    use rustix::fs::XattrFlags;

    use super::*;
    use crate::engine::replace::copy::copy_entry;
    use crate::engine::replace::primitive;

    /// An access control list that gives user 1 the right to read, in the kernel's own form.
    const LIST: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\x01\0\0\0\
        \x04\0\x05\0\xff\xff\xff\xff\x10\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";

    fn set(file: &File, name: &str, value: &[u8]) {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).unwrap();
    }

    /// Asked for its size by an empty buffer, every list of attributes seemed to be empty: directories beside what
    /// a Restore selects, and roots of mounts, lost their access control lists.
    #[test]
    fn attributes_were_never_read() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["one", "other"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let open = |name: &str| File::open(path(name)).unwrap();
        set(&open("one"), "user.of", b"one");
        set(&open("one"), "system.posix_acl_access", LIST);
        set(&open("one"), "system.posix_acl_default", LIST);
        set(&open("other"), "user.left", b"over");
        let wanted = Metadata::read(open("one").as_fd()).unwrap();
        let names: Vec<&str> =
            wanted.attributes.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["system.posix_acl_access", "system.posix_acl_default", "user.of"]);
        wanted.apply(open("other").as_fd(), &mut |_, told| panic!("{told}")).unwrap();
        let found = Metadata::read(open("other").as_fd()).unwrap();
        assert_eq!((found.attributes, found.mode), (wanted.attributes, wanted.mode));
    }

    #[test]
    fn a_copy_has_the_attributes_of_the_file() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        for directory in [&from, &to] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(from.join("file"), "text").unwrap();
        let file = File::open(from.join("file")).unwrap();
        set(&file, "user.of", b"it");
        set(&file, "system.posix_acl_access", LIST);
        let (live, staged) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        let name = OsStr::new("file");
        let status = primitive::status(live.as_fd(), name).unwrap().unwrap();
        assert!(copy_entry(live.as_fd(), staged.as_fd(), name, &status, &mut |_, _| ()).unwrap());
        let copied = File::open(to.join("file")).unwrap();
        let read = |file: &File| Metadata::read(file.as_fd()).unwrap();
        assert_eq!(read(&copied).attributes, read(&file).attributes);
        assert_eq!(read(&copied).attributes.len(), 2);
    }
}
