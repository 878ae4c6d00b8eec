//! Bringing live entries into the staged tree, so that they are still there after the swap.
//!
//! Files come by hard link: the very same inode, no byte copied. A consequence to know: what a
//! service writes into a carried file after the swap is also in the old tree. Works by directory
//! descriptors and follows no symlink; the live tree is only read.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::copy;
use super::error::{ReplaceError, Step, failed};
use super::is_working_directory;
use super::metadata::Metadata;
use super::place::Staging;
use super::{primitive, remove};
use crate::engine::attributes::Refused;
use crate::engine::select::Patterns;
use crate::engine::summary::WarningKind;

/// Which live entries come along, and who wins where both trees have one.
#[derive(Debug)]
pub struct CarryRules(Rules);

#[derive(Debug)]
enum Rules {
    Merge(Option<Selection>),
    Preserve(Gitignore),
}

/// What of the archive is put back.
#[derive(Debug)]
struct Selection {
    include: Patterns,
    root: String,
}

impl Selection {
    fn takes(&self, directory: &Path) -> bool {
        // Components, since joining nothing would leave a slash at the end.
        let name: PathBuf =
            Path::new(&self.root).components().chain(directory.components()).collect();
        self.include.matches_or_lies_below(name.as_os_str().as_bytes(), true)
    }
}

impl CarryRules {
    /// Everything live that the staged tree does not have; the staged entry wins. Where only what matches `include`
    /// is put back, by names in the archive, directories above that stay what they are. `root` is the name of the
    /// root in the archive.
    pub fn merge(include: &[String], root: &str) -> Result<Self, ReplaceError> {
        let include = Patterns::parse(include).map_err(|error| ReplaceError::Pattern {
            pattern: include.join(", "),
            why: error.to_string(),
        })?;
        let selection = Selection { include, root: root.to_owned() };
        Ok(Self(Rules::Merge((!selection.include.is_empty()).then_some(selection))))
    }

    /// What matches a pattern stays exactly as it is now, whole directories included: the live entry
    /// wins, and a staged one without a live one goes. Gitignore syntax, relative to the root.
    pub fn preserve(patterns: &[String]) -> Result<Self, ReplaceError> {
        let mut builder = GitignoreBuilder::new("");
        let refused = |pattern: &str, error: &ignore::Error| ReplaceError::Pattern {
            pattern: pattern.to_owned(),
            why: error.to_string(),
        };
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| refused(pattern, &error))?;
        }
        builder
            .build()
            .map(|rules| Self(Rules::Preserve(rules)))
            .map_err(|error| refused(&patterns.join(", "), &error))
    }
}

/// What was carried over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried {
    /// Entries that share their inode with the live tree.
    pub linked: u64,
    /// Entries that had to be copied.
    pub copied: u64,
    /// Directories made in the staged tree.
    pub directories: u64,
    /// Sockets, which only a running process can make.
    pub skipped_sockets: u64,
    /// What could not be set on what was copied or made, each with its path in the root; at most
    /// [`Carried::LISTED`].
    pub warnings: Vec<String>,
}

impl Carried {
    /// The most warnings that are listed.
    pub const LISTED: usize = 100;

    /// Notes what is refused for a path.
    fn refused<'a>(&'a mut self, path: &'a Path) -> impl FnMut(WarningKind, String) + 'a {
        move |_, message| {
            if self.warnings.len() < Self::LISTED {
                self.warnings.push(format!("{}: {message}", path.display()));
            }
        }
    }
}

/// Brings live entries of `root` into its staging place; `cancel` is asked before each entry.
///
/// Nothing to do for a root that is not a directory or does not exist, or is staged as a file.
pub fn carry_over(
    root: &Path,
    staging: &Staging,
    rules: &CarryRules,
    cancel: &dyn Fn() -> bool,
) -> Result<Carried, ReplaceError> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed("open directory", path, Step::Stage)(errno)),
        }
    };
    let mut carrier = Carrier { rules: &rules.0, cancel, carried: Carried::default() };
    let (live, Some(new)) = (open(root)?, open(staging.path())?) else {
        return Ok(carrier.carried);
    };
    let kept = Metadata::read(new.as_fd()).map_err(failed("read", staging.path(), Step::Stage))?;
    let result = primitive::widen(&new)
        .map_err(failed("open directory", staging.path(), Step::Stage))
        .and_then(|()| carrier.prune(&new, Path::new("")))
        .and_then(|()| match &live {
            Some(live) => carrier.descend(live, &new, Path::new("")),
            None => Ok(()),
        });
    let live = live.as_ref().filter(|_| carrier.stays(Path::new("")));
    let mut carried = carrier.carried;
    give_back(&kept, live, &new, &mut carried.refused(Path::new("."))).map_err(failed(
        "restore",
        staging.path(),
        Step::Stage,
    ))?;
    result.map(|()| carried)
}

struct Carrier<'a> {
    rules: &'a Rules,
    cancel: &'a dyn Fn() -> bool,
    carried: Carried,
}

fn is_directory(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Directory
}

impl Carrier<'_> {
    fn is_preserved(&self, path: &Path, directory: bool) -> bool {
        match self.rules {
            Rules::Merge(_) => false,
            Rules::Preserve(rules) => rules.matched(path, directory).is_ignore(),
        }
    }

    /// Whether a directory that both trees have is as it was: it is only above what is put back.
    fn stays(&self, path: &Path) -> bool {
        matches!(self.rules, Rules::Merge(Some(selection)) if !selection.takes(path))
    }

    fn check_cancel(&self, path: &Path) -> Result<(), ReplaceError> {
        if (self.cancel)() {
            return Err(ReplaceError::Cancelled { path: path.to_owned() });
        }
        Ok(())
    }

    /// Removes the staged entries that `preserve` excludes from extraction.
    fn prune(&self, staged: &OwnedFd, path: &Path) -> Result<(), ReplaceError> {
        if matches!(self.rules, Rules::Merge(_)) {
            return Ok(());
        }
        let step = Step::Stage;
        for name in primitive::names(staged.as_fd()).map_err(failed("list", path, step))? {
            let name = primitive::as_name(&name);
            let inner = path.join(name);
            self.check_cancel(&inner)?;
            let Some(status) = look(staged.as_fd(), name, &inner)? else { continue };
            if self.is_preserved(&inner, is_directory(&status)) {
                remove::remove_tree(staged.as_fd(), name, &inner, "carry.middle")?;
            } else if is_directory(&status) {
                let (child, kept) = open_staged(staged.as_fd(), name, &inner)?;
                let result = self.prune(&child, &inner);
                kept.apply_mode_and_times(child.as_fd())
                    .map_err(failed("restore", &inner, step))?;
                result?;
            }
        }
        Ok(())
    }

    /// Looks through one live directory and the staged directory of the same path.
    fn descend(
        &mut self,
        live: &OwnedFd,
        staged: &OwnedFd,
        path: &Path,
    ) -> Result<(), ReplaceError> {
        for name in primitive::names(live.as_fd()).map_err(failed("list", path, Step::Stage))? {
            let name = primitive::as_name(&name);
            let inner = path.join(name);
            if path.as_os_str().is_empty() && is_working_directory(name) {
                continue;
            }
            self.check_cancel(&inner)?;
            let Some(status) = look(live.as_fd(), name, &inner)? else { continue };
            let directory = is_directory(&status);
            let present = look(staged.as_fd(), name, &inner)?;
            let wanted = match self.rules {
                Rules::Merge(_) => present.is_none(),
                Rules::Preserve(_) => self.is_preserved(&inner, directory),
            };
            if wanted {
                remove::remove_tree(staged.as_fd(), name, &inner, "carry.middle")?;
                self.bring(live.as_fd(), staged.as_fd(), name, &status, &inner)?;
            } else if directory {
                self.look_below(live.as_fd(), staged.as_fd(), name, present, &inner)?;
            }
        }
        Ok(())
    }

    fn look_below(
        &mut self,
        live: BorrowedFd<'_>,
        staged: BorrowedFd<'_>,
        name: &OsStr,
        present: Option<Stat>,
        path: &Path,
    ) -> Result<(), ReplaceError> {
        let step = Step::Stage;
        let child =
            primitive::open_directory(live, name).map_err(failed("open directory", path, step))?;
        if !present.as_ref().is_some_and(is_directory) {
            // In Merge the staged entry wins. In Replace a directory that is not in the archive comes
            // back only if something in it is preserved.
            if matches!(self.rules, Rules::Merge(_)) || !self.holds_preserved(&child, path)? {
                return Ok(());
            }
            remove::remove_tree(staged, name, path, "carry.middle")?;
            let made = self.make_like(&child, staged, name, path)?;
            self.descend(&child, &made.0, path)?;
            let refused = &mut self.carried.refused(path);
            return made.1.apply(made.0.as_fd(), refused).map_err(failed("restore", path, step));
        }
        let (opened, kept) = open_staged(staged, name, path)?;
        let result = self.descend(&child, &opened, path);
        let live = Some(&child).filter(|_| self.stays(path));
        give_back(&kept, live, &opened, &mut self.carried.refused(path))
            .map_err(failed("restore", path, step))?;
        result
    }

    fn holds_preserved(&self, live: &OwnedFd, path: &Path) -> Result<bool, ReplaceError> {
        for name in primitive::names(live.as_fd()).map_err(failed("list", path, Step::Stage))? {
            let name = primitive::as_name(&name);
            let inner = path.join(name);
            let Some(status) = look(live.as_fd(), name, &inner)? else { continue };
            if self.is_preserved(&inner, is_directory(&status)) {
                return Ok(true);
            }
            if is_directory(&status) {
                let child = primitive::open_directory(live.as_fd(), name).map_err(failed(
                    "open directory",
                    &inner,
                    Step::Stage,
                ))?;
                if self.holds_preserved(&child, &inner)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Makes a staged directory; the live one's metadata goes on when its children are there.
    fn make_like(
        &mut self,
        live: &OwnedFd,
        staged: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(OwnedFd, Metadata), ReplaceError> {
        let open = || {
            let metadata = Metadata::read(live.as_fd())?;
            primitive::make_directory(staged, name, 0o700)?;
            Ok((primitive::open_directory(staged, name)?, metadata))
        };
        let made = open().map_err(failed("make directory", path, Step::Stage))?;
        self.carried.directories += 1;
        Ok(made)
    }

    /// Brings one entry and all below it; there is nothing of that name in the staged directory.
    fn bring(
        &mut self,
        live: BorrowedFd<'_>,
        staged: BorrowedFd<'_>,
        name: &OsStr,
        status: &Stat,
        path: &Path,
    ) -> Result<(), ReplaceError> {
        let step = Step::Stage;
        self.check_cancel(path)?;
        crate::failpoint::hit("carry.middle");
        if is_directory(status) {
            let child = primitive::open_directory(live, name).map_err(failed(
                "open directory",
                path,
                step,
            ))?;
            let (made, metadata) = self.make_like(&child, staged, name, path)?;
            for name in primitive::names(child.as_fd()).map_err(failed("list", path, step))? {
                let name = primitive::as_name(&name);
                let inner = path.join(name);
                if let Some(status) = look(child.as_fd(), name, &inner)? {
                    self.bring(child.as_fd(), made.as_fd(), name, &status, &inner)?;
                }
            }
            let refused = &mut self.carried.refused(path);
            return metadata.apply(made.as_fd(), refused).map_err(failed("restore", path, step));
        }
        match primitive::link(live, name, staged, name) {
            Ok(()) => self.carried.linked += 1,
            Err(Errno::XDEV | Errno::PERM | Errno::MLINK) => {
                let copied = {
                    let refused = &mut self.carried.refused(path);
                    copy::copy_entry(live, staged, name, status, refused)
                };
                if copied.map_err(failed("copy", path, step))? {
                    self.carried.copied += 1;
                } else {
                    self.carried.skipped_sockets += 1;
                }
            }
            Err(errno) => return Err(failed("link", path, step)(errno)),
        }
        Ok(())
    }
}

/// Gives a staged directory its metadata after its children were changed: its own, or all of a live one's.
fn give_back(
    kept: &Metadata,
    live: Option<&OwnedFd>,
    staged: &OwnedFd,
    refused: &mut Refused<'_>,
) -> rustix::io::Result<()> {
    match live {
        Some(live) => Metadata::read(live.as_fd())?.apply(staged.as_fd(), refused),
        None => kept.apply_mode_and_times(staged.as_fd()),
    }
}

fn look(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
) -> Result<Option<Stat>, ReplaceError> {
    primitive::status(directory, name).map_err(failed("look at", path, Step::Stage))
}

/// Opens a staged directory to change its children, with the metadata it has to get back.
fn open_staged(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
) -> Result<(OwnedFd, Metadata), ReplaceError> {
    let open = || {
        let status = primitive::status(parent, name)?.ok_or(Errno::NOENT)?;
        let directory = primitive::open_writable(parent, name)?;
        Ok((Metadata::read(directory.as_fd())?.with_mode(status.st_mode), directory))
    };
    open().map(|(kept, directory)| (directory, kept)).map_err(failed(
        "open directory",
        path,
        Step::Stage,
    ))
}
