//! Reads the entries of an archive file one by one, of this program or any other.

use std::collections::HashMap;
use std::path::Path;

use super::archive::Archive;
use super::entry::{EntryInfo, EntryKind};
use super::error::EngineError;
use super::manifest::{ManifestRoot, ParentArchive};
use super::progress::Cancel;
use crate::spec::ArchiveFormat;

/// Calls `visit` for every entry, in the archive's order, without keeping any.
///
/// An error of `visit` ends the listing and is returned. Of an archive with an index only the index
/// is read; values of extended attributes are not in it. Any other is read as a whole, and what is
/// damaged in its structure is an error even when all entries before it were fine.
pub fn list_entries(
    path: &Path,
    format: ArchiveFormat,
    visit: &mut dyn FnMut(&EntryInfo) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let archive = Archive::open(path, format)?;
    if let Some(index) = &archive.index {
        return archive.visit_index(index, &mut |entry| visit(&entry.info));
    }
    let mut reader = archive.stream()?;
    while let Some(entry) = reader.next_entry()? {
        visit(&entry.info)?;
    }
    Ok(())
}

/// Of these roots those of which the archive holds anything, each with what it is. One that only shows in the
/// names of what lies in it is a directory.
pub fn root_kinds(
    path: &Path,
    format: ArchiveFormat,
    roots: &[&str],
) -> Result<HashMap<String, EntryKind>, EngineError> {
    let mut kinds = HashMap::new();
    list_entries(path, format, &mut |entry| {
        let name = entry.name.strip_suffix(b"/").unwrap_or(&entry.name);
        for root in roots {
            match name.strip_prefix(root.as_bytes()) {
                Some(b"") => {
                    kinds.insert((*root).to_owned(), entry.kind);
                }
                Some([b'/', ..]) if !kinds.contains_key(*root) => {
                    kinds.insert((*root).to_owned(), EntryKind::Directory);
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(kinds)
}

/// The archives that this one refers to, its parent first; none unless it is an incremental one.
pub fn ancestors(path: &Path, format: ArchiveFormat) -> Result<Vec<ParentArchive>, EngineError> {
    let archive = Archive::open(path, format)?;
    Ok(archive.index.map(|index| index.description.ancestors).unwrap_or_default())
}

/// The roots that an archive's own index names; none without an index.
pub fn indexed_roots(path: &Path, format: ArchiveFormat) -> Result<Vec<ManifestRoot>, EngineError> {
    let archive = Archive::open(path, format)?;
    Ok(archive.index.map(|index| index.description.roots).unwrap_or_default())
}

/// How that was made which the data is of, as the archive itself keeps it; nothing where it does not.
pub fn definitions(
    path: &Path,
    format: ArchiveFormat,
) -> Result<Option<serde_json::Value>, EngineError> {
    let archive = Archive::open(path, format)?;
    Ok(archive.index.and_then(|index| index.definitions))
}

/// Reads every byte of an archive, without anything to compare it with but itself; returns how many
/// entries it holds.
pub fn read_through(
    path: &Path,
    format: ArchiveFormat,
    cancel: &Cancel,
) -> Result<u64, EngineError> {
    super::survey::survey(path, format, &super::progress::Silent, cancel)
        .map(|summary| summary.counts.entries)
}
