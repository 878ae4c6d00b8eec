//! The way back of what somebody cancels, or starts, after the new data or version ran: as whole as any
//! other, and never under a service that runs.

use std::time::Duration;

use super::cluster::Cluster;
use super::failures::deleted_at;
use super::process::Operator;
use super::proxy::{Fault, Proxy};
use super::scene::{LONG, Scene, assert_same, copy_of};

/// The old version came back on what the new one had written: the restore of its data was cancelled, too.
#[test]
fn an_upgrade_deleted_while_its_new_version_runs_puts_the_old_data_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    let old = scene.image();
    scene.upgrade("gone", 2, "5m");
    scene.reaches("upgrade", "gone", "soak");
    std::fs::write(scene.data("db").join("schema"), "of the new version").unwrap();
    deleted_at(&scene, "upgrade", "gone", "soak");
    assert_eq!(scene.image(), old);
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
    scene.put_back("gone", "base", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.running("db");
    let ran = scene.pod_uid();
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "restore", "gone", "--wait=false"]);
    let process = operator.start();
    deleted_at(&scene, "restore", "gone", "health");
    assert_ne!(scene.pod_uid(), ran, "it was never stopped");
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
    let old = scene.image();
    // It dies before the change, so that there is time to scale the service back.
    let process = operator.start_into("upgrade.backup.recorded");
    scene.upgrade("fought", 2, "5m");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=1"];
    scene.cluster.kubectl(&scale);
    scene.running("db");
    let ran = scene.pod_uid();
    let _process = operator.start();
    let status = scene.failed("upgrade", "fought", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("scaled to 1"), "{status:#}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((scene.image(), scene.pod_uid()), (old, ran), "it was stopped again, or changed");
    scene.tidy("db");
}

/// A service that does not come up on the restored data was waited for five minutes, whoever knew better.
#[test]
fn a_restore_gives_its_service_as_long_as_it_says_and_puts_the_data_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let poison = scene.data("db").join("poison");
    std::fs::write(&poison, "the service does not get ready on this").unwrap();
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    std::fs::remove_file(&poison).unwrap();
    scene.change_template(
        "{\"containers\":[{\"name\":\"service\",\"readinessProbe\":\
                 {\"tcpSocket\":null,\"exec\":{\"command\":[\"test\",\"!\",\"-e\",\"/data/poison\"]}}}]}",
    );
    let data = copy_of(&scene.data("db"));
    scene.put_back("back", "base", "  healthTimeout: 15s\n");
    let status = scene.failed("restore", "back", "Unhealthy");
    assert!(status["message"].as_str().unwrap().contains("15 s"), "{status:#}");
    scene.running("db");
    assert_same(data.path(), &scene.data("db"));
    scene.tidy("db");
}

/// Each step of the way back failed because it could not be told, until it was given up, and the end was told by
/// nobody before the operator was started again.
#[test]
fn a_service_is_not_left_down_because_no_status_can_be_written() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let proxy = Proxy::start(&scene.cluster, vec![]);
    let operator = Operator::new(&scene.cluster, &scene.namespace).kubeconfig(&proxy.kubeconfig());
    let _process = operator.start();
    let generation = || scene.object("statefulset", "db")?["metadata"]["generation"].as_i64();
    let before = generation().unwrap();
    scene.back_up("untold", "db", "");
    scene.reaches("backup", "untold", "quiesce");
    proxy.reset(vec![Fault::ForbidStatuses]);
    // It is stopped only after that has been told: down and up again is two changes.
    scene.cluster.wait("the service to be let run again", LONG, || {
        generation().filter(|now| *now >= before + 2)
    });
    scene.running("db");
    let status = &scene.object("backup", "untold").unwrap()["status"];
    assert!(status["completedAt"].is_null(), "{status:#}");
    proxy.reset(vec![]);
    let status = scene.failed("backup", "untold", "Forbidden");
    assert!(status["message"].as_str().unwrap().contains("a fault of the test"), "{status:#}");
    scene.tidy("db");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// The movers of the way back belonged to the object that was gone, and each was taken away with it.
#[test]
fn a_restore_whose_object_is_taken_away_by_force_after_its_swap_is_undone() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    scene.fill("db");
    let process = operator.start_into("restore.health.announced");
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    std::fs::write(scene.data("db").join("since"), "not in the archive").unwrap();
    let data = copy_of(&scene.data("db"));
    scene.put_back("forced", "base", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.take_away("restore", "forced");
    let _process = operator.start();
    scene.cluster.wait("the data to be put back", LONG, || {
        scene.data("db").join("since").exists().then_some(())
    });
    scene.cluster.wait("the movers to be let go", LONG, || {
        let jobs = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "jobs", "-o", "name"]);
        jobs.trim().is_empty().then_some(())
    });
    scene.running("db");
    assert_same(data.path(), &scene.data("db"));
    scene.tidy("db");
}

/// The service that a Restore was to let run on the new data is gone: the data is put back, and nobody waits.
#[test]
fn a_restore_whose_service_is_deleted_after_the_swap_puts_the_data_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    scene.fill("db");
    let process = operator.start_into("restore.swap.recorded");
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    std::fs::write(scene.data("db").join("since"), "not in the archive").unwrap();
    let data = copy_of(&scene.data("db"));
    scene.put_back("orphan", "base", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "statefulset", "db"]);
    let _process = operator.start();
    scene.failed("restore", "orphan", "TargetNotFound");
    assert_same(data.path(), &scene.data("db"));
    scene.service("db", 1);
    scene.running("db");
    scene.tidy("db");
}
