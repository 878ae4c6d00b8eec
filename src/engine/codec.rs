//! The compressed outside of an archive: independent gzip members or zstd frames, and back.
//!
//! Writing cuts the tar stream into members of a fixed raw length, compresses each on its own and
//! hashes both sides. Members are independent, so that a later parallel writer or reader changes
//! nothing in the format; an index would follow the last member. Knows nothing of tar.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::error::EngineError;
use crate::spec::ArchiveFormat;

/// Raw bytes in one gzip member, or in one write of a bare tar.
pub(super) const GZIP_MEMBER: usize = 1 << 20;
/// Raw bytes in one zstd frame: smaller frames cost ratio.
const ZSTD_FRAME: usize = 4 << 20;
/// What was written, once the last member is out.
pub(super) struct Written {
    pub archive_bytes: u64,
    pub sha256: String,
    pub content_digest: String,
}

enum Compressor {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
    Store,
}

/// Takes the tar stream and writes members to `output`.
pub(super) struct MemberWriter<W> {
    output: W,
    compressor: Compressor,
    raw: Vec<u8>,
    limit: usize,
    packed: Vec<u8>,
    archive_bytes: u64,
    sha256: Sha256,
    content: blake3::Hasher,
}

impl<W: Write> MemberWriter<W> {
    /// `level` is clipped to what the format knows; without one gzip has 6 and zstd 3.
    pub(super) fn new(output: W, format: ArchiveFormat, level: Option<u8>) -> io::Result<Self> {
        let (compressor, limit) = match format {
            ArchiveFormat::TarGz => {
                let level = i32::from(level.unwrap_or(6).clamp(1, 12));
                let level = libdeflater::CompressionLvl::new(level).unwrap_or_default();
                (Compressor::Gzip(libdeflater::Compressor::new(level)), GZIP_MEMBER)
            }
            ArchiveFormat::TarZst => {
                let level = i32::from(level.unwrap_or(3).clamp(1, 19));
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                (Compressor::Zstd(compressor), ZSTD_FRAME)
            }
            ArchiveFormat::Tar => (Compressor::Store, GZIP_MEMBER),
        };
        Ok(Self {
            output,
            compressor,
            raw: Vec::with_capacity(limit),
            limit,
            packed: Vec::new(),
            archive_bytes: 0,
            sha256: Sha256::new(),
            content: blake3::Hasher::new(),
        })
    }

    /// Adds to the tar stream.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.limit - self.raw.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.raw.extend_from_slice(now);
            bytes = later;
            if self.raw.len() == self.limit {
                self.end_member()?;
            }
        }
        Ok(())
    }

    /// Writes the last member.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        if !self.raw.is_empty() {
            self.end_member()?;
        }
        self.output.flush()?;
        Ok(Written {
            archive_bytes: self.archive_bytes,
            sha256: hex(&self.sha256.finalize()),
            content_digest: self.content.finalize().to_hex().to_string(),
        })
    }

    fn end_member(&mut self) -> io::Result<()> {
        self.content.update(&self.raw);
        let packed = match &mut self.compressor {
            Compressor::Gzip(compressor) => {
                gzip_member(compressor, &self.raw, &mut self.packed)?;
                &self.packed
            }
            Compressor::Zstd(compressor) => {
                self.packed.resize(zstd::zstd_safe::compress_bound(self.raw.len()), 0);
                let length = compressor.compress_to_buffer(&self.raw, &mut self.packed[..])?;
                self.packed.truncate(length);
                &self.packed
            }
            Compressor::Store => &self.raw,
        };
        self.sha256.update(packed);
        self.output.write_all(packed)?;
        let first = self.archive_bytes == 0;
        self.archive_bytes += packed.len() as u64;
        self.raw.clear();
        if first {
            crate::failpoint::hit("archive.middle");
        }
        Ok(())
    }
}

/// One member of RFC 1952: fixed header without time or name, deflate data, CRC-32, length.
fn gzip_member(
    compressor: &mut libdeflater::Compressor,
    raw: &[u8],
    packed: &mut Vec<u8>,
) -> io::Result<()> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    packed.clear();
    packed.extend_from_slice(&HEADER);
    packed.resize(HEADER.len() + compressor.deflate_compress_bound(raw.len()), 0);
    let length = compressor
        .deflate_compress(raw, &mut packed[HEADER.len()..])
        .map_err(|error| io::Error::other(format!("libdeflate: {error:?}")))?;
    packed.truncate(HEADER.len() + length);
    packed.extend_from_slice(&libdeflater::crc32(raw).to_le_bytes());
    let raw_length = u32::try_from(raw.len()).map_err(io::Error::other)?;
    packed.extend_from_slice(&raw_length.to_le_bytes());
    Ok(())
}

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
