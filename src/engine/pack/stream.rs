//! Cuts the tar stream into members while it is made, in buffers that go round and round.
//!
//! A buffer goes from here to a worker, from there to the writer, and back: how many there are bounds
//! the memory of the whole, and a slow disk stops the reading.

use std::sync::mpsc::{Receiver, Sender};

use crate::engine::error::EngineError;
use crate::engine::member::Place;
use crate::engine::pieces::Piece;
use crate::engine::tar::padding;

/// What a buffer has beyond the length of a piece, for headers.
const HEADERS: usize = 16 << 10;

/// One member on its way.
pub(super) struct Slot {
    /// Position among all members.
    pub sequence: u64,
    /// Where it belongs.
    pub place: Place,
    raw: Vec<u8>,
    filled: usize,
    /// What of it is data of files: where it starts in the member, and what it is.
    pub pieces: Vec<(usize, Piece)>,
    /// The hashes of the pieces.
    pub hashes: Vec<[u8; 32]>,
    /// The member as it goes into the file.
    pub packed: Vec<u8>,
    /// Whether it is stored only.
    pub stored: bool,
    /// BLAKE3 of `packed`.
    pub hash: [u8; 32],
}

impl Slot {
    pub(super) fn new(piece_length: usize) -> Self {
        Self {
            sequence: 0,
            place: Place { offset: 0, begins_entry: false },
            raw: vec![0; piece_length + HEADERS],
            filled: 0,
            pieces: Vec::new(),
            hashes: Vec::new(),
            packed: Vec::new(),
            stored: false,
            hash: [0; 32],
        }
    }

    /// The piece of the tar stream.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw[..self.filled]
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.filled + length;
        if self.raw.len() < end {
            self.raw.resize(end, 0);
        }
        &mut self.raw[self.filled..end]
    }
}

/// An entry whose data is being written.
struct Data {
    at: u64,
    total: u64,
    /// Where it began in the current member, headers included; to take it back.
    entry_start: usize,
    piece_start: usize,
}

/// The tar stream.
pub(super) struct MemberStream {
    free: Receiver<Slot>,
    jobs: Sender<Slot>,
    current: Option<Slot>,
    data: Option<Data>,
    piece_length: usize,
    next_sequence: u64,
    /// Where the current member begins in the stream.
    base: u64,
}

impl MemberStream {
    pub(super) fn new(free: Receiver<Slot>, jobs: Sender<Slot>, piece_length: usize) -> Self {
        Self { free, jobs, current: None, data: None, piece_length, next_sequence: 0, base: 0 }
    }

    /// How much of the stream there is.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.current.as_ref().map_or(0, |slot| slot.filled as u64)
    }

    /// Begins an entry: its headers, and how many bytes of data will follow.
    ///
    /// An entry that does not fit into the current member begins a new one.
    pub(super) fn begin(&mut self, header: &[u8], stored: u64) -> Result<(), EngineError> {
        let length = header.len() as u64 + stored + padding(stored).len() as u64;
        let filled = self.current.as_ref().map_or(0, |slot| slot.filled);
        if filled > 0 && filled as u64 + length > self.piece_length as u64 {
            self.cut()?;
        }
        let slot = self.slot()?;
        let entry_start = slot.filled;
        if entry_start == 0 {
            slot.place.begins_entry = true;
        }
        slot.room(header.len()).copy_from_slice(header);
        slot.filled += header.len();
        let piece_start = slot.filled;
        if stored > 0 {
            self.data = Some(Data { at: 0, total: stored, entry_start, piece_start });
        }
        Ok(())
    }

    /// Takes back an entry of whose data nothing was filled in yet.
    pub(super) fn retract(&mut self) {
        if let (Some(data), Some(slot)) = (self.data.take(), self.current.as_mut()) {
            slot.filled = data.entry_start;
        }
    }

    /// The place for the next bytes of data: at most `wanted`, and at least one.
    pub(super) fn room(&mut self, wanted: u64) -> Result<&mut [u8], EngineError> {
        let piece_length = self.piece_length as u64;
        let at = self.data.as_ref().map_or(0, |data| data.at);
        let left = piece_length - at % piece_length;
        let length = usize::try_from(wanted.min(left)).unwrap_or(self.piece_length);
        self.slot().map(|slot| slot.room(length))
    }

    /// Adds what was put into [`Self::room`]. After the last byte the entry is complete.
    pub(super) fn commit(&mut self, count: usize) -> Result<(), EngineError> {
        let piece_length = self.piece_length as u64;
        let (Some(data), Some(slot)) = (self.data.as_mut(), self.current.as_mut()) else {
            return Ok(());
        };
        slot.filled += count;
        data.at += count as u64;
        let complete = data.at >= data.total;
        if !complete && data.at % piece_length != 0 {
            return Ok(());
        }
        let length = slot.filled - data.piece_start;
        let piece = Piece { at: data.at - length as u64, length, total: data.total };
        slot.pieces.push((data.piece_start, piece));
        data.piece_start = 0;
        if !complete {
            return self.cut();
        }
        let total = data.total;
        self.data = None;
        let fill = padding(total).len();
        slot.room(fill).fill(0);
        slot.filled += fill;
        // What follows a file of several members begins a member: a member is whole entries, or a
        // part of one.
        if total > piece_length { self.cut() } else { Ok(()) }
    }

    /// Adds bytes that belong to no entry: the end blocks.
    pub(super) fn end(&mut self, blocks: &[u8]) -> Result<(), EngineError> {
        let slot = self.slot()?;
        slot.room(blocks.len()).copy_from_slice(blocks);
        slot.filled += blocks.len();
        self.cut()
    }

    fn slot(&mut self) -> Result<&mut Slot, EngineError> {
        if self.current.is_none() {
            let mut slot = self.free.recv().map_err(|_| stopped())?;
            slot.sequence = self.next_sequence;
            slot.place = Place { offset: self.base, begins_entry: false };
            slot.filled = 0;
            slot.raw.truncate(2 * (self.piece_length + HEADERS));
            slot.pieces.clear();
            slot.hashes.clear();
            self.current = Some(slot);
        }
        self.current.as_mut().ok_or_else(stopped)
    }

    fn cut(&mut self) -> Result<(), EngineError> {
        let Some(slot) = self.current.take() else { return Ok(()) };
        self.base += slot.filled as u64;
        self.next_sequence += 1;
        self.jobs.send(slot).map_err(|_| stopped())
    }
}

/// What reading ends with when writing has ended; the writer's own error is the one that is told.
fn stopped() -> EngineError {
    EngineError::WriteArchive { source: std::io::ErrorKind::BrokenPipe.into() }
}
