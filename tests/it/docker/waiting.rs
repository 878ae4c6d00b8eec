//! Nobody stays down because another one is ill, or slow to stop.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::engine::{DEAF, Project, SERVICE, backup, text};
use crate::scene::{STORE, wait_longer};

/// A service that leaves no trace in its data.
const QUIET: &str = "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done";

/// Since when a container runs, by the engine's word.
fn started(project: &Project, name: &str) -> String {
    text(&project.inspected()[name]["State"]["StartedAt"])
}

fn health(found: &Value) -> String {
    text(&found["State"]["Health"]["Status"])
}

/// Begins a Backup that dies at this point. Returns its document.
fn interrupted(project: &Project, point: &str) -> &'static str {
    const DOCUMENT: &str = "night.yaml";
    let target = format!("project: {}", project.name);
    let text = project.scene.fill(&format!("{STORE}---\n{}", backup("night", &target, "")));
    project.scene.write(DOCUMENT, text);
    let mut dying = project.scene.command(&["run", "-f", DOCUMENT]);
    let dead = dying.env("EIDER_FAILPOINT", point).output().unwrap();
    assert_eq!(dead.status.signal(), Some(9));
    DOCUMENT
}

/// A database whose check never answers, and what waits for its health once Compose starts them.
fn stage() -> Option<Project> {
    let project = Project::new()?;
    let data = format!("{}:/data", project.volume("data"));
    let check = ["--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1000"];
    let depends = "com.docker.compose.depends_on=db:service_healthy:false";
    project.start("db", &[&["-v", &data], &check[..]].concat(), SERVICE);
    project.start("web", &["--label", depends], QUIET);
    wait_longer("the check has begun", Duration::from_secs(20), &mut || {
        health(&project.inspected()["db"]) == "starting"
    });
    Some(project)
}

/// Who waited for it was down for half an hour after a plain Backup.
#[test]
fn who_needs_one_that_was_not_healthy_before_runs_again_at_once() {
    let Some(project) = stage() else { return };
    let before = started(&project, "web");
    let begun = Instant::now();
    project.back_up("night", "").ok();
    assert!(begun.elapsed() < Duration::from_mins(1), "it took {:?}", begun.elapsed());
    assert_eq!(project.states()["web"], "running");
    assert_ne!(started(&project, "web"), before, "it was to be stopped");
}

/// One whose health is waited for does not hold up those that do not need it; and when another process has died,
/// nobody waits for long.
#[test]
fn who_needs_nobody_runs_at_once_and_nobody_waits_for_long_after_a_death() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    // Healthy once, and never again.
    let command = "test $(cat /data/starts | wc -l) -lt 2";
    let check = ["--health-cmd", command, "--health-interval", "1s", "--health-retries", "1000"];
    let depends = "com.docker.compose.depends_on=db:service_healthy:false";
    let db = format!("echo start >> /data/starts; {SERVICE}");
    project.start("db", &[&["-v", &data], &check[..]].concat(), &db);
    project.start("web", &["--label", depends, "-v", &data], QUIET);
    // By name it would be started last.
    project.start("alone", &["-v", &data], QUIET);
    wait_longer("it is healthy", Duration::from_secs(20), &mut || {
        health(&project.inspected()["db"]) == "healthy"
    });
    let document = interrupted(&project, "archive.read");
    let begun = Instant::now();
    let mut again = project.scene.command(&["run", "-f", document]).spawn().unwrap();
    let runs = |name: &str| {
        wait_longer("it runs", Duration::from_mins(3), &mut || project.states()[name] == "running");
        begun.elapsed()
    };
    let (alone, web) = (runs("alone"), runs("web"));
    again.wait().unwrap();
    assert!(alone < Duration::from_secs(15), "who needs nobody was down for {alone:?}");
    assert!(web > alone && web < Duration::from_secs(45), "who needs it was down for {web:?}");
}

/// Everybody was down for the whole time to stop of one that nobody had told to.
#[test]
fn nobody_waits_for_the_end_of_one_that_was_never_told_to_stop() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    let depends = "com.docker.compose.depends_on=db:service_started:false";
    project.start("db", &["-v", &data, "--stop-timeout", "60"], DEAF);
    project.start("web", &["--label", depends, "-v", &data], QUIET);
    let document = interrupted(&project, "docker.next-stop:2");
    assert_eq!(project.states()["web"], "exited");
    let begun = Instant::now();
    project.scene.run(&["run", "-f", document]).code(1);
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
    project.scene.run(&["backup", "verify", "--all"]).ok();
}

/// Seven of them took seven times ten seconds, and a Backup gives them sixty.
#[test]
fn services_that_do_not_listen_are_stopped_at_the_same_time() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    for number in 1..=4 {
        let name = format!("deaf{number}");
        project.start(&name, &["-v", &data, "--stop-timeout", "6"], DEAF);
    }
    let ended = project.back_up("night", "consistency: {timeout: 15s}").ok();
    assert!(!ended.stderr.contains("may take"), "{ended:#?}");
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
}
