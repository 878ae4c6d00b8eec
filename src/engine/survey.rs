//! Reads an archive that has no manifest completely and says what would be in one.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::codec::{Tap, archive_label, hex, open_archive, open_stream};
use super::entry::EntryKind;
use super::error::EngineError;
use super::manifest::FORMAT_VERSION;
use super::progress::{Cancel, Progress};
use super::summary::PackSummary;
use super::tar::TarReader;
use super::verify::{Hashing, read_contents};
use crate::spec::ArchiveFormat;

/// Counts, sizes and checksums of any archive this program can read.
///
/// # Errors
/// Everything that reading can find: damage, an unsupported feature, a file that is not there.
pub fn survey(
    path: &Path,
    format: ArchiveFormat,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<PackSummary, EngineError> {
    let archive = Archive::open(path, format)?;
    if let Some(index) = &archive.index {
        let contents = read_contents(&archive, index, None, progress, cancel)?;
        return Ok(PackSummary {
            format_version: FORMAT_VERSION,
            counts: contents.counts,
            source_bytes: contents.bytes,
            archive_bytes: contents.length,
            sha256: contents.sha256,
            content_digest: hex(&archive.index_hash),
            warnings: index.description.warnings.clone(),
            warning_count: index.description.warning_count,
        });
    }
    let file = open_archive(path)?;
    let report = |source| EngineError::Store { action: "reading", path: path.to_owned(), source };
    let tap = Tap::hashing();
    let stream = open_stream(file, format, &tap).map_err(report)?;
    let mut content = Hashing::new(stream);
    let label = archive_label(path);
    let mut reader = TarReader::new(&mut content, &label);
    let mut summary = PackSummary { format_version: 1, ..PackSummary::default() };
    let mut buffer = vec![0; 256 << 10];
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        summary.counts.add(entry.info.kind);
        summary.source_bytes = summary.source_bytes.saturating_add(entry.info.size);
        progress.advance(1, entry.info.size);
        if entry.info.kind == EntryKind::File {
            while reader.read_data(&mut buffer)? > 0 {
                cancel.check()?;
            }
        }
    }
    drop(reader);
    summary.content_digest = content.digest();
    summary.archive_bytes = tap.borrow().bytes;
    summary.sha256 = tap.borrow_mut().digest();
    Ok(summary)
}

/// SHA-256, in hex, and length of a file.
pub(super) fn file_digest(path: &Path, cancel: &Cancel) -> Result<(String, u64), EngineError> {
    let mut file = open_archive(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        cancel.check()?;
        let count = file.read(&mut buffer).map_err(|source| EngineError::Store {
            action: "reading",
            path: path.to_owned(),
            source,
        })?;
        if count == 0 {
            return Ok((hex(&hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
}
