//! Reads the compressed outside of any archive as one stream, whoever wrote it. Knows nothing of tar.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::error::EngineError;
use crate::spec::ArchiveFormat;

/// What passed through an archive's file handle so far.
#[derive(Default)]
pub(super) struct Tap {
    pub bytes: u64,
    sha256: Option<Sha256>,
}

impl Tap {
    /// A tap that only counts.
    pub(super) fn shared() -> Rc<RefCell<Self>> {
        Rc::default()
    }

    /// A tap that also computes the SHA-256 of the file.
    pub(super) fn hashing() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { bytes: 0, sha256: Some(Sha256::new()) }))
    }

    pub(super) fn digest(&mut self) -> String {
        hex(&self.sha256.take().unwrap_or_default().finalize())
    }
}

/// The file under a decoder, counted and hashed while it is read.
struct Tapped {
    file: File,
    tap: Rc<RefCell<Tap>>,
}

impl Read for Tapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let mut tap = self.tap.borrow_mut();
        tap.bytes += count as u64;
        if let Some(sha256) = &mut tap.sha256 {
            sha256.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// The tar stream of an archive file, decompressed while it is read.
pub(super) fn open_stream(
    file: File,
    format: ArchiveFormat,
    tap: &Rc<RefCell<Tap>>,
) -> io::Result<Box<dyn Read>> {
    let source = BufReader::with_capacity(256 << 10, Tapped { file, tap: Rc::clone(tap) });
    let decoder: Box<dyn Read> = match format {
        ArchiveFormat::TarGz => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        ArchiveFormat::TarZst => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        ArchiveFormat::Tar => return Ok(Box::new(source)),
    };
    Ok(Box::new(BufReader::with_capacity(256 << 10, decoder)))
}

/// The format of an archive file by its first bytes: gzip, zstd, or else a bare tar.
pub fn detect_format(path: &Path) -> Result<ArchiveFormat, EngineError> {
    let mut start = [0_u8; 4];
    let mut file = open_archive(path)?;
    let count = file.read(&mut start).map_err(|source| EngineError::Store {
        action: "reading",
        path: path.to_owned(),
        source,
    })?;
    Ok(match &start[..count] {
        [0x1f, 0x8b, ..] => ArchiveFormat::TarGz,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => ArchiveFormat::TarZst,
        _ => ArchiveFormat::Tar,
    })
}

/// Opens an archive for reading; what is missing is reported as missing.
pub(super) fn open_archive(path: &Path) -> Result<File, EngineError> {
    File::open(path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            return EngineError::Missing {
                name: archive_label(path),
                detail: format!("the archive file {} does not exist", path.display()),
            };
        }
        EngineError::Store { action: "opening", path: path.to_owned(), source }
    })
}

/// The name of an archive for messages: its file name.
pub(super) fn archive_label(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
