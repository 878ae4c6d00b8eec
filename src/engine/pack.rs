//! Writes the roots of a backup as one archive, and estimates beforehand what that will take.
//!
//! Reads while others may write: whatever a file does meanwhile, the archive stays valid and a
//! warning says what happened. Memory is one read buffer and one member, whatever the data.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::codec::MemberWriter;
use super::entry::{EntryInfo, EntryKind, display_bytes};
use super::error::EngineError;
use super::progress::{Cancel, Progress};
use super::roots::Root;
use super::select::Patterns;
use super::source::{self, AttributeSource};
use super::summary::{Estimate, PackSummary, Warning, WarningKind};
use super::tar::{END_OF_ARCHIVE, Segment, entry_blocks, padding};
use super::walk::{Boundaries, Found, Visitor, walk};
use crate::failpoint;
use crate::spec::ArchiveFormat;

const READ_BUFFER: usize = 1 << 20;
const UNREADABLE_LISTED: usize = 20;

/// What to archive and how.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What is archived, in this order; see [`super::name_roots`].
    pub roots: Vec<Root>,
    /// What is left out: gitignore syntax, relative to each root.
    pub exclude: Vec<String>,
    /// The format of the archive.
    pub format: ArchiveFormat,
    /// Compression level: gzip 1–12 (6 if none is given), zstd 1–19 (3).
    pub level: Option<u8>,
    /// Leave out what cannot be read, with a warning, instead of failing.
    pub allow_unreadable: bool,
    /// Descend into what is mounted under a root.
    pub cross_file_systems: bool,
    /// Directories that are never entered: the stores, should they lie under a root.
    pub skip: Vec<PathBuf>,
}

impl PackOptions {
    fn boundaries(&self) -> Result<Boundaries, EngineError> {
        Ok(Boundaries {
            exclude: Patterns::parse(&self.exclude)?,
            cross_file_systems: self.cross_file_systems,
            // One that does not exist cannot be met either.
            skip: self
                .skip
                .iter()
                .filter_map(|path| path.metadata().ok())
                .map(|metadata| (metadata.dev(), metadata.ino()))
                .collect(),
        })
    }
}

/// Counts what [`pack`] would archive, without reading any file.
pub fn estimate(options: &PackOptions, cancel: &Cancel) -> Result<Estimate, EngineError> {
    let boundaries = options.boundaries()?;
    let mut estimator = Estimator::default();
    for root in &options.roots {
        walk(root, &boundaries, cancel, &mut estimator)?;
    }
    Ok(estimator.estimate)
}

#[derive(Default)]
struct Estimator {
    estimate: Estimate,
    links: std::collections::HashSet<(u64, u64)>,
}

impl Visitor for Estimator {
    fn directory(&mut self, _: &Found<'_>, _: &OwnedFd, _: &Stat) -> Result<(), EngineError> {
        self.estimate.entries += 1;
        Ok(())
    }

    fn leaf(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(found.parent, found.file_name, flags) else {
            return Ok(());
        };
        let Some(kind) = source::kind_of(FileType::from_raw_mode(stat.st_mode)) else {
            return Ok(());
        };
        self.estimate.entries += 1;
        if kind != EntryKind::File
            || (stat.st_nlink > 1 && !self.links.insert((stat.st_dev, stat.st_ino)))
        {
            return Ok(());
        }
        let size = source::size(&stat);
        self.estimate.files += 1;
        self.estimate.bytes = self.estimate.bytes.saturating_add(size);
        self.estimate.allocated_bytes =
            self.estimate.allocated_bytes.saturating_add(source::allocated(&stat).min(size));
        let readable = rustix::fs::accessat(
            found.parent,
            found.file_name,
            rustix::fs::Access::READ_OK,
            AtFlags::EACCESS,
        );
        match readable {
            Err(error @ (Errno::ACCESS | Errno::PERM)) => self.unreadable(found.path, error),
            _ => Ok(()),
        }
    }

    fn unreadable(&mut self, path: &Path, error: Errno) -> Result<(), EngineError> {
        self.estimate.unreadable_count += 1;
        if self.estimate.unreadable.len() < Estimate::LISTED {
            self.estimate.unreadable.push(Warning {
                path: display_path(path),
                kind: WarningKind::Unreadable,
                message: std::io::Error::from(error).to_string(),
            });
        }
        Ok(())
    }

    fn left_out(&mut self, _: &Path, _: WarningKind, _: &str) {}
}

/// Archives the roots into `output`, which is flushed but not synced.
///
/// Fails with [`EngineError::Unreadable`] if anything cannot be read, unless that is allowed; what
/// was written to `output` until a failure is no archive.
pub fn pack<W: Write>(
    options: &PackOptions,
    output: &mut W,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<PackSummary, EngineError> {
    failpoint::hit("archive.started");
    let boundaries = options.boundaries()?;
    let stream = MemberWriter::new(output, options.format, options.level).map_err(write_failed)?;
    let mut packer = Packer {
        stream,
        summary: PackSummary::default(),
        links: HashMap::new(),
        buffer: vec![0; READ_BUFFER],
        allow_unreadable: options.allow_unreadable,
        unreadable: Vec::new(),
        progress,
        cancel,
    };
    for root in &options.roots {
        walk(root, &boundaries, cancel, &mut packer)?;
    }
    if !packer.unreadable.is_empty() {
        return Err(packer.refusal());
    }
    packer.stream.write(&END_OF_ARCHIVE).map_err(write_failed)?;
    let Packer { stream, mut summary, .. } = packer;
    let written = stream.finish().map_err(write_failed)?;
    summary.archive_bytes = written.archive_bytes;
    summary.sha256 = written.sha256;
    summary.content_digest = written.content_digest;
    failpoint::hit("archive.written");
    Ok(summary)
}

/// A file that has further names, which become hard links to the first.
struct FirstName {
    name: Vec<u8>,
    remaining: u64,
}

struct Packer<'a, W> {
    stream: MemberWriter<W>,
    summary: PackSummary,
    links: HashMap<(u64, u64), FirstName>,
    buffer: Vec<u8>,
    allow_unreadable: bool,
    unreadable: Vec<String>,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl<W: Write> Visitor for Packer<'_, W> {
    fn directory(
        &mut self,
        found: &Found<'_>,
        directory: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), EngineError> {
        let name = [found.name, b"/"].concat();
        let entry = source::describe(name, EntryKind::Directory, stat);
        self.add(entry, None, &AttributeSource::Open(directory), found.path)
    }

    fn leaf(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
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
        if self.allow_unreadable {
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

impl<W: Write> Packer<'_, W> {
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
        if self.add_link(found, stat)? {
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
        let attributes = AttributeSource::Named(found.parent, found.file_name);
        self.add(entry, None, &attributes, found.path)?;
        self.remember_name(found, stat);
        Ok(())
    }

    fn file(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
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
        if self.add_link(found, &stat)? {
            return Ok(());
        }
        let segments = source::data_segments(&file, &stat);
        #[cfg(test)]
        let _ = source::hook::run(source::hook::Stage::Described, found.file_name);
        if !self.unreadable.is_empty() {
            // The archive is lost; only what else cannot be opened is still of interest.
            return Ok(());
        }
        let entry = source::describe(found.name.to_vec(), EntryKind::File, &stat);
        let size = entry.size;
        // The first piece is read before the header is out, so that a file which cannot be read at
        // all leaves nothing behind.
        let whole = [Segment { offset: 0, length: size }];
        let parts: &[Segment] = segments.as_deref().unwrap_or(&whole);
        let (first_offset, first_length) =
            parts.first().map_or((0, 0), |part| (part.offset, part.length));
        let wanted = usize::try_from(first_length).unwrap_or(READ_BUFFER).min(READ_BUFFER);
        let first = match read_fully(&file, &mut self.buffer[..wanted], first_offset) {
            Ok(count) => count,
            Err(error) => return self.unreadable(found.path, error),
        };
        let attributes = AttributeSource::Open(&file);
        self.add(entry, segments.as_deref(), &attributes, found.path)?;
        self.remember_name(found, &stat);
        self.copy(&file, parts, first, found.path)?;
        self.summary.source_bytes = self.summary.source_bytes.saturating_add(size);
        let stored: u64 = parts.iter().map(|part| part.length).sum();
        self.progress.advance(0, size - stored);
        self.compare(&file, &stat, found.path);
        Ok(())
    }

    /// Writes exactly the announced bytes, whatever the file does meanwhile.
    fn copy(
        &mut self,
        file: &OwnedFd,
        parts: &[Segment],
        first: usize,
        path: &Path,
    ) -> Result<(), EngineError> {
        let mut in_buffer = Some(first);
        let mut stored = 0_u64;
        for part in parts {
            let mut done = 0;
            while done < part.length {
                self.cancel.check()?;
                let wanted =
                    usize::try_from(part.length - done).unwrap_or(READ_BUFFER).min(READ_BUFFER);
                let count = match in_buffer.take() {
                    Some(count) => count,
                    None => {
                        match read_fully(file, &mut self.buffer[..wanted], part.offset + done) {
                            Ok(count) => count,
                            Err(error) => {
                                // The header is out: the place has to be filled with something.
                                self.unreadable(path, error)?;
                                0
                            }
                        }
                    }
                };
                // Shorter than announced: the missing bytes are zeros, and `compare` says so.
                self.buffer[count..wanted].fill(0);
                self.stream.write(&self.buffer[..wanted]).map_err(write_failed)?;
                done += wanted as u64;
                self.progress.advance(0, wanted as u64);
            }
            stored += part.length;
        }
        self.stream.write(padding(stored)).map_err(write_failed)
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
        } else {
            return;
        };
        self.left_out(path, kind, &message);
    }

    /// Adds a hard link if the file is in the archive already.
    fn add_link(&mut self, found: &Found<'_>, stat: &Stat) -> Result<bool, EngineError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get_mut(&key) else { return Ok(false) };
        let mut entry = source::describe(found.name.to_vec(), EntryKind::HardLink, stat);
        entry.link_target = Some(first.name.clone());
        first.remaining = first.remaining.saturating_sub(1);
        if first.remaining == 0 {
            self.links.remove(&key);
        }
        self.write_entry(&entry, None)?;
        Ok(true)
    }

    fn remember_name(&mut self, found: &Found<'_>, stat: &Stat) {
        if stat.st_nlink > 1 {
            // The field is narrower than this on other architectures.
            #[allow(clippy::useless_conversion)]
            let remaining = u64::from(stat.st_nlink) - 1;
            let first = FirstName { name: found.name.to_vec(), remaining };
            self.links.insert((stat.st_dev, stat.st_ino), first);
        }
    }

    fn add(
        &mut self,
        mut entry: EntryInfo,
        segments: Option<&[Segment]>,
        attributes: &AttributeSource<'_>,
        path: &Path,
    ) -> Result<(), EngineError> {
        match source::attributes(attributes) {
            Ok(attributes) => entry.xattrs = attributes,
            Err(error) => {
                let message = format!(
                    "its extended attributes could not be read: {}",
                    std::io::Error::from(error)
                );
                self.left_out(path, WarningKind::Attributes, &message);
            }
        }
        if !self.write_entry(&entry, segments)? {
            let message = "its extended attributes are too long for an archive and are left out";
            self.left_out(path, WarningKind::Attributes, message);
        }
        Ok(())
    }

    fn write_entry(
        &mut self,
        entry: &EntryInfo,
        segments: Option<&[Segment]>,
    ) -> Result<bool, EngineError> {
        let (blocks, complete) = entry_blocks(entry, segments);
        self.stream.write(&blocks).map_err(write_failed)?;
        self.summary.counts.add(entry.kind);
        self.progress.advance(1, 0);
        Ok(complete)
    }
}

/// Reads until the buffer is full or the file ends.
fn read_fully(file: impl AsFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn write_failed(source: std::io::Error) -> EngineError {
    EngineError::WriteArchive { source }
}

fn display_path(path: &Path) -> String {
    display_bytes(path.as_os_str().as_encoded_bytes())
}
