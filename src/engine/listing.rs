//! Reads the entries of an archive file one by one, of this program or any other.

use std::path::Path;

use super::codec::{Tap, archive_label, open_archive, open_stream};
use super::entry::EntryInfo;
use super::error::EngineError;
use super::tar::TarReader;
use crate::spec::ArchiveFormat;

/// Calls `visit` for every entry, in the archive's order, without keeping any.
///
/// An error of `visit` ends the listing and is returned. The whole archive is read, and what is
/// damaged in its structure is an error even when all entries before it were fine.
pub fn list_entries(
    path: &Path,
    format: ArchiveFormat,
    visit: &mut dyn FnMut(&EntryInfo) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut reader = open_reader(path, format)?;
    while let Some(entry) = reader.next_entry()? {
        visit(&entry.info)?;
    }
    Ok(())
}

/// A reader over an archive file.
pub(super) fn open_reader(
    path: &Path,
    format: ArchiveFormat,
) -> Result<TarReader<Box<dyn std::io::Read>>, EngineError> {
    let file = open_archive(path)?;
    let stream = open_stream(file, format, &Tap::shared()).map_err(|source| {
        EngineError::Store { action: "opening", path: path.to_owned(), source }
    })?;
    Ok(TarReader::new(stream, &archive_label(path)))
}
