//! The second reading of an archive: puts the entries in place.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{apply, apply_to_special, apply_to_symlink};
use super::beneath::{Beneath, failed};
use super::names::{Key, Position, clean, key};
use super::run::Shared;
use crate::engine::archive::{Broken, EntrySink};
use crate::engine::entry::{EntryInfo, EntryKind};
use crate::engine::error::EngineError;
use crate::engine::index::IndexEntry;
use crate::engine::summary::{UnpackSummary, WarningKind};
use crate::engine::tar::{TarEntry, TarReader};

const BUFFER: usize = 256 << 10;

pub(super) struct Extractor<'a> {
    shared: &'a Shared<'a>,
    /// Hard links wait for the end: what they name may be another thread's.
    defer_links: bool,
    destinations: Vec<Beneath>,
    /// Where the files are that hard links name; nothing while they are among the late ones.
    placed: HashMap<Key, Option<Position>>,
    /// Symlinks, and hard links that have to wait, with their place in the archive's order.
    late: Vec<(u64, EntryInfo, Position, Key)>,
    written_repeats: HashSet<Key>,
    directories: Vec<(EntryInfo, Position)>,
    summary: UnpackSummary,
    buffer: Vec<u8>,
}

impl EntrySink for Extractor<'_> {
    fn entry(
        &mut self,
        reader: &mut TarReader<&mut dyn Read>,
        entry: TarEntry,
        _: &IndexEntry,
    ) -> Result<(), EngineError> {
        self.take(reader, entry)
    }

    fn broken(&mut self, broken: Broken) -> Result<(), EngineError> {
        if self.shared.lost.is_none() {
            return Err(broken.error);
        }
        for entry in &broken.entries {
            if self.shared.wants(entry)? {
                self.shared.lose(entry.info.display_name());
            }
        }
        Ok(())
    }
}

impl<'a> Extractor<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, defer_links: bool) -> Result<Self, EngineError> {
        Ok(Self {
            shared,
            defer_links,
            destinations: shared
                .places
                .iter()
                .map(|(directory, _)| Beneath::open(directory))
                .collect::<Result<_, _>>()?,
            placed: HashMap::new(),
            late: Vec::new(),
            written_repeats: HashSet::new(),
            directories: Vec::new(),
            summary: UnpackSummary::default(),
            buffer: vec![0; BUFFER],
        })
    }

    /// How many entries were put in place, or wait for the end.
    pub(super) fn taken(&self) -> u64 {
        // Directories are counted when they are created.
        self.summary.entries + self.late.len() as u64
    }

    /// Takes over what another thread has unpacked and what it has left for the end.
    pub(super) fn join(&mut self, other: Self) {
        self.placed.extend(other.placed);
        self.late.extend(other.late);
        self.directories.extend(other.directories);
        self.summary.join(other.summary);
    }
}

impl Extractor<'_> {
    pub(super) fn take<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: TarEntry,
    ) -> Result<(), EngineError> {
        let Some((name_key, position)) =
            self.shared.plan.place(self.shared.archive, &entry.info)?
        else {
            return Ok(());
        };
        for told in &entry.left {
            self.summary.warn(entry.info.display_name(), WarningKind::Attributes, told);
        }
        let order = reader.position();
        let (index, relative) = position;
        let prefix = &self.shared.places[index].1;
        let relative = if prefix.is_empty() { relative } else { prefix.clone() };
        let position = (index, relative);
        match entry.info.kind {
            EntryKind::Directory => {
                self.destinations[index].directory(&position.1)?;
                self.directories.push((entry.info, position));
                self.done(false, 0);
            }
            EntryKind::File => {
                // A file may come twice; only what this run wrote is ever replaced.
                let again = self.shared.plan.repeated.contains(&name_key)
                    && !self.written_repeats.insert(name_key);
                self.file(reader, &entry, &position, again)?;
                self.remember(name_key, Some(position));
                self.done(true, entry.info.size);
                if entry.info.size > 0 && self.shared.first_file.swap(false, Ordering::Relaxed) {
                    crate::failpoint::hit("extract.middle");
                }
            }
            EntryKind::Symlink => {
                self.remember(name_key, None);
                self.late.push((order, entry.info, position, name_key));
            }
            EntryKind::HardLink => self.hard_link(order, entry.info, position, name_key)?,
            EntryKind::Fifo | EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                self.special(&entry.info, &position)?;
                self.remember(name_key, Some(position));
                self.done(false, 0);
            }
        }
        Ok(())
    }

    fn remember(&mut self, name: Key, position: Option<Position>) {
        if self.shared.plan.link_targets.contains(&name) {
            self.placed.insert(name, position);
        }
    }

    fn done(&mut self, file: bool, bytes: u64) {
        self.summary.entries += 1;
        self.summary.files += u64::from(file);
        self.summary.bytes = self.summary.bytes.saturating_add(bytes);
        self.shared.progress.advance(1, 0);
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: &TarEntry,
        (index, relative): &Position,
        again: bool,
    ) -> Result<(), EngineError> {
        let beneath = &mut self.destinations[*index];
        let path = beneath.path(relative);
        let (parent, name) = beneath.parent(relative)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if again {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())
                .map_err(|error| failed("replacing", &path, error))?;
        }
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("creating", &path, error))?;
        let file = File::from(file);
        let report =
            |source| EngineError::Extract { action: "writing", path: path.clone(), source };
        let mut end = 0;
        for segment in &entry.segments {
            let mut done = 0;
            while done < segment.length {
                self.shared.cancel.check()?;
                let wanted = usize::try_from(segment.length - done).unwrap_or(BUFFER).min(BUFFER);
                let count = match reader.read_data(&mut self.buffer[..wanted]) {
                    Err(error) if self.shared.lost.is_some() => {
                        // Better none than one that looks whole.
                        let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
                        return Err(error);
                    }
                    result => result?,
                };
                file.write_all_at(&self.buffer[..count], segment.offset + done).map_err(report)?;
                done += count as u64;
                self.shared.progress.advance(0, count as u64);
            }
            end = segment.offset + segment.length;
        }
        if end < entry.info.size {
            file.set_len(entry.info.size).map_err(report)?;
        }
        let stored: u64 = entry.segments.iter().map(|segment| segment.length).sum();
        self.shared.progress.advance(0, entry.info.size.saturating_sub(stored));
        apply(&file, &entry.info, self.shared.options.restore_owner, &mut self.summary)
            .map_err(|error| failed("setting the attributes of", &path, error))
    }

    fn hard_link(
        &mut self,
        order: u64,
        info: EntryInfo,
        position: Position,
        name: Key,
    ) -> Result<(), EngineError> {
        if self.defer_links {
            self.late.push((order, info, position, name));
            return Ok(());
        }
        let target = self.target_of(&info)?;
        match self.placed.get(&target).cloned() {
            Some(Some(source)) => self.link(&info, &source, &position),
            // Links to symlinks wait for the symlinks.
            Some(None) => {
                self.late.push((order, info, position, name));
                Ok(())
            }
            None => Err(self.link_to_nothing(&info)),
        }
    }

    fn link_to_nothing(&self, info: &EntryInfo) -> EngineError {
        let detail = "the file that it is a hard link to was not unpacked";
        EngineError::unsafe_entry(self.shared.archive, &info.name, detail)
    }

    fn target_of(&self, info: &EntryInfo) -> Result<Key, EngineError> {
        let target = info.link_target.as_deref().unwrap_or_default();
        let target = key(&clean(self.shared.archive, target)?);
        Ok(self.shared.plan.links.get(&target).copied().unwrap_or(target))
    }

    /// Gives a file that is in place a further name.
    fn link(
        &mut self,
        info: &EntryInfo,
        source: &Position,
        position: &Position,
    ) -> Result<(), EngineError> {
        if source != position {
            let (source_parent, source_name) =
                self.destinations[source.0].separate_parent(&source.1)?;
            let beneath = &mut self.destinations[position.0];
            let path = beneath.path(&position.1);
            let (parent, name) = beneath.parent(&position.1)?;
            let flags = AtFlags::empty();
            match rustix::fs::linkat(&source_parent, source_name, parent, name, flags) {
                Ok(()) => {}
                Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::NOTSUP) => {
                    copy_file(source_parent.as_fd(), source_name, parent, name)
                        .and_then(|copy| {
                            let owner = self.shared.options.restore_owner;
                            apply(&copy, info, owner, &mut self.summary)
                        })
                        .map_err(|error| failed("copying to", &path, error))?;
                    let message = "the file system cannot link it; it is a copy";
                    self.summary.warn(info.display_name(), WarningKind::LinkCopied, message);
                }
                Err(error) => return Err(failed("linking", &path, error)),
            }
        }
        // As when packing: a further name of a file is an entry, not another file.
        self.done(false, 0);
        Ok(())
    }

    fn special(
        &mut self,
        info: &EntryInfo,
        (index, relative): &Position,
    ) -> Result<(), EngineError> {
        let (file_type, device) = match info.kind {
            EntryKind::CharacterDevice => (FileType::CharacterDevice, info.device),
            EntryKind::BlockDevice => (FileType::BlockDevice, info.device),
            _ => (FileType::Fifo, (0, 0)),
        };
        let beneath = &mut self.destinations[*index];
        let path = beneath.path(relative);
        let (parent, name) = beneath.parent(relative)?;
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device)
            .map_err(|error| failed("creating", &path, error))?;
        let owner = self.shared.options.restore_owner;
        apply_to_special(parent, name, info, owner, &mut self.summary)
            .map_err(|error| failed("setting the attributes of", &path, error))
    }

    /// Symlinks, then what is linked to them, then directories from the deepest up, then the disk.
    pub(super) fn finish(mut self) -> Result<UnpackSummary, EngineError> {
        let mut late = std::mem::take(&mut self.late);
        // Symlinks first: what is linked to one may be in another archive of the chain.
        late.sort_by_key(|(order, info, ..)| (info.kind == EntryKind::HardLink, *order));
        for (_, info, position, name) in late {
            self.shared.cancel.check()?;
            if info.kind == EntryKind::HardLink {
                let target = self.target_of(&info)?;
                match self.placed.get(&target).cloned() {
                    Some(Some(source)) => {
                        self.link(&info, &source, &position)?;
                        if self.shared.is_patched(&target) {
                            self.shared.lose(info.display_name());
                        }
                    }
                    _ if self.shared.lose(info.display_name()) => {}
                    _ => return Err(self.link_to_nothing(&info)),
                }
                continue;
            }
            self.symlink(&info, &position)?;
            self.remember(name, Some(position));
            self.done(false, 0);
        }
        // A directory's name is shorter than that of anything in it.
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by_key(|(_, (_, relative))| std::cmp::Reverse(relative.len()));
        for (info, (index, relative)) in directories {
            let beneath = &mut self.destinations[index];
            let path = beneath.path(&relative);
            let directory = beneath.directory(&relative)?;
            apply(directory, &info, self.shared.options.restore_owner, &mut self.summary)
                .map_err(|error| failed("setting the attributes of", &path, error))?;
        }
        for beneath in &self.destinations {
            rustix::fs::syncfs(beneath.root())
                .map_err(|error| failed("syncing", &beneath.path(b""), error))?;
        }
        Ok(self.summary)
    }

    fn symlink(
        &mut self,
        info: &EntryInfo,
        (index, relative): &Position,
    ) -> Result<(), EngineError> {
        let beneath = &mut self.destinations[*index];
        let path = beneath.path(relative);
        let (parent, name) = beneath.parent(relative)?;
        let target = info.link_target.as_deref().unwrap_or_default();
        rustix::fs::symlinkat(target, parent, name)
            .map_err(|error| failed("creating", &path, error))?;
        let owner = self.shared.options.restore_owner;
        apply_to_symlink(parent, name, info, owner, &mut self.summary)
            .map_err(|error| failed("setting the attributes of", &path, error))
    }
}

/// Copies a file of this run to a new name.
fn copy_file(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(from, from_name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut copy = File::from(rustix::fs::openat(to, to_name, flags, mode)?);
    std::io::copy(&mut source, &mut copy)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(copy)
}
