//! Restores into volumes: the same, missing and new ones.

use super::engine::{Project, docker, lines};
use crate::scene::{assert_same, shell, wait_until};

/// A copy of a volume as it is now.
fn copy(project: &Project, volume: &str) -> std::path::PathBuf {
    let copy = project.scene.path(&format!("copy-{volume}"));
    shell(&project.at(volume), &format!("cp -a . {}", copy.display()));
    copy
}

/// Stops everything, fills the volumes with something to tell apart, and takes a backup.
fn backed_up() -> Option<(Project, [std::path::PathBuf; 2])> {
    let project = Project::new()?;
    project.shop();
    let script = "mkdir -p deep/er; echo one > deep/er/one; ln -s deep/er/one link; ln deep/er/one hard;
                  truncate -s 5M sparse; chmod 4711 hard; chown 12:34 deep; touch -d 2020-02-02 deep";
    shell(&project.at("data"), script);
    project.back_up("night", "").ok();
    // Nobody writes while the copies are made and compared with.
    let names = ["db", "web", "reporter"].map(|name| project.of(name));
    docker(&["stop", &names[0], &names[1], &names[2]]);
    let archive = project.scene.archive("night");
    let place = project.scene.path("reference");
    std::fs::create_dir(&place).unwrap();
    let gnu = ["--xattrs", "-xpzf", archive.to_str().unwrap(), "-C", place.to_str().unwrap()];
    crate::scene::tool("tar", &[&["--numeric-owner"], &gnu[..]].concat());
    let trees = ["data", "uploads"].map(|name| place.join("volumes").join(project.of(name)));
    Some((project, trees))
}

#[test]
fn damaged_volumes_are_as_they_were_and_the_services_run() {
    let Some((project, [data, uploads])) = backed_up() else { return };
    let names = ["db", "web", "reporter"].map(|name| project.of(name));
    docker(&["start", &names[0], &names[1], &names[2]]);
    shell(&project.at("data"), "rm -rf deep link; echo damage > hard; echo more > junk");
    project.scene.write("live/site/index.html", "defaced");
    project.scene.restore("back", "{from: {backupRef: {name: night}}}").ok();
    project.runs_as_before();
    assert_eq!(project.scene.read("live/site/index.html"), "<h1>shop</h1>");
    // The safety backup holds what was there before.
    let safety = project.scene.record("back-before");
    assert_eq!(safety["verified"].as_bool().or(Some(safety["verifiedAt"].is_string())), Some(true));
    docker(&["stop", &names[0], &names[1], &names[2]]);
    let log = lines(&project.at("data").join("log"));
    assert_eq!(log, ["started", "stopped", "started", "stopped"], "it ran on the restored data");
    for file in ["log", "now", "reporter-log"] {
        for tree in [&data, &project.at("data"), &uploads, &project.at("uploads")] {
            let _ = std::fs::remove_file(tree.join(file));
        }
    }
    shell(&data, "touch -d 2021-01-01 .");
    shell(&project.at("data"), "touch -d 2021-01-01 .");
    assert_same(&data, &project.at("data"));
}

#[test]
fn missing_volumes_are_made_as_they_were_made() {
    let Some((project, [data, uploads])) = backed_up() else { return };
    for name in ["db", "web", "off", "reporter"] {
        docker(&["rm", "-f", &project.of(name)]);
    }
    docker(&["volume", "rm", &project.of("data"), &project.of("uploads")]);
    project.scene.restore("disaster", "{from: {backupRef: {name: night}}}").ok();
    assert_same(&data, &project.at("data"));
    assert_same(&uploads, &project.at("uploads"));
    let labels =
        docker(&["volume", "inspect", "--format", "{{json .Labels}}", &project.of("data")]);
    let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["com.docker.compose.volume"], "data");
    assert_eq!(labels["com.docker.compose.project"], project.name.as_str());
}

#[test]
fn a_copy_goes_into_new_volumes_and_touches_nothing_else() {
    let Some((project, [data, uploads])) = backed_up() else { return };
    let untouched = copy(&project, "data");
    let (one, two) = (project.of("new-data"), project.of("new-uploads"));
    let target = format!("{{docker: {{volumes: [{one}, {two}]}}}}");
    project
        .scene
        .restore("copy", &format!("{{from: {{backupRef: {{name: night}}}}, target: {target}}}"))
        .ok();
    assert_same(&data, &project.at("new-data"));
    assert_same(&uploads, &project.at("new-uploads"));
    assert_same(&untouched, &project.at("data"));
    assert_eq!(project.states()["db"], "exited", "nobody was started who had been stopped");
}

#[test]
fn an_exited_container_that_holds_the_volume_is_not_in_the_way() {
    let Some((project, [data, _])) = backed_up() else { return };
    docker(&["start", &project.of("db")]);
    wait_until("the database runs", || project.states()["db"] == "running");
    docker(&["kill", &project.of("db")]);
    let only = format!("{{docker: {{project: {}, volumes: [data]}}}}", project.name);
    project
        .scene
        .restore("back", &format!("{{from: {{backupRef: {{name: night}}}}, target: {only}}}"))
        .ok();
    assert_same(&data, &project.at("data"));
    assert_eq!(project.states()["db"], "exited");
}

#[test]
fn nobody_who_runs_is_left_on_a_tree_that_was_replaced() {
    let Some((project, [data, _])) = backed_up() else { return };
    docker(&["start", &project.of("web")]);
    wait_until("the web server runs", || project.states()["web"] == "running");
    let live = "{from: {backupRef: {name: night}}, consistency: {mode: Live}}";
    let web = project.of("web");
    project.scene.restore("under-it", live).code(2).says(&web).says("mode: Stop");
    assert_eq!(project.states()["web"], "running");
    docker(&["stop", &web]);
    project.scene.restore("under-nobody", live).ok();
    assert_same(&data, &project.at("data"));
}

#[test]
fn an_archive_whose_manifest_is_lost_is_put_back_where_somebody_says() {
    let Some((project, [data, uploads])) = backed_up() else { return };
    let lost = project.scene.path("lost_one.tar.gz");
    std::fs::copy(project.scene.archive("night"), &lost).unwrap();
    project.scene.run(&["backup", "import", lost.to_str().unwrap(), "--store", "main"]).ok();
    shell(&project.at("data"), "rm -rf deep link; echo more > junk");
    project.scene.write("live/site/index.html", "defaced");
    // Whose path of the host that is nobody knows.
    let unsaid = "{from: {backupRef: {name: lost-one}}}";
    project.scene.restore("unsaid", unsaid).code(2).says("spec.target");
    let from = "{archive: {storeRef: {name: main}, name: lost_one.tar.gz}}";
    let target = format!("{{docker: {{project: {}}}}}", project.name);
    project.scene.restore("said", &format!("{{from: {from}, target: {target}}}")).ok();
    assert_same(&data, &project.at("data"));
    assert_same(&uploads, &project.at("uploads"));
    assert_eq!(project.scene.read("live/site/index.html"), "<h1>shop</h1>");
    let only = project.of("data");
    let other = format!("{{docker: {{volumes: [{only}]}}}}");
    let by_name = format!("{{from: {{backupRef: {{name: lost-one}}}}, target: {other}}}");
    project.scene.restore("by-name", &by_name).ok();
    assert_same(&data, &project.at("data"));
}
