//! What the journal says, as a status: a pure function, so that a status can always be made again.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::conditions;
use super::job::{
    ArchiveFacts, BackupJob, ChildFacts, ExtractFacts, HookFacts, Job, PreflightFacts, RestoreJob,
    SealFacts, UpgradeJob, VerifyFacts,
};
use super::journal::Mark;
use super::machine::{Conclusion, Failure, Log};
use super::{backup, restore, upgrade};
use crate::spec::upgrade::StepStatus;
use crate::spec::{
    ArchiveStatus, BackupPhase, BackupStatus, ProgressStatus, Reason, RestorePhase, RestoreStatus,
    UpgradePhase, UpgradeStatus, readable_size,
};

/// The status of any job, as JSON for the object's `status`.
pub fn of(job: &Job, log: &Log<'_>, progress: Option<ProgressStatus>) -> Value {
    match job {
        Job::Backup(job) => json!(of_backup(job, log, progress)),
        Job::Restore(job) => json!(of_restore(job, log, progress)),
        Job::Upgrade(job) => json!(of_upgrade(job, log)),
    }
}

/// The status of an operation that could not even be begun.
pub fn refused(generation: i64, conclusion: &Conclusion, at: Timestamp) -> Value {
    let mut conditions = Vec::new();
    if let Some(failure) = &conclusion.failure {
        conditions::failed(&mut conditions, failure.reason, &failure.message, generation, at);
    }
    json!({
        "phase": "Failed",
        "observedGeneration": generation,
        "startedAt": Time(at),
        "completedAt": Time(at),
        "message": conclusion.message,
        "conditions": conditions,
    })
}

/// The status of an operation that has not begun because it waits for something.
pub fn waiting(generation: i64, failure: &Failure, at: Timestamp) -> Value {
    let mut conditions = Vec::new();
    conditions::running(&mut conditions, failure.reason, &failure.message, generation, at);
    json!({
        "phase": "Pending",
        "observedGeneration": generation,
        "message": failure.message,
        "conditions": conditions,
    })
}

/// The conclusion that a published status speaks of, if it is a terminal one of this generation.
pub fn recorded(status: &Value, generation: i64) -> Option<Conclusion> {
    if status["observedGeneration"].as_i64() != Some(generation) {
        return None;
    }
    let message = status["message"].as_str().unwrap_or_default();
    match status["phase"].as_str()? {
        "Succeeded" => Some(Conclusion::succeeded(message)),
        "Failed" | "RolledBack" => {
            let reason = status["conditions"]
                .as_array()
                .and_then(|conditions| conditions.iter().find(|one| one["type"] == "Succeeded"))
                .and_then(|condition| condition["reason"].as_str()?.parse().ok())
                .unwrap_or(Reason::InternalError);
            Some(Conclusion::failed(super::machine::Failure::new(reason, message)))
        }
        _ => None,
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn time(at: Option<Timestamp>) -> Option<Time> {
    at.map(Time)
}

/// Seconds with one decimal, as `2.4s`.
fn seconds(span: Option<jiff::SignedDuration>) -> Option<String> {
    span.map(|span| format!("{:.1}s", span.as_secs_f64()))
}

/// How long the service was away: from the moment it was asked to stop until it was let go, or was
/// healthy again where that was waited for. On a plain host it is the hooks that stop it. None where
/// there was no service, or it was not running.
pub fn downtime(log: &Log<'_>) -> Option<jiff::SignedDuration> {
    use backup::step::{HOOKS_AFTER, HOOKS_BEFORE, QUIESCE, RESUME};
    use restore::step::{HEALTH, UNDO_RESUME};
    use upgrade::step::{ROLLBACK_RESUME, START};
    let held: Value = log.intent(QUIESCE).unwrap_or_default();
    let nobody = held["replicas"] == 0 || held["order"].as_array().is_some_and(Vec::is_empty);
    if log.touched(QUIESCE) && !nobody {
        let back = [RESUME, UNDO_RESUME, ROLLBACK_RESUME, START, HEALTH];
        let back = back.iter().filter_map(|step| told(log, step).or_else(|| log.done_at(step)));
        let from = told(log, QUIESCE).or_else(|| log.started_at(QUIESCE))?;
        return Some(back.max()?.duration_since(from).max(SignedDuration::ZERO));
    }
    // Elsewhere it is the engine that stops, and a hook may only ask for a dump.
    let is_of_a_host = log.job().is_some_and(|job| job.target().host.is_some());
    if is_of_a_host { log.between(HOOKS_BEFORE, HOOKS_AFTER) } else { None }
}

/// When a step did it, by its own facts: lines of the journal are written a little before and after.
fn told(log: &Log<'_>, step: &str) -> Option<Timestamp> {
    log.facts::<Value>(step)?["at"].as_str()?.parse().ok()
}

/// Whether the service was held still and not let go again, although it was to be.
pub fn left_down(log: &Log<'_>) -> bool {
    use backup::step::{HOOKS_AFTER, HOOKS_BEFORE};
    use restore::step::UNDO_HOOKS_AFTER;
    if let (Some(Job::Restore(job)), Some((conclusion, _))) = (log.job(), log.conclusion())
        && !job.spec.start
        && conclusion.is_success()
    {
        return false;
    }
    let hooked = [HOOKS_AFTER, UNDO_HOOKS_AFTER].iter().any(|step| log.done(step));
    is_stopped(log) || (log.done(HOOKS_BEFORE) && log.touched(HOOKS_AFTER) && !hooked)
}

/// Whether a service was asked to stop and was not started again since: whichever came last.
fn is_stopped(log: &Log<'_>) -> bool {
    use backup::step::{QUIESCE, RESUME};
    use restore::step::{UNDO_QUIESCE, UNDO_RESUME};
    use upgrade::step::{REMOVE_NEW, ROLLBACK_RESUME, START};
    let starts = [RESUME, UNDO_RESUME, ROLLBACK_RESUME, START];
    let latest = log.entries().iter().rev().find_map(|entry| {
        let is_one_of = |steps: &[&str]| steps.contains(&entry.step.as_str());
        if is_one_of(&[QUIESCE, UNDO_QUIESCE, REMOVE_NEW]) {
            return Some(true);
        }
        (is_one_of(&starts) && entry.mark == Mark::Done).then_some(false)
    });
    latest.unwrap_or(false)
}

/// Whether something has been held still that has not been let run again yet.
pub fn stands_still(log: &Log<'_>) -> bool {
    use backup::step::{HOOKS_AFTER, HOOKS_BEFORE};
    use restore::step::UNDO_HOOKS_AFTER;
    use upgrade::step::ROLLBACK_HOOKS_AFTER;
    let after = match log.job() {
        Some(Job::Backup(job)) => !job.spec.hooks.after.is_empty(),
        Some(Job::Restore(job)) => !job.spec.hooks.after.is_empty(),
        Some(Job::Upgrade(job)) => !job.spec.hooks.after.is_empty(),
        None => false,
    };
    let hooked =
        [HOOKS_AFTER, UNDO_HOOKS_AFTER, ROLLBACK_HOOKS_AFTER].iter().any(|step| log.done(step));
    is_stopped(log) || (after && log.touched(HOOKS_BEFORE) && !hooked)
}

/// The conditions of a run-once kind.
fn run_once_conditions(
    conclusion: Option<&(Conclusion, Timestamp)>,
    log: &Log<'_>,
    generation: i64,
    message: &str,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let began = log.began_at().unwrap_or(Timestamp::UNIX_EPOCH);
    conditions::running(&mut conditions, Reason::Running, message, generation, began);
    if let Some((conclusion, at)) = conclusion {
        match &conclusion.failure {
            None => conditions::succeeded(&mut conditions, &conclusion.message, generation, *at),
            Some(failure) => conditions::failed(
                &mut conditions,
                failure.reason,
                &failure.message,
                generation,
                *at,
            ),
        }
    }
    conditions
}

fn of_backup(job: &BackupJob, log: &Log<'_>, progress: Option<ProgressStatus>) -> BackupStatus {
    use backup::step::{ARCHIVE, SEAL, VERIFY};
    let generation = job.operation.generation;
    let conclusion = log.conclusion();
    let phase = match &conclusion {
        Some((conclusion, _)) if conclusion.is_success() => BackupPhase::Succeeded,
        Some(_) => BackupPhase::Failed,
        None if log.touched(VERIFY) => BackupPhase::Verifying,
        None if log.began_at().is_some() => BackupPhase::Running,
        None => BackupPhase::Pending,
    };
    let message = match &conclusion {
        Some((conclusion, _)) => conclusion.message.clone(),
        None => {
            log.latest_step().map_or_else(|| "waiting".to_owned(), |step| format!("step {step}"))
        }
    };
    let facts: Option<ArchiveFacts> = log.facts(ARCHIVE);
    let verified: Option<VerifyFacts> = log.facts(VERIFY);
    let verified_at = verified.and_then(|facts| facts.verified_at);
    let mut conditions = run_once_conditions(conclusion.as_ref(), log, generation, &message);
    if let Some(at) = verified_at {
        conditions::verified(&mut conditions, true, "every byte was read back", generation, at);
    } else if let Some((_, at)) = &conclusion {
        conditions::verified(
            &mut conditions,
            false,
            "the archive was not read back",
            generation,
            *at,
        );
    }
    let kept = match &conclusion {
        Some((conclusion, _)) => match &conclusion.failure {
            None => true,
            Some(failure) => log.done(SEAL) && backup::keeps_archive(failure.reason),
        },
        None => log.done(SEAL),
    };
    let completed = conclusion.as_ref().map(|(_, at)| *at);
    let read = facts.iter().flat_map(|facts| facts.warnings.clone()).collect();
    let warnings = first_warnings(log, read);
    BackupStatus {
        phase: Some(phase),
        observed_generation: generation,
        started_at: time(log.began_at()),
        completed_at: time(completed),
        message: Some(message),
        target: Some(job.spec.target.summary()),
        duration: seconds(log.began_at().zip(completed).map(|(from, to)| to.duration_since(from))),
        downtime: seconds(downtime(log)),
        archive: facts.filter(|_| kept).map(|facts| ArchiveStatus {
            location: log.facts::<SealFacts>(SEAL).unwrap_or_default().location,
            format: job.spec.archive.format,
            size_bytes: count(facts.size_bytes),
            size: readable_size(count(facts.size_bytes)),
            source_bytes: count(facts.source_bytes),
            files: count(facts.files),
            sha256: facts.sha256,
            service_version: facts.service_version,
            parent: facts.parent.map(|parent| parent.name),
            expires_at: time(expires_at(job, log)),
            claims: log.facts::<PreflightFacts>(backup::step::PREFLIGHT).unwrap_or_default().claims,
            name: facts.name,
        }),
        progress: progress.filter(|_| completed.is_none()),
        warnings,
        journal: Vec::new(),
        conditions,
    }
}

/// What was noticed of the data while it was read or written.
pub fn warnings_of_data(job: &Job, log: &Log<'_>) -> Vec<String> {
    let step = match job {
        Job::Backup(_) => backup::step::ARCHIVE,
        Job::Restore(_) => restore::step::EXTRACT,
        Job::Upgrade(_) => return Vec::new(),
    };
    log.facts::<HookFacts>(step).unwrap_or_default().warnings
}

/// The first of [`warnings`], as many as fit into a status.
fn first_warnings(log: &Log<'_>, of_data: Vec<String>) -> Vec<String> {
    warnings(log, of_data).into_iter().take(20).collect()
}

/// What people should know of an operation: what preflight, fetching, holding still and hooks noticed, then what
/// was noticed of the data; each once.
pub fn warnings(log: &Log<'_>, of_data: Vec<String>) -> Vec<String> {
    use backup::step::{HOOKS_AFTER, HOOKS_BEFORE, PREFLIGHT, QUIESCE};
    use restore::step::CARRY_OVER;
    use upgrade::step::FETCH;
    let noticed = [PREFLIGHT, FETCH, HOOKS_BEFORE, QUIESCE, CARRY_OVER, HOOKS_AFTER].into_iter();
    let noticed =
        noticed.flat_map(|step| log.facts::<HookFacts>(step).unwrap_or_default().warnings);
    let mut said = BTreeSet::new();
    noticed.chain(of_data).filter(|warning| said.insert(warning.clone())).collect()
}

/// When age alone allows retention to remove the archive: counted from the seal.
pub fn expires_at(job: &BackupJob, log: &Log<'_>) -> Option<Timestamp> {
    let after = job.spec.expires_after.as_ref()?;
    log.done_at(backup::step::SEAL)?.checked_add(after.to_signed()).ok()
}

fn of_restore(job: &RestoreJob, log: &Log<'_>, progress: Option<ProgressStatus>) -> RestoreStatus {
    use restore::step::{DISCARD_STAGING, EXTRACT, SAFETY_BACKUP, SWAP, SWAP_BACK, VERIFY_SOURCE};
    let generation = job.operation.generation;
    let conclusion = log.conclusion();
    let phase = match &conclusion {
        Some((conclusion, _)) if conclusion.is_success() => RestorePhase::Succeeded,
        Some(_) => RestorePhase::Failed,
        None if log.touched(SWAP_BACK) || log.touched(DISCARD_STAGING) => RestorePhase::RollingBack,
        None if log.touched(SWAP) => RestorePhase::Swapping,
        None if log.touched(SAFETY_BACKUP) => RestorePhase::BackingUp,
        None if log.touched(EXTRACT) => RestorePhase::Extracting,
        None if log.touched(VERIFY_SOURCE) => RestorePhase::Verifying,
        None => RestorePhase::Pending,
    };
    let message = match &conclusion {
        Some((conclusion, _)) => conclusion.message.clone(),
        None => {
            log.latest_step().map_or_else(|| "waiting".to_owned(), |step| format!("step {step}"))
        }
    };
    let extract: Option<ExtractFacts> = log.facts(EXTRACT);
    let safety: Option<ChildFacts> = log.facts(SAFETY_BACKUP);
    let completed = conclusion.as_ref().map(|(_, at)| *at);
    let conditions = run_once_conditions(conclusion.as_ref(), log, generation, &message);
    RestoreStatus {
        phase: Some(phase),
        observed_generation: generation,
        started_at: time(log.began_at()),
        completed_at: time(completed),
        message: Some(message),
        target: Some(job.target.summary()),
        archive_name: Some(job.archive.clone()),
        safety_backup_name: safety.map(|facts| facts.name),
        files: extract.as_ref().map(|facts| count(facts.files)),
        bytes: extract.as_ref().map(|facts| count(facts.bytes)),
        downtime: seconds(downtime(log)),
        progress: progress.filter(|_| completed.is_none()),
        warnings: first_warnings(log, extract.map(|facts| facts.warnings).unwrap_or_default()),
        journal: Vec::new(),
        conditions,
    }
}

fn of_upgrade(job: &UpgradeJob, log: &Log<'_>) -> UpgradeStatus {
    use upgrade::step::{APPLY, BACKUP, FETCH, HEALTH, PREFLIGHT, QUIESCE, REMOVE_NEW};
    let generation = job.operation.generation;
    let conclusion = log.conclusion();
    let failure = conclusion.as_ref().and_then(|(conclusion, _)| conclusion.failure.clone());
    let phase = match (&conclusion, &failure) {
        (Some(_), None) => UpgradePhase::Succeeded,
        (Some(_), Some(failure)) if failure.reason == Reason::RolledBack => {
            UpgradePhase::RolledBack
        }
        (Some(_), Some(_)) => UpgradePhase::Failed,
        _ if log.touched(REMOVE_NEW) => UpgradePhase::RollingBack,
        _ if log.touched(HEALTH) => UpgradePhase::Verifying,
        _ if log.touched(APPLY) => UpgradePhase::Applying,
        _ if log.touched(QUIESCE) => UpgradePhase::BackingUp,
        _ if log.touched(FETCH) => UpgradePhase::Downloading,
        _ if log.touched(PREFLIGHT) => UpgradePhase::Preflight,
        _ => UpgradePhase::Pending,
    };
    let message = match &conclusion {
        Some((conclusion, _)) => conclusion.message.clone(),
        None => {
            log.latest_step().map_or_else(|| "waiting".to_owned(), |step| format!("step {step}"))
        }
    };
    let conditions = run_once_conditions(conclusion.as_ref(), log, generation, &message);
    UpgradeStatus {
        phase: Some(phase),
        observed_generation: generation,
        started_at: time(log.began_at()),
        completed_at: time(conclusion.as_ref().map(|(_, at)| *at)),
        message: Some(message),
        target: Some(job.spec.target.summary()),
        from_version: log.facts::<PreflightFacts>(PREFLIGHT).unwrap_or_default().from_version,
        to_version: Some(job.spec.to_version.clone()),
        backup_name: log.facts::<ChildFacts>(BACKUP).map(|facts| facts.name),
        rollback_reason: failure
            .filter(|failure| matches!(failure.reason, Reason::RolledBack | Reason::RollbackFailed))
            .map(|failure| failure.message),
        downtime: seconds(downtime(log)),
        warnings: first_warnings(log, Vec::new()),
        steps: steps(log),
        journal: Vec::new(),
        conditions,
    }
}

/// Every step with its latest outcome, in the order they were first announced.
pub fn steps(log: &Log<'_>) -> Vec<StepStatus> {
    let mut steps: Vec<StepStatus> = Vec::new();
    for entry in log.entries().iter().filter(|entry| entry.step != super::OPERATION) {
        let index = steps.iter().position(|step| step.name == entry.step).unwrap_or_else(|| {
            steps.push(StepStatus {
                name: entry.step.clone(),
                started_at: None,
                completed_at: None,
                outcome: String::new(),
                message: None,
            });
            steps.len() - 1
        });
        let step = &mut steps[index];
        match entry.mark {
            Mark::Intent => {
                step.started_at.get_or_insert(Time(entry.at));
                step.completed_at = None;
                "Running".clone_into(&mut step.outcome);
                step.message = None;
            }
            Mark::Done => {
                step.completed_at = Some(Time(entry.at));
                "Done".clone_into(&mut step.outcome);
            }
            Mark::Failed => {
                step.completed_at = Some(Time(entry.at));
                "Failed".clone_into(&mut step.outcome);
                step.message = entry.detail["message"].as_str().map(str::to_owned);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::JournalEntry;

    /// A journal of `(step, mark, second, fact)`.
    fn journal(lines: &[(&str, Mark, i64, Value)]) -> Vec<JournalEntry> {
        let entry = |(step, mark, second, detail): &(&str, Mark, i64, Value)| JournalEntry {
            operation: "Restore/shop/r/1/u".parse().unwrap(),
            step: (*step).to_owned(),
            mark: *mark,
            at: Timestamp::from_second(1_790_000_000 + second).unwrap(),
            session: "s".to_owned(),
            detail: detail.clone(),
        };
        lines.iter().map(entry).collect()
    }

    #[test]
    fn downtime_is_from_the_wish_to_stop_until_the_service_is_back() {
        use backup::step::{QUIESCE, RESUME};
        use restore::step::HEALTH;
        let one = json!({"replicas": 1});
        let mut lines = vec![
            (QUIESCE, Mark::Intent, 10, one.clone()),
            (QUIESCE, Mark::Done, 22, one),
            ("archive", Mark::Done, 23, Value::Null),
        ];
        let seconds = |lines: &[_]| {
            let journal = journal(lines);
            downtime(&Log::new(&journal)).map(|span| span.as_secs())
        };
        assert_eq!(seconds(&lines), None, "it has not come back");
        lines.push((RESUME, Mark::Intent, 23, Value::Null));
        lines.push((RESUME, Mark::Done, 24, Value::Null));
        assert_eq!(seconds(&lines), Some(14), "stopping counts");
        lines.push((HEALTH, Mark::Done, 30, Value::Null));
        assert_eq!(seconds(&lines), Some(20), "until it is healthy, where that is waited for");
        // Stopped already, or claims that nobody uses.
        lines[0].3 = json!({"replicas": 0});
        assert_eq!(seconds(&lines), None);
        assert_eq!(seconds(&lines[3..]), None);
    }

    /// A dump by a hook in a running container counted as time that the service was down.
    #[test]
    fn hooks_stop_services_on_plain_hosts_alone() {
        use super::super::OPERATION;
        use backup::step::{HOOKS_AFTER, HOOKS_BEFORE};
        let seconds = |target: Value| {
            let job = json!({
                "kind": "Backup", "operation": "Backup/shop/x/1",
                "spec": {"target": target, "storeRef": {"name": "main"}},
                "store": {"name": "main", "spec": {"local": {"path": "/srv"}}},
            });
            let journal = journal(&[
                (OPERATION, Mark::Intent, 9, job),
                (HOOKS_BEFORE, Mark::Intent, 10, Value::Null),
                (HOOKS_BEFORE, Mark::Done, 15, Value::Null),
                (HOOKS_AFTER, Mark::Done, 22, Value::Null),
            ]);
            downtime(&Log::new(&journal)).map(|span| span.as_secs())
        };
        assert_eq!(seconds(json!({"host": {"paths": ["/srv"]}})), Some(12));
        assert_eq!(seconds(json!({"docker": {"project": "shop"}})), None);
        assert_eq!(seconds(json!({"volumeClaims": ["data"]})), None);
    }
}
