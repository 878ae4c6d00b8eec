//! What the planners share: the state of each step as the journal tells it, and what a decision is.

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::Action;
use super::journal::{JournalEntry, Mark};
use crate::spec::Reason;

/// Name of the journal's closing line of an operation.
pub const OPERATION: &str = "operation";

/// Why an operation, or a step of it, did not do what it was to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// For machines.
    pub reason: Reason,
    /// For people: what failed, on what, and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.reason, self.message)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conclusion {
    /// Nothing when it did what it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// One sentence for people.
    pub message: String,
}

impl Conclusion {
    /// The operation did what it was asked to.
    pub fn succeeded(message: impl Into<String>) -> Self {
        Self { failure: None, message: message.into() }
    }

    /// The operation failed and has been undone as far as the message says.
    pub fn failed(failure: Failure) -> Self {
        Self { message: failure.message.clone(), failure: Some(failure) }
    }

    /// Whether it succeeded.
    pub fn is_success(&self) -> bool {
        self.failure.is_none()
    }
}

/// What a planner wants next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Write the step's intent, perform the action, write its outcome, ask again.
    Perform {
        /// Name of the step, as in the journal.
        step: &'static str,
        /// The effect.
        action: Action,
        /// Whether it is on the way back: what puts things back is done whoever cancels, with all that it
        /// takes, or nothing of it could be relied on.
        back: bool,
    },
    /// Ask again at this time.
    Wait {
        /// When.
        until: Timestamp,
        /// Why, for the status message.
        message: String,
    },
    /// Record this and stop.
    Finish(Conclusion),
}

/// Where a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Nothing was written about it.
    NotStarted,
    /// It was announced and nothing came after: the process died in the middle of it.
    Interrupted,
    /// It did what it was to do.
    Done,
    /// It failed.
    Failed(Failure),
}

/// A reading view of one operation's journal.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    entries: &'a [JournalEntry],
}

impl<'a> Log<'a> {
    /// A view of these entries, oldest first.
    pub fn new(entries: &'a [JournalEntry]) -> Self {
        Self { entries }
    }

    fn of(&self, step: &str) -> impl DoubleEndedIterator<Item = &'a JournalEntry> {
        self.entries.iter().filter(move |entry| entry.step == step)
    }

    /// Where the step stands.
    pub fn state(&self, step: &str) -> StepState {
        match self.of(step).next_back() {
            None => StepState::NotStarted,
            Some(entry) => match entry.mark {
                Mark::Intent => StepState::Interrupted,
                Mark::Done => StepState::Done,
                Mark::Failed => StepState::Failed(failure_of(entry)),
            },
        }
    }

    /// Whether the step was ever announced, however it ended.
    pub fn touched(&self, step: &str) -> bool {
        self.of(step).next().is_some()
    }

    /// Whether the step's last word is that it did what it was to do.
    pub fn done(&self, step: &str) -> bool {
        self.state(step) == StepState::Done
    }

    /// Whether the latest entries of two steps are of one process; so they are where one of them is missing.
    pub fn is_one_session(&self, one: &str, other: &str) -> bool {
        let session = |step| self.of(step).next_back().map(|entry| entry.session.as_str());
        match (session(one), session(other)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
    }

    /// How often the step was announced.
    pub fn attempts(&self, step: &str) -> usize {
        self.of(step).filter(|entry| entry.mark == Mark::Intent).count()
    }

    /// How often the step has failed.
    pub fn failures(&self, step: &str) -> u32 {
        let count = self.of(step).filter(|entry| entry.mark == Mark::Failed).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How often the step has failed because the engine, or the cluster, was away or did not allow it: that says
    /// nothing about the step, and permissions are put right more slowly than a few attempts take. Neither says
    /// a disk that is not mounted anything about the data that an Upgrade is to put back from it.
    fn failures_while_away(&self, step: &str) -> u32 {
        let is_away = |entry: &&JournalEntry| {
            let away = [Reason::EngineUnavailable, Reason::ClusterUnavailable, Reason::Forbidden];
            let reason = failure_of(entry).reason;
            let is_unmounted =
                step == super::upgrade::step::RESTORE_DATA && reason == Reason::StoreUnavailable;
            entry.mark == Mark::Failed && (is_unmounted || away.contains(&reason))
        };
        u32::try_from(self.of(step).filter(is_away).count()).unwrap_or(u32::MAX)
    }

    /// The failure of the latest step, if it failed because the engine is away.
    pub fn engine_away(&self) -> Option<Failure> {
        let latest = self.entries.last().filter(|entry| entry.mark == Mark::Failed)?;
        Some(failure_of(latest)).filter(|failure| failure.reason == Reason::EngineUnavailable)
    }

    /// Whether a step that is tried at most `attempts` times has been given up.
    pub(super) fn is_given_up(&self, step: &str, attempts: u32) -> bool {
        let (failures, away) = (self.failures(step), self.failures_while_away(step));
        let StepState::Failed(latest) = self.state(step) else { return false };
        failures.saturating_sub(away) >= attempts || failures >= PATIENCE || is_final(&latest)
    }

    /// When the step was first announced.
    pub fn started_at(&self, step: &str) -> Option<Timestamp> {
        self.of(step).next().map(|entry| entry.at)
    }

    /// When the step last did what it was to do.
    pub fn done_at(&self, step: &str) -> Option<Timestamp> {
        self.of(step).rev().find(|entry| entry.mark == Mark::Done).map(|entry| entry.at)
    }

    /// When the step last failed.
    pub fn failed_at(&self, step: &str) -> Option<Timestamp> {
        self.of(step).rev().find(|entry| entry.mark == Mark::Failed).map(|entry| entry.at)
    }

    /// The facts that the step left; nothing when it is not done or the facts are of another shape.
    pub fn facts<T: DeserializeOwned>(&self, step: &str) -> Option<T> {
        let entry = self.of(step).rev().find(|entry| entry.mark == Mark::Done)?;
        serde_json::from_value(entry.detail.clone()).ok()
    }

    /// The facts that were written with the step's latest intent.
    pub fn intent<T: DeserializeOwned>(&self, step: &str) -> Option<T> {
        let entry = self.of(step).rev().find(|entry| entry.mark == Mark::Intent)?;
        serde_json::from_value(entry.detail.clone()).ok()
    }

    /// When the operation began.
    pub fn began_at(&self) -> Option<Timestamp> {
        self.entries.first().map(|entry| entry.at)
    }

    /// How the operation ended, once it has.
    pub fn conclusion(&self) -> Option<(Conclusion, Timestamp)> {
        let entry = self.of(OPERATION).rev().find(|entry| entry.mark != Mark::Intent)?;
        let conclusion =
            serde_json::from_value(entry.detail.clone()).unwrap_or_else(|_| match entry.mark {
                Mark::Failed => Conclusion::failed(failure_of(entry)),
                _ => Conclusion::succeeded("done"),
            });
        Some((conclusion, entry.at))
    }

    /// The step that was announced last, for the status.
    pub fn latest_step(&self) -> Option<&'a str> {
        let step = self.entries.iter().rev().find(|entry| entry.step != OPERATION)?;
        Some(step.step.as_str())
    }

    /// What was written when the operation began.
    pub fn job(&self) -> Option<super::job::Job> {
        self.intent(OPERATION)
    }

    /// Every entry, oldest first.
    pub fn entries(&self) -> &'a [JournalEntry] {
        self.entries
    }

    /// The time from the first step's beginning to the second step's end.
    pub fn between(&self, first: &str, second: &str) -> Option<SignedDuration> {
        let from = self.started_at(first)?;
        let to = self.done_at(second)?;
        Some(to.duration_since(from).max(SignedDuration::ZERO))
    }
}

fn failure_of(entry: &JournalEntry) -> Failure {
    serde_json::from_value(entry.detail.clone()).unwrap_or_else(|_| Failure {
        reason: Reason::InternalError,
        message: match &entry.detail {
            Value::String(text) => text.clone(),
            other => format!("step {} failed: {other}", entry.step),
        },
        hint: None,
    })
}

/// What to make of a forward step that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnInterruption {
    /// It can simply be done again.
    Redo,
    /// Nobody knows how far it came: undo the operation.
    Undo,
}

/// One forward step of a machine.
pub(super) struct Forward {
    pub(super) step: &'static str,
    pub(super) action: Action,
    pub(super) on_interruption: OnInterruption,
}

/// Walks the forward steps: the next to perform, the failure that ends the way forward, or nothing
/// when all are done. With `resumable` an interrupted step is picked up, whatever it is.
pub(super) fn advance(
    log: &Log<'_>,
    steps: Vec<Forward>,
    resumable: bool,
) -> Result<Option<Decision>, Failure> {
    for Forward { step, action, on_interruption } in steps {
        match log.state(step) {
            StepState::Done => {}
            StepState::NotStarted => {
                return Ok(Some(Decision::Perform { step, action, back: false }));
            }
            StepState::Interrupted if resumable || on_interruption == OnInterruption::Redo => {
                return Ok(Some(Decision::Perform { step, action, back: false }));
            }
            StepState::Interrupted => return Err(interrupted(step)),
            StepState::Failed(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// The failure of an operation whose process died during `step`.
pub(super) fn interrupted(step: &str) -> Failure {
    Failure::new(
        Reason::Interrupted,
        format!("the process ended during step `{step}`; the operation was undone"),
    )
    .hint("start it again; nothing of it was left behind")
}

/// How often a compensating step is tried while its engine is away or refuses, half a minute apart: it may be
/// upgraded, and whoever gives up before it is back leaves services down that nobody starts.
const PATIENCE: u32 = 120;

/// Whether a failure will be the same whenever it is tried again: what is gone from a store does not come back.
pub(super) fn is_final(failure: &Failure) -> bool {
    failure.reason == Reason::ArchiveMissing
}

/// One compensating step: tried until done, at most `attempts` times. An engine that is away does not count.
pub(super) struct Compensation {
    pub(super) step: &'static str,
    pub(super) action: Action,
    pub(super) attempts: u32,
}

/// Walks the compensating steps: the next to perform or to wait for; nothing when each is done or
/// has been given up. What was given up is returned too: it decides what may still be claimed.
pub(super) fn compensate(
    log: &Log<'_>,
    steps: Vec<Compensation>,
    now: Timestamp,
) -> (Option<Decision>, Vec<(&'static str, Failure)>) {
    let mut given_up = Vec::new();
    for Compensation { step, action, attempts } in steps {
        match log.state(step) {
            StepState::Done => {}
            StepState::NotStarted | StepState::Interrupted => {
                return (Some(Decision::Perform { step, action, back: true }), given_up);
            }
            StepState::Failed(failure) => {
                let failures = log.failures(step);
                if log.is_given_up(step, attempts) {
                    given_up.push((step, failure));
                    continue;
                }
                // 1 s, 2 s, 4 s … at most 30 s: a container engine that restarts needs a moment.
                let delay = SignedDuration::from_secs(1_i64 << failures.saturating_sub(1).min(5))
                    .min(SignedDuration::from_secs(30));
                let due = log.failed_at(step).unwrap_or(now).saturating_add(delay).unwrap_or(now);
                // A clock that was set back must not make this wait longer than one delay.
                let latest = now.saturating_add(delay).unwrap_or(now);
                let until = due.min(latest);
                if until > now {
                    let message =
                        format!("step `{step}` failed and is tried again: {}", failure.message);
                    return (Some(Decision::Wait { until, message }), given_up);
                }
                return (Some(Decision::Perform { step, action, back: true }), given_up);
            }
        }
    }
    (None, given_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(reason: Reason, times: usize) -> Vec<JournalEntry> {
        let at: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let entry = |mark, detail| JournalEntry {
            operation: "Backup/shop/x/1".parse().unwrap(),
            step: "resume".to_owned(),
            mark,
            at,
            session: "s".to_owned(),
            detail,
        };
        let failure = serde_json::json!(Failure::new(reason, "no"));
        let attempt = [entry(Mark::Intent, Value::Null), entry(Mark::Failed, failure)];
        std::iter::repeat_n(attempt, times).flatten().collect()
    }

    #[test]
    fn an_engine_that_is_away_for_long_does_not_leave_services_down() {
        let given_up = |reason, times| {
            let journal = tried(reason, times);
            let step = || Compensation { step: "resume", action: Action::Resume, attempts: 6 };
            let now = "2026-11-21T03:00:00Z".parse().unwrap();
            let (decision, given_up) = compensate(&Log::new(&journal), vec![step()], now);
            assert_eq!(decision.is_none(), !given_up.is_empty());
            decision.is_none()
        };
        assert!(!given_up(Reason::ResumeFailed, 5));
        assert!(given_up(Reason::ResumeFailed, 6));
        assert!(!given_up(Reason::EngineUnavailable, 60), "half an hour is too early");
        assert!(given_up(Reason::EngineUnavailable, 120));
        assert!(!given_up(Reason::ClusterUnavailable, 60));
        assert!(!given_up(Reason::Forbidden, 60), "fifteen seconds decided whose data it is");
        assert!(given_up(Reason::ArchiveMissing, 1), "nobody waits for what is gone");
        assert!(given_up(Reason::StoreUnavailable, 6), "it has nothing to do with a store");
    }

    /// A recovery whose store was not mounted yet gave the data up at once.
    #[test]
    fn data_is_not_given_up_because_a_disk_is_not_mounted() {
        use crate::plan::upgrade::step::RESTORE_DATA;
        let mut journal = tried(Reason::StoreUnavailable, 60);
        for entry in &mut journal {
            RESTORE_DATA.clone_into(&mut entry.step);
        }
        assert!(!Log::new(&journal).is_given_up(RESTORE_DATA, 8));
    }
}
