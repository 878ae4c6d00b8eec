//! The index: what an archive holds and where, kept behind the tar stream where no tar sees it.
//!
//! A hint, never a proof: whoever acts on an entry compares it with the header in the stream. The
//! exact bytes are in `docs/design/archive-format.md`. Reads and writes memory only; where the bytes
//! lie in a file is [`footer`]'s and [`frame`]'s business.

pub(super) mod footer;
pub(super) mod frame;
pub(super) mod number;
mod read;
#[cfg(test)]
mod tests;
mod write;

use serde::{Deserialize, Serialize};

use super::entry::{EntryInfo, Moment};
use super::manifest::{ManifestRoot, ParentArchive};
use super::summary::{Counts, Warning};

pub(super) use read::{Entries, parse};
pub(super) use write::IndexWriter;

/// The most bytes that the index of an archive may have.
pub(super) const INDEX_LIMIT: u64 = 4 << 30;
/// The most bytes that a name in an archive may have: of deeper trees than the kernel can name in one path.
pub(super) const NAME_LIMIT: usize = 64 << 10;
/// The most raw bytes in one block of the index.
const BLOCK_LIMIT: usize = 8 << 20;
/// The raw bytes from which a writer ends a block.
const BLOCK_LENGTH: usize = 256 << 10;

/// Where the data of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Location {
    /// In this archive.
    Here {
        /// Offset in the tar stream of its first block, an extended header included.
        offset: u64,
        /// Bytes up to its data.
        header: u64,
        /// Bytes of its data in the stream, a sparse map included, padding not.
        stored: u64,
    },
    /// In the archive of this position in [`Description::ancestors`].
    Ancestor(u32),
}

/// One entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// As in the tar header, without the values of extended attributes.
    pub info: EntryInfo,
    /// Whether it has extended attributes.
    pub has_xattrs: bool,
    /// Time of the last change of its inode.
    pub changed: Moment,
    /// The file system that it was on.
    pub file_system: u64,
    /// Its inode there.
    pub inode: u64,
    /// Where its data is.
    pub location: Location,
    /// BLAKE3 of its stored data; nothing without any.
    pub hash: Option<[u8; 32]>,
}

impl IndexEntry {
    /// Whether a hash belongs to it: files that have data in this or another archive.
    fn has_hash(&self) -> bool {
        self.hash.is_some()
    }
}

/// One member of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Offset of its first byte in the archive file.
    pub file_offset: u64,
    /// Its length there.
    pub packed: u64,
    /// Offset of what it holds in the tar stream.
    pub offset: u64,
    /// Length of what it holds.
    pub raw: u64,
    /// Whether it begins with an entry.
    pub begins_entry: bool,
    /// Whether it is stored only.
    pub stored: bool,
    /// BLAKE3 of the member as it is in the file.
    pub hash: [u8; 32],
}

/// What the index says of the archive as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Description {
    /// Version of the index's format.
    pub version: u64,
    /// Name and version of the program that wrote it.
    pub tool: String,
    /// Where the data was read.
    pub host: String,
    /// What was archived.
    pub roots: Vec<ManifestRoot>,
    /// The archives whose data an incremental one refers to; the first is its parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<ParentArchive>,
    /// Entries by kind, those in ancestors included.
    pub counts: Counts,
    /// Sizes of all files, holes included, hard links once.
    pub source_bytes: u64,
    /// The first warnings.
    pub warnings: Vec<Warning>,
    /// How many warnings there were.
    pub warning_count: u64,
}

/// The version of the index that this program writes, and the newest that it reads.
pub(super) const INDEX_VERSION: u64 = 1;

/// A parsed index. Entries stay packed and are read as a stream: they are by far the most of it.
#[derive(Debug)]
pub(super) struct Index {
    pub description: Description,
    /// How that was made which the data is of, in words of its runtime.
    pub definitions: Option<serde_json::Value>,
    pub members: Vec<Member>,
    payload: Vec<u8>,
    blocks: Vec<read::EntryBlock>,
}

impl Index {
    #[cfg(test)]
    pub(super) fn removed(&self) -> Vec<Vec<u8>> {
        read::removed(&self.payload)
    }

    /// Every entry, in the order of the archive.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries::new(&self.payload, &self.blocks)
    }

    /// The hash of this number, in the order of the entries that have one.
    pub(super) fn hash(&self, number: u32) -> Option<[u8; 32]> {
        read::hash_at(&self.payload, &self.blocks, number)
    }

    /// The bytes that this was read from.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Length of the tar stream.
    pub(super) fn stream_length(&self) -> u64 {
        self.members.last().map_or(0, |member| member.offset + member.raw)
    }

    /// The position of the member that holds this byte of the tar stream.
    pub(super) fn member_at(&self, offset: u64) -> Option<usize> {
        let after = self.members.partition_point(|member| member.offset <= offset);
        let at = after.checked_sub(1)?;
        let member = self.members.get(at)?;
        (offset < member.offset + member.raw).then_some(at)
    }
}
