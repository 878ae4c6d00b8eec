//! Reads a whole archive with its index, on all cores, unit by unit.
//!
//! A unit is a member that begins with an entry, and the members after it that do not: no entry
//! reaches from one unit into another. Small ones go to workers as a whole; a file of many members
//! is decompressed by several threads and taken in by one.

use std::io::Read;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};

use super::{Archive, END, MemberSource, with_members};
use crate::engine::error::EngineError;
use crate::engine::index::{Index, IndexEntry, Location};
use crate::engine::progress::Cancel;
use crate::engine::tar::{TarEntry, TarReader};

/// From how many members on a unit is decompressed by several threads.
const LARGE: usize = 8;

/// What is done with the entries; one for each thread.
pub(in crate::engine) trait EntrySink: Send {
    /// Takes an entry in; its header has been compared with the index. Data that is not read is
    /// skipped.
    fn entry(
        &mut self,
        reader: &mut TarReader<&mut dyn Read>,
        entry: TarEntry,
        indexed: &IndexEntry,
    ) -> Result<(), EngineError>;

    /// A unit could not be read to its end. Ends all work with the error, unless it returns `Ok`.
    fn broken(&mut self, broken: Broken) -> Result<(), EngineError> {
        Err(broken.error)
    }
}

/// A unit that could not be read.
pub(in crate::engine) struct Broken {
    pub error: EngineError,
    /// All its entries.
    pub entries: Vec<IndexEntry>,
}

struct Unit {
    members: Range<usize>,
    /// Where it ends in the tar stream, end blocks included.
    end: u64,
    last: bool,
    wanted: bool,
    entries: Vec<IndexEntry>,
}

/// How an archive is read.
pub(in crate::engine) struct Reading<'a> {
    pub threads: usize,
    pub cancel: &'a Cancel,
    /// Where members are noted that are damaged and only a piece of a file: zeros stand in for them.
    /// Without it all damage is an error.
    pub patched: Option<&'a Mutex<Vec<usize>>>,
}

/// Reads every entry that is in this archive, each exactly once, in no particular order. Units in
/// which no entry is `wanted` are left out.
///
/// Returns what was made with `sink`, one for each thread that read anything.
pub(in crate::engine) fn read_units<S: EntrySink>(
    archive: &Archive,
    index: &Index,
    reading: &Reading<'_>,
    wanted: &dyn Fn(&IndexEntry) -> Result<bool, EngineError>,
    sink: &(dyn Fn() -> Result<S, EngineError> + Sync),
) -> Result<Vec<S>, EngineError> {
    let &Reading { threads, cancel, .. } = reading;
    let (sender, units) = mpsc::sync_channel::<Unit>(2 * threads);
    let units = Mutex::new(Some(units));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let units = &units;
                scope.spawn(move || {
                    let _guard = Guard(units);
                    let result = small_units(archive, index, reading, units, sink);
                    if result.is_err() {
                        // Nobody takes units any more: the producer stops too.
                        units.lock().unwrap_or_else(PoisonError::into_inner).take();
                    }
                    result
                })
            })
            .collect();
        let mut own = None;
        let produced = each_unit(archive, index, wanted, &mut |unit| {
            cancel.check()?;
            if !unit.wanted && !unit.entries.is_empty() {
                return Ok(());
            }
            if unit.members.len() < LARGE {
                return sender.send(unit).map_err(|_| EngineError::Cancelled);
            }
            let sink = match &mut own {
                Some(sink) => sink,
                none => none.insert(sink()?),
            };
            let members = unit.members.clone();
            with_members(
                &archive.file,
                archive.format,
                &index.members,
                members,
                (threads, reading.patched),
                |stream| read_unit(archive, index, &unit, stream, cancel, sink),
            )
        });
        drop(sender);
        let mut sinks: Vec<S> = own.into_iter().collect();
        let mut failure = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(sink)) => sinks.extend(sink),
                Ok(Err(error)) => failure = Some(error),
                Err(_) => failure = Some(archive.damaged("a thread that reads it broke down")),
            }
        }
        // A worker that failed made the producer stop, so that its error is the cause.
        match (failure, produced) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(sinks),
        }
    })
}

/// Ends the producer's work when a worker breaks down: it might wait for that worker forever.
struct Guard<'a>(&'a Mutex<Option<Receiver<Unit>>>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

fn small_units<S: EntrySink>(
    archive: &Archive,
    index: &Index,
    reading: &Reading<'_>,
    units: &Mutex<Option<Receiver<Unit>>>,
    sink: &(dyn Fn() -> Result<S, EngineError> + Sync),
) -> Result<Option<S>, EngineError> {
    let failed =
        |source| EngineError::Store { action: "reading", path: archive.path.clone(), source };
    let mut source =
        MemberSource::new(&archive.file, archive.format, &index.members, reading.patched)
            .map_err(failed)?;
    let mut own: Option<S> = None;
    let mut raw = Vec::new();
    loop {
        let next = {
            let units = units.lock().unwrap_or_else(PoisonError::into_inner);
            units.as_ref().and_then(|units| units.recv().ok())
        };
        let Some(unit) = next else { return Ok(own) };
        let sink = match &mut own {
            Some(sink) => sink,
            none => none.insert(sink()?),
        };
        raw.clear();
        let (next, end) = (unit.members.start, unit.members.end);
        let mut stream = Sequence { source: &mut source, next, end, raw: &mut raw, at: 0 };
        read_unit(archive, index, &unit, &mut stream, reading.cancel, sink)?;
    }
}

/// The members of a small unit, one after the other.
struct Sequence<'a, 'b> {
    source: &'a mut MemberSource<'b>,
    next: usize,
    end: usize,
    raw: &'a mut Vec<u8>,
    at: usize,
}

impl Read for Sequence<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.raw.len() {
            if self.next == self.end || buffer.is_empty() {
                return Ok(0);
            }
            self.at = 0;
            if let Err(error) = self.source.read(self.next, self.raw) {
                self.raw.clear();
                return Err(error);
            }
            self.next += 1;
        }
        let count = buffer.len().min(self.raw.len() - self.at);
        buffer[..count].copy_from_slice(&self.raw[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Reads one unit; damage is the sink's to judge.
fn read_unit<S: EntrySink>(
    archive: &Archive,
    index: &Index,
    unit: &Unit,
    stream: &mut dyn Read,
    cancel: &Cancel,
    sink: &mut S,
) -> Result<(), EngineError> {
    match read_entries(archive, index, unit, stream, cancel, sink) {
        Err(error @ EngineError::Damaged { .. }) => {
            sink.broken(Broken { error, entries: unit.entries.clone() })
        }
        result => result,
    }
}

fn read_entries<S: EntrySink>(
    archive: &Archive,
    index: &Index,
    unit: &Unit,
    stream: &mut dyn Read,
    cancel: &Cancel,
    sink: &mut S,
) -> Result<(), EngineError> {
    let start = index.members.get(unit.members.start).map_or(0, |member| member.offset);
    let mut reader = TarReader::at(stream, &archive.label, start);
    for indexed in &unit.entries {
        cancel.check()?;
        reader.skip_data()?;
        let Location::Here { offset, .. } = indexed.location else { continue };
        let place = || archive.damaged("its index and its contents disagree on where entries are");
        if reader.position() != offset {
            return Err(place());
        }
        let entry = reader.next_entry()?.ok_or_else(place)?;
        archive.compare(&entry.info, indexed)?;
        sink.entry(&mut reader, entry, indexed)?;
    }
    reader.skip_data()?;
    if unit.last {
        // Reads the end blocks, and fails unless nothing follows them.
        if reader.next_entry()?.is_some() {
            return Err(archive.damaged("it holds entries that are not in its index"));
        }
    }
    if reader.position() == unit.end {
        Ok(())
    } else {
        Err(archive.damaged("its members hold more than its index says"))
    }
}

/// Groups members and entries into units.
fn each_unit(
    archive: &Archive,
    index: &Index,
    wanted: &dyn Fn(&IndexEntry) -> Result<bool, EngineError>,
    visit: &mut dyn FnMut(Unit) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let members = &index.members;
    let disagree = || archive.damaged("the members and entries of its index do not fit");
    let unit_at = |start: usize| {
        let follows = members[start + 1..].iter().take_while(|member| !member.begins_entry).count();
        let range = start..start + 1 + follows;
        let last = range.end == members.len();
        let end = members[range.end - 1].offset + members[range.end - 1].raw;
        Unit { members: range, end, last, wanted: false, entries: Vec::new() }
    };
    // Only an archive whose entries are all in ancestors begins with its end blocks.
    let empty = index.stream_length() == END;
    if !members.first().is_some_and(|member| member.begins_entry || empty) {
        return Err(disagree());
    }
    let mut unit = unit_at(0);
    archive.visit_index(index, &mut |entry| {
        let Location::Here { offset, header, stored } = entry.location else { return Ok(()) };
        while offset >= unit.end {
            let next = unit.members.end;
            if next >= members.len() {
                return Err(disagree());
            }
            visit(std::mem::replace(&mut unit, unit_at(next)))?;
        }
        // Only the first entry of a unit may lie in more than one member, and none leaves its unit.
        if offset + header + stored > unit.end {
            return Err(disagree());
        }
        unit.wanted = unit.wanted || wanted(&entry)?;
        unit.entries.push(entry);
        Ok(())
    })?;
    loop {
        let next = unit.members.end;
        if next >= members.len() {
            break;
        }
        visit(std::mem::replace(&mut unit, unit_at(next)))?;
    }
    visit(unit)
}
