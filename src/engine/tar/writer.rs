//! The blocks that stand before an entry's data.

use super::header::{HeaderFields, fits_octal};
use super::pax::{escape_attribute, format_time, push_record};
#[cfg(test)]
use super::sparse::{Segment, encode_map};
use super::{BLOCK, EXTENDED_LIMIT};
use crate::engine::entry::{EntryInfo, EntryKind};

/// Two zero blocks end every archive.
pub(crate) const END_OF_ARCHIVE: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The zeros that fill the last block of `length` bytes of data.
pub(crate) fn padding(length: u64) -> &'static [u8] {
    let block = BLOCK as u64;
    let missing = (block - length % block) % block;
    &END_OF_ARCHIVE[..usize::try_from(missing).unwrap_or(0)]
}

/// Extended header (where needed), header and sparse map of an entry; its data follows.
///
/// With `segments` the file is written as GNU sparse 1.0 and only the segments' bytes follow.
#[cfg(test)]
pub(crate) fn entry_blocks(entry: &EntryInfo, segments: Option<&[Segment]>) -> (Vec<u8>, bool) {
    let map = segments.map(encode_map).unwrap_or_default();
    let stored = match segments {
        Some(segments) => {
            segments.iter().map(|segment| segment.length).sum::<u64>() + map.len() as u64
        }
        None if entry.kind == EntryKind::File => entry.size,
        None => 0,
    };
    let entry = EntryInfo { sparse: segments.is_some(), ..entry.clone() };
    let (mut blocks, complete) = entry_header(&entry, stored);
    blocks.extend(map);
    (blocks, complete)
}

/// Extended header (where needed) and header of an entry; `stored` bytes of data follow.
///
/// A sparse entry is written as GNU sparse 1.0: its data begins with the map. The second value is
/// false if the extended attributes had to be left out because they are too long.
pub(crate) fn entry_header(entry: &EntryInfo, stored: u64) -> (Vec<u8>, bool) {
    let mut records = Vec::new();
    if entry.sparse {
        push_record(&mut records, b"GNU.sparse.major", b"1");
        push_record(&mut records, b"GNU.sparse.minor", b"0");
        push_record(&mut records, b"GNU.sparse.name", &entry.name);
        push_record(&mut records, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
    }
    let header_name =
        if entry.sparse { sparse_placeholder(&entry.name) } else { entry.name.clone() };
    let (prefix, name) = split_name(&header_name).unwrap_or_else(|| {
        if !entry.sparse {
            push_record(&mut records, b"path", &entry.name);
        }
        (&[][..], &header_name[..header_name.len().min(100)])
    });
    let link = entry.link_target.as_deref().unwrap_or_default();
    if link.len() > 100 {
        push_record(&mut records, b"linkpath", link);
    }
    let seconds = u64::try_from(entry.modified.seconds).ok().filter(|value| fits_octal(*value, 11));
    if seconds.is_none() || entry.modified.nanoseconds != 0 {
        let time = format_time(entry.modified.seconds, entry.modified.nanoseconds);
        push_record(&mut records, b"mtime", time.as_bytes());
    }
    for (key, value, digits) in [("uid", entry.uid, 7), ("gid", entry.gid, 7), ("size", stored, 11)]
    {
        if !fits_octal(value, digits) {
            push_record(&mut records, key.as_bytes(), value.to_string().as_bytes());
        }
    }
    let without_attributes = records.len();
    for (name, value) in &entry.xattrs {
        let key = [b"SCHILY.xattr.", escape_attribute(name).as_slice()].concat();
        push_record(&mut records, &key, value);
    }
    let attributes_fit = records.len() as u64 <= EXTENDED_LIMIT;
    if !attributes_fit {
        records.truncate(without_attributes);
    }

    let mut blocks = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let extended = HeaderFields {
            prefix: b"",
            name: &extended_name(&entry.name),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.len() as u64,
            modified: 0,
            kind: b'x',
            link: b"",
            device: (0, 0),
        };
        blocks.extend_from_slice(&extended.encode());
        blocks.extend_from_slice(&records);
        blocks.extend_from_slice(padding(records.len() as u64));
    }
    let fields = HeaderFields {
        prefix,
        name,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        size: stored,
        modified: seconds.unwrap_or(0),
        kind: match entry.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharacterDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        },
        link,
        device: entry.device,
    };
    blocks.extend_from_slice(&fields.encode());
    (blocks, attributes_fit)
}

/// Prefix and name of a ustar header, or nothing if the name is too long for them.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The earliest slash that leaves at most 100 bytes; a slash at the very end leaves no name.
    let from = name.len() - 101;
    let slash = (from..name.len() - 1).find(|index| name[*index] == b'/')?;
    (slash > 0 && slash <= 155).then(|| (&name[..slash], &name[slash + 1..]))
}

fn base_name(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|byte| *byte == b'/').next().unwrap_or(name)
}

/// The name of the extended header itself, which only programs without PAX ever see.
fn extended_name(name: &[u8]) -> Vec<u8> {
    let base = base_name(name);
    [b"PaxHeaders/", &base[..base.len().min(80)]].concat()
}

/// The name that programs without sparse support extract the condensed file under.
fn sparse_placeholder(name: &[u8]) -> Vec<u8> {
    let base = base_name(name);
    [b"GNUSparseFile.0/", &base[..base.len().min(80)]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_split_at_a_slash_or_not_at_all() {
        let name = [vec![b'a'; 120], b"/".to_vec(), vec![b'b'; 90]].concat();
        let (prefix, rest) = split_name(&name).unwrap();
        assert_eq!((prefix.len(), rest.len()), (120, 90));
        assert_eq!(split_name(&[b'a'; 101]), None);
        assert_eq!(split_name(&[vec![b'a'; 120], b"/".to_vec()].concat()), None);
        assert_eq!(split_name(&[b"/", &[b'a'; 100][..]].concat()), None);
        assert_eq!(split_name(b"short/"), Some((&b""[..], &b"short/"[..])));
    }
}
