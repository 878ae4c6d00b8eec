//! A namespace that allows no root: movers run as their workload, and whoever looks after the store
//! runs as whoever wrote to it.

use std::os::unix::fs::chown;
use std::path::Path;

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{LONG, Scene};

/// The user of the service.
const USER: u32 = 1999;

/// A Deployment that runs as [`USER`], with a claim of its own.
fn service(scene: &Scene) {
    let image = scene.cluster.busybox();
    scene.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: mail}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: mail}}
spec:
  selector: {{matchLabels: {{app: mail}}}}
  strategy: {{type: Recreate}}
  template:
    metadata: {{labels: {{app: mail}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsUser: {USER}, runAsGroup: {USER}, fsGroup: {USER}}}
      containers:
      - name: service
        image: {image}
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "sleep 100000"]
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: mail}}}}]
"#
    ));
    // What a provisioner that knows `fsGroup` does; this one's directories are root's.
    for claim in ["mail", "backups"] {
        chown(scene.cluster.claim_path(&scene.namespace, claim), Some(USER), Some(USER)).unwrap();
    }
    let data = scene.cluster.claim_path(&scene.namespace, "mail");
    let letter = data.join("letter");
    std::fs::write(&letter, "dear\n").unwrap();
    chown(&letter, Some(USER), Some(USER)).unwrap();
}

/// A Backup as the schedule `often` would make it.
fn back_up(scene: &Scene, name: &str) {
    scene.apply(&format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\n\
         metadata: {{name: {name}, labels: {{eider.dev/schedule: often}}}}\nspec:\n  \
         target: {{workload: {{kind: Deployment, name: mail}}}}\n  storeRef: {{name: main}}\n  \
         deletionPolicy: Delete\n  consistency: {{mode: Live}}\n"
    ));
    scene.succeeded("backup", name);
}

#[test]
fn without_root_retention_and_deletion_work_as_the_user_who_wrote() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::restricted(cluster);
    let namespace: &str = &scene.namespace;
    service(&scene);
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: often}\nspec:\n  \
         schedule: \"0 0 1 1 *\"\n  retention: {keepLast: 1}\n  template:\n    spec:\n      \
         target: {workload: {kind: Deployment, name: mail}}\n      storeRef: {name: main}\n",
    );
    let operator = Operator::new(&scene.cluster, namespace);
    let process = operator.start();
    let archives = |wanted: usize| {
        scene.cluster.wait(&format!("{wanted} archives to be left"), LONG, || {
            scene.object("backupstore", "main");
            (scene.archives().len() == wanted).then_some(())
        });
    };
    back_up(&scene, "one");
    let store = || scene.object("backupstore", "main").unwrap()["status"].clone();
    scene.cluster.wait("the store to know who writes", LONG, || {
        (store()["moverSecurityContext"]["runAsUser"] == USER).then_some(())
    });
    archives(1);
    let first = scene.archives().remove(0);
    let lies = scene.cluster.claim_path(namespace, "backups").join(&first);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&lies.metadata().unwrap()), USER);

    // What cannot be removed is said on the schedule, and removed when it can be.
    std::fs::rename(&lies, lies.with_extension("aside")).unwrap();
    std::fs::create_dir(&lies).unwrap();
    std::fs::write(lies.join("in-the-way"), "").unwrap();
    back_up(&scene, "two");
    let applied = |truth: &str| {
        scene.cluster.wait(&format!("RetentionApplied={truth}"), LONG, || {
            let status = scene.object("backupschedule", "often")?["status"].clone();
            let conditions = status["conditions"].as_array()?;
            let found = conditions.iter().find(|one| one["type"] == "RetentionApplied")?;
            (found["status"] == truth).then_some(())
        });
    };
    applied("False");
    std::fs::remove_dir_all(&lies).unwrap();
    std::fs::rename(lies.with_extension("aside"), &lies).unwrap();
    back_up(&scene, "three");
    applied("True");
    archives(1);
    scene.cluster.wait("the removed Backups to be gone", LONG, || {
        let list = scene.cluster.kubectl(&["-n", namespace, "get", "backups", "-o", "name"]);
        (list.trim() == "backup.eider.dev/three").then_some(())
    });

    // Somebody else's look finds what is there.
    let at = "eider.dev/reconcile-at=now";
    scene.cluster.kubectl(&["-n", namespace, "annotate", "backupstore", "main", at]);
    scene.cluster.wait("the store to be counted", LONG, || {
        let status = store();
        (status["backups"] == 1 && status["conditions"].to_string().contains("True")).then_some(())
    });
    scene.cluster.kubectl(&["-n", namespace, "delete", "backup", "three", "--timeout=4m"]);
    archives(0);
    let left = std::fs::read_dir(scene.cluster.claim_path(namespace, "backups")).unwrap();
    assert_eq!(left.count(), 0, "manifests go with their archives");
    assert!(Path::new(&scene.cluster.claim_path(namespace, "mail")).join("letter").exists());
    assert!(!process.stop().stderr.contains("panicked"));
}
