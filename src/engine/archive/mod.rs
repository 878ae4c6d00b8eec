//! An archive file that is open for reading, with its index if it has one.
//!
//! What has an index is read by many threads, member by member; what has none, because it is of
//! another program or an older one, is read as a stream. Both ways end in the same tar reader.

mod members;
mod pieces;
mod salvage;
mod units;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::codec::{Tap, archive_label, hex, open_archive, open_stream};
use super::entry::EntryInfo;
use super::error::EngineError;
use super::index::frame::{TailError, read_footer, read_payload, write_tail};
use super::index::{self, Index, IndexEntry};
use super::manifest::ParentArchive;
use super::store::LocalStore;
use super::tar::TarReader;
use crate::spec::ArchiveFormat;

pub(super) use members::{MemberSource, with_members};
pub(super) use salvage::{Origin, each_entry};
pub(super) use units::{Broken, EntrySink, Reading, read_units};

/// Length of the blocks that end a tar stream.
const END: u64 = super::tar::END_OF_ARCHIVE.len() as u64;

/// An open archive.
pub(super) struct Archive {
    pub file: File,
    pub path: PathBuf,
    /// Its name for messages.
    pub label: String,
    pub format: ArchiveFormat,
    /// Its index; nothing for archives of other programs and of version 1.
    pub index: Option<Index>,
    /// BLAKE3 of the index.
    pub index_hash: [u8; 32],
}

impl Archive {
    /// Opens an archive and reads its index.
    ///
    /// [`EngineError::Damaged`] if it has one that contradicts itself or the file.
    pub(super) fn open(path: &Path, format: ArchiveFormat) -> Result<Self, EngineError> {
        let file = open_archive(path)?;
        let label = archive_label(path);
        let failed = |error: TailError| match error {
            TailError::Read(source) => {
                EngineError::Store { action: "reading", path: path.to_owned(), source }
            }
            TailError::Newer(found) => {
                EngineError::NewerFormat { name: label.clone(), found, supported: 1 }
            }
            TailError::Damaged(detail) => EngineError::damaged(&label, detail),
            TailError::None => EngineError::damaged(&label, "it has no index"),
        };
        let size = file.metadata().map_err(|source| failed(TailError::Read(source)))?.len();
        let footer = match read_footer(&file, size, format) {
            Ok(footer) => footer,
            Err(TailError::None) => {
                let path = path.to_owned();
                return Ok(Self { file, path, label, format, index: None, index_hash: [0; 32] });
            }
            Err(error) => return Err(failed(error)),
        };
        let payload = read_payload(&file, &footer, format).map_err(failed)?;
        let damaged = |detail: String| EngineError::damaged(&label, detail);
        let index = index::parse(payload, footer.offset).map_err(damaged)?;
        let end = index.members.last().map_or(0, |member| member.file_offset + member.packed);
        if end != footer.offset {
            return Err(EngineError::damaged(
                &label,
                "its members do not end where its index begins",
            ));
        }
        let path = path.to_owned();
        Ok(Self { file, path, label, format, index: Some(index), index_hash: footer.hash })
    }

    /// Opens an archive that this one refers to, which lies beside it, and proves that it is the one
    /// that is meant: by its manifest, and by the index that the manifest names.
    pub(super) fn open_ancestor(&self, ancestor: &ParentArchive) -> Result<Self, EngineError> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        let store = LocalStore::open(directory.unwrap_or(Path::new(".")), "ancestors", false)?;
        let lost = |error| self.lacks(ancestor, error);
        let manifest = store.read_manifest(&ancestor.name).map_err(lost)?;
        let opened =
            Self::open(&store.archive_path(&ancestor.name), manifest.format).map_err(lost)?;
        if manifest.sha256 != ancestor.sha256
            || opened.index.is_none()
            || hex(&opened.index_hash) != manifest.content_digest
        {
            let detail = format!("it continues another archive of the name {}", ancestor.name);
            return Err(self.damaged(detail));
        }
        Ok(opened)
    }

    /// What is wrong with an archive that this one refers to, as what is wrong with this one.
    pub(super) fn lacks(&self, ancestor: &ParentArchive, error: EngineError) -> EngineError {
        let builds = format!("it builds on {}", ancestor.name);
        match error {
            EngineError::Damaged { detail, .. } => {
                self.damaged(format!("{builds}, which is damaged: {detail}"))
            }
            EngineError::Missing { detail, .. } => EngineError::Missing {
                name: self.label.clone(),
                detail: format!("{builds}, and {detail}"),
            },
            other => other,
        }
    }

    pub(super) fn damaged(&self, detail: impl Into<String>) -> EngineError {
        EngineError::damaged(&self.label, detail)
    }

    /// Calls `visit` for every entry of the index, and checks that they fill the tar stream exactly.
    pub(super) fn visit_index(
        &self,
        index: &Index,
        visit: &mut dyn FnMut(IndexEntry) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut entries = index.entries();
        for entry in entries.by_ref() {
            visit(entry.map_err(|detail| self.damaged(detail))?)?;
        }
        if entries.offset() + END == index.stream_length() {
            Ok(())
        } else {
            Err(self.damaged("the entries of its index do not fill the archive"))
        }
    }

    /// Compares what lies behind the last member, byte for byte, with what this index is written as:
    /// nothing can hide there.
    pub(super) fn check_tail(&self, index: &Index) -> Result<(), EngineError> {
        let at = index.members.last().map_or(0, |member| member.file_offset + member.packed);
        let mut tail = ComparedTail { file: &self.file, at, buffer: Vec::new() };
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::InvalidData
                || source.kind() == io::ErrorKind::UnexpectedEof
            {
                return self.damaged("what follows its members is damaged");
            }
            EngineError::Store { action: "reading", path: self.path.clone(), source }
        };
        write_tail(&mut tail, self.format, at, index.payload(), &index.members).map_err(failed)?;
        let length = self.file.metadata().map_err(failed)?.len();
        if tail.at == length {
            Ok(())
        } else {
            Err(self.damaged("what follows its members is damaged"))
        }
    }

    /// The whole archive as a stream of tar, read on this thread.
    pub(super) fn stream(&self) -> Result<TarReader<Box<dyn Read>>, EngineError> {
        let report =
            |source| EngineError::Store { action: "opening", path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(report)?;
        let stream = open_stream(file, self.format, &Tap::shared()).map_err(report)?;
        // Behind a bare tar's end blocks lies the index.
        let length = self.index.as_ref().map_or(u64::MAX, Index::stream_length);
        Ok(TarReader::new(Box::new(stream.take(length)), &self.label))
    }

    /// Fails unless a header of the stream says what the index says.
    pub(super) fn compare(
        &self,
        found: &EntryInfo,
        indexed: &IndexEntry,
    ) -> Result<(), EngineError> {
        let info = &indexed.info;
        let same = found.name == info.name
            && found.kind == info.kind
            && found.size == info.size
            && (found.mode, found.uid, found.gid) == (info.mode, info.uid, info.gid)
            && found.modified == info.modified
            && found.link_target == info.link_target
            && found.device == info.device
            && found.sparse == info.sparse
            && found.xattrs.is_empty() != indexed.has_xattrs;
        if same {
            return Ok(());
        }
        let detail = format!("its index and its contents disagree on `{}`", info.display_name());
        Err(self.damaged(detail))
    }
}

/// Takes bytes only if they are what the file has at that place.
struct ComparedTail<'a> {
    file: &'a File,
    at: u64,
    buffer: Vec<u8>,
}

impl Write for ComparedTail<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(1 << 20);
        self.buffer.resize(count, 0);
        self.file.read_exact_at(&mut self.buffer, self.at)?;
        if self.buffer != bytes[..count] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
