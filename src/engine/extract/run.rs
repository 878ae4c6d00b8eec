//! Runs an extraction: on all cores by the index, as a stream without, or what damage has left.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::UnpackOptions;
use super::check::Plan;
use super::place::Extractor;
use crate::engine::archive::{Archive, Broken, EntrySink, Reading, read_units};
use crate::engine::entry::{Key, key, trimmed};
use crate::engine::error::EngineError;
use crate::engine::index::{Index, IndexEntry, Location};
use crate::engine::pack::thread_count;
use crate::engine::progress::{Cancel, Progress};
use crate::engine::summary::UnpackSummary;
use crate::engine::table::Table;
use crate::engine::tar::{TarEntry, TarReader};

/// What all threads of one extraction share.
pub(super) struct Shared<'a> {
    pub archive: &'a str,
    pub options: &'a UnpackOptions,
    pub plan: &'a Plan,
    /// The directory of each destination, and for a root that is a file its name there.
    pub places: Vec<(PathBuf, Vec<u8>)>,
    /// Where damage is noted instead of ending the work.
    pub lost: Option<&'a Mutex<Lost>>,
    pub first_file: AtomicBool,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
}

/// Entries that a damaged archive no longer gives.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub names: Vec<String>,
    pub count: u64,
    /// Files that are in place, with zeros for a part of them; links to them are named too.
    patched: HashSet<Key>,
}

impl Lost {
    pub(super) fn add(&mut self, name: String) {
        self.count += 1;
        if self.names.len() < super::Salvaged::LISTED {
            self.names.push(name);
        }
    }
}

impl<'a> Shared<'a> {
    fn new(
        archive: &'a str,
        options: &'a UnpackOptions,
        plan: &'a Plan,
        lost: Option<&'a Mutex<Lost>>,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Self {
        let places = options.destinations.iter().enumerate().map(|(index, (_, place))| {
            match (place.parent(), place.file_name()) {
                (Some(parent), Some(name)) if plan.single_files.contains(&index) => {
                    (parent.to_owned(), name.as_bytes().to_vec())
                }
                _ => (place.clone(), Vec::new()),
            }
        });
        let places = places.collect();
        let first_file = AtomicBool::new(true);
        Self { archive, options, plan, places, lost, first_file, progress, cancel }
    }

    /// Whether an entry is to be unpacked.
    pub(super) fn wants(&self, entry: &IndexEntry) -> Result<bool, EngineError> {
        self.plan.place(self.archive, &entry.info).map(|place| place.is_some())
    }

    /// Notes an entry as lost, if that is allowed.
    pub(super) fn lose(&self, name: String) -> bool {
        let Some(lost) = self.lost else { return false };
        lost.lock().unwrap_or_else(PoisonError::into_inner).add(name);
        true
    }

    /// Whether zeros stand in for a part of a file that is in place.
    pub(super) fn is_patched(&self, file: &Key) -> bool {
        self.lost.is_some_and(|lost| {
            lost.lock().unwrap_or_else(PoisonError::into_inner).patched.contains(file)
        })
    }
}

/// Unpacks what the plan selects.
pub(super) fn extract(
    archive: &Archive,
    options: &UnpackOptions,
    plan: &Plan,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<UnpackSummary, EngineError> {
    let shared = Shared::new(&archive.label, options, plan, None, progress, cancel);
    if let Some(index) = &archive.index {
        return extract_units(archive, index, &shared);
    }
    // The later of two entries of one name counts: they come in their order.
    let mut extractor = Extractor::new(&shared, false)?;
    let mut reader = archive.stream()?;
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        extractor.take(&mut reader, entry)?;
    }
    extractor.finish()
}

/// Unpacks what is not damaged, by an index that is whole.
pub(super) fn extract_lenient(
    archive: &Archive,
    options: &UnpackOptions,
    plan: &Plan,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(UnpackSummary, Lost), EngineError> {
    let Some(index) = &archive.index else { return Err(archive.damaged("it has no index")) };
    let lost = Mutex::new(Lost::default());
    let shared = Shared::new(&archive.label, options, plan, Some(&lost), progress, cancel);
    let summary = extract_units(archive, index, &shared)?;
    Ok((summary, lost.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// Names what zeros stand in for: the wanted entries of an archive that these members of it hold.
fn lose_patched(
    archive: &Archive,
    index: &Index,
    patched: Mutex<Vec<usize>>,
    shared: &Shared<'_>,
    wanted: &dyn Fn(&IndexEntry) -> Result<bool, EngineError>,
) -> Result<(), EngineError> {
    let patched = patched.into_inner().unwrap_or_else(PoisonError::into_inner);
    if patched.is_empty() {
        return Ok(());
    }
    archive.visit_index(index, &mut |entry| {
        let Location::Here { offset, header, stored } = entry.location else { return Ok(()) };
        let end = offset + header + stored;
        let hit = |number: &usize| {
            let member = index.members.get(*number);
            member.is_some_and(|member| member.offset < end && member.offset + member.raw > offset)
        };
        if patched.iter().any(hit)
            && wanted(&entry)?
            && let Some(lost) = shared.lost
        {
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.add(entry.info.display_name());
            lost.patched.insert(key(trimmed(&entry.info.name)));
        }
        Ok(())
    })
}

/// What takes an entry out of a piece.
pub(super) type Take<'a> =
    dyn FnMut(&mut TarReader<&mut dyn Read>, TarEntry) -> Result<(), EngineError> + 'a;

/// Unpacks what `each` finds.
pub(super) fn extract_pieces(
    label: &str,
    options: &UnpackOptions,
    plan: &Plan,
    lost: &Mutex<Lost>,
    progress: &dyn Progress,
    cancel: &Cancel,
    each: &mut dyn FnMut(&mut Take<'_>) -> Result<(), EngineError>,
) -> Result<UnpackSummary, EngineError> {
    let shared = Shared::new(label, options, plan, Some(lost), progress, cancel);
    let mut extractor = Extractor::new(&shared, true)?;
    each(&mut |reader, entry| {
        let name = entry.info.display_name();
        let result = extractor.take(reader, entry);
        if matches!(result, Err(EngineError::Damaged { .. })) {
            shared.lose(name);
        }
        result
    })?;
    extractor.finish()
}

/// Names what was in an archive that cannot be opened.
fn lose_ancestor(
    archive: &Archive,
    index: &Index,
    position: u32,
    shared: &Shared<'_>,
) -> Result<(), EngineError> {
    archive.visit_index(index, &mut |entry| {
        if entry.location == Location::Ancestor(position) && shared.wants(&entry)? {
            shared.lose(entry.info.display_name());
        }
        Ok(())
    })
}

/// Reads the wanted entries of one archive; where damage is allowed, notes what zeros stand in for.
fn read_noting<S: EntrySink>(
    archive: &Archive,
    index: &Index,
    shared: &Shared<'_>,
    wanted: &dyn Fn(&IndexEntry) -> Result<bool, EngineError>,
    make: &(dyn Fn() -> Result<S, EngineError> + Sync),
) -> Result<Vec<S>, EngineError> {
    let patched = Mutex::new(Vec::new());
    let reading = Reading {
        threads: thread_count(shared.options.threads),
        cancel: shared.cancel,
        patched: shared.lost.is_some().then_some(&patched),
    };
    let made = read_units(archive, index, &reading, wanted, make)?;
    lose_patched(archive, index, patched, shared, wanted)?;
    Ok(made)
}

fn extract_units(
    archive: &Archive,
    index: &Index,
    shared: &Shared<'_>,
) -> Result<UnpackSummary, EngineError> {
    let wanted = |entry: &IndexEntry| shared.wants(entry);
    let make = || Extractor::new(shared, true);
    let mut all = make()?;
    // What is in ancestors comes first; links, wherever they are, wait until all is there.
    let elsewhere = entries_elsewhere(archive, index)?;
    for (position, ancestor) in (0_u32..).zip(&index.description.ancestors) {
        if !elsewhere.values().any(|reference| reference.ancestor == position) {
            continue;
        }
        let opened = match archive.open_ancestor(ancestor) {
            Err(_) if shared.lost.is_some() => {
                lose_ancestor(archive, index, position, shared)?;
                continue;
            }
            result => result?,
        };
        let Some(held) = &opened.index else { return Err(opened.damaged("it has no index")) };
        let meant = |entry: &IndexEntry| {
            let found = elsewhere.get(&key(trimmed(&entry.info.name)));
            found.is_some_and(|reference| reference.means(position, entry))
        };
        let wanted = |entry: &IndexEntry| Ok(meant(entry) && wanted(entry)?);
        let make = || Ok(Chosen { extractor: Extractor::new(shared, true)?, meant: &meant });
        for other in read_noting(&opened, held, shared, &wanted, &make)? {
            all.join(other.extractor);
        }
    }
    for other in read_noting(archive, index, shared, &wanted, &make)? {
        all.join(other);
    }
    // Whatever the ancestors hold, what was planned has to be there.
    let left = shared.plan.entries.saturating_sub(all.taken());
    if left > 0 && shared.lost.is_none() && elsewhere.values().next().is_some() {
        return Err(archive.damaged(format!("its ancestors lack {left} of its entries")));
    }
    all.finish()
}

/// An entry that is in an ancestor, and what tells it from others of its name.
pub(in crate::engine) struct Reference {
    ancestor: u32,
    stamp: Key,
    /// For whoever looks for all of them.
    pub met: bool,
}

impl Reference {
    /// Whether this entry of the ancestor at this position is meant.
    pub(in crate::engine) fn means(&self, position: u32, entry: &IndexEntry) -> bool {
        self.ancestor == position && self.stamp == stamp(entry)
    }
}

/// What an entry and the one that it refers to have in common: change, inode, kind and size.
fn stamp(entry: &IndexEntry) -> Key {
    let mut bytes = [0; 29];
    bytes[..8].copy_from_slice(&entry.changed.seconds.to_le_bytes());
    bytes[8..12].copy_from_slice(&entry.changed.nanoseconds.to_le_bytes());
    bytes[12..20].copy_from_slice(&entry.inode.to_le_bytes());
    bytes[20..28].copy_from_slice(&entry.info.size.to_le_bytes());
    bytes[28] = entry.info.kind as u8;
    key(&bytes)
}

/// The entries of an archive that lie in its ancestors.
pub(in crate::engine) fn entries_elsewhere(
    archive: &Archive,
    index: &Index,
) -> Result<Table<Reference>, EngineError> {
    let mut rows = Vec::new();
    if !index.description.ancestors.is_empty() {
        archive.visit_index(index, &mut |entry| {
            if let Location::Ancestor(ancestor) = entry.location {
                let reference = Reference { ancestor, stamp: stamp(&entry), met: false };
                rows.push((key(trimmed(&entry.info.name)), reference));
            }
            Ok(())
        })?;
    }
    Ok(Table::new(rows))
}

/// Takes only those entries of an ancestor that are meant.
struct Chosen<'a, 'b> {
    extractor: Extractor<'a>,
    meant: &'b (dyn Fn(&IndexEntry) -> bool + Sync),
}

impl EntrySink for Chosen<'_, '_> {
    fn entry(
        &mut self,
        reader: &mut TarReader<&mut dyn Read>,
        entry: TarEntry,
        indexed: &IndexEntry,
    ) -> Result<(), EngineError> {
        if (self.meant)(indexed) { self.extractor.take(reader, entry) } else { Ok(()) }
    }

    fn broken(&mut self, mut broken: Broken) -> Result<(), EngineError> {
        broken.entries.retain(|entry| (self.meant)(entry));
        self.extractor.broken(broken)
    }
}
