//! The closed set of reasons that conditions, events, metrics and errors carry.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why something is as it is; stable, for machines. People read the message beside it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The reason as it is written in conditions, JSON and metric labels.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// One sentence for the reference page.
            pub fn description(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+),)+ }
            }
        }

        impl std::str::FromStr for Reason {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $(stringify!($name) => Ok(Reason::$name),)+
                    other => Err(format!("`{other}` is not a known reason")),
                }
            }
        }
    };
}

reasons! {
    /// The object has been accepted and has not started.
    Pending,
    /// The operation is running.
    Running,
    /// The operation did all it was asked to.
    Succeeded,
    /// What was written has been read back and is what was read.
    Verified,
    /// The archive has not been verified.
    NotVerified,
    /// Everything is as the specification says.
    Ready,
    /// The object is suspended by its specification.
    Suspended,
    /// The document breaks the schema or a rule.
    InvalidSpec,
    /// The target does not exist or cannot be reached.
    TargetNotFound,
    /// Another operation holds the target.
    TargetBusy,
    /// This place cannot act on such a target.
    UnsupportedTarget,
    /// A path could not be read.
    UnreadablePath,
    /// The referenced store does not exist.
    StoreNotFound,
    /// The store cannot be written or read.
    StoreUnavailable,
    /// There is less free space than the operation needs.
    NotEnoughSpace,
    /// The referenced backup does not exist.
    BackupNotFound,
    /// The referenced backup has not finished yet.
    BackupNotReady,
    /// The archive file is missing.
    ArchiveMissing,
    /// The archive or its manifest does not match its checksums.
    ArchiveDamaged,
    /// The archive was never verified and the operation demands it.
    ArchiveUnverified,
    /// Other archives build on the archive.
    ArchiveNeeded,
    /// The archive holds names or links that would leave the target.
    ArchiveUnsafe,
    /// The archive or its manifest is of a newer format than this program reads.
    UnsupportedFormat,
    /// A hook failed.
    HookFailed,
    /// A service could not be stopped in time.
    QuiesceFailed,
    /// A service could not be started again.
    ResumeFailed,
    /// Reading the data or writing the archive failed.
    ArchiveFailed,
    /// Writing the restored data failed.
    ExtractFailed,
    /// The restored tree could not be put in place.
    SwapFailed,
    /// The service did not become healthy.
    Unhealthy,
    /// The source was empty where the last verified backup held files.
    EmptySource,
    /// The source shrank by more than the guard allows.
    SuspiciousShrink,
    /// The safety backup before a change failed.
    SafetyBackupFailed,
    /// The process ended in the middle of the operation, which was undone.
    Interrupted,
    /// The operation was cancelled and undone.
    Cancelled,
    /// The upgrade was undone; the old version runs on the old data.
    RolledBack,
    /// The upgrade could not be undone completely.
    RollbackFailed,
    /// The image is not there and cannot be fetched.
    ImageUnavailable,
    /// The requested version is not newer than the running one.
    NotAnUpgrade,
    /// Another manager owns the field.
    FieldManagerConflict,
    /// A run is later than the schedule allows.
    Overdue,
    /// The last success is recent enough.
    OnTime,
    /// The run was missed by more than the starting deadline.
    StartingDeadlineExceeded,
    /// An earlier run of the schedule has not finished.
    ConcurrencyForbidden,
    /// The run was replaced by a newer one.
    Replaced,
    /// The process that reads and writes the data was lost.
    MoverLost,
    /// The process that reads and writes the data was evicted from its node.
    Evicted,
    /// The process that reads and writes the data was ended for want of memory.
    OutOfMemory,
    /// No node can take the pod that is to read or write the data.
    Unschedulable,
    /// A claim is not bound to a volume.
    ClaimPending,
    /// A volume could not be attached or mounted where it is needed.
    VolumeUnavailable,
    /// A quota of the namespace does not leave room for the pod that is to read or write the data.
    QuotaExceeded,
    /// Somebody else has changed the number of replicas meanwhile.
    ReplicasChanged,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// A permission is missing.
    Forbidden,
    /// The API server does not answer.
    ClusterUnavailable,
    /// The Docker Engine does not answer.
    EngineUnavailable,
    /// The record could not be written.
    CatalogFailed,
    /// An unexpected failure; the message has the details.
    InternalError,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_as_itself() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>().unwrap(), *reason);
            assert!(reason.description().trim().ends_with('.'));
        }
        assert!("Whatever".parse::<Reason>().is_err());
    }
}
