//! What can go wrong while a tree is put in place, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::spec::reason::Reason;

/// The part of a replacement that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making or removing the staging place, or carrying live entries into it.
    Stage,
    /// Putting the new tree in place, or the old one back, or removing what is left over.
    Swap,
}

/// A failed replacement: what failed, on which path, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// A file-system operation failed.
    #[error("cannot {action} {}: {source}; {hint}", path.display())]
    FileSystem {
        /// The operation, as the verb phrase of a sentence.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// The part of the replacement that was under way.
        step: Step,
        /// The cause.
        source: io::Error,
    },
    /// The root or the operation key cannot be used.
    #[error("cannot replace {}: {why}; {hint}", path.display())]
    Unsuitable {
        /// The root.
        path: PathBuf,
        /// Why.
        why: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// What lies on the disk does not allow the step.
    #[error("cannot {action} {}: {why}; {hint}", path.display())]
    WrongState {
        /// The operation, as the verb phrase of a sentence.
        action: &'static str,
        /// The root.
        path: PathBuf,
        /// What was found.
        why: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// A pattern of `preserve` does not parse.
    #[error("the preserve pattern `{pattern}` does not parse: {why}; write it in gitignore syntax")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the parser says.
        why: String,
    },
    /// The operation was cancelled; the live tree is untouched.
    #[error("cancelled while carrying {} over; the live data is untouched", path.display())]
    Cancelled {
        /// Where it stopped.
        path: PathBuf,
    },
}

impl ReplaceError {
    /// The reason for conditions and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::FileSystem { source, step, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOSPC | Errno::DQUOT) => Reason::NotEnoughSpace,
                _ if *step == Step::Stage => Reason::ExtractFailed,
                _ => Reason::SwapFailed,
            },
            Self::Unsuitable { .. } | Self::WrongState { .. } => Reason::SwapFailed,
            Self::Pattern { .. } => Reason::ExtractFailed,
            Self::Cancelled { .. } => Reason::Cancelled,
        }
    }
}

/// Builds the error of a failed system call with a hint that fits the cause.
pub(super) fn failed(
    action: &'static str,
    path: impl AsRef<Path>,
    step: Step,
) -> impl FnOnce(Errno) -> ReplaceError {
    move |errno| ReplaceError::FileSystem {
        action,
        path: path.as_ref().to_owned(),
        hint: hint(errno),
        step,
        source: errno.into(),
    }
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC | Errno::DQUOT => "free some space on this file system and try again",
        Errno::ACCESS | Errno::PERM => {
            "run Eider as root or give it write access; an immutable flag (lsattr) also forbids it"
        }
        Errno::ROFS => "mount the file system writable",
        Errno::BUSY => {
            "something is mounted there; unmount it or name the mounted directory itself"
        }
        Errno::XDEV => "both have to lie on one file system; name the mounted directory itself",
        Errno::IO => "check the disk and the kernel log",
        _ => "look at the path and try again",
    }
}
