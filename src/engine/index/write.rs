//! Writes the index, entry by entry while the archive is made.

use std::io;

use super::number::{push, push_bytes, push_moment};
use super::{BLOCK_LENGTH, BLOCK_LIMIT, Description, IndexEntry, Location, Member};
use crate::engine::entry::EntryKind;

/// Level of the index's own compression; it is small beside the archive.
const LEVEL: i32 = 3;

/// Kinds of blocks. Readers refuse unknown kinds in upper case and pass over those in lower case.
pub(super) mod block {
    pub(crate) const DESCRIPTION: u8 = b'D';
    pub(crate) const MEMBERS: u8 = b'M';
    pub(crate) const ENTRIES: u8 = b'E';
    pub(crate) const HASHES: u8 = b'H';
    pub(crate) const REMOVED: u8 = b'X';
    pub(crate) const DEFINITIONS: u8 = b'd';
}

/// Bits of an entry's first byte, above the three of its kind.
pub(super) mod flag {
    pub(crate) const SPARSE: u8 = 0x08;
    pub(crate) const XATTRS: u8 = 0x10;
    pub(crate) const ANCESTOR: u8 = 0x20;
    /// Owner, group and file system are those of the entry before.
    pub(crate) const SAME_OWNER: u8 = 0x40;
    pub(crate) const HASH: u8 = 0x80;
}

pub(super) fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => 0,
        EntryKind::HardLink => 1,
        EntryKind::Symlink => 2,
        EntryKind::CharacterDevice => 3,
        EntryKind::BlockDevice => 4,
        EntryKind::Directory => 5,
        EntryKind::Fifo => 6,
    }
}

/// Collects the index; what is complete is compressed at once, so that it stays small.
pub(in crate::engine) struct IndexWriter {
    compressor: zstd::bulk::Compressor<'static>,
    /// Finished blocks of entries, each with the number of hashes that follow it.
    finished: Vec<(Vec<u8>, usize)>,
    block: Vec<u8>,
    entries: u32,
    hashes: usize,
    name: Vec<u8>,
    owner: Option<(u64, u64, u64)>,
    /// For every hash whether it is known with the entry; the others come from the workers.
    is_known: Vec<bool>,
    known: Vec<[u8; 32]>,
    removed: Vec<u8>,
    removed_count: u32,
    /// Finished blocks of removed names.
    removed_blocks: Vec<u8>,
}

impl IndexWriter {
    pub(in crate::engine) fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            finished: Vec::new(),
            block: Vec::new(),
            entries: 0,
            hashes: 0,
            name: Vec::new(),
            owner: None,
            is_known: Vec::new(),
            known: Vec::new(),
            removed: Vec::new(),
            removed_count: 0,
            removed_blocks: Vec::new(),
        })
    }

    /// Adds an entry. One whose data is being packed right now has `hash_follows` instead of a hash.
    pub(in crate::engine) fn add(
        &mut self,
        entry: &IndexEntry,
        hash_follows: bool,
    ) -> io::Result<()> {
        let info = &entry.info;
        let owner = (info.uid, info.gid, entry.file_system);
        let same_owner = self.owner == Some(owner);
        self.owner = Some(owner);
        let has_hash = entry.has_hash() || hash_follows;
        let mut flags = kind_number(info.kind);
        for (set, bit) in [
            (info.sparse, flag::SPARSE),
            (entry.has_xattrs, flag::XATTRS),
            (matches!(entry.location, Location::Ancestor(_)), flag::ANCESTOR),
            (same_owner, flag::SAME_OWNER),
            (has_hash, flag::HASH),
        ] {
            if set {
                flags |= bit;
            }
        }
        let name = info.name.strip_suffix(b"/").unwrap_or(&info.name);
        let output = &mut self.block;
        output.push(flags);
        let shared = name.iter().zip(&self.name).take_while(|(one, other)| one == other).count();
        push(output, shared as u64);
        push_bytes(output, &name[shared..]);
        self.name.truncate(shared);
        self.name.extend_from_slice(&name[shared..]);
        push(output, u64::from(info.mode));
        if !same_owner {
            push(output, info.uid);
            push(output, info.gid);
            push(output, entry.file_system);
        }
        push(output, entry.inode);
        push_moment(output, info.modified);
        push_moment(output, entry.changed);
        match info.kind {
            EntryKind::File => push(output, info.size),
            EntryKind::HardLink | EntryKind::Symlink => {
                push_bytes(output, info.link_target.as_deref().unwrap_or_default());
            }
            EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                push(output, u64::from(info.device.0));
                push(output, u64::from(info.device.1));
            }
            EntryKind::Directory | EntryKind::Fifo => {}
        }
        match entry.location {
            // Offsets are not written: entries follow one another without a gap.
            Location::Here { header, stored, .. } => {
                push(output, header);
                if info.kind == EntryKind::File {
                    push(output, stored);
                }
            }
            Location::Ancestor(position) => push(output, u64::from(position)),
        }
        self.entries += 1;
        if has_hash {
            self.hashes += 1;
            self.is_known.push(entry.hash.is_some());
            self.known.extend(entry.hash);
        }
        if self.block.len() >= BLOCK_LENGTH {
            self.end_block()?;
        }
        Ok(())
    }

    /// Notes that the parent has a name which is no longer there.
    pub(in crate::engine) fn remove(&mut self, name: &[u8]) -> io::Result<()> {
        push_bytes(&mut self.removed, name);
        self.removed_count += 1;
        if self.removed.len() >= BLOCK_LENGTH { self.end_removed() } else { Ok(()) }
    }

    fn end_removed(&mut self) -> io::Result<()> {
        if self.removed_count == 0 {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.removed);
        let count = std::mem::take(&mut self.removed_count);
        let mut blocks = std::mem::take(&mut self.removed_blocks);
        self.pack(block::REMOVED, count, &raw, &mut blocks)?;
        self.removed_blocks = blocks;
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let mut packed = Vec::new();
        let raw = std::mem::take(&mut self.block);
        self.pack(block::ENTRIES, self.entries, &raw, &mut packed)?;
        self.finished.push((packed, self.hashes));
        self.entries = 0;
        self.hashes = 0;
        // Every block can be read on its own.
        self.name.clear();
        self.owner = None;
        Ok(())
    }

    fn pack(&mut self, kind: u8, count: u32, raw: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        let packed = self.compressor.compress(raw)?;
        push_block(kind, count, raw.len(), &packed, output)
    }

    /// The whole index. `hashes` are those that were to follow, in the order of their entries.
    /// `definitions` that no block can hold are left out.
    pub(in crate::engine) fn finish(
        mut self,
        description: &Description,
        definitions: Option<&serde_json::Value>,
        members: &[Member],
        hashes: &[[u8; 32]],
    ) -> io::Result<Vec<u8>> {
        self.end_block()?;
        self.end_removed()?;
        let mut output = Vec::new();
        let text = serde_json::to_vec(description).map_err(io::Error::other)?;
        self.pack(block::DESCRIPTION, 1, &text, &mut output)?;
        if let Some(definitions) = definitions {
            let text = serde_json::to_vec(definitions).map_err(io::Error::other)?;
            if text.len() <= BLOCK_LIMIT {
                self.pack(block::DEFINITIONS, 1, &text, &mut output)?;
            }
        }
        for members in members.chunks(1 << 16) {
            let mut raw = Vec::with_capacity(members.len() * 40);
            for member in members {
                push(&mut raw, member.packed);
                push(&mut raw, member.raw);
                raw.push(u8::from(member.begins_entry) + 2 * u8::from(member.stored));
                raw.extend_from_slice(&member.hash);
            }
            let count = u32::try_from(members.len()).map_err(io::Error::other)?;
            self.pack(block::MEMBERS, count, &raw, &mut output)?;
        }
        let mut following = hashes.iter();
        let mut known = std::mem::take(&mut self.known).into_iter();
        let mut is_known = std::mem::take(&mut self.is_known).into_iter();
        for (packed, count) in std::mem::take(&mut self.finished) {
            output.extend_from_slice(&packed);
            drop(packed);
            let mut raw = Vec::with_capacity(count * 32);
            for _ in 0..count {
                let hash = if is_known.next() == Some(true) {
                    known.next()
                } else {
                    following.next().copied()
                };
                let hash = hash.ok_or_else(|| io::Error::other("fewer hashes than files"))?;
                raw.extend_from_slice(&hash);
            }
            if count > 0 {
                let count = u32::try_from(count).map_err(io::Error::other)?;
                push_block(block::HASHES, count, raw.len(), &raw, &mut output)?;
            }
        }
        if following.next().is_some() {
            return Err(io::Error::other("more hashes than files"));
        }
        output.extend_from_slice(&self.removed_blocks);
        Ok(output)
    }
}

/// Kind, count, raw length, packed length, and the bytes. Hashes are not compressed.
fn push_block(
    kind: u8,
    count: u32,
    raw: usize,
    packed: &[u8],
    output: &mut Vec<u8>,
) -> io::Result<()> {
    let length = |value: usize| u32::try_from(value).map_err(io::Error::other);
    output.push(kind);
    output.extend_from_slice(&count.to_le_bytes());
    output.extend_from_slice(&length(raw)?.to_le_bytes());
    output.extend_from_slice(&length(packed.len())?.to_le_bytes());
    output.extend_from_slice(packed);
    Ok(())
}
