//! Incremental backups of a project, on the host and by workers, and backups of data alone.

use serde_json::Value;

use super::contained::apply as apply_in_container;
use super::engine::{Project, SERVICE, backup, text};
use crate::incremental::walked;
use crate::scene::{STORE, shell};

/// A service with data that nobody writes to by itself.
fn project() -> Option<Project> {
    let project = Project::new()?;
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    let files = format!("{}:/data", project.volume("files"));
    project.start("quiet", &["-v", &files], "trap 'exit 0' TERM; while :; do sleep 0.2; done");
    shell(
        &project.at("files"),
        "mkdir -p deep; head -c 2000000 /dev/urandom > deep/big; ln deep/big hard",
    );
    Some(project)
}

fn documents(project: &Project, name: &str, more: &str) -> String {
    format!("{STORE}---\n{}", backup(name, &format!("project: {}", project.name), more))
}

/// Takes a chain of three, restores the middle and the last one, and compares.
fn chain(project: &Project, apply: &dyn Fn(&str)) {
    let files = project.at("files");
    apply(&documents(project, "full", ""));
    shell(&files, "echo one > one; mv deep deeper");
    apply(&documents(project, "second", "type: Incremental"));
    let middle = walked(&files);
    shell(&files, "rm one; echo two > two; chown 7:8 hard");
    apply(&documents(project, "third", "type: Incremental"));
    let last = walked(&files);
    let name = |backup: &str| text(&project.scene.record(backup)["backupName"]);
    assert_eq!(project.scene.record("second")["parent"], name("full"));
    let third = project.scene.record("third");
    assert_eq!(third["parent"], name("second"), "{third:#}");
    assert_eq!(third["warnings"].as_array().map_or(0, Vec::len), 0, "{third:#}");
    for (backup, expected) in [("second", middle), ("third", last)] {
        apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back-{backup}}}\n\
             spec: {{from: {{backupRef: {{name: {backup}}}}}, safetyBackup: false}}\n"
        ));
        assert_eq!(walked(&files), expected, "{backup}");
    }
    assert_eq!(project.states()["db"], "running");
    // A part of the chain is gone: told, and the volume stays as it is.
    std::fs::remove_file(project.scene.archive("second")).unwrap();
    let before = walked(&files);
    let restore = "{from: {backupRef: {name: third}}, safetyBackup: false}";
    project.scene.restore("torn", restore).code(3).says("does not exist");
    assert_eq!(walked(&files), before);
}

#[test]
fn a_chain_is_taken_and_restored_on_the_host() {
    let Some(project) = project() else { return };
    chain(&project, &|documents| {
        project.scene.apply(documents).ok();
    });
}

#[test]
fn a_chain_is_taken_and_restored_by_workers() {
    let Some(project) = project() else { return };
    chain(&project, &|documents| {
        apply_in_container(&project, &[], documents).ok();
    });
}

#[test]
fn data_only_leaves_configuration_out() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.scene.write("live/etc/shop.conf", "colour = red\n");
    project.scene.write("live/site/index.html", "<h1>shop</h1>");
    let etc = format!("{}:/etc/shop:ro", project.scene.path("live/etc").display());
    let site = format!("{}:/site", project.scene.path("live/site").display());
    project.start("db", &["-v", &format!("{data}:/data"), "-v", &etc, "-v", &site], SERVICE);
    project.back_up("data", "type: DataOnly").ok();
    project.back_up("all", "").ok();
    let manifest = |name: &str| -> Value {
        let file = format!("{}.manifest.json", project.scene.archive(name).display());
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    let roots = |manifest: &Value| manifest["roots"].as_array().unwrap().len();
    let (some, all) = (manifest("data"), manifest("all"));
    assert_eq!((roots(&some), roots(&all)), (2, 3));
    assert_eq!(some["type"], "DataOnly");
    assert_eq!(some["definitions"]["containers"], serde_json::json!([]));
    assert_eq!(some["definitions"]["volumes"], all["definitions"]["volumes"]);
    // It comes back without what it left out being touched.
    project.scene.write("live/etc/shop.conf", "colour = blue\n");
    shell(&project.at("data"), "rm -f log");
    project.scene.restore("back", "{from: {backupRef: {name: data}}, safetyBackup: false}").ok();
    assert_eq!(project.scene.read("live/etc/shop.conf"), "colour = blue\n");
    assert!(project.at("data").join("log").exists());
    // No incremental continues it.
    project.back_up("next", "type: Incremental").ok();
    assert_eq!(project.scene.record("next")["parent"], project.scene.record("all")["backupName"]);
}
