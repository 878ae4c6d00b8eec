//! What changed between two archives, from their indexes alone.

use std::path::Path;

use super::archive::Archive;
use super::entry::{Key, display_bytes, key, trimmed};
use super::error::EngineError;
use super::index::IndexEntry;
use super::table::Table;
use crate::spec::ArchiveFormat;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the later archive has it.
    Added,
    /// Only the earlier archive has it.
    Removed,
    /// Its kind, contents or target differ.
    Changed,
    /// Only its mode, owner, time or attributes differ.
    Attributes,
}

impl Change {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Attributes => "attributes",
        }
    }
}

/// One entry that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name in the archive, without a final slash.
    pub name: Vec<u8>,
    /// How it differs.
    pub change: Change,
}

impl Difference {
    /// The name for people: bytes that are no UTF-8 or not printable are escaped.
    pub fn display_name(&self) -> String {
        display_bytes(&self.name)
    }
}

/// What is compared of an entry of the earlier archive.
struct Earlier {
    contents: Key,
    attributes: Key,
    met: bool,
}

/// Compares two archives, in the order of the later one, what was removed last.
///
/// # Errors
/// [`EngineError::Unsupported`] if one of them has no index.
pub fn differences(
    earlier: (&Path, ArchiveFormat),
    later: (&Path, ArchiveFormat),
    visit: &mut dyn FnMut(Difference) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut rows = Vec::new();
    each(earlier, &mut |entry| {
        let found =
            Earlier { contents: contents(&entry), attributes: attributes(&entry), met: false };
        rows.push((key(trimmed(&entry.info.name)), found));
        Ok(())
    })?;
    let mut known = Table::new(rows);
    each(later, &mut |entry| {
        let name = trimmed(&entry.info.name);
        let change = match known.get_mut(&key(name)) {
            None => Change::Added,
            Some(found) => {
                found.met = true;
                if found.contents != contents(&entry) {
                    Change::Changed
                } else if found.attributes != attributes(&entry) {
                    Change::Attributes
                } else {
                    return Ok(());
                }
            }
        };
        visit(Difference { name: name.to_vec(), change })
    })?;
    each(earlier, &mut |entry| {
        let name = trimmed(&entry.info.name);
        if known.get(&key(name)).is_some_and(|found| found.met) {
            return Ok(());
        }
        visit(Difference { name: name.to_vec(), change: Change::Removed })
    })
}

fn each(
    (path, format): (&Path, ArchiveFormat),
    visit: &mut dyn FnMut(IndexEntry) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let archive = Archive::open(path, format)?;
    match &archive.index {
        Some(index) => archive.visit_index(index, visit),
        None => Err(EngineError::Unsupported {
            name: archive.label.clone(),
            detail: "it has no index to compare by".to_owned(),
        }),
    }
}

/// What an entry is: a digest, so that a million of them stay small.
fn contents(entry: &IndexEntry) -> Key {
    let info = &entry.info;
    let mut hasher = blake3::Hasher::new();
    hasher.update(info.kind.as_str().as_bytes());
    hasher.update(&info.size.to_le_bytes());
    hasher.update(&entry.hash.unwrap_or_default());
    hasher.update(&info.device.0.to_le_bytes());
    hasher.update(&info.device.1.to_le_bytes());
    hasher.update(info.link_target.as_deref().unwrap_or_default());
    halved(&hasher)
}

fn attributes(entry: &IndexEntry) -> Key {
    let info = &entry.info;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&info.mode.to_le_bytes());
    hasher.update(&info.uid.to_le_bytes());
    hasher.update(&info.gid.to_le_bytes());
    hasher.update(&info.modified.seconds.to_le_bytes());
    hasher.update(&info.modified.nanoseconds.to_le_bytes());
    hasher.update(&[u8::from(entry.has_xattrs)]);
    if entry.has_xattrs {
        // The index knows that there are some, not which: the inode was changed, and they may be what was.
        hasher.update(&entry.changed.seconds.to_le_bytes());
        hasher.update(&entry.changed.nanoseconds.to_le_bytes());
    }
    halved(&hasher)
}

fn halved(hasher: &blake3::Hasher) -> Key {
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}
