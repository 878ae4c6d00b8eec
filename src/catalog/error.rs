//! What can go wrong with the catalog, said so that the reader knows what to do next.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::Reason;

/// The process that holds the catalog's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command name, if it could be found out.
    pub command: Option<String>,
    /// Whether it serves others on a socket, as `eider daemon` does.
    pub serves: bool,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.command {
            Some(command) => write!(formatter, "{command} (PID {})", self.pid),
            None => write!(formatter, "PID {}", self.pid),
        }
    }
}

/// An error of the catalog.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// Another process, or another part of this one, has the file open.
    #[error("the catalog {} is held by {}", path.display(),
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    Held {
        /// The catalog's file.
        path: PathBuf,
        /// Who holds it, if known.
        holder: Option<Holder>,
    },
    /// The file was written by a newer program.
    #[error("the catalog {} has schema version {found}; this program knows versions up to {supported}", path.display())]
    Newer {
        /// The catalog's file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Newest version the program knows.
        supported: i64,
    },
    /// A migration that was applied to the file is not the one this program carries.
    #[error("migration {version} of the catalog {} was applied with checksum {applied}, this program has {known}", path.display())]
    MigrationChanged {
        /// The catalog's file.
        path: PathBuf,
        /// Number of the migration.
        version: i64,
        /// Checksum in the file.
        applied: String,
        /// Checksum in the program.
        known: String,
    },
    /// The file is not a catalog, and is left alone.
    #[error("{} is not an Eider catalog: {message}", path.display())]
    NotACatalog {
        /// The file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The file cannot be read, or is damaged.
    #[error("the catalog {} is damaged: {message}", path.display())]
    Damaged {
        /// The catalog's file.
        path: PathBuf,
        /// What the database says.
        message: String,
    },
    /// A file could not be opened, copied or moved.
    #[error("cannot {action} {}: {message}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system or the database says.
        message: String,
    },
    /// A statement failed.
    #[error("the catalog could not {action}: {message}")]
    Statement {
        /// What was tried.
        action: String,
        /// What the database says.
        message: String,
    },
    /// A request does not make sense.
    #[error("{message}")]
    Invalid {
        /// What it was about.
        object: String,
        /// Why it is refused.
        message: String,
    },
    /// The owner of the catalog has stopped.
    #[error("the catalog's owner has stopped")]
    Stopped,
    /// The process that owns the catalog could not be reached.
    #[error("cannot reach the catalog at {}: {message}", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What failed.
        message: String,
    },
    /// The process that owns the catalog answered with an error.
    #[error("{}", .0.message)]
    Remote(ErrorBody),
}

/// An error as it goes over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Why, for machines.
    pub reason: Reason,
    /// What failed and why, for people.
    pub message: String,
    /// On what.
    pub object: String,
    /// What to do about it.
    pub hint: String,
}

impl CatalogError {
    /// The reason for conditions and exit codes.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Invalid { .. } => Reason::InvalidSpec,
            Self::Newer { .. } => Reason::UnsupportedFormat,
            Self::Remote(body) => body.reason,
            _ => Reason::CatalogFailed,
        }
    }

    /// The file, socket or row the error is about.
    pub fn object(&self) -> String {
        match self {
            Self::Held { path, .. }
            | Self::Newer { path, .. }
            | Self::MigrationChanged { path, .. }
            | Self::NotACatalog { path, .. }
            | Self::Damaged { path, .. }
            | Self::File { path, .. } => path.display().to_string(),
            Self::Unreachable { socket, .. } => socket.display().to_string(),
            Self::Invalid { object, .. } => object.clone(),
            Self::Statement { .. } | Self::Stopped => "catalog".to_owned(),
            Self::Remote(body) => body.object.clone(),
        }
    }

    /// What to do about it, one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Held { holder: Some(Holder { serves: true, .. }), .. } => {
                "use the running daemon's socket (--socket or EIDER_SOCKET), or stop the daemon"
            }
            Self::Held { .. } => {
                "wait for the other process to end, or name another file with --catalog"
            }
            Self::Newer { .. } => {
                "use a program of at least that version, or restore the copy kept before the migration"
            }
            Self::MigrationChanged { .. } => {
                "use an official build; the file has not been changed"
            }
            Self::NotACatalog { .. } => "check --catalog; the file has not been changed",
            Self::Damaged { .. } => {
                "open the catalog again to set the damaged file aside, then run `eider db rebuild`"
            }
            Self::File { .. } => "check that the directory exists, is writable and has free space",
            Self::Statement { .. } => {
                "run `eider db check`; if the file is damaged, run `eider db rebuild`"
            }
            Self::Invalid { .. } => "correct the request and try again",
            Self::Stopped => "start the program again",
            Self::Unreachable { .. } => {
                "check that the daemon runs and that you may use its socket"
            }
            Self::Remote(body) => return body.hint.clone(),
        }
        .to_owned()
    }

    /// The error as it goes over the socket.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            reason: self.reason(),
            message: self.to_string(),
            object: self.object(),
            hint: self.hint(),
        }
    }

    pub(super) fn invalid(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { object: object.into(), message: message.into() }
    }

    pub(super) fn statement(action: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Statement { action: action.into(), message: error.to_string() }
    }

    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
        error: impl std::fmt::Display,
    ) -> Self {
        Self::File { action, path: path.into(), message: error.to_string() }
    }
}
