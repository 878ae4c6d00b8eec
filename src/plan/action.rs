//! The effects a planner can ask for. They are data: a runtime performs them, `--dry-run` prints them.

use serde::{Deserialize, Serialize};

use crate::spec::{ConsistencyMode, DurationText, VerifyMode};

/// Before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPhase {
    /// Before the service is held still.
    Before,
    /// After it runs again.
    After,
}

/// A child operation that a parent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Child {
    /// The Backup of what a Restore is about to replace.
    SafetyBackup,
    /// The Backup of what an Upgrade is about to change.
    UpgradeBackup,
    /// The Restore that undoes an Upgrade's changes to data.
    UpgradeRollback,
    /// The Restore of the data that goes with the version that an Upgrade goes to.
    UpgradeData,
}

/// One effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Look at everything that can be looked at before anything changes.
    Preflight,
    /// Run the hooks of one phase.
    RunHooks(HookPhase),
    /// Hold the service still.
    Quiesce {
        /// How.
        mode: ConsistencyMode,
        /// How long it may take.
        timeout: DurationText,
    },
    /// Let the service run as it ran before.
    Resume,
    /// Read the data into an archive under a temporary name.
    Archive,
    /// Make the archive durable under its final name and write its manifest: the commit point.
    Seal,
    /// Read the sealed archive back.
    Verify {
        /// How thoroughly.
        mode: VerifyMode,
    },
    /// Remove what an unfinished or disproved backup left in the store.
    DiscardArchive,
    /// Prove the archive that is to be restored, completely.
    VerifySource,
    /// Unpack it into staging places beside the live roots.
    Extract,
    /// Look which of the roots hold anything that would be lost.
    FindLive,
    /// Bring over what is to stay from the live roots into the staged ones.
    CarryOver,
    /// Put the staged roots in the place of the live ones.
    Swap,
    /// Put the live roots back.
    SwapBack,
    /// Remove the staged roots.
    DiscardStaging,
    /// Remove the replaced roots.
    DropOld,
    /// Wait until the service is healthy.
    AwaitHealthy,
    /// Watch that it stays healthy.
    Soak,
    /// Make sure the new images or packages are here.
    Fetch,
    /// Put the old containers or the old specification aside.
    KeepOld,
    /// Make the new ones.
    Apply,
    /// Start the new ones.
    Start,
    /// Remove the kept old ones.
    Commit,
    /// Remove the new ones.
    RemoveNew,
    /// Bring the kept old ones back.
    RestoreOld,
    /// Carry out another operation and wait for it.
    RunChild(Child),
}

impl Action {
    /// One line for `--dry-run`.
    pub fn describe(&self) -> String {
        match self {
            Self::Preflight => "check target, store and free space".to_owned(),
            Self::RunHooks(HookPhase::Before) => "run the hooks `before`".to_owned(),
            Self::RunHooks(HookPhase::After) => "run the hooks `after`".to_owned(),
            Self::Quiesce { mode: ConsistencyMode::Pause, .. } => "pause the service".to_owned(),
            Self::Quiesce { timeout, .. } => format!("stop the service (at most {timeout})"),
            Self::Resume => "let the service run again".to_owned(),
            Self::Archive => "read the data into an archive under a temporary name".to_owned(),
            Self::Seal => "sync, rename and write the manifest".to_owned(),
            Self::Verify { mode: VerifyMode::Full } => "read back every byte".to_owned(),
            Self::Verify { mode: VerifyMode::Quick } => "check manifest and size".to_owned(),
            Self::DiscardArchive => "remove the unfinished archive".to_owned(),
            Self::VerifySource => "verify the archive completely".to_owned(),
            Self::Extract => "unpack beside the live data".to_owned(),
            Self::FindLive => "look again what there is to lose".to_owned(),
            Self::CarryOver => "carry over what stays".to_owned(),
            Self::Swap => "put the new tree in place by rename".to_owned(),
            Self::SwapBack => "put the old tree back".to_owned(),
            Self::DiscardStaging => "remove the unpacked tree".to_owned(),
            Self::DropOld => "remove the replaced tree".to_owned(),
            Self::AwaitHealthy => "wait until the service is healthy".to_owned(),
            Self::Soak => "watch that it stays healthy".to_owned(),
            Self::Fetch => "fetch the new images".to_owned(),
            Self::KeepOld => "keep the old containers aside".to_owned(),
            Self::Apply => "create the new ones".to_owned(),
            Self::Start => "start the new ones".to_owned(),
            Self::Commit => "remove the kept old ones".to_owned(),
            Self::RemoveNew => "remove the new ones".to_owned(),
            Self::RestoreOld => "bring the old ones back".to_owned(),
            Self::RunChild(Child::SafetyBackup) => "back up what is there, verified".to_owned(),
            Self::RunChild(Child::UpgradeBackup) => {
                "back up the stopped service, verified".to_owned()
            }
            Self::RunChild(Child::UpgradeData) => "restore the data of that version".to_owned(),
            Self::RunChild(Child::UpgradeRollback) => "restore the data from the backup".to_owned(),
        }
    }

    /// Whether it puts things back: it is done even when the operation was cancelled, for that is when it is
    /// needed.
    pub fn is_compensation(&self) -> bool {
        matches!(
            self,
            Self::Resume
                | Self::RunHooks(HookPhase::After)
                | Self::DiscardArchive
                | Self::SwapBack
                | Self::DiscardStaging
                | Self::DropOld
                | Self::Commit
                | Self::RemoveNew
                | Self::RestoreOld
                | Self::RunChild(Child::UpgradeRollback)
        )
    }

    /// Whether its effect may come before its intent is on disk: it only lets run again what stands still, and
    /// whoever finds the journal without it does it once more.
    pub fn may_come_first(&self) -> bool {
        matches!(self, Self::Resume | Self::RunHooks(HookPhase::After))
    }
}
