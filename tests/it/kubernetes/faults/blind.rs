//! What the operator does not hear, or hears late or twice, and a server that is away for a while.

use std::time::Duration;

use super::Trouble::{Fails, IsTheLast};
use super::{Stage, note, restore, upgrade};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::proxy::{Fault, Gone};
use crate::kubernetes::scene::copy_of;

#[test]
fn events_are_hidden_late_and_repeated_and_watches_break() {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let reference = stage.backup("reference", vec![]);
    let of = "/backups";
    let late = Duration::from_secs(3);
    let seen = stage.proxy.events(of).iter().filter(|event| event.path.ends_with(of)).count();
    note(&format!("an undisturbed Backup has {seen} events"));
    let mut cases: Vec<(String, Vec<Fault>)> = vec![
        // The first one is the object's birth: without it there is nothing to do until the next list.
        ("hidden".to_owned(), vec![Fault::HideWatchEvents { of, events: 2..10_000 }]),
        ("repeated".to_owned(), vec![Fault::RepeatWatchEvents { of }]),
        ("late".to_owned(), vec![Fault::DelayWatchEvents { of, events: 1..5, by: late }]),
    ];
    for event in 2..=seen {
        let hidden = Fault::HideWatchEvents { of, events: event..event + 1 };
        cases.push((format!("hidden-{event}"), vec![hidden]));
    }
    for (name, faults) in cases {
        let counts = stage.backup(&name, faults);
        Fails.bounds(0, &counts, &reference);
        note(&format!("Backup, events {name}: {counts:?}"));
    }
    for (name, how) in [("gone-event", Gone::Event), ("gone-status", Gone::Status)] {
        // A new process has to watch anew.
        if let Some(process) = stage.process.take() {
            process.kill();
        }
        stage.proxy.reset(vec![Fault::GoneWatch { of, watch: 1, how }]);
        stage.process = Some(stage.operator.start());
        let before = stage.scene.archives();
        stage.scene.back_up(name, "db", "  consistency: {mode: Live}\n");
        stage.scene.succeeded("backup", name);
        stage.quiet();
        stage.archived(&before, 1);
        note(&format!("Backup, watch {name}"));
    }
}

#[test]
fn the_server_is_away_for_a_minute_in_the_middle() {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let reference = stage.backup("reference", vec![]);
    let writes = stage.proxy.writes().len();
    for write in [2, writes / 2, writes - 2] {
        let away = Fault::Away(write, Duration::from_mins(1));
        let counts = stage.backup(&format!("away-{write}"), vec![away]);
        IsTheLast.bounds(write, &counts, &reference);
        note(&format!("Backup, away at write {write}: {counts:?}"));
    }
}

/// What may happen to the events about objects of these kinds, and to the server in the middle.
fn blindness(of: [&'static str; 2], writes: usize) -> Vec<(String, Vec<Fault>)> {
    let late = Duration::from_secs(3);
    let mut cases = Vec::new();
    for of in of {
        let kind = of.trim_start_matches('/');
        // Not the first one: an object that nobody hears of is not begun before the next list.
        let hidden = Fault::HideWatchEvents { of, events: 2..10_000 };
        cases.push((format!("{kind}-hidden"), vec![hidden]));
        cases.push((format!("{kind}-repeated"), vec![Fault::RepeatWatchEvents { of }]));
        let late = Fault::DelayWatchEvents { of, events: 1..5, by: late };
        cases.push((format!("{kind}-late"), vec![late]));
    }
    for write in [3, writes / 2, writes - 3] {
        let away = Fault::Away(write, Duration::from_mins(1));
        cases.push((format!("away-{write}"), vec![away]));
    }
    cases
}

#[test]
fn a_restore_sees_no_events_or_late_ones_and_its_server_is_away() {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    stage.backup("base", vec![]);
    let data = copy_of(&stage.data());
    restore(&mut stage, data.path(), "reference", vec![]);
    let writes = stage.proxy.writes().len();
    for (name, faults) in blindness(["/restores", "/backups"], writes) {
        restore(&mut stage, data.path(), &name, faults);
        note(&format!("Restore, {name}"));
    }
}

#[test]
fn an_upgrade_sees_no_events_or_late_ones_and_its_server_is_away() {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let mut number = 0;
    upgrade(&mut stage, &mut number, "reference", vec![]);
    let writes = stage.proxy.writes().len();
    for (name, faults) in blindness(["/upgrades", "/backups"], writes) {
        upgrade(&mut stage, &mut number, &name, faults);
        note(&format!("Upgrade, {name}"));
    }
}
