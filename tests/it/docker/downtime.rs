//! The downtime that is told, by status, record and histogram, against what the engine saw.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use super::contained;
use super::engine::{IMAGE, Project, SERVICE, backup, docker, lines};
use super::upgrades::{self, Version};
use crate::scene::{Daemon, Ended, STORE, tool, wait_longer};

/// What the engine tells while it happens: afterwards it remembers only the last few hundred events.
struct Watch {
    told: PathBuf,
    process: Child,
}

impl Watch {
    fn start(project: &Project) -> Self {
        let told = project.scene.path("events");
        let format = "{{.Action}} {{.TimeNano}} {{index .Actor.Attributes \"name\"}}";
        let process = Command::new("docker")
            .args(["events", "--filter", "type=container", "--format", format])
            .stdout(std::fs::File::create(&told).unwrap())
            .spawn()
            .unwrap();
        let watch = Self { told, process };
        let probe = project.of("probe");
        wait_longer("events are told", Duration::from_secs(30), &mut || {
            docker(&["create", "--name", &probe, IMAGE]);
            docker(&["rm", &probe]);
            !watch.text().is_empty()
        });
        watch
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.told).unwrap()
    }

    /// Seconds from the first `kill` to the last of these events of the project's containers.
    fn seen(&self, project: &Project, last: &str) -> f64 {
        let (mut kills, mut backs) = (Vec::new(), Vec::new());
        let all = self.text();
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
        let first = kills.into_iter().reduce(f64::min);
        let last = backs.into_iter().reduce(f64::max);
        last.unwrap_or_else(|| panic!("no end in {all}"))
            - first.unwrap_or_else(|| panic!("no kill in {all}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
#[allow(clippy::print_stderr)] // How the number is seen.
fn agrees(what: &str, told: f64, seen: f64) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let differs = (told - seen).abs();
    // Shown where a test is run for the number.
    eprintln!("{what}: told {told:.3} s, seen {seen:.3} s, differ by {differs:.3} s (load {load})");
    assert!(differs <= 0.2, "{what}: told {told} s, the engine saw {seen} s (load {load})");
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
    let watch = Watch::start(&project);
    project.back_up("night", "").ok();
    let seen = watch.seen(&project, "start");
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
    let watch = Watch::start(&project);
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
    let seen = watch.seen(&project, "start");
    agrees("histogram", sum().unwrap(), seen);
    agrees("status", status_seconds(&project.status("backup", "night")), seen);
    let record = project.scene.record("night");
    agrees("record", record["downtimeSeconds"].as_f64().unwrap(), seen);
    assert_eq!(daemon.stop(), Some(0));
}

/// The archive waits here to be completed until the service has been seen to run; `back_up` takes the place
/// where it waits, and the documents.
fn runs_while_its_archive_is_written(back_up: impl Fn(&Project, &str, &str) -> Ended + Sync) {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    let log = || lines(&project.at("data").join("log"));
    wait_longer("the service has started", Duration::from_secs(20), &mut || {
        project.at("data").join("log").exists()
    });
    let make = "head -c 9000000 /dev/urandom | base64 > \"$0\"/letters";
    tool("sh", &["-c", make, project.at("data").to_str().unwrap()]);
    let target = format!("project: {}", project.name);
    let documents = format!("{STORE}---\n{}", backup("night", &target, ""));
    std::fs::create_dir_all(project.scene.path("store")).unwrap();
    let gate = project.scene.path("store/.gate");
    // While it is written it has another name.
    let is_complete = || project.scene.stored().iter().any(|name| name.starts_with("backup_"));
    std::thread::scope(|scope| {
        let point = format!("archive.read@{}", gate.display());
        let (back_up, project, documents) = (&back_up, &project, &documents);
        let taken = scope.spawn(move || back_up(project, &point, documents));
        wait_longer("the service runs again", Duration::from_secs(50), &mut || {
            log() == ["started", "stopped", "started"]
        });
        assert!(!is_complete(), "the archive was complete before the service ran");
        std::fs::write(&gate, "").unwrap();
        taken.join().unwrap().ok();
    });
    assert!(is_complete());
    assert_eq!(log(), ["started", "stopped", "started"]);
    // What was read before the service ran is what is in the archive.
    project.scene.run(&["backup", "verify", "night"]).ok();
}

#[test]
fn a_service_runs_while_its_archive_is_written() {
    runs_while_its_archive_is_written(|project, point, documents| {
        let file = project.scene.write("run.yaml", project.scene.fill(documents));
        let mut command = project.scene.command(&["run", "-f", file.to_str().unwrap()]);
        command.env("EIDER_FAILPOINT", point).output().unwrap().into()
    });
}

#[test]
fn a_service_runs_while_a_worker_writes_its_archive() {
    runs_while_its_archive_is_written(|project, point, documents| {
        contained::apply(project, &[&format!("EIDER_WORKER_FAILPOINT={point}")], documents)
    });
}

/// That a service is looked at for a while longer, to be sure of it, is no downtime.
#[test]
fn the_downtime_of_a_restore_ends_when_the_service_runs() {
    let Some(project) = Project::new() else { return };
    project.shop();
    docker(&["rm", "--force", &project.of("reporter")]);
    project.back_up("night", "").ok();
    let watch = Watch::start(&project);
    project.scene.restore("back", "{from: {backupRef: {name: night}}}").ok();
    let seen = watch.seen(&project, "start");
    agrees("status", status_seconds(&project.status("restore", "back")), seen);
}

#[test]
fn the_downtime_of_an_upgrade_ends_when_the_new_version_is_healthy() {
    let Some(project) = upgrades::stage() else { return };
    let watch = Watch::start(&project);
    let document = upgrades::document(&project, "up", Version::Good, "");
    project.scene.apply(&format!("{STORE}---\n{document}")).ok();
    let seen = watch.seen(&project, "health_status: healthy");
    agrees("status", status_seconds(&project.status("upgrade", "up")), seen);
}
