//! Walks and reads: what is found becomes entries of the tar stream and of the index.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::links::{FirstNames, Met};
use super::previous::Previous;
use super::stream::MemberStream;
use super::throttle::Throttle;
use super::{PackOptions, display_path, write_failed};
use crate::engine::entry::{EntryInfo, EntryKind, display_start};
use crate::engine::error::EngineError;
use crate::engine::index::{IndexEntry, IndexWriter, Location, NAME_LIMIT};
use crate::engine::manifest::ParentArchive;
use crate::engine::progress::{Cancel, Progress};
use crate::engine::roots::Root;
use crate::engine::source::{self, AttributeSource, Reader, TooManySegments};
use crate::engine::summary::{PackSummary, WarningKind};
use crate::engine::tar::{END_OF_ARCHIVE, SEGMENT_LIMIT, Segment, encode_map, entry_header};
use crate::engine::walk::{Boundaries, Found, Visitor, walk};

const UNREADABLE_LISTED: usize = 20;

/// What reading found out; hashes and checksums come from the others.
pub(super) struct Packed {
    pub summary: PackSummary,
    pub index: IndexWriter,
    /// The archives that entries refer to.
    pub ancestors: Vec<ParentArchive>,
}

/// Feeds all roots into the stream.
pub(super) fn pack_roots(
    options: &PackOptions,
    boundaries: &Boundaries,
    stream: MemberStream,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Packed, EngineError> {
    let mut packer = Packer {
        stream,
        index: IndexWriter::new().map_err(write_failed)?,
        summary: PackSummary::default(),
        links: FirstNames::default(),
        reader: Reader::default(),
        previous: options.parent.as_ref().map(Previous::open).transpose()?,
        throttle: Throttle::new(options.io_limit),
        allow_unreadable: options.allow_unreadable,
        unreadable: Vec::new(),
        progress,
        cancel,
    };
    let before: Vec<_> = options.roots.iter().map(identity).collect();
    for root in &options.roots {
        walk(root, boundaries, cancel, &mut packer)?;
    }
    for (root, before) in options.roots.iter().zip(before) {
        if before.is_some() && identity(root) != before {
            let message = "another was put in its place while it was read";
            packer.left_out(&root.path, WarningKind::Vanished, message);
        }
    }
    if !packer.unreadable.is_empty() {
        return Err(packer.refusal());
    }
    packer.stream.end(&END_OF_ARCHIVE)?;
    let Packer { summary, mut index, previous, .. } = packer;
    let mut ancestors = Vec::new();
    if let Some(previous) = previous {
        previous.removed(&mut |name| index.remove(name).map_err(write_failed))?;
        ancestors = previous.ancestors;
    }
    Ok(Packed { summary, index, ancestors })
}

/// What tells a root from another of its name.
fn identity(root: &Root) -> Option<(u64, u64)> {
    root.path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

struct Packer<'a> {
    stream: MemberStream,
    index: IndexWriter,
    summary: PackSummary,
    links: FirstNames,
    reader: Reader,
    previous: Option<Previous>,
    throttle: Throttle,
    allow_unreadable: bool,
    unreadable: Vec<String>,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Visitor for Packer<'_> {
    fn directory(
        &mut self,
        found: &Found<'_>,
        directory: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), EngineError> {
        if found.name.len() >= NAME_LIMIT {
            return self.unreadable(found.path, Errno::NAMETOOLONG);
        }
        let name = [found.name, b"/"].concat();
        let mut entry = source::describe(name, EntryKind::Directory, stat);
        if self.refer(&entry, stat)? {
            return Ok(());
        }
        self.read_attributes(&mut entry, &AttributeSource::Open(directory.as_fd()), found.path);
        self.write_entry(entry, stat, found.path)
    }

    fn leaf(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
        if found.name.len() > NAME_LIMIT {
            return self.unreadable(found.path, Errno::NAMETOOLONG);
        }
        if found.file_type == FileType::RegularFile {
            return self.file(found);
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = match rustix::fs::statat(found.parent, found.file_name, flags) {
            Ok(stat) => stat,
            Err(error) => return self.missed(found.path, error),
        };
        match source::kind_of(FileType::from_raw_mode(stat.st_mode)) {
            None => {
                self.left_out(found.path, WarningKind::SocketSkipped, "sockets are not archived");
                Ok(())
            }
            Some(EntryKind::File) => self.file(found),
            Some(EntryKind::Directory) => self.missed(found.path, Errno::LOOP),
            Some(kind) => self.special(found, kind, &stat),
        }
    }

    fn unreadable(&mut self, path: &Path, error: Errno) -> Result<(), EngineError> {
        let message = std::io::Error::from(error).to_string();
        // That this process lacks something says nothing about the path.
        let exhausted = matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM);
        if self.allow_unreadable && !exhausted {
            self.summary.warn(display_path(path), WarningKind::Unreadable, message);
            return Ok(());
        }
        self.unreadable.push(format!("{} ({message})", display_path(path)));
        // Enough to act on; the archive is lost anyway.
        if self.unreadable.len() >= UNREADABLE_LISTED { Err(self.refusal()) } else { Ok(()) }
    }

    fn left_out(&mut self, path: &Path, kind: WarningKind, message: &str) {
        self.summary.warn(display_path(path), kind, message);
    }
}

impl Packer<'_> {
    fn refusal(&mut self) -> EngineError {
        let paths = std::mem::take(&mut self.unreadable);
        EngineError::Unreadable { total: paths.len(), paths }
    }

    fn missed(&mut self, path: &Path, error: Errno) -> Result<(), EngineError> {
        let (kind, message) = match error {
            Errno::NOENT | Errno::STALE => {
                (WarningKind::Vanished, "it was removed before it could be read")
            }
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                (WarningKind::Changed, "it was replaced by something else before it could be read")
            }
            error => return self.unreadable(path, error),
        };
        self.left_out(path, kind, message);
        Ok(())
    }

    fn special(
        &mut self,
        found: &Found<'_>,
        kind: EntryKind,
        stat: &Stat,
    ) -> Result<(), EngineError> {
        let attributes = AttributeSource::Named(found.parent, found.file_name);
        if self.add_link(found, &attributes, stat)? {
            return Ok(());
        }
        let mut entry = source::describe(found.name.to_vec(), kind, stat);
        if kind == EntryKind::Symlink {
            match rustix::fs::readlinkat(found.parent, found.file_name, Vec::new()) {
                Ok(target) => entry.link_target = Some(target.into_bytes()),
                Err(Errno::INVAL) => return self.missed(found.path, Errno::LOOP),
                Err(error) => return self.missed(found.path, error),
            }
        }
        if self.refer(&entry, stat)? {
            self.links.remember(found.name, stat, || source::born(&attributes, stat));
            return Ok(());
        }
        self.read_attributes(&mut entry, &attributes, found.path);
        self.write_entry(entry, stat, found.path)?;
        self.links.remember(found.name, stat, || source::born(&attributes, stat));
        Ok(())
    }

    fn file(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
        if self.previous.is_some() && self.refer_to_file(found)? {
            return Ok(());
        }
        let file = match source::open(found.parent, found.file_name, OFlags::empty()) {
            Ok(file) => file,
            Err(error) => return self.missed(found.path, error),
        };
        let stat = match rustix::fs::fstat(&file) {
            Ok(stat) => stat,
            Err(error) => return self.missed(found.path, error),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return self.missed(found.path, Errno::LOOP);
        }
        let opened = AttributeSource::Open(file.as_fd());
        if self.add_link(found, &opened, &stat)? {
            return Ok(());
        }
        let segments = source::data_segments(&file, &stat).unwrap_or_else(|TooManySegments| {
            let message = format!("it has more than {SEGMENT_LIMIT} pieces: its holes are stored");
            self.left_out(found.path, WarningKind::HolesStored, &message);
            None
        });
        #[cfg(test)]
        let _ = source::hook::run(source::hook::Stage::Described, found.file_name);
        if !self.unreadable.is_empty() {
            // The archive is lost; only what else cannot be opened is still of interest.
            return Ok(());
        }
        let mut entry = source::describe(found.name.to_vec(), EntryKind::File, &stat);
        self.read_attributes(&mut entry, &opened, found.path);
        let size = entry.size;
        let map = segments.as_deref().map(encode_map);
        let whole = [Segment { offset: 0, length: size }];
        let parts: &[Segment] = segments.as_deref().unwrap_or(&whole);
        let data: u64 = parts.iter().map(|part| part.length).sum();
        let stored = data + map.as_ref().map_or(0, |map| map.len() as u64);
        entry.sparse = map.is_some();
        let (header, complete) = entry_header(&entry, stored);
        if map.is_some()
            && let Some(first) = parts.iter().find(|part| part.length > 0)
            && let Err(error) = self.reader.read(&file, &stat, &mut [0], first.offset)
        {
            return self.unreadable(found.path, error);
        }
        self.stream.begin(&header, stored)?;
        let offset = self.stream.offset() - header.len() as u64;
        // The first piece is read before the entry counts, so that a file which cannot be read at
        // all leaves nothing behind.
        let mut first = None;
        if map.is_none() && size > 0 {
            let room = self.stream.room(size)?;
            match self.reader.read(&file, &stat, room, 0) {
                Ok(count) => first = Some(count),
                Err(error) => {
                    self.stream.retract();
                    return self.unreadable(found.path, error);
                }
            }
        }
        if !complete {
            self.too_many_attributes(found.path);
        }
        let location = Location::Here { offset, header: header.len() as u64, stored };
        self.count(entry, &stat, complete, location, stored > 0)?;
        self.links.remember(found.name, &stat, || source::born(&opened, &stat));
        if let Some(map) = map {
            self.copy_bytes(&map)?;
        }
        for part in parts {
            self.copy_part(&file, &stat, part, first.take(), found.path)?;
        }
        self.summary.source_bytes = self.summary.source_bytes.saturating_add(size);
        self.progress.advance(0, size.saturating_sub(data));
        self.compare(&file, &stat, found.path);
        Ok(())
    }

    /// Refers to the parent's entry instead of opening a file that has not changed since.
    fn refer_to_file(&mut self, found: &Found<'_>) -> Result<bool, EngineError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        // Whatever is wrong with it shows again when it is opened.
        let Ok(stat) = rustix::fs::statat(found.parent, found.file_name, flags) else {
            return Ok(false);
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let named = AttributeSource::Named(found.parent, found.file_name);
        if self.add_link(found, &named, &stat)? {
            return Ok(true);
        }
        let entry = source::describe(found.name.to_vec(), EntryKind::File, &stat);
        let size = entry.size;
        if !self.refer(&entry, &stat)? {
            return Ok(false);
        }
        self.links.remember(found.name, &stat, || source::born(&named, &stat));
        self.summary.source_bytes = self.summary.source_bytes.saturating_add(size);
        self.progress.advance(0, size);
        Ok(true)
    }

    /// Refers to the parent's entry if nothing has changed since.
    fn refer(&mut self, entry: &EntryInfo, stat: &Stat) -> Result<bool, EngineError> {
        let Some(previous) = &mut self.previous else { return Ok(false) };
        let Some(reference) = previous.unchanged(entry, stat) else { return Ok(false) };
        self.summary.counts.add(entry.kind);
        self.index.add(&reference, false).map_err(write_failed)?;
        self.progress.advance(1, 0);
        Ok(true)
    }

    fn copy_bytes(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            let room = self.stream.room(bytes.len() as u64)?;
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            self.stream.commit(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    /// Writes exactly the announced bytes, whatever the file does meanwhile. `first` bytes are in
    /// their place already.
    fn copy_part(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        part: &Segment,
        mut first: Option<usize>,
        path: &Path,
    ) -> Result<(), EngineError> {
        let mut done = 0;
        while done < part.length {
            self.cancel.check()?;
            let room = self.stream.room(part.length - done)?;
            let wanted = room.len();
            let read = match first.take() {
                Some(count) => Ok(count),
                None => self.reader.read(file, stat, room, part.offset + done),
            };
            // Shorter than announced: the missing bytes are zeros, and `compare` says so. After an
            // error too: the header is out, and its place has to be filled with something.
            room[read.unwrap_or(0)..].fill(0);
            self.stream.commit(wanted)?;
            if let Err(error) = read {
                self.unreadable(path, error)?;
            }
            done += wanted as u64;
            self.progress.advance(0, wanted as u64);
            self.throttle.take(wanted as u64, self.cancel)?;
        }
        Ok(())
    }

    /// Whether the file is still what its header says, after all of it was read.
    fn compare(&mut self, file: &OwnedFd, before: &Stat, path: &Path) {
        let Ok(after) = rustix::fs::fstat(file) else { return };
        let (first, last) = (source::size(before), source::size(&after));
        let (kind, message) = if last < first {
            let message = format!("it shrank from {first} to {last} bytes; the rest is zeros");
            (WarningKind::Shrank, message)
        } else if last > first {
            (WarningKind::Grew, format!("it grew from {first} to {last} bytes; it was cut"))
        } else if source::modified(before) != source::modified(&after) {
            (WarningKind::Changed, "it was written to while it was read".to_owned())
        } else if is_touched(before, &after) {
            let message = "it was written to while it was read, or its attributes were changed";
            (WarningKind::Changed, message.to_owned())
        } else {
            return;
        };
        self.left_out(path, kind, &message);
    }

    /// Adds a hard link if the file is in the archive already.
    fn add_link(
        &mut self,
        found: &Found<'_>,
        file: &AttributeSource<'_>,
        stat: &Stat,
    ) -> Result<bool, EngineError> {
        let first = match self.links.take(stat, || source::born(file, stat)) {
            Met::First => return Ok(false),
            Met::Other => {
                let message = "its inode was another file's, or it was written to, when that was read: it is stored \
                               as a file of its own";
                self.left_out(found.path, WarningKind::Changed, message);
                return Ok(false);
            }
            Met::Again(first) => first,
        };
        let mut entry = source::describe(found.name.to_vec(), EntryKind::HardLink, stat);
        entry.link_target = Some(first);
        if let Some(previous) = &mut self.previous {
            previous.see(found.name);
        }
        self.write_entry(entry, stat, found.path)?;
        Ok(true)
    }

    fn read_attributes(
        &mut self,
        entry: &mut EntryInfo,
        attributes: &AttributeSource<'_>,
        path: &Path,
    ) {
        match source::attributes(attributes) {
            Ok(attributes) => {
                entry.xattrs = attributes.read;
                for (name, error) in attributes.unread {
                    let (name, error) = (display_start(&name), std::io::Error::from(error));
                    let message = format!("its attribute {name} could not be read: {error}");
                    self.left_out(path, WarningKind::Attributes, &message);
                }
            }
            Err(error) => {
                let message = format!(
                    "its extended attributes could not be read: {}",
                    std::io::Error::from(error)
                );
                self.left_out(path, WarningKind::Attributes, &message);
            }
        }
    }

    fn too_many_attributes(&mut self, path: &Path) {
        let message = "its extended attributes are too long for an archive and are left out";
        self.left_out(path, WarningKind::Attributes, message);
    }

    /// Adds an entry without data.
    fn write_entry(
        &mut self,
        entry: EntryInfo,
        stat: &Stat,
        path: &Path,
    ) -> Result<(), EngineError> {
        let (header, complete) = entry_header(&entry, 0);
        self.stream.begin(&header, 0)?;
        if !complete {
            self.too_many_attributes(path);
        }
        let length = header.len() as u64;
        let offset = self.stream.offset() - length;
        let location = Location::Here { offset, header: length, stored: 0 };
        self.count(entry, stat, complete, location, false)
    }

    /// Adds an entry to index and summary.
    fn count(
        &mut self,
        mut info: EntryInfo,
        stat: &Stat,
        complete: bool,
        location: Location,
        hash_follows: bool,
    ) -> Result<(), EngineError> {
        let attributes = std::mem::take(&mut info.xattrs);
        self.summary.counts.add(info.kind);
        let entry = IndexEntry {
            info,
            has_xattrs: complete && !attributes.is_empty(),
            changed: source::changed(stat),
            file_system: stat.st_dev,
            inode: stat.st_ino,
            location,
            hash: None,
        };
        self.index.add(&entry, hash_follows).map_err(write_failed)?;
        self.progress.advance(1, 0);
        Ok(())
    }
}

/// Whether a file was changed in a way that does not show in its size or time: whoever writes can put the time back.
/// Names that came or went count too, and say nothing of what is in it.
fn is_touched(before: &Stat, after: &Stat) -> bool {
    source::changed(before) != source::changed(after) && before.st_nlink == after.st_nlink
}
