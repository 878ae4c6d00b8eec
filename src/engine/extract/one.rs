//! Takes one file out of an archive; with an index only its members are read.

use std::io::{Read, Write};
use std::path::Path;

use crate::engine::archive::{Archive, with_members};
use crate::engine::entry::{EntryInfo, EntryKind};
use crate::engine::error::EngineError;
use crate::engine::index::{Index, IndexEntry, Location};
use crate::engine::pack::thread_count;
use crate::engine::tar::{TarEntry, TarReader};
use crate::spec::ArchiveFormat;

const BUFFER: usize = 256 << 10;

/// Writes the contents of one file of the archive to `output`, holes as zeros; returns its length.
///
/// A hard link gives the contents of the file that it names. The name is as in listings.
pub fn extract_one(
    path: &Path,
    format: ArchiveFormat,
    entry_name: &str,
    output: &mut dyn Write,
) -> Result<u64, EngineError> {
    let archive = Archive::open(path, format)?;
    let mut wanted = entry_name.as_bytes().to_vec();
    // A link names an earlier entry: at most one more reading finds it.
    for _ in 0..2 {
        let link = match &archive.index {
            Some(index) => match find(&archive, index, &wanted, entry_name)? {
                Some(found) if found.info.kind == EntryKind::File => {
                    return copy_indexed(&archive, index, &found, output);
                }
                Some(found) => link_of(&found.info),
                None => None,
            },
            None => {
                let mut reader = archive.stream()?;
                let mut link = None;
                while let Some(entry) = reader.next_entry()? {
                    if !is_called(&entry.info, &wanted, entry_name) {
                        continue;
                    }
                    if entry.info.kind == EntryKind::File {
                        return copy_to(&mut reader, &entry, output);
                    }
                    link = link_of(&entry.info).or(link);
                }
                link
            }
        };
        match link {
            Some(target) => wanted = target,
            None => break,
        }
    }
    Err(EngineError::EntryMissing { name: archive.label, entry: entry_name.to_owned() })
}

fn is_called(info: &EntryInfo, wanted: &[u8], shown: &str) -> bool {
    // Most names are told apart by their bytes; only odd ones are shown in another way.
    info.name == wanted || (!info.name.is_ascii() && info.display_name() == shown) || {
        info.name.iter().any(u8::is_ascii_control) && info.display_name() == shown
    }
}

fn link_of(info: &EntryInfo) -> Option<Vec<u8>> {
    (info.kind == EntryKind::HardLink).then(|| info.link_target.clone()).flatten()
}

/// The last file or hard link of this name in the index.
fn find(
    archive: &Archive,
    index: &Index,
    wanted: &[u8],
    shown: &str,
) -> Result<Option<IndexEntry>, EngineError> {
    let mut found = None;
    archive.visit_index(index, &mut |entry| {
        if is_called(&entry.info, wanted, shown) {
            found = Some(entry);
        }
        Ok(())
    })?;
    Ok(found)
}

fn copy_indexed(
    archive: &Archive,
    index: &Index,
    found: &IndexEntry,
    output: &mut dyn Write,
) -> Result<u64, EngineError> {
    let (offset, header, stored) = match found.location {
        Location::Here { offset, header, stored } => (offset, header, stored),
        Location::Ancestor(position) => {
            let lacking = || archive.damaged("its ancestors lack an entry that it refers to");
            let ancestors = &index.description.ancestors;
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            let opened = archive.open_ancestor(ancestors.get(position).ok_or_else(lacking)?)?;
            let held = opened.index.as_ref().ok_or_else(lacking)?;
            let there = find(&opened, held, &found.info.name, "")?.filter(|there| {
                matches!(there.location, Location::Here { .. }) && there.hash == found.hash
            });
            return copy_indexed(&opened, held, &there.ok_or_else(lacking)?, output);
        }
    };
    let outside = || archive.damaged("the members and entries of its index do not fit");
    let first = index.member_at(offset).ok_or_else(outside)?;
    let last = index.member_at(offset + header + stored.max(1) - 1).ok_or_else(outside)?;
    let start = index.members[first].offset;
    let threads = thread_count(None).min(last + 1 - first);
    let read = |stream: &mut dyn Read| {
        let mut before = stream.take(offset - start);
        std::io::copy(&mut before, &mut std::io::sink())
            .map_err(|error| archive.damaged(error.to_string()))?;
        let mut reader = TarReader::at(stream, &archive.label, offset);
        let entry = reader.next_entry()?.ok_or_else(outside)?;
        archive.compare(&entry.info, found)?;
        copy_to(&mut reader, &entry, output)
    };
    let (file, format, members) = (&archive.file, archive.format, &index.members);
    with_members(file, format, members, first..last + 1, (threads, None), read)
}

/// Writes a file of the archive to a stream, holes as zeros.
fn copy_to<R: Read>(
    reader: &mut TarReader<R>,
    entry: &TarEntry,
    output: &mut dyn Write,
) -> Result<u64, EngineError> {
    let report = |source| EngineError::Extract {
        action: "writing",
        path: entry.info.display_name().into(),
        source,
    };
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    for segment in &entry.segments {
        write_zeros(output, segment.offset - position).map_err(report)?;
        let mut done = 0;
        while done < segment.length {
            let wanted = usize::try_from(segment.length - done).unwrap_or(BUFFER).min(BUFFER);
            let count = reader.read_data(&mut buffer[..wanted])?;
            output.write_all(&buffer[..count]).map_err(report)?;
            done += count as u64;
        }
        position = segment.offset + segment.length;
    }
    write_zeros(output, entry.info.size - position).map_err(report)?;
    Ok(entry.info.size)
}

fn write_zeros(output: &mut dyn Write, length: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::repeat(0).take(length), output).map(|_| ())
}
