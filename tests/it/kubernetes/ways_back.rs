//! The way back of what somebody cancels, or starts, after the new data or version ran: as whole as any
//! other, and never under a service that runs.

use std::time::Duration;

use super::cluster::Cluster;
use super::failures::deleted_at;
use super::process::Operator;
use super::scene::{LONG, Scene, assert_same, copy_of, service_image};

fn upgrade(name: &str, image: &str) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{workload: {{kind: StatefulSet, name: db}}}}\n  toVersion: \"2.0.0\"\n  \
         images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: 200s, soak: 5m}}\n"
    )
}

fn image(scene: &Scene) -> String {
    let found = scene.object("statefulset", "db").unwrap();
    let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap().to_owned()
}

fn pod_uid(scene: &Scene) -> String {
    let found = scene.object("pod", "db-0").unwrap();
    found["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// The old version came back on what the new one had written: the restore of its data was cancelled, too.
#[test]
fn an_upgrade_deleted_while_its_new_version_runs_puts_the_old_data_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    let old = image(&scene);
    scene.apply(&upgrade("gone", &service_image(&scene.cluster, 2)));
    scene.reaches("upgrade", "gone", "soak");
    std::fs::write(scene.data("db").join("schema"), "of the new version").unwrap();
    deleted_at(&scene, "upgrade", "gone", "soak");
    assert_eq!(image(&scene), old);
    assert_same(data.path(), &scene.data("db"));
}

/// The tree was taken from under the service that ran on it: to hold it still was cancelled, too.
#[test]
fn a_restore_deleted_while_its_service_runs_holds_it_still_for_the_way_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    scene.fill("db");
    let process = operator.start_into("restore.health.announced");
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    std::fs::write(scene.data("db").join("since"), "not in the archive").unwrap();
    let data = copy_of(&scene.data("db"));
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: gone}\n\
         spec: {from: {backupRef: {name: base}}}\n",
    );
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.running("db");
    let ran = pod_uid(&scene);
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "restore", "gone", "--wait=false"]);
    let process = operator.start();
    deleted_at(&scene, "restore", "gone", "health");
    assert_ne!(pod_uid(&scene), ran, "it was never stopped");
    assert_same(data.path(), &scene.data("db"));
    let log = process.log();
    let done = |step: &str| log.find(&format!("\"step\":\"{step}\",\"seconds\""));
    let (held, swapped) = (done("undo-quiesce"), done("swap-back"));
    assert!(held.is_some() && held < swapped, "{held:?} {swapped:?}: {log}");
}

/// A backup that was taken beside a running service was taken for one of before the change.
#[test]
fn a_service_that_somebody_starts_during_an_upgrade_is_left_at_its_version() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let old = image(&scene);
    // It dies before the change, so that there is time to scale the service back.
    let process = operator.start_into("upgrade.backup.recorded");
    scene.apply(&upgrade("fought", &service_image(&scene.cluster, 2)));
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=1"];
    scene.cluster.kubectl(&scale);
    scene.running("db");
    let ran = pod_uid(&scene);
    let _process = operator.start();
    let status = scene.failed("upgrade", "fought", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("scaled to 1"), "{status:#}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((image(&scene), pod_uid(&scene)), (old, ran), "it was stopped again, or changed");
    scene.tidy("db");
}
