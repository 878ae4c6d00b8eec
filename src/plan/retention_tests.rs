use super::*;

#[path = "retention_calendar_tests.rs"]
mod calendar;
#[path = "retention_law_tests.rs"]
mod laws;

const NOW: &str = "2026-11-20T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A verified success, named after its time unless renamed.
fn backup(created_at: &str) -> BackupFacts {
    BackupFacts {
        name: created_at.to_owned(),
        created_at: at(created_at),
        state: BackupState::Succeeded,
        verified: true,
        parent: None,
        expires_at: None,
        in_use: false,
        lacks: None,
        of_schedule: false,
        needed_by: None,
    }
}

fn named(name: &str, created_at: &str) -> BackupFacts {
    BackupFacts { name: name.to_owned(), ..backup(created_at) }
}

fn failed(name: &str, created_at: &str) -> BackupFacts {
    BackupFacts { state: BackupState::Failed, verified: false, ..named(name, created_at) }
}

fn unverified(name: &str, created_at: &str) -> BackupFacts {
    BackupFacts { verified: false, ..named(name, created_at) }
}

fn within(text: &str) -> Retention {
    Retention { keep_within: Some(text.parse().unwrap()), ..Retention::default() }
}

fn last(count: u32) -> Retention {
    Retention { keep_last: Some(count), ..Retention::default() }
}

fn zeros() -> Retention {
    let none = Some(0);
    Retention {
        keep_hourly: none,
        keep_daily: none,
        keep_weekly: none,
        keep_monthly: none,
        keep_yearly: none,
        keep_failed: none,
        keep_last: none,
        ..within("0s")
    }
}

/// One line for each verdict: `+name: rules` or `-name: rules`.
fn lines(backups: &[BackupFacts], retention: &Retention, time_zone: &str) -> Vec<String> {
    decide(backups, retention, time_zone, at(NOW))
        .unwrap()
        .into_iter()
        .map(|verdict| {
            let rules: Vec<String> = verdict.rules.iter().map(ToString::to_string).collect();
            format!(
                "{}{}: {}",
                if verdict.keep { '+' } else { '-' },
                verdict.name,
                rules.join(", ")
            )
        })
        .collect()
}

#[test]
fn the_rules_add_up_and_each_says_its_name() {
    let retention = Retention {
        keep_last: Some(1),
        keep_hourly: Some(1),
        keep_daily: Some(2),
        keep_weekly: Some(2),
        keep_monthly: Some(2),
        keep_yearly: Some(2),
        keep_failed: Some(1),
        ..within("7d")
    };
    let backups = [
        named("a", "2026-11-20T02:30:00Z"),
        named("b", "2026-11-20T02:00:00Z"),
        failed("c", "2026-11-19T03:00:00Z"),
        named("d", "2026-11-19T02:00:00Z"),
        failed("e", "2026-11-18T03:00:00Z"),
        named("f", "2026-11-13T11:59:59Z"),
        named("g", "2026-10-31T02:00:00Z"),
        named("h", "2026-10-30T02:00:00Z"),
        named("i", "2025-12-31T02:00:00Z"),
    ];
    assert_eq!(
        lines(&backups, &retention, "UTC"),
        [
            "+a: last 1 of 1, hourly 2026-11-20 02h, daily 2026-11-20, weekly 2026-W47, \
             monthly 2026-11, yearly 2026, within 7d, last verified",
            "+b: within 7d",
            "+c: failed 1 of 1",
            "+d: daily 2026-11-19, within 7d",
            "-e: failed, beyond 1",
            "+f: weekly 2026-W46",
            "+g: monthly 2026-10",
            "-h: no rule keeps it",
            "+i: yearly 2025",
        ]
    );
}

#[test]
fn an_empty_policy_drops_only_what_has_expired() {
    let expiring = |name: &str, expires_at: &str| BackupFacts {
        expires_at: Some(at(expires_at)),
        ..named(name, "2026-11-01T00:00:00Z")
    };
    let backups = [
        named("newest", "2026-11-02T00:00:00Z"),
        expiring("ahead", "2026-11-20T12:00:00.000000001Z"),
        expiring("just", NOW),
        expiring("long ago", "2026-11-02T00:00:00Z"),
        failed("failed", "2026-10-01T00:00:00Z"),
        unverified("old", "1999-01-01T00:00:00Z"),
    ];
    let kept_and_expired = |failed: &str| {
        vec![
            "+newest: last verified, nothing limits it".to_owned(),
            "+ahead: not expired".to_owned(),
            "-just: expired".to_owned(),
            "-long ago: expired".to_owned(),
            failed.to_owned(),
            "+old: nothing limits it".to_owned(),
        ]
    };
    assert_eq!(
        lines(&backups, &Retention::default(), "UTC"),
        kept_and_expired("+failed: nothing limits it")
    );
    // keepFailed alone says nothing of successes.
    let retention = Retention { keep_failed: Some(0), ..Retention::default() };
    assert_eq!(lines(&backups, &retention, "UTC"), kept_and_expired("-failed: failed, beyond 0"));
}

#[test]
fn with_a_policy_expiry_only_delays() {
    let expiring = |name: &str, created_at: &str, expires_at: &str| BackupFacts {
        expires_at: Some(at(expires_at)),
        ..named(name, created_at)
    };
    let backups = [
        expiring("counted", "2026-11-04T00:00:00Z", "2026-11-05T00:00:00Z"),
        expiring("ahead", "2026-11-03T00:00:00Z", "2026-12-01T00:00:00Z"),
        expiring("past", "2026-11-02T00:00:00Z", "2026-11-05T00:00:00Z"),
        named("never by age", "2026-11-01T00:00:00Z"),
        BackupFacts {
            state: BackupState::Failed,
            ..expiring("suspicious", "2026-10-01T00:00:00Z", "2026-12-01T00:00:00Z")
        },
    ];
    let retention = Retention { keep_failed: Some(0), ..last(1) };
    assert_eq!(
        lines(&backups, &retention, "UTC"),
        [
            "+counted: last 1 of 1, last verified",
            "+ahead: not expired",
            "-past: expired, no rule keeps it",
            "-never by age: no rule keeps it",
            "+suspicious: not expired",
        ]
    );
}

#[test]
fn zeros_keep_only_what_is_protected() {
    let backups = [
        unverified("ahead of the clock", "2027-01-01T00:00:00Z"),
        unverified("now", NOW),
        BackupFacts { state: BackupState::Running, ..unverified("taken", "2026-11-19T00:00:00Z") },
        BackupFacts { in_use: true, ..unverified("read", "2026-11-18T00:00:00Z") },
        BackupFacts {
            parent: Some("increment 1".to_owned()),
            ..named("increment 2", "2026-11-17T00:00:00Z")
        },
        BackupFacts {
            parent: Some("full".to_owned()),
            ..unverified("increment 1", "2026-11-16T00:00:00Z")
        },
        failed("failed", "2026-11-15T12:00:00Z"),
        named("full", "2026-11-15T00:00:00Z"),
        named("older", "2026-11-14T00:00:00Z"),
    ];
    assert_eq!(
        lines(&backups, &zeros(), "UTC"),
        [
            "-ahead of the clock: no rule keeps it",
            "-now: no rule keeps it",
            "+taken: running",
            "+read: in use",
            "+increment 2: last verified",
            "+increment 1: parent of increment 2",
            "-failed: failed, beyond 0",
            "+full: parent of increment 1",
            "-older: no rule keeps it",
        ]
    );
}

#[test]
fn unverified_backups_neither_replace_nor_inherit() {
    let backups = [
        unverified("u1", "2026-11-20T03:00:00Z"),
        unverified("u2", "2026-11-20T02:00:00Z"),
        named("v1", "2026-11-20T01:00:00Z"),
        unverified("u3", "2026-11-19T03:00:00Z"),
        named("v2", "2026-11-18T01:00:00Z"),
        named("v3", "2026-11-18T00:00:00Z"),
    ];
    let retention = Retention { keep_daily: Some(2), ..last(1) };
    assert_eq!(
        lines(&backups, &retention, "UTC"),
        [
            "+u1: last 1 of 1, daily 2026-11-20",
            "-u2: no rule keeps it",
            "+v1: last 1 of 1, daily 2026-11-20, last verified",
            "+u3: daily 2026-11-19",
            "+v2: daily 2026-11-18",
            "-v3: no rule keeps it",
        ]
    );
}

/// One that was taken by hand had expired: with it went what the schedule of the same target kept.
#[test]
fn what_a_schedule_keeps_counts_and_stays_where_the_others_are_judged() {
    let expired = Some(at("2026-11-20T04:00:00Z"));
    let scheduled = |backup| BackupFacts { of_schedule: true, expires_at: expired, ..backup };
    let by_hand = |backup| BackupFacts { expires_at: expired, ..backup };
    let parent = by_hand(named("parent", "2026-11-20T01:00:00Z"));
    let backups = [
        scheduled(unverified("run 3", "2026-11-20T04:00:00Z")),
        scheduled(BackupFacts {
            parent: Some("parent".to_owned()),
            ..named("run 2", "2026-11-20T03:00:00Z")
        }),
        by_hand(named("by hand", "2026-11-20T02:00:00Z")),
        parent.clone(),
    ];
    assert_eq!(
        lines(&backups, &Retention::default(), "UTC"),
        [
            "+run 3: judged by its schedule",
            "+run 2: last verified, judged by its schedule",
            "-by hand: expired",
            "+parent: parent of run 2",
        ]
    );
    let older = [scheduled(named("run 1", "2026-11-20T00:00:00Z")), parent];
    assert_eq!(
        lines(&older, &Retention::default(), "UTC"),
        ["+parent: last verified", "+run 1: judged by its schedule"]
    );
}

/// Two increments on a full backup whose files were gone kept the place of the last one that could be restored.
#[test]
fn what_cannot_be_restored_takes_nobodys_place() {
    let broken = |backup| BackupFacts { lacks: Some("full 2 is gone".to_owned()), ..backup };
    let mut backups = vec![
        broken(named("increment 2", "2026-11-20T04:00:00Z")),
        broken(named("increment 1", "2026-11-20T03:00:00Z")),
        named("full 1", "2026-11-20T01:00:00Z"),
        named("full 0", "2026-11-19T01:00:00Z"),
        named("older", "2026-11-18T01:00:00Z"),
    ];
    assert_eq!(
        lines(&backups, &last(2), "UTC"),
        [
            "+increment 2: counts for nothing: full 2 is gone",
            "+increment 1: counts for nothing: full 2 is gone",
            "+full 1: last 1 of 2, last verified",
            "+full 0: last 2 of 2",
            "-older: no rule keeps it",
        ]
    );
    // It goes when it would have gone anyway.
    backups.insert(0, named("full 3", "2026-11-20T05:00:00Z"));
    assert_eq!(
        lines(&backups, &last(2), "UTC"),
        [
            "+full 3: last 1 of 2, last verified",
            "+increment 2: counts for nothing: full 2 is gone",
            "-increment 1: no rule keeps it",
            "+full 1: last 2 of 2",
            "-full 0: no rule keeps it",
            "-older: no rule keeps it",
        ]
    );
}

#[test]
fn running_and_failed_ones_are_not_counted() {
    let backups = [
        BackupFacts { state: BackupState::Running, ..named("running", "2026-11-20T03:00:00Z") },
        failed("failed", "2026-11-20T02:00:00Z"),
        named("good", "2026-11-20T01:00:00Z"),
        named("old", "2026-11-19T01:00:00Z"),
    ];
    assert_eq!(
        lines(&backups, &last(1), "UTC"),
        [
            "+running: running",
            "+failed: nothing limits it",
            "+good: last 1 of 1, last verified",
            "-old: no rule keeps it",
        ]
    );
}

#[test]
fn circles_and_missing_parents_end() {
    let child = |name: &str, parent: &str, created_at: &str| BackupFacts {
        parent: Some(parent.to_owned()),
        ..named(name, created_at)
    };
    let backups = [
        child("a", "b", "2026-11-04T00:00:00Z"),
        child("b", "a", "2026-11-03T00:00:00Z"),
        child("c", "c", "2026-11-02T00:00:00Z"),
        child("d", "gone", "2026-11-01T00:00:00Z"),
    ];
    assert_eq!(
        lines(&backups, &last(1), "UTC"),
        [
            "+a: last 1 of 1, last verified, parent of b",
            "+b: parent of a",
            "-c: no rule keeps it",
            "-d: no rule keeps it",
        ]
    );
}

#[test]
fn records_of_one_name_stay_together() {
    // Removing the failed record's archive by name would take the good one with it.
    let backups = [
        named("same", "2026-11-04T00:00:00Z"),
        failed("same", "2026-11-03T00:00:00Z"),
        named("other", "2026-11-02T00:00:00Z"),
    ];
    let retention = Retention { keep_failed: Some(0), ..last(1) };
    assert_eq!(
        lines(&backups, &retention, "UTC"),
        [
            "+same: last 1 of 1, last verified",
            "+same: last 1 of 1, last verified",
            "-other: no rule keeps it",
        ]
    );
}

#[test]
fn equal_times_are_ordered_by_name() {
    let time = "2026-11-04T00:00:00Z";
    let backups = [named("b", time), named("c", time), named("a", time)];
    assert_eq!(
        lines(&backups, &last(2), "UTC"),
        ["+a: last 1 of 2, last verified", "+b: last 2 of 2", "-c: no rule keeps it"]
    );
}

#[test]
fn within_takes_the_exact_age_the_future_and_the_ends_of_time() {
    let backups = [
        BackupFacts { name: "end of time".to_owned(), created_at: Timestamp::MAX, ..backup(NOW) },
        named("ahead", "2026-12-24T00:00:00Z"),
        named("exact", "2026-11-13T12:00:00Z"),
        named("older", "2026-11-13T11:59:59.999999999Z"),
        BackupFacts { name: "dawn".to_owned(), created_at: Timestamp::MIN, ..backup(NOW) },
    ];
    assert_eq!(
        lines(&backups, &within("7d"), "UTC"),
        [
            "+end of time: within 7d, last verified",
            "+ahead: within 7d",
            "+exact: within 7d",
            "-older: no rule keeps it",
            "-dawn: no rule keeps it",
        ]
    );
    for now in [Timestamp::MIN, Timestamp::MAX] {
        let verdicts =
            decide(&backups, &within("9223372036854775807ms"), "Asia/Kathmandu", now).unwrap();
        assert!(verdicts.iter().all(|verdict| verdict.keep));
    }
}

#[test]
fn an_unknown_time_zone_is_refused_with_advice() {
    let error = decide(&[], &Retention::default(), "Europe/Atlantis", at(NOW)).unwrap_err();
    assert_eq!(error, RetentionError::TimeZone("Europe/Atlantis".to_owned()));
    assert!(error.to_string().contains("IANA"), "{error}");
    assert_eq!(decide(&[], &Retention::default(), "UTC", at(NOW)), Ok(vec![]));
}

#[test]
fn the_first_rule_of_a_sort_is_where_a_limit_begins() {
    // The exact exception to "a rule more never drops more": without any, nothing is limited.
    let backups = [
        named("new", "2026-11-02T00:00:00Z"),
        named("old", "2026-11-01T00:00:00Z"),
        failed("failed", "2026-10-01T00:00:00Z"),
    ];
    let count = |retention: &Retention| {
        lines(&backups, retention, "UTC").iter().filter(|line| line.starts_with('+')).count()
    };
    assert_eq!(count(&Retention::default()), 3);
    assert_eq!(count(&last(1)), 2);
    assert_eq!(count(&Retention { keep_failed: Some(0), ..Retention::default() }), 2);
}
