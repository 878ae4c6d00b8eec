//! Which backups stay and which may be removed, each with the rules that say so.
//!
//! Pure: data in, verdicts out; nothing is removed here. The time zone database is jiff's, no clock
//! is read.
//!
//! - **Rules add up.** A backup that any rule keeps is kept. Once one of the rules for successes is
//!   set (all but `keepFailed`), a success that no rule keeps is dropped.
//! - **Expiry is the earliest time, not a date of death.** Before its `expires_at` a backup is kept
//!   whatever the policy says. After it the rules decide; with no rule for successes it is dropped.
//! - **Verified and unverified successes are counted apart**, each by the whole policy. An
//!   unverified backup must not take the place of a proved one, and the store of somebody who
//!   chose `verify: Quick` must not be emptied.
//! - **Never dropped:** the newest verified success, what is running, what is being read, and every
//!   ancestor of what is kept or of what is not judged here, as the backups of another schedule. A failed record counts as a child too: after `SuspiciousShrink` its
//!   archive is still there and needs its parents.
//! - **What cannot be restored** takes nobody's place, and stays as long as it would if it could be.
//! - **What a schedule keeps** counts where the others of its target are judged, and only its own rules drop it.
//! - **Failed records** are counted by `keepFailed` alone; unset keeps them all.
//! - **A name has one fate.** Archives are removed by name, so records that share one are kept
//!   together.
//!
//! Hours, days, ISO weeks, months and years are those of the schedule's time zone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::spec::Retention;

/// How a backup came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackupState {
    /// It is being taken.
    Running,
    /// There is an archive.
    Succeeded,
    /// There is a record of a failure, and perhaps a suspicious archive.
    Failed,
}

/// What retention has to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its name; other backups refer to it by this.
    pub name: String,
    /// When it was begun. May lie ahead of now when the clock was set back.
    pub created_at: Timestamp,
    /// How it came out.
    pub state: BackupState,
    /// Whether every byte of its archive was read back.
    pub verified: bool,
    /// Name of the backup it builds on.
    pub parent: Option<String>,
    /// The earliest time at which it may be removed.
    pub expires_at: Option<Timestamp>,
    /// Whether somebody is reading it.
    pub in_use: bool,
    /// What it lacks to be restored: its archive is there by half, or one that it builds on is not.
    pub lacks: Option<String>,
    /// Whether its schedule judges it: here it counts, and stays.
    pub of_schedule: bool,
    /// A backup that is not judged here and needs this one; see [`super::chain::needed_by_others`].
    pub needed_by: Option<String>,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Whether it stays.
    pub keep: bool,
    /// Every rule that keeps it, or why it is dropped; never empty.
    pub rules: Vec<Rule>,
}

/// Why a backup is kept or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// One of the newest: which (from 1), of how many.
    Last(u32, u32),
    /// The newest of a span of the calendar.
    Newest(Span),
    /// No older than `keepWithin`, as it was written.
    Within(String),
    /// The newest verified success there is.
    LastVerified,
    /// The named backup is kept and builds on it.
    ParentOf(String),
    /// One of the newest failures: which (from 1), of how many.
    Failed(u32, u32),
    /// It is being taken.
    Running,
    /// It is being read.
    InUse,
    /// It cannot be restored, as that says, and would be kept if it could.
    Unrestorable(String),
    /// Its schedule judges it.
    OfSchedule,
    /// Its time to expire has not come.
    NotExpired,
    /// The policy sets no limit for its sort.
    Unlimited,
    /// Dropped: its time to expire has come.
    Expired,
    /// Dropped: the policy has rules and none keeps it.
    NoRule,
    /// Dropped: there are that many newer failures.
    FailedBeyond(u32),
}

/// A span of the calendar, of which the newest backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// An hour of a day. The offset is set only where clocks went back and the hour came twice:
    /// these are two hours.
    Hour(Date, i8, Option<Offset>),
    /// A day.
    Day(Date),
    /// An ISO 8601 week: its year, which around New Year is not always the date's, and its number.
    Week(i16, i8),
    /// A month of a year.
    Month(i16, i8),
    /// A year.
    Year(i16),
}

/// Why there are no verdicts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// No such time zone.
    #[error("time zone `{0}` is not known; write an IANA name as Europe/Berlin or UTC")]
    TimeZone(String),
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(rank, of) => write!(formatter, "last {rank} of {of}"),
            Self::Newest(span) => span.fmt(formatter),
            Self::Within(age) => write!(formatter, "within {age}"),
            Self::LastVerified => formatter.write_str("last verified"),
            Self::ParentOf(child) => write!(formatter, "parent of {child}"),
            Self::Failed(rank, of) => write!(formatter, "failed {rank} of {of}"),
            Self::Running => formatter.write_str("running"),
            Self::InUse => formatter.write_str("in use"),
            Self::Unrestorable(lack) => write!(formatter, "counts for nothing: {lack}"),
            Self::OfSchedule => formatter.write_str("judged by its schedule"),
            Self::NotExpired => formatter.write_str("not expired"),
            Self::Unlimited => formatter.write_str("nothing limits it"),
            Self::Expired => formatter.write_str("expired"),
            Self::NoRule => formatter.write_str("no rule keeps it"),
            Self::FailedBeyond(of) => write!(formatter, "failed, beyond {of}"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour(date, hour, None) => write!(formatter, "hourly {date} {hour:02}h"),
            Self::Hour(date, hour, Some(offset)) => {
                write!(formatter, "hourly {date} {hour:02}h{offset}")
            }
            Self::Day(date) => write!(formatter, "daily {date}"),
            Self::Week(year, week) => write!(formatter, "weekly {year:04}-W{week:02}"),
            Self::Month(year, month) => write!(formatter, "monthly {year:04}-{month:02}"),
            Self::Year(year) => write!(formatter, "yearly {year:04}"),
        }
    }
}

impl Span {
    fn hour(local: DateTime, offset: Offset, zone: &TimeZone) -> Self {
        let (date, hour) = (local.date(), local.hour());
        let is_repeated = |minute, second| {
            Time::new(hour, minute, second, 0).is_ok_and(|time| {
                let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
                matches!(ambiguous.offset(), AmbiguousOffset::Fold { .. })
            })
        };
        // Asked of the hour, not of the time in it, so that the whole hour gets one answer.
        let repeated = is_repeated(0, 0) || is_repeated(59, 59);
        Self::Hour(date, hour, repeated.then_some(offset))
    }

    fn week(date: Date) -> Self {
        let week = date.iso_week_date();
        Self::Week(week.year(), week.week())
    }
}

/// The rules that keep a backup, by its name.
type Kept<'a> = BTreeMap<&'a str, Vec<Rule>>;

/// Decides on each backup. Verdicts come newest first, those of the same time by name.
///
/// The order of `backups` does not matter. Deciding again on what is kept, with the same policy at
/// the same time, drops nothing more.
///
/// # Errors
/// When the time zone is not known.
pub fn decide(
    backups: &[BackupFacts],
    retention: &Retention,
    time_zone: &str,
    now: Timestamp,
) -> Result<Vec<Verdict>, RetentionError> {
    let zone =
        TimeZone::get(time_zone).map_err(|_| RetentionError::TimeZone(time_zone.to_owned()))?;
    let newest_first = newest_first(backups);
    let mut kept = Kept::new();
    for verified in [true, false] {
        let all: Vec<&BackupFacts> = newest_first
            .iter()
            .copied()
            .filter(|backup| backup.state == BackupState::Succeeded && backup.verified == verified)
            .collect();
        let whole: Vec<&BackupFacts> =
            all.iter().copied().filter(|backup| backup.lacks.is_none()).collect();
        count(&whole, retention, &zone, now, &mut kept);
        if whole.len() < all.len() {
            let mut if_whole = Kept::new();
            count(&all, retention, &zone, now, &mut if_whole);
            for backup in all.iter().filter(|backup| if_whole.contains_key(&*backup.name)) {
                if let Some(lack) = &backup.lacks {
                    let rule = Rule::Unrestorable(lack.clone());
                    kept.entry(&backup.name).or_default().push(rule);
                }
            }
        }
    }
    count_failed(&newest_first, retention.keep_failed, &mut kept);
    let limited = limits_successes(retention);
    for backup in &newest_first {
        protect(backup, limited, now, &mut kept);
    }
    keep_ancestors(&newest_first, &mut kept);
    Ok(newest_first.into_iter().map(|backup| verdict(backup, &kept, retention, limited)).collect())
}

/// Counts successes, the newest first, by every rule for them; all are verified, or none is.
fn count<'a>(
    successes: &[&'a BackupFacts],
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
    kept: &mut Kept<'a>,
) {
    count_last(successes, retention.keep_last, kept);
    count_spans(successes, retention, zone, kept);
    keep_within(successes, retention, now, kept);
    if let Some(newest) = successes.first().filter(|newest| newest.verified) {
        kept.entry(&newest.name).or_default().push(Rule::LastVerified);
    }
}

/// The newest first; every fact breaks ties, so that the order given never matters.
fn newest_first(backups: &[BackupFacts]) -> Vec<&BackupFacts> {
    let mut sorted: Vec<&BackupFacts> = backups.iter().collect();
    sorted.sort_by(|one, other| {
        let rest = |backup: &BackupFacts| {
            let BackupFacts { verified, expires_at, in_use, of_schedule, .. } = backup;
            let more = (backup.needed_by.clone(), backup.lacks.clone());
            (*verified, *expires_at, *in_use, *of_schedule, more)
        };
        other
            .created_at
            .cmp(&one.created_at)
            .then_with(|| one.name.cmp(&other.name))
            .then_with(|| one.state.cmp(&other.state))
            .then_with(|| one.parent.cmp(&other.parent))
            .then_with(|| rest(one).cmp(&rest(other)))
    });
    sorted
}

/// Whether any rule says how many successes stay.
fn limits_successes(retention: &Retention) -> bool {
    let Retention {
        keep_last,
        keep_hourly,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        keep_within,
        keep_failed: _,
    } = retention;
    keep_within.is_some()
        || [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly]
            .iter()
            .any(|rule| rule.is_some())
}

fn count_last<'a>(successes: &[&'a BackupFacts], keep_last: Option<u32>, kept: &mut Kept<'a>) {
    let of = keep_last.unwrap_or(0);
    for (rank, backup) in (1..=of).zip(successes) {
        kept.entry(&backup.name).or_default().push(Rule::Last(rank, of));
    }
}

fn count_spans<'a>(
    successes: &[&'a BackupFacts],
    retention: &Retention,
    zone: &TimeZone,
    kept: &mut Kept<'a>,
) {
    type SpanOf = fn(DateTime, Offset, &TimeZone) -> Span;
    let rules: [(Option<u32>, SpanOf); 5] = [
        (retention.keep_hourly, Span::hour),
        (retention.keep_daily, |local, _, _| Span::Day(local.date())),
        (retention.keep_weekly, |local, _, _| Span::week(local.date())),
        (retention.keep_monthly, |local, _, _| Span::Month(local.year(), local.month())),
        (retention.keep_yearly, |local, _, _| Span::Year(local.year())),
    ];
    for (limit, span_of) in rules {
        let mut left = limit.unwrap_or(0);
        // All spans seen, not only the last one: where clocks go back over midnight (St. John's
        // until 2011) the day before comes again after the day.
        let mut seen = BTreeSet::new();
        for backup in successes {
            if left == 0 {
                break;
            }
            let offset = zone.to_offset(backup.created_at);
            let span = span_of(offset.to_datetime(backup.created_at), offset, zone);
            if seen.insert(span) {
                kept.entry(&backup.name).or_default().push(Rule::Newest(span));
                left -= 1;
            }
        }
    }
}

/// Days are 24 hours here. What is exactly that old is kept, and what is dated ahead of now is no
/// older than anything; a span of zero keeps nothing, as a count of zero does.
fn keep_within<'a>(
    successes: &[&'a BackupFacts],
    retention: &Retention,
    now: Timestamp,
    kept: &mut Kept<'a>,
) {
    let Some(within) =
        retention.keep_within.as_ref().filter(|within| !within.to_signed().is_zero())
    else {
        return;
    };
    for backup in successes {
        // The distance of any two timestamps fits; `now - within` might not.
        if now.duration_since(backup.created_at) <= within.to_signed() {
            let rule = Rule::Within(within.as_str().to_owned());
            kept.entry(&backup.name).or_default().push(rule);
        }
    }
}

fn count_failed<'a>(
    newest_first: &[&'a BackupFacts],
    keep_failed: Option<u32>,
    kept: &mut Kept<'a>,
) {
    let mut failed = newest_first.iter().filter(|backup| backup.state == BackupState::Failed);
    match keep_failed {
        None => {
            for backup in failed {
                kept.entry(&backup.name).or_default().push(Rule::Unlimited);
            }
        }
        Some(of) => {
            for (rank, backup) in (1..=of).zip(&mut failed) {
                kept.entry(&backup.name).or_default().push(Rule::Failed(rank, of));
            }
        }
    }
}

/// What keeps a backup for its own sake, whatever is counted.
fn protect<'a>(backup: &'a BackupFacts, limited: bool, now: Timestamp, kept: &mut Kept<'a>) {
    let mut add = |rule| kept.entry(&backup.name).or_default().push(rule);
    if backup.state == BackupState::Running {
        add(Rule::Running);
    }
    if backup.in_use {
        add(Rule::InUse);
    }
    if backup.of_schedule {
        add(Rule::OfSchedule);
    }
    if let Some(child) = &backup.needed_by {
        add(Rule::ParentOf(child.clone()));
    }
    match backup.expires_at {
        Some(expires_at) if expires_at > now => add(Rule::NotExpired),
        None if backup.state == BackupState::Succeeded && !limited => add(Rule::Unlimited),
        _ => {}
    }
}

/// What is kept keeps what it builds on, and so on. Missing parents and circles do no harm.
fn keep_ancestors<'a>(newest_first: &[&'a BackupFacts], kept: &mut Kept<'a>) {
    let mut by_name: BTreeMap<&str, Vec<&'a BackupFacts>> = BTreeMap::new();
    for backup in newest_first {
        by_name.entry(&backup.name).or_default().push(backup);
    }
    let mut open: Vec<&'a str> = kept.keys().copied().collect();
    let mut followed = BTreeSet::new();
    while let Some(child) = open.pop() {
        for parent in by_name
            .get(child)
            .into_iter()
            .flatten()
            .filter_map(|child| child.parent.as_deref().filter(|parent| *parent != child.name))
        {
            if by_name.contains_key(parent) && followed.insert((parent, child)) {
                kept.entry(parent).or_default().push(Rule::ParentOf(child.to_owned()));
                open.push(parent);
            }
        }
    }
}

fn verdict(backup: &BackupFacts, kept: &Kept<'_>, retention: &Retention, limited: bool) -> Verdict {
    let name = backup.name.clone();
    if let Some(rules) = kept.get(backup.name.as_str()) {
        let mut rules = rules.clone();
        rules.dedup();
        return Verdict { name, keep: true, rules };
    }
    let rules = match (backup.state, retention.keep_failed) {
        (BackupState::Failed, Some(of)) => vec![Rule::FailedBeyond(of)],
        // Both had to agree: an expiry that lies ahead would have kept it.
        _ if limited && backup.expires_at.is_some() => vec![Rule::Expired, Rule::NoRule],
        _ if limited => vec![Rule::NoRule],
        _ => vec![Rule::Expired],
    };
    Verdict { name, keep: false, rules }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
