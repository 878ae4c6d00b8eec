//! Reads an archive back and compares it with its manifest.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};

use super::archive::{Archive, Broken, EntrySink, Reading, read_units};
use super::codec::{Tap, hex, open_archive, open_stream};
use super::entry::{EntryInfo, EntryKind, Key, key, trimmed};
use super::error::EngineError;
use super::extract::entries_elsewhere;
use super::index::{Index, IndexEntry, Location};
use super::manifest::Manifest;
use super::pack::thread_count;
use super::progress::{Cancel, Progress};
use super::store::LocalStore;
use super::summary::Counts;
use super::survey::file_digest;
use super::tar::{TarEntry, TarReader};
use crate::failpoint;
use crate::spec::{ArchiveFormat, VerifyMode};

/// Names of damaged entries that an error lists.
const NAMES_LISTED: usize = 10;

/// Verifies an archive of the store and returns its manifest, unchanged.
///
/// `Full` reads every byte: size and SHA-256 of the file, every member against its BLAKE3, every
/// header against the index, every file against its BLAKE3, the index against the manifest, which
/// proves itself by its digest. Damage names the entries that it hits. `Quick` checks the manifest,
/// the size and the index, or, of archives without one, the first and last bytes.
///
/// An incremental archive is verified with every archive that it refers to.
pub fn verify(
    store: &LocalStore,
    name: &str,
    mode: VerifyMode,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Manifest, EngineError> {
    verify_chain(store, name, (mode, mode), progress, cancel)
}

/// The same for an archive alone: what it refers to is only compared by manifests and indexes. For
/// whoever has verified the parent just before.
pub fn verify_newest(
    store: &LocalStore,
    name: &str,
    mode: VerifyMode,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Manifest, EngineError> {
    verify_chain(store, name, (mode, VerifyMode::Quick), progress, cancel)
}

fn verify_chain(
    store: &LocalStore,
    name: &str,
    (mode, of_ancestors): (VerifyMode, VerifyMode),
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Manifest, EngineError> {
    failpoint::hit("verify.started");
    let manifest = store.read_manifest(name)?;
    let path = store.archive_path(name);
    let mut file = open_archive(&path)?;
    let report = |source| EngineError::Store { action: "reading", path: path.clone(), source };
    let size = file.metadata().map_err(report)?.len();
    if size != manifest.size_bytes {
        let detail = format!("it has {size} bytes, its manifest says {}", manifest.size_bytes);
        return Err(EngineError::damaged(name, detail));
    }
    if manifest.format_version < 2 {
        if mode == VerifyMode::Quick {
            quick(&mut file, &manifest)
                .map_err(report)?
                .map_or(Ok(()), |detail| Err(EngineError::damaged(name, detail)))?;
            return Ok(manifest);
        }
        progress.phase("verify");
        progress.total(manifest.counts.entries, manifest.source_bytes);
        return verify_stream(file, &manifest, progress, cancel).map(|()| manifest);
    }
    drop(file);
    let archive = Archive::open(&path, manifest.format)?;
    let index = archive.index.as_ref().ok_or_else(|| archive.damaged("it has no index"))?;
    if hex(&archive.index_hash) != manifest.content_digest {
        return Err(archive.damaged("the BLAKE3 digest of its index is not that of the manifest"));
    }
    if index.description.counts != manifest.counts
        || index.description.source_bytes != manifest.source_bytes
    {
        return Err(archive.damaged("its index and its manifest count different things"));
    }
    // An incremental archive is worth what all of its ancestors are worth.
    let ancestors = &index.description.ancestors;
    let named = ancestors.first();
    if manifest.parent.as_ref() != named {
        return Err(archive.damaged("its index and its manifest name different parents"));
    }
    for ancestor in ancestors {
        archive.open_ancestor(ancestor)?;
    }
    if mode == VerifyMode::Full {
        progress.phase("verify");
        progress.total(manifest.counts.entries, manifest.source_bytes);
        verify_members(&archive, index, &manifest, None, progress, cancel)?;
        check_references(&archive, index, cancel)?;
    }
    if of_ancestors == VerifyMode::Full {
        for (position, ancestor) in (0_u32..).zip(ancestors) {
            let opened = archive.open_ancestor(ancestor)?;
            let manifest = store.read_manifest(&ancestor.name)?;
            if let Some(held) = &opened.index {
                let heir = Heir { archive: &archive, index, position };
                verify_members(&opened, held, &manifest, Some(heir), progress, cancel)
                    .map_err(|error| archive.lacks(ancestor, error))?;
            }
        }
    }
    Ok(manifest)
}

/// Fails unless the ancestors hold every entry that the archive leaves to them.
fn check_references(archive: &Archive, index: &Index, cancel: &Cancel) -> Result<(), EngineError> {
    let mut left = entries_elsewhere(archive, index)?;
    for (position, ancestor) in (0_u32..).zip(&index.description.ancestors) {
        cancel.check()?;
        let opened = archive.open_ancestor(ancestor)?;
        let Some(held) = &opened.index else { return Err(opened.damaged("it has no index")) };
        opened.visit_index(held, &mut |entry| {
            let here = matches!(entry.location, Location::Here { .. });
            if let Some(reference) = left.get_mut(&key(trimmed(&entry.info.name)))
                && here
                && reference.means(position, &entry)
            {
                reference.met = true;
            }
            Ok(())
        })?;
    }
    match left.values().filter(|reference| !reference.met).count() {
        0 => Ok(()),
        count => Err(archive.damaged(format!("its ancestors lack {count} of its entries"))),
    }
}

/// An archive that refers to one that is read: it may have links of its own to files in there.
pub(super) struct Heir<'a> {
    archive: &'a Archive,
    index: &'a Index,
    /// The position among its ancestors of the one that is read.
    position: u32,
}

/// Compares everything in an archive with its index, and the file with the manifest.
fn verify_members(
    archive: &Archive,
    index: &Index,
    manifest: &Manifest,
    heir: Option<Heir<'_>>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), EngineError> {
    let contents = read_contents(archive, index, heir, progress, cancel)?;
    if contents.sha256 != manifest.sha256 {
        let detail = format!(
            "its SHA-256 is {}, its manifest says {}; every entry in it is whole",
            contents.sha256, manifest.sha256
        );
        return Err(archive.damaged(detail));
    }
    // What an incremental archive refers to is not in it; that is for whoever reads the chain.
    let elsewhere = !index.description.ancestors.is_empty();
    let same = contents.counts == manifest.counts && contents.bytes == manifest.source_bytes;
    if !elsewhere && !same {
        return Err(archive.damaged(format!(
            "it holds {:?} and {} bytes, its manifest says {:?} and {}",
            contents.counts, contents.bytes, manifest.counts, manifest.source_bytes
        )));
    }
    Ok(())
}

/// What an archive really holds.
pub(super) struct Contents {
    pub counts: Counts,
    /// Sizes of its files, holes included.
    pub bytes: u64,
    pub sha256: String,
    /// Length of the file.
    pub length: u64,
}

/// Reads everything in an archive and compares it with its index; damage names the entries it hits,
/// and the hard links to them, here and in the heir.
pub(super) fn read_contents(
    archive: &Archive,
    index: &Index,
    heir: Option<Heir<'_>>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Contents, EngineError> {
    let first = AtomicBool::new(true);
    let (sinks, digest) = std::thread::scope(|scope| {
        // Both read the same pages at about the same time; the disk is read once.
        let digest = scope.spawn(|| file_digest(&archive.path, cancel));
        let reading = Reading { threads: thread_count(None), cancel, patched: None };
        let sinks = read_units(archive, index, &reading, &|_| Ok(true), &|| {
            Ok(Verifier {
                progress,
                first: &first,
                counts: Counts::default(),
                bytes: 0,
                damage: Damage::default(),
                buffer: vec![0; 256 << 10],
            })
        });
        let digest = digest.join().unwrap_or_else(|_| Err(archive.damaged("it cannot be read")));
        (sinks, digest)
    });
    let mut counts = Counts::default();
    let mut bytes = 0_u64;
    let mut damage = Damage::default();
    for sink in sinks? {
        counts = counts.plus(sink.counts);
        bytes = bytes.saturating_add(sink.bytes);
        damage.join(sink.damage);
    }
    if !damage.hit.is_empty() {
        let here = |location| matches!(location, Location::Here { .. });
        damage.add_links(archive, index, &here)?;
        if let Some(heir) = heir {
            let there = |location| location == Location::Ancestor(heir.position);
            damage.add_links(heir.archive, heir.index, &there)?;
        }
    }
    if let Some(error) = damage.error(archive) {
        return Err(error);
    }
    let (sha256, length) = digest?;
    archive.check_tail(index)?;
    Ok(Contents { counts, bytes, sha256, length })
}

/// What was found to be damaged, for one message.
#[derive(Default)]
struct Damage {
    first: Option<String>,
    names: Vec<String>,
    /// Everything that is hit, listed or not.
    hit: HashSet<Key>,
}

impl Damage {
    fn add<'a>(&mut self, detail: String, entries: impl IntoIterator<Item = &'a EntryInfo>) {
        self.first.get_or_insert(detail);
        for entry in entries {
            self.name(entry);
        }
    }

    fn name(&mut self, entry: &EntryInfo) {
        if self.hit.insert(key(trimmed(&entry.name))) && self.names.len() < NAMES_LISTED {
            self.names.push(entry.display_name());
        }
    }

    /// Adds the links of an index to files that are hit: who asks for a file may know only that name.
    /// `holds` tells where an entry has to be for its name to mean what was read.
    fn add_links(
        &mut self,
        archive: &Archive,
        index: &Index,
        holds: &dyn Fn(Location) -> bool,
    ) -> Result<(), EngineError> {
        let mut files = HashSet::new();
        // A link comes after what it is a link to.
        archive.visit_index(index, &mut |entry| {
            let name = key(trimmed(&entry.info.name));
            let link = entry.info.kind == EntryKind::HardLink;
            let target = entry.info.link_target.as_deref().filter(|_| link).map(key);
            if target.is_some_and(|target| files.contains(&target)) {
                files.insert(name);
                self.name(&entry.info);
            } else if self.hit.contains(&name) && holds(entry.location) {
                files.insert(name);
            }
            Ok(())
        })
    }

    fn join(&mut self, other: Self) {
        if other.first.is_some() {
            self.first = self.first.take().or(other.first);
            self.hit.extend(other.hit);
            self.names.extend(other.names);
            self.names.truncate(NAMES_LISTED);
        }
    }

    fn error(mut self, archive: &Archive) -> Option<EngineError> {
        let detail = self.first?;
        self.names.sort();
        self.names.dedup();
        let shown: Vec<String> = self.names.iter().map(|name| format!("`{name}`")).collect();
        let more = match self.hit.len().saturating_sub(self.names.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let hit = if shown.is_empty() {
            String::new()
        } else {
            format!("; damaged are {}{more}", shown.join(", "))
        };
        Some(EngineError::Damaged {
            name: archive.label.clone(),
            detail: format!("{detail}{hit}"),
            hint: "restore from another backup or another copy of this archive; `backup extract \
                   --salvage` saves what is not damaged"
                .to_owned(),
        })
    }
}

struct Verifier<'a> {
    progress: &'a dyn Progress,
    first: &'a AtomicBool,
    counts: Counts,
    bytes: u64,
    damage: Damage,
    buffer: Vec<u8>,
}

impl EntrySink for Verifier<'_> {
    fn entry(
        &mut self,
        reader: &mut TarReader<&mut dyn Read>,
        entry: TarEntry,
        indexed: &IndexEntry,
    ) -> Result<(), EngineError> {
        if self.first.swap(false, Ordering::Relaxed) {
            failpoint::hit("verify.middle");
        }
        self.counts.add(entry.info.kind);
        self.bytes = self.bytes.saturating_add(entry.info.size);
        self.progress.advance(1, entry.info.size);
        let Some(expected) = indexed.hash else { return Ok(()) };
        // The map of a sparse file has been read already, and belongs to what was hashed.
        let mut hasher = blake3::Hasher::new();
        hasher.update(&entry.map);
        loop {
            let count = reader.read_data(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&self.buffer[..count]);
        }
        if *hasher.finalize().as_bytes() != expected {
            let detail = "a file does not have the BLAKE3 that its index says".to_owned();
            self.damage.add(detail, [&indexed.info]);
        }
        Ok(())
    }

    fn broken(&mut self, broken: Broken) -> Result<(), EngineError> {
        let detail = match broken.error {
            EngineError::Damaged { detail, .. } => detail,
            error => return Err(error),
        };
        self.damage.add(detail, broken.entries.iter().map(|entry| &entry.info));
        Ok(())
    }
}

/// Compares an archive of version 1, which has no index, with its manifest.
fn verify_stream(
    file: std::fs::File,
    manifest: &Manifest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), EngineError> {
    let name = &manifest.name;
    let tap = Tap::hashing();
    let stream = open_stream(file, manifest.format, &tap).map_err(|source| EngineError::Store {
        action: "reading",
        path: name.into(),
        source,
    })?;
    let mut content = Hashing::new(stream);
    let mut reader = TarReader::new(&mut content, name);
    let mut counts = Counts::default();
    let mut bytes = 0_u64;
    let mut buffer = vec![0; 256 << 10];
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        counts.add(entry.info.kind);
        bytes = bytes.saturating_add(entry.info.size);
        progress.advance(1, entry.info.size);
        // Without this a small file could keep the decompressor busy for hours.
        if counts.entries > manifest.counts.entries || bytes > manifest.source_bytes {
            let detail = "it holds more entries or bytes than its manifest says";
            return Err(EngineError::damaged(name, detail));
        }
        if counts.entries == 1 {
            failpoint::hit("verify.middle");
        }
        if entry.info.kind == EntryKind::File {
            while reader.read_data(&mut buffer)? > 0 {
                cancel.check()?;
            }
        }
    }
    let found = content.digest();
    let sha256 = tap.borrow_mut().digest();
    let mismatch = if tap.borrow().bytes != manifest.size_bytes {
        Some("there are bytes after the end of its compressed data".to_owned())
    } else if found != manifest.content_digest {
        Some("the BLAKE3 digest of its contents is not that of the manifest".to_owned())
    } else if sha256 != manifest.sha256 {
        Some(format!("its SHA-256 is {sha256}, its manifest says {}", manifest.sha256))
    } else if counts != manifest.counts {
        Some(format!("it holds {counts:?}, its manifest says {:?}", manifest.counts))
    } else if bytes != manifest.source_bytes {
        Some(format!("its files have {bytes} bytes, its manifest says {}", manifest.source_bytes))
    } else {
        None
    };
    mismatch.map_or(Ok(()), |detail| Err(EngineError::damaged(name, detail)))
}

/// What is wrong with the first or last bytes of an archive of version 1.
fn quick(file: &mut std::fs::File, manifest: &Manifest) -> std::io::Result<Option<String>> {
    let mut start = [0_u8; 4];
    let mut end = [0_u8; 4];
    if manifest.size_bytes < 8 {
        return Ok(Some("it is too short for an archive".to_owned()));
    }
    file.read_exact(&mut start)?;
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut end)?;
    let right = match manifest.format {
        // The last four bytes of a gzip member are its raw length.
        ArchiveFormat::TarGz => start[..3] == [0x1f, 0x8b, 8],
        ArchiveFormat::TarZst => start == [0x28, 0xb5, 0x2f, 0xfd],
        ArchiveFormat::Tar => end == [0; 4],
    };
    Ok((!right).then(|| "its first or last bytes are not those of its format".to_owned()))
}

/// Hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    /// BLAKE3, in hex, of everything that was read so far.
    pub(super) fn digest(&self) -> String {
        hex(self.hasher.finalize().as_bytes())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
