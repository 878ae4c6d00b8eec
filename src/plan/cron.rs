//! Five-field cron in a time zone: the times a schedule names, forwards and backwards.
//!
//! Pure: the time zone database is jiff's, no clock is read. The fields are those of POSIX crontab
//! with names, lists, ranges and steps. Days follow Kubernetes (robfig/cron v3): when both day fields
//! are restricted either is enough, and only `*`, `?` and `*/1` count as unrestricted.
//!
//! Changes of the clock, after cron(8) of Debian (Vixie cron) but decided by the hour field alone:
//! - A schedule that runs in **every** hour of the day follows real time. Wall times that do not exist
//!   are left out, wall times that occur twice run twice, so no real hour is without its run (where
//!   clocks move by half an hour, as on Lord Howe Island, one pause may be half an hour longer).
//! - Any other schedule is at **fixed** times. All times inside a gap together run once, at the first
//!   instant after the gap; a time that occurs twice runs at its first occurrence. A skipped calendar
//!   day (Apia, 2011-12-30) is such a gap.
//!
//! Vixie cron also takes a `*` in the minute field for an interval, which would drop `*/15 2 * * *`
//! altogether on the day clocks spring forward. A backup that runs late is better than none.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "schedule `{schedule}` has {count} fields; write five (minute hour day-of-month month \
         day-of-week, no seconds) or @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    FieldCount {
        /// The schedule as written.
        schedule: String,
        /// Number of fields found.
        count: usize,
    },
    /// A field is out of its range or cannot be read.
    #[error("schedule field {field}: `{value}` is not allowed; write {allowed}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The part that is wrong.
        value: String,
        /// What the field takes.
        allowed: &'static str,
    },
    /// An unknown `@` word.
    #[error(
        "schedule `{0}` is not known; write @hourly, @daily, @midnight, @weekly, @monthly, @yearly \
         or @annually"
    )]
    Macro(String),
    /// The day never comes, as 31 February.
    #[error("schedule `{0}` never runs; no such day exists in the chosen months")]
    Never(String),
    /// No such time zone.
    #[error("time zone `{0}` is not known; write an IANA name as Europe/Berlin or UTC")]
    TimeZone(String),
}

struct FieldRule {
    name: &'static str,
    low: u8,
    high: u8,
    names: &'static [&'static str],
    allowed: &'static str,
}

const MINUTE: FieldRule = FieldRule {
    name: "minute",
    low: 0,
    high: 59,
    names: &[],
    allowed: "0-59, `*`, lists `1,2`, ranges `1-5`, steps `*/5`",
};
const HOUR: FieldRule = FieldRule {
    name: "hour",
    low: 0,
    high: 23,
    names: &[],
    allowed: "0-23, `*`, lists `1,2`, ranges `1-5`, steps `*/6`",
};
const DAY_OF_MONTH: FieldRule = FieldRule {
    name: "day-of-month",
    low: 1,
    high: 31,
    names: &[],
    allowed: "1-31, `*`, `?`, lists `1,15`, ranges `1-7`, steps `*/2`",
};
const MONTH: FieldRule = FieldRule {
    name: "month",
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    allowed: "1-12 or JAN-DEC, `*`, lists, ranges, steps",
};
const DAY_OF_WEEK: FieldRule = FieldRule {
    name: "day-of-week",
    low: 0,
    high: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    allowed: "0-7 (0 and 7 are Sunday) or SUN-SAT, `*`, `?`, lists, ranges, steps",
};

impl FieldRule {
    fn error(&self, value: &str) -> ScheduleError {
        ScheduleError::Field { field: self.name, value: value.to_owned(), allowed: self.allowed }
    }

    fn number(&self, text: &str) -> Option<u8> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lower) {
            return u8::try_from(index).ok()?.checked_add(self.low);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = if digits { text.parse().ok()? } else { return None };
        (self.low..=self.high).contains(&value).then_some(value)
    }

    /// The field as a bit set, and whether it leaves every value open.
    fn parse(&self, field: &str) -> Result<(u64, bool), ScheduleError> {
        let mut bits = 0_u64;
        let mut open = false;
        for part in field.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (part, None),
            };
            let step_by = match step {
                None => 1,
                Some(step) if step.bytes().all(|byte| byte.is_ascii_digit()) => {
                    match step.parse::<u8>() {
                        Ok(step) if step > 0 && step <= self.high => step,
                        _ => return Err(self.error(part)),
                    }
                }
                Some(_) => return Err(self.error(part)),
            };
            let question = range == "?" && self.allowed.contains('?');
            let (first, last) = if range == "*" || question {
                open |= step_by == 1;
                // Sunday is 0 already; 7 would count it twice in steps.
                (self.low, if self.high == 7 { 6 } else { self.high })
            } else if let Some((first, last)) = range.split_once('-') {
                match (self.number(first), self.number(last)) {
                    (Some(first), Some(last)) if first <= last => (first, last),
                    _ => return Err(self.error(part)),
                }
            } else {
                let first = self.number(range).ok_or_else(|| self.error(part))?;
                (first, if step.is_some() { self.high } else { first })
            };
            for value in (first..=last).step_by(usize::from(step_by)) {
                bits |= 1 << value;
            }
        }
        Ok((bits, open))
    }
}

/// A schedule that can be asked for its times.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    every_hour: bool,
    zone: TimeZone,
}

const ALL_HOURS: u64 = (1 << 24) - 1;
const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);
/// 29 February is at most eight years away (1896 to 1904), so nine years see every date.
const SEARCH_YEARS: i16 = 9;
/// Zones have at most a few changes a year; this many are more than `SEARCH_YEARS` hold.
const SEARCH_TRANSITIONS: usize = 512;

impl Cron {
    /// Reads a schedule (see the module) and the name of an IANA time zone.
    ///
    /// # Errors
    /// [`ScheduleError`] naming the field and what it takes.
    pub fn parse(schedule: &str, time_zone: &str) -> Result<Self, ScheduleError> {
        let zone =
            TimeZone::get(time_zone).map_err(|_| ScheduleError::TimeZone(time_zone.to_owned()))?;
        let schedule = schedule.trim();
        let expanded = match schedule.to_ascii_lowercase().as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            word if word.starts_with('@') => return Err(ScheduleError::Macro(schedule.to_owned())),
            _ => schedule,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            let count = fields.len();
            return Err(ScheduleError::FieldCount { schedule: schedule.to_owned(), count });
        };
        let (days, any_day_of_month) = DAY_OF_MONTH.parse(day)?;
        let (weekdays, any_weekday) = DAY_OF_WEEK.parse(weekday)?;
        let hours = HOUR.parse(hour)?.0;
        let cron = Self {
            minutes: MINUTE.parse(minute)?.0,
            hours,
            days,
            months: MONTH.parse(month)?.0,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_day: any_day_of_month || any_weekday,
            every_hour: hours == ALL_HOURS,
            zone,
        };
        if cron.civil_from(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)).is_none() {
            return Err(ScheduleError::Never(schedule.to_owned()));
        }
        Ok(cron)
    }

    /// The first run later than `after`; none at the end of the calendar (year 9999).
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.every_hour { self.next_real(after) } else { self.next_fixed(after) }
    }

    /// The last run at `at` or earlier; none at the beginning of the calendar.
    pub fn previous_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        if self.every_hour { self.previous_real(at) } else { self.previous_fixed(at) }
    }

    // `resolve` never decreases as wall time grows, so the first match that is late enough is the next
    // one. Only wall times that occur twice are looked at in vain: a bounded number.
    fn next_fixed(&self, after: Timestamp) -> Option<Timestamp> {
        let mut wall = self.civil_from(self.zone.to_datetime(after))?;
        loop {
            let run = self.resolve(wall)?;
            if run > after {
                return Some(run);
            }
            wall = self.civil_from(next_minute(wall)?)?;
        }
    }

    fn previous_fixed(&self, at: Timestamp) -> Option<Timestamp> {
        let mut upper = self.zone.to_datetime(at);
        // In a repeated hour the clock has already shown later times than it shows now.
        if let Some(change) = self.zone.preceding(at).next()
            && let Ok(before) = change.timestamp().checked_sub(NANOSECOND)
        {
            upper = upper.max(self.zone.to_datetime(before));
        }
        let mut wall = self.civil_until(upper)?;
        loop {
            let run = self.resolve(wall)?;
            if run <= at {
                return Some(run);
            }
            wall = self.civil_until(wall.checked_sub(SignedDuration::from_mins(1)).ok()?)?;
        }
    }

    /// The one instant a wall time of a fixed schedule stands for.
    fn resolve(&self, wall: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset }
            | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                // Counted with the old offset the time lies behind the change that skipped it.
                let behind = before.to_timestamp(wall).ok()?.checked_add(NANOSECOND).ok()?;
                self.zone.preceding(behind).next().map(|change| change.timestamp())
            }
        }
    }

    // Between two changes the offset is fixed and wall time is real time; go from one to the next.
    fn next_real(&self, after: Timestamp) -> Option<Timestamp> {
        let first = self.zone.to_offset(after).to_datetime(after);
        let (mut from, mut wall) = (after, next_minute(floor_minute(first)?)?);
        for _ in 0..SEARCH_TRANSITIONS {
            let offset = self.zone.to_offset(from);
            let run = self.civil_from(wall).and_then(|wall| offset.to_timestamp(wall).ok());
            match self.zone.following(from).next() {
                Some(change) if run.is_none_or(|run| change.timestamp() <= run) => {
                    from = change.timestamp();
                    wall = self.zone.to_datetime(from);
                }
                _ => return run,
            }
        }
        None
    }

    fn previous_real(&self, at: Timestamp) -> Option<Timestamp> {
        let mut from = at;
        for _ in 0..SEARCH_TRANSITIONS {
            let offset = self.zone.to_offset(from);
            let run = self
                .civil_until(offset.to_datetime(from))
                .and_then(|wall| offset.to_timestamp(wall).ok());
            let inclusive = from.checked_add(NANOSECOND).ok()?;
            match self.zone.preceding(inclusive).next() {
                Some(change) if run.is_none_or(|run| run < change.timestamp()) => {
                    from = change.timestamp().checked_sub(NANOSECOND).ok()?;
                }
                _ => return run,
            }
        }
        None
    }

    fn day_matches(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        if self.any_day { day && weekday } else { day || weekday }
    }

    fn month_matches(&self, date: Date) -> bool {
        self.months >> date.month() & 1 == 1
    }

    /// The first wall time of the schedule at `from` or later.
    fn civil_from(&self, from: DateTime) -> Option<DateTime> {
        // A time with seconds is past its own minute.
        let from = match floor_minute(from)? {
            minute if minute < from => next_minute(minute)?,
            minute => minute,
        };
        let last_year = from.year().saturating_add(SEARCH_YEARS);
        let mut date = from.date();
        let mut earliest = from.time();
        while date.year() <= last_year {
            if !self.month_matches(date) {
                date = date.last_of_month().tomorrow().ok()?;
            } else if let Some(time) = self.first_time(earliest).filter(|_| self.day_matches(date))
            {
                return Some(date.to_datetime(time));
            } else {
                date = date.tomorrow().ok()?;
            }
            earliest = Time::midnight();
        }
        None
    }

    /// The last wall time of the schedule at `until` or earlier.
    fn civil_until(&self, until: DateTime) -> Option<DateTime> {
        let first_year = until.year().saturating_sub(SEARCH_YEARS);
        let mut date = until.date();
        let mut latest = until.time();
        while date.year() >= first_year {
            if !self.month_matches(date) {
                date = date.first_of_month().yesterday().ok()?;
            } else if let Some(time) = self.last_time(latest).filter(|_| self.day_matches(date)) {
                return Some(date.to_datetime(time));
            } else {
                date = date.yesterday().ok()?;
            }
            latest = Time::MAX;
        }
        None
    }

    fn first_time(&self, earliest: Time) -> Option<Time> {
        (earliest.hour()..24).filter(|hour| self.hours >> hour & 1 == 1).find_map(|hour| {
            let from = if hour == earliest.hour() { earliest.minute() } else { 0 };
            let minute = (from..60).find(|minute| self.minutes >> minute & 1 == 1)?;
            Time::new(hour, minute, 0, 0).ok()
        })
    }

    fn last_time(&self, latest: Time) -> Option<Time> {
        (0..=latest.hour()).rev().filter(|hour| self.hours >> hour & 1 == 1).find_map(|hour| {
            let until = if hour == latest.hour() { latest.minute() } else { 59 };
            let minute = (0..=until).rev().find(|minute| self.minutes >> minute & 1 == 1)?;
            Time::new(hour, minute, 0, 0).ok()
        })
    }
}

fn floor_minute(at: DateTime) -> Option<DateTime> {
    at.with().second(0).subsec_nanosecond(0).build().ok()
}

fn next_minute(at: DateTime) -> Option<DateTime> {
    at.checked_add(SignedDuration::from_mins(1)).ok()
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
