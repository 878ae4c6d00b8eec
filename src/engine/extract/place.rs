//! The second reading of an archive: puts the entries in place.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::UnpackOptions;
use super::attributes::{apply, apply_to_special, apply_to_symlink};
use super::beneath::{Beneath, failed};
use super::check::Plan;
use super::names::{Key, Position, clean, key};
use crate::engine::codec::archive_label;
use crate::engine::entry::{EntryInfo, EntryKind};
use crate::engine::error::EngineError;
use crate::engine::listing::open_reader;
use crate::engine::progress::{Cancel, Progress};
use crate::engine::summary::{UnpackSummary, WarningKind};
use crate::engine::tar::{TarEntry, TarReader};
use crate::spec::ArchiveFormat;

const BUFFER: usize = 256 << 10;

/// Unpacks what the plan selects.
pub(super) fn extract(
    path: &Path,
    format: ArchiveFormat,
    options: &UnpackOptions,
    plan: &Plan,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<UnpackSummary, EngineError> {
    let mut destinations = Vec::new();
    let mut prefixes = Vec::new();
    for (index, (_, place)) in options.destinations.iter().enumerate() {
        let (directory, prefix) = match (place.parent(), place.file_name()) {
            (Some(parent), Some(name)) if plan.single_files.contains(&index) => {
                (parent, name.as_bytes().to_vec())
            }
            _ => (place.as_path(), Vec::new()),
        };
        destinations.push(Beneath::open(directory)?);
        prefixes.push(prefix);
    }
    let mut extractor = Extractor {
        archive: archive_label(path),
        options,
        plan,
        destinations,
        prefixes,
        placed: HashMap::new(),
        late: Vec::new(),
        written_repeats: HashSet::new(),
        directories: Vec::new(),
        summary: UnpackSummary::default(),
        buffer: vec![0; BUFFER],
        first_file: true,
        progress,
        cancel,
    };
    let mut reader = open_reader(path, format)?;
    while let Some(entry) = reader.next_entry()? {
        cancel.check()?;
        extractor.entry(&mut reader, entry)?;
    }
    extractor.finish()
}

struct Extractor<'a> {
    archive: String,
    options: &'a UnpackOptions,
    plan: &'a Plan,
    destinations: Vec<Beneath>,
    /// For a root that is a file: its name at the destination.
    prefixes: Vec<Vec<u8>>,
    /// Where the files are that hard links name; nothing while they are among the late ones.
    placed: HashMap<Key, Option<Position>>,
    /// Symlinks, and hard links to symlinks, in the archive's order.
    late: Vec<(EntryInfo, Position, Key)>,
    written_repeats: HashSet<Key>,
    directories: Vec<(EntryInfo, Position)>,
    summary: UnpackSummary,
    buffer: Vec<u8>,
    first_file: bool,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Extractor<'_> {
    fn entry<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: TarEntry,
    ) -> Result<(), EngineError> {
        let name = clean(&self.archive, &entry.info.name)?;
        let name_key = key(&name);
        let directory = entry.info.kind == EntryKind::Directory;
        let position = self.plan.selector.position(&name);
        let selected = position
            .as_ref()
            .is_some_and(|position| self.plan.selector.selects(&name, position, directory));
        let position = match (position, self.plan.stand_ins.get(&name_key)) {
            (Some(position), _) if selected => position,
            (Some(position), _) if directory && self.plan.above_selected.contains(&name_key) => {
                position
            }
            (_, Some(stand_in)) if entry.info.kind != EntryKind::HardLink => stand_in.clone(),
            _ => return Ok(()),
        };
        let (index, relative) = position;
        let relative =
            if self.prefixes[index].is_empty() { relative } else { self.prefixes[index].clone() };
        let position = (index, relative);
        match entry.info.kind {
            EntryKind::Directory => {
                self.destinations[index].directory(&position.1)?;
                self.directories.push((entry.info, position));
                self.done(false, 0);
            }
            EntryKind::File => {
                // A file may come twice; only what this run wrote is ever replaced.
                let again = self.plan.repeated.contains(&name_key)
                    && !self.written_repeats.insert(name_key);
                self.file(reader, &entry, &position, again)?;
                self.remember(name_key, Some(position));
                self.done(true, entry.info.size);
                if entry.info.size > 0 && std::mem::take(&mut self.first_file) {
                    crate::failpoint::hit("extract.middle");
                }
            }
            EntryKind::Symlink => {
                self.remember(name_key, None);
                self.late.push((entry.info, position, name_key));
            }
            EntryKind::HardLink => self.hard_link(entry.info, position, name_key)?,
            EntryKind::Fifo | EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                self.special(&entry.info, &position)?;
                self.remember(name_key, Some(position));
                self.done(false, 0);
            }
        }
        Ok(())
    }

    fn remember(&mut self, name: Key, position: Option<Position>) {
        if self.plan.link_targets.contains(&name) {
            self.placed.insert(name, position);
        }
    }

    fn done(&mut self, file: bool, bytes: u64) {
        self.summary.entries += 1;
        self.summary.files += u64::from(file);
        self.summary.bytes = self.summary.bytes.saturating_add(bytes);
        self.progress.advance(1, 0);
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
                self.cancel.check()?;
                let wanted = usize::try_from(segment.length - done).unwrap_or(BUFFER).min(BUFFER);
                let count = reader.read_data(&mut self.buffer[..wanted])?;
                file.write_all_at(&self.buffer[..count], segment.offset + done).map_err(report)?;
                done += count as u64;
                self.progress.advance(0, count as u64);
            }
            end = segment.offset + segment.length;
        }
        if end < entry.info.size {
            file.set_len(entry.info.size).map_err(report)?;
        }
        let stored: u64 = entry.segments.iter().map(|segment| segment.length).sum();
        self.progress.advance(0, entry.info.size.saturating_sub(stored));
        apply(&file, &entry.info, self.options.restore_owner, &mut self.summary)
            .map_err(|error| failed("setting the attributes of", &path, error))
    }

    fn hard_link(
        &mut self,
        info: EntryInfo,
        position: Position,
        name: Key,
    ) -> Result<(), EngineError> {
        let target = self.target_of(&info)?;
        match self.placed.get(&target).cloned() {
            Some(Some(source)) => self.link(&info, &source, &position),
            // Links to symlinks wait for the symlinks.
            Some(None) => {
                self.late.push((info, position, name));
                Ok(())
            }
            None => {
                let detail = "the file that it is a hard link to was not unpacked";
                Err(EngineError::unsafe_entry(&self.archive, &info.name, detail))
            }
        }
    }

    fn target_of(&self, info: &EntryInfo) -> Result<Key, EngineError> {
        let target = info.link_target.as_deref().unwrap_or_default();
        let target = key(&clean(&self.archive, target)?);
        Ok(self.plan.links.get(&target).copied().unwrap_or(target))
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
                            let owner = self.options.restore_owner;
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
        let owner = self.options.restore_owner;
        apply_to_special(parent, name, info, owner, &mut self.summary)
            .map_err(|error| failed("setting the attributes of", &path, error))
    }

    /// Symlinks, then what is linked to them, then directories from the deepest up, then the disk.
    fn finish(mut self) -> Result<UnpackSummary, EngineError> {
        for (info, position, name) in std::mem::take(&mut self.late) {
            self.cancel.check()?;
            if info.kind == EntryKind::HardLink {
                let target = self.target_of(&info)?;
                if let Some(Some(source)) = self.placed.get(&target).cloned() {
                    self.link(&info, &source, &position)?;
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
            apply(directory, &info, self.options.restore_owner, &mut self.summary)
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
        let owner = self.options.restore_owner;
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

/// Writes a file of the archive to a stream, holes as zeros.
pub(super) fn copy_to<R: Read>(
    reader: &mut TarReader<R>,
    entry: &TarEntry,
    output: &mut dyn Write,
) -> Result<u64, EngineError> {
    let report = |source| EngineError::Extract {
        action: "writing",
        path: entry.info.display_name().into(),
        source,
    };
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    for segment in &entry.segments {
        write_zeros(output, segment.offset - position).map_err(report)?;
        let mut done = 0;
        while done < segment.length {
            let wanted = usize::try_from(segment.length - done).unwrap_or(BUFFER).min(BUFFER);
            let count = reader.read_data(&mut buffer[..wanted])?;
            output.write_all(&buffer[..count]).map_err(report)?;
            done += count as u64;
        }
        position = segment.offset + segment.length;
    }
    write_zeros(output, entry.info.size - position).map_err(report)?;
    Ok(entry.info.size)
}

fn write_zeros(output: &mut dyn Write, length: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::repeat(0).take(length), output).map(|_| ())
}
