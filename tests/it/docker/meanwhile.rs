//! Who ends, comes or goes while an operation holds containers still: nobody is left down, and nobody writes
//! unnoticed.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::engine::{DEAF, IMAGE, Project, SERVICE, backup, docker, lines};
use super::upgrades::{self, Version};
use crate::scene::{Daemon, Ended, STORE, shell, tool, wait_longer};

/// Longer than the deaf one of [`stage`] takes until its engine kills it.
const KILLED_BY_THEN: Duration = Duration::from_secs(10);

/// A container that is frozen already, and one that takes eight seconds to stop.
fn stage() -> Option<Project> {
    let project = Project::new()?;
    let data = format!("{}:/data", project.volume("data"));
    project.start("a", &["-v", &data], SERVICE);
    project.start("b", &["-v", &data, "--stop-timeout", "8"], DEAF);
    let ready = project.at("data").join("log");
    wait_longer("they run", Duration::from_secs(20), &mut || ready.exists());
    docker(&["pause", &project.of("a")]);
    Some(project)
}

#[track_caller]
fn nobody_is_left_down(project: &Project) {
    let expected = [("a", "paused"), ("b", "running")];
    let begun = Instant::now();
    while begun.elapsed() < KILLED_BY_THEN {
        let states = project.states();
        for (name, state) in expected {
            assert_eq!(states[name], state, "after {} s", begun.elapsed().as_secs());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Begins a Backup of the project.
fn begin(project: &Project, more: &str) -> Child {
    let target = format!("project: {}", project.name);
    let text = format!("{STORE}---\n{}", backup("night", &target, more));
    project.scene.write("documents.yaml", project.scene.fill(&text));
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(running: Child) -> Ended {
    running.wait_with_output().unwrap().into()
}

#[test]
fn one_that_was_paused_does_not_hide_one_that_is_about_to_end() {
    let Some(project) = stage() else { return };
    project.back_up("night", "consistency: {timeout: 2s}").code(1).says("did not stop within 2 s");
    nobody_is_left_down(&project);
}

#[test]
fn one_that_was_about_to_end_when_eider_died_is_started_by_the_next() {
    let Some(project) = stage() else { return };
    let mut running = begin(&project, "");
    std::thread::sleep(Duration::from_secs(3));
    running.kill().unwrap();
    running.wait().unwrap();
    let listed = project.scene.run(&["backup", "list"]).ok();
    let listed = listed.says("Backup default/night was interrupted and holds");
    listed.says(&project.of("b"));
    project.scene.apply(STORE).ok();
    nobody_is_left_down(&project);
}

#[test]
fn one_that_may_take_for_ever_to_stop_is_started_when_it_has() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    let script = "trap 'sleep 20; exit 0' TERM; echo > /data/log; while :; do sleep 0.1; done";
    project.start("slow", &["-v", &data, "--stop-timeout", "-1"], script);
    let ready = project.at("data").join("log");
    wait_longer("it runs", Duration::from_secs(20), &mut || ready.exists());
    let before = project.inspected()["slow"]["State"]["StartedAt"].clone();
    project.back_up("night", "consistency: {timeout: 2s}").code(1).says("did not stop within 2 s");
    let after = project.inspected()["slow"]["State"].clone();
    assert_eq!(after["Status"], "running");
    assert_ne!(after["StartedAt"], before, "it was told to stop and has done so");
}

#[test]
fn a_restarting_container_does_not_keep_others_from_being_paused() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    project.start("db", &["-v", &data], SERVICE);
    project.start("ill", &["-v", &data, "--restart", "always"], "exit 1");
    wait_longer("it is ill", Duration::from_mins(1), &mut || {
        let found = project.inspected();
        // By then it is away for some seconds at a time.
        found["ill"]["RestartCount"].as_u64() > Some(6) && project.states()["ill"] == "restarting"
    });
    project.back_up("night", "consistency: {mode: Pause}").ok();
    let states = project.states();
    assert_eq!(states["db"], "running");
    assert_ne!(states["ill"], "paused");
    assert_ne!(project.inspected()["ill"]["State"]["Paused"], true);
}

/// A Backup that reads for some seconds, and what is done in the middle of it.
fn disturbed(act: impl Fn(&Project)) -> Option<(Project, Ended)> {
    let project = Project::new()?;
    let data = project.volume("data");
    project.start("web", &["-v", &format!("{data}:/data")], SERVICE);
    let noise = "of=noise bs=1M count=12 if=/dev/urandom status=none";
    let directory = project.at("data").to_string_lossy().into_owned();
    tool("sh", &["-c", &format!("cd {directory} && dd {noise}")]);
    let running = begin(&project, "archive: {format: tar, ioLimit: 2Mi}");
    wait_longer("web is stopped", Duration::from_secs(30), &mut || {
        project.states()["web"] == "exited"
    });
    std::thread::sleep(Duration::from_secs(1));
    act(&project);
    let ended = end(running);
    assert_eq!(project.states()["web"], "running");
    Some((project, ended))
}

#[test]
fn who_was_started_and_stopped_again_in_the_middle_is_not_overlooked() {
    let started = |project: &Project| {
        docker(&["start", &project.of("web")]);
        docker(&["stop", &project.of("web")]);
    };
    let Some((project, ended)) = disturbed(started) else { return };
    ended.code(1).says(&format!("{} ran while it was to stand still", project.of("web")));
}

#[test]
fn who_came_and_went_in_the_middle_is_not_overlooked() {
    let ran = |mode: &'static str| {
        move |project: &Project| {
            let mount = format!("{}:/data{mode}", project.of("data"));
            let name = project.of("once");
            docker(&["run", "--rm", "--name", &name, "-v", &mount, IMAGE, "true"]);
        }
    };
    let Some((project, ended)) = disturbed(ran("")) else { return };
    ended.code(1).says(&format!("{} ran while it was to stand still", project.of("once")));
    // Who cannot write has changed nothing.
    let Some((_, ended)) = disturbed(ran(":ro")) else { return };
    ended.ok();
}

#[test]
fn who_came_and_went_by_another_volume_of_the_same_directory_is_not_overlooked() {
    let ran = |project: &Project| {
        let twin = project.of("twin");
        let device = format!("device={}", project.at("data").display());
        let bind = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
        docker(&[&["volume", "create"][..], &bind, &[&twin]].concat());
        let (name, mount) = (project.of("once"), format!("{twin}:/data"));
        docker(&["run", "--rm", "--name", &name, "-v", &mount, IMAGE, "true"]);
    };
    let Some((project, ended)) = disturbed(ran) else { return };
    ended.code(1).says(&format!("{} ran while it was to stand still", project.of("once")));
}

#[test]
fn what_was_copied_into_a_stopped_container_in_the_middle_is_not_overlooked() {
    let copied = |project: &Project| {
        let file = project.scene.write("copied", "x");
        let place = format!("{}:/data/copied", project.of("web"));
        docker(&["cp", file.to_str().unwrap(), &place]);
    };
    let Some((project, ended)) = disturbed(copied) else { return };
    ended.code(1).says(&format!("files were copied into {} while", project.of("web")));
    // Out of it changes nothing.
    let taken = |project: &Project| {
        let place = format!("{}:/data/log", project.of("web"));
        docker(&["cp", &place, project.scene.path("taken").to_str().unwrap()]);
    };
    let Some((_, ended)) = disturbed(taken) else { return };
    ended.ok();
}

#[test]
fn a_lost_terminal_leaves_nobody_down() {
    let Some(project) = stage() else { return };
    let running = begin(&project, "archive: {format: tar}");
    std::thread::sleep(Duration::from_secs(2));
    tool("kill", &["-HUP", &running.id().to_string()]);
    let ended = end(running);
    ended.code(130).says("stopping; everything is put back first");
    nobody_is_left_down(&project);
}

/// Between its backup and its change an Upgrade does nothing that anybody would hear of.
#[test]
fn who_ran_between_the_backup_and_the_change_of_an_upgrade_is_not_overlooked() {
    let Some(project) = upgrades::stage() else { return };
    let text = upgrades::document(&project, "up", Version::Good, "");
    let text = project.scene.fill(&format!("{STORE}---\n{text}"));
    project.scene.write("documents.yaml", text);
    let gate = project.scene.path("gate");
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    command.env("EIDER_FAILPOINT", format!("upgrade.keep-old.announced@{}", gate.display()));
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_longer("the backup is complete", Duration::from_mins(1), &mut || {
        project.scene.stored().iter().any(|name| name.ends_with("manifest.json"))
    });
    // It is read back, too.
    std::thread::sleep(Duration::from_secs(1));
    docker(&["start", &project.of("db")]);
    docker(&["stop", &project.of("db")]);
    std::fs::write(&gate, "").unwrap();
    end(running).code(1).says(&format!("{} ran while it was to stand still", project.of("db")));
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
    assert_eq!(lines(&project.at("data").join("version")), ["1.0.0"]);
}

/// The second one took what the first had paused for what somebody else had, and paused it for good.
#[test]
fn one_that_two_backups_pause_runs_again_after_the_last() {
    let Some(project) = Project::new() else { return };
    let mounts = ["one", "two"].map(|name| format!("{}:/{name}", project.volume(name)));
    // Operations of one project wait for each other.
    let projects = ["one", "two"].map(|name| format!("{}{name}", project.name));
    for (name, mount) in projects.iter().zip(&mounts) {
        let label = format!("com.docker.compose.project={name}");
        let web = project.of(&format!("web-{name}"));
        let web = ["--name", &web, "--label", &label, "-v", mount, IMAGE, "sleep", "1000"];
        docker(&[&["run", "-d"], &web[..]].concat());
    }
    project.start("db", &["-v", &mounts[0], "-v", &mounts[1]], "sleep 1000");
    for (name, megabytes) in [("one", 8), ("two", 16)] {
        let noise = format!("dd of=noise bs=1M count={megabytes} if=/dev/urandom status=none");
        shell(&project.at(name), &noise);
    }
    let document = |name: &str, target: &str| {
        let more = "consistency: {mode: Pause}\narchive: {format: tar, ioLimit: 2Mi}";
        project.scene.fill(&backup(name, &format!("project: {target}"), more))
    };
    let state = || project.states()["db"].clone();
    project.scene.write("specs/store.yaml", project.scene.fill(STORE));
    project.scene.write("specs/first.yaml", document("first", &projects[0]));
    let daemon = Daemon::start(&project.scene, "specs");
    wait_longer("the first has paused it", Duration::from_mins(1), &mut || state() == "paused");
    project.scene.write("specs/second.yaml", document("second", &projects[1]));
    let phase = |name: &str| project.status("backup", name)["phase"].clone();
    wait_longer("the first is done", Duration::from_mins(2), &mut || phase("first") == "Succeeded");
    assert_eq!(state(), "paused", "this test is to see the second still at work");
    wait_longer("the second is done", Duration::from_mins(2), &mut || {
        phase("second") == "Succeeded"
    });
    assert_eq!(state(), "running");
    assert_eq!(daemon.stop(), Some(0));
}

/// It is not stopped, so nothing removes it.
#[test]
fn one_that_is_frozen_and_removes_itself_is_backed_up_as_it_is() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    project.start("once", &["--rm", "-v", &data], SERVICE);
    let ready = project.at("data").join("log");
    wait_longer("it runs", Duration::from_secs(20), &mut || ready.exists());
    project.back_up("refused", "").code(1).says("was started with --rm").says("Pause");
    docker(&["pause", &project.of("once")]);
    project.back_up("night", "").ok();
    assert_eq!(project.states()["once"], "paused");
    let spec = "{from: {backupRef: {name: night}}}";
    project.scene.restore("back", spec).code(1).says("was started with --rm").says("is paused now");
    assert_eq!(project.states()["once"], "paused");
}
