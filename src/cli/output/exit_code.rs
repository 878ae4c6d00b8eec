//! What the exit code of the process says.
//!
//! The numbers are part of the public surface; scripts depend on them.

use crate::spec::Reason;

/// The exit code of `eider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// An operation failed.
    Failed = 1,
    /// The command line or a document is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// Refused for safety; nothing was changed.
    Refused = 4,
    /// The daemon, Docker or Kubernetes cannot be reached.
    Unreachable = 5,
    /// Interrupted, after services were put back.
    Interrupted = 130,
}

impl ExitCode {
    /// The number for the operating system.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The exit code of an operation that ended for `reason`. Nothing maps to
    /// [`ExitCode::Unreachable`]: who cannot be reached is known where the connection is made.
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::Pending
            | Reason::Running
            | Reason::Succeeded
            | Reason::Verified
            | Reason::Ready
            | Reason::Suspended
            | Reason::OnTime => Self::Done,
            Reason::InvalidSpec | Reason::UnsupportedTarget => Self::Usage,
            Reason::TargetNotFound
            | Reason::StoreNotFound
            | Reason::BackupNotFound
            | Reason::ArchiveMissing => Self::NotFound,
            Reason::NotVerified
            | Reason::TargetBusy
            | Reason::NotEnoughSpace
            | Reason::BackupNotReady
            | Reason::ArchiveDamaged
            | Reason::ArchiveUnverified
            | Reason::ArchiveUnsafe
            | Reason::UnsupportedFormat
            | Reason::NotAnUpgrade
            | Reason::ConcurrencyForbidden => Self::Refused,
            Reason::Cancelled => Self::Interrupted,
            Reason::UnreadablePath
            | Reason::StoreUnavailable
            | Reason::HookFailed
            | Reason::QuiesceFailed
            | Reason::ResumeFailed
            | Reason::ArchiveFailed
            | Reason::ExtractFailed
            | Reason::SwapFailed
            | Reason::Unhealthy
            | Reason::EmptySource
            | Reason::SuspiciousShrink
            | Reason::SafetyBackupFailed
            | Reason::Interrupted
            | Reason::RolledBack
            | Reason::RollbackFailed
            | Reason::ImageUnavailable
            | Reason::FieldManagerConflict
            | Reason::Overdue
            | Reason::StartingDeadlineExceeded
            | Reason::Replaced
            | Reason::CatalogFailed
            | Reason::InternalError => Self::Failed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_exit_code() {
        let table: Vec<String> = Reason::ALL
            .iter()
            .map(|reason| format!("{:3} {reason}", ExitCode::of(*reason).number()))
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn the_examples_of_the_manual_hold() {
        for (reason, number) in [
            (Reason::Succeeded, 0),
            (Reason::ArchiveFailed, 1),
            (Reason::InvalidSpec, 2),
            (Reason::BackupNotFound, 3),
            (Reason::ArchiveUnverified, 4),
            (Reason::NotEnoughSpace, 4),
            (Reason::TargetBusy, 4),
            (Reason::Cancelled, 130),
        ] {
            assert_eq!(ExitCode::of(reason).number(), number, "{reason}");
        }
    }
}
