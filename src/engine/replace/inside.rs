//! The swap of a root's children, for a root that cannot be renamed itself.
//!
//! Everything lives in one directory of the operation in the root: `new`, `old` and three records.
//! `root` (the metadata of the old and the new root) exists while a swap is on; `moved-out` exists
//! once no old child is left in the root, so that whatever lies there is old without it and new with
//! it; `moved-in` says that the swap is complete. Every rename is one step between two of these
//! states, forwards and backwards.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{ReplaceError, Step, failed};
use super::is_working_directory;
use super::metadata::Metadata;
use super::place::Place;
use super::{RootState, primitive, remove};
use crate::engine::summary::WarningKind;

/// Name of the directory with the new children.
pub(super) const NEW: &str = "new";
const OLD: &str = "old";
const ROOT: &str = "root";
const MOVED_OUT: &str = "moved-out";
const MOVED_IN: &str = "moved-in";

/// What the root itself was and will be.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    old: Metadata,
    new: Metadata,
}

/// Makes the staging place; the root keeps its times.
pub(super) fn create(place: &Place) -> rustix::io::Result<()> {
    let status = primitive::status(place.parent.as_fd(), &place.name)?.ok_or(Errno::NOENT)?;
    let root = primitive::open_writable(place.parent.as_fd(), &place.name)?;
    Metadata::keep_times(root.as_fd(), || {
        match rustix::fs::mkdirat(&root, &place.inside, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        rustix::fs::fchmod(&root, Mode::from_raw_mode(status.st_mode & 0o7777))
    })?;
    let own = primitive::open_directory(root.as_fd(), &place.inside)?;
    primitive::make_directory(own.as_fd(), NEW.as_ref(), 0o700)
}

/// An open replacement of the inside kind.
pub(super) struct Inside<'a> {
    place: &'a Place,
    root: OwnedFd,
    own: OwnedFd,
}

impl<'a> Inside<'a> {
    /// Opens it, if there is one.
    pub(super) fn open(place: &'a Place) -> Result<Option<Self>, ReplaceError> {
        Ok(place.open_inside()?.map(|(root, own)| Self { place, root, own }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.root.join(&self.place.inside).join(name)
    }

    fn has(&self, name: &str) -> Result<bool, ReplaceError> {
        primitive::status(self.own.as_fd(), name.as_ref())
            .map(|status| status.is_some())
            .map_err(failed("look at", self.path(name), Step::Swap))
    }

    fn wrong(&self, action: &'static str, why: &'static str) -> ReplaceError {
        ReplaceError::WrongState {
            action,
            path: self.place.root.clone(),
            why,
            hint: "look at the root and its `.eider-restore-` directory, which hold all of its data",
        }
    }

    /// What a crash left.
    pub(super) fn observe(&self) -> Result<RootState, ReplaceError> {
        Ok(if self.has(MOVED_IN)? {
            RootState::Swapped
        } else if self.has(ROOT)? {
            RootState::Mixed
        } else if self.is_dropping()? {
            // The deletion of the old children was decided.
            RootState::Swapped
        } else if self.has(NEW)? {
            RootState::Staged
        } else {
            RootState::Untouched
        })
    }

    /// Whether the deletion of the old children was decided and has not ended.
    pub(super) fn is_dropping(&self) -> Result<bool, ReplaceError> {
        Ok(!self.has(ROOT)? && (self.has(MOVED_IN)? || self.has(OLD)?))
    }

    /// Puts the new children in place, from any state on the way.
    pub(super) fn swap(&self) -> Result<(), ReplaceError> {
        match self.observe()? {
            RootState::Swapped => return Ok(()),
            RootState::Untouched => {
                return Err(self.wrong("put a new tree in place of", "nothing is staged"));
            }
            RootState::Staged => self.write_root_record()?,
            RootState::Mixed => {}
        }
        let record = self.root_record()?;
        self.widen()?;
        if !self.has(MOVED_OUT)? {
            let old = self.directory(OLD)?;
            self.move_children(&self.root, &old, &self.place.root, "swap.child-moved-out")?;
            self.mark(MOVED_OUT)?;
        }
        let new = self.directory(NEW)?;
        self.move_children(&new, &self.root, &self.path(NEW), "swap.child-moved-in")?;
        self.apply(&record.new)?;
        self.mark(MOVED_IN)
    }

    /// Puts the old children back, from any state on the way; the new ones are staged again.
    pub(super) fn swap_back(&self) -> Result<(), ReplaceError> {
        if !self.has(ROOT)? {
            if self.has(OLD)? {
                let action = "put the old tree back in place of";
                return Err(self.wrong(action, "its deletion has begun"));
            }
            return Ok(());
        }
        let record = self.root_record()?;
        self.widen()?;
        self.unmark(MOVED_IN)?;
        if self.has(MOVED_OUT)? {
            let new = self.directory(NEW)?;
            self.move_children(&self.root, &new, &self.place.root, "swap-back.child-moved-out")?;
            self.unmark(MOVED_OUT)?;
        }
        let old = self.directory(OLD)?;
        self.move_children(&old, &self.root, &self.path(OLD), "swap-back.child-moved-in")?;
        let staged = self.directory(NEW)?;
        let path = self.path(NEW);
        record.new.apply(staged.as_fd(), &mut is_told).map_err(failed(
            "restore",
            path,
            Step::Swap,
        ))?;
        self.apply(&record.old)?;
        primitive::remove_directory(self.own.as_fd(), OLD.as_ref()).map_err(failed(
            "delete directory",
            self.path(OLD),
            Step::Swap,
        ))?;
        self.unmark(ROOT)
    }

    /// Deletes the old children. Removing `root` is the decision: from there on nothing goes back.
    pub(super) fn drop_old(&self) -> Result<(), ReplaceError> {
        match self.observe()? {
            RootState::Swapped | RootState::Untouched => {}
            RootState::Staged | RootState::Mixed => {
                let action = "delete the old tree of";
                return Err(self.wrong(action, "the new tree is not completely in place"));
            }
        }
        self.unmark(ROOT)?;
        crate::failpoint::hit("drop.started");
        for name in [NEW, MOVED_IN, MOVED_OUT, OLD] {
            self.remove(name, "drop.middle")?;
        }
        self.remove_own()
    }

    /// Deletes a staged tree that was not swapped.
    pub(super) fn discard_staging(&self) -> Result<(), ReplaceError> {
        match self.observe()? {
            RootState::Swapped => Ok(()),
            RootState::Mixed => {
                Err(self.wrong("discard the staged tree of", "an earlier swap is not finished"))
            }
            RootState::Staged | RootState::Untouched => {
                self.remove(NEW, "discard.middle")?;
                self.remove_own()
            }
        }
    }

    fn remove(&self, name: &str, point: &str) -> Result<(), ReplaceError> {
        remove::remove_tree(self.own.as_fd(), name.as_ref(), &self.path(name), point)
    }

    /// Removes the operation's own directory; the root keeps its mode and times.
    fn remove_own(&self) -> Result<(), ReplaceError> {
        let path = self.place.root.join(&self.place.inside);
        let names =
            primitive::names(self.own.as_fd()).map_err(failed("list", &path, Step::Swap))?;
        for name in &names {
            let name = primitive::as_name(name);
            remove::remove_tree(self.own.as_fd(), name, &path.join(name), "drop.middle")?;
        }
        let kept = rustix::fs::fstat(&self.root).map(|status| status.st_mode & 0o7777);
        self.widen()?;
        Metadata::keep_times(self.root.as_fd(), || {
            rustix::fs::unlinkat(&self.root, &self.place.inside, AtFlags::REMOVEDIR)?;
            rustix::fs::fchmod(&self.root, Mode::from_raw_mode(kept?))
        })
        .map_err(failed("delete directory", &path, Step::Swap))?;
        self.sync(&self.root)
    }

    fn write_root_record(&self) -> Result<(), ReplaceError> {
        let path = self.path(ROOT);
        let new = self.directory(NEW)?;
        let read = |directory: &OwnedFd, path: PathBuf| {
            Metadata::read(directory.as_fd()).map_err(failed("read", path, Step::Swap))
        };
        let record = Record {
            old: read(&self.root, self.place.root.clone())?,
            new: read(&new, self.path(NEW))?,
        };
        primitive::sync_file_system(self.root.as_fd()).map_err(failed(
            "sync",
            &self.place.root,
            Step::Swap,
        ))?;
        let content = serde_json::to_vec(&record).map_err(|_| {
            self.wrong("put a new tree in place of", "its record cannot be written")
        })?;
        primitive::write_record(self.own.as_fd(), ROOT.as_ref(), &content).map_err(failed(
            "write",
            path,
            Step::Swap,
        ))
    }

    fn root_record(&self) -> Result<Record, ReplaceError> {
        primitive::read_record(self.own.as_fd(), ROOT.as_ref())
            .map_err(failed("read", self.path(ROOT), Step::Swap))?
            .and_then(|content| serde_json::from_slice(&content).ok())
            .ok_or_else(|| self.wrong("replace", "its record does not parse"))
    }

    fn directory(&self, name: &str) -> Result<OwnedFd, ReplaceError> {
        let make = || match primitive::open_writable(self.own.as_fd(), name.as_ref()) {
            Err(Errno::NOENT) => {
                primitive::make_directory(self.own.as_fd(), name.as_ref(), 0o700)?;
                primitive::open_directory(self.own.as_fd(), name.as_ref())
            }
            other => other,
        };
        make().map_err(failed("open directory", self.path(name), Step::Swap))
    }

    fn move_children(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &std::path::Path,
        point: &str,
    ) -> Result<(), ReplaceError> {
        let names = primitive::names(from.as_fd()).map_err(failed("list", path, Step::Swap))?;
        for name in names.iter().filter(|name| !is_own(name)) {
            let name = primitive::as_name(name);
            move_child(from.as_fd(), to.as_fd(), name).map_err(failed(
                "move",
                path.join(name),
                Step::Swap,
            ))?;
            crate::failpoint::hit(point);
        }
        self.sync(from)?;
        self.sync(to)
    }

    fn sync(&self, directory: &OwnedFd) -> Result<(), ReplaceError> {
        primitive::sync_directory(directory.as_fd()).map_err(failed(
            "sync",
            &self.place.root,
            Step::Swap,
        ))
    }

    fn widen(&self) -> Result<(), ReplaceError> {
        primitive::widen(&self.root).map_err(failed("open directory", &self.place.root, Step::Swap))
    }

    fn apply(&self, metadata: &Metadata) -> Result<(), ReplaceError> {
        metadata.apply(self.root.as_fd(), &mut is_told).map_err(failed(
            "restore",
            &self.place.root,
            Step::Swap,
        ))
    }

    fn mark(&self, name: &str) -> Result<(), ReplaceError> {
        primitive::write_record(self.own.as_fd(), name.as_ref(), b"").map_err(failed(
            "write",
            self.path(name),
            Step::Swap,
        ))
    }

    fn unmark(&self, name: &str) -> Result<(), ReplaceError> {
        primitive::unlink(self.own.as_fd(), name.as_ref())
            .and_then(|()| primitive::sync_directory(self.own.as_fd()))
            .map_err(failed("delete", self.path(name), Step::Swap))
    }
}

/// Both trees lie on one file system, and have what that took: what it refused was told when they were staged.
fn is_told(_: WarningKind, _: String) {}

/// The directories of this and any other operation never move.
fn is_own(name: &CString) -> bool {
    is_working_directory(primitive::as_name(name))
}

fn move_child(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    primitive::rename_to_free(from, name, to, name)
}
