use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The `count` runs after `from`, in UTC; walks back over them too.
fn runs(schedule: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(schedule, zone).unwrap();
    let mut runs: Vec<Timestamp> = vec![];
    let mut now = at(from);
    for _ in 0..count {
        now = cron.next_after(now).unwrap();
        assert_eq!(cron.previous_at_or_before(now), Some(now));
        if let Some(last) = runs.last() {
            assert_eq!(cron.previous_at_or_before(now - NANOSECOND), Some(*last));
        }
        runs.push(now);
    }
    runs.iter().map(ToString::to_string).collect()
}

#[test]
fn a_wrong_field_is_named() {
    for (schedule, field) in [
        ("60 * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day-of-month"),
        ("0 0 1 13 *", "month"),
        ("0 0 * * 8", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("? * * * *", "minute"),
        (", * * * *", "minute"),
        ("0 0 L * *", "day-of-month"),
        ("0 +1 * * *", "hour"),
        ("1/ * * * *", "minute"),
    ] {
        let error = Cron::parse(schedule, "UTC").unwrap_err().to_string();
        assert!(error.starts_with(&format!("schedule field {field}: ")), "{schedule}: {error}");
    }
    assert!(Cron::parse("0 0 0 * * *", "UTC").unwrap_err().to_string().contains("no seconds"));
    assert!(matches!(Cron::parse("@reboot", "UTC"), Err(ScheduleError::Macro(_))));
    assert!(matches!(Cron::parse("0 0 31 2 *", "UTC"), Err(ScheduleError::Never(_))));
    assert!(matches!(Cron::parse("@daily", "Europe/Bonn"), Err(ScheduleError::TimeZone(_))));
}

#[test]
fn macros_names_and_day_rules() {
    let first = |schedule| runs(schedule, "UTC", "2026-11-20T12:00:30Z", 1).remove(0);
    assert_eq!(first("@hourly"), "2026-11-20T13:00:00Z");
    assert_eq!(first("@midnight"), "2026-11-21T00:00:00Z");
    assert_eq!(first("@weekly"), "2026-11-22T00:00:00Z");
    assert_eq!(first("0 0 * * 7"), "2026-11-22T00:00:00Z");
    assert_eq!(first("0 0 * * SUN"), "2026-11-22T00:00:00Z");
    assert_eq!(first("0 0 * * 5-7"), "2026-11-21T00:00:00Z");
    assert_eq!(first("@monthly"), "2026-12-01T00:00:00Z");
    assert_eq!(first("@annually"), "2027-01-01T00:00:00Z");
    assert_eq!(first("0 0 29 2 *"), "2028-02-29T00:00:00Z");
    // 2026-11-20 is a Friday: either day field is enough, unless one is open.
    assert_eq!(first("0 0 30 * MON"), "2026-11-23T00:00:00Z");
    assert_eq!(first("0 0 30 * *"), "2026-11-30T00:00:00Z");
    assert_eq!(first("0 0 ? * MON"), "2026-11-23T00:00:00Z");
}

#[test]
fn fixed_times_run_once_when_clocks_change() {
    for (schedule, zone, from, expected) in [
        // Gap 02:00 to 03:00 at 01:00Z.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T02:00:00Z",
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "*/15 2 * * *",
            "Europe/Berlin",
            "2026-03-28T01:45:00Z",
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
        ),
        // 02:00 to 03:00 twice, first at 00:00Z.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        // Half an hour: 02:00 +10:30 becomes 02:30 +11:00.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        // 30 December 2011 does not exist; its run comes at the first instant of the 31st.
        (
            "0 2 * * *",
            "Pacific/Apia",
            "2011-12-29T13:00:00Z",
            ["2011-12-30T10:00:00Z", "2011-12-30T12:00:00Z"],
        ),
    ] {
        assert_eq!(runs(schedule, zone, from, 2), expected, "{schedule} {zone}");
    }
}

#[test]
fn every_hour_of_the_day_follows_real_time() {
    for (zone, from) in [
        ("Europe/Berlin", "2026-03-28T20:00:00Z"),
        ("Europe/Berlin", "2026-10-24T20:00:00Z"),
        ("America/New_York", "2026-11-01T00:00:00Z"),
        ("Africa/Casablanca", "2026-02-14T20:00:00Z"),
        ("Africa/Casablanca", "2026-03-21T20:00:00Z"),
        ("Pacific/Apia", "2011-12-30T01:00:00Z"),
    ] {
        let expected: Vec<String> = (1..=24)
            .map(|hour| (at(from) + SignedDuration::from_hours(hour)).to_string())
            .collect();
        assert_eq!(runs("@hourly", zone, from, 24), expected, "{zone} {from}");
    }
    // The half hour of Lord Howe: wall time 02:00 does not exist, the next full hour is 03:00.
    assert_eq!(
        runs("@hourly", "Australia/Lord_Howe", "2026-10-03T14:00:00Z", 3),
        ["2026-10-03T14:30:00Z", "2026-10-03T16:00:00Z", "2026-10-03T17:00:00Z"]
    );
}

#[test]
fn the_second_pass_of_a_repeated_hour_repeats_nothing() {
    let cron = Cron::parse("*/10 2 * * *", "Europe/Berlin").unwrap();
    let second_pass = at("2026-10-25T01:05:00Z");
    assert_eq!(cron.previous_at_or_before(second_pass), Some(at("2026-10-25T00:50:00Z")));
    assert_eq!(cron.next_after(second_pass), Some(at("2026-10-26T01:00:00Z")));
}

#[test]
fn the_ends_of_the_calendar_are_no_panic() {
    for schedule in ["* * * * *", "0 2 * * *", "0 0 29 2 *"] {
        let cron = Cron::parse(schedule, "Europe/Berlin").unwrap();
        let _ = cron.next_after(Timestamp::MAX);
        let _ = cron.next_after(Timestamp::MIN);
        let _ = cron.previous_at_or_before(Timestamp::MIN);
        let _ = cron.previous_at_or_before(Timestamp::MAX);
    }
}

proptest! {
    #[test]
    fn forwards_and_backwards_agree(
        schedule in "([0-5]?[0-9]|\\*|\\*/7) (1?[0-9]|\\*|\\*/5) (1?[1-9]|\\*) ([1-9]|\\*) ([0-7]|\\*)",
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"]),
        seconds in 946_684_800_i64..2_000_000_000,
    ) {
        let cron = Cron::parse(&schedule, zone).unwrap();
        let now = Timestamp::from_second(seconds).unwrap();
        let next = cron.next_after(now).unwrap();
        let previous = cron.previous_at_or_before(now).unwrap();
        prop_assert!(previous <= now && now < next);
        prop_assert_eq!(cron.next_after(previous), Some(next));
        prop_assert_eq!(cron.previous_at_or_before(next - NANOSECOND), Some(previous));
    }

    #[test]
    fn croner_finds_the_same_times_in_utc(
        schedule in "([0-5]?[0-9]|\\*|\\*/7) (1?[0-9]|\\*|\\*/5) (1?[1-9]|\\*) ([1-9]|\\*) ([0-6]|\\*)",
        seconds in 946_684_800_i64..2_000_000_000,
    ) {
        let now = Timestamp::from_second(seconds).unwrap();
        let foreign: croner::Cron = schedule.parse().unwrap();
        let expected = foreign.find_next_occurrence(&now.to_zoned(TimeZone::UTC), false).unwrap();
        let cron = Cron::parse(&schedule, "UTC").unwrap();
        prop_assert_eq!(cron.next_after(now), Some(expected.timestamp()));
    }
}
