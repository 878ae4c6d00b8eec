//! Single entries, and the bare tar stream, of archives that other programs wrote. Unpacks nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::archive::Archive;
use super::codec::{Tap, open_archive, open_stream};
use super::error::EngineError;
use crate::spec::ArchiveFormat;

/// The content of the files of these names, in one pass that ends when all of them were found. A leading
/// `./` counts for nothing, and what is not there is left out.
///
/// # Errors
/// [`EngineError::Damaged`] also for one that is longer than `limit` bytes.
pub fn read_entries(
    path: &Path,
    format: ArchiveFormat,
    names: &[&str],
    limit: u64,
) -> Result<BTreeMap<String, Vec<u8>>, EngineError> {
    let archive = Archive::open(path, format)?;
    let mut reader = archive.stream()?;
    let mut found = BTreeMap::new();
    while found.len() < names.len()
        && let Some(entry) = reader.next_entry()?
    {
        let name = entry.info.display_name();
        let name = name.strip_prefix("./").unwrap_or(&name);
        if !names.contains(&name) {
            continue;
        }
        if entry.info.size > limit {
            let detail = format!("its {name} is longer than {limit} bytes");
            return Err(archive.damaged(detail));
        }
        let mut content = Vec::new();
        let mut piece = [0_u8; 16 << 10];
        loop {
            let count = reader.read_data(&mut piece)?;
            if count == 0 {
                break;
            }
            content.extend_from_slice(&piece[..count]);
        }
        found.insert(name.to_owned(), content);
    }
    Ok(found)
}

/// The tar stream of an archive file, decompressed while it is read. Not to be sent to another thread.
pub fn open_tar(path: &Path, format: ArchiveFormat) -> Result<Box<dyn Read>, EngineError> {
    let file = open_archive(path)?;
    open_stream(file, format, &Tap::shared()).map_err(|source| EngineError::Store {
        action: "opening",
        path: path.to_owned(),
        source,
    })
}
