//! What is refused in a cluster because it would do harm, and what only gets a warning.

use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::Scene;

#[test]
fn what_would_do_harm_is_refused_before_anything_is_touched() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.apply(
        "apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\nmetadata: {name: scaler}\nspec:\n  \
         scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: db}\n  maxReplicas: 3\n",
    );
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    // The operator's own token, sent to whoever asks.
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let hook = format!("{{http: {{url: \"http://127.0.0.1:1/\", authorizationFile: {file}}}}}");
    scene.back_up("thief", "db", &format!("  hooks: {{before: [{hook}]}}\n"));
    scene.failed("backup", "thief", "InvalidSpec");
    // Claims alone, which a pod works on: nobody would stand still.
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: torn}\n\
         spec: {target: {volumeClaims: [data-db-0]}, storeRef: {name: main}}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: live}\nspec:\n  \
         target: {workload: {kind: StatefulSet, name: db}}\n  storeRef: {name: main}\n  \
         consistency: {mode: Live}\n",
    );
    let torn = scene.failed("backup", "torn", "TargetBusy");
    assert!(torn["message"].as_str().unwrap().contains("db-0"), "{torn:#}");
    let live = scene.succeeded("backup", "live");
    let warnings = live["warnings"].to_string();
    assert!(warnings.contains("HorizontalPodAutoscaler scaler"), "{live:#}");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: beneath}\n\
         spec: {from: {backupRef: {name: live}}, target: {volumeClaims: [data-db-0]}}\n",
    );
    scene.failed("restore", "beneath", "TargetBusy");
    assert_eq!(scene.object("pod", "db-0").unwrap()["status"]["phase"], "Running");
    assert!(!process.stop().stderr.contains("panicked"));
}

#[test]
fn a_store_that_is_deleted_while_it_is_looked_into_is_let_go() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let namespace = &scene.namespace;
    // Its claim stays pending, so that its mover never starts.
    scene.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: pending}\n\
         spec: {storageClassName: there-is-none, accessModes: [ReadWriteOnce], \
         resources: {requests: {storage: 1Gi}}}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: gone}\n\
         spec: {volumeClaim: {name: pending}}\n",
    );
    let operator = Operator::new(&scene.cluster, namespace);
    let process = operator.start();
    let made = || {
        let log = process.log();
        log.lines().filter(|line| line.contains("\"made\"") && line.contains("/gone/")).count()
    };
    let patience = Duration::from_mins(2);
    scene.cluster.wait("the store's mover to be made", patience, || (made() > 0).then_some(()));
    scene.cluster.kubectl(&["-n", namespace, "delete", "backupstore", "gone"]);
    // One Job after the other went with the store that was no more, and another was made, without end.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(40) {
        assert!(made() <= 4, "{} movers were made", made());
        std::thread::sleep(Duration::from_secs(1));
    }
}
