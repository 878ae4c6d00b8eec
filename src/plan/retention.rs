//! Which backups a schedule keeps, each with the rule that says so.
//!
//! Rules add up: what any rule keeps is kept. Only verified backups are counted by the keep rules;
//! unverified ones are counted among themselves, so that neither do they push out a proved one nor
//! does a store of somebody who never verifies grow for ever. Whatever the rules say, the newest
//! verified backup stays, and the parents of what stays, and what is running or being read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::spec::Retention;

/// How a backup came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupState {
    /// It is being taken.
    Running,
    /// There is an archive.
    Succeeded,
    /// There is a record of a failure.
    Failed,
}

/// What retention has to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFacts {
    /// Its name, unique.
    pub name: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// How it came out.
    pub state: BackupState,
    /// Whether its archive was read back.
    pub verified: bool,
    /// Name of the backup it builds on.
    pub parent: Option<String>,
    /// Age alone may not remove it before this.
    pub expires_at: Option<Timestamp>,
    /// Whether somebody is reading it.
    pub in_use: bool,
}

/// Why a backup is kept or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// One of the newest: which, of how many.
    Last(usize, u32),
    /// The newest of an hour, day, week, month or year.
    Bucket(Bucket, String),
    /// Younger than that.
    Within(String),
    /// The newest verified backup there is.
    LastVerified,
    /// Something that is kept builds on it.
    ParentOf(String),
    /// One of the newest failures: which, of how many.
    Failed(usize, u32),
    /// It is being taken.
    Running,
    /// It is being read.
    InUse,
    /// Its `expiresAfter` has not passed.
    NotExpired,
    /// The policy limits nothing of its sort.
    Unlimited,
    /// Dropped: its `expiresAfter` has passed and no rule keeps it.
    Expired,
    /// Dropped: no rule keeps it.
    NoRule,
    /// Dropped: there are that many newer failures.
    FailedBeyond(u32),
}

/// A span of the calendar of which the newest backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// An ISO week.
    Weekly,
    /// A month.
    Monthly,
    /// A year.
    Yearly,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(rank, of) => write!(formatter, "last {rank} of {of}"),
            Self::Bucket(bucket, span) => {
                write!(formatter, "{} {span}", format!("{bucket:?}").to_lowercase())
            }
            Self::Within(span) => write!(formatter, "within {span}"),
            Self::LastVerified => formatter.write_str("last verified"),
            Self::ParentOf(child) => write!(formatter, "parent of {child}"),
            Self::Failed(rank, of) => write!(formatter, "failed {rank} of {of}"),
            Self::Running => formatter.write_str("running"),
            Self::InUse => formatter.write_str("in use"),
            Self::NotExpired => formatter.write_str("not expired"),
            Self::Unlimited => formatter.write_str("nothing limits it"),
            Self::Expired => formatter.write_str("expired"),
            Self::NoRule => formatter.write_str("no rule keeps it"),
            Self::FailedBeyond(of) => write!(formatter, "failed, beyond {of}"),
        }
    }
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Whether it stays.
    pub keep: bool,
    /// The rules that say so; never empty.
    pub rules: Vec<Rule>,
}

/// The time zone of the schedule is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the time zone `{0}` is not known; use an IANA name such as Europe/Berlin")]
pub struct UnknownTimeZone(String);

/// Decides on each backup. Verdicts come newest first, of the same time by name.
///
/// # Errors
/// When the time zone, by whose calendar days and weeks are counted, is not known.
pub fn decide(
    backups: &[BackupFacts],
    retention: &Retention,
    time_zone: &str,
    now: Timestamp,
) -> Result<Vec<Verdict>, UnknownTimeZone> {
    let zone = TimeZone::get(time_zone).map_err(|_| UnknownTimeZone(time_zone.to_owned()))?;
    let mut sorted: Vec<&BackupFacts> = backups.iter().collect();
    sorted.sort_by(|one, other| (other.created_at, &one.name).cmp(&(one.created_at, &other.name)));
    let mut rules: BTreeMap<&str, Vec<Rule>> = BTreeMap::new();
    for verified in [true, false] {
        let counted: Vec<&BackupFacts> = sorted
            .iter()
            .copied()
            .filter(|backup| backup.state == BackupState::Succeeded && backup.verified == verified)
            .collect();
        count(&counted, retention, &zone, now, &mut rules);
    }
    let newest_verified =
        sorted.iter().find(|backup| backup.state == BackupState::Succeeded && backup.verified);
    if let Some(backup) = newest_verified {
        rules.entry(&backup.name).or_default().push(Rule::LastVerified);
    }
    let limited = limits_successes(retention);
    let mut failures = 0;
    for backup in &sorted {
        let own = rules.entry(&backup.name).or_default();
        if backup.in_use {
            own.push(Rule::InUse);
        }
        match backup.state {
            BackupState::Running => own.push(Rule::Running),
            BackupState::Failed => {
                failures += 1;
                match retention.keep_failed {
                    None => own.push(Rule::Unlimited),
                    Some(limit) if failures <= limit as usize => {
                        own.push(Rule::Failed(failures, limit));
                    }
                    Some(_) => {}
                }
            }
            BackupState::Succeeded => match backup.expires_at {
                Some(expires_at) if expires_at > now => own.push(Rule::NotExpired),
                None if !limited => own.push(Rule::Unlimited),
                _ => {}
            },
        }
    }
    keep_parents(&sorted, &mut rules);
    Ok(sorted
        .into_iter()
        .map(|backup| {
            let mut own = rules.remove(backup.name.as_str()).unwrap_or_default();
            let keep = !own.is_empty();
            if !keep {
                own.push(match (backup.state, retention.keep_failed) {
                    (BackupState::Failed, Some(limit)) => Rule::FailedBeyond(limit),
                    _ if backup.expires_at.is_some() => Rule::Expired,
                    _ => Rule::NoRule,
                });
            }
            Verdict { name: backup.name.clone(), keep, rules: own }
        })
        .collect())
}

/// Whether any rule says how many successes are kept.
fn limits_successes(retention: &Retention) -> bool {
    retention.keep_within.is_some()
        || [
            retention.keep_last,
            retention.keep_hourly,
            retention.keep_daily,
            retention.keep_weekly,
            retention.keep_monthly,
            retention.keep_yearly,
        ]
        .iter()
        .any(Option::is_some)
}

/// Applies the keep rules to backups that are counted together, newest first.
fn count<'a>(
    backups: &[&'a BackupFacts],
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
    rules: &mut BTreeMap<&'a str, Vec<Rule>>,
) {
    let limit = retention.keep_last.unwrap_or(0);
    for (index, backup) in backups.iter().take(limit as usize).enumerate() {
        rules.entry(&backup.name).or_default().push(Rule::Last(index + 1, limit));
    }
    for (bucket, limit) in [
        (Bucket::Hourly, retention.keep_hourly),
        (Bucket::Daily, retention.keep_daily),
        (Bucket::Weekly, retention.keep_weekly),
        (Bucket::Monthly, retention.keep_monthly),
        (Bucket::Yearly, retention.keep_yearly),
    ] {
        let mut seen = BTreeSet::new();
        for backup in backups {
            let span = span(bucket, backup.created_at, zone);
            if seen.len() < limit.unwrap_or(0) as usize && seen.insert(span.clone()) {
                rules.entry(&backup.name).or_default().push(Rule::Bucket(bucket, span));
            }
        }
    }
    if let Some(within) = &retention.keep_within {
        for backup in backups {
            // A time ahead of the clock is within any span.
            if now.duration_since(backup.created_at) <= within.to_signed() {
                rules.entry(&backup.name).or_default().push(Rule::Within(within.to_string()));
            }
        }
    }
}

/// The span of the calendar that a time lies in.
fn span(bucket: Bucket, at: Timestamp, zone: &TimeZone) -> String {
    let local = at.to_zoned(zone.clone());
    let date: Date = local.date();
    match bucket {
        // The offset tells the two hours apart that a clock set back makes of one.
        Bucket::Hourly => format!("{date} {:02}h{}", local.hour(), local.offset()),
        Bucket::Daily => date.to_string(),
        Bucket::Weekly => {
            let week = date.iso_week_date();
            format!("{}-W{:02}", week.year(), week.week())
        }
        Bucket::Monthly => format!("{}-{:02}", date.year(), date.month()),
        Bucket::Yearly => date.year().to_string(),
    }
}

/// What is kept keeps what it builds on, and so on.
fn keep_parents<'a>(sorted: &[&'a BackupFacts], rules: &mut BTreeMap<&'a str, Vec<Rule>>) {
    let by_name: BTreeMap<&str, &BackupFacts> =
        sorted.iter().map(|backup| (backup.name.as_str(), *backup)).collect();
    let mut open: Vec<&BackupFacts> = sorted
        .iter()
        .copied()
        .filter(|backup| rules.get(backup.name.as_str()).is_some_and(|own| !own.is_empty()))
        .collect();
    let mut followed = BTreeSet::new();
    while let Some(child) = open.pop() {
        let parent = child.parent.as_deref().and_then(|parent| by_name.get(parent));
        if let Some(parent) = parent
            && followed.insert((parent.name.as_str(), child.name.as_str()))
        {
            let own = rules.entry(&parent.name).or_default();
            own.push(Rule::ParentOf(child.name.clone()));
            open.push(parent);
        }
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
