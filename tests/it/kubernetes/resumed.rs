//! Operations under way whose operator dies while the world around them changes: others wait for the same service,
//! what they refer to goes away, they are edited.

use super::cluster::Cluster;
use super::kills::DEPLOYMENT;
use super::process::Operator;
use super::scene::{LONG, STOPS, Scene, assert_same, copy_of, service_image};

/// After a restart a Backup that waited for a Restore came before it: it read what was half put back, and let the
/// service run on it; the Restore then went back, and what the service had written was lost.
#[test]
fn who_waited_for_an_operation_does_not_get_ahead_of_it() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.ends_slowly(15);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    let expected = copy_of(&scene.data("db"));
    assert_eq!(process.stop().code, Some(0));
    for keeps_its_catalog in [true, false] {
        std::fs::remove_dir_all(scene.data("db").join("deep")).unwrap();
        let (restore, backup) =
            (format!("back-{keeps_its_catalog}"), format!("waits-{keeps_its_catalog}"));
        let process = operator.start_into("restore.swap.performed");
        scene.put_back(&restore, "base", "");
        scene.is_asked_to_end();
        scene.back_up(&backup, "db", "");
        scene.cluster.wait("the Backup to wait", LONG, || {
            let found = scene.object("backup", &backup)?;
            found["status"]["message"].as_str()?.contains("comes first").then_some(())
        });
        assert_eq!(process.wait_exit(LONG).signal, Some(9));
        if !keeps_its_catalog {
            operator.empty_catalog();
        }
        let process = operator.start();
        let status = scene.succeeded("restore", &restore);
        let later = scene.succeeded("backup", &backup);
        let time = |status: &serde_json::Value, name: &str| {
            status[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
        };
        assert!(time(&later, "completedAt") > time(&status, "completedAt"));
        scene.running("db");
        scene.tidy("db");
        assert_same(expected.path(), &scene.data("db"));
        assert_eq!(process.stop().code, Some(0));
    }
}

/// With an empty catalog it waited for the store for ever, and the service was never let run: what it referred to was
/// not among the lines on it, and saying what it waited for erased those.
#[test]
fn what_is_under_way_is_finished_though_its_store_is_gone() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start_into("backup.quiesce.recorded");
    scene.back_up("held", "db", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    assert_eq!(scene.object("statefulset", "db").unwrap()["spec"]["replicas"], 0);
    scene.take_away("backupstore", "main");
    operator.empty_catalog();
    let _process = operator.start();
    let status = scene.succeeded("backup", "held");
    assert_eq!(scene.archives(), [status["archive"]["name"].as_str().unwrap()]);
    scene.running("db");
    scene.tidy("db");
}

/// An Upgrade went back because the ReplicaSet of the old version was gone, which its own change had made superfluous.
#[test]
fn an_upgrade_goes_on_whose_old_replicaset_has_been_collected() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let short = DEPLOYMENT.replace("  replicas: 1\n", "  replicas: 1\n  revisionHistoryLimit: 0\n");
    scene.apply(&short.replace("IMAGE", &service_image(&scene.cluster, 1)));
    let rollout = ["-n", &scene.namespace, "rollout", "status", "deployment/web"];
    scene.cluster.kubectl(&rollout);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start_into("upgrade.apply.performed");
    let image = service_image(&scene.cluster, 2);
    scene.apply(&format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: up}}\nspec:\n  \
         target: {{workload: {{kind: Deployment, name: web}}}}\n  toVersion: \"2.0.0\"\n  \
         images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: 200s, soak: 1s}}\n  consistency: {{timeout: {STOPS}}}\n"
    ));
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.cluster.wait("the old ReplicaSet to be collected", LONG, || {
        let found = scene.cluster.json(&["-n", &scene.namespace, "get", "replicasets"]);
        let items = found["items"].as_array()?;
        let [one] = &items[..] else { return None };
        (one["spec"]["template"]["spec"]["containers"][0]["image"] == image).then_some(())
    });
    let _process = operator.start();
    scene.succeeded("upgrade", "up");
    scene.cluster.kubectl(&rollout);
}

/// Servers before 1.25 let what runs be edited. What had been begun was nobody's then, and its service stayed down.
#[test]
fn an_edit_while_nobody_leads_leaves_nothing_half_done() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    for keeps_its_catalog in [true, false] {
        let name = format!("edited-{keeps_its_catalog}");
        let process = operator.start_into("backup.quiesce.recorded");
        scene.back_up(&name, "db", "");
        assert_eq!(process.wait_exit(LONG).signal, Some(9));
        let edit = "{\"spec\":{\"description\":\"another\"}}";
        let patch = ["patch", "backup", &name, "--type=merge", "--patch", edit];
        // Newer servers refuse that: then it is taken up as it is.
        let _ = scene.cluster.try_kubectl(&[&["-n", &scene.namespace][..], &patch].concat());
        if !keeps_its_catalog {
            operator.empty_catalog();
        }
        let process = operator.start();
        assert_eq!(scene.ended("backup", &name)["phase"], "Succeeded");
        scene.running("db");
        scene.tidy("db");
        assert_eq!(process.stop().code, Some(0));
    }
    assert_eq!(scene.archives().len(), 2);
}
