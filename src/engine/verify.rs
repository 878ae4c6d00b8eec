//! Reads an archive back and compares it with its manifest.

use std::io::{Read, Seek, SeekFrom};

use super::codec::{GZIP_MEMBER, Tap, hex, open_archive, open_stream};
use super::entry::EntryKind;
use super::error::EngineError;
use super::manifest::Manifest;
use super::progress::{Cancel, Progress};
use super::store::LocalStore;
use super::summary::Counts;
use super::tar::TarReader;
use crate::failpoint;
use crate::spec::{ArchiveFormat, VerifyMode};

/// Verifies an archive of the store and returns its manifest, unchanged.
///
/// `Full` reads every byte: size and SHA-256 of the file, decompression, the structure of the tar,
/// BLAKE3 of the stream, counts and sizes, all against the manifest, which proves itself by its
/// digest. `Quick` checks the manifest, the size and the first and last bytes.
pub fn verify(
    store: &LocalStore,
    name: &str,
    mode: VerifyMode,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Manifest, EngineError> {
    failpoint::hit("verify.started");
    let manifest = store.read_manifest(name)?;
    let path = store.archive_path(name);
    let mut file = open_archive(&path)?;
    let report = |source| EngineError::Store { action: "reading", path: path.clone(), source };
    let size = file.metadata().map_err(report)?.len();
    if size != manifest.size_bytes {
        let detail = format!("it has {size} bytes, its manifest says {}", manifest.size_bytes);
        return Err(EngineError::damaged(name, detail));
    }
    if mode == VerifyMode::Quick {
        quick(&mut file, &manifest)
            .map_err(report)?
            .map_or(Ok(()), |detail| Err(EngineError::damaged(name, detail)))?;
        return Ok(manifest);
    }

    progress.phase("verify");
    progress.total(manifest.counts.entries, manifest.source_bytes);
    let tap = Tap::hashing();
    let stream = open_stream(file, manifest.format, &tap).map_err(report)?;
    let mut content = Hashing::new(stream);
    let mut reader = TarReader::new(&mut content, name);
    let mut counts = Counts::default();
    let mut bytes = 0_u64;
    let mut buffer = vec![0; 256 << 10];
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        counts.add(entry.info.kind);
        bytes = bytes.saturating_add(entry.info.size);
        progress.advance(1, entry.info.size);
        // Without this a small file could keep the decompressor busy for hours.
        if counts.entries > manifest.counts.entries || bytes > manifest.source_bytes {
            let detail = "it holds more entries or bytes than its manifest says";
            return Err(EngineError::damaged(name, detail));
        }
        if counts.entries == 1 {
            failpoint::hit("verify.middle");
        }
        if entry.info.kind == EntryKind::File {
            while reader.read_data(&mut buffer)? > 0 {
                cancel.check()?;
            }
        }
    }
    let found = content.digest();
    let sha256 = tap.borrow_mut().digest();
    let mismatch = if tap.borrow().bytes != size {
        Some("there are bytes after the end of its compressed data".to_owned())
    } else if found != manifest.content_digest {
        Some("the BLAKE3 digest of its contents is not that of the manifest".to_owned())
    } else if sha256 != manifest.sha256 {
        Some(format!("its SHA-256 is {sha256}, its manifest says {}", manifest.sha256))
    } else if counts != manifest.counts {
        Some(format!("it holds {counts:?}, its manifest says {:?}", manifest.counts))
    } else if bytes != manifest.source_bytes {
        Some(format!("its files have {bytes} bytes, its manifest says {}", manifest.source_bytes))
    } else {
        None
    };
    match mismatch {
        Some(detail) => Err(EngineError::damaged(name, detail)),
        None => Ok(manifest),
    }
}

/// What is wrong with the first or last bytes.
fn quick(file: &mut std::fs::File, manifest: &Manifest) -> std::io::Result<Option<String>> {
    let mut start = [0_u8; 4];
    let mut end = [0_u8; 4];
    if manifest.size_bytes < 8 {
        return Ok(Some("it is too short for an archive".to_owned()));
    }
    file.read_exact(&mut start)?;
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut end)?;
    let right = match manifest.format {
        // The last four bytes of a gzip member are its raw length.
        ArchiveFormat::TarGz => {
            start[..3] == [0x1f, 0x8b, 8]
                && usize::try_from(u32::from_le_bytes(end)).is_ok_and(|raw| raw <= GZIP_MEMBER)
        }
        ArchiveFormat::TarZst => start == [0x28, 0xb5, 0x2f, 0xfd],
        ArchiveFormat::Tar => end == [0; 4],
    };
    Ok((!right).then(|| "its first or last bytes are not those of its format".to_owned()))
}

/// Hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    /// BLAKE3, in hex, of everything that was read so far.
    pub(super) fn digest(&self) -> String {
        hex(self.hasher.finalize().as_bytes())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
