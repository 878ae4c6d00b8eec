//! How index and footer lie behind the tar stream, so that no other program sees them.
//!
//! gzip: empty members with an extra field. zstd: skippable frames, and last the table of the
//! seekable format (zstd's `contrib/seekable_format`). Bare tar: behind the end blocks, filled up to
//! whole blocks.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::Member;
use super::footer::{BadFooter, FOOTER, Footer};
use crate::engine::member::{EMPTY_END, extra_member};
use crate::engine::tar::BLOCK;
use crate::spec::ArchiveFormat;

/// Bytes of the index in one empty gzip member.
const FRAGMENT: usize = 65_000;
/// Bytes before the payload of an empty gzip member.
const EXTRA_HEADER: usize = 16;
const GZIP_FOOTER: usize = EXTRA_HEADER + FOOTER + EMPTY_END.len();
/// Skippable frames (RFC 8878, 3.1.2): the index, and the footer.
const INDEX_FRAME: u32 = 0x184d_2a50;
const FOOTER_FRAME: u32 = 0x184d_2a51;
/// The seekable format: its table is a skippable frame, and the file's last bytes.
const TABLE_FRAME: u32 = 0x184d_2a5e;
const TABLE_MAGIC: u32 = 0x8f92_eab1;
const TABLE_END: usize = 9;
/// Bytes of the index in one skippable frame.
const FRAME_PAYLOAD: usize = 1 << 30;
const FRAME_HEADER: usize = 8;
/// The most frames that the table of the seekable format may list.
const TABLE_LIMIT: usize = 0x0800_0000;

/// Writes index and footer after the members, which end at `offset` of the file.
pub(in crate::engine) fn write_tail(
    output: &mut dyn Write,
    format: ArchiveFormat,
    offset: u64,
    payload: &[u8],
    members: &[Member],
) -> io::Result<()> {
    let mut footer = Footer {
        offset,
        length: 0,
        payload: payload.len() as u64,
        hash: *blake3::hash(payload).as_bytes(),
    };
    let mut frame = Vec::new();
    match format {
        ArchiveFormat::TarGz => {
            for fragment in payload.chunks(FRAGMENT) {
                frame.clear();
                extra_member(b'I', fragment, &mut frame)?;
                output.write_all(&frame)?;
                footer.length += frame.len() as u64;
            }
            frame.clear();
            extra_member(b'F', &footer.encode(), &mut frame)?;
            output.write_all(&frame)
        }
        ArchiveFormat::TarZst => {
            let mut table: Vec<(u64, u64)> = members.iter().map(|m| (m.packed, m.raw)).collect();
            for fragment in payload.chunks(FRAME_PAYLOAD) {
                output.write_all(&frame_header(INDEX_FRAME, fragment.len())?)?;
                output.write_all(fragment)?;
                let length = (FRAME_HEADER + fragment.len()) as u64;
                footer.length += length;
                table.push((length, 0));
            }
            output.write_all(&frame_header(FOOTER_FRAME, FOOTER)?)?;
            output.write_all(&footer.encode())?;
            table.push(((FRAME_HEADER + FOOTER) as u64, 0));
            write_table(output, &table)
        }
        ArchiveFormat::Tar => {
            let fill = (payload.len() + FOOTER).next_multiple_of(BLOCK) - FOOTER - payload.len();
            output.write_all(payload)?;
            output.write_all(&vec![0; fill])?;
            footer.length = (payload.len() + fill) as u64;
            output.write_all(&footer.encode())
        }
    }
}

fn frame_header(magic: u32, length: usize) -> io::Result<[u8; FRAME_HEADER]> {
    let length = u32::try_from(length).map_err(io::Error::other)?;
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&magic.to_le_bytes());
    header[4..].copy_from_slice(&length.to_le_bytes());
    Ok(header)
}

fn write_table(output: &mut dyn Write, table: &[(u64, u64)]) -> io::Result<()> {
    let count = u32::try_from(table.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(FRAME_HEADER + 8 * table.len() + TABLE_END);
    bytes.extend_from_slice(&frame_header(TABLE_FRAME, 8 * table.len() + TABLE_END)?);
    for (packed, raw) in table {
        for length in [packed, raw] {
            let length = u32::try_from(*length).map_err(io::Error::other)?;
            bytes.extend_from_slice(&length.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&count.to_le_bytes());
    // No reserved bit, no checksums: the frames have their own.
    bytes.push(0);
    bytes.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
    output.write_all(&bytes)
}

/// The table of the seekable format at the end of a file, which tells where frames are that do not tell themselves.
pub(in crate::engine) struct FrameTable {
    lengths: Vec<u8>,
    /// The frame that was looked at last, and where it is in the file.
    here: (usize, u64),
}

impl FrameTable {
    /// The most bytes that are read: terabytes of frames.
    const LIMIT: u64 = 16 << 20;

    /// Nothing where there is none, or its frames are not what lies before it.
    pub(in crate::engine) fn read(file: &File, size: u64) -> io::Result<Option<Self>> {
        let fixed = (FRAME_HEADER + TABLE_END) as u64;
        if size < fixed {
            return Ok(None);
        }
        let mut end = [0; TABLE_END];
        file.read_exact_at(&mut end, size - TABLE_END as u64)?;
        let count = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
        let length = 8 * u64::from(count);
        if end[4] != 0 || end[5..] != TABLE_MAGIC.to_le_bytes() {
            return Ok(None);
        }
        let Some(before) = size.checked_sub(fixed + length).filter(|_| length <= Self::LIMIT)
        else {
            return Ok(None);
        };
        let mut lengths = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut lengths, before + FRAME_HEADER as u64)?;
        let packed: u64 = lengths.chunks_exact(8).map(|frame| pair(frame).0).sum();
        Ok((packed == before).then_some(Self { lengths, here: (0, 0) }))
    }

    /// The lengths of the frame that begins here, packed and raw. Whoever goes forward is served quickly.
    pub(in crate::engine) fn at(&mut self, place: u64) -> Option<(u64, u64)> {
        if self.here.1 > place {
            self.here = (0, 0);
        }
        for frame in self.lengths.chunks_exact(8).skip(self.here.0) {
            let (packed, raw) = pair(frame);
            if self.here.1 >= place {
                return (self.here.1 == place).then_some((packed, raw));
            }
            self.here = (self.here.0 + 1, self.here.1 + packed);
        }
        None
    }
}

/// Two lengths of a table.
fn pair(frame: &[u8]) -> (u64, u64) {
    let length = |from: usize| {
        frame[from..from + 4].iter().rev().fold(0, |length, byte| length << 8 | u64::from(*byte))
    };
    (length(0), length(4))
}

/// Why the tail of a file cannot be used.
#[derive(Debug)]
pub(in crate::engine) enum TailError {
    /// There is no index.
    None,
    /// A later version.
    Newer(u64),
    /// What is wrong, in half a sentence.
    Damaged(&'static str),
    /// The system's error.
    Read(io::Error),
}

impl From<BadFooter> for TailError {
    fn from(bad: BadFooter) -> Self {
        match bad {
            BadFooter::None => Self::None,
            BadFooter::Newer(version) => Self::Newer(version),
            BadFooter::Damaged => Self::Damaged("its footer is damaged"),
        }
    }
}

/// The footer of a file of `size` bytes.
pub(in crate::engine) fn read_footer(
    file: &File,
    size: u64,
    format: ArchiveFormat,
) -> Result<Footer, TailError> {
    let read = |position: Option<u64>, length: usize| -> Result<Vec<u8>, TailError> {
        let position = position.ok_or(TailError::None)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, position).map_err(TailError::Read)?;
        Ok(bytes)
    };
    match format {
        ArchiveFormat::TarGz => {
            let position = size.checked_sub(GZIP_FOOTER as u64);
            let bytes = read(position, GZIP_FOOTER)?;
            let payload = &bytes[EXTRA_HEADER..EXTRA_HEADER + FOOTER];
            let footer = Footer::decode(payload, position.unwrap_or(0))?;
            let mut expected = Vec::new();
            extra_member(b'F', payload, &mut expected).map_err(TailError::Read)?;
            if bytes == expected {
                Ok(footer)
            } else {
                Err(TailError::Damaged("the frame of its footer is damaged"))
            }
        }
        ArchiveFormat::TarZst => {
            let end = read(size.checked_sub(TABLE_END as u64), TABLE_END)?;
            if end[5..] != TABLE_MAGIC.to_le_bytes() {
                return Err(TailError::None);
            }
            let count = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize;
            if end[4] != 0 || count > TABLE_LIMIT {
                return Err(TailError::None);
            }
            let table = (FRAME_HEADER + 8 * count + TABLE_END) as u64;
            let position = size
                .checked_sub(table)
                .and_then(|position| position.checked_sub((FRAME_HEADER + FOOTER) as u64));
            let bytes = read(position, FRAME_HEADER + FOOTER)?;
            let footer = Footer::decode(&bytes[FRAME_HEADER..], position.unwrap_or(0))?;
            let expected = frame_header(FOOTER_FRAME, FOOTER).map_err(TailError::Read)?;
            if bytes[..FRAME_HEADER] == expected {
                Ok(footer)
            } else {
                Err(TailError::Damaged("the frame of its footer is damaged"))
            }
        }
        ArchiveFormat::Tar => {
            let position = size.checked_sub(FOOTER as u64);
            let bytes = read(position, FOOTER)?;
            Ok(Footer::decode(&bytes, position.unwrap_or(0))?)
        }
    }
}

/// The index that a footer points at, without what frames it; its hash has been compared.
pub(in crate::engine) fn read_payload(
    file: &File,
    footer: &Footer,
    format: ArchiveFormat,
) -> Result<Vec<u8>, TailError> {
    let damaged = TailError::Damaged("the frames of its index are damaged");
    let too_long = |_| TailError::Damaged("its index is too long for this machine");
    let length = usize::try_from(footer.length).map_err(too_long)?;
    let wanted = usize::try_from(footer.payload).map_err(too_long)?;
    // What a footer announces is there, or memory would be taken for nothing.
    let size = file.metadata().map_err(TailError::Read)?.len();
    if footer.offset.checked_add(footer.length).is_none_or(|end| end > size) {
        return Err(TailError::Damaged("its footer points outside of it"));
    }
    let mut payload = Vec::with_capacity(wanted);
    let mut buffer = [0; EXTRA_HEADER];
    let mut at = 0;
    while at < length {
        let here = footer.offset + at as u64;
        let fragment = match format {
            ArchiveFormat::TarGz => {
                let header = &mut buffer[..EXTRA_HEADER];
                file.read_exact_at(header, here).map_err(TailError::Read)?;
                let fragment = usize::from(u16::from_le_bytes([header[14], header[15]]));
                let mut expected = Vec::new();
                extra_member(b'I', &[], &mut expected).map_err(TailError::Read)?;
                expected[10..12].copy_from_slice(&u16_of(fragment + 4));
                expected[14..16].copy_from_slice(&u16_of(fragment));
                if buffer[..EXTRA_HEADER] != expected[..EXTRA_HEADER] {
                    return Err(damaged);
                }
                let mut end = [0; EMPTY_END.len()];
                let after = here + (EXTRA_HEADER + fragment) as u64;
                file.read_exact_at(&mut end, after).map_err(TailError::Read)?;
                if end != EMPTY_END {
                    return Err(damaged);
                }
                at += EXTRA_HEADER + fragment + EMPTY_END.len();
                (here + EXTRA_HEADER as u64, fragment)
            }
            ArchiveFormat::TarZst => {
                let header = &mut buffer[..FRAME_HEADER];
                file.read_exact_at(header, here).map_err(TailError::Read)?;
                let fragment =
                    u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
                if buffer[..4] != INDEX_FRAME.to_le_bytes() {
                    return Err(damaged);
                }
                at += FRAME_HEADER + fragment;
                (here + FRAME_HEADER as u64, fragment)
            }
            ArchiveFormat::Tar => {
                let mut fill = vec![0; length.saturating_sub(wanted).min(BLOCK)];
                file.read_exact_at(&mut fill, here + footer.payload).map_err(TailError::Read)?;
                if length - wanted >= BLOCK || fill.iter().any(|byte| *byte != 0) {
                    return Err(damaged);
                }
                at = length;
                (here, wanted)
            }
        };
        if at > length || fragment.1 > wanted - payload.len() {
            return Err(damaged);
        }
        let start = payload.len();
        payload.resize(start + fragment.1, 0);
        file.read_exact_at(&mut payload[start..], fragment.0).map_err(TailError::Read)?;
    }
    if payload.len() != wanted {
        return Err(damaged);
    }
    if *blake3::hash(&payload).as_bytes() != footer.hash {
        return Err(TailError::Damaged("its index does not match its footer"));
    }
    Ok(payload)
}

fn u16_of(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes()
}
