use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn input(schedule: &str) -> ScheduleInput {
    ScheduleInput {
        name: "nightly".to_owned(),
        cron: Cron::parse(schedule, "UTC").unwrap(),
        jitter: SignedDuration::ZERO,
        suspend: false,
        concurrency_policy: ConcurrencyPolicy::Forbid,
        starting_deadline: SignedDuration::from_hours(1),
        overdue_after: None,
        created_at: at("2026-11-01T12:00:00Z"),
        last_run_at: None,
        decided_until: None,
        last_success_at: None,
        running: vec![],
    }
}

#[test]
fn a_due_run_starts_once_and_waits_for_its_jitter() {
    let mut facts = ScheduleInput { jitter: SignedDuration::from_mins(10), ..input("0 2 * * *") };
    let early = decide(&facts, at("2026-11-02T02:09:59Z"));
    assert_eq!(early.start, None);
    assert_eq!(early.next_run_at, Some(at("2026-11-02T02:10:00Z")));
    assert_eq!(early.requeue_after, SignedDuration::from_secs(1));
    let due = decide(&facts, at("2026-11-02T02:10:00Z"));
    let run = due.start.unwrap();
    assert_eq!(run.name, "nightly-20261102020000");
    assert_eq!((due.missed, due.next_run_at), (0, Some(at("2026-11-03T02:10:00Z"))));
    facts.last_run_at = Some(run.scheduled_for);
    assert_eq!(decide(&facts, at("2026-11-02T02:10:01Z")).start, None);
    // The clock goes back: the same time is not started again.
    for now in ["2026-11-02T01:00:00Z", "2026-10-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
        assert_eq!(decide(&facts, at(now)).start, None);
    }
}

#[test]
fn downtime_is_caught_up_by_one_run_within_the_deadline() {
    let mut facts = input("0 * * * *");
    facts.last_run_at = Some(at("2026-11-02T00:00:00Z"));
    let late = decide(&facts, at("2026-11-02T05:30:00Z"));
    assert_eq!(late.start.unwrap().scheduled_for, at("2026-11-02T05:00:00Z"));
    assert_eq!((late.missed, late.skip.len()), (4, 4));
    facts.starting_deadline = SignedDuration::from_mins(29);
    let too_late = decide(&facts, at("2026-11-02T05:30:00Z"));
    assert_eq!((too_late.start.clone(), too_late.missed), (None, 5));
    assert_eq!(too_late.skip[0].reason, Reason::StartingDeadlineExceeded);
    facts.decided_until = too_late.decided_until;
    assert_eq!(decide(&facts, at("2026-11-02T05:31:00Z")).missed, 0);
}

#[test]
fn ten_years_off_cost_a_bounded_count() {
    let decision = decide(&input("* * * * *"), at("2036-11-01T12:00:30Z"));
    assert_eq!(decision.start.unwrap().scheduled_for, at("2036-11-01T12:00:00Z"));
    assert_eq!((decision.missed, decision.skip.len()), (MISSED_LIMIT, NAMED_SKIPS));
}

#[test]
fn a_running_one_is_treated_as_the_policy_says() {
    let mut facts = ScheduleInput { running: vec!["old".to_owned()], ..input("0 2 * * *") };
    let now = at("2026-11-02T02:00:00Z");
    let forbidden = decide(&facts, now);
    assert_eq!((forbidden.start, forbidden.missed), (None, 1));
    assert_eq!(forbidden.skip[0].reason, Reason::ConcurrencyForbidden);
    facts.concurrency_policy = ConcurrencyPolicy::Replace;
    let replaced = decide(&facts, now);
    assert!(replaced.start.is_some());
    assert_eq!(replaced.cancel, ["old"]);
    facts.concurrency_policy = ConcurrencyPolicy::Allow;
    let allowed = decide(&facts, now);
    assert!(allowed.start.is_some() && allowed.cancel.is_empty());
}

#[test]
fn a_suspended_schedule_neither_runs_nor_is_overdue() {
    let mut facts = ScheduleInput { suspend: true, ..input("0 2 * * *") };
    let decision = decide(&facts, at("2026-11-20T02:00:00Z"));
    assert_eq!((decision.start.clone(), decision.missed, decision.overdue_since), (None, 0, None));
    assert_eq!(decision.skip[0].reason, Reason::Suspended);
    assert_eq!(decision.next_run_at, None);
    facts.suspend = false;
    facts.decided_until = decision.decided_until;
    assert_eq!(decide(&facts, at("2026-11-20T02:10:00Z")).start, None);
}

#[test]
fn overdue_counts_from_the_last_success_or_creation() {
    let mut facts = input("0 2 * * *");
    let overdue = |facts: &ScheduleInput, now| decide(facts, at(now)).overdue_since;
    assert_eq!(overdue(&facts, "2026-11-03T11:59:59Z"), None);
    assert_eq!(overdue(&facts, "2026-11-03T12:00:00Z"), Some(at("2026-11-03T12:00:00Z")));
    facts.last_run_at = Some(at("2026-11-09T02:00:00Z"));
    assert!(overdue(&facts, "2026-11-09T03:00:00Z").is_some(), "a started run is no success");
    facts.last_success_at = Some(at("2026-11-09T02:05:00Z"));
    assert_eq!(overdue(&facts, "2026-11-09T03:00:00Z"), None);
    facts.overdue_after = Some(SignedDuration::from_hours(26));
    assert_eq!(overdue(&facts, "2026-11-11T00:00:00Z"), Some(at("2026-11-10T04:05:00Z")));
    facts.last_success_at = Some(at("2099-01-01T00:00:00Z"));
    assert!(overdue(&facts, "2026-11-11T00:00:00Z").is_some(), "dated by a wrong clock");
}

#[test]
fn the_interval_is_the_largest_gap_around_now() {
    let hours = |schedule| {
        let cron = Cron::parse(schedule, "UTC").unwrap();
        interval(&cron, at("2026-11-18T12:00:00Z")).unwrap().as_hours()
    };
    assert_eq!(hours("0 2 * * *"), 24);
    assert_eq!(hours("0 2 * * 1-5"), 72);
    assert_eq!(hours("0 9-17 * * 1-5"), 64);
    assert_eq!(hours("0 0 1 * *"), 30 * 24);
    assert_eq!(hours("* * * * *"), 0);
}

#[test]
fn names_are_stable_and_fit() {
    let now = at("2026-11-02T02:00:00Z");
    let one = run_name(&"a".repeat(253), now);
    let other = run_name(&format!("{}b", "a".repeat(252)), now);
    assert!(one.len() <= NAME_LIMIT && one.ends_with("-20261102020000") && one != other);
}

proptest! {
    #[test]
    fn jitter_is_stable_and_below_its_limit(name in ".*", seconds in 0_i64..10_000_000) {
        let limit = SignedDuration::from_secs(seconds);
        let part = jitter("shop", &name, limit);
        prop_assert_eq!(part, jitter("shop", &name, limit));
        prop_assert!(!part.is_negative() && (part < limit || limit.is_zero()));
    }

    #[test]
    fn no_time_starts_twice_whatever_the_clock_does(
        steps in prop::collection::vec(-90_000_i64..90_000, 1..40),
    ) {
        let mut facts = input("*/30 * * * *");
        let mut now = facts.created_at;
        let mut started = std::collections::BTreeSet::new();
        for step in steps {
            now += SignedDuration::from_secs(step);
            let decision = decide(&facts, now);
            prop_assert!(decision.requeue_after.is_positive());
            if let Some(run) = decision.start {
                prop_assert!(run.scheduled_for <= now);
                prop_assert!(started.insert(run.scheduled_for));
                facts.last_run_at = Some(run.scheduled_for);
            }
            facts.decided_until = decision.decided_until;
        }
    }
}
