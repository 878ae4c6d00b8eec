//! Every planner with a failure and with a crash at every action, alone and in pairs.

use super::*;
use crate::plan::{BackupJob, RestoreJob, StoreBinding, UpgradeJob};
use crate::spec::{BackupSpec, BackupStoreSpec, RestoreSpec, UpgradeSpec};

fn store() -> StoreBinding {
    let spec: BackupStoreSpec =
        serde_json::from_value(json!({"local": {"path": "/store"}})).unwrap();
    StoreBinding { name: "main".to_owned(), spec }
}

fn hooks() -> Value {
    json!({"before": [{"exec": {"command": ["true"]}}], "after": [{"exec": {"command": ["true"]}}]})
}

fn backup(target: &Value) -> Job {
    let spec: BackupSpec = serde_json::from_value(
        json!({"target": target, "storeRef": {"name": "main"}, "hooks": hooks()}),
    )
    .unwrap();
    Job::Backup(BackupJob::new("Backup/default/b/1".parse().unwrap(), spec, store()))
}

fn restore(target: &Value) -> Job {
    let spec: RestoreSpec = serde_json::from_value(
        json!({"from": {"backupRef": {"name": "b"}}, "preserve": ["keep/"], "hooks": hooks()}),
    )
    .unwrap();
    Job::Restore(RestoreJob {
        operation: "Restore/default/r/1".parse().unwrap(),
        spec,
        store: store(),
        archive: "a".to_owned(),
        target: serde_json::from_value(target.clone()).unwrap(),
        from_namespace: None,
        claims: Vec::new(),
        root_names: Vec::new(),
    })
}

fn upgrade() -> Job {
    let spec: UpgradeSpec = serde_json::from_value(json!({
        "target": {"docker": {"project": "shop"}}, "toVersion": "2", "images": {"web": "web:2"},
        "backup": {"storeRef": {"name": "main"}}, "hooks": hooks()
    }))
    .unwrap();
    Job::Upgrade(UpgradeJob {
        operation: "Upgrade/default/u/1".parse().unwrap(),
        spec,
        store: Some(store()),
    })
}

fn host() -> Value {
    json!({"host": {"paths": ["/srv/a"]}})
}

fn docker() -> Value {
    json!({"docker": {"project": "shop"}})
}

/// What has to hold at the end of any run, whatever went wrong once.
fn judge(job: &Job, trace: &Trace, story: &str) {
    let world = &trace.world;
    assert_eq!(world.violations, Vec::<String>::new(), "{story}: {:?}", trace.actions);
    assert!(world.running, "{story}: the service is down after {:?}", trace.actions);
    assert!(!world.hooks_open, "{story}: hooks after did not run: {:?}", trace.actions);
    let success = trace.conclusion.is_success();
    match job {
        Job::Backup(_) => {
            let expected = if success { ArchivePresence::Sealed } else { ArchivePresence::Absent };
            assert_eq!(world.archive, expected, "{story}: {:?}", trace.actions);
        }
        Job::Restore(_) => {
            let expected = if success { ReplacementState::New } else { ReplacementState::Old };
            assert_eq!(world.live, expected, "{story}: {:?}", trace.actions);
            assert!(success || !world.staged, "{story}: staging left: {:?}", trace.actions);
        }
        Job::Upgrade(_) => {
            assert_eq!(world.new_exists, success, "{story}: {:?}", trace.actions);
            assert!(!world.old_aside, "{story}: {:?}", trace.actions);
            assert!(success || !world.data_touched, "{story}: {:?}", trace.actions);
        }
    }
}

const FAULTS: [Fault; 3] = [Fault::Fails, Fault::CrashesAfter, Fault::CrashesBefore];

fn jobs() -> Vec<(&'static str, Job)> {
    vec![
        ("backup of a host", backup(&host())),
        ("backup of a project", backup(&docker())),
        ("restore to a host", restore(&host())),
        ("restore to a project", restore(&docker())),
        ("upgrade", upgrade()),
    ]
}

#[test]
fn undisturbed_runs_succeed_in_the_written_order() {
    let mut orders = String::new();
    for (name, job) in jobs() {
        let trace = simulate(&job, World::default(), &[]).unwrap();
        assert!(trace.conclusion.is_success(), "{name}: {:?}", trace.conclusion);
        judge(&job, &trace, name);
        orders.push_str(&format!("{name}: {}\n", trace.actions.join(" → ")));
    }
    insta::assert_snapshot!(orders);
}

/// As runtimes are: some say when all has been read, some say it with the archive.
fn worlds() -> [World; 2] {
    [false, true].map(|reads_early| World { reads_early, ..World::default() })
}

#[test]
fn a_service_runs_again_while_its_archive_is_completed() {
    let world = World { reads_early: true, ..World::default() };
    let trace = simulate(&backup(&docker()), world.clone(), &[]).unwrap();
    assert!(trace.conclusion.is_success(), "{:?}", trace.conclusion);
    let lines: Vec<(String, Mark)> =
        trace.journal.iter().map(|entry| (entry.step.clone(), entry.mark)).collect();
    let at = |step: &str, mark| lines.iter().position(|line| *line == (step.to_owned(), mark));
    assert!(at("archive", Mark::Intent) < at("resume", Mark::Intent), "{lines:?}");
    assert!(at("hooks-after", Mark::Done) < at("archive", Mark::Done), "{lines:?}");
    assert!(at("archive", Mark::Done) < at("seal", Mark::Intent), "{lines:?}");
    // One that fails only when it is written has its service running, and is not started twice.
    let archive = trace.actions.iter().position(|step| step == "archive").unwrap();
    let failed = simulate(&backup(&docker()), world, &[(archive, Fault::Fails)]).unwrap();
    assert!(!failed.conclusion.is_success());
    let resumed = failed.actions.iter().filter(|step| *step == "resume").count();
    assert_eq!(resumed, 1, "{:?}", failed.actions);
}

#[test]
fn any_single_fault_at_any_action_is_finished_or_undone() {
    let mut runs = 0;
    for (name, job) in jobs() {
        for fault in FAULTS {
            for at in 0.. {
                let mut longest = 0;
                for world in worlds() {
                    let story = format!("{name}, {fault:?} at {at}, {}", world.reads_early);
                    let trace = simulate(&job, world, &[(at, fault)]).unwrap();
                    judge(&job, &trace, &story);
                    runs += 1;
                    longest = longest.max(trace.actions.len());
                }
                if at >= longest {
                    break;
                }
            }
        }
    }
    assert!(runs > 200, "{runs}");
}

#[test]
fn any_crash_followed_by_any_crash_is_finished_or_undone() {
    let crashes = [Fault::CrashesAfter, Fault::CrashesBefore];
    for (name, job) in jobs() {
        for first in 0..30 {
            for second in first + 1..30 {
                for one in crashes {
                    for two in crashes {
                        let faults = [(first, one), (second, two)];
                        for world in worlds() {
                            let story = format!("{name}, {faults:?}, {}", world.reads_early);
                            let trace = simulate(&job, world, &faults).unwrap();
                            judge(&job, &trace, &story);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn an_upgrade_that_does_not_become_healthy_rolls_back_with_its_data() {
    let world = World { becomes_healthy: false, ..World::default() };
    let trace = simulate(&upgrade(), world, &[]).unwrap();
    assert_eq!(
        trace.conclusion.failure.as_ref().map(|failure| failure.reason),
        Some(Reason::RolledBack)
    );
    assert!(trace.conclusion.message.contains("not healthy"), "{}", trace.conclusion.message);
    assert!(trace.actions.iter().any(|step| step == "rollback-data"));
    judge(&upgrade(), &trace, "unhealthy");
}

#[test]
fn an_upgrade_that_never_started_leaves_the_data_alone() {
    let undisturbed = simulate(&upgrade(), World::default(), &[]).unwrap();
    let apply = undisturbed.actions.iter().position(|step| step == "apply").unwrap();
    let trace = simulate(&upgrade(), World::default(), &[(apply, Fault::Fails)]).unwrap();
    assert!(!trace.actions.iter().any(|step| step == "rollback-data"), "{:?}", trace.actions);
    assert_eq!(trace.conclusion.failure.map(|failure| failure.reason), Some(Reason::RolledBack));
}

#[test]
fn a_version_that_never_ran_keeps_no_service_down_whatever_the_rollback_mode() {
    let undisturbed = simulate(&upgrade(), World::default(), &[]).unwrap();
    let begun = undisturbed.actions.iter().position(|step| step == "start").unwrap();
    for mode in ["Manual", "Never"] {
        let Job::Upgrade(mut job) = upgrade() else { unreachable!() };
        job.spec.rollback.mode = serde_json::from_value(json!(mode)).unwrap();
        let job = Job::Upgrade(job);
        for at in 0..begun {
            let trace = simulate(&job, World::default(), &[(at, Fault::Fails)]).unwrap();
            judge(&job, &trace, &format!("{mode}, fails at {at}"));
        }
    }
}

#[test]
fn a_service_that_needs_several_tries_to_start_is_tried_again() {
    let job = backup(&docker());
    let undisturbed = simulate(&job, World::default(), &[]).unwrap();
    let resume = undisturbed.actions.iter().position(|step| step == "resume").unwrap();
    let faults: Vec<_> = (resume..resume + 3).map(|at| (at, Fault::Fails)).collect();
    let trace = simulate(&job, World::default(), &faults).unwrap();
    assert!(trace.conclusion.is_success(), "{:?}", trace.conclusion);
    assert!(trace.world.running);
}

#[test]
fn a_service_that_never_starts_is_said_first() {
    let job = backup(&docker());
    let undisturbed = simulate(&job, World::default(), &[]).unwrap();
    let resume = undisturbed.actions.iter().position(|step| step == "resume").unwrap();
    let faults: Vec<_> = (resume..resume + 6).map(|at| (at, Fault::Fails)).collect();
    let trace = simulate(&job, World::default(), &faults).unwrap();
    assert!(!trace.conclusion.is_success());
    assert_eq!(trace.world.archive, ArchivePresence::Absent);
}

/// The old tree was put back under a service that could not be held still for it.
#[test]
fn a_tree_is_not_taken_from_under_a_service_that_runs() {
    // What fails after the service runs: its health, or on a plain host its last hook.
    for (job, fails, holds) in [
        (restore(&docker()), "health", "undo-quiesce"),
        (restore(&host()), "hooks-after", "undo-hooks-before"),
    ] {
        let undisturbed = simulate(&job, World::default(), &[]).unwrap();
        let Some(fails) = undisturbed.actions.iter().position(|step| step == fails) else {
            panic!("{:?}", undisturbed.actions)
        };
        let undone = simulate(&job, World::default(), &[(fails, Fault::Fails)]).unwrap();
        judge(&job, &undone, "undone");
        let first = undone.actions.iter().position(|step| step == holds).unwrap();
        let faults: Vec<_> =
            [fails].into_iter().chain(first..first + 3).map(|at| (at, Fault::Fails)).collect();
        let world = World::default;
        let trace = simulate(&job, world(), &faults).unwrap();
        assert!(!trace.conclusion.is_success());
        assert_eq!(trace.world.live, ReplacementState::New, "{:?}", trace.actions);
        assert!(trace.world.running && trace.world.staged, "{:?}", trace.actions);
        // Held at the third try, it is put back.
        let trace = simulate(&job, world(), &faults[..3]).unwrap();
        judge(&job, &trace, "held at last");
    }
}

/// A service that somebody started before anything was changed is not stopped for the way back.
#[test]
fn an_upgrade_that_finds_its_service_running_changes_nothing() {
    let job = upgrade();
    let entry = |step: &str, mark, detail| JournalEntry {
        operation: job.operation().clone(),
        step: step.to_owned(),
        mark,
        at: Timestamp::UNIX_EPOCH,
        session: "one".to_owned(),
        detail,
    };
    for (reason, next) in
        [(Reason::ReplicasChanged, "resume"), (Reason::ClusterUnavailable, "rollback-remove-new")]
    {
        let failure = Failure::new(reason, "scaled");
        let journal = [
            entry("quiesce", Mark::Intent, Value::Null),
            entry("quiesce", Mark::Done, Value::Null),
            entry("keep-old", Mark::Intent, Value::Null),
            entry("keep-old", Mark::Failed, json!(failure)),
        ];
        let steps = ["preflight", "fetch", "hooks-before", "backup"];
        let done =
            steps.map(|step| entry(step, Mark::Done, json!({"name": "b", "verified": true})));
        let journal = [&done[..], &journal[..]].concat();
        let log = Log::new(&journal);
        let decision = plan::next(&job, &log, &Observed::default(), Timestamp::UNIX_EPOCH);
        let Decision::Perform { step, back: true, .. } = decision else { panic!("{decision:?}") };
        assert_eq!(step, next, "{reason}");
    }
}

#[test]
fn where_interrupted_steps_are_picked_up_crashes_change_nothing_about_the_end() {
    let world = || World { resumable: true, ..World::default() };
    for (name, job) in jobs() {
        let undisturbed = simulate(&job, world(), &[]).unwrap();
        let last = undisturbed.actions.len();
        for first in 0..last {
            for second in first + 1..=last + 1 {
                for fault in [Fault::CrashesAfter, Fault::CrashesBefore] {
                    let faults = [(first, fault), (second, fault)];
                    let story = format!("{name}, {faults:?}");
                    let trace = simulate(&job, world(), &faults).unwrap();
                    assert!(trace.conclusion.is_success(), "{story}: {:?}", trace.conclusion);
                    assert_eq!(trace.world, undisturbed.world, "{story}: {:?}", trace.actions);
                }
            }
        }
    }
}
