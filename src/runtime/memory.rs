//! A simulated world with faults, in which every planner is run with a failure, and with a crash,
//! at every action. It is synchronous and touches nothing.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::plan::{
    self, Action, ArchiveFacts, ArchivePresence, Child, ChildFacts, Conclusion, Decision,
    ExtractFacts, Failure, HookPhase, Job, JournalEntry, LiveFacts, Log, Mark, Observed,
    PreflightFacts, ReplacementState, SealFacts, StepState, VerifyFacts,
};
use crate::spec::Reason;

/// What happens at the k-th action (counted from 0 over the whole run).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and reports a failure.
    Fails,
    /// It takes effect and the process dies before the outcome is written.
    CrashesAfter,
    /// The intent is written and the process dies before it takes effect.
    CrashesBefore,
}

/// The state of the simulated world.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Whether the service runs.
    pub running: bool,
    /// Whether hooks `before` have been run without hooks `after` following.
    pub hooks_open: bool,
    /// What the store holds of the operation's archive.
    pub archive: ArchivePresence,
    /// Which data is live.
    pub live: ReplacementState,
    /// Whether the unpacked tree lies beside the live one.
    pub staged: bool,
    /// Whether the replaced tree is kept.
    pub old_kept: bool,
    /// Names of recorded, verified backups.
    pub verified_backups: BTreeSet<&'static str>,
    /// Whether the old containers are put aside.
    pub old_aside: bool,
    /// Whether the new containers exist.
    pub new_exists: bool,
    /// Whether a new version ran since the data was last put back.
    pub data_touched: bool,
    /// Whether the new version becomes healthy.
    pub becomes_healthy: bool,
    /// Whether interrupted steps are picked up, as movers allow it.
    pub resumable: bool,
    /// Whether the runtime says when all of the data has been read, before the archive is complete.
    pub reads_early: bool,
    /// Rules that were broken, with the action that broke them.
    pub violations: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            running: true,
            hooks_open: false,
            archive: ArchivePresence::Absent,
            live: ReplacementState::Old,
            staged: false,
            old_kept: true,
            verified_backups: BTreeSet::new(),
            old_aside: false,
            new_exists: false,
            data_touched: false,
            becomes_healthy: true,
            resumable: false,
            reads_early: false,
            violations: Vec::new(),
        }
    }
}

/// A finished simulation.
#[derive(Debug, Clone)]
pub struct Trace {
    /// How it ended.
    pub conclusion: Conclusion,
    /// The journal.
    pub journal: Vec<JournalEntry>,
    /// Actions performed, in order.
    pub actions: Vec<String>,
    /// The world at the end.
    pub world: World,
}

/// Runs a job to its end in `world`, with the faults at the given action numbers.
///
/// # Errors
/// With a text when the planner does not come to an end in 500 decisions.
pub fn simulate(job: &Job, mut world: World, faults: &[(usize, Fault)]) -> Result<Trace, String> {
    let mut run = Run { job, faults, journal: Vec::new(), actions: Vec::new() };
    let mut now = Timestamp::UNIX_EPOCH;
    for _ in 0..500 {
        now = now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(now);
        let observed = Observed {
            archive: world.archive,
            replacement: world.live,
            resumable: world.resumable,
        };
        match plan::next(job, &Log::new(&run.journal), &observed, now) {
            Decision::Wait { until, .. } => now = until.max(now),
            Decision::Finish(conclusion) => {
                let Run { journal, actions, .. } = run;
                return Ok(Trace { conclusion, journal, actions, world });
            }
            Decision::Perform { step, action, .. } => run.step(&mut world, step, &action, now),
        }
    }
    Err(format!("no end after 500 decisions: {:?}", run.actions))
}

/// What has happened so far of a simulation.
struct Run<'a> {
    job: &'a Job,
    faults: &'a [(usize, Fault)],
    journal: Vec<JournalEntry>,
    actions: Vec<String>,
}

impl Run<'_> {
    fn write(&mut self, step: &str, mark: Mark, at: Timestamp, detail: Value) {
        self.journal.push(JournalEntry {
            operation: self.job.operation().clone(),
            step: step.to_owned(),
            mark,
            at,
            session: "simulation".to_owned(),
            detail,
        });
    }

    fn step(&mut self, world: &mut World, step: &str, action: &Action, now: Timestamp) {
        let number = self.actions.len();
        self.actions.push(step.to_owned());
        self.write(step, Mark::Intent, now, Value::Null);
        let fault = self.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
        if fault == Some(Fault::CrashesBefore) {
            return;
        }
        let outcome = match fault {
            Some(Fault::Fails) => Err(Failure::new(Reason::InternalError, "injected")),
            _ => world.perform(action),
        };
        if world.reads_early && *action == Action::Archive && self.go_on(world, now) == Died {
            return;
        }
        match outcome {
            _ if fault == Some(Fault::CrashesAfter) => {}
            Ok(detail) => self.write(step, Mark::Done, now, detail),
            Err(failure) => self.write(step, Mark::Failed, now, json!(failure)),
        }
    }

    /// What is done while the archive is completed.
    fn go_on(&mut self, world: &mut World, now: Timestamp) -> Life {
        let Job::Backup(job) = self.job else { return Lives };
        while let Some((step, action)) = plan::backup::once_read(job, &Log::new(&self.journal)) {
            self.step(world, step, &action, now);
            if Log::new(&self.journal).state(step) == StepState::Interrupted {
                return Died;
            }
        }
        Lives
    }
}

/// Whether the process is there after what was done last.
#[derive(PartialEq, Eq)]
enum Life {
    Lives,
    Died,
}
use Life::{Died, Lives};

impl World {
    fn expect(&mut self, holds: bool, rule: &str) {
        if !holds {
            self.violations.push(rule.to_owned());
        }
    }

    fn perform(&mut self, action: &Action) -> Result<Value, Failure> {
        match action {
            Action::Preflight => {
                return Ok(json!(PreflightFacts { live_data: true, ..Default::default() }));
            }
            Action::RunHooks(HookPhase::Before) => self.hooks_open = true,
            Action::RunHooks(HookPhase::After) => self.hooks_open = false,
            Action::Quiesce { .. } => self.running = false,
            Action::Resume => {
                self.expect(self.live != ReplacementState::Mixed, "started on a mixed tree");
                self.expect(!self.old_aside || self.new_exists, "nothing there to start");
                self.running = true;
            }
            Action::Archive => {
                self.archive = ArchivePresence::Unfinished;
                return Ok(json!(ArchiveFacts {
                    name: "a".to_owned(),
                    files: 1,
                    source_bytes: 1,
                    ..Default::default()
                }));
            }
            Action::Seal => {
                self.archive = ArchivePresence::Sealed;
                return Ok(json!(SealFacts::default()));
            }
            Action::Verify { .. } => {
                self.expect(self.archive == ArchivePresence::Sealed, "verified without an archive");
                self.verified_backups.insert("own");
                return Ok(json!(VerifyFacts { verified_at: Some(Timestamp::UNIX_EPOCH) }));
            }
            Action::DiscardArchive => {
                self.archive = ArchivePresence::Absent;
                self.verified_backups.remove("own");
            }
            Action::VerifySource | Action::Fetch | Action::CarryOver => {}
            Action::FindLive => {
                return Ok(json!(LiveFacts { live_paths: vec!["/data".to_owned()] }));
            }
            Action::Extract => {
                self.staged = true;
                return Ok(json!(ExtractFacts { files: 1, bytes: 1, warnings: Vec::new() }));
            }
            Action::Swap => {
                self.expect(
                    self.verified_backups.contains("safety"),
                    "swapped without a verified backup",
                );
                self.live = ReplacementState::New;
            }
            Action::SwapBack => {
                self.expect(self.old_kept, "swapped back without the old tree");
                self.live = ReplacementState::Old;
            }
            Action::DiscardStaging => {
                self.expect(self.live == ReplacementState::Old, "discarded the live tree");
                self.staged = false;
            }
            Action::DropOld => {
                self.expect(self.live == ReplacementState::New, "dropped the live tree");
                self.old_kept = false;
                self.staged = false;
            }
            Action::AwaitHealthy | Action::Soak => {
                if !self.becomes_healthy {
                    return Err(Failure::new(Reason::Unhealthy, "not healthy"));
                }
            }
            Action::KeepOld => {
                self.expect(
                    self.verified_backups.contains("upgrade"),
                    "changed without a verified backup",
                );
                self.expect(!self.running, "put aside while running");
                self.old_aside = true;
            }
            Action::Apply => self.new_exists = true,
            Action::Start => {
                self.running = true;
                self.data_touched = true;
            }
            Action::Commit => {
                self.expect(self.new_exists, "removed the old without a new");
                self.old_aside = false;
                self.old_kept = false;
            }
            Action::RemoveNew => {
                self.new_exists = false;
                self.running = false;
            }
            Action::RestoreOld => {
                self.expect(self.old_kept, "the old ones are gone");
                self.old_aside = false;
            }
            Action::RunChild(Child::SafetyBackup) => {
                self.verified_backups.insert("safety");
                return Ok(json!(ChildFacts { name: "safety".to_owned(), verified: true }));
            }
            Action::RunChild(Child::UpgradeBackup) => {
                self.expect(!self.running, "the backup of an upgrade was taken while it ran");
                self.verified_backups.insert("upgrade");
                return Ok(json!(ChildFacts { name: "upgrade".to_owned(), verified: true }));
            }
            Action::RunChild(Child::UpgradeData) => {
                self.expect(!self.running, "data was replaced under a running service");
                self.expect(
                    self.verified_backups.contains("upgrade"),
                    "data was replaced without a verified backup",
                );
                self.data_touched = true;
                return Ok(json!(ChildFacts { name: "data".to_owned(), verified: false }));
            }
            Action::RunChild(Child::UpgradeRollback) => {
                self.expect(!self.running, "data was put back under a running service");
                self.data_touched = false;
                return Ok(json!(ChildFacts { name: "rollback".to_owned(), verified: false }));
            }
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests;
