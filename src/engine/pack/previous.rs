//! What the parent of an incremental archive holds: an entry that has not changed since is not stored
//! again but refers to it.
//!
//! Of every entry of the parent a row of some forty bytes is in memory: stand-ins for its name and for
//! what is compared. The rest stays in the parent's packed index.

use std::path::PathBuf;

use rustix::fs::Stat;

use crate::engine::archive::Archive;
use crate::engine::entry::{EntryInfo, EntryKind, Key, Moment, key, trimmed};
use crate::engine::error::EngineError;
use crate::engine::index::{IndexEntry, Location};
use crate::engine::manifest::ParentArchive;
use crate::engine::source;
use crate::engine::table::Table;
use crate::spec::ArchiveFormat;

/// A time stamp may be this much older than the write that it is of: clocks of kernels tick, and
/// other machines' clocks differ.
const RACY_SECONDS: i64 = 2;
/// In the place of a hash's number where there is none.
const NO_HASH: u32 = u32::MAX;

/// The archive that an incremental one continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentOptions {
    /// The archive file.
    pub path: PathBuf,
    /// Its format.
    pub format: ArchiveFormat,
    /// Its name and SHA-256, as in its manifest.
    pub archive: ParentArchive,
    /// When reading for it began, in seconds since 1970. What was changed about then or later is
    /// stored again, whatever its times say.
    pub started: i64,
}

/// One entry of the parent, as far as it has to be compared.
struct Prior {
    state: Key,
    /// Which of the index's hashes is its own.
    hash: u32,
    ancestor: u32,
    /// Links are stored anew: which name of a file is its first one may change.
    link: bool,
    sparse: bool,
    has_xattrs: bool,
    seen: bool,
}

/// The parent's entries.
pub(super) struct Previous {
    archive: Archive,
    entries: Table<Prior>,
    started: i64,
    /// The parent, and what it refers to itself.
    pub ancestors: Vec<ParentArchive>,
}

impl Previous {
    /// Reads the parent's index.
    pub(super) fn open(options: &ParentOptions) -> Result<Self, EngineError> {
        let archive = Archive::open(&options.path, options.format)?;
        let Some(index) = &archive.index else {
            return Err(EngineError::Unsupported {
                name: archive.label,
                detail: "it has no index, so no incremental archive can continue it".to_owned(),
            });
        };
        let mut ancestors = vec![options.archive.clone()];
        ancestors.extend(index.description.ancestors.iter().cloned());
        let mut rows = Vec::new();
        let mut hashes = 0;
        archive.visit_index(index, &mut |entry| {
            let ancestor = match entry.location {
                Location::Here { .. } => 0,
                Location::Ancestor(position) => position.saturating_add(1),
            };
            let info = &entry.info;
            let hash = if entry.hash.is_some() { hashes } else { NO_HASH };
            hashes += u32::from(entry.hash.is_some());
            let prior = Prior {
                state: state(info, entry.inode, entry.changed),
                hash,
                ancestor,
                link: info.kind == EntryKind::HardLink,
                sparse: info.sparse,
                has_xattrs: entry.has_xattrs,
                seen: false,
            };
            rows.push((key(trimmed(&info.name)), prior));
            Ok(())
        })?;
        let started = options.started;
        Ok(Self { archive, entries: Table::new(rows), started, ancestors })
    }

    /// Notes that a name is still there.
    pub(super) fn see(&mut self, name: &[u8]) {
        if let Some(prior) = self.entries.get_mut(&key(trimmed(name))) {
            prior.seen = true;
        }
    }

    /// Notes that a name is still there, and gives the entry that refers to the parent if nothing has
    /// changed since.
    pub(super) fn unchanged(&mut self, info: &EntryInfo, stat: &Stat) -> Option<IndexEntry> {
        let prior = self.entries.get_mut(&key(trimmed(&info.name)))?;
        prior.seen = true;
        let changed = source::changed(stat);
        let racy = self.started.saturating_sub(RACY_SECONDS);
        let same = !prior.link
            && prior.state == state(info, stat.st_ino, changed)
            && changed.seconds < racy
            && info.modified.seconds < racy;
        if !same {
            return None;
        }
        let hash = if prior.hash == NO_HASH {
            None
        } else {
            Some(self.archive.index.as_ref().and_then(|index| index.hash(prior.hash))?)
        };
        Some(IndexEntry {
            info: EntryInfo { sparse: prior.sparse, ..info.clone() },
            has_xattrs: prior.has_xattrs,
            changed,
            file_system: stat.st_dev,
            inode: stat.st_ino,
            location: Location::Ancestor(prior.ancestor),
            hash,
        })
    }

    /// Calls `visit` for every name that the parent has and that was not seen.
    pub(super) fn removed(
        &self,
        visit: &mut dyn FnMut(&[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if self.entries.values().all(|prior| prior.seen) {
            return Ok(());
        }
        let Some(index) = &self.archive.index else { return Ok(()) };
        self.archive.visit_index(index, &mut |entry| {
            let name = trimmed(&entry.info.name);
            match self.entries.get(&key(name)) {
                Some(prior) if !prior.seen => visit(name),
                _ => Ok(()),
            }
        })
    }
}

/// A stand-in for everything that must not have changed.
fn state(info: &EntryInfo, inode: u64, changed: Moment) -> Key {
    let mut bytes = [0; 65];
    let numbers = [
        info.size,
        info.mode.into(),
        info.uid,
        info.gid,
        inode,
        info.modified.seconds.cast_unsigned(),
        changed.seconds.cast_unsigned(),
        (u64::from(info.modified.nanoseconds) << 32) | u64::from(changed.nanoseconds),
    ];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes[64] = info.kind as u8;
    key(&bytes)
}
