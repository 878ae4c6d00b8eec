//! Conditions as KEP-1623 defines them and kstatus reads them.
//!
//! A run-once object is finished for `kubectl wait`, Flux and Argo CD exactly when it is: while it
//! runs `Reconciling=True` and `Succeeded=Unknown`; on success `Succeeded=True` alone speaks; on a
//! terminal failure `Succeeded=False` and `Stalled=True`, since kstatus takes an object that is
//! merely not ready for one that is still on its way.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::machine::Failure;
use crate::spec::Reason;

/// Messages are cut here: the limit of an event's note, which carries the same text.
const MESSAGE_LIMIT: usize = 1024;

/// The condition types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The operation did what it was asked to.
    Succeeded,
    /// The archive was read back.
    Verified,
    /// The object can be used.
    Ready,
    /// The last success is too old.
    Overdue,
    /// What retention does not keep was removed the last time.
    RetentionApplied,
    /// Work is going on.
    Reconciling,
    /// Work has come to an end that is not the wanted one.
    Stalled,
}

impl ConditionType {
    /// The type as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Verified => "Verified",
            Self::Ready => "Ready",
            Self::Overdue => "Overdue",
            Self::RetentionApplied => "RetentionApplied",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }

    fn rank(name: &str) -> usize {
        [
            Self::Succeeded,
            Self::Verified,
            Self::Ready,
            Self::Overdue,
            Self::RetentionApplied,
            Self::Reconciling,
            Self::Stalled,
        ]
        .iter()
        .position(|condition| condition.as_str() == name)
        .unwrap_or(usize::MAX)
    }
}

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Cuts a message at [`MESSAGE_LIMIT`] bytes, never inside a character.
fn cut(message: &str) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MESSAGE_LIMIT - '…'.len_utf8());
    format!("{}…", &message[..end])
}

/// Sets one condition. `lastTransitionTime` moves only when the status does.
pub fn set(
    conditions: &mut Vec<Condition>,
    condition_type: ConditionType,
    truth: Truth,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let name = condition_type.as_str();
    let known = conditions.iter().position(|condition| condition.type_ == name);
    let since = known
        .map(|index| &conditions[index])
        .filter(|condition| condition.status == truth.as_str())
        .map_or_else(|| Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: name.to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        // Never empty: API servers of Kubernetes 1.20 take an empty text in an applied list for none.
        message: cut(if message.is_empty() { reason.as_str() } else { message }),
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match known {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
    conditions.sort_by_key(|condition| ConditionType::rank(&condition.type_));
}

/// A run-once object that is being worked on.
pub fn running(
    conditions: &mut Vec<Condition>,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    set(conditions, ConditionType::Succeeded, Truth::Unknown, reason, message, generation, now);
    on_its_way(conditions, reason, message, generation, now);
}

/// Work goes on, or waits for something that may come.
fn on_its_way(
    conditions: &mut Vec<Condition>,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    use ConditionType::{Reconciling, Stalled};
    set(conditions, Reconciling, Truth::True, reason, message, generation, now);
    set(conditions, Stalled, Truth::False, reason, "", generation, now);
}

/// A run-once object that did what it was asked to.
pub fn succeeded(conditions: &mut Vec<Condition>, message: &str, generation: i64, now: Timestamp) {
    use ConditionType::{Reconciling, Stalled, Succeeded};
    let reason = Reason::Succeeded;
    set(conditions, Succeeded, Truth::True, reason, message, generation, now);
    set(conditions, Reconciling, Truth::False, reason, "", generation, now);
    set(conditions, Stalled, Truth::False, reason, "", generation, now);
}

/// A run-once object that has failed for good.
pub fn failed(
    conditions: &mut Vec<Condition>,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    use ConditionType::{Reconciling, Stalled, Succeeded};
    set(conditions, Succeeded, Truth::False, reason, message, generation, now);
    set(conditions, Reconciling, Truth::False, reason, "", generation, now);
    set(conditions, Stalled, Truth::True, reason, message, generation, now);
}

/// Whether the archive was read back.
pub fn verified(
    conditions: &mut Vec<Condition>,
    holds: bool,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let reason = if holds { Reason::Verified } else { Reason::NotVerified };
    set(conditions, ConditionType::Verified, holds.into(), reason, message, generation, now);
}

/// Whether an object that lives on can be used.
pub fn ready(
    conditions: &mut Vec<Condition>,
    holds: bool,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    use ConditionType::{Ready, Reconciling, Stalled};
    set(conditions, Ready, holds.into(), reason, message, generation, now);
    set(conditions, Reconciling, Truth::False, reason, "", generation, now);
    set(
        conditions,
        Stalled,
        (!holds).into(),
        reason,
        if holds { "" } else { message },
        generation,
        now,
    );
}

/// An object that lives on and cannot be used yet, for a cause that is waited for.
pub fn waiting(
    conditions: &mut Vec<Condition>,
    reason: Reason,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    set(conditions, ConditionType::Ready, Truth::False, reason, message, generation, now);
    on_its_way(conditions, reason, message, generation, now);
}

/// Whether the last success of a schedule is too old.
pub fn overdue(
    conditions: &mut Vec<Condition>,
    since: Option<Timestamp>,
    generation: i64,
    now: Timestamp,
) {
    let (truth, reason, message) = match since {
        Some(since) => (Truth::True, Reason::Overdue, format!("no success in time, since {since}")),
        None => (Truth::False, Reason::OnTime, String::new()),
    };
    set(conditions, ConditionType::Overdue, truth, reason, &message, generation, now);
}

/// Whether a schedule's retention did what it should the last time.
pub fn retention(
    conditions: &mut Vec<Condition>,
    failure: Option<&Failure>,
    generation: i64,
    now: Timestamp,
) {
    let (reason, message) = match failure {
        Some(failure) => (failure.reason, failure.message.as_str()),
        None => (Reason::Succeeded, ""),
    };
    let truth = failure.is_none().into();
    let condition = ConditionType::RetentionApplied;
    set(conditions, condition, truth, reason, message, generation, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn summary(conditions: &[Condition]) -> Vec<String> {
        conditions.iter().map(|one| format!("{}={}", one.type_, one.status)).collect()
    }

    /// What kstatus makes of an object whose generation has been observed.
    fn kstatus(conditions: &[Condition]) -> &'static str {
        let is = |name: &str, status: &str| {
            conditions.iter().any(|one| one.type_ == name && one.status == status)
        };
        if is("Stalled", "True") {
            "Failed"
        } else if is("Reconciling", "True") || is("Ready", "False") || is("Ready", "Unknown") {
            "InProgress"
        } else {
            "Current"
        }
    }

    #[test]
    fn run_once_objects_are_read_rightly_by_kstatus_in_every_phase() {
        let mut conditions = Vec::new();
        running(&mut conditions, Reason::Running, "step archive", 1, at(1));
        assert_eq!(
            summary(&conditions),
            ["Succeeded=Unknown", "Reconciling=True", "Stalled=False"]
        );
        assert_eq!(kstatus(&conditions), "InProgress");
        let mut good = conditions.clone();
        succeeded(&mut good, "done", 1, at(2));
        assert_eq!(summary(&good), ["Succeeded=True", "Reconciling=False", "Stalled=False"]);
        assert_eq!(kstatus(&good), "Current");
        let mut bad = conditions;
        failed(&mut bad, Reason::HookFailed, "hook before 1", 1, at(2));
        assert_eq!(summary(&bad), ["Succeeded=False", "Reconciling=False", "Stalled=True"]);
        assert_eq!(kstatus(&bad), "Failed");
    }

    #[test]
    fn long_lived_objects_are_stalled_when_they_cannot_be_used() {
        let mut conditions = Vec::new();
        ready(&mut conditions, false, Reason::StoreUnavailable, "read-only", 1, at(1));
        assert_eq!(kstatus(&conditions), "Failed");
        ready(&mut conditions, true, Reason::Ready, "3 backups", 1, at(2));
        assert_eq!(kstatus(&conditions), "Current");
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        running(&mut conditions, Reason::Running, "one", 1, at(1));
        running(&mut conditions, Reason::Running, "two", 1, at(9));
        assert_eq!(conditions[0].last_transition_time.0, at(1));
        assert_eq!(conditions[0].message, "two");
        succeeded(&mut conditions, "done", 1, at(10));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[2].last_transition_time.0, at(1));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut conditions = Vec::new();
        failed(&mut conditions, Reason::ArchiveFailed, &"ä".repeat(2000), 1, at(1));
        assert!(conditions[0].message.len() <= MESSAGE_LIMIT);
        assert!(conditions[0].message.ends_with('…'));
    }
}
