//! Chains of incremental archives on a claim: chosen by the mover, kept by whoever deletes.

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{Scene, assert_same, copy_of};

const INCREMENTAL: &str = "  type: Incremental\n";

#[test]
fn a_chain_is_taken_restored_and_kept_whole() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let data = scene.data("db");
    scene.back_up("full", "db", "  deletionPolicy: Delete\n");
    let full = scene.succeeded("backup", "full");
    std::fs::write(data.join("one"), "one").unwrap();
    std::fs::rename(data.join("deep"), data.join("deeper")).unwrap();
    scene.back_up("second", "db", INCREMENTAL);
    let second = scene.succeeded("backup", "second");
    assert_eq!(second["archive"]["parent"], full["archive"]["name"], "{second:#}");
    assert_eq!(second["archive"]["files"], 22);
    let middle = copy_of(&data);
    std::fs::remove_file(data.join("one")).unwrap();
    std::fs::write(data.join("two"), "two").unwrap();
    scene.back_up("third", "db", INCREMENTAL);
    let third = scene.succeeded("backup", "third");
    assert_eq!(third["archive"]["parent"], second["archive"]["name"], "{third:#}");
    let last = copy_of(&data);
    for (backup, expected) in [("second", &middle), ("third", &last)] {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: to-{backup}}}\n\
             spec: {{from: {{backupRef: {{name: {backup}}}}}, safetyBackup: false}}\n"
        ));
        scene.succeeded("restore", &format!("to-{backup}"));
        assert_same(expected.path(), &data);
    }
    // Its object goes, and is not held up; the archive stays, because others build on it.
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "backup", "full", "--timeout=90s"]);
    let name = full["archive"]["name"].as_str().unwrap().to_owned();
    assert!(scene.archives().contains(&name), "{:?}", scene.archives());
    let events = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "events"]);
    assert!(events.contains("ArchiveNeeded"), "{events}");
    scene.tidy("db");

    // A part of the chain is gone: a restore says so and touches nothing, a backup is a full one.
    let store = scene.cluster.claim_path(&scene.namespace, "backups");
    std::fs::remove_file(store.join(second["archive"]["name"].as_str().unwrap())).unwrap();
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: torn}\n\
         spec: {from: {backupRef: {name: third}}, safetyBackup: false}\n",
    );
    scene.failed("restore", "torn", "ArchiveMissing");
    assert_same(last.path(), &data);
    scene.back_up("fourth", "db", INCREMENTAL);
    let fourth = scene.succeeded("backup", "fourth");
    assert!(fourth["archive"]["parent"].is_null(), "{fourth:#}");
    assert!(fourth["warnings"].to_string().contains("everything is stored"), "{fourth:#}");
    scene.tidy("db");
}
