//! The steps of an Upgrade.
//!
//! preflight → fetch → hooks before → quiesce → backup → keep the old → (data) → apply → start → hooks after →
//! health gate → soak → commit. Everything that can fail for outside reasons happens before the
//! stop. Until the old containers are put aside a failure only lets the service run again; from then
//! on it brings back the old containers and, if the new ones ever ran, the old data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::action::{Action, Child, HookPhase};
use super::backup::{HOOKS_AFTER_ATTEMPTS, RESUME_ATTEMPTS, conclude};
use super::job::{ChildFacts, Observed, PreflightFacts, UpgradeJob};
use super::machine::{
    Compensation, Conclusion, Decision, Failure, Forward, Log, OnInterruption, StepState, advance,
    compensate, is_final,
};
use crate::spec::Reason;
use crate::spec::upgrade::{RollbackMode, UpgradeBackupMode};

/// Step names, as in the journal.
pub mod step {
    pub use crate::plan::backup::step::{HOOKS_AFTER, HOOKS_BEFORE, PREFLIGHT, QUIESCE, RESUME};

    /// Have the new images here.
    pub const FETCH: &str = "fetch";
    /// The verified backup of the stopped service.
    pub const BACKUP: &str = "backup";
    /// Put the old containers aside.
    pub const KEEP_OLD: &str = "keep-old";
    /// Put the data in place that goes with the version.
    pub const DATA: &str = "data";
    /// Make the new ones.
    pub const APPLY: &str = "apply";
    /// Start them.
    pub const START: &str = "start";
    /// Wait for health.
    pub const HEALTH: &str = "health";
    /// Watch it.
    pub const SOAK: &str = "soak";
    /// Remove the old ones.
    pub const COMMIT: &str = "commit";
    /// Remove the new ones.
    pub const REMOVE_NEW: &str = "rollback-remove-new";
    /// Put the data back.
    pub const RESTORE_DATA: &str = "rollback-data";
    /// Bring the old ones back.
    pub const RESTORE_OLD: &str = "rollback-restore-old";
    /// Run the old ones.
    pub const ROLLBACK_RESUME: &str = "rollback-resume";
    /// Hooks after the rollback.
    pub const ROLLBACK_HOOKS_AFTER: &str = "rollback-hooks-after";
}
use step::{
    APPLY, BACKUP, COMMIT, DATA, FETCH, HEALTH, HOOKS_AFTER, HOOKS_BEFORE, KEEP_OLD, PREFLIGHT,
    QUIESCE, REMOVE_NEW, RESTORE_DATA, RESTORE_OLD, RESUME, ROLLBACK_HOOKS_AFTER, ROLLBACK_RESUME,
    SOAK, START,
};

/// How often the old data is put back: a store that is away for half a minute leaves nobody with the old
/// version on the data of the new one.
const DATA_ATTEMPTS: u32 = 8;

/// The next step of an upgrade.
pub fn next(job: &UpgradeJob, log: &Log<'_>, observed: &Observed, now: Timestamp) -> Decision {
    if let Some(at) = &job.spec.scheduled_at
        && !log.touched(PREFLIGHT)
        && at.0 > now
    {
        return Decision::Wait { until: at.0, message: format!("scheduled at {}", at.0) };
    }
    match forward(job, log, observed) {
        Ok(Some(decision)) => decision,
        Ok(None) => Decision::Finish(Conclusion::succeeded(success_message(job, log))),
        Err(failure) => backward(job, log, failure, now),
    }
}

fn steps(job: &UpgradeJob) -> Vec<Forward> {
    use OnInterruption::{Redo, Undo};
    let spec = &job.spec;
    let mut steps = vec![
        Forward { step: PREFLIGHT, action: Action::Preflight, on_interruption: Redo },
        Forward { step: FETCH, action: Action::Fetch, on_interruption: Redo },
    ];
    let hooks = |phase| Action::RunHooks(phase);
    if !spec.hooks.before.is_empty() {
        let action = hooks(HookPhase::Before);
        steps.push(Forward { step: HOOKS_BEFORE, action, on_interruption: Undo });
    }
    let action = Action::Quiesce {
        mode: crate::spec::ConsistencyMode::Stop,
        timeout: spec.consistency.timeout.clone(),
    };
    steps.push(Forward { step: QUIESCE, action, on_interruption: Undo });
    if spec.backup.mode == UpgradeBackupMode::Required {
        let action = Action::RunChild(Child::UpgradeBackup);
        steps.push(Forward { step: BACKUP, action, on_interruption: Redo });
    }
    steps.push(Forward { step: KEEP_OLD, action: Action::KeepOld, on_interruption: Undo });
    if spec.data_from.is_some() {
        let action = Action::RunChild(Child::UpgradeData);
        steps.push(Forward { step: DATA, action, on_interruption: Redo });
    }
    steps.push(Forward { step: APPLY, action: Action::Apply, on_interruption: Undo });
    steps.push(Forward { step: START, action: Action::Start, on_interruption: Undo });
    if !spec.hooks.after.is_empty() {
        let action = hooks(HookPhase::After);
        steps.push(Forward { step: HOOKS_AFTER, action, on_interruption: Redo });
    }
    steps.push(Forward { step: HEALTH, action: Action::AwaitHealthy, on_interruption: Redo });
    steps.push(Forward { step: SOAK, action: Action::Soak, on_interruption: Redo });
    steps.push(Forward { step: COMMIT, action: Action::Commit, on_interruption: Redo });
    steps
}

/// The steps as `--dry-run` prints them.
pub fn outline(job: &UpgradeJob) -> Vec<(&'static str, Action)> {
    steps(job).into_iter().map(|forward| (forward.step, forward.action)).collect()
}

fn forward(
    job: &UpgradeJob,
    log: &Log<'_>,
    observed: &Observed,
) -> Result<Option<Decision>, Failure> {
    let next = advance(log, steps(job), observed.resumable)?;
    if let Some(Decision::Perform { step: KEEP_OLD, .. }) = next
        && job.spec.backup.mode == UpgradeBackupMode::Required
    {
        let backup: ChildFacts = log.facts(BACKUP).unwrap_or_default();
        if !backup.verified {
            return Err(Failure::new(
                Reason::SafetyBackupFailed,
                format!("the backup `{}` is not verified; nothing was changed", backup.name),
            ));
        }
    }
    Ok(next)
}

fn backward(job: &UpgradeJob, log: &Log<'_>, failure: Failure, now: Timestamp) -> Decision {
    let hooks_after = !job.spec.hooks.after.is_empty();
    // A failed commit leaves old containers lying about; the new version runs and stays.
    if log.touched(COMMIT) {
        let steps = vec![Compensation { step: COMMIT, action: Action::Commit, attempts: 3 }];
        let (decision, given_up) = compensate(log, steps, now);
        return decision.unwrap_or_else(|| {
            let mut message = success_message(job, log);
            if let Some((_, failure)) = given_up.first() {
                message.push_str("; the old containers could not be removed: ");
                message.push_str(&failure.message);
            }
            Decision::Finish(Conclusion::succeeded(message))
        });
    }
    // A service that somebody has started meanwhile is found before anything is changed, and so is a catalog
    // that cannot be written to.
    let is_before = |found: &Failure| {
        use Reason::{CatalogFailed, QuiesceFailed, ReplicasChanged};
        matches!(found.reason, ReplicasChanged | QuiesceFailed | CatalogFailed)
    };
    let is_refused = matches!(log.state(KEEP_OLD), StepState::Failed(found) if is_before(&found));
    if !log.touched(KEEP_OLD) || is_refused {
        let mut steps = Vec::new();
        if log.touched(QUIESCE) {
            let attempts = RESUME_ATTEMPTS;
            steps.push(Compensation { step: RESUME, action: Action::Resume, attempts });
        }
        if hooks_after && (log.touched(HOOKS_BEFORE) || log.touched(QUIESCE)) {
            let action = Action::RunHooks(HookPhase::After);
            steps.push(Compensation { step: HOOKS_AFTER, action, attempts: HOOKS_AFTER_ATTEMPTS });
        }
        let (decision, given_up) = compensate(log, steps, now);
        return decision.unwrap_or_else(|| Decision::Finish(conclude(failure, &given_up)));
    }
    // A new version that never ran leaves nothing to look at, and the service must not stay down for it.
    if job.spec.rollback.mode != RollbackMode::Auto && log.touched(START) {
        let failure = failure.hint(match job.spec.rollback.mode {
            RollbackMode::Manual if job.spec.target.in_cluster() => {
                "everything for a rollback is kept: set the old image and restore the backup that \
                 the status names"
            }
            RollbackMode::Manual => {
                "everything for a rollback is kept: `eider upgrade rollback NAME` goes back"
            }
            _ => "rollback.mode is Never: the service is left as it is",
        });
        return Decision::Finish(Conclusion::failed(failure));
    }
    roll_back(job, log, &failure, now)
}

fn roll_back(job: &UpgradeJob, log: &Log<'_>, failure: &Failure, now: Timestamp) -> Decision {
    let attempts = 5;
    let mut steps = vec![Compensation { step: REMOVE_NEW, action: Action::RemoveNew, attempts }];
    // A version that never ran has changed no data, unless other data was put in place for it.
    let changed = log.touched(START) || log.touched(DATA);
    // Nor is data put back under a version that runs because it could not be removed.
    let may_run = log.is_given_up(REMOVE_NEW, attempts);
    if (job.spec.rollback.data || log.touched(DATA)) && changed && !may_run && log.done(BACKUP) {
        let action = Action::RunChild(Child::UpgradeRollback);
        steps.push(Compensation { step: RESTORE_DATA, action, attempts: DATA_ATTEMPTS });
    }
    steps.push(Compensation { step: RESTORE_OLD, action: Action::RestoreOld, attempts: 5 });
    let action = Action::Resume;
    steps.push(Compensation { step: ROLLBACK_RESUME, action, attempts: RESUME_ATTEMPTS });
    if !job.spec.hooks.after.is_empty() {
        let action = Action::RunHooks(HookPhase::After);
        steps.push(Compensation {
            step: ROLLBACK_HOOKS_AFTER,
            action,
            attempts: HOOKS_AFTER_ATTEMPTS,
        });
    }
    let (decision, given_up) = compensate(log, steps, now);
    if let Some(decision) = decision {
        return decision;
    }
    let given_up: Vec<_> =
        given_up.into_iter().filter(|(step, _)| *step != ROLLBACK_HOOKS_AFTER).collect();
    let mut conclusion = conclude(failure.clone(), &given_up);
    if let Some(inner) = &mut conclusion.failure {
        let cause = inner.message.clone();
        let (reason, message) = if given_up.is_empty() {
            let left = not_put_back(log);
            (Reason::RolledBack, format!("rolled back, because {}: {cause}{left}", failure.reason))
        } else {
            let left = wrong_data(log, &given_up);
            (Reason::RollbackFailed, format!("the rollback is not complete: {cause}{left}"))
        };
        if given_up.iter().any(|(step, failure)| *step == RESTORE_DATA && is_final(failure)) {
            let hint = "`eider backup list` shows what else there is of this data";
            inner.hint = Some(hint.to_owned());
        }
        inner.reason = reason;
        inner.message.clone_from(&message);
        conclusion.message = message;
    }
    Decision::Finish(conclusion)
}

/// What became of a service whose data could not be put back, as the end of a sentence. The old version runs
/// nevertheless: what it does to the data can be undone by the backup, an outage cannot (ADR 22).
fn wrong_data(log: &Log<'_>, given_up: &[(&'static str, Failure)]) -> String {
    let found = |step: &str| given_up.iter().find(|(other, _)| *other == step);
    let backup: ChildFacts = log.facts(BACKUP).unwrap_or_default();
    let changed = log.touched(START) || log.touched(DATA);
    let unsure = "; it may be the new version that runs";
    let mut text = if found(RESTORE_OLD).is_some() { unsure.to_owned() } else { String::new() };
    if let Some((_, failure)) = found(RESTORE_DATA) {
        text += "; the old version runs on the data that the new one left";
        text += &if is_final(failure) {
            format!(", and the archive of the backup {} is gone", backup.name)
        } else {
            format!(": restore the backup {}", backup.name)
        };
    } else if found(REMOVE_NEW).is_some() && changed && log.done(BACKUP) {
        text += &format!(
            "; the data was not put back, as the new version could not be stopped: restore the backup {} once it \
             stands still",
            backup.name
        );
    }
    text
}

/// What was there just before the new version was taken away; kept with the intent to do so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemovedFacts {
    /// What the new version has made and no backup has, in a few words each.
    pub not_put_back: Vec<String>,
    /// How many replicas somebody wanted meanwhile, if more than ran before.
    pub replicas: Option<i32>,
}

/// What a rollback has not put back, or has taken away, as the end of a sentence.
fn not_put_back(log: &Log<'_>) -> String {
    if !log.touched(START) {
        return String::new();
    }
    let facts: PreflightFacts = log.facts(PREFLIGHT).unwrap_or_default();
    let removed: RemovedFacts = log.intent(REMOVE_NEW).unwrap_or_default();
    let left = [facts.not_put_back, removed.not_put_back].concat();
    let mut text = String::new();
    if !left.is_empty() {
        text = format!("; as the new version left it: {}", left.join(", "));
    }
    if let Some(replicas) = removed.replicas {
        text += &format!("; it was scaled to {replicas} meanwhile and has as many as before again");
    }
    text
}

fn success_message(job: &UpgradeJob, log: &Log<'_>) -> String {
    let facts: PreflightFacts = log.facts(PREFLIGHT).unwrap_or_default();
    match facts.from_version {
        Some(from) => format!("upgraded from {from} to {}", job.spec.to_version),
        None => format!("upgraded to {}", job.spec.to_version),
    }
}
