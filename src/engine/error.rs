//! What can go wrong in the engine, each with a reason for machines and a hint for people.

use std::io;
use std::path::PathBuf;

use crate::spec::Reason;

/// An engine failure: what failed, on what, why.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A root of the backup does not exist.
    #[error("{path}: there is no such file or directory", path = path.display())]
    RootMissing {
        /// The root as it was asked for.
        path: PathBuf,
    },
    /// The roots cannot be archived together.
    #[error("{path}: {detail}")]
    InvalidRoots {
        /// The path that is refused.
        path: String,
        /// Why.
        detail: String,
    },
    /// A pattern is not gitignore syntax.
    #[error("the pattern `{pattern}` is not valid: {detail}")]
    InvalidPattern {
        /// The pattern as written.
        pattern: String,
        /// What the parser said.
        detail: String,
    },
    /// An archive name cannot be a file name in a store.
    #[error("`{name}` cannot be the name of an archive: {detail}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why.
        detail: String,
    },
    /// Paths under the roots could not be read; nothing was kept.
    #[error("{total} {} could not be read: {}", if *total == 1 { "path" } else { "paths" }, paths.join(", "))]
    Unreadable {
        /// At most the first twenty, each with its error.
        paths: Vec<String>,
        /// How many there are; at least this many if the walk was cut short.
        total: usize,
    },
    /// Reading the data to back up failed in a way that is no property of one file.
    #[error("reading {path} failed: {source}", path = path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Writing the archive failed.
    #[error("writing the archive failed: {source}")]
    WriteArchive {
        /// The system's error.
        source: io::Error,
    },
    /// Writing extracted data failed.
    #[error("{action} {path} failed: {source}", path = path.display())]
    Extract {
        /// What was attempted, as a gerund.
        action: &'static str,
        /// The path that was to be written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The store could not be used.
    #[error("{action} {path} failed: {source}", path = path.display())]
    Store {
        /// What was attempted, as a gerund.
        action: &'static str,
        /// The path in the store.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process is writing this archive.
    #[error("{name} is being written by another process")]
    Busy {
        /// Name of the archive.
        name: String,
    },
    /// The archive or its manifest is not in the store.
    #[error("{name}: {detail}")]
    Missing {
        /// Name of the archive.
        name: String,
        /// Which part is missing, and where it was looked for.
        detail: String,
    },
    /// The bytes are not what was written.
    #[error("{name} is damaged: {detail}")]
    Damaged {
        /// Name of the archive.
        name: String,
        /// What is wrong and where.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// The archive would write outside its destination, or is ambiguous.
    #[error("{name} is refused: entry `{entry}`: {detail}")]
    Unsafe {
        /// Name of the archive.
        name: String,
        /// Name of the offending entry.
        entry: String,
        /// Why.
        detail: String,
    },
    /// The archive was written by a newer program.
    #[error("{name} has format version {found}; this program reads up to version {supported}")]
    NewerFormat {
        /// Name of the archive.
        name: String,
        /// The version it has.
        found: u64,
        /// The newest version this program reads.
        supported: u64,
    },
    /// The archive uses a feature this program does not read.
    #[error("{name} cannot be read: {detail}")]
    Unsupported {
        /// Name of the archive.
        name: String,
        /// The feature.
        detail: String,
    },
    /// There is no such entry in the archive.
    #[error("{name} has no file `{entry}`")]
    EntryMissing {
        /// Name of the archive.
        name: String,
        /// The entry that was asked for.
        entry: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl EngineError {
    /// The damage that a reader found.
    pub(crate) fn damaged(name: &str, detail: impl Into<String>) -> Self {
        Self::Damaged {
            name: name.to_owned(),
            detail: detail.into(),
            hint: "restore from another backup, or from another copy of this archive; the file \
                   itself cannot be repaired"
                .to_owned(),
        }
    }

    pub(crate) fn unsafe_entry(name: &str, entry: &[u8], detail: impl Into<String>) -> Self {
        Self::Unsafe {
            name: name.to_owned(),
            entry: entry.escape_ascii().to_string(),
            detail: detail.into(),
        }
    }

    /// The stable reason for conditions, events and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::RootMissing { .. } => Reason::TargetNotFound,
            Self::InvalidRoots { .. }
            | Self::InvalidPattern { .. }
            | Self::InvalidName { .. }
            | Self::EntryMissing { .. } => Reason::InvalidSpec,
            Self::Unreadable { .. } => Reason::UnreadablePath,
            Self::WriteArchive { source }
            | Self::Extract { source, .. }
            | Self::Store { source, .. }
                if no_space(source) =>
            {
                Reason::NotEnoughSpace
            }
            Self::Read { .. } | Self::WriteArchive { .. } => Reason::ArchiveFailed,
            Self::Extract { .. } => Reason::ExtractFailed,
            Self::Store { .. } => Reason::StoreUnavailable,
            Self::Busy { .. } => Reason::TargetBusy,
            Self::Missing { .. } => Reason::ArchiveMissing,
            Self::Damaged { .. } => Reason::ArchiveDamaged,
            Self::Unsafe { .. } => Reason::ArchiveUnsafe,
            Self::NewerFormat { .. } | Self::Unsupported { .. } => Reason::UnsupportedFormat,
            Self::Cancelled => Reason::Cancelled,
        }
    }

    /// One sentence on what to do about it.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::RootMissing { .. } => "check the path in the target; it must exist on this host",
            Self::InvalidRoots { .. } => {
                "name directories or files by absolute paths, none inside another, and leave out the others"
            }
            Self::InvalidPattern { .. } => "patterns follow the rules of .gitignore",
            Self::InvalidName { .. } => "use the name that `backup list` shows",
            Self::EntryMissing { .. } => "list the archive to see its entries",
            Self::Unreadable { .. } => {
                "run with the rights to read these paths, exclude them, or set spec.allowUnreadable"
            }
            Self::Read { .. } => "check the file system under the target",
            Self::WriteArchive { source }
            | Self::Extract { source, .. }
            | Self::Store { source, .. }
                if no_space(source) =>
            {
                "free some space, or use a file system with more; nothing live was changed"
            }
            Self::WriteArchive { .. } => "check the file system that the store lies on",
            Self::Extract { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "extract into an empty directory; existing files are never overwritten"
            }
            Self::Extract { .. } => "check the rights and the file system of the destination",
            Self::Store { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "create the directory, or correct the store's path",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "give this user the right to write to the store's directory"
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "the store's path must be a directory; name another one, or move the file away"
                }
                _ => "check that the store's file system is mounted and healthy",
            },
            Self::Busy { .. } => "wait for the other process to end",
            Self::Missing { .. } => {
                "the file was removed or the store is not the one it was written to"
            }
            Self::Damaged { hint, .. } => hint,
            Self::Unsafe { .. } => "do not restore this archive; nothing of it was put in place",
            Self::NewerFormat { .. } => "use a newer version of this program",
            Self::Unsupported { .. } => "unpack it with the program that made it",
            Self::Cancelled => "start it again when you want it done",
        };
        text.to_owned()
    }
}

/// Whether the error means that the file system or the quota is full.
fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
