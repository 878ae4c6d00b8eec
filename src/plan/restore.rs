//! The steps of a Restore.
//!
//! preflight → verify the archive → extract beside the live data → hooks before → quiesce → (find live) → safety
//! backup → carry over → swap → resume → hooks after → health → drop the old tree.
//!
//! Extraction comes before the quiesce because it needs no downtime, and the safety backup after it
//! because only then nothing can be written between the backup and the swap (ADR 0007). Nothing
//! live is touched before the swap; after it, any failure swaps back.

use jiff::Timestamp;

use super::action::{Action, Child, HookPhase};
use super::backup::{HOOKS_AFTER_ATTEMPTS, RESUME_ATTEMPTS, conclude};
use super::job::{
    ChildFacts, ExtractFacts, LiveFacts, Observed, PreflightFacts, ReplacementState, RestoreJob,
    quiesced,
};
use super::machine::{
    Compensation, Conclusion, Decision, Failure, Forward, Log, OnInterruption, StepState, advance,
    compensate, interrupted,
};
use crate::spec::{Reason, RestoreMode, counted};

/// Step names, as in the journal.
pub mod step {
    pub use crate::plan::backup::step::{HOOKS_AFTER, HOOKS_BEFORE, PREFLIGHT, QUIESCE, RESUME};

    /// Prove the archive.
    pub const VERIFY_SOURCE: &str = "verify-source";
    /// Unpack beside the live data.
    pub const EXTRACT: &str = "extract";
    /// Look again what there is to lose, where some places were empty while the service still ran.
    pub const FIND_LIVE: &str = "find-live";
    /// Back up what is there.
    pub const SAFETY_BACKUP: &str = "safety-backup";
    /// Bring over what stays.
    pub const CARRY_OVER: &str = "carry-over";
    /// Put the new tree in place.
    pub const SWAP: &str = "swap";
    /// Wait for health.
    pub const HEALTH: &str = "health";
    /// Remove the replaced tree.
    pub const DROP_OLD: &str = "drop-old";
    /// Hold the service still again, to undo.
    pub const UNDO_QUIESCE: &str = "undo-quiesce";
    /// Hooks before, again, to undo.
    pub const UNDO_HOOKS_BEFORE: &str = "undo-hooks-before";
    /// Put the old tree back.
    pub const SWAP_BACK: &str = "swap-back";
    /// Let the service run on the old tree.
    pub const UNDO_RESUME: &str = "undo-resume";
    /// Hooks after, again, after undoing.
    pub const UNDO_HOOKS_AFTER: &str = "undo-hooks-after";
    /// Remove the unpacked tree.
    pub const DISCARD_STAGING: &str = "discard-staging";
}
use step::{
    CARRY_OVER, DISCARD_STAGING, DROP_OLD, EXTRACT, FIND_LIVE, HEALTH, HOOKS_AFTER, HOOKS_BEFORE,
    PREFLIGHT, QUIESCE, RESUME, SAFETY_BACKUP, SWAP, SWAP_BACK, UNDO_HOOKS_AFTER,
    UNDO_HOOKS_BEFORE, UNDO_QUIESCE, UNDO_RESUME, VERIFY_SOURCE,
};

/// The next step of a restore.
pub fn next(job: &RestoreJob, log: &Log<'_>, observed: &Observed, now: Timestamp) -> Decision {
    match forward(job, log, observed) {
        Ok(Some(decision)) => decision,
        Ok(None) => finish_forward(log, now),
        Err(failure) => backward(job, log, observed, failure, now),
    }
}

fn held(job: &RestoreJob) -> bool {
    quiesced(&job.target, job.spec.consistency.mode)
}

/// What is known of what there is to lose.
#[derive(Debug, Clone, Copy)]
struct Live {
    /// Whether there is anything.
    any: bool,
    /// Whether that is to be looked at again: what was empty in preflight may not be any more.
    unsure: bool,
}

impl Live {
    fn known(log: &Log<'_>) -> Self {
        // Before preflight nobody knows, and caution costs nothing.
        let Some(before) = log.facts::<PreflightFacts>(PREFLIGHT) else {
            return Self { any: true, unsure: false };
        };
        let now = log.facts::<LiveFacts>(FIND_LIVE);
        Self {
            any: now.map_or(before.live_data, |now| !now.live_paths.is_empty()),
            unsure: !before.all_live && !log.touched(SWAP),
        }
    }
}

/// The steps up to the swap.
fn steps_before_swap(job: &RestoreJob, live: Live) -> Vec<Forward> {
    use OnInterruption::{Redo, Undo};
    let spec = &job.spec;
    let mut steps = vec![
        Forward { step: PREFLIGHT, action: Action::Preflight, on_interruption: Redo },
        Forward { step: VERIFY_SOURCE, action: Action::VerifySource, on_interruption: Redo },
        Forward { step: EXTRACT, action: Action::Extract, on_interruption: Undo },
    ];
    if !spec.hooks.before.is_empty() {
        let action = Action::RunHooks(HookPhase::Before);
        steps.push(Forward { step: HOOKS_BEFORE, action, on_interruption: Undo });
    }
    if held(job) {
        let action = Action::Quiesce {
            mode: spec.consistency.mode,
            timeout: spec.consistency.timeout.clone(),
        };
        steps.push(Forward { step: QUIESCE, action, on_interruption: Undo });
    }
    if spec.safety_backup && live.unsure {
        let action = Action::FindLive;
        steps.push(Forward { step: FIND_LIVE, action, on_interruption: Redo });
    }
    if spec.safety_backup && live.any {
        let action = Action::RunChild(Child::SafetyBackup);
        steps.push(Forward { step: SAFETY_BACKUP, action, on_interruption: Redo });
    }
    // With `include` only a part of the archive is put back: what it does not name stays.
    if spec.mode == RestoreMode::Merge || !spec.preserve.is_empty() || !spec.include.is_empty() {
        steps.push(Forward { step: CARRY_OVER, action: Action::CarryOver, on_interruption: Undo });
    }
    steps
}

fn steps_after_swap(job: &RestoreJob) -> Vec<Forward> {
    use OnInterruption::Redo;
    let mut steps = Vec::new();
    if held(job) && job.spec.start {
        steps.push(Forward { step: RESUME, action: Action::Resume, on_interruption: Redo });
    }
    if !job.spec.hooks.after.is_empty() {
        let action = Action::RunHooks(HookPhase::After);
        steps.push(Forward { step: HOOKS_AFTER, action, on_interruption: Redo });
    }
    if held(job) && job.spec.start {
        steps.push(Forward { step: HEALTH, action: Action::AwaitHealthy, on_interruption: Redo });
    }
    steps
}

/// How often a service is tried to be held still for the way back.
const UNDO_ATTEMPTS: u32 = 3;

/// The steps as `--dry-run` prints them.
pub fn outline(job: &RestoreJob) -> Vec<(&'static str, Action)> {
    let pair = |forward: Forward| (forward.step, forward.action);
    let live = Live { any: true, unsure: false };
    let mut outline: Vec<_> = steps_before_swap(job, live).into_iter().map(pair).collect();
    outline.push((SWAP, Action::Swap));
    outline.extend(steps_after_swap(job).into_iter().map(pair));
    outline.push((DROP_OLD, Action::DropOld));
    outline
}

fn forward(
    job: &RestoreJob,
    log: &Log<'_>,
    observed: &Observed,
) -> Result<Option<Decision>, Failure> {
    let live = Live::known(log);
    if let Some(decision) = advance(log, steps_before_swap(job, live), observed.resumable)? {
        return Ok(Some(decision));
    }
    if job.spec.safety_backup && live.any && !log.done(SWAP) {
        // The rule of the house, checked where it matters and not only by the order of the steps.
        let safety: ChildFacts = log.facts(SAFETY_BACKUP).unwrap_or_default();
        if !safety.verified {
            return Err(Failure::new(
                Reason::SafetyBackupFailed,
                format!(
                    "the safety backup `{}` is not verified; nothing was replaced",
                    safety.name
                ),
            ));
        }
    }
    match log.state(SWAP) {
        StepState::Done => {}
        StepState::NotStarted => {
            return Ok(Some(Decision::Perform { step: SWAP, action: Action::Swap, back: false }));
        }
        // All roots are the new ones: the swap has happened, only its outcome was not written.
        // Performing it again finds nothing to do and writes it.
        StepState::Interrupted
            if observed.resumable || observed.replacement == ReplacementState::New =>
        {
            return Ok(Some(Decision::Perform { step: SWAP, action: Action::Swap, back: false }));
        }
        StepState::Interrupted => return Err(interrupted(SWAP)),
        StepState::Failed(failure) => return Err(failure),
    }
    advance(log, steps_after_swap(job), observed.resumable)
}

/// Everything is in place; what is left is to drop the old tree, which is never a failure.
fn finish_forward(log: &Log<'_>, now: Timestamp) -> Decision {
    let steps = vec![Compensation { step: DROP_OLD, action: Action::DropOld, attempts: 3 }];
    let (decision, given_up) = compensate(log, steps, now);
    decision.unwrap_or_else(|| {
        let facts: ExtractFacts = log.facts(EXTRACT).unwrap_or_default();
        let mut message = format!("{} restored", counted(facts.files, "file"));
        if let Some((_, failure)) = given_up.first() {
            message.push_str("; the replaced tree could not be removed: ");
            message.push_str(&failure.message);
        }
        Decision::Finish(Conclusion::succeeded(message))
    })
}

fn backward(
    job: &RestoreJob,
    log: &Log<'_>,
    observed: &Observed,
    failure: Failure,
    now: Timestamp,
) -> Decision {
    let hooks = &job.spec.hooks;
    let held = held(job);
    let touched = [HOOKS_BEFORE, QUIESCE, CARRY_OVER, SWAP].iter().any(|step| log.touched(step));
    // Once swapping back was begun it is finished, whatever the roots look like in between.
    let swapped = log.touched(SWAP)
        && (log.touched(SWAP_BACK) || observed.replacement != ReplacementState::Old);
    let ran_again = log.touched(RESUME) || log.touched(HOOKS_AFTER);

    let mut steps = Vec::new();
    if swapped && ran_again {
        // The service was started on the new tree: hold it still again before the tree is taken away.
        if !hooks.before.is_empty() {
            let action = Action::RunHooks(HookPhase::Before);
            let attempts = if held { 1 } else { UNDO_ATTEMPTS };
            steps.push(Compensation { step: UNDO_HOOKS_BEFORE, action, attempts });
        }
        if held {
            let action = Action::Quiesce {
                mode: job.spec.consistency.mode,
                timeout: job.spec.consistency.timeout.clone(),
            };
            steps.push(Compensation { step: UNDO_QUIESCE, action, attempts: UNDO_ATTEMPTS });
        }
    }
    // Data is not taken from under a service that runs because it could not be held still.
    let holds = if held { UNDO_QUIESCE } else { UNDO_HOOKS_BEFORE };
    let may_run = ran_again && log.is_given_up(holds, UNDO_ATTEMPTS);
    if swapped && !may_run {
        steps.push(Compensation { step: SWAP_BACK, action: Action::SwapBack, attempts: 5 });
    }
    let (resume, after) =
        if swapped && ran_again { (UNDO_RESUME, UNDO_HOOKS_AFTER) } else { (RESUME, HOOKS_AFTER) };
    if log.touched(QUIESCE) {
        steps.push(Compensation {
            step: resume,
            action: Action::Resume,
            attempts: RESUME_ATTEMPTS,
        });
    }
    if touched && !hooks.after.is_empty() {
        let action = Action::RunHooks(HookPhase::After);
        steps.push(Compensation { step: after, action, attempts: HOOKS_AFTER_ATTEMPTS });
    }
    let (decision, mut given_up) = compensate(log, steps, now);
    if let Some(decision) = decision {
        return decision;
    }
    // With the swap not undone, the staging places hold the only copy of the old tree: keep them.
    let is_left = (swapped && may_run) || given_up.iter().any(|(step, _)| *step == SWAP_BACK);
    if !is_left && log.touched(EXTRACT) {
        let steps = vec![Compensation {
            step: DISCARD_STAGING,
            action: Action::DiscardStaging,
            attempts: 3,
        }];
        let (decision, also) = compensate(log, steps, now);
        if let Some(decision) = decision {
            return decision;
        }
        given_up.extend(also);
    }
    Decision::Finish(conclude(failure, &given_up))
}
