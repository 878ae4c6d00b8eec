//! What an Upgrade leaves behind and what the way back from it puts back: images whose names have moved,
//! containers that do their work once or do not run, volumes without names, and what others have kept.

use std::path::PathBuf;
use std::time::Duration;

use super::engine::{IMAGE, Project, SERVICE, docker, lines, text};
use super::upgrades::{Version, document, stage};
use crate::scene::{Ended, STORE, shell, wait_longer, wait_until};

/// Works on `/data` like the tests' service; `more` are arguments of `docker run`, and `command` follows the
/// image.
fn start(project: &Project, service: &str, more: &[&str], image: &str, command: &[&str]) {
    let full = project.of(service);
    let labels = [
        format!("com.docker.compose.project={}", project.name),
        format!("com.docker.compose.service={service}"),
    ];
    let mut arguments = vec!["run", "--detach", "--name", &full];
    arguments.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    arguments.extend(more);
    arguments.push(image);
    arguments.extend(command);
    docker(&arguments);
}

/// A project with the first version as `db`.
fn small(more: &[&str]) -> Option<Project> {
    let project = Project::new()?;
    // The slash is somebody's own: the engine does not show it among the mounts.
    let data = format!("{}:/data/", project.volume("data"));
    start(&project, "db", &[&["-v", &data], more].concat(), &Version::First.image(), &[]);
    wait_until("the first version has started", || {
        lines(&project.at("data").join("version")) == ["1.0.0"]
    });
    Some(project)
}

fn upgrade(project: &Project, name: &str, version: Version, images: &[&str], more: &str) -> Ended {
    let image = version.image();
    let images: Vec<String> = images.iter().map(|one| format!("{one}: \"{image}\"")).collect();
    let text = document(project, name, version, more)
        .replace(&format!("db: \"{image}\""), &images.join(", "));
    project.scene.apply(&format!("{STORE}---\n{text}"))
}

fn image_of(reference: &str) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", reference]).trim().to_owned()
}

#[test]
fn going_back_runs_the_image_that_ran_although_its_tag_has_moved_and_only_once() {
    let Some(project) = Project::new() else { return };
    let tag = format!("eider-test/{}:stable", project.name);
    docker(&["tag", &Version::First.image(), &tag]);
    let data = format!("{}:/data", project.volume("data"));
    start(&project, "db", &["-v", &data], &tag, &[]);
    let version = project.at("data").join("version");
    wait_until("the first version has started", || lines(&version) == ["1.0.0"]);
    upgrade(&project, "up", Version::Good, &["db"], "").ok();
    assert_eq!(lines(&version), ["2.0.0"]);
    docker(&["tag", &Version::Good.image(), &tag]);
    project.scene.run(&["upgrade", "rollback", "up", "--yes"]).ok();
    let runs = text(&project.inspected()["db"]["Image"]);
    docker(&["rmi", &tag]);
    assert_eq!(runs, image_of(&Version::First.image()));
    assert_eq!(lines(&version), ["1.0.0"]);
    shell(&project.at("data"), "echo since > since");
    project.scene.run(&["upgrade", "rollback", "up", "--yes"]).code(4).says("taken back already");
    assert_eq!(lines(&project.at("data").join("since")), ["since"]);
}

#[test]
fn a_migration_runs_before_those_that_wait_for_it_and_undoes_the_upgrade_when_it_fails() {
    let Some(project) = small(&[]) else { return };
    let data = project.at("data");
    let mount = format!("{}:/data", project.of("data"));
    let script = "echo $VERSION >> /data/migrated; test ! -e /data/broken";
    let migrate =
        ["--label", "com.docker.compose.depends_on=db:service_started:false", "-v", &mount];
    let first = Version::First.image();
    start(&project, "migrate", &migrate, &first, &["/bin/sh", "-c", script]);
    wait_until("the migration has ended", || project.states()["migrate"] == "exited");
    let after = "com.docker.compose.depends_on=migrate:service_completed_successfully:false";
    let uploads = format!("{}:/data", project.volume("uploads"));
    start(&project, "web", &["--label", after, "-v", &uploads], IMAGE, &["/bin/sh", "-c", SERVICE]);
    upgrade(&project, "up", Version::Good, &["db", "migrate"], "").ok();
    assert_eq!(lines(&data.join("migrated")), ["1.0.0", "2.0.0"]);
    let found = project.inspected();
    let (migrated, web) = (&found["migrate"]["State"], &found["web"]["State"]);
    assert_eq!(migrated["Status"], "exited");
    assert!(text(&migrated["FinishedAt"]) < text(&web["StartedAt"]), "{migrated:#} {web:#}");
    shell(&data, "touch broken");
    let bad = upgrade(&project, "bad", Version::Better, &["db", "migrate"], "");
    bad.code(1).says("migrate has ended with code 1");
    assert_eq!(lines(&data.join("migrated")), ["1.0.0", "2.0.0"]);
    assert_eq!(text(&project.inspected()["db"]["Config"]["Image"]), Version::Good.image());
    let states = project.states();
    assert_eq!((&*states["db"], &*states["web"]), ("running", "running"));
}

#[test]
fn an_upgrade_that_would_start_nothing_is_refused() {
    let Some(project) = small(&[]) else { return };
    let mount = format!("{}:/data", project.of("data"));
    start(&project, "worker", &["-v", &mount], &Version::First.image(), &["/bin/false"]);
    wait_until("the worker has ended", || project.states()["worker"] == "exited");
    let before = project.inspected();
    upgrade(&project, "idle", Version::Good, &["worker"], "").code(4).says("does not run");
    assert_eq!(before["worker"]["Id"], project.inspected()["worker"]["Id"]);
    upgrade(&project, "both", Version::Good, &["db", "worker"], "")
        .ok()
        .says("worker does not run: its new version is made and not started");
    assert_eq!(project.states()["worker"], "created");
}

#[test]
fn a_rollback_puts_anonymous_volumes_back_and_says_what_it_does_not() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    let kept = format!("{}:/excluded", project.volume("excluded"));
    let script = "trap 'exit 0' TERM; echo $VERSION > /data/version; touch /tmp/healthy
        echo $VERSION >> /cache/state; echo $VERSION >> /excluded/state
        [ $VERSION = 3.0.0 ] && exit 1; while :; do sleep 0.1 & wait $!; done";
    let more = ["-v", &data, "-v", "/cache", "-v", &kept, "--label", "eider.exclude=/excluded"];
    start(&project, "db", &more, &Version::First.image(), &["/bin/sh", "-c", script]);
    let state = || {
        let found = project.inspected()["db"]["Mounts"].clone();
        let mut mounts = found.as_array().unwrap().iter();
        let mount = mounts.find(|mount| mount["Destination"] == "/cache").unwrap();
        lines(&std::path::Path::new(&text(&mount["Source"])).join("state"))
    };
    wait_until("the first version has started", || state() == ["1.0.0"]);
    let ended = upgrade(&project, "up", Version::FailsToStart, &["db"], "").code(1);
    assert!(ended.stderr.contains("as the new version left it: /excluded of"), "{ended:#?}");
    wait_until("the first version runs again", || state().len() > 1);
    assert_eq!(state(), ["1.0.0", "1.0.0"]);
    assert_eq!(lines(&project.at("excluded").join("state"))[..2], ["1.0.0", "3.0.0"]);
}

#[test]
fn what_an_upgrade_has_kept_is_left_alone_by_the_next_one() {
    let Some(project) = stage() else { return };
    let names = || -> Vec<String> { project.inspected().into_keys().collect() };
    let mode = "  rollback: {mode: Never}\n";
    upgrade(&project, "up", Version::FailsToStart, &["db"], mode).code(1);
    let kept = names().into_iter().find(|name| name.starts_with("db.before-")).unwrap();
    let before = project.inspected()[&kept].clone();
    let ended = upgrade(&project, "next", Version::Better, &["db"], "").code(4);
    assert!(ended.stderr.contains("left of another upgrade"), "{ended:#?}");
    upgrade(&project, "forced", Version::Better, &["db"], "  force: true\n").ok();
    assert_eq!(project.inspected()[&kept]["Id"], before["Id"]);
    assert_eq!(names().len(), 4, "{:?}", names());
    assert_eq!(text(&project.inspected()["db"]["Config"]["Image"]), Version::Better.image());
}

/// Each Upgrade that went back left behind the volumes that its new containers had made.
#[test]
fn what_a_version_that_goes_back_has_made_for_itself_goes_with_it() {
    let Some(project) = stage() else { return };
    let text = document(&project, "up", Version::NeverHealthy, "");
    let text = project.scene.fill(&format!("{STORE}---\n{text}"));
    project.scene.write("documents.yaml", text);
    let volume_at = |place: &str| {
        let found = project.inspected().get("db")?["Mounts"].as_array()?.clone();
        let mount = found.into_iter().find(|mount| mount["Destination"] == place)?;
        mount["Name"].as_str().map(str::to_owned)
    };
    let cache = volume_at("/cache").unwrap();
    let mut running = project.scene.command(&["run", "-f", "documents.yaml"]).spawn().unwrap();
    let mut fresh = None;
    wait_longer("the new version runs", Duration::from_mins(1), &mut || {
        fresh = volume_at("/fresh");
        fresh.is_some()
    });
    assert_eq!(running.wait().unwrap().code(), Some(1));
    let volumes = docker(&["volume", "ls", "--quiet"]);
    assert!(!volumes.contains(&fresh.unwrap()), "it is left behind");
    assert!(volumes.contains(&cache));
    assert_eq!(docker(&["exec", &project.of("db"), "cat", "/cache/state"]).trim(), "warm");
}

/// An Upgrade to a version that fails, held up right before it goes back, with what it says in a file.
fn before_it_goes_back(project: &Project) -> (std::process::Child, PathBuf, PathBuf) {
    let text = document(project, "up", Version::FailsToStart, "");
    project.scene.write("documents.yaml", project.scene.fill(&format!("{STORE}---\n{text}")));
    let (gate, said) = (project.scene.path("gate"), project.scene.path("said"));
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    let point = format!("upgrade.rollback-remove-new.announced@{}", gate.display());
    command.env("EIDER_FAILPOINT", point).env("RUST_LOG", "warn");
    let output = std::fs::File::create(&said).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let running = command.spawn().unwrap();
    wait_longer("the old version is kept", Duration::from_mins(2), &mut || {
        project.states().into_keys().any(|name| name.starts_with("db.before-"))
    });
    (running, gate, said)
}

#[test]
fn a_rollback_whose_archive_is_gone_does_not_keep_the_old_version_waiting() {
    let Some(project) = small(&[]) else { return };
    let (mut running, gate, said) = before_it_goes_back(&project);
    let store = project.scene.path("store");
    for name in project.scene.stored().iter().filter(|name| name.starts_with("backup_")) {
        // Another one says that its disk is there.
        std::fs::rename(store.join(name), store.join(name.replace("backup_", "another_"))).unwrap();
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("and the archive of the backup up-before-upgrade is gone"), "{said}");
    assert_eq!(project.states()["db"], "running");
    assert_eq!(self::text(&project.inspected()["db"]["Config"]["Image"]), Version::First.image());
    let restores = project.scene.run(&["get", "restores", "-o", "json"]).ok().items();
    assert_eq!(restores.len(), 1, "it was tried again: {restores:#?}");
}

/// A store whose disk was not mounted yet, as after a power cut, counted as one whose archive is gone: the old version
/// ran on the data of the new one.
#[test]
fn a_rollback_waits_for_a_store_that_is_not_mounted() {
    let Some(project) = small(&[]) else { return };
    let (mut running, gate, said) = before_it_goes_back(&project);
    let (store, away) = (project.scene.path("store"), project.scene.path("away"));
    std::fs::rename(&store, &away).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::write(&gate, "").unwrap();
    wait_longer("the data to be missed", Duration::from_mins(2), &mut || {
        std::fs::read_to_string(&said).unwrap().contains("no archive at all is in")
    });
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(said).unwrap();
    assert!(!said.contains("is gone"), "{said}");
    assert_eq!(project.states()["db"], "running");
    assert_eq!(self::text(&project.inspected()["db"]["Config"]["Image"]), Version::First.image());
    assert_eq!(lines(&project.at("data").join("version")), ["1.0.0"], "{said}");
}
