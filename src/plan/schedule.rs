//! When a BackupSchedule runs, what it skips, and whether it is overdue. Pure: the caller brings the
//! observation and `now`, and performs and records what is decided.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use super::cron::{Cron, ScheduleError};
use crate::spec::{ConcurrencyPolicy, Reason};

/// Missed runs are counted up to this many per decision, however long the host was off.
pub const MISSED_LIMIT: u64 = 1000;
/// A decision names at most this many skipped runs, the newest ones; `missed` counts the others.
const NAMED_SKIPS: usize = 10;
/// Nothing is looked at more rarely than this, so that a corrected clock is noticed.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);
/// How far the default of `overdueAfter` looks to each side: a week with its weekend, and a day.
const INTERVAL_WINDOW: SignedDuration = SignedDuration::from_hours(8 * 24);
/// The longest object name (DNS-1123 subdomain).
const NAME_LIMIT: usize = 253;

/// What a decision is made from.
#[derive(Debug, Clone)]
pub struct ScheduleInput {
    /// Name of the BackupSchedule.
    pub name: String,
    /// Its times.
    pub cron: Cron,
    /// How long each run is put off; see [`jitter`].
    pub jitter: SignedDuration,
    /// Whether runs are held back.
    pub suspend: bool,
    /// What happens when a run is due while one is running.
    pub concurrency_policy: ConcurrencyPolicy,
    /// How late a run may start, counted from its time including jitter.
    pub starting_deadline: SignedDuration,
    /// How old the last success may be; default twice the interval.
    pub overdue_after: Option<SignedDuration>,
    /// When the schedule was created.
    pub created_at: Timestamp,
    /// The scheduled time of the last run that was started.
    pub last_run_at: Option<Timestamp>,
    /// `decided_until` of the last decision: later than `last_run_at` if runs were skipped since.
    pub decided_until: Option<Timestamp>,
    /// When the last success completed.
    pub last_success_at: Option<Timestamp>,
    /// Names of the runs that have not finished.
    pub running: Vec<String>,
}

/// A run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAt {
    /// Its time without jitter.
    pub scheduled_for: Timestamp,
    /// The name of its Backup; the same time always gets the same name.
    pub name: String,
}

/// A run that will never start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its time without jitter.
    pub scheduled_for: Timestamp,
    /// `StartingDeadlineExceeded`, `ConcurrencyForbidden` or `Suspended`.
    pub reason: Reason,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScheduleDecision {
    /// At most one run, even after a long downtime: the latest.
    pub start: Option<RunAt>,
    /// The newest runs that are skipped, newest first.
    pub skip: Vec<Skipped>,
    /// What to add to `missedRuns`: skipped runs except suspended ones, at most [`MISSED_LIMIT`].
    pub missed: u64,
    /// Runs to cancel before `start` (policy Replace).
    pub cancel: Vec<String>,
    /// Every time up to here is settled; give it to the next decision.
    pub decided_until: Option<Timestamp>,
    /// The next run, jitter included; none while suspended.
    pub next_run_at: Option<Timestamp>,
    /// Since when the schedule has been overdue.
    pub overdue_since: Option<Timestamp>,
    /// When to decide again at the latest.
    pub requeue_after: SignedDuration,
}

/// How long the runs of an object are put off: always the same, evenly spread over `[0, limit)`.
pub fn jitter(namespace: &str, name: &str, limit: SignedDuration) -> SignedDuration {
    let digest = blake3::hash(format!("{namespace}/{name}").as_bytes());
    let fraction =
        digest.as_bytes().iter().take(8).fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    let milliseconds = u128::try_from(limit.as_millis()).unwrap_or(0);
    // Whole milliseconds; the product stays below 2^127 as milliseconds are below 2^63.
    let part = milliseconds.saturating_mul(fraction) >> 64;
    SignedDuration::from_millis(i64::try_from(part).unwrap_or(0))
}

/// `<schedule>-<YYYYMMDDHHMMSS>` of the scheduled time in UTC. A schedule's name that leaves no room is
/// cut and gets eight digits of its hash, so that two long names do not meet.
pub fn run_name(schedule: &str, scheduled_for: Timestamp) -> String {
    let at = scheduled_for.to_zoned(TimeZone::UTC).datetime();
    let time = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if schedule.len() + 1 + time.len() <= NAME_LIMIT {
        return format!("{schedule}-{time}");
    }
    let digest = blake3::hash(schedule.as_bytes()).to_hex();
    let hash: String = digest.chars().take(8).collect();
    // Cut by bytes: what is not ASCII would be refused as a name anyway.
    let cut = schedule.floor_char_boundary(NAME_LIMIT - time.len() - hash.len() - 2);
    let kept = schedule[..cut].trim_end_matches(['-', '.']);
    format!("{kept}-{hash}-{time}")
}

/// The largest gap between consecutive runs within eight days of now, the gaps next to now included.
///
/// The largest one, because a schedule for office hours must not be overdue every morning.
/// Runs less than an hour apart are sampled hourly, so the work does not grow with the schedule.
pub fn interval(cron: &Cron, now: Timestamp) -> Option<SignedDuration> {
    let last = now.checked_add(INTERVAL_WINDOW).ok()?;
    let mut at = now.checked_sub(INTERVAL_WINDOW).ok()?;
    let mut largest = None;
    while at <= last {
        let next = cron.next_after(at)?;
        if let Some(previous) = cron.previous_at_or_before(at) {
            largest = largest.max(Some(next.duration_since(previous)));
        }
        at = next.max(at.checked_add(SignedDuration::from_hours(1)).ok()?);
    }
    largest
}

/// Decides what a schedule does at `now`.
///
/// Work is bounded by [`MISSED_LIMIT`]. A time at or before `last_run_at` or `decided_until` is never
/// started again, also when the clock went back behind it: the schedule then waits for the clock, and
/// says so by being overdue once the last success lies further ahead than `overdueAfter`.
pub fn decide(input: &ScheduleInput, now: Timestamp) -> ScheduleDecision {
    let mut decision = ScheduleDecision::default();
    let settled = input
        .last_run_at
        .max(input.decided_until)
        .map_or(input.created_at, |settled| settled.max(input.created_at));
    decision.decided_until = Some(settled);
    // A run is due once its jitter has passed as well.
    let due_until = now.checked_sub(input.jitter).unwrap_or(Timestamp::MIN);
    let latest = input.cron.previous_at_or_before(due_until).filter(|latest| *latest > settled);
    if let Some(latest) = latest {
        decision.decided_until = Some(latest);
        settle(input, latest, due_until, settled, &mut decision);
    }
    if !input.suspend {
        decision.next_run_at = input
            .cron
            .next_after(decision.decided_until.unwrap_or(settled).max(due_until))
            .and_then(|next| next.checked_add(input.jitter).ok());
    }
    let overdue_at = overdue_at(input, now);
    decision.overdue_since = overdue_at.filter(|at| *at <= now);
    decision.requeue_after = decision
        .next_run_at
        .into_iter()
        .chain(overdue_at)
        .map(|at| at.duration_since(now))
        .filter(SignedDuration::is_positive)
        .fold(LONGEST_WAIT, SignedDuration::min);
    decision
}

/// Settles every run in `(settled, latest]`: the latest starts or is skipped, the others are skipped.
fn settle(
    input: &ScheduleInput,
    latest: Timestamp,
    due_until: Timestamp,
    settled: Timestamp,
    decision: &mut ScheduleDecision,
) {
    let refused = if input.suspend {
        Some(Reason::Suspended)
    } else if due_until.duration_since(latest) > input.starting_deadline {
        Some(Reason::StartingDeadlineExceeded)
    } else if input.concurrency_policy == ConcurrencyPolicy::Forbid && !input.running.is_empty() {
        Some(Reason::ConcurrencyForbidden)
    } else {
        None
    };
    if let Some(reason) = refused {
        decision.skip.push(Skipped { scheduled_for: latest, reason });
    } else {
        let name = run_name(&input.name, latest);
        if input.concurrency_policy == ConcurrencyPolicy::Replace {
            decision.cancel = input.running.iter().filter(|run| **run != name).cloned().collect();
        }
        decision.start = Some(RunAt { scheduled_for: latest, name });
    }
    let mut missed = u64::from(refused.is_some());
    let mut before = latest;
    while missed < MISSED_LIMIT {
        let earlier = before.checked_sub(SignedDuration::from_nanos(1)).ok();
        match earlier.and_then(|earlier| input.cron.previous_at_or_before(earlier)) {
            Some(scheduled_for) if scheduled_for > settled => {
                missed += 1;
                // One run catches up for all of them; the older ones are late either way.
                let reason = if input.suspend {
                    Reason::Suspended
                } else {
                    Reason::StartingDeadlineExceeded
                };
                if decision.skip.len() < NAMED_SKIPS {
                    decision.skip.push(Skipped { scheduled_for, reason });
                }
                before = scheduled_for;
            }
            _ => break,
        }
    }
    decision.missed = if input.suspend { 0 } else { missed };
}

/// When the schedule becomes overdue, or since when it has been; never while suspended.
fn overdue_at(input: &ScheduleInput, now: Timestamp) -> Option<Timestamp> {
    if input.suspend {
        return None;
    }
    let limit = match input.overdue_after {
        Some(limit) => limit,
        None => interval(&input.cron, now)?.checked_mul(2)?.checked_add(input.jitter)?,
    };
    let since = input.last_success_at.unwrap_or(input.created_at);
    // A success that far ahead was dated by a wrong clock and proves nothing.
    if since.duration_since(now) > limit {
        return Some(now);
    }
    since.checked_add(limit).ok()
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
