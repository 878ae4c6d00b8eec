//! Finds what a damaged archive still holds, without its index.
//!
//! Behind damage reading goes on where the lengths say that the archive does: those of members and frames, the
//! sizes in headers. Only where they are damaged too is the next entry searched for; what is found so may belong to
//! an archive that is a file in this one, and is told apart.

use std::fs::File;
use std::io::{self, Read};

use super::pieces::Pieces;
use crate::engine::error::EngineError;
use crate::engine::progress::Cancel;
use crate::engine::tar::{TarEntry, TarReader};
use crate::spec::ArchiveFormat;

/// Whose an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Origin {
    /// The archive's, as lengths prove from its beginning or its end on.
    Own,
    /// It lies behind damage over which no length leads: the archive's, or of one that is a file in it.
    Found,
}

/// Takes an entry in; an error of damage loses this entry only.
pub(in crate::engine) type Visit<'a> =
    dyn FnMut(&mut TarReader<&mut dyn Read>, TarEntry, Origin) -> Result<(), EngineError> + 'a;

/// Where reading begins.
pub(super) struct Start {
    /// In the file.
    pub at: u64,
    /// In the tar stream, as far as that is known.
    pub offset: u64,
    pub origin: Origin,
}

/// Where reading has ended.
pub(super) struct Stop {
    /// The first piece in the file that was not read.
    pub at: u64,
    /// Where that belongs in the tar stream.
    pub offset: u64,
    /// Where the next header belongs in the tar stream, if lengths say so.
    pub next: Option<u64>,
    /// Whether nothing that is damaged says so.
    pub is_sure: bool,
    pub origin: Origin,
}

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
    let (mut gaps, mut is_first, mut has_ended) = (0, true, false);
    let mut stop = pieces.beginning().map_err(failed)?;
    loop {
        let start =
            pieces.after(&stop, &|| cancel.check()).map_err(|error| match cancel.check() {
                Err(cancelled) => cancelled,
                Ok(()) => failed(error),
            })?;
        let Some(start) = start else {
            // Without its end the rest is cut off or damaged.
            return Ok(gaps + u64::from(!has_ended));
        };
        gaps += u64::from(!is_first || start.at != 0);
        is_first = false;
        let mut run = Run {
            pieces: &mut pieces,
            raw: Vec::new(),
            used: 0,
            next: start.at,
            offset: start.offset,
            end: false,
        };
        let mut reader = TarReader::at(&mut run as &mut dyn Read, label, start.offset);
        let complete = read_run(&mut reader, start.origin, cancel, visit)?;
        let halt = reader.halt();
        drop(reader);
        let (next, offset) = (run.next, run.offset);
        // What lies behind a bare tar's end blocks is not part of it.
        let end =
            if complete { halt.end } else { halt.end.filter(|_| format == ArchiveFormat::Tar) };
        has_ended = end.is_some();
        stop = match format {
            ArchiveFormat::Tar => pieces.stop(&halt, start.origin).map_err(failed)?,
            _ => {
                // At the very end of what was read the next piece begins with an entry.
                let next_header = halt.next.unwrap_or(halt.position);
                let next_header = (!has_ended).then_some(next_header);
                Stop { at: next, offset, next: next_header, is_sure: true, origin: start.origin }
            }
        };
        // An archive within a file ends before the one that it lies in.
        if has_ended && start.origin == Origin::Own && pieces.is_end(stop.at).map_err(failed)? {
            return Ok(gaps);
        }
    }
}

/// Reads one undamaged stretch; says whether it ended with the end of an archive.
fn read_run(
    reader: &mut TarReader<&mut dyn Read>,
    origin: Origin,
    cancel: &Cancel,
    visit: &mut Visit<'_>,
) -> Result<bool, EngineError> {
    loop {
        cancel.check()?;
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(true),
            // What no program wrote so is damage, too, or is not this archive's.
            Err(error) if is_damage(&error) || matches!(error, EngineError::Unsafe { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        match visit(reader, entry, origin) {
            Err(error) if is_damage(&error) => return Ok(false),
            result => result?,
        }
    }
}

fn is_damage(error: &EngineError) -> bool {
    matches!(error, EngineError::Damaged { .. } | EngineError::Unsupported { .. })
}

/// Pieces that follow one another without damage.
struct Run<'a, 'b> {
    pieces: &'a mut Pieces<'b>,
    raw: Vec<u8>,
    used: usize,
    next: u64,
    /// Where in the tar stream the next piece has to belong.
    offset: u64,
    end: bool,
}

impl Run<'_, '_> {
    fn load(&mut self) -> io::Result<()> {
        self.used = 0;
        match self.pieces.read(self.next, self.offset, &mut self.raw)? {
            Some(next) => {
                self.next = next;
                self.offset += self.raw.len() as u64;
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
