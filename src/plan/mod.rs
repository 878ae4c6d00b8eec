//! What to do next: pure, synchronous planners over (specification, observation, journal, now).
//!
//! This room does no I/O, reads no clock and imports only `spec`. What it returns is data; a runtime
//! performs it. Because of that every decision can be tested with plain values, printed by
//! `--dry-run`, and taken again after a crash with the same result.

pub mod action;
pub mod backup;
pub mod chain;
pub mod conditions;
pub mod cron;
pub mod docker;
pub mod guard;
pub mod job;
pub mod journal;
pub mod machine;
pub mod names;
pub mod restore;
pub mod retention;
pub mod safety;
pub mod schedule;
pub mod status;
pub mod upgrade;
pub mod version;

use jiff::Timestamp;

pub use action::{Action, Child, HookPhase};
pub use chain::ParentFacts;
pub use job::{
    ArchiveFacts, ArchivePresence, BackupJob, ChildFacts, ClaimFacts, ExtractFacts, HookFacts, Job,
    LiveFacts, Observed, PreflightFacts, ReplacementState, RestoreJob, SealFacts, SourceSize,
    StoreBinding, UpgradeJob, VerifyFacts,
};
pub use journal::{JournalEntry, Mark, OperationId};
pub use machine::{Conclusion, Decision, Failure, Log, OPERATION, StepState};

/// The next step of any job.
pub fn next(job: &Job, log: &Log<'_>, observed: &Observed, now: Timestamp) -> Decision {
    match job {
        Job::Backup(job) => backup::next(job, log, observed, now),
        Job::Restore(job) => restore::next(job, log, observed, now),
        Job::Upgrade(job) => upgrade::next(job, log, observed, now),
    }
}

/// The steps of any job in order, as `--dry-run` prints them.
pub fn outline(job: &Job) -> Vec<(&'static str, Action)> {
    match job {
        Job::Backup(job) => backup::outline(job),
        Job::Restore(job) => restore::outline(job),
        Job::Upgrade(job) => upgrade::outline(job),
    }
}
