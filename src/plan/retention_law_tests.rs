//! Laws that hold for every set of backups and every policy.

use super::*;
use proptest::prelude::*;

const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"];

fn any_time() -> impl Strategy<Value = Timestamp> {
    let around = |minutes: i64| Timestamp::from_second(at(NOW).as_second() + minutes * 60).unwrap();
    prop_oneof![
        // Close together, so that spans are shared and times collide.
        6 => (-200_i64..20).prop_map(move |steps| around(steps * 30)),
        6 => (-900_i64..30).prop_map(move |days| around(days * 1440)),
        1 => Just(Timestamp::MAX),
        1 => Just(Timestamp::MIN),
    ]
}

/// Up to 24 records of up to 16 names: some names come twice, some parents are missing or circular.
fn any_backups() -> impl Strategy<Value = Vec<BackupFacts>> {
    let state = prop_oneof![
        6 => Just(BackupState::Succeeded),
        2 => Just(BackupState::Failed),
        1 => Just(BackupState::Running),
    ];
    let name = |number: u8| format!("b{number}");
    let facts = (
        0_u8..16,
        any_time(),
        state,
        any::<bool>(),
        proptest::option::weighted(0.3, 0_u8..18),
        proptest::option::weighted(0.3, any_time()),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            move |(
                number,
                created_at,
                state,
                verified,
                parent,
                expires_at,
                in_use,
                own,
                broken,
                needed,
            )| {
                BackupFacts {
                    name: name(number),
                    created_at,
                    state,
                    verified,
                    parent: parent.map(name),
                    expires_at,
                    in_use,
                    lacks: broken.then(|| "its archive".to_owned()),
                    of_schedule: own,
                    needed_by: needed.then(|| "elsewhere".to_owned()),
                }
            },
        );
    proptest::collection::vec(facts, 0..24)
}

fn any_age() -> impl Strategy<Value = Option<crate::spec::DurationText>> {
    let texts = vec!["0s", "1h", "3d", "60d", "52w", "9223372036854775807ms"];
    proptest::option::of(proptest::sample::select(texts).prop_map(|text| text.parse().unwrap()))
}

fn any_retention() -> impl Strategy<Value = Retention> {
    let count = || proptest::option::of(0_u32..6);
    (count(), count(), count(), count(), count(), count(), any_age(), count()).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within, failed)| Retention {
            keep_last: last,
            keep_hourly: hourly,
            keep_daily: daily,
            keep_weekly: weekly,
            keep_monthly: monthly,
            keep_yearly: yearly,
            keep_within: within,
            keep_failed: failed,
        },
    )
}

/// The records that are kept, newest first.
fn kept(backups: &[BackupFacts], retention: &Retention, zone: &str) -> Vec<BackupFacts> {
    let verdicts = decide(backups, retention, zone, at(NOW)).unwrap();
    let sorted = newest_first(backups);
    assert_eq!(verdicts.len(), sorted.len());
    sorted
        .into_iter()
        .zip(verdicts)
        .filter(|(backup, verdict)| {
            assert_eq!(backup.name, verdict.name);
            verdict.keep
        })
        .map(|(backup, _)| backup.clone())
        .collect()
}

/// Each rule that is set, raised by one step; those that are unset stay so.
fn raised(retention: &Retention) -> Vec<Retention> {
    let mut all = Vec::new();
    let fields: [fn(&mut Retention) -> &mut Option<u32>; 7] = [
        |retention| &mut retention.keep_last,
        |retention| &mut retention.keep_hourly,
        |retention| &mut retention.keep_daily,
        |retention| &mut retention.keep_weekly,
        |retention| &mut retention.keep_monthly,
        |retention| &mut retention.keep_yearly,
        |retention| &mut retention.keep_failed,
    ];
    for field in fields {
        let mut more = retention.clone();
        if let Some(count) = field(&mut more) {
            *count += 1;
            all.push(more);
        }
    }
    if let Some(age) = &retention.keep_within {
        let longer = format!("{}ms", age.to_duration().as_millis().saturating_mul(2) + 1);
        if let Ok(longer) = longer.parse() {
            all.push(Retention { keep_within: Some(longer), ..retention.clone() });
        }
    }
    all
}

fn names(backups: &[BackupFacts]) -> BTreeSet<&str> {
    backups.iter().map(|backup| backup.name.as_str()).collect()
}

proptest! {
    #[test]
    fn what_is_protected_is_never_dropped(
        backups in any_backups(),
        retention in any_retention(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let kept = kept(&backups, &retention, zone);
        for backup in &backups {
            let ahead = backup.expires_at.is_some_and(|expires_at| expires_at > at(NOW));
            if backup.in_use || backup.of_schedule || backup.needed_by.is_some() || backup.state == BackupState::Running || ahead {
                prop_assert!(kept.contains(backup), "{backup:?}");
            }
        }
        let good = |backup: &&BackupFacts| {
            backup.state == BackupState::Succeeded && backup.verified && backup.lacks.is_none()
        };
        let newest = backups.iter().filter(good).map(|backup| backup.created_at).max();
        let newest_kept = kept.iter().filter(good).map(|backup| backup.created_at).max();
        prop_assert_eq!(newest, newest_kept);
        let kept_names = names(&kept);
        for backup in &kept {
            if let Some(parent) = backup.parent.as_deref() {
                prop_assert!(kept_names.contains(parent) || !names(&backups).contains(parent));
            }
        }
        // A name that is kept is kept in every record.
        for backup in &backups {
            prop_assert_eq!(kept_names.contains(backup.name.as_str()), kept.contains(backup));
        }
    }

    #[test]
    fn every_verdict_has_rules_that_agree_with_it(
        backups in any_backups(),
        retention in any_retention(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        for verdict in decide(&backups, &retention, zone, at(NOW)).unwrap() {
            prop_assert!(!verdict.rules.is_empty());
            for rule in &verdict.rules {
                let drops = matches!(rule, Rule::Expired | Rule::NoRule | Rule::FailedBeyond(_));
                prop_assert_eq!(drops, !verdict.keep, "{:?}", verdict);
            }
        }
    }

    #[test]
    fn the_order_given_does_not_matter(
        (backups, shuffled) in any_backups()
            .prop_flat_map(|backups| (Just(backups.clone()), Just(backups).prop_shuffle())),
        retention in any_retention(),
    ) {
        prop_assert_eq!(
            decide(&backups, &retention, "Europe/Berlin", at(NOW)),
            decide(&shuffled, &retention, "Europe/Berlin", at(NOW))
        );
    }

    #[test]
    fn deciding_again_on_what_is_kept_drops_nothing(
        backups in any_backups(),
        retention in any_retention(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let once = kept(&backups, &retention, zone);
        prop_assert_eq!(&kept(&once, &retention, zone), &once);
    }

    #[test]
    fn what_breaks_drops_nothing_more(
        backups in any_backups(),
        retention in any_retention(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let whole: Vec<BackupFacts> =
            backups.iter().map(|backup| BackupFacts { lacks: None, ..backup.clone() }).collect();
        let (before, after) = (kept(&whole, &retention, zone), kept(&backups, &retention, zone));
        prop_assert!(names(&before).is_subset(&names(&after)));
    }

    #[test]
    fn raising_a_rule_drops_nothing_more(
        backups in any_backups(),
        retention in any_retention(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let before = kept(&backups, &retention, zone);
        for more in raised(&retention) {
            let after = kept(&backups, &more, zone);
            prop_assert!(names(&before).is_subset(&names(&after)), "{more:?}");
        }
    }

    #[test]
    fn adding_a_rule_drops_nothing_more_unless_it_is_the_first_of_its_sort(
        backups in any_backups(),
        retention in any_retention(),
        daily in 0_u32..6,
        age in any_age(),
    ) {
        prop_assume!(limits_successes(&retention));
        let before = kept(&backups, &retention, "UTC");
        let mut more = Retention {
            keep_daily: retention.keep_daily.or(Some(daily)),
            keep_within: retention.keep_within.clone().or(age),
            ..retention
        };
        let after = kept(&backups, &more, "UTC");
        prop_assert!(names(&before).is_subset(&names(&after)));
        // Unset, keepFailed keeps them all, so taking it away drops nothing either.
        more.keep_failed = None;
        prop_assert!(names(&after).is_subset(&names(&kept(&backups, &more, "UTC"))));
    }

    #[test]
    fn without_rules_only_expired_successes_are_dropped(
        backups in any_backups(),
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let kept = kept(&backups, &Retention::default(), zone);
        for backup in backups.iter().filter(|backup| !kept.contains(backup)) {
            prop_assert_eq!(backup.state, BackupState::Succeeded);
            prop_assert!(backup.expires_at.is_some_and(|expires_at| expires_at <= at(NOW)));
        }
    }

    #[test]
    fn each_rule_keeps_as_many_spans_as_it_may(
        backups in any_backups(),
        limit in 0_u32..6,
        zone in proptest::sample::select(ZONES.to_vec()),
    ) {
        let retention = Retention { keep_daily: Some(limit), ..Retention::default() };
        // Names made unique: each record then has its own rules.
        let backups: Vec<BackupFacts> = backups
            .into_iter()
            .enumerate()
            .map(|(index, backup)| BackupFacts { name: index.to_string(), lacks: None, ..backup })
            .collect();
        let verdicts = decide(&backups, &retention, zone, at(NOW)).unwrap();
        let time_zone = TimeZone::get(zone).unwrap();
        for verified in [true, false] {
            let days: BTreeSet<Date> = backups
                .iter()
                .filter(|backup| backup.state == BackupState::Succeeded)
                .filter(|backup| backup.verified == verified)
                .map(|backup| backup.created_at.to_zoned(time_zone.clone()).date())
                .collect();
            let counted = verdicts
                .iter()
                .filter(|verdict| verdict.rules.iter().any(|rule| matches!(rule, Rule::Newest(_))))
                .filter(|verdict| {
                    backups.iter().any(|one| one.name == verdict.name && one.verified == verified)
                })
                .count();
            prop_assert_eq!(counted, days.len().min(limit as usize));
        }
    }
}
