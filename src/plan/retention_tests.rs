use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn backup(at: &str) -> BackupFacts {
    BackupFacts {
        name: at.to_owned(),
        created_at: at.parse().unwrap(),
        state: BackupState::Succeeded,
        verified: true,
        parent: None,
        expires_at: None,
        in_use: false,
    }
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn retention(json: serde_json::Value) -> Retention {
    serde_json::from_value(json).unwrap()
}

fn kept(backups: &[BackupFacts], retention: &Retention, zone: &str) -> Vec<String> {
    decide(backups, retention, zone, now())
        .unwrap()
        .into_iter()
        .filter(|verdict| verdict.keep)
        .map(|verdict| verdict.name)
        .collect()
}

fn rules(backups: &[BackupFacts], retention: &Retention) -> Vec<String> {
    decide(backups, retention, "UTC", now())
        .unwrap()
        .into_iter()
        .map(|verdict| {
            let rules: Vec<String> = verdict.rules.iter().map(ToString::to_string).collect();
            format!(
                "{} {} {}",
                if verdict.keep { "keep" } else { "drop" },
                verdict.name,
                rules.join(", ")
            )
        })
        .collect()
}

#[test]
fn an_empty_policy_keeps_everything_that_has_not_expired() {
    let mut old = backup("2020-01-01T00:00:00Z");
    old.expires_at = Some("2020-02-01T00:00:00Z".parse().unwrap());
    let backups = [backup("2026-11-20T00:00:00Z"), backup("2019-01-01T00:00:00Z"), old];
    assert_eq!(
        rules(&backups, &Retention::default()),
        [
            "keep 2026-11-20T00:00:00Z last verified, nothing limits it",
            "drop 2020-01-01T00:00:00Z expired",
            "keep 2019-01-01T00:00:00Z nothing limits it",
        ]
    );
}

#[test]
fn each_backup_names_the_rules_that_keep_it() {
    let backups = [
        backup("2026-11-21T02:00:00Z"),
        backup("2026-11-20T02:00:00Z"),
        backup("2026-11-19T02:00:00Z"),
        backup("2026-10-31T02:00:00Z"),
    ];
    let policy = retention(serde_json::json!({"keepLast": 1, "keepDaily": 2, "keepMonthly": 2}));
    assert_eq!(
        rules(&backups, &policy),
        [
            "keep 2026-11-21T02:00:00Z last 1 of 1, daily 2026-11-21, monthly 2026-11, last verified",
            "keep 2026-11-20T02:00:00Z daily 2026-11-20",
            "drop 2026-11-19T02:00:00Z no rule keeps it",
            "keep 2026-10-31T02:00:00Z monthly 2026-10",
        ]
    );
}

#[test]
fn days_are_those_of_the_schedules_time_zone() {
    // 23:30 UTC on the 19th is 00:30 on the 20th in Berlin.
    let backups = [backup("2026-11-20T10:00:00Z"), backup("2026-11-19T23:30:00Z")];
    let policy = retention(serde_json::json!({"keepDaily": 5}));
    assert_eq!(kept(&backups, &policy, "UTC").len(), 2);
    assert_eq!(kept(&backups, &policy, "Europe/Berlin"), ["2026-11-20T10:00:00Z"]);
    assert!(decide(&backups, &policy, "Mars/Olympus", now()).is_err());
}

#[test]
fn weeks_are_iso_weeks_across_the_end_of_the_year() {
    // Monday 2024-12-30 and Wednesday 2025-01-01 are both in 2025-W01.
    let backups = [
        backup("2025-01-01T00:00:00Z"),
        backup("2024-12-30T00:00:00Z"),
        backup("2024-12-29T00:00:00Z"),
    ];
    let policy = retention(serde_json::json!({"keepWeekly": 2}));
    assert_eq!(kept(&backups, &policy, "UTC"), ["2025-01-01T00:00:00Z", "2024-12-29T00:00:00Z"]);
}

#[test]
fn the_hour_that_a_clock_repeats_is_two_hours() {
    let backups = [backup("2026-10-25T00:30:00Z"), backup("2026-10-25T01:30:00Z")];
    let policy = retention(serde_json::json!({"keepHourly": 5}));
    assert_eq!(kept(&backups, &policy, "Europe/Berlin").len(), 2);
}

#[test]
fn unverified_backups_do_not_push_out_verified_ones() {
    let mut quick = backup("2026-11-21T02:00:00Z");
    quick.verified = false;
    let backups = [quick, backup("2026-11-20T02:00:00Z"), backup("2026-11-19T02:00:00Z")];
    let policy = retention(serde_json::json!({"keepLast": 1}));
    assert_eq!(kept(&backups, &policy, "UTC"), ["2026-11-21T02:00:00Z", "2026-11-20T02:00:00Z"]);
}

#[test]
fn failures_are_limited_only_by_their_own_rule() {
    let mut backups = vec![backup("2026-11-01T00:00:00Z")];
    for day in ["2026-11-18", "2026-11-19", "2026-11-20"] {
        let mut failed = backup(&format!("{day}T00:00:00Z"));
        failed.state = BackupState::Failed;
        failed.verified = false;
        backups.push(failed);
    }
    let policy = retention(serde_json::json!({"keepFailed": 1}));
    assert_eq!(
        rules(&backups, &policy),
        [
            "keep 2026-11-20T00:00:00Z failed 1 of 1",
            "drop 2026-11-19T00:00:00Z failed, beyond 1",
            "drop 2026-11-18T00:00:00Z failed, beyond 1",
            "keep 2026-11-01T00:00:00Z last verified, nothing limits it",
        ]
    );
    assert_eq!(kept(&backups, &retention(serde_json::json!({"keepLast": 1})), "UTC").len(), 4);
}

#[test]
fn expires_after_keeps_longer_than_the_rules_and_never_shorter() {
    let mut young = backup("2026-11-01T00:00:00Z");
    young.expires_at = Some("2026-12-01T00:00:00Z".parse().unwrap());
    let mut newest = backup("2026-11-20T00:00:00Z");
    newest.expires_at = Some("2026-11-20T01:00:00Z".parse().unwrap());
    let policy = retention(serde_json::json!({"keepLast": 1}));
    assert_eq!(
        rules(&[young, newest], &policy),
        [
            "keep 2026-11-20T00:00:00Z last 1 of 1, last verified",
            "keep 2026-11-01T00:00:00Z not expired",
        ]
    );
}

#[test]
fn a_clock_that_was_set_back_drops_nothing_of_the_future() {
    let backups = [
        backup("2026-12-24T00:00:00Z"),
        backup("9000-01-01T00:00:00Z"),
        backup("2026-11-01T00:00:00Z"),
    ];
    let policy = retention(serde_json::json!({"keepWithin": "7d"}));
    assert_eq!(kept(&backups, &policy, "UTC"), ["9000-01-01T00:00:00Z", "2026-12-24T00:00:00Z"]);
}

prop_compose! {
    fn any_backups()(facts in prop::collection::vec(
        (0_i64..400, 0_u8..3, any::<bool>(), prop::option::of(0_usize..12), prop::option::of(-200_i64..200), prop::bool::weighted(0.1)),
        0..12,
    )) -> Vec<BackupFacts> {
        let day = 86_400;
        facts.iter().enumerate().map(|(index, (age, state, verified, parent, expires, in_use))| {
            let state = match state {
                0 => BackupState::Running,
                1 => BackupState::Failed,
                _ => BackupState::Succeeded,
            };
            BackupFacts {
                name: format!("b{index}"),
                created_at: Timestamp::from_second(now().as_second() - age * day / 2).unwrap(),
                state,
                verified: *verified && state == BackupState::Succeeded,
                parent: parent.filter(|parent| *parent < index).map(|parent| format!("b{parent}")),
                expires_at: expires.map(|days| Timestamp::from_second(now().as_second() + days * day).unwrap()),
                in_use: *in_use,
            }
        }).collect()
    }
}

prop_compose! {
    fn any_retention()(
        counts in prop::collection::vec(prop::option::of(0_u32..4), 7),
        within in prop::option::of(0_u64..100),
    ) -> Retention {
        Retention {
            keep_last: counts[0],
            keep_hourly: counts[1],
            keep_daily: counts[2],
            keep_weekly: counts[3],
            keep_monthly: counts[4],
            keep_yearly: counts[5],
            keep_failed: counts[6],
            keep_within: within.map(|days| format!("{days}d").parse().unwrap()),
        }
    }
}

fn kept_set(backups: &[BackupFacts], retention: &Retention) -> BTreeSet<String> {
    kept(backups, retention, "Europe/Berlin").into_iter().collect()
}

proptest! {
    #[test]
    fn what_must_stay_stays(backups in any_backups(), retention in any_retention()) {
        let kept = kept_set(&backups, &retention);
        let newest = backups
            .iter()
            .filter(|backup| backup.verified)
            .max_by(|one, other| (one.created_at, &other.name).cmp(&(other.created_at, &one.name)));
        if let Some(newest) = newest {
            prop_assert!(kept.contains(&newest.name), "the last verified {} was dropped", newest.name);
        }
        for backup in &backups {
            if backup.in_use || backup.state == BackupState::Running {
                prop_assert!(kept.contains(&backup.name));
            }
            if let (true, Some(parent)) = (kept.contains(&backup.name), &backup.parent) {
                prop_assert!(kept.contains(parent), "{parent}, parent of {}", backup.name);
            }
        }
    }

    #[test]
    fn every_backup_has_one_verdict_with_a_rule(backups in any_backups(), retention in any_retention()) {
        let verdicts = decide(&backups, &retention, "UTC", now()).unwrap();
        prop_assert_eq!(verdicts.len(), backups.len());
        prop_assert!(verdicts.iter().all(|verdict| !verdict.rules.is_empty()));
    }

    #[test]
    fn the_order_of_the_records_does_not_matter(backups in any_backups(), retention in any_retention()) {
        let mut reversed = backups.clone();
        reversed.reverse();
        prop_assert_eq!(kept_set(&backups, &retention), kept_set(&reversed, &retention));
    }

    #[test]
    fn a_higher_number_never_drops_more(backups in any_backups(), retention in any_retention(), which in 0_usize..7) {
        let mut more = retention.clone();
        let field = match which {
            0 => &mut more.keep_last,
            1 => &mut more.keep_hourly,
            2 => &mut more.keep_daily,
            3 => &mut more.keep_weekly,
            4 => &mut more.keep_monthly,
            5 => &mut more.keep_yearly,
            _ => &mut more.keep_failed,
        };
        // A rule that was not set is no limit at all: only one that was can be raised.
        if let Some(count) = field {
            *count += 1;
            let (less, more) = (kept_set(&backups, &retention), kept_set(&backups, &more));
            prop_assert!(less.is_subset(&more));
        }
    }

    #[test]
    fn deciding_again_on_what_was_kept_drops_nothing(backups in any_backups(), retention in any_retention()) {
        let kept = kept_set(&backups, &retention);
        let left: Vec<BackupFacts> =
            backups.into_iter().filter(|backup| kept.contains(&backup.name)).collect();
        prop_assert_eq!(kept_set(&left, &retention), kept);
    }
}
