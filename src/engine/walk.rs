//! Visits everything beneath a root, by directory descriptors, each directory in inode order.
//!
//! Decides what is visited (exclusions, mount points); what is done with it is the visitor's
//! business. Never follows a symlink except for the root itself, which somebody named.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::EngineError;
use super::progress::Cancel;
use super::replace::{is_mount_point, mounts_below};
use super::roots::Root;
use super::select::Patterns;
use super::source;
use super::summary::WarningKind;

/// A path that the walk came by.
pub(super) struct Found<'a> {
    /// The directory that it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name in that directory.
    pub file_name: &'a CStr,
    /// Its name in the archive, without a trailing slash.
    pub name: &'a [u8],
    /// Its path on this host.
    pub path: &'a Path,
    /// What it was when the directory was read; unknown on some file systems.
    pub file_type: FileType,
}

/// What the walk tells of.
pub(super) trait Visitor {
    /// A directory, already open; its contents follow unless it is a mount point.
    fn directory(
        &mut self,
        found: &Found<'_>,
        directory: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), EngineError>;
    /// Anything else.
    fn leaf(&mut self, found: &Found<'_>) -> Result<(), EngineError>;
    /// A path that cannot be read.
    fn unreadable(&mut self, path: &Path, error: Errno) -> Result<(), EngineError>;
    /// A path that is left out for another reason.
    fn left_out(&mut self, path: &Path, kind: WarningKind, message: &str);
}

/// What a walk leaves out.
pub(super) struct Boundaries {
    pub exclude: Patterns,
    pub cross_file_systems: bool,
    /// Device and inode of directories that are not entered.
    pub skip: Vec<(u64, u64)>,
}

struct Listed {
    inode: u64,
    file_type: FileType,
    file_name: CString,
}

struct Level {
    directory: OwnedFd,
    entries: std::vec::IntoIter<Listed>,
    name_length: usize,
}

/// Walks one root.
pub(super) fn walk(
    root: &Root,
    boundaries: &Boundaries,
    cancel: &Cancel,
    visitor: &mut dyn Visitor,
) -> Result<(), EngineError> {
    // The root may be a symlink: it was named by somebody, and its target is what is meant.
    let path = match root.path.canonicalize() {
        Ok(path) => path,
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR)) =>
        {
            return Err(EngineError::RootMissing { path: root.path.clone() });
        }
        Err(error) => {
            return visitor
                .unreadable(&root.path, Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
    };
    let (Some(parent), Some(file_name)) = (path.parent(), path.file_name()) else {
        return Err(EngineError::InvalidRoots {
            path: root.path.display().to_string(),
            detail: "it is a link to the whole file system".to_owned(),
        });
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(error) => return visitor.unreadable(&path, error),
    };
    let listed = Listed {
        inode: 0,
        file_type: FileType::Unknown,
        file_name: CString::new(file_name.as_bytes()).unwrap_or_default(),
    };
    // Asked for once: one question more for every file would cost more than there is to know.
    let mounts = if boundaries.cross_file_systems { Vec::new() } else { mounts_below(&path) };
    let mut walk = Walk {
        mounts: mounts.into_iter().collect(),
        root_name: root.name.as_bytes(),
        root_path: path,
        relative: Vec::new(),
        device: None,
        boundaries,
        visitor,
    };
    let mut levels: Vec<Level> = Vec::new();
    levels.extend(walk.visit(parent.as_fd(), &listed)?);
    while let Some(level) = levels.last_mut() {
        cancel.check()?;
        let Some(listed) = level.entries.next() else {
            levels.pop();
            continue;
        };
        walk.relative.truncate(level.name_length);
        if level.name_length > 0 {
            walk.relative.push(b'/');
        }
        walk.relative.extend_from_slice(listed.file_name.to_bytes());
        let deeper = walk.visit(level.directory.as_fd(), &listed)?;
        levels.extend(deeper);
    }
    Ok(())
}

struct Walk<'a> {
    /// What was mounted below the root in the beginning, where that is not crossed.
    mounts: HashSet<PathBuf>,
    root_name: &'a [u8],
    root_path: PathBuf,
    relative: Vec<u8>,
    device: Option<u64>,
    boundaries: &'a Boundaries,
    visitor: &'a mut dyn Visitor,
}

impl Walk<'_> {
    /// Visits one path; returns its contents if it is a directory to descend into.
    fn visit(
        &mut self,
        parent: BorrowedFd<'_>,
        listed: &Listed,
    ) -> Result<Option<Level>, EngineError> {
        let path = if self.relative.is_empty() {
            self.root_path.clone()
        } else {
            self.root_path.join(OsStr::from_bytes(&self.relative))
        };
        let mut file_type = listed.file_type;
        if file_type == FileType::Unknown {
            match rustix::fs::statat(parent, &listed.file_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => file_type = FileType::from_raw_mode(stat.st_mode),
                Err(error) => return self.missed(&path, error).map(|()| None),
            }
        }
        if self.relative.is_empty() && file_type == FileType::Socket {
            // Left out, its root would be there without any entry.
            return Err(EngineError::InvalidRoots {
                path: path.display().to_string(),
                detail: "it is a socket, which cannot be backed up".to_owned(),
            });
        }
        let is_directory = file_type == FileType::Directory;
        if !self.relative.is_empty()
            && self.boundaries.exclude.matches(&self.relative, is_directory)
        {
            return Ok(None);
        }
        let working = is_directory
            && !self.relative.contains(&b'/')
            && super::replace::is_working_directory(OsStr::from_bytes(&self.relative));
        if working {
            let message = "the working directory of a restore; it is left out";
            self.visitor.left_out(&path, WarningKind::Skipped, message);
            return Ok(None);
        }
        let name = if self.relative.is_empty() {
            self.root_name.to_vec()
        } else {
            [self.root_name, b"/", &self.relative].concat()
        };
        let file_name = listed.file_name.as_c_str();
        let found = Found { parent, file_name, name: &name, path: &path, file_type };
        if !is_directory {
            // A file over a file is another one's data, as a directory over a directory is.
            if self.mounts.contains(&path)
                && is_mount_point(parent, OsStr::from_bytes(file_name.to_bytes())).unwrap_or(false)
            {
                let message = "another file is mounted here; it is left out";
                self.visitor.left_out(&path, WarningKind::OtherFileSystem, message);
                return Ok(None);
            }
            return self.visitor.leaf(&found).map(|()| None);
        }
        let directory = match source::open(parent, file_name, OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(error) => return self.missed(&path, error).map(|()| None),
        };
        let stat = match rustix::fs::fstat(&directory) {
            Ok(stat) => stat,
            Err(error) => return self.missed(&path, error).map(|()| None),
        };
        if self.boundaries.skip.contains(&(stat.st_dev, stat.st_ino)) {
            let message = "archives are kept here; it is left out of them";
            self.visitor.left_out(&path, WarningKind::Skipped, message);
            return Ok(None);
        }
        // Listed before it is announced: a directory that cannot be read is not archived as empty.
        let is_mounted = *self.device.get_or_insert(stat.st_dev) != stat.st_dev
            || (!self.relative.is_empty()
                && is_mount_point(parent, OsStr::from_bytes(file_name.to_bytes()))
                    .unwrap_or(false));
        let crossing = is_mounted && !self.boundaries.cross_file_systems;
        let entries = if crossing {
            let message = "something is mounted here; its contents are left out";
            self.visitor.left_out(&path, WarningKind::OtherFileSystem, message);
            Vec::new()
        } else {
            match list(&directory) {
                Ok(entries) => entries,
                Err(error) => return self.missed(&path, error).map(|()| None),
            }
        };
        self.visitor.directory(&found, &directory, &stat)?;
        let name_length = self.relative.len();
        Ok(Some(Level { directory, entries: entries.into_iter(), name_length }))
    }

    fn missed(&mut self, path: &Path, error: Errno) -> Result<(), EngineError> {
        match error {
            Errno::NOENT | Errno::STALE => {
                let message = "it was removed before it could be read";
                self.visitor.left_out(path, WarningKind::Vanished, message);
                Ok(())
            }
            Errno::LOOP | Errno::NOTDIR => {
                let message = "it was replaced by something else before it could be read";
                self.visitor.left_out(path, WarningKind::Changed, message);
                Ok(())
            }
            error => self.visitor.unreadable(path, error),
        }
    }
}

/// The entries of a directory by inode: on most file systems the order in which they lie on disk.
fn list(directory: &OwnedFd) -> rustix::io::Result<Vec<Listed>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        entries.push(Listed {
            inode: entry.ino(),
            file_type: entry.file_type(),
            file_name: entry.file_name().to_owned(),
        });
    }
    entries.sort_unstable_by(|one, other| {
        one.inode.cmp(&other.inode).then_with(|| one.file_name.cmp(&other.file_name))
    });
    Ok(entries)
}
