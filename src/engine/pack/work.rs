//! The other half of packing: workers that hash and compress members, and one ordered writer.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::stream::Slot;
use crate::engine::index::Member;
use crate::engine::member::Encoder;
use crate::engine::pieces::Merger;
use crate::spec::ArchiveFormat;

/// What was written so far.
pub(super) struct Written {
    pub members: Vec<Member>,
    /// Of every file with data, in order.
    pub hashes: Vec<[u8; 32]>,
    pub sha256: Sha256,
    pub bytes: u64,
}

/// Hashes and compresses members until there are no more.
pub(super) fn work(
    jobs: &Mutex<Receiver<Slot>>,
    results: &Sender<io::Result<Slot>>,
    format: ArchiveFormat,
    level: Option<u8>,
) {
    let _guard = Guard(results);
    let mut encoder = match Encoder::new(format, level) {
        Ok(encoder) => encoder,
        Err(error) => {
            let _ = results.send(Err(error));
            return;
        }
    };
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut slot) = job else { return };
        let hashes = slot
            .pieces
            .iter()
            .map(|(start, piece)| piece.hash(&slot.raw()[*start..*start + piece.length]))
            .collect();
        slot.hashes = hashes;
        let mut packed = std::mem::take(&mut slot.packed);
        let result = encoder.encode(slot.raw(), slot.place, &mut packed).map(|stored| {
            slot.hash = *blake3::hash(&packed).as_bytes();
            slot.packed = packed;
            slot.stored = stored;
            slot
        });
        if results.send(result).is_err() {
            return;
        }
    }
}

/// Tells the writer of a worker that broke down, since it would wait for its member forever.
struct Guard<'a>(&'a Sender<io::Result<Slot>>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Err(io::Error::other("a worker ended unexpectedly")));
        }
    }
}

/// Writes members in their order and gives their buffers back.
pub(super) fn write<W: Write>(
    output: &mut W,
    results: &Receiver<io::Result<Slot>>,
    free: &Sender<Slot>,
) -> io::Result<Written> {
    let mut written =
        Written { members: Vec::new(), hashes: Vec::new(), sha256: Sha256::new(), bytes: 0 };
    let mut waiting = BTreeMap::new();
    let mut merger = Merger::default();
    let mut offset = 0;
    while let Ok(slot) = results.recv() {
        let slot = slot?;
        waiting.insert(slot.sequence, slot);
        while let Some(slot) = waiting.remove(&(written.members.len() as u64)) {
            output.write_all(&slot.packed)?;
            written.sha256.update(&slot.packed);
            for ((_, piece), hash) in slot.pieces.iter().zip(&slot.hashes) {
                written.hashes.extend(merger.add(piece, *hash));
            }
            let packed = slot.packed.len() as u64;
            let raw = slot.raw().len() as u64;
            written.members.push(Member {
                file_offset: written.bytes,
                packed,
                offset,
                raw,
                begins_entry: slot.place.begins_entry,
                stored: slot.stored,
                hash: slot.hash,
            });
            written.bytes += packed;
            offset += raw;
            if written.members.len() == 1 {
                crate::failpoint::hit("archive.middle");
            }
            // Nobody takes it any more once all has been read.
            let _ = free.send(slot);
        }
    }
    if waiting.is_empty() {
        Ok(written)
    } else {
        Err(io::Error::other("a member was lost on its way"))
    }
}

/// Passes bytes on while it hashes and counts them.
pub(super) struct Tail<'a, W> {
    pub output: &'a mut W,
    pub sha256: &'a mut Sha256,
    pub bytes: &'a mut u64,
}

impl<W: Write> Write for Tail<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.sha256.update(&bytes[..count]);
        *self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
