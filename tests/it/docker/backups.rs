//! Backups of running services.

use std::time::Duration;

use serde_json::Value;

use super::engine::{DEAF, Project, SERVICE, backup, docker, lines, text};
use crate::scene::{STORE, shell, tool, wait_longer};

#[test]
fn a_project_is_stopped_read_and_started_again() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let before = project.inspected();
    project.back_up("night", "").ok();
    project.runs_as_before();
    let after = project.inspected();
    for (name, found) in &before {
        assert_eq!(found["Id"], after[name]["Id"], "{name} is another container now");
        assert_eq!(found["RestartCount"], after[name]["RestartCount"], "{name}");
    }
    // Who works on the same data was stopped too, once each; who was off was left alone.
    for log in ["data/log", "uploads/log", "data/reporter-log"] {
        let (volume, file) = log.split_once('/').unwrap();
        assert_eq!(
            lines(&project.at(volume).join(file)),
            ["started", "stopped", "started"],
            "{log}"
        );
    }
    let archive = project.scene.archive("night");
    let listed = tool("tar", &["tzf", archive.to_str().unwrap()]);
    let site = project.scene.path("live/site").to_string_lossy().into_owned();
    for name in [
        format!("volumes/{}/log", project.of("data")),
        format!("volumes/{}/log", project.of("uploads")),
        format!("binds{site}/index.html"),
    ] {
        assert!(listed.lines().any(|line| line == name), "no {name} in\n{listed}");
    }
    // What was read is what had been written when everybody stood still.
    let log = format!("volumes/{}/log", project.of("data"));
    let content = tool("tar", &["xzOf", archive.to_str().unwrap(), &log]);
    assert_eq!(content, "started\nstopped\n");
    let manifest: Value = serde_json::from_str(
        &std::fs::read_to_string(format!("{}.manifest.json", archive.display()))
            .unwrap()
            .lines()
            .collect::<String>(),
    )
    .unwrap_or_default();
    let containers = manifest["definitions"]["containers"].as_array().unwrap();
    let names: Vec<String> = containers.iter().map(|container| text(&container["name"])).collect();
    assert_eq!(names, ["db", "off", "web"].map(|name| project.of(name)));
    let volumes = manifest["definitions"]["volumes"].as_array().unwrap();
    assert_eq!(volumes[0]["labels"]["com.docker.compose.volume"], "data");
}

#[test]
fn a_plan_says_who_stops_and_what_is_not_covered() {
    let Some(project) = Project::new() else { return };
    project.shop();
    docker(&["rm", "-f", &project.of("reporter")]);
    project.start(
        "cache",
        &["-v", "/cache", "--tmpfs", "/run/cache"],
        SERVICE.replace("/data", "/cache").as_str(),
    );
    project.scene.apply(STORE).ok();
    let plan = project
        .scene
        .run(&["backup", "create", "--project", &project.name, "--dry-run", "-o", "json"])
        .ok();
    let said: Vec<String> = plan.items().iter().map(|item| text(&item["does"])).collect();
    let says =
        |words: &[&str]| said.iter().any(|line| words.iter().all(|word| line.contains(word)));
    let (data, db, web, cache) =
        (project.of("data"), project.of("db"), project.of("web"), project.of("cache"));
    assert!(says(&["volume", &data, &db, &web]), "{said:#?}");
    assert!(says(&[&web, "is stopped"]) && says(&[&db, "is stopped"]), "{said:#?}");
    assert!(says(&["not covered: /cache", &cache, "anonymous"]), "{said:#?}");
    assert!(says(&["not covered: /run/cache", "memory"]), "{said:#?}");
    assert!(says(&["not covered: / ", &db]), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains(&format!("{} is stopped", project.of("off")))));
    assert_eq!(project.states()["db"], "running");
    assert!(project.scene.stored().is_empty());
}

#[test]
fn paused_and_live_services_are_not_stopped_and_hooks_run_in_them() {
    let Some(project) = Project::new() else { return };
    project.shop();
    project.back_up("paused", "consistency: {mode: Pause}").ok();
    let hooks = "consistency: {mode: Live}
hooks:
  before: [{exec: {container: db, command: [sh, -c, 'echo dump > /data/dump']}}]
  after: [{exec: {container: db, command: [sh, -c, 'rm /data/dump; echo after >> /data/hooks']}}]";
    project.back_up("live", hooks).ok();
    project.runs_as_before();
    assert_eq!(lines(&project.at("data").join("log")), ["started"]);
    assert_eq!(lines(&project.at("data").join("hooks")), ["after"]);
    let archive = project.scene.archive("live");
    let dump = format!("volumes/{}/dump", project.of("data"));
    assert_eq!(tool("tar", &["xzOf", archive.to_str().unwrap(), &dump]), "dump\n");
    // One that takes too long goes on, and that is said.
    let slow = "[sleep, '300']}, timeout: 1s}";
    let late = hooks.replace("[sh, -c, 'echo dump > /data/dump']}}", slow);
    let late = late.replace("rm /data/dump; ", "");
    project
        .back_up("late", &late)
        .code(1)
        .says("took longer than 1 s and goes on in the container");
    std::fs::write(project.at("data").join("hooks"), "after\n").unwrap();
    // A hook that fails fails the Backup, and those after it run all the same.
    let failing = hooks.replace("echo dump > /data/dump", "echo no space >&2; exit 3");
    project.back_up("failing", &failing.replace("rm /data/dump; ", "")).code(1).says("no space");
    assert_eq!(lines(&project.at("data").join("hooks")), ["after", "after"]);
    project.runs_as_before();
}

#[test]
fn a_plan_says_how_much_a_container_keeps_outside_of_its_mounts() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    let script = "head -c 3145728 /dev/zero > /kept; touch /data/ready; sleep 300";
    project.start("web", &["-v", &data], script);
    let ready = project.at("data").join("ready");
    wait_longer("it has written", Duration::from_secs(20), &mut || ready.exists());
    let target = format!("project: {}", project.name);
    let text = project.scene.fill(&format!("{STORE}---\n{}", backup("night", &target, "")));
    project.scene.write("documents.yaml", text);
    let plan = project.scene.run(&["run", "-f", "documents.yaml", "--dry-run"]).ok().stdout;
    let words: Vec<&str> = plan.split_whitespace().collect();
    let kept = "goes with the container, 3.0 MiB by now";
    assert!(words.join(" ").contains(kept), "{plan}");
}

#[test]
fn who_does_not_stop_is_killed_with_a_word_or_waited_for_in_vain_and_runs_again() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("deaf", &["--stop-timeout", "1", "-v", &format!("{data}:/data")], DEAF);
    project.back_up("killed", "").ok();
    assert_eq!(project.states()["deaf"], "running");
    let status = project.status("backup", "killed");
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("was killed"), "{status:#}");
    // One that may take longer than the operation waits: the operation fails, and it runs on.
    docker(&["rm", "-f", &project.of("deaf")]);
    project.start("deaf", &["--stop-timeout", "5", "-v", &format!("{data}:/data")], DEAF);
    project.back_up("slow", "consistency: {timeout: 1s}").code(1).says("did not stop within 1 s");
    assert_eq!(project.states()["deaf"], "running");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(project.states()["deaf"], "running", "the engine ended it afterwards");
    assert_eq!(project.scene.stored().len(), 2);
}

#[test]
fn what_cannot_be_backed_up_is_refused_before_anything_stops() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let apply = |name: &str, target: &str| {
        project.scene.apply(&format!("{STORE}---\n{}", backup(name, target, "")))
    };
    apply("nobody", "project: nothing-like-it").code(3).says("there are:");
    let services = format!("project: {}, services: [dbx]", project.name);
    apply("service", &services).code(3).says("db, off, web");
    let volume = project.of("nfs");
    let share = ["--opt", "type=nfs", "--opt", "o=addr=127.0.0.1", "--opt", "device=:/nowhere"];
    docker(&[&["volume", "create"][..], &share, &[&volume]].concat());
    apply("elsewhere", &format!("volumes: [{volume}]")).code(2).says("for containers only");
    let scratch = project.of("scratch");
    docker(&["volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", &scratch]);
    apply("memory", &format!("volumes: [{scratch}]")).code(2).says("lies in memory");
    project.start("once", &["--rm", "-v", &format!("{}:/data", project.of("data"))], SERVICE);
    project.back_up("vanishing", "").code(1).says("--rm");
    let place = project.scene.path("store").to_string_lossy().into_owned();
    let plan = ["backup", "create", "--project", &project.name, "--store", &place, "--dry-run"];
    project.scene.run(&plan).code(1).says("--rm");
    docker(&["rm", "-f", &project.of("once")]);
    project.runs_as_before();
    assert_eq!(
        lines(&project.at("data").join("log")).iter().filter(|line| *line == "stopped").count(),
        0
    );
    assert!(project.scene.stored().is_empty());
}

#[test]
fn an_engine_that_cannot_be_reached_is_told_apart() {
    let Some(project) = Project::new() else { return };
    let document = format!("{STORE}---\n{}", backup("far", "volumes: [x]", ""));
    project.scene.write("documents.yaml", project.scene.fill(&document));
    let ended = project
        .scene
        .command(&["run", "-f", "documents.yaml"])
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .output()
        .unwrap();
    crate::scene::Ended::from(ended).code(5).says("is the engine running");
}

/// As an Eider with a catalog of its own does that puts other data in place meanwhile.
#[test]
fn files_that_somebody_takes_away_while_everybody_stands_still_fail_the_backup() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    project.start("db", &["-v", &data], SERVICE);
    let log = project.at("data").join("log");
    wait_longer("it runs", Duration::from_secs(20), &mut || log.exists());
    let slow = "archive: {format: tar, ioLimit: 1Mi}";
    let backed_up = |name: &str| {
        let data = project.at("data");
        let fill =
            "mkdir -p big; for n in $(seq 10 49); do head -c 200000 /dev/zero > big/$n; done";
        shell(&data, fill);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let is_read = || project.states()["db"] == "exited";
                wait_longer("it stands still", Duration::from_secs(20), &mut { is_read });
                std::thread::sleep(Duration::from_secs(1));
                shell(&data, "rm big/4?");
            });
            project.back_up(name, slow)
        })
    };
    backed_up("night").code(1).says("went while nobody was to work on the data");
    assert!(project.scene.stored().is_empty(), "{:?}", project.scene.stored());
    assert_eq!(project.states()["db"], "running");
    // Who goes on by a label may take its files away.
    project.start("janitor", &["-v", &data, "--label", "eider.stop=false"], SERVICE);
    backed_up("again").ok().says("janitor");
    assert_eq!(project.scene.record("again")["status"], "Succeeded");
}
