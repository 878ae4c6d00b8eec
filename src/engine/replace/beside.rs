//! The swap of a root with a tree beside it.
//!
//! Names alone cannot tell a staged tree from an old one that was just exchanged with it, so the
//! inode numbers of both are recorded before the first rename. Without a record, a staging name is
//! a new tree and an old name is a tree whose deletion was decided.

use std::os::fd::AsFd as _;

use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{ReplaceError, Step, failed};
use super::place::{Place, StagedKind};
use super::{RootState, primitive, remove};

/// Which inode is which; `old` is `None` for a root that did not exist.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    new: u64,
    old: Option<u64>,
}

/// What the names and inodes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Staged,
    /// Exchanged: the old tree has the staging name.
    Exchanged,
    /// The root has the old name and nothing has its own name.
    Between,
    Swapped,
    /// Swapped where nothing was before.
    SwappedOverNothing,
    /// The deletion of the old tree was decided; it may be incomplete.
    Dropping,
    Unknown,
}

/// Makes the staging place.
pub(super) fn create(place: &Place, kind: StagedKind) -> rustix::io::Result<()> {
    let parent = place.parent.as_fd();
    if kind == StagedKind::Directory {
        return primitive::make_directory(parent, &place.staging, 0o700);
    }
    // Nothing stays behind, but whether the parent can be written has to be known now.
    primitive::make_directory(parent, &place.staging, 0o700)?;
    primitive::remove_directory(parent, &place.staging)
}

fn state(place: &Place) -> Result<State, ReplaceError> {
    let parent = place.parent.as_fd();
    let look = |name| {
        primitive::status(parent, name).map_err(failed("look at", place.beside(name), Step::Swap))
    };
    let inode = |status: Option<Stat>| status.map(|status| status.st_ino);
    let (root, staging, old) =
        (inode(look(&place.name)?), inode(look(&place.staging)?), inode(look(&place.old)?));
    let record = primitive::read_record(parent, &place.record).map_err(failed(
        "read",
        place.beside(&place.record),
        Step::Swap,
    ))?;
    let Some(record) = record else {
        return Ok(match (staging, old) {
            (None, None) => State::Untouched,
            (Some(_), None) => State::Staged,
            (None, Some(_)) => State::Dropping,
            (Some(_), Some(_)) => State::Unknown,
        });
    };
    let Ok(record) = serde_json::from_slice::<Record>(&record) else { return Ok(State::Unknown) };
    Ok(match (record.old, root, staging, old) {
        (None, None, Some(_), None) => State::Staged,
        (None, Some(_), None, None) => State::SwappedOverNothing,
        (None, None, None, None) => State::Untouched,
        (Some(_), None, _, Some(_)) => State::Between,
        (Some(_), Some(_), None, Some(_)) => State::Swapped,
        (Some(was), _, Some(staged), None) if staged == was => State::Exchanged,
        (Some(was), Some(live), Some(staged), None) if live == was || staged == record.new => {
            State::Staged
        }
        (Some(was), Some(live), None, None) if live == was => State::Untouched,
        _ => State::Unknown,
    })
}

/// What a crash left, for the planner.
pub(super) fn observe(place: &Place) -> Result<RootState, ReplaceError> {
    Ok(match state(place)? {
        State::Untouched => RootState::Untouched,
        State::Staged => RootState::Staged,
        State::Swapped | State::SwappedOverNothing | State::Dropping => RootState::Swapped,
        State::Exchanged | State::Between | State::Unknown => RootState::Mixed,
    })
}

/// Whether the deletion of the old tree was decided and has not ended.
pub(super) fn is_dropping(place: &Place) -> Result<bool, ReplaceError> {
    Ok(state(place)? == State::Dropping)
}

fn wrong(place: &Place, action: &'static str, why: &'static str) -> ReplaceError {
    ReplaceError::WrongState {
        action,
        path: place.root.clone(),
        why,
        hint: "look at the root and at the `.eider-` names beside it; the old data is in one of them",
    }
}

fn sync(place: &Place) -> Result<(), ReplaceError> {
    let parent = place.beside("".as_ref());
    primitive::sync_directory(place.parent.as_fd()).map_err(failed("sync", parent, Step::Swap))
}

/// Removes the record, and one that was not written to its end.
fn remove_record(place: &Place) -> Result<(), ReplaceError> {
    for name in [place.record.clone(), primitive::temporary_name(&place.record)] {
        primitive::unlink(place.parent.as_fd(), &name).map_err(failed(
            "delete",
            place.beside(&name),
            Step::Swap,
        ))?;
    }
    sync(place)
}

fn rename(place: &Place, from: &std::ffi::OsStr, to: &std::ffi::OsStr) -> Result<(), ReplaceError> {
    let parent = place.parent.as_fd();
    primitive::rename_to_free(parent, from, parent, to).map_err(failed(
        "rename",
        place.beside(from),
        Step::Swap,
    ))?;
    sync(place)
}

/// Puts the staged tree in place, from any state on the way.
pub(super) fn swap(place: &Place) -> Result<(), ReplaceError> {
    match state(place)? {
        State::Staged => begin(place),
        State::Exchanged => finish_exchanged(place),
        State::Between => finish_between(place),
        State::Swapped | State::SwappedOverNothing | State::Dropping => Ok(()),
        State::Untouched => Err(wrong(place, "put a new tree in place of", "nothing is staged")),
        State::Unknown => {
            Err(wrong(place, "put a new tree in place of", "something else changed it"))
        }
    }
}

fn begin(place: &Place) -> Result<(), ReplaceError> {
    let parent = place.parent.as_fd();
    let look = |name| {
        primitive::status(parent, name).map_err(failed("look at", place.beside(name), Step::Swap))
    };
    let Some(new) = look(&place.staging)? else {
        return Err(wrong(place, "put a new tree in place of", "nothing is staged"));
    };
    let record = Record { new: new.st_ino, old: look(&place.name)?.map(|status| status.st_ino) };
    let content = serde_json::to_vec(&record)
        .map_err(|_| wrong(place, "put a new tree in place of", "its record cannot be written"))?;
    primitive::sync_file_system(parent).map_err(failed("sync", &place.root, Step::Swap))?;
    let path = place.beside(&place.record);
    primitive::write_record(parent, &place.record, &content).map_err(failed(
        "write",
        path,
        Step::Swap,
    ))?;
    if record.old.is_none() {
        return rename(place, &place.staging, &place.name);
    }
    match primitive::exchange(parent, &place.staging, &place.name) {
        Ok(()) => {
            crate::failpoint::hit("swap.exchanged");
            sync(place)?;
            finish_exchanged(place)
        }
        Err(errno) if primitive::is_unsupported(errno) => {
            rename(place, &place.name, &place.old)?;
            crate::failpoint::hit("swap.old-moved");
            finish_between(place)
        }
        Err(errno) => Err(failed("exchange", &place.root, Step::Swap)(errno)),
    }
}

fn finish_exchanged(place: &Place) -> Result<(), ReplaceError> {
    rename(place, &place.staging, &place.old)?;
    crate::failpoint::hit("swap.old-moved");
    Ok(())
}

fn finish_between(place: &Place) -> Result<(), ReplaceError> {
    rename(place, &place.staging, &place.name)
}

/// Puts the old tree back, from any state on the way; the new one is staged again.
pub(super) fn swap_back(place: &Place) -> Result<(), ReplaceError> {
    let action = "put the old tree back in place of";
    match state(place)? {
        State::Staged | State::Untouched => {}
        State::Swapped => {
            rename(place, &place.old, &place.staging)?;
            back_exchanged(place)?;
        }
        State::Exchanged => back_exchanged(place)?,
        State::Between => rename(place, &place.old, &place.name)?,
        State::SwappedOverNothing => rename(place, &place.name, &place.staging)?,
        State::Dropping => return Err(wrong(place, action, "its deletion has begun")),
        State::Unknown => return Err(wrong(place, action, "something else changed it")),
    }
    remove_record(place)
}

fn back_exchanged(place: &Place) -> Result<(), ReplaceError> {
    let parent = place.parent.as_fd();
    match primitive::exchange(parent, &place.staging, &place.name) {
        Ok(()) => sync(place),
        Err(errno) if primitive::is_unsupported(errno) => {
            rename(place, &place.staging, &place.old)?;
            rename(place, &place.name, &place.staging)?;
            rename(place, &place.old, &place.name)
        }
        // Somebody deleted the new tree: the old one only needs its name back.
        Err(Errno::NOENT) => rename(place, &place.staging, &place.name),
        Err(errno) => Err(failed("exchange", &place.root, Step::Swap)(errno)),
    }
}

/// Deletes the old tree. Removing the record is the decision: from there on nothing goes back.
pub(super) fn drop_old(place: &Place) -> Result<(), ReplaceError> {
    match state(place)? {
        State::Untouched => remove_record(place),
        State::Swapped | State::SwappedOverNothing | State::Dropping => {
            remove_record(place)?;
            crate::failpoint::hit("drop.started");
            let path = place.beside(&place.old);
            remove::remove_tree(place.parent.as_fd(), &place.old, &path, "drop.middle")?;
            sync(place)
        }
        State::Staged | State::Exchanged | State::Between | State::Unknown => {
            Err(wrong(place, "delete the old tree of", "the new tree is not completely in place"))
        }
    }
}

/// Deletes a staged tree that was not swapped.
pub(super) fn discard_staging(place: &Place) -> Result<(), ReplaceError> {
    match state(place)? {
        State::Untouched => remove_record(place),
        State::Staged => {
            remove_record(place)?;
            let path = place.beside(&place.staging);
            remove::remove_tree(place.parent.as_fd(), &place.staging, &path, "discard.middle")?;
            sync(place)
        }
        State::Swapped | State::SwappedOverNothing => Ok(()),
        State::Dropping | State::Exchanged | State::Between | State::Unknown => {
            Err(wrong(place, "discard the staged tree of", "an earlier swap is not finished"))
        }
    }
}
