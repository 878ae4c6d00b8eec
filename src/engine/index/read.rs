//! Reads an index. Whatever it says is checked against itself before anybody sees it.

use super::number::Numbers;
use super::write::{block, flag};
use super::{
    BLOCK_LIMIT, Description, INDEX_VERSION, Index, IndexEntry, Location, Member, NAME_LIMIT,
};
use crate::engine::entry::{EntryInfo, EntryKind};
use crate::engine::member::{PACKED_LIMIT, RAW_LIMIT};
use crate::engine::tar::BLOCK;

/// Where a block of entries is in the payload, and the hashes that belong to it.
#[derive(Debug)]
pub(in crate::engine) struct EntryBlock {
    start: usize,
    packed: usize,
    raw: usize,
    count: u32,
    hashes: usize,
    hash_count: u32,
    /// How many hashes the blocks before it have.
    hashes_before: u32,
}

/// The hash of this number, counted over all blocks.
pub(super) fn hash_at(payload: &[u8], blocks: &[EntryBlock], number: u32) -> Option<[u8; 32]> {
    let after = blocks.partition_point(|block| block.hashes_before <= number);
    let block = blocks.get(after.checked_sub(1)?)?;
    let within = number.checked_sub(block.hashes_before).filter(|at| *at < block.hash_count)?;
    let start = block.hashes + 32 * within as usize;
    payload.get(start..start + 32)?.try_into().ok()
}

struct Block<'a> {
    kind: u8,
    count: u32,
    raw: usize,
    start: usize,
    packed: &'a [u8],
}

/// Reads everything but the entries and the removed names, of an archive whose members end at `end`. What is wrong is
/// told in half a sentence.
///
/// Of a payload that packs well more is never kept than the archive has bytes: each member has at least one.
pub(in crate::engine) fn parse(payload: Vec<u8>, end: u64) -> Result<Index, String> {
    let mut description = None;
    let mut definitions = None;
    let mut members: Vec<Member> = Vec::new();
    let mut blocks: Vec<EntryBlock> = Vec::new();
    let mut hashes = 0_u32;
    let mut at = 0;
    while at < payload.len() {
        let block = next_block(&payload, &mut at).ok_or("its index is cut")?;
        match block.kind {
            block::DESCRIPTION if description.is_none() => {
                let text = unpack(&block)?;
                let found: Description = serde_json::from_slice(&text)
                    .map_err(|error| format!("the description in its index is invalid: {error}"))?;
                if found.version > INDEX_VERSION {
                    return Err(format!("its index has version {}", found.version));
                }
                description = Some(found);
            }
            block::DEFINITIONS if definitions.is_none() => {
                let found = serde_json::from_slice(&unpack(&block)?).map_err(|error| {
                    format!("the definitions in its index are invalid: {error}")
                })?;
                definitions = Some(found);
            }
            block::MEMBERS => read_members(&unpack(&block)?, block.count, end, &mut members)
                .ok_or("the members in its index are malformed")?,
            block::ENTRIES => blocks.push(EntryBlock {
                start: block.start,
                packed: block.packed.len(),
                raw: block.raw,
                count: block.count,
                hashes: 0,
                hash_count: 0,
                hashes_before: hashes,
            }),
            block::HASHES => {
                let owner = blocks.last_mut().filter(|owner| owner.hash_count == 0);
                let owner = owner.ok_or("its index has hashes without entries")?;
                if block.packed.len() != 32 * block.count as usize {
                    return Err("the hashes in its index are cut".to_owned());
                }
                owner.hashes = block.start;
                owner.hash_count = block.count;
                // An index has at most 4 GiB.
                hashes = hashes.saturating_add(block.count);
            }
            block::REMOVED => each_removed(&block, &mut |_| ())?,
            other if other.is_ascii_lowercase() => {}
            other => {
                let shown = other.escape_ascii();
                return Err(format!(
                    "its index has a block `{shown}` that is not known or not due"
                ));
            }
        }
    }
    let description = description.ok_or("its index has no description")?;
    Ok(Index { description, definitions, members, payload, blocks })
}

fn each_removed(block: &Block<'_>, visit: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    let raw = unpack(block)?;
    let mut numbers = Numbers(&raw);
    for _ in 0..block.count {
        let name = numbers.bytes().filter(|name| !name.is_empty());
        visit(name.ok_or("the removed names are malformed")?);
    }
    Ok(())
}

/// The names that the parent has and this archive has not; for people, restoring does not need them.
#[cfg(test)]
pub(super) fn removed(payload: &[u8]) -> Vec<Vec<u8>> {
    let (mut names, mut at) = (Vec::new(), 0);
    while let Some(block) = next_block(payload, &mut at) {
        if block.kind == block::REMOVED {
            each_removed(&block, &mut |name| names.push(name.to_vec())).unwrap();
        }
    }
    names
}

fn next_block<'a>(payload: &'a [u8], at: &mut usize) -> Option<Block<'a>> {
    let header = payload.get(*at..at.checked_add(13)?)?;
    let four = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let (count, raw, packed) = (four(1)?, four(5)?, four(9)?);
    let start = *at + 13;
    let end = start.checked_add(packed as usize)?;
    let packed = payload.get(start..end)?;
    *at = end;
    Some(Block { kind: header[0], count, raw: raw as usize, start, packed })
}

fn unpack(block: &Block<'_>) -> Result<Vec<u8>, String> {
    decompress(block.packed, block.raw)
}

fn decompress(packed: &[u8], raw: usize) -> Result<Vec<u8>, String> {
    if raw > BLOCK_LIMIT {
        return Err("a block of its index is too long".to_owned());
    }
    let text = zstd::bulk::decompress(packed, raw)
        .map_err(|error| format!("its index cannot be decompressed: {error}"))?;
    if text.len() == raw {
        Ok(text)
    } else {
        Err("a block of its index has another length than it says".to_owned())
    }
}

fn read_members(raw: &[u8], count: u32, end: u64, members: &mut Vec<Member>) -> Option<()> {
    let mut numbers = Numbers(raw);
    for _ in 0..count {
        let (file_offset, offset) = members.last().map_or(Some((0, 0)), |last| {
            let file_offset = last.file_offset.checked_add(last.packed)?;
            Some((file_offset, last.offset.checked_add(last.raw)?))
        })?;
        let (packed, length) = (numbers.number()?, numbers.number()?);
        let is_within = file_offset.checked_add(packed).is_some_and(|last| last <= end);
        if packed == 0 || packed > PACKED_LIMIT || length == 0 || length > RAW_LIMIT || !is_within {
            return None;
        }
        let flags = numbers.byte().filter(|flags| flags & !3 == 0)?;
        members.push(Member {
            file_offset,
            packed,
            offset,
            raw: length,
            begins_entry: flags & 1 != 0,
            stored: flags & 2 != 0,
            hash: numbers.take(32)?.try_into().ok()?,
        });
    }
    numbers.0.is_empty().then_some(())
}

/// Reads the entries one after the other.
pub(in crate::engine) struct Entries<'a> {
    payload: &'a [u8],
    blocks: std::slice::Iter<'a, EntryBlock>,
    raw: Vec<u8>,
    at: usize,
    left: u32,
    hashes: &'a [u8],
    name: Vec<u8>,
    owner: Option<(u64, u64, u64)>,
    offset: u64,
    failed: bool,
}

impl<'a> Entries<'a> {
    pub(super) fn new(payload: &'a [u8], blocks: &'a [EntryBlock]) -> Self {
        Self {
            payload,
            blocks: blocks.iter(),
            raw: Vec::new(),
            at: 0,
            left: 0,
            hashes: &[],
            name: Vec::new(),
            owner: None,
            offset: 0,
            failed: false,
        }
    }

    /// Where in the tar stream the entries so far end.
    pub(in crate::engine) fn offset(&self) -> u64 {
        self.offset
    }

    fn next_block(&mut self, block: &EntryBlock) -> Result<(), String> {
        self.raw = decompress(&self.payload[block.start..block.start + block.packed], block.raw)?;
        self.at = 0;
        self.left = block.count;
        let length = 32 * block.hash_count as usize;
        self.hashes = &self.payload[block.hashes..block.hashes + length];
        self.name.clear();
        self.owner = None;
        Ok(())
    }

    fn entry(&mut self) -> Option<IndexEntry> {
        let mut numbers = Numbers(&self.raw[self.at..]);
        let flags = numbers.byte()?;
        let kind = match flags & 7 {
            0 => EntryKind::File,
            1 => EntryKind::HardLink,
            2 => EntryKind::Symlink,
            3 => EntryKind::CharacterDevice,
            4 => EntryKind::BlockDevice,
            5 => EntryKind::Directory,
            6 => EntryKind::Fifo,
            _ => return None,
        };
        let shared: usize = numbers.narrow()?;
        let rest = numbers.bytes()?;
        if shared > self.name.len() || shared + rest.len() > NAME_LIMIT {
            return None;
        }
        self.name.truncate(shared);
        self.name.extend_from_slice(rest);
        let mode = numbers.narrow::<u32>().filter(|mode| *mode <= 0o7777)?;
        let owner = if flags & flag::SAME_OWNER == 0 {
            (numbers.number()?, numbers.number()?, numbers.number()?)
        } else {
            self.owner?
        };
        self.owner = Some(owner);
        let inode = numbers.number()?;
        let (modified, changed) = (numbers.moment()?, numbers.moment()?);
        let size = if kind == EntryKind::File { numbers.number()? } else { 0 };
        let link_target = match kind {
            EntryKind::HardLink | EntryKind::Symlink => Some(numbers.bytes()?.to_vec()),
            _ => None,
        };
        let device = if kind.is_device() { (numbers.narrow()?, numbers.narrow()?) } else { (0, 0) };
        let location = if flags & flag::ANCESTOR == 0 {
            let header = numbers.number().filter(|length| *length > 0)?;
            let stored = if kind == EntryKind::File { numbers.number()? } else { 0 };
            let offset = self.offset;
            let data = stored.checked_next_multiple_of(BLOCK as u64)?;
            if header % BLOCK as u64 != 0 {
                return None;
            }
            self.offset = offset.checked_add(header)?.checked_add(data)?;
            Location::Here { offset, header, stored }
        } else {
            Location::Ancestor(numbers.narrow()?)
        };
        let hash = if flags & flag::HASH == 0 {
            None
        } else {
            let (hash, rest) = self.hashes.split_at_checked(32)?;
            self.hashes = rest;
            Some(hash.try_into().ok()?)
        };
        // What has data in this archive has a hash, and nothing else has.
        if let Location::Here { stored, .. } = location
            && (stored > 0) != hash.is_some()
        {
            return None;
        }
        let left = numbers.0.len();
        self.at = self.raw.len() - left;
        let mut name = self.name.clone();
        if kind == EntryKind::Directory {
            name.push(b'/');
        }
        let info = EntryInfo {
            name,
            kind,
            size,
            mode,
            uid: owner.0,
            gid: owner.1,
            modified,
            link_target,
            device,
            xattrs: Vec::new(),
            sparse: flags & flag::SPARSE != 0,
        };
        Some(IndexEntry {
            info,
            has_xattrs: flags & flag::XATTRS != 0,
            changed,
            file_system: owner.2,
            inode,
            location,
            hash,
        })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<IndexEntry, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        while self.left == 0 {
            // A block must be used up, its hashes too.
            if self.at != self.raw.len() || !self.hashes.is_empty() {
                self.failed = true;
                return Some(Err("a block of its index has more than it says".to_owned()));
            }
            let block = self.blocks.next()?;
            if let Err(detail) = self.next_block(block) {
                self.failed = true;
                return Some(Err(detail));
            }
        }
        self.left -= 1;
        let entry = self.entry().ok_or_else(|| "an entry of its index is malformed".to_owned());
        self.failed = entry.is_err();
        Some(entry)
    }
}
