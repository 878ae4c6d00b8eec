//! Finds what a damaged archive still holds, without trusting its index or any of its lengths.
//!
//! Members describe themselves, and most begin with an entry: after damage reading goes on at the next
//! member, or in a bare tar the next block, that begins with a header whose checksum is right.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::END;
use crate::engine::error::EngineError;
use crate::engine::member::{Decoder, PACKED_LIMIT, Place, RAW_LIMIT, parse_member_header};
use crate::engine::progress::Cancel;
use crate::engine::tar::{BLOCK, TarEntry, TarReader, is_header};
use crate::spec::ArchiveFormat;

const WINDOW: usize = 1 << 20;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Takes an entry in; an error of damage loses this entry only.
pub(in crate::engine) type Visit<'a> =
    dyn FnMut(&mut TarReader<&mut dyn Read>, TarEntry) -> Result<(), EngineError> + 'a;

/// Calls `visit` for every entry whose header can be read; returns how often reading had to begin
/// anew because of damage, or did not come to the archive's end.
pub(in crate::engine) fn each_entry(
    file: &File,
    format: ArchiveFormat,
    label: &str,
    cancel: &Cancel,
    visit: &mut Visit<'_>,
) -> Result<u64, EngineError> {
    let failed = |source| EngineError::Store { action: "reading", path: label.into(), source };
    let mut pieces = Pieces::new(file, format).map_err(failed)?;
    let mut gaps = 0;
    let mut at = 0;
    // Where a stretch ended with damage, though the next one may begin right there.
    let mut is_damaged = false;
    loop {
        let Some(start) = pieces.find(at, cancel).map_err(failed)? else {
            // Without its end the rest is cut off or damaged.
            let has_end = format == ArchiveFormat::Tar && pieces.has_end(at).map_err(failed)?;
            return Ok(gaps + u64::from(is_damaged || !has_end));
        };
        gaps += u64::from(is_damaged || start != at);
        let complete = {
            let mut run = Run {
                pieces: &mut pieces,
                raw: Vec::new(),
                used: 0,
                next: start,
                expected: None,
                end: false,
            };
            run.load().map_err(failed)?;
            let mut reader = TarReader::new(&mut run as &mut dyn Read, label);
            let complete = read_run(&mut reader, cancel, visit)?;
            let position = reader.position();
            drop(reader);
            at = match format {
                // On at the block after the one that could not be read.
                ArchiveFormat::Tar => start + (position.max(1)).next_multiple_of(BLOCK as u64),
                _ => run.next.max(start + 1),
            };
            complete
        };
        if complete {
            return Ok(gaps);
        }
        is_damaged = true;
    }
}

/// Reads one undamaged stretch; says whether it ended with the end of the archive.
fn read_run(
    reader: &mut TarReader<&mut dyn Read>,
    cancel: &Cancel,
    visit: &mut Visit<'_>,
) -> Result<bool, EngineError> {
    loop {
        cancel.check()?;
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(true),
            Err(error) if is_damage(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        match visit(reader, entry) {
            Err(error) if is_damage(&error) => return Ok(false),
            result => result?,
        }
    }
}

fn is_damage(error: &EngineError) -> bool {
    matches!(error, EngineError::Damaged { .. } | EngineError::Unsupported { .. })
}

/// A member that was found whole.
struct Piece {
    /// Where the next one begins in the file.
    next: u64,
    /// Where it belongs in the tar stream, where it says so.
    offset: Option<u64>,
}

/// The pieces of a file.
struct Pieces<'a> {
    file: &'a File,
    format: ArchiveFormat,
    size: u64,
    decoder: Decoder,
    packed: Vec<u8>,
}

impl<'a> Pieces<'a> {
    fn new(file: &'a File, format: ArchiveFormat) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, format, size, decoder: Decoder::new(format)?, packed: Vec::new() })
    }

    /// The first place from `at` on where a piece begins that begins with an entry and is whole.
    fn find(&mut self, mut at: u64, cancel: &Cancel) -> io::Result<Option<u64>> {
        let mut window = vec![0; WINDOW];
        let mut raw = Vec::new();
        let step = if self.format == ArchiveFormat::Tar { BLOCK } else { 1 };
        while at < self.size {
            if cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = usize::try_from(self.size - at).unwrap_or(WINDOW).min(WINDOW);
            let window = &mut window[..length];
            self.file.read_exact_at(window, at)?;
            // The end of a window is looked at again with the next one.
            let last = if length == WINDOW { WINDOW - BLOCK } else { length };
            for index in (0..last).step_by(step) {
                let here = at + index as u64;
                let rest = &window[index..];
                let found = match self.format {
                    ArchiveFormat::Tar => is_header(rest),
                    ArchiveFormat::TarGz => {
                        parse_member_header(rest).is_some_and(|header| header.place.begins_entry)
                    }
                    ArchiveFormat::TarZst => rest.starts_with(&ZSTD_MAGIC),
                };
                if !found {
                    continue;
                }
                let whole = self.format == ArchiveFormat::Tar
                    || self.read(here, &mut raw)?.is_some() && is_header(&raw);
                if whole {
                    return Ok(Some(here));
                }
            }
            at += last as u64;
        }
        Ok(None)
    }

    /// Whether a bare tar has its end blocks about here; what follows them may be damaged, too.
    fn has_end(&self, at: u64) -> io::Result<bool> {
        let from = at.saturating_sub(END);
        let length = self.size.saturating_sub(from).min(2 * END);
        let mut found = vec![1; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut found, from)?;
        let is_end = |blocks: &[u8]| blocks.iter().all(|byte| *byte == 0);
        Ok((0..=found.len().saturating_sub(2 * BLOCK))
            .step_by(BLOCK)
            .any(|index| found.get(index..index + 2 * BLOCK).is_some_and(is_end)))
    }

    /// Reads the piece at `at` into `raw`; nothing if it is not whole.
    fn read(&mut self, at: u64, raw: &mut Vec<u8>) -> io::Result<Option<Piece>> {
        let available = self.size.saturating_sub(at);
        let bytes = |length: u64| usize::try_from(length).unwrap_or(0);
        if self.format == ArchiveFormat::Tar {
            let length = available.min(WINDOW as u64);
            raw.resize(bytes(length), 0);
            self.file.read_exact_at(raw, at)?;
            let piece = Piece { next: at + length, offset: None };
            return Ok((length > 0).then_some(piece));
        }
        let mut start = [0; 64];
        let length = bytes(available.min(start.len() as u64));
        let start = &mut start[..length];
        self.file.read_exact_at(start, at)?;
        let (packed, unpacked, place) = match self.format {
            ArchiveFormat::TarGz => {
                let Some(header) = parse_member_header(start) else { return Ok(None) };
                (u64::from(header.packed), u64::from(header.raw), header.place)
            }
            _ => {
                if !start.starts_with(&ZSTD_MAGIC) {
                    return Ok(None);
                }
                let content = zstd::zstd_safe::get_frame_content_size(start).ok().flatten();
                let Some(content) = content.filter(|length| *length <= RAW_LIMIT) else {
                    return Ok(None);
                };
                self.packed.resize(bytes(available.min(PACKED_LIMIT)), 0);
                self.file.read_exact_at(&mut self.packed, at)?;
                let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(&self.packed) else {
                    return Ok(None);
                };
                (length as u64, content, Place { offset: 0, begins_entry: false })
            }
        };
        if packed > available || packed > PACKED_LIMIT || unpacked > RAW_LIMIT || packed == 0 {
            return Ok(None);
        }
        self.packed.resize(bytes(packed), 0);
        self.file.read_exact_at(&mut self.packed, at)?;
        raw.resize(bytes(unpacked), 0);
        if self.decoder.decode(&self.packed, place, raw).is_err() {
            return Ok(None);
        }
        let offset = (self.format == ArchiveFormat::TarGz).then_some(place.offset);
        Ok(Some(Piece { next: at + packed, offset }))
    }
}

/// Pieces that follow one another without damage.
struct Run<'a, 'b> {
    pieces: &'a mut Pieces<'b>,
    raw: Vec<u8>,
    used: usize,
    next: u64,
    /// Where in the tar stream the next piece has to belong.
    expected: Option<u64>,
    end: bool,
}

impl Run<'_, '_> {
    fn load(&mut self) -> io::Result<()> {
        self.raw.clear();
        self.used = 0;
        let piece = self.pieces.read(self.next, &mut self.raw)?;
        let fits = |piece: &Piece| self.expected.is_none() || piece.offset == self.expected;
        match piece.filter(fits) {
            Some(piece) => {
                self.next = piece.next;
                self.expected = piece.offset.map(|offset| offset + self.raw.len() as u64);
            }
            None => {
                self.raw.clear();
                self.end = true;
            }
        }
        Ok(())
    }
}

impl Read for Run<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.raw.len() {
            if self.end || buffer.is_empty() {
                return Ok(0);
            }
            self.load()?;
        }
        let count = buffer.len().min(self.raw.len() - self.used);
        buffer[..count].copy_from_slice(&self.raw[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
