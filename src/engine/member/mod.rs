//! Members: the independently compressed pieces that an archive is cut into.
//!
//! Encodes and decodes one piece at a time, in memory, with nothing shared between pieces: that is
//! what lets every core work on its own. Knows nothing of tar, and does no file I/O.

mod gzip;
mod probe;

use std::io;

use crate::spec::ArchiveFormat;

pub(super) use gzip::{
    EMPTY_END, MEMBER_HEADER, MemberHeader, extra_member, may_hold, parse_extra_length,
    parse_member_header, read_without_header,
};
use probe::Probe;

/// Raw bytes in one gzip member, and in one piece of a bare tar.
const GZIP_LENGTH: usize = 1 << 20;
/// Raw bytes in one zstd frame: smaller frames cost ratio.
const ZSTD_LENGTH: usize = 4 << 20;
/// The most raw bytes that a reader accepts in one member: a piece, and the longest headers.
pub(super) const RAW_LIMIT: u64 = 16 << 20;
/// The most bytes that a member of [`RAW_LIMIT`] can have in an archive; both formats store what
/// cannot be compressed with less overhead than this.
pub(super) const PACKED_LIMIT: u64 = RAW_LIMIT + RAW_LIMIT / 64;

/// After how many raw bytes of one file a member ends; also the alignment of partial hashes.
pub(super) fn piece_length(format: ArchiveFormat) -> usize {
    match format {
        ArchiveFormat::TarGz | ArchiveFormat::Tar => GZIP_LENGTH,
        ArchiveFormat::TarZst => ZSTD_LENGTH,
    }
}

/// Where a member belongs in the tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset of its first byte in the uncompressed tar stream.
    pub offset: u64,
    /// Whether that byte begins an entry.
    pub begins_entry: bool,
}

enum Compressor {
    Gzip { level: libdeflater::Compressor, store: libdeflater::Compressor, probe: Box<Probe> },
    Zstd(zstd::bulk::Compressor<'static>),
    Bare,
}

/// Makes members out of pieces of the tar stream; one for each worker.
pub(super) struct Encoder {
    compressor: Compressor,
    scratch: Vec<u8>,
}

impl Encoder {
    /// `level` is clipped to what the format knows; without one gzip has 6 and zstd 3.
    pub(super) fn new(format: ArchiveFormat, level: Option<u8>) -> io::Result<Self> {
        let compressor = match format {
            ArchiveFormat::TarGz => {
                let level = i32::from(level.unwrap_or(6).clamp(1, 12));
                Compressor::Gzip {
                    level: deflate(level),
                    store: deflate(0),
                    probe: Box::new(Probe::new()),
                }
            }
            ArchiveFormat::TarZst => {
                let level = i32::from(level.unwrap_or(3).clamp(1, 19));
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                Compressor::Zstd(compressor)
            }
            ArchiveFormat::Tar => Compressor::Bare,
        };
        Ok(Self { compressor, scratch: Vec::new() })
    }

    /// Replaces `packed` by the member that holds `raw`; says whether it was only stored.
    pub(super) fn encode(
        &mut self,
        raw: &[u8],
        place: Place,
        packed: &mut Vec<u8>,
    ) -> io::Result<bool> {
        packed.clear();
        match &mut self.compressor {
            Compressor::Gzip { level, store, probe } => {
                let stored = probe.is_incompressible(raw);
                let compressor = if stored { store } else { level };
                let bound = compressor.deflate_compress_bound(raw.len());
                if self.scratch.len() < bound {
                    self.scratch.resize(bound, 0);
                }
                let length = compressor
                    .deflate_compress(raw, &mut self.scratch)
                    .map_err(|error| io::Error::other(format!("libdeflate: {error:?}")))?;
                gzip::write_member(raw, &self.scratch[..length], place, stored, packed)?;
                Ok(stored)
            }
            Compressor::Zstd(compressor) => {
                packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                compressor.compress_to_buffer(raw, packed)?;
                Ok(false)
            }
            Compressor::Bare => {
                packed.extend_from_slice(raw);
                Ok(true)
            }
        }
    }
}

fn deflate(level: i32) -> libdeflater::Compressor {
    libdeflater::Compressor::new(libdeflater::CompressionLvl::new(level).unwrap_or_default())
}

/// Takes members apart again; one for each worker.
pub(super) enum Decoder {
    Gzip(libdeflater::Decompressor),
    Zstd(zstd::bulk::Decompressor<'static>),
    Bare,
}

impl Decoder {
    pub(super) fn new(format: ArchiveFormat) -> io::Result<Self> {
        Ok(match format {
            ArchiveFormat::TarGz => Self::Gzip(libdeflater::Decompressor::new()),
            ArchiveFormat::TarZst => Self::Zstd(zstd::bulk::Decompressor::new()?),
            ArchiveFormat::Tar => Self::Bare,
        })
    }

    /// Fills `raw`, whose length is the announced one, from a member; the checksum in the member
    /// must be right.
    pub(super) fn decode(
        &mut self,
        packed: &[u8],
        place: Place,
        raw: &mut [u8],
    ) -> Result<(), String> {
        match self {
            Self::Gzip(decompressor) => gzip::read_member(decompressor, packed, place, raw),
            Self::Zstd(decompressor) => {
                if !packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                    return Err("it does not begin with a zstd frame".to_owned());
                }
                let wanted = raw.len();
                match decompressor.decompress_to_buffer(packed, raw) {
                    Ok(length) if length == wanted => Ok(()),
                    Ok(length) => Err(format!("it holds {length} bytes instead of {wanted}")),
                    Err(error) => Err(format!("it cannot be decompressed: {error}")),
                }
            }
            Self::Bare => {
                if packed.len() != raw.len() {
                    return Err("its length is not the announced one".to_owned());
                }
                raw.copy_from_slice(packed);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [ArchiveFormat; 3] =
        [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar];

    /// Bytes without any pattern, the same in every run.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn members_read_back_and_prove_themselves() {
        let text = b"some text that repeats itself; ".repeat(10_000);
        for format in FORMATS {
            let mut encoder = Encoder::new(format, None).unwrap();
            let mut decoder = Decoder::new(format).unwrap();
            for raw in [&text[..], &noise(300_000), b"x", b""] {
                let place = Place { offset: 1536, begins_entry: true };
                let mut packed = Vec::new();
                encoder.encode(raw, place, &mut packed).unwrap();
                let mut out = vec![1; raw.len()];
                decoder.decode(&packed, place, &mut out).unwrap();
                assert_eq!(out, raw);
                assert!(packed.len() as u64 <= PACKED_LIMIT);
                if format == ArchiveFormat::Tar {
                    continue;
                }
                // The raw data is proved by the member's own checksum, the place by its header.
                for at in 0..packed.len().min(400) {
                    let mut broken = packed.clone();
                    broken[at] ^= 0x10;
                    let result = decoder.decode(&broken, place, &mut out);
                    assert!(result.is_err() || out == raw, "{format:?}: byte {at}");
                }
                for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
                    assert!(decoder.decode(&packed[..cut], place, &mut out).is_err());
                }
                let mut longer = vec![0; raw.len() + 1];
                assert!(decoder.decode(&packed, place, &mut longer).is_err());
            }
        }
    }

    #[test]
    fn what_cannot_be_compressed_is_stored_and_only_that() {
        let mut encoder = Encoder::new(ArchiveFormat::TarGz, Some(6)).unwrap();
        let place = Place { offset: 0, begins_entry: false };
        let mut packed = Vec::new();
        let random = noise(1 << 20);
        for _ in 0..20 {
            assert!(encoder.encode(&random, place, &mut packed).unwrap());
            assert!(packed.len() < random.len() + random.len() / 4000);
        }
        let text = b"0123456789abcdef".repeat(1 << 16);
        assert!(!encoder.encode(&text, place, &mut packed).unwrap());
        assert!(packed.len() < text.len() / 50);
        // Base64 has little entropy to spare and still compresses by a quarter.
        let coded: Vec<u8> = random.iter().map(|byte| b'0' + (byte & 63)).collect();
        assert!(!encoder.encode(&coded, place, &mut packed).unwrap());
    }
}
