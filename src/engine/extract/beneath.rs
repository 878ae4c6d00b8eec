//! Directories beneath one destination, reached by descriptors and never through a symlink.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::engine::error::EngineError;

/// A destination. Keeps the directory that was used last open: entries come directory by directory.
pub(super) struct Beneath {
    base: PathBuf,
    root: OwnedFd,
    current: Option<(Vec<u8>, OwnedFd)>,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The kernel takes no longer path in one call.
const PATH_LIMIT: usize = 4000;

impl Beneath {
    /// Opens an existing directory, which the caller chose and may therefore name by a symlink.
    pub(super) fn open(base: &Path) -> Result<Self, EngineError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, base, flags, Mode::empty())
            .map_err(|error| failed("opening", base, error))?;
        Ok(Self { base: base.to_owned(), root, current: None })
    }

    /// The path of a relative name, for messages only.
    pub(super) fn path(&self, relative: &[u8]) -> PathBuf {
        self.base.join(OsStr::from_bytes(relative))
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory that a name lies in, created where it is missing, and the last component.
    pub(super) fn parent<'a>(
        &mut self,
        relative: &'a [u8],
    ) -> Result<(BorrowedFd<'_>, &'a [u8]), EngineError> {
        let (directory, name) = match relative.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&relative[..slash], &relative[slash + 1..]),
            None => (&b""[..], relative),
        };
        Ok((self.directory(directory)?, name))
    }

    /// A directory, created with its parents where it is missing.
    pub(super) fn directory(&mut self, relative: &[u8]) -> Result<BorrowedFd<'_>, EngineError> {
        if relative.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.current.as_ref().is_none_or(|(path, _)| path != relative) {
            let directory = self.descend(relative)?;
            self.current = Some((relative.to_vec(), directory));
        }
        Ok(self.current.as_ref().map_or(self.root.as_fd(), |(_, directory)| directory.as_fd()))
    }

    /// Like [`Self::parent`], for an entry that exists, without disturbing the directory in use.
    pub(super) fn separate_parent<'a>(
        &self,
        relative: &'a [u8],
    ) -> Result<(OwnedFd, &'a [u8]), EngineError> {
        let Some(slash) = relative.iter().rposition(|byte| *byte == b'/') else {
            let root = rustix::fs::openat(&self.root, c".", DIRECTORY, Mode::empty())
                .map_err(|error| failed("opening", &self.base, error))?;
            return Ok((root, relative));
        };
        Ok((self.descend(&relative[..slash])?, &relative[slash + 1..]))
    }

    /// Opens a directory without disturbing the one in use.
    fn descend(&self, relative: &[u8]) -> Result<OwnedFd, EngineError> {
        let (start, mut rest) = match &self.current {
            Some((path, directory)) => match relative.strip_prefix(path.as_slice()) {
                Some([b'/', below @ ..]) => (directory.as_fd(), below),
                _ => (self.root.as_fd(), relative),
            },
            None => (self.root.as_fd(), relative),
        };
        let report = |error| failed("opening", &self.path(relative), error);
        if rest.len() <= PATH_LIMIT {
            match open_below(start, rest) {
                Err(Errno::NOENT) => {}
                result => return result.map_err(report),
            }
        }
        let mut directory: Option<OwnedFd> = None;
        while !rest.is_empty() {
            let (component, below) = match rest.iter().position(|byte| *byte == b'/') {
                Some(slash) => (&rest[..slash], &rest[slash + 1..]),
                None => (rest, &[][..]),
            };
            let parent = directory.as_ref().map_or(start, |directory| directory.as_fd());
            match rustix::fs::mkdirat(parent, component, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("creating", &self.path(relative), error)),
            }
            directory = Some(open_below(parent, component).map_err(report)?);
            rest = below;
        }
        directory.ok_or_else(|| report(Errno::NOENT))
    }
}

/// Opens a directory beneath another; a symlink anywhere in the path is an error.
fn open_below(parent: BorrowedFd<'_>, relative: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(parent, relative, DIRECTORY, Mode::empty(), resolve) {
        // Kernels before 5.6, and seccomp profiles that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_component(parent, relative),
        result => result,
    }
}

/// The same by single steps, none of which can follow a symlink.
fn open_by_component(parent: BorrowedFd<'_>, relative: &[u8]) -> rustix::io::Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    for component in relative.split(|byte| *byte == b'/') {
        if matches!(component, b"" | b"." | b"..") {
            return Err(Errno::XDEV);
        }
        let from = directory.as_ref().map_or(parent, |directory| directory.as_fd());
        directory = Some(rustix::fs::openat(from, component, DIRECTORY, Mode::empty())?);
    }
    directory.ok_or(Errno::NOENT)
}

/// An extraction error; a symlink in the way says so.
pub(super) fn failed(action: &'static str, path: &Path, error: Errno) -> EngineError {
    let source = match error {
        Errno::LOOP => io::Error::other("a symlink is in the way"),
        error => io::Error::from(error),
    };
    EngineError::Extract { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_way_of_opening_follows_a_symlink() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join("in/a/b")).unwrap();
        std::fs::create_dir_all(place.path().join("outside/b")).unwrap();
        std::os::unix::fs::symlink("../outside", place.path().join("in/l")).unwrap();
        std::os::unix::fs::symlink("a", place.path().join("in/inner")).unwrap();
        let beneath = Beneath::open(&place.path().join("in")).unwrap();
        for open in [open_below, open_by_component] {
            assert!(open(beneath.root(), b"a/b").is_ok());
            for path in [&b"l"[..], b"l/b", b"inner", b"inner/b", b"..", b"../outside", b"a/../l"] {
                assert!(open(beneath.root(), path).is_err(), "{}", path.escape_ascii());
            }
        }
    }
}
