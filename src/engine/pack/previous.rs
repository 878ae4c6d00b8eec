//! What the parent of an incremental archive holds: an entry that has not changed since is not stored
//! again but refers to it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use rustix::fs::Stat;

use crate::engine::archive::Archive;
use crate::engine::entry::{EntryInfo, EntryKind, Key, Moment, key, trimmed};
use crate::engine::error::EngineError;
use crate::engine::index::{IndexEntry, Location};
use crate::engine::manifest::ParentArchive;
use crate::engine::source;
use crate::spec::ArchiveFormat;

/// A time stamp may be this much older than the write that it is of: clocks of kernels tick, and
/// other machines' clocks differ.
const RACY_SECONDS: i64 = 2;

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
    kind: EntryKind,
    mode: u32,
    sparse: bool,
    has_xattrs: bool,
    size: u64,
    owner: (u64, u64),
    inode: u64,
    modified: Moment,
    changed: Moment,
    ancestor: u32,
    hash: Option<[u8; 32]>,
}

/// The parent's entries.
pub(super) struct Previous {
    archive: Archive,
    entries: HashMap<Key, Prior>,
    seen: HashSet<Key>,
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
        let mut entries = HashMap::new();
        archive.visit_index(index, &mut |entry| {
            let ancestor = match entry.location {
                Location::Here { .. } => 0,
                Location::Ancestor(position) => position.saturating_add(1),
            };
            let info = &entry.info;
            // Links are stored anew: which name of a file is its first one may change.
            if info.kind != EntryKind::HardLink {
                let prior = Prior {
                    kind: info.kind,
                    mode: info.mode,
                    sparse: info.sparse,
                    has_xattrs: entry.has_xattrs,
                    size: info.size,
                    owner: (info.uid, info.gid),
                    inode: entry.inode,
                    modified: info.modified,
                    changed: entry.changed,
                    ancestor,
                    hash: entry.hash,
                };
                entries.insert(key(trimmed(&info.name)), prior);
            }
            Ok(())
        })?;
        let (started, seen) = (options.started, HashSet::new());
        Ok(Self { archive, entries, seen, started, ancestors })
    }

    /// Notes that a name is still there.
    pub(super) fn see(&mut self, name: &[u8]) {
        self.seen.insert(key(trimmed(name)));
    }

    /// The entry that refers to the parent, if nothing has changed since.
    pub(super) fn unchanged(&self, info: &EntryInfo, stat: &Stat) -> Option<IndexEntry> {
        let prior = self.entries.get(&key(trimmed(&info.name)))?;
        let changed = source::changed(stat);
        let racy = self.started.saturating_sub(RACY_SECONDS);
        let same = prior.kind == info.kind
            && prior.size == info.size
            && prior.mode == info.mode
            && prior.owner == (info.uid, info.gid)
            && prior.inode == stat.st_ino
            && prior.modified == info.modified
            && prior.changed == changed
            && changed.seconds < racy
            && info.modified.seconds < racy;
        same.then(|| IndexEntry {
            info: EntryInfo { sparse: prior.sparse, ..info.clone() },
            has_xattrs: prior.has_xattrs,
            changed,
            file_system: stat.st_dev,
            inode: stat.st_ino,
            location: Location::Ancestor(prior.ancestor),
            hash: prior.hash,
        })
    }

    /// Calls `visit` for every name that the parent has and that was not seen.
    pub(super) fn removed(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        let Some(index) = &self.archive.index else { return Ok(()) };
        self.archive.visit_index(index, &mut |entry| {
            let name = trimmed(&entry.info.name);
            if !self.seen.contains(&key(name)) {
                visit(name);
            }
            Ok(())
        })
    }
}
