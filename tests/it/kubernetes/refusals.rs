//! What is refused in a cluster because it would do harm, and what only gets a warning.

use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{Scene, service_image};

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

/// A Deployment of one pod that sleeps.
fn sleeper(scene: &Scene, name: &str, more: &str) {
    let image = scene.cluster.busybox();
    scene.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers: [{{name: service, image: {image}, \
         imagePullPolicy: IfNotPresent, command: [sleep, \"100000\"]}}]\n{more}"
    ));
    let rollout = ["-n", &scene.namespace, "rollout", "status", &format!("deployment/{name}")];
    scene.cluster.kubectl(&rollout);
}

/// Data was replaced beneath whoever else had it open, and a service stopped for a backup that could
/// not be taken.
#[test]
fn what_others_have_open_is_not_replaced_and_what_cannot_be_backed_up_is_not_stopped() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let volumes = "      volumes: [{name: v, persistentVolumeClaim: {claimName: data-db-0}}]\n";
    sleeper(&scene, "db-keeper", volumes);
    sleeper(&scene, "bare", "");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    let uid = || scene.object("pod", "db-0").unwrap()["metadata"]["uid"].clone();
    let before = uid();
    let upgrade = |name: &str, target: &str| {
        let image = service_image(&scene.cluster, 2);
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {target}}}\n  toVersion: \"2.0.0\"\n  \
             images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n"
        ));
    };
    upgrade("shared", "{kind: StatefulSet, name: db}");
    upgrade("stateless", "{kind: Deployment, name: bare}");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: beneath}\n\
         spec: {from: {backupRef: {name: base}}, consistency: {mode: Live}}\n",
    );
    let shared = scene.failed("upgrade", "shared", "TargetBusy");
    assert!(shared["message"].as_str().unwrap().contains("db-keeper"), "{shared:#}");
    let stateless = scene.failed("upgrade", "stateless", "TargetNotFound");
    assert!(stateless["message"].as_str().unwrap().contains("mounts no claim"), "{stateless:#}");
    assert_eq!(scene.object("deployment", "bare").unwrap()["spec"]["replicas"], 1);
    assert_eq!(scene.object("deployment", "bare").unwrap()["metadata"]["generation"], 1);
    scene.failed("restore", "beneath", "TargetBusy");
    assert_eq!(uid(), before, "the service was stopped");
    // A Backup that has failed runs no second time: nobody waits for it.
    scene.back_up("broken", "not-there", "");
    scene.failed("backup", "broken", "TargetNotFound");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: hopeless}\n\
         spec: {from: {backupRef: {name: broken}}}\n",
    );
    scene.failed("restore", "hopeless", "ArchiveMissing");
    assert!(!process.stop().stderr.contains("panicked"));
}

/// The space of the store was looked at by the mover of the backup, which was made after the stop.
#[test]
fn a_store_without_room_for_the_backup_before_a_change_stops_nothing() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    scene.back_up("base", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "base");
    let pod = || scene.object("pod", "db-0").unwrap()["metadata"]["uid"].clone();
    let before = pod();
    // The same claim, with more to be left free than there is.
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: main}\n\
         spec: {volumeClaim: {name: backups}, minFree: 900Ti}\n",
    );
    let image = service_image(&scene.cluster, 2);
    scene.apply(&format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: narrow}}\nspec:\n  \
         target: {{workload: {{kind: StatefulSet, name: db}}}}\n  toVersion: \"2.0.0\"\n  \
         images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n"
    ));
    let upgrade = scene.failed("upgrade", "narrow", "NotEnoughSpace");
    assert!(upgrade["message"].as_str().unwrap().contains("the backup before"), "{upgrade:#}");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: narrow}\n\
         spec: {from: {backupRef: {name: base}}}\n",
    );
    let restore = scene.failed("restore", "narrow", "NotEnoughSpace");
    assert!(restore["message"].as_str().unwrap().contains("the safety backup"), "{restore:#}");
    assert_eq!(pod(), before, "the service was stopped");
    assert_eq!(scene.object("statefulset", "db").unwrap()["metadata"]["generation"], 1);
    scene.tidy("db");
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
