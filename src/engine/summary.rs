//! What came of packing and unpacking: counts, sizes, checksums, warnings.

use serde::{Deserialize, Serialize};

use super::entry::EntryKind;

/// How many entries of each kind an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All entries.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// FIFOs and devices.
    pub special: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, kind: EntryKind) {
        self.entries += 1;
        match kind {
            EntryKind::File => self.files += 1,
            EntryKind::Directory => self.directories += 1,
            EntryKind::Symlink => self.symlinks += 1,
            EntryKind::HardLink => self.hard_links += 1,
            EntryKind::Fifo | EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                self.special += 1;
            }
        }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            files: self.files + other.files,
            directories: self.directories + other.directories,
            symlinks: self.symlinks + other.symlinks,
            hard_links: self.hard_links + other.hard_links,
            special: self.special + other.special,
        }
    }
}

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WarningKind {
    /// The file became shorter while it was read; the rest is zeros.
    Shrank,
    /// The file became longer while it was read; it was cut at its first size.
    Grew,
    /// The file was written to, or replaced, while it was read.
    Changed,
    /// The file was gone before it could be read, or a root was another one in the end.
    Vanished,
    /// The path could not be read and was left out, as was asked for.
    Unreadable,
    /// Sockets are not archived.
    SocketSkipped,
    /// A mount point; what is mounted there was not read.
    OtherFileSystem,
    /// The path was left out because it is the archive's own place.
    Skipped,
    /// Extended attributes could not be read or set.
    Attributes,
    /// The owner could not be set.
    Owner,
    /// A hard link became a copy of the file.
    LinkCopied,
    /// A file has more pieces than a sparse map may hold: its holes are stored.
    HolesStored,
}

/// Something that people should know of a backup or restore that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// The path or archive name that it is about; bytes that are no UTF-8 are escaped.
    pub path: String,
    /// What happened.
    pub kind: WarningKind,
    /// One sentence.
    pub message: String,
}

impl Warning {
    /// Long enough for people. A hostile archive has names of a megabyte, and as many of them as it likes.
    fn bounded(path: String, kind: WarningKind, message: String) -> Self {
        const LONGEST: usize = 4 << 10;
        let cut = |text: String| match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        Self { path: cut(path), kind, message: cut(message) }
    }
}

/// What a walk over the roots found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Estimate {
    /// Entries that would be archived.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Their sizes, holes included, hard links once.
    pub bytes: u64,
    /// The bytes that those of them take up on disk which a parent does not hold, at most `bytes`: an
    /// upper bound for an archive's data.
    pub allocated_bytes: u64,
    /// Paths that cannot be read, each with its error; at most [`Estimate::LISTED`].
    pub unreadable: Vec<Warning>,
    /// How many paths cannot be read.
    pub unreadable_count: u64,
}

impl Estimate {
    /// The most unreadable paths that are listed.
    pub const LISTED: usize = 20;
}

/// What packing wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackSummary {
    /// The archive's format version: 2 has an index, 1 has none.
    #[serde(default = "first_version")]
    pub format_version: u64,
    /// Entries by kind.
    pub counts: Counts,
    /// Sizes of all files, holes included, hard links once.
    pub source_bytes: u64,
    /// Size of the archive file.
    pub archive_bytes: u64,
    /// SHA-256 of the archive file, in hex.
    pub sha256: String,
    /// BLAKE3 of the index or, in version 1, of the uncompressed tar stream; in hex.
    pub content_digest: String,
    /// The first [`PackSummary::WARNINGS_KEPT`] warnings.
    pub warnings: Vec<Warning>,
    /// How many warnings there were.
    pub warning_count: u64,
}

/// Summaries in journals of earlier programs do not say.
fn first_version() -> u64 {
    1
}

impl PackSummary {
    /// The most warnings that are kept; the others are counted.
    pub const WARNINGS_KEPT: usize = 1000;

    pub(crate) fn warn(&mut self, path: String, kind: WarningKind, message: impl Into<String>) {
        self.warning_count += 1;
        if self.warnings.len() < Self::WARNINGS_KEPT {
            self.warnings.push(Warning::bounded(path, kind, message.into()));
        }
    }
}

/// What unpacking wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnpackSummary {
    /// Entries of every kind that were put in place.
    pub entries: u64,
    /// Regular files that were put in place; further names of one (hard links) are entries only, as
    /// in [`Counts`].
    pub files: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// The first [`PackSummary::WARNINGS_KEPT`] warnings.
    pub warnings: Vec<Warning>,
    /// How many warnings there were.
    pub warning_count: u64,
}

impl UnpackSummary {
    /// Adds what another thread has unpacked.
    pub(crate) fn join(&mut self, other: Self) {
        self.entries += other.entries;
        self.files += other.files;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.warning_count += other.warning_count;
        self.warnings.extend(other.warnings);
        self.warnings.truncate(PackSummary::WARNINGS_KEPT);
    }

    pub(crate) fn warn(&mut self, path: String, kind: WarningKind, message: impl Into<String>) {
        self.warning_count += 1;
        if self.warnings.len() < PackSummary::WARNINGS_KEPT {
            self.warnings.push(Warning::bounded(path, kind, message.into()));
        }
    }
}
