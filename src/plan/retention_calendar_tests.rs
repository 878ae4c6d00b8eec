//! Where hours, days, weeks, months and years begin and end.

use super::*;

/// The backups kept by a span of the calendar, newest first, as `time span`.
fn spans(times: &[&str], retention: &Retention, time_zone: &str) -> Vec<String> {
    let backups: Vec<BackupFacts> = times.iter().map(|time| backup(time)).collect();
    decide(&backups, retention, time_zone, at(NOW))
        .unwrap()
        .into_iter()
        .flat_map(|verdict| {
            let name = verdict.name;
            verdict
                .rules
                .into_iter()
                .filter(|rule| matches!(rule, Rule::Newest(_)))
                .map(move |rule| format!("{name} {rule}"))
        })
        .collect()
}

#[test]
fn weeks_are_those_of_iso_8601_at_the_end_of_a_year() {
    let retention = Retention { keep_weekly: Some(9), ..Retention::default() };
    // 2026 has 53 weeks and takes the first three days of 2027; 2024-12-30 is in 2025.
    let times = [
        "2027-01-04T00:00:00Z",
        "2027-01-03T23:59:59Z",
        "2026-12-28T00:00:00Z",
        "2026-12-27T00:00:00Z",
        "2025-01-05T00:00:00Z",
        "2024-12-30T00:00:00Z",
        "2024-12-29T00:00:00Z",
    ];
    assert_eq!(
        spans(&times, &retention, "UTC"),
        [
            "2027-01-04T00:00:00Z weekly 2027-W01",
            "2027-01-03T23:59:59Z weekly 2026-W53",
            "2026-12-27T00:00:00Z weekly 2026-W52",
            "2025-01-05T00:00:00Z weekly 2025-W01",
            "2024-12-29T00:00:00Z weekly 2024-W52",
        ]
    );
}

#[test]
fn months_end_on_their_own_days() {
    let retention =
        Retention { keep_monthly: Some(4), keep_yearly: Some(2), ..Retention::default() };
    let times = [
        "2024-03-31T23:59:59Z",
        "2024-03-01T00:00:00Z",
        "2024-02-29T23:59:59Z",
        "2024-02-28T00:00:00Z",
        "2024-01-31T00:00:00Z",
        "2023-12-31T23:59:59Z",
        "2022-12-31T23:59:59Z",
    ];
    assert_eq!(
        spans(&times, &retention, "UTC"),
        [
            "2024-03-31T23:59:59Z monthly 2024-03",
            "2024-03-31T23:59:59Z yearly 2024",
            "2024-02-29T23:59:59Z monthly 2024-02",
            "2024-01-31T00:00:00Z monthly 2024-01",
            "2023-12-31T23:59:59Z monthly 2023-12",
            "2023-12-31T23:59:59Z yearly 2023",
        ]
    );
}

#[test]
fn the_day_changes_at_midnight_of_the_time_zone() {
    let retention = Retention { keep_daily: Some(9), ..Retention::default() };
    // 23:30 UTC is half past midnight in winter, half past one in summer.
    let times = [
        "2026-11-19T23:30:00Z",
        "2026-11-19T22:30:00Z",
        "2026-07-01T22:30:00Z",
        "2026-07-01T21:30:00Z",
    ];
    assert_eq!(
        spans(&times, &retention, "UTC"),
        ["2026-11-19T23:30:00Z daily 2026-11-19", "2026-07-01T22:30:00Z daily 2026-07-01"]
    );
    assert_eq!(
        spans(&times, &retention, "Europe/Berlin"),
        [
            "2026-11-19T23:30:00Z daily 2026-11-20",
            "2026-11-19T22:30:00Z daily 2026-11-19",
            "2026-07-01T22:30:00Z daily 2026-07-02",
            "2026-07-01T21:30:00Z daily 2026-07-01",
        ]
    );
}

#[test]
fn an_hour_that_comes_twice_is_two_hours_of_one_day() {
    let retention = Retention { keep_hourly: Some(9), keep_daily: Some(9), ..Retention::default() };
    // Berlin, 2026-10-25: 03:00 summer time becomes 02:00.
    let times = [
        "2026-10-25T02:10:00Z",
        "2026-10-25T01:50:00Z",
        "2026-10-25T01:10:00Z",
        "2026-10-25T00:10:00Z",
        "2026-10-24T23:10:00Z",
    ];
    assert_eq!(
        spans(&times, &retention, "Europe/Berlin"),
        [
            "2026-10-25T02:10:00Z hourly 2026-10-25 03h",
            "2026-10-25T02:10:00Z daily 2026-10-25",
            "2026-10-25T01:50:00Z hourly 2026-10-25 02h+01",
            "2026-10-25T00:10:00Z hourly 2026-10-25 02h+02",
            "2026-10-24T23:10:00Z hourly 2026-10-25 01h",
        ]
    );
    // Spring: 01h is followed by 03h.
    assert_eq!(
        spans(
            &["2026-03-29T01:00:00Z", "2026-03-29T00:59:59Z"],
            &Retention { keep_hourly: Some(9), ..Retention::default() },
            "Europe/Berlin"
        ),
        [
            "2026-03-29T01:00:00Z hourly 2026-03-29 03h",
            "2026-03-29T00:59:59Z hourly 2026-03-29 01h"
        ]
    );
}

#[test]
fn a_day_that_comes_back_is_still_one_day() {
    // St. John's, 2010-11-07 at 00:01 went back to 23:01 of the 6th.
    let times = [
        "2010-11-07T03:40:00Z", // 7th, 00:10
        "2010-11-07T02:40:00Z", // 6th, 23:10 again
        "2010-11-07T02:30:30Z", // 7th, 00:00:30, for the first time
        "2010-11-07T02:20:00Z", // 6th, 23:50, for the first time
    ];
    let retention = Retention { keep_daily: Some(9), ..Retention::default() };
    assert_eq!(
        spans(&times, &retention, "America/St_Johns"),
        ["2010-11-07T03:40:00Z daily 2010-11-07", "2010-11-07T02:40:00Z daily 2010-11-06"]
    );
}
