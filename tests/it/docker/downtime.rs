//! The downtime that is told, by status, record and histogram, against what the engine saw.

use std::time::Duration;

use serde_json::Value;

use super::engine::{Project, SERVICE, backup, docker};
use super::upgrades::{self, Version};
use crate::scene::{Daemon, STORE, wait_longer};

/// The engine's clock.
fn now() -> String {
    docker(&["info", "--format", "{{.SystemTime}}"]).trim().to_owned()
}

/// Seconds from the first `kill` to the last of these events of the project's containers.
fn seen(project: &Project, begin: &str, last: &str) -> f64 {
    let format = "{{.Action}} {{.TimeNano}} {{index .Actor.Attributes \"name\"}}";
    let end = now();
    let all = docker(&["events", "--since", begin, "--until", &end, "--format", format]);
    let mut kills = Vec::new();
    let mut backs = Vec::new();
    for line in all.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [action @ .., time, name] = &words[..] else { continue };
        if !name.starts_with(&project.name) {
            continue;
        }
        let (action, at) = (action.join(" "), time.parse::<f64>().unwrap() / 1e9);
        if action == "kill" {
            kills.push(at);
        }
        if action == last {
            backs.push(at);
        }
    }
    let first = kills.into_iter().reduce(f64::min).unwrap_or_else(|| panic!("no kill in {all}"));
    let last = backs.into_iter().reduce(f64::max).unwrap_or_else(|| panic!("no end in {all}"));
    last - first
}

#[track_caller]
fn agrees(what: &str, told: f64, seen: f64) {
    assert!((told - seen).abs() <= 0.2, "{what}: told {told} s, the engine saw {seen} s");
}

fn status_seconds(status: &Value) -> f64 {
    let text = status["downtime"].as_str().unwrap_or_else(|| panic!("{status:#}"));
    text.trim_end_matches('s').parse().unwrap()
}

#[test]
fn the_downtime_is_what_the_engine_saw() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    project.scene.write("live/x", "");
    let begin = now();
    project.back_up("night", "").ok();
    let seen = seen(&project, &begin, "start");
    let record = project.scene.record("night");
    let told = record["downtimeSeconds"].as_f64().unwrap_or_else(|| panic!("{record:#}"));
    agrees("record", told, seen);
}

/// Of several containers it is the time in which any of them was away.
#[test]
fn the_downtime_of_a_project_is_the_same_in_record_status_and_histogram() {
    let Some(project) = Project::new() else { return };
    project.shop();
    docker(&["rm", "--force", &project.of("reporter")]);
    let target = format!("project: {}", project.name);
    let document = format!("{STORE}---\n{}", backup("night", &target, ""));
    let begin = now();
    project.scene.write("specs/night.yaml", project.scene.fill(&document));
    let daemon = Daemon::start(&project.scene, "specs");
    let sum = || {
        let metrics = daemon.get("/metrics").unwrap().1;
        let name = "eider_service_downtime_seconds_sum{operation=\"backup\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok())
    };
    wait_longer("the backup has been taken", Duration::from_mins(1), &mut || {
        sum().is_some_and(|sum| sum > 0.0)
            && project.status("backup", "night")["phase"] == "Succeeded"
    });
    let seen = seen(&project, &begin, "start");
    agrees("histogram", sum().unwrap(), seen);
    agrees("status", status_seconds(&project.status("backup", "night")), seen);
    let record = project.scene.record("night");
    agrees("record", record["downtimeSeconds"].as_f64().unwrap(), seen);
    assert_eq!(daemon.stop(), Some(0));
}

/// That a service is looked at for a while longer, to be sure of it, is no downtime.
#[test]
fn the_downtime_of_a_restore_ends_when_the_service_runs() {
    let Some(project) = Project::new() else { return };
    project.shop();
    docker(&["rm", "--force", &project.of("reporter")]);
    project.back_up("night", "").ok();
    let begin = now();
    project.scene.restore("back", "{from: {backupRef: {name: night}}}").ok();
    let seen = seen(&project, &begin, "start");
    agrees("status", status_seconds(&project.status("restore", "back")), seen);
}

#[test]
fn the_downtime_of_an_upgrade_ends_when_the_new_version_is_healthy() {
    let Some(project) = upgrades::stage() else { return };
    let begin = now();
    let document = upgrades::document(&project, "up", Version::Good, "");
    project.scene.apply(&format!("{STORE}---\n{document}")).ok();
    let seen = seen(&project, &begin, "health_status: healthy");
    agrees("status", status_seconds(&project.status("upgrade", "up")), seen);
}
