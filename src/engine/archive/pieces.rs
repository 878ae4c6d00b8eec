//! The pieces of a damaged archive: read by what they say of themselves, followed by their lengths, searched for
//! where nothing says where they are.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::END;
use super::salvage::{Origin, Start, Stop};
use crate::engine::error::EngineError;
use crate::engine::index::frame::FrameTable;
use crate::engine::member::{
    Decoder, MEMBER_HEADER, MemberHeader, PACKED_LIMIT, Place, RAW_LIMIT, may_hold,
    parse_extra_length, parse_member_header, piece_length, read_without_header,
};
use crate::engine::tar::{Announced, BLOCK, EXTENDED_LIMIT, Halt, TarReader, announced, is_header};
use crate::spec::ArchiveFormat;

const WINDOW: usize = 1 << 20;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Length of the footer.
const FOOTER: usize = 76;
/// Bytes of a zstd frame around its blocks, at most.
const FRAMING: u64 = 64;
/// Headers that describe one entry, at most.
const EXTENSIONS: usize = 4;

/// The pieces of a file: members, frames, or of a bare tar any bytes.
pub(super) struct Pieces<'a> {
    file: &'a File,
    format: ArchiveFormat,
    size: u64,
    decoder: Decoder,
    packed: Vec<u8>,
    table: Option<FrameTable>,
    /// The last place that is known to belong to this archive, in the file and in the tar stream.
    anchor: (u64, u64),
}

/// What a piece says of itself.
struct Described {
    packed: u64,
    raw: u64,
    /// Whether it begins with an entry, where it says so.
    begins_entry: Option<bool>,
}

/// What the members from one on lead to.
enum Chain {
    /// The end of this archive.
    End,
    /// The end of another one, here.
    Other(u64),
    /// Nothing that tells.
    Nothing,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(file: &'a File, format: ArchiveFormat) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let table = match format {
            ArchiveFormat::TarZst => FrameTable::read(file, size)?,
            _ => None,
        };
        let decoder = Decoder::new(format)?;
        Ok(Self { file, format, size, decoder, packed: Vec::new(), table, anchor: (0, 0) })
    }

    /// Where reading begins.
    pub(super) fn beginning(&self) -> io::Result<Stop> {
        let is_damaged_tar = self.format == ArchiveFormat::Tar && !self.goes_on(0)?;
        let next = if is_damaged_tar { self.behind(0, None)? } else { Some(0) };
        Ok(Stop { at: 0, offset: 0, next, is_sure: !is_damaged_tar, origin: Origin::Own })
    }

    /// Where reading goes on.
    pub(super) fn after(
        &mut self,
        stop: &Stop,
        check: &dyn Fn() -> Result<(), EngineError>,
    ) -> io::Result<Option<Start>> {
        let (at, offset) = match self.follow(stop, check)? {
            Ok(start) => return Ok(Some(start)),
            Err(place) => place,
        };
        if stop.origin == Origin::Own {
            self.anchor = (at, offset);
        }
        self.scan(at, offset, check)
    }

    /// Where reading of a bare tar has ended, and where its lengths lead from there.
    pub(super) fn stop(&self, halt: &Halt, origin: Origin) -> io::Result<Stop> {
        // On at the block after the one that could not be read, or behind end blocks that are not the last.
        let at = halt.end.unwrap_or(halt.position.next_multiple_of(BLOCK as u64));
        let is_sure = halt.next.is_some();
        let next = match (halt.end, halt.next) {
            (Some(_), _) => None,
            (None, Some(next)) => Some(next),
            (None, None) => self.behind(halt.header, halt.size)?,
        };
        Ok(Stop { at, offset: at, next, is_sure, origin })
    }

    /// Whether nothing of this archive can follow its end blocks here.
    pub(super) fn is_end(&self, mut at: u64) -> io::Result<bool> {
        if self.format != ArchiveFormat::Tar {
            return Ok(true);
        }
        if self.is_index(at)? {
            return Ok(true);
        }
        let mut buffer = vec![0; WINDOW];
        // Blocks of zeros within a tar are no end: they may be what was written over it.
        loop {
            let found = self.bytes(at, &mut buffer)?;
            if found.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if found.is_empty() {
                return Ok(true);
            }
            at += found.len() as u64;
        }
    }

    /// Reads the piece at a place in the file, which belongs to a place in the tar stream, into `raw`. Returns where
    /// the next one is; nothing if it is not whole.
    pub(super) fn read(
        &mut self,
        at: u64,
        offset: u64,
        raw: &mut Vec<u8>,
    ) -> io::Result<Option<u64>> {
        if self.format == ArchiveFormat::Tar {
            raw.resize(WINDOW, 0);
            let length = self.bytes(at, raw)?.len();
            raw.truncate(length);
            return Ok((length > 0).then_some(at + length as u64));
        }
        let described = self.describe(at, offset)?;
        if let Some(Described { packed, raw: length, .. }) = described
            && self.decode(at, Place { offset, begins_entry: false }, packed, length, raw)?
        {
            return Ok(Some(at + packed));
        }
        if self.format != ArchiveFormat::TarGz {
            return Ok(None);
        }
        // The header alone may be damaged.
        self.fill(at, PACKED_LIMIT)?;
        Ok(read_without_header(&self.packed, raw).map(|length| at + length as u64))
    }

    fn decode(
        &mut self,
        at: u64,
        mut place: Place,
        packed: u64,
        length: u64,
        raw: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.fill(at, packed)?;
        if let Some(header) = parse_member_header(&self.packed) {
            place.begins_entry = header.place.begins_entry;
        }
        raw.clear();
        raw.resize(usize::try_from(length).unwrap_or(0), 0);
        Ok(self.packed.len() as u64 == packed
            && self.decoder.decode(&self.packed, place, raw).is_ok())
    }

    /// The lengths of the piece at a place, and where the next one begins by them.
    fn describe(&mut self, at: u64, offset: u64) -> io::Result<Option<Described>> {
        let described = if self.format == ArchiveFormat::TarGz {
            self.member(at)?.filter(|header| header.place.offset == offset).map(|header| {
                Described {
                    packed: header.packed.into(),
                    raw: header.raw.into(),
                    begins_entry: Some(header.place.begins_entry),
                }
            })
        } else {
            let lengths = match self.frame(at)? {
                None => self.table.as_mut().and_then(|table| table.at(at)),
                lengths => lengths,
            };
            lengths.map(|(packed, raw)| Described { packed, raw, begins_entry: None })
        };
        Ok(described.filter(|piece| {
            (1..=PACKED_LIMIT.min(self.size.saturating_sub(at))).contains(&piece.packed)
                && (1..=RAW_LIMIT).contains(&piece.raw)
        }))
    }

    /// The header of a gzip member.
    fn member(&self, at: u64) -> io::Result<Option<MemberHeader>> {
        let mut start = [0; MEMBER_HEADER];
        Ok(parse_member_header(self.bytes(at, &mut start)?))
    }

    /// The lengths of a zstd frame, packed and raw, as the frame itself tells them.
    fn frame(&mut self, at: u64) -> io::Result<Option<(u64, u64)>> {
        let mut start = [0; 64];
        let start = self.bytes(at, &mut start)?;
        if !start.starts_with(&ZSTD_MAGIC) {
            return Ok(None);
        }
        let raw = zstd::zstd_safe::get_frame_content_size(start).ok().flatten();
        let Some(raw) = raw.filter(|raw| *raw <= RAW_LIMIT) else { return Ok(None) };
        // No more than it can have: a file in the archive may hold any number of small frames.
        let bound = zstd::zstd_safe::compress_bound(usize::try_from(raw).unwrap_or(0));
        self.fill(at, bound as u64 + FRAMING)?;
        let packed = zstd::zstd_safe::find_frame_compressed_size(&self.packed).ok();
        Ok(packed.map(|packed| (packed as u64, raw)))
    }

    /// Goes on by lengths alone; where they lead no further is the error.
    #[allow(clippy::type_complexity)]
    fn follow(
        &mut self,
        stop: &Stop,
        check: &dyn Fn() -> Result<(), EngineError>,
    ) -> io::Result<Result<Start, (u64, u64)>> {
        let &Stop { mut at, mut offset, mut next, origin, is_sure } = stop;
        if self.format == ArchiveFormat::Tar {
            // What leads over a damaged header may be what is damaged in it.
            if let Some(place) = next
                && self.goes_on(place)?
                && (is_sure || self.leads_to_end(place, check)?)
            {
                return Ok(Ok(Start { at: place, offset: place, origin }));
            }
            return Ok(Err((at, offset)));
        }
        let mut raw = Vec::new();
        loop {
            check().map_err(io::Error::other)?;
            // A frame does not say whether it begins with an entry.
            let is_lost = next.is_none_or(|next| next < offset);
            if is_lost && self.format == ArchiveFormat::TarZst {
                return Ok(Err((at, offset)));
            }
            let described = self.describe(at, offset)?;
            let begins = described.as_ref().and_then(|piece| piece.begins_entry);
            let begins = begins.unwrap_or(next == Some(offset));
            let (behind, length) = match described {
                Some(Described { packed, raw, .. }) if !begins => (at + packed, raw),
                described => match (self.read(at, offset, &mut raw)?, described) {
                    (Some(_), _) if begins && is_header(&raw) => {
                        return Ok(Ok(Start { at, offset, origin }));
                    }
                    (Some(behind), _) => (behind, raw.len() as u64),
                    (None, Some(piece)) => (at + piece.packed, piece.raw),
                    (None, None) => return Ok(Err((at, offset))),
                },
            };
            if next == Some(offset) {
                next = self.next_header(at, offset, length)?;
            }
            at = behind;
            offset += length;
        }
    }

    /// Where the next header belongs behind a damaged piece that begins with one.
    fn next_header(&self, at: u64, offset: u64, length: u64) -> io::Result<Option<u64>> {
        // Only a file that begins a piece of its own reaches out of it, and such a piece is longer by its header.
        if length <= piece_length(self.format) as u64 {
            return Ok(Some(offset + length));
        }
        if self.format != ArchiveFormat::TarZst {
            return Ok(None);
        }
        let mut packed = vec![0; 2 * WINDOW];
        let packed = self.bytes(at, &mut packed)?;
        // However much there is before the damage: headers prove themselves.
        let mut start = Vec::new();
        if let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(packed) {
            let _ = decoder.take(2 * EXTENDED_LIMIT).read_to_end(&mut start);
        }
        let mut reader = TarReader::at(&start[..], "", offset);
        let header = reader.next_entry();
        Ok(header.ok().flatten().and_then(|_| reader.halt().next))
    }

    /// Whether a bare tar goes on here: with a header, or with its end.
    fn goes_on(&self, at: u64) -> io::Result<bool> {
        let mut blocks = [1; 2 * BLOCK];
        let blocks = self.bytes(at, &mut blocks)?;
        let is_end = blocks.len() as u64 == END && blocks.iter().all(|byte| *byte == 0);
        Ok(is_header(blocks) || is_end)
    }

    /// What the block at a place of a bare tar says of what follows it.
    fn announced(&self, at: u64) -> io::Result<Option<Announced>> {
        let mut block = [0; BLOCK];
        if self.bytes(at, &mut block)?.len() < BLOCK {
            return Ok(None);
        }
        let known = announced(&block, &[]);
        if is_header(&block) && known.is_some_and(|known| !known.describes_next) {
            return Ok(known);
        }
        let length = known.map_or(0, |known| known.size.min(2 * EXTENDED_LIMIT));
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        Ok(announced(&block, self.bytes(at + BLOCK as u64, &mut data)?))
    }

    /// Where the next entry of a bare tar begins behind a header, also behind a damaged one if what that says is true.
    fn behind(&self, mut at: u64, mut size: Option<u64>) -> io::Result<Option<u64>> {
        for _ in 0..EXTENSIONS {
            let Some(Announced { size: own, describes_next, next_size }) = self.announced(at)?
            else {
                break;
            };
            let length = if describes_next { own } else { size.unwrap_or(own) };
            let next = length
                .checked_next_multiple_of(BLOCK as u64)
                .and_then(|length| length.checked_add(at + BLOCK as u64));
            let Some(next) = next.filter(|next| *next <= self.size) else { break };
            if !describes_next {
                return Ok(Some(next));
            }
            // Without its description an entry is not what it was.
            (at, size) = (next, next_size.or(size));
        }
        Ok(None)
    }

    /// Whether the sizes in headers lead from here to the end of the archive: behind the end of another one that is a
    /// file in it there is neither index nor the end of the file.
    fn leads_to_end(
        &self,
        mut at: u64,
        check: &dyn Fn() -> Result<(), EngineError>,
    ) -> io::Result<bool> {
        while self.goes_on(at)? {
            check().map_err(io::Error::other)?;
            let mut block = [1; BLOCK];
            if *self.bytes(at, &mut block)? == [0; BLOCK] {
                return Ok(at + END == self.size || self.is_index(at + END)?);
            }
            // Damage further on is led over in the same manner.
            let Some(mut next) = self.behind(at, None)? else { break };
            if !self.goes_on(next)? {
                let Some(further) = self.behind(next, None)? else { break };
                next = further;
            }
            at = next;
        }
        Ok(false)
    }

    /// Whether blocks of an index lead from here to the footer at the end of the file.
    fn is_index(&self, mut at: u64) -> io::Result<bool> {
        let mut start = [0; 13];
        while self.size.saturating_sub(at) >= (BLOCK + FOOTER) as u64 {
            match *self.bytes(at, &mut start)? {
                [b'A'..=b'Z' | b'a'..=b'z', .., a, b, c, d] => {
                    let packed = u32::from_le_bytes([a, b, c, d]);
                    at += start.len() as u64 + u64::from(packed);
                }
                _ => return Ok(false),
            }
        }
        Ok(self.size.checked_sub(at).is_some_and(|left| left >= FOOTER as u64))
    }

    /// Searches for the first place from `at` on where a piece begins that begins with an entry and is whole.
    fn scan(
        &mut self,
        mut at: u64,
        offset: u64,
        check: &dyn Fn() -> Result<(), EngineError>,
    ) -> io::Result<Option<Start>> {
        let mut window = vec![0; WINDOW];
        let begin = at;
        let step = if self.format == ArchiveFormat::Tar { BLOCK } else { 1 };
        'windows: while at < self.size {
            check().map_err(io::Error::other)?;
            let length = self.bytes(at, &mut window)?.len();
            let window = &window[..length];
            // The end of a window is looked at again with the next one.
            let last = if length == WINDOW { WINDOW - BLOCK } else { length.max(1) };
            for index in (0..last).step_by(step) {
                let here = at + index as u64;
                let rest = window.get(index..).unwrap_or_default();
                let found = match self.format {
                    ArchiveFormat::Tar => is_header(rest).then_some(Ok(Start {
                        at: here,
                        offset: here,
                        origin: Origin::Found,
                    })),
                    ArchiveFormat::TarGz => match parse_member_header(rest) {
                        Some(header) => self.candidate(here, header)?,
                        None => None,
                    },
                    ArchiveFormat::TarZst if rest.starts_with(&ZSTD_MAGIC) => {
                        let offset = offset + (here - begin);
                        let mut raw = Vec::new();
                        let is_whole = self.read(here, offset, &mut raw)?.is_some();
                        (is_whole && is_header(&raw)).then_some(Ok(Start {
                            at: here,
                            offset,
                            origin: Origin::Found,
                        }))
                    }
                    ArchiveFormat::TarZst => None,
                };
                match found {
                    Some(Ok(start)) => return Ok(Some(start)),
                    Some(Err(end)) => {
                        at = end;
                        continue 'windows;
                    }
                    None => {}
                }
            }
            at += last as u64;
        }
        Ok(None)
    }

    /// Whether a gzip member can be this archive's; where an archive ends that it is of instead is the error.
    fn candidate(
        &mut self,
        at: u64,
        header: MemberHeader,
    ) -> io::Result<Option<Result<Start, u64>>> {
        let offset = header.place.offset;
        let mut raw = Vec::new();
        if !header.place.begins_entry
            || !may_hold(at.checked_sub(self.anchor.0), offset.checked_sub(self.anchor.1))
            || self.describe(at, offset)?.is_none()
            || self.read(at, offset, &mut raw)?.is_none()
            || !is_header(&raw)
        {
            return Ok(None);
        }
        Ok(match self.chain(at, offset)? {
            Chain::End => Some(Ok(Start { at, offset, origin: Origin::Own })),
            Chain::Nothing => Some(Ok(Start { at, offset, origin: Origin::Found })),
            Chain::Other(end) => Some(Err(end)),
        })
    }

    /// What the gzip members from one on lead to: those of an archive that is a file in this one never to the end
    /// of this file.
    fn chain(&self, mut at: u64, mut offset: u64) -> io::Result<Chain> {
        let mut is_footer = false;
        loop {
            if at == self.size {
                return Ok(if is_footer { Chain::End } else { Chain::Nothing });
            }
            if is_footer {
                return Ok(Chain::Other(at));
            }
            let mut start = [0; MEMBER_HEADER];
            let start = self.bytes(at, &mut start)?;
            if let Some((length, footer)) = parse_extra_length(start) {
                at += length;
                is_footer = footer;
                continue;
            }
            match parse_member_header(start) {
                Some(header) if header.place.offset == offset && header.packed > 0 => {
                    at += u64::from(header.packed);
                    offset = offset.saturating_add(header.raw.into());
                }
                _ => return Ok(Chain::Nothing),
            }
        }
    }

    /// Reads up to so many bytes into `self.packed`.
    fn fill(&mut self, at: u64, length: u64) -> io::Result<()> {
        let mut packed = std::mem::take(&mut self.packed);
        let length = length.min(self.size.saturating_sub(at));
        packed.resize(usize::try_from(length).unwrap_or(0), 0);
        let result = self.file.read_exact_at(&mut packed, at);
        self.packed = packed;
        result
    }

    /// As many bytes as there are.
    fn bytes<'b>(&self, at: u64, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        self.file.read_exact_at(&mut buffer[..length], at)?;
        Ok(&buffer[..length])
    }
}
