//! Putting a restored tree in place of a live one, so that a crash between any two steps leaves
//! either tree whole and reachable.
//!
//! The new content is prepared in a [`Staging`] place on the root's own file system, [`swap`] puts it
//! in place, [`swap_back`] undoes that, and [`drop_old`] ends it. Every function looks at the disk
//! for where it stands, may be called again after a crash, and keeps no state of its own. The
//! operation key tells the names of one operation from those of others; callers hold the target's
//! lock. Knows nothing of archives, services or the catalog.

mod beside;
mod carry;
mod copy;
mod error;
mod inside;
mod metadata;
mod place;
mod primitive;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub use carry::{Carried, CarryRules, carry_over};
pub use error::{ReplaceError, Step};
pub(super) use place::mounts_below;
pub use place::{Layout, StagedKind, Staging, check_replaceable, leftovers};
pub(super) use remove::is_mount_point;

use inside::Inside;
use place::INSIDE;
use place::Place;

/// Whether a name at the top of a root is that of a working directory, of this operation or of another: no part
/// of the root's content.
pub fn is_working_directory(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(INSIDE.as_bytes())
}

/// Where a root stands in an operation, from the file system alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootState {
    /// Nothing of the operation is there: it has not begun, or all of it is finished.
    Untouched,
    /// The old content is in place and a staging place exists.
    Staged,
    /// The new content is in place; the old may still be there.
    Swapped,
    /// In the middle of a swap, forwards or backwards: go on in either direction.
    Mixed,
}

/// Where a root stands in the operation `key`.
pub fn observe(root: &Path, key: &str) -> Result<RootState, ReplaceError> {
    let Some(place) = open_existing(root, key)? else { return Ok(RootState::Untouched) };
    match Inside::open(&place)? {
        Some(inside) => inside.observe(),
        None => beside::observe(&place),
    }
}

/// Puts the staged content in place of the live one, from any state on the way.
pub fn swap(root: &Path, key: &str) -> Result<(), ReplaceError> {
    let place = Place::open(root, key)?;
    match Inside::open(&place)? {
        Some(inside) => inside.swap(),
        None => beside::swap(&place),
    }
}

/// Puts the old content back, from any state on the way; the new content is staged again.
///
/// # Errors
/// Also if [`drop_old`] has begun: then there is no whole old tree any more.
pub fn swap_back(root: &Path, key: &str) -> Result<(), ReplaceError> {
    let Some(place) = open_existing(root, key)? else { return Ok(()) };
    match Inside::open(&place)? {
        Some(inside) => inside.swap_back(),
        None => beside::swap_back(&place),
    }
}

/// Whether [`drop_old`] has begun on a root and has not ended.
fn is_dropping(root: &Path, key: &str) -> Result<bool, ReplaceError> {
    let Some(place) = open_existing(root, key)? else { return Ok(false) };
    match Inside::open(&place)? {
        Some(inside) => inside.is_dropping(),
        None => beside::is_dropping(&place),
    }
}

/// Deletes the old content after a complete swap. There is no way back from the first moment on.
pub fn drop_old(root: &Path, key: &str) -> Result<(), ReplaceError> {
    let Some(place) = open_existing(root, key)? else { return Ok(()) };
    match Inside::open(&place)? {
        Some(inside) => inside.drop_old(),
        None => beside::drop_old(&place),
    }
}

/// Deletes the staging place of an operation that has not swapped, or has swapped back.
pub fn discard_staging(root: &Path, key: &str) -> Result<(), ReplaceError> {
    let Some(place) = open_existing(root, key)? else { return Ok(()) };
    match Inside::open(&place)? {
        Some(inside) => inside.discard_staging(),
        None => beside::discard_staging(&place),
    }
}

/// A root whose parent is missing holds nothing of any operation.
fn open_existing(root: &Path, key: &str) -> Result<Option<Place>, ReplaceError> {
    match Place::open(root, key) {
        Err(ReplaceError::FileSystem { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Where several roots stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplacementState {
    /// Every root has its old content.
    AllOld,
    /// Every root has its new content.
    AllNew,
    /// Neither: swap on or swap back.
    Mixed,
}

/// The roots of one operation, which are swapped together.
#[derive(Debug, Clone)]
pub struct Replacement {
    key: String,
    roots: Vec<PathBuf>,
}

impl Replacement {
    /// The roots that have a staging place, in the order in which they are swapped.
    pub fn new(key: impl Into<String>, roots: Vec<PathBuf>) -> Self {
        Self { key: key.into(), roots }
    }

    /// Swaps every root in order; ends at the first failure, for the caller to swap back.
    pub fn swap(&self) -> Result<(), ReplaceError> {
        for root in &self.roots {
            swap(root, &self.key)?;
            crate::failpoint::hit("swap.next-root");
        }
        Ok(())
    }

    /// Swaps every root back in reverse order, all of them even if one fails; the first failure is
    /// returned. Refused for all of them once the old content of any has begun to be deleted.
    pub fn swap_back(&self) -> Result<(), ReplaceError> {
        if self.is_dropping()? {
            return Err(ReplaceError::WrongState {
                action: "put the old trees back in place of",
                path: self.roots.first().cloned().unwrap_or_default(),
                why: "the deletion of the old trees has begun",
                hint: "restore the safety backup instead",
            });
        }
        let mut first = Ok(());
        for root in self.roots.iter().rev() {
            first = first.and(swap_back(root, &self.key));
            crate::failpoint::hit("swap-back.root");
        }
        first
    }

    /// Where the roots stand together. Roots of which nothing is left count as old: whether the
    /// operation is before its beginning or after its end is in the journal. While the old trees
    /// are being deleted all roots count as new.
    pub fn observe(&self) -> Result<ReplacementState, ReplaceError> {
        if self.is_dropping()? {
            return Ok(ReplacementState::AllNew);
        }
        let states = self.states()?;
        let is_old = |state: &RootState| matches!(state, RootState::Untouched | RootState::Staged);
        Ok(if states.iter().all(is_old) {
            ReplacementState::AllOld
        } else if states.iter().all(|state| *state == RootState::Swapped) {
            ReplacementState::AllNew
        } else {
            ReplacementState::Mixed
        })
    }

    fn states(&self) -> Result<Vec<RootState>, ReplaceError> {
        self.roots.iter().map(|root| observe(root, &self.key)).collect()
    }

    /// A root of which nothing is left beside a swapped one is one whose old tree is gone: before a
    /// swap every root is staged, and after a swap back every root is staged again.
    fn is_dropping(&self) -> Result<bool, ReplaceError> {
        for root in &self.roots {
            if is_dropping(root, &self.key)? {
                return Ok(true);
            }
        }
        let states = self.states()?;
        Ok(states.contains(&RootState::Untouched) && states.contains(&RootState::Swapped))
    }

    /// Deletes every old tree, all of them even if one fails; the first failure is returned.
    pub fn drop_old(&self) -> Result<(), ReplaceError> {
        self.each(drop_old)
    }

    /// Deletes every staging place, all of them even if one fails; the first failure is returned.
    pub fn discard_staging(&self) -> Result<(), ReplaceError> {
        self.each(discard_staging)
    }

    /// One failure must not keep the other roots from being cleaned up.
    fn each(&self, work: fn(&Path, &str) -> Result<(), ReplaceError>) -> Result<(), ReplaceError> {
        let mut first = Ok(());
        for root in &self.roots {
            first = first.and(work(root, &self.key));
        }
        first
    }
}
