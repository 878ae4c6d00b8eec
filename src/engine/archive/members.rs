//! Reads members: one, or a run of them decompressed ahead by several threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use crate::engine::index::Member;
use crate::engine::member::{Decoder, Place};
use crate::spec::ArchiveFormat;

/// Reads and decompresses one member after the other, in buffers of its own.
pub(in crate::engine) struct MemberSource<'a> {
    file: &'a File,
    members: &'a [Member],
    decoder: Decoder,
    packed: Vec<u8>,
    patched: Patched<'a>,
}

/// Where damaged members are noted for which zeros stand in, if that is allowed.
pub(in crate::engine) type Patched<'a> = Option<&'a Mutex<Vec<usize>>>;

impl<'a> MemberSource<'a> {
    pub(in crate::engine) fn new(
        file: &'a File,
        format: ArchiveFormat,
        members: &'a [Member],
        patched: Patched<'a>,
    ) -> io::Result<Self> {
        Ok(Self { file, members, decoder: Decoder::new(format)?, packed: Vec::new(), patched })
    }

    /// Replaces `raw` by what a member holds. Damage is an error of kind `InvalidData` that says
    /// which member it is.
    pub(in crate::engine) fn read(&mut self, number: usize, raw: &mut Vec<u8>) -> io::Result<()> {
        let result = self.read_whole(number, raw);
        if let (Err(error), Some(patched), Some(member)) =
            (&result, self.patched, self.members.get(number))
            && error.kind() == io::ErrorKind::InvalidData
            && !member.begins_entry
        {
            raw.clear();
            raw.resize(usize::try_from(member.raw).map_err(io::Error::other)?, 0);
            patched.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            return Ok(());
        }
        result
    }

    fn read_whole(&mut self, number: usize, raw: &mut Vec<u8>) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a member is missing");
        let member = self.members.get(number).ok_or_else(missing)?;
        let length = |length: u64| usize::try_from(length).map_err(io::Error::other);
        let packed = length(member.packed)?;
        if self.packed.len() < packed {
            self.packed.resize(packed, 0);
        }
        let packed = &mut self.packed[..packed];
        let damaged = |detail: &str| {
            let end = member.file_offset + member.packed;
            let detail =
                format!("member {} (bytes {} to {end}): {detail}", number + 1, member.file_offset);
            io::Error::new(io::ErrorKind::InvalidData, detail)
        };
        self.file.read_exact_at(packed, member.file_offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                damaged("the file ends before it")
            } else {
                error
            }
        })?;
        if *blake3::hash(packed).as_bytes() != member.hash {
            return Err(damaged("its BLAKE3 is not that of the index"));
        }
        raw.resize(length(member.raw)?, 0);
        let place = Place { offset: member.offset, begins_entry: member.begins_entry };
        self.decoder.decode(packed, place, raw).map_err(|detail| damaged(&detail))
    }
}

type Decoded = (usize, io::Result<Vec<u8>>);

/// Gives `consume` the contents of a run of members as one stream, which `threads` threads
/// decompress ahead of it.
pub(in crate::engine) fn with_members<T>(
    file: &File,
    format: ArchiveFormat,
    members: &[Member],
    range: Range<usize>,
    (threads, patched): (usize, Patched<'_>),
    consume: impl FnOnce(&mut dyn Read) -> T,
) -> T {
    let next = AtomicUsize::new(range.start);
    let (free_sender, free) = mpsc::channel();
    for _ in 0..threads + 2 {
        let _ = free_sender.send(Vec::new());
    }
    let free = Mutex::new(free);
    let (sender, results) = mpsc::channel::<Decoded>();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(range.len()) {
            let (next, free, sender) = (&next, &free, sender.clone());
            scope.spawn(move || {
                let source = MemberSource::new(file, format, members, patched);
                decode(source, range.end, next, free, &sender);
            });
        }
        drop(sender);
        let mut stream = Ordered {
            results,
            free: free_sender,
            waiting: BTreeMap::new(),
            next: range.start,
            end: range.end,
            current: Vec::new(),
            at: 0,
        };
        consume(&mut stream)
        // Dropping the stream ends the threads, should not everything have been read.
    })
}

fn decode(
    source: io::Result<MemberSource<'_>>,
    end: usize,
    next: &AtomicUsize,
    free: &Mutex<Receiver<Vec<u8>>>,
    results: &Sender<Decoded>,
) {
    let mut source = match source {
        Ok(source) => source,
        Err(error) => {
            let _ = results.send((next.load(Ordering::Relaxed), Err(error)));
            return;
        }
    };
    loop {
        // The buffer before the number: whoever has a number can go on.
        let buffer = free.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut raw) = buffer else { return };
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return;
        }
        let result = source.read(number, &mut raw).map(|()| raw);
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

/// The members in their order.
struct Ordered {
    results: Receiver<Decoded>,
    free: Sender<Vec<u8>>,
    waiting: BTreeMap<usize, io::Result<Vec<u8>>>,
    next: usize,
    end: usize,
    current: Vec<u8>,
    at: usize,
}

impl Read for Ordered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if self.next == self.end || buffer.is_empty() {
                return Ok(0);
            }
            let result = loop {
                if let Some(result) = self.waiting.remove(&self.next) {
                    break result;
                }
                let lost = |_| io::Error::other("a thread that decompresses ended unexpectedly");
                let (number, result) = self.results.recv().map_err(lost)?;
                self.waiting.insert(number, result);
            };
            self.next += 1;
            let used = std::mem::replace(&mut self.current, result?);
            self.at = 0;
            let _ = self.free.send(used);
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
