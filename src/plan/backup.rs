//! The steps of a Backup.
//!
//! preflight → hooks before → quiesce → archive → resume → hooks after → seal → verify. The service
//! runs again as soon as the data has been read, while the archive is still being completed where the
//! runtime says when that is ([`once_read`]). Until the seal, any failure or interruption undoes
//! everything; after it the archive exists, and an interruption only repeats the verification.

use jiff::Timestamp;

use super::action::{Action, HookPhase};
use super::guard::{self, SourceFacts};
use super::job::{ArchiveFacts, ArchivePresence, BackupJob, Observed, quiesced};
use super::machine::{
    Compensation, Conclusion, Decision, Failure, Forward, Log, OnInterruption, StepState, advance,
    compensate, interrupted,
};
use crate::spec::{Reason, counted};

/// Step names, as in the journal.
pub mod step {
    /// Look before anything changes.
    pub const PREFLIGHT: &str = "preflight";
    /// Hooks before.
    pub const HOOKS_BEFORE: &str = "hooks-before";
    /// Hold the service still.
    pub const QUIESCE: &str = "quiesce";
    /// Read the data.
    pub const ARCHIVE: &str = "archive";
    /// Let the service run again.
    pub const RESUME: &str = "resume";
    /// Hooks after.
    pub const HOOKS_AFTER: &str = "hooks-after";
    /// The commit point.
    pub const SEAL: &str = "seal";
    /// Read back.
    pub const VERIFY: &str = "verify";
    /// Remove what was left of a failed backup.
    pub const DISCARD: &str = "discard";
}
use step::{ARCHIVE, DISCARD, HOOKS_AFTER, HOOKS_BEFORE, PREFLIGHT, QUIESCE, RESUME, SEAL, VERIFY};

/// How often a service is tried to be started again before somebody has to look.
pub(super) const RESUME_ATTEMPTS: u32 = 6;

/// How often the hooks `after` are tried: on a plain host they are what starts the service again.
pub(super) const HOOKS_AFTER_ATTEMPTS: u32 = 3;

/// The next step of a backup.
pub fn next(job: &BackupJob, log: &Log<'_>, observed: &Observed, now: Timestamp) -> Decision {
    match forward(job, log, observed) {
        Ok(Some(decision)) => decision,
        Ok(None) => Decision::Finish(Conclusion::succeeded(success_message(log))),
        Err(failure) => backward(job, log, failure, now),
    }
}

/// The forward steps in order, for planning and for `--dry-run`.
fn steps(job: &BackupJob) -> Vec<Forward> {
    use OnInterruption::{Redo, Undo};
    let spec = &job.spec;
    let mut steps =
        vec![Forward { step: PREFLIGHT, action: Action::Preflight, on_interruption: Redo }];
    if !spec.hooks.before.is_empty() {
        let action = Action::RunHooks(HookPhase::Before);
        steps.push(Forward { step: HOOKS_BEFORE, action, on_interruption: Undo });
    }
    let held = quiesced(&spec.target, spec.consistency.mode);
    if held {
        let action = Action::Quiesce {
            mode: spec.consistency.mode,
            timeout: spec.consistency.timeout.clone(),
        };
        steps.push(Forward { step: QUIESCE, action, on_interruption: Undo });
    }
    steps.push(Forward { step: ARCHIVE, action: Action::Archive, on_interruption: Undo });
    if held {
        steps.push(Forward { step: RESUME, action: Action::Resume, on_interruption: Redo });
    }
    if !spec.hooks.after.is_empty() {
        let action = Action::RunHooks(HookPhase::After);
        steps.push(Forward { step: HOOKS_AFTER, action, on_interruption: Redo });
    }
    steps
}

/// The step to begin while the archive is still being completed, once all of the data has been read: the
/// service need not wait for the compression of the last pieces and for the index. One at a time, in the
/// order of the way forward. A step that was announced already is left alone: should the archive fail now,
/// the way back goes on from what the journal says.
pub fn once_read(job: &BackupJob, log: &Log<'_>) -> Option<(&'static str, Action)> {
    let behind = steps(job).into_iter().skip_while(|forward| forward.step != ARCHIVE).skip(1);
    let next = behind
        .map(|forward| (log.state(forward.step), forward))
        .find(|(state, _)| *state != StepState::Done);
    let (state, forward) = next?;
    (state == StepState::NotStarted).then_some((forward.step, forward.action))
}

/// The steps as `--dry-run` prints them.
pub fn outline(job: &BackupJob) -> Vec<(&'static str, Action)> {
    let mut outline: Vec<_> =
        steps(job).into_iter().map(|forward| (forward.step, forward.action)).collect();
    outline.push((SEAL, Action::Seal));
    outline.push((VERIFY, Action::Verify { mode: job.spec.verify }));
    outline
}

fn forward(
    job: &BackupJob,
    log: &Log<'_>,
    observed: &Observed,
) -> Result<Option<Decision>, Failure> {
    // A service that does not come up at the first try is not the end: resume is tried again by the
    // way back, and a backup whose service needed help is a failure even if the data was read.
    if let Some(decision) = advance(log, steps(job), observed.resumable)? {
        return Ok(Some(decision));
    }
    match log.state(SEAL) {
        StepState::Done => {}
        StepState::NotStarted => {
            return Ok(Some(Decision::Perform { step: SEAL, action: Action::Seal, back: false }));
        }
        // The manifest is the commit point: with it the seal has happened, whatever the journal lacks.
        StepState::Interrupted
            if observed.resumable || observed.archive == ArchivePresence::Sealed =>
        {
            return Ok(Some(Decision::Perform { step: SEAL, action: Action::Seal, back: false }));
        }
        StepState::Interrupted => return Err(interrupted(SEAL)),
        StepState::Failed(failure) => return Err(failure),
    }
    check_guards(job, log)?;
    let action = Action::Verify { mode: job.spec.verify };
    let verify = Forward { step: VERIFY, action, on_interruption: OnInterruption::Redo };
    advance(log, vec![verify], observed.resumable)
}

fn check_guards(job: &BackupJob, log: &Log<'_>) -> Result<(), Failure> {
    let Some(archive) = log.facts::<ArchiveFacts>(ARCHIVE) else {
        return Err(Failure::new(Reason::InternalError, "the journal has no facts of the archive"));
    };
    let previous =
        job.previous.map(|previous| SourceFacts { files: previous.files, bytes: previous.bytes });
    let current = SourceFacts { files: archive.files, bytes: archive.source_bytes };
    guard::check(previous.as_ref(), &current, &job.spec.guards).map_err(|found| {
        Failure::new(found.reason, found.message)
            .hint("the archive is kept, unverified; look into it and into the source")
    })
}

/// Whether a failed backup keeps its archive: a suspicious one does, unverified, for a person to look at.
pub fn keeps_archive(reason: Reason) -> bool {
    matches!(reason, Reason::SuspiciousShrink | Reason::EmptySource)
}

fn backward(job: &BackupJob, log: &Log<'_>, failure: Failure, now: Timestamp) -> Decision {
    let mut steps = Vec::new();
    let touched = [HOOKS_BEFORE, QUIESCE, ARCHIVE].iter().any(|step| log.touched(step));
    if log.touched(QUIESCE) {
        steps.push(Compensation {
            step: RESUME,
            action: Action::Resume,
            attempts: RESUME_ATTEMPTS,
        });
    }
    if touched && !job.spec.hooks.after.is_empty() {
        let action = Action::RunHooks(HookPhase::After);
        steps.push(Compensation { step: HOOKS_AFTER, action, attempts: HOOKS_AFTER_ATTEMPTS });
    }
    if log.touched(ARCHIVE) && !(log.done(SEAL) && keeps_archive(failure.reason)) {
        steps.push(Compensation { step: DISCARD, action: Action::DiscardArchive, attempts: 3 });
    }
    let (decision, given_up) = compensate(log, steps, now);
    decision.unwrap_or_else(|| Decision::Finish(conclude(failure, &given_up)))
}

/// The failure with what could not be put back.
pub(super) fn conclude(failure: Failure, given_up: &[(&'static str, Failure)]) -> Conclusion {
    let mut failure = failure;
    for (step, also) in given_up {
        // The step that failed first is not told twice.
        if also.message == failure.message {
            continue;
        }
        failure.message.push_str("; also step `");
        failure.message.push_str(step);
        failure.message.push_str("` failed: ");
        failure.message.push_str(&also.message);
    }
    if let Some((_, resume)) = given_up.iter().find(|(step, _)| *step == RESUME) {
        // A service that is down outranks whatever made the operation fail.
        failure.reason = resume.reason;
    }
    Conclusion::failed(failure)
}

fn success_message(log: &Log<'_>) -> String {
    let facts: ArchiveFacts = log.facts(ARCHIVE).unwrap_or_default();
    let mut message = format!("{} in {}", counted(facts.files, "file"), facts.name);
    if let Some(parent) = &facts.parent {
        message.push_str(", which continues ");
        message.push_str(&parent.name);
    }
    if facts.warning_count > 0 {
        use std::fmt::Write;
        let plural = if facts.warning_count == 1 { "" } else { "s" };
        let _ = write!(message, ", {} warning{plural}", facts.warning_count);
    }
    message
}
