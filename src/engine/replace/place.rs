//! Where the parts of a replacement lie and what they are called.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{ReplaceError, Step, failed};
use super::{RootState, beside, inside, primitive, remove};
use crate::engine::entry::unescape_numbers;

const STAGING: &str = ".eider-staging-";
const OLD: &str = ".eider-old-";
const RECORD: &str = ".eider-swap-";
/// Beginning of the name of the directory that an inside replacement lives in.
pub(super) const INSIDE: &str = ".eider-restore-";

/// A root with the names that one operation uses beside or inside it.
#[derive(Debug)]
pub(super) struct Place {
    /// The root, as it was given.
    pub(super) root: PathBuf,
    /// The directory that holds the root.
    pub(super) parent: OwnedFd,
    /// Name of the root in its parent.
    pub(super) name: OsString,
    /// Name of the new tree beside the root.
    pub(super) staging: OsString,
    /// Name of the old tree beside the root.
    pub(super) old: OsString,
    /// Name of the record that tells which tree is which.
    pub(super) record: OsString,
    /// Name of the directory inside the root.
    pub(super) inside: OsString,
}

impl Place {
    /// Opens the parent of a root. The path to the parent may lead over symlinks: its owner chose it.
    pub(super) fn open(root: &Path, key: &str) -> Result<Self, ReplaceError> {
        let unsuitable = |why: &str, hint| ReplaceError::Unsuitable {
            path: root.to_owned(),
            why: why.to_owned(),
            hint,
        };
        if key.is_empty() || key.len() > 64 || !key.bytes().all(is_safe) || key.starts_with('.') {
            return Err(unsuitable(
                "its operation key is not fit for a file name",
                "use 1 to 64 letters, digits, dots, dashes and underscores",
            ));
        }
        let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
            return Err(unsuitable("it has no parent", "name a directory below `/`"));
        };
        if !root.is_absolute() {
            return Err(unsuitable("it is relative", "name an absolute path"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed(
            "open directory",
            parent,
            Step::Swap,
        ))?;
        let called = |prefix: &str| {
            let mut full = OsString::from(format!("{prefix}{key}-"));
            full.push(name);
            full
        };
        Ok(Self {
            root: root.to_owned(),
            parent,
            name: name.to_owned(),
            staging: called(STAGING),
            old: called(OLD),
            record: called(RECORD),
            inside: OsString::from(format!("{INSIDE}{key}")),
        })
    }

    /// The path of a name beside the root.
    pub(super) fn beside(&self, name: &OsStr) -> PathBuf {
        self.root.with_file_name(name)
    }

    /// The root as a directory and the operation's own directory in it, if the replacement is of
    /// the inside kind.
    pub(super) fn open_inside(&self) -> Result<Option<(OwnedFd, OwnedFd)>, ReplaceError> {
        let root = match primitive::open_directory(self.parent.as_fd(), &self.name) {
            Ok(root) => root,
            // A root that cannot be read holds no staging place of this process.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
            Err(errno) => {
                return Err(failed("open directory", &self.root, Step::Swap)(errno));
            }
        };
        match primitive::open_directory(root.as_fd(), &self.inside) {
            Ok(own) => Ok(Some((root, own))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(failed("open directory", self.root.join(&self.inside), Step::Swap)(errno))
            }
        }
    }
}

fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What the new content of a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagedKind {
    /// A directory; it is made with mode 0700 and the unpacker gives it its final metadata.
    Directory,
    /// A file, which the unpacker makes itself.
    File,
}

/// On which side of the root the new content is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In the parent of the root; swapped by one rename.
    Beside,
    /// In the root, because it is a mount point or its parent cannot be written; swapped child by child.
    Inside,
}

/// A place on the root's own file system where the new content is prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staging {
    path: PathBuf,
    layout: Layout,
}

impl Staging {
    /// Makes the staging place of `root` for the operation `key`.
    ///
    /// What an interrupted run of the same operation left there is deleted first. Missing parents of
    /// a root that does not exist yet are made.
    ///
    /// # Errors
    /// The root is a symlink, a mounted file, or holds mount points; the operation has swapped
    /// already; or the place cannot be made.
    pub fn create(root: &Path, key: &str, kind: StagedKind) -> Result<Self, ReplaceError> {
        Self::create_as(root, key, kind, None)
    }

    /// [`Staging::create`] with the layout chosen by the caller, for the tests.
    pub(super) fn create_as(
        root: &Path,
        key: &str,
        kind: StagedKind,
        forced: Option<Layout>,
    ) -> Result<Self, ReplaceError> {
        let stage = Step::Stage;
        if let Some(parent) = root.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                failed("make directory", parent, stage)(errno)
            })?;
        }
        let place = Place::open(root, key)?;
        let (parent, name) = (place.parent.as_fd(), place.name.as_os_str());
        let live = primitive::status(parent, name).map_err(failed("look at", root, stage))?;
        let live = live.map(|status| FileType::from_raw_mode(status.st_mode));
        let mounted = live.is_some()
            && remove::is_mount_point(parent, name).map_err(failed("look at", root, stage))?;
        check_root(root, live, kind, mounted)?;
        if !matches!(super::observe(root, key)?, RootState::Untouched | RootState::Staged) {
            return Err(ReplaceError::WrongState {
                action: "stage new content for",
                path: root.to_owned(),
                why: "an earlier swap of this operation is not finished",
                hint: "swap back, or delete the old content, first",
            });
        }
        super::discard_staging(root, key)?;
        let beside_is_possible = forced.map_or(!mounted, |layout| layout == Layout::Beside);
        if beside_is_possible {
            match beside::create(&place, kind) {
                Ok(()) => {
                    let path = place.beside(&place.staging);
                    return Ok(Self { path, layout: Layout::Beside });
                }
                // Only the root itself may be writable, as for a service under its own user.
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS)
                    if live == Some(FileType::Directory) && kind == StagedKind::Directory => {}
                Err(errno) => {
                    let path = place.beside(&place.staging);
                    return Err(failed("make the staging place", path, stage)(errno));
                }
            }
        }
        let own = root.join(&place.inside);
        inside::create(&place).map_err(failed("make the staging place", &own, stage))?;
        Ok(Self { path: own.join(inside::NEW), layout: Layout::Inside })
    }

    /// Finds the staging place that an earlier run of the same operation made.
    pub fn find(root: &Path, key: &str) -> Result<Option<Self>, ReplaceError> {
        if super::observe(root, key)? != super::RootState::Staged {
            return Ok(None);
        }
        let place = Place::open(root, key)?;
        Ok(Some(if place.open_inside()?.is_some() {
            Self { path: root.join(&place.inside).join(inside::NEW), layout: Layout::Inside }
        } else {
            Self { path: place.beside(&place.staging), layout: Layout::Beside }
        }))
    }

    /// Where the unpacker puts the new content: a directory to fill or a file to make.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// On which side of the root it lies.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// Fails where new content for what is at `root` now would be refused.
///
/// # Errors
/// The root is a symlink, a mounted file, or holds mount points, or its parent cannot be opened.
pub fn check_replaceable(root: &Path) -> Result<(), ReplaceError> {
    let place = Place::open(root, "check")?;
    let (parent, name) = (place.parent.as_fd(), place.name.as_os_str());
    let live = primitive::status(parent, name).map_err(failed("look at", root, Step::Stage))?;
    let live = live.map(|status| FileType::from_raw_mode(status.st_mode));
    let kind = match live {
        Some(FileType::Directory) | None => StagedKind::Directory,
        Some(_) => StagedKind::File,
    };
    let mounted = live.is_some()
        && remove::is_mount_point(parent, name).map_err(failed("look at", root, Step::Stage))?;
    check_root(root, live, kind, mounted)
}

fn check_root(
    root: &Path,
    live: Option<FileType>,
    kind: StagedKind,
    mounted: bool,
) -> Result<(), ReplaceError> {
    let unsuitable =
        |why: String, hint| Err(ReplaceError::Unsuitable { path: root.to_owned(), why, hint });
    if live == Some(FileType::Symlink) {
        return unsuitable("it is a symlink".to_owned(), "name what it points to");
    }
    if mounted && (live != Some(FileType::Directory) || kind == StagedKind::File) {
        return unsuitable(
            "it is a mounted file or would turn a mount point into a file".to_owned(),
            "name the directory on the other side of the mount",
        );
    }
    if let Some(inner) = mounts_below(root).first() {
        return unsuitable(
            format!("{} is mounted below it", inner.display()),
            "unmount it, or name both as separate roots that do not lie in one another",
        );
    }
    Ok(())
}

/// The mount points strictly below `root`, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)); none where that
/// cannot be read.
pub(in crate::engine) fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let (Ok(root), Ok(table)) =
        (std::fs::canonicalize(root), std::fs::read("/proc/self/mountinfo"))
    else {
        return Vec::new();
    };
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsStr::from_bytes(&unescape(field))))
    });
    points.filter(|point| *point != root && point.starts_with(&root)).collect()
}

/// Resolves the octal escapes of mountinfo (`\040` for a space).
fn unescape(field: &[u8]) -> Vec<u8> {
    unescape_numbers(field, b'\\', 3, 8)
}

/// What operations left in a directory: staging places, old trees and records of any key.
///
/// `directory` is the parent of a root or the root itself. The paths are sorted.
pub fn leftovers(directory: &Path) -> Result<Vec<PathBuf>, ReplaceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty())
        .and_then(|opened| primitive::names(opened.as_fd()))
        .map_err(failed("list", directory, Step::Swap))?;
    let ours = |name: &&std::ffi::CString| {
        [STAGING, OLD, RECORD, INSIDE]
            .iter()
            .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
    };
    Ok(open.iter().filter(ours).map(|name| directory.join(primitive::as_name(name))).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn mountinfo_escapes_are_resolved() {
        assert_eq!(super::unescape(br"/a\040b\134c\9"), br"/a b\c\9");
    }

    #[test]
    fn what_could_not_be_replaced_is_known_before() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        super::check_replaceable(&root).unwrap();
        super::check_replaceable(&place.path().join("none-yet")).unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        let error = super::check_replaceable(&link).unwrap_err().to_string();
        assert!(error.contains("symlink"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
