//! Where a backup can be put back besides the place it was taken: new claims, another namespace.

use super::cluster::{Cluster, PATIENCE};
use super::process::Operator;
use super::scene::{Scene, assert_same, copy_of};

fn restore(name: &str, from: &str, claims: &str) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  \
         from: {from}\n  target: {{volumeClaims: [{claims}]}}\n"
    )
}

#[test]
fn a_backup_is_put_into_new_claims_beside_the_running_service() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    scene.back_up("first", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "first");
    let before = copy_of(&scene.data("db"));
    let pod = scene.object("pod", "db-0").unwrap();

    scene.apply(&restore("copy", "{backupRef: {name: first}}", "db-copy"));
    let status = scene.succeeded("restore", "copy");
    // Nothing was stopped and nothing was there: no downtime, no safety backup.
    assert!(status["downtime"].is_null(), "{status:#}");
    assert!(status["safetyBackupName"].is_null(), "{status:#}");
    assert_eq!(status["files"], 21, "{status:#}");
    let copy = scene.cluster.claim_path(&scene.namespace, "db-copy");
    assert_same(before.path(), &copy);
    assert_same(before.path(), &scene.data("db"));
    let claim = |name: &str| {
        let spec = scene.object("persistentvolumeclaim", name).unwrap()["spec"].clone();
        (spec["accessModes"].clone(), spec["resources"].clone(), spec["storageClassName"].clone())
    };
    assert_eq!(claim("db-copy"), claim("data-db-0"));
    let after = scene.object("pod", "db-0").unwrap();
    assert_eq!(pod["metadata"]["uid"], after["metadata"]["uid"], "the service was touched");

    // Once more into the same claim: what is there by now is backed up first, and the store says so.
    std::fs::write(copy.join("linked.txt"), "changed").unwrap();
    scene.apply(&restore("again", "{backupRef: {name: first}}", "db-copy"));
    let status = scene.succeeded("restore", "again");
    let safety = status["safetyBackupName"].as_str().unwrap();
    scene.succeeded("backup", safety);
    assert_same(before.path(), &copy);
    scene.cluster.wait("the store to count the safety backup", PATIENCE, || {
        let store = scene.object("backupstore", "main")?;
        (store["status"]["backups"] == 2).then_some(())
    });
    scene.tidy("db");
}

/// A volume and a claim in the namespace of `to` that lead to the bytes of `from`'s store, and a
/// BackupStore `shared` on them: how a file server is used from two namespaces. Gone when dropped.
struct Shared<'a> {
    cluster: &'a Cluster,
    volume: String,
}

impl<'a> Shared<'a> {
    fn new(from: &Scene, to: &'a Scene) -> Self {
        let path = from.cluster.claim_path(&from.namespace, "backups");
        let volume = format!("shared-{}", to.namespace);
        to.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {volume}}}\nspec:\n  \
             capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  \
             persistentVolumeReclaimPolicy: Retain\n  hostPath: {{path: {}}}\n  \
             claimRef: {{namespace: {}, name: shared}}\n---\n\
             apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: shared}}\nspec:\n  \
             accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  volumeName: {volume}\n  \
             resources: {{requests: {{storage: 1Gi}}}}\n---\n\
             apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {{name: shared}}\n\
             spec: {{volumeClaim: {{name: shared}}}}\n",
            path.display(),
            &*to.namespace
        ));
        Self { cluster: &to.cluster, volume }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "persistentvolume", &self.volume, "--wait=false"];
        let _ = self.cluster.try_kubectl(&delete);
    }
}

#[test]
fn a_namespace_takes_the_backups_of_those_that_it_names() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster.clone());
    let other = Scene::empty(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace)
        .arguments(&["--namespace", &other.namespace]);
    let _process = operator.start();
    scene.fill("db");
    scene.back_up("first", "db", "  consistency: {mode: Live}\n");
    let status = scene.succeeded("backup", "first");
    let archive = status["archive"]["name"].as_str().unwrap();
    let before = copy_of(&scene.data("db"));
    let shared = Shared::new(&scene, &other);

    // By the Backup's name: there is none of that name here, and no way to name another namespace's.
    other.apply(&restore("by-name", "{backupRef: {name: first}}", "copy"));
    other.cluster.wait("the Restore to wait for a Backup of that name", PATIENCE, || {
        let found = other.object("restore", "by-name")?;
        let message = found["status"]["message"].as_str()?.to_owned();
        message.contains(&format!("{}/first", &*other.namespace)).then_some(())
    });

    let from = format!("{{archive: {{storeRef: {{name: shared}}, name: {archive}}}}}");
    other.apply(&restore("refused", &from, "copy"));
    let status = other.failed("restore", "refused", "Forbidden");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(&*scene.namespace), "{message}");
    let made = other.object("persistentvolumeclaim", "copy");
    assert!(made.is_none(), "a claim was made for data that is not taken: {made:?}");

    // The namespace's owners allow it.
    let allow = format!("eider.dev/allow-restore-from={}", &*scene.namespace);
    other.cluster.kubectl(&["annotate", "namespace", &other.namespace, &allow]);
    other.apply(&restore("allowed", &from, "copy"));
    let status = other.succeeded("restore", "allowed");
    assert!(status["downtime"].is_null(), "{status:#}");
    assert_same(before.path(), &other.cluster.claim_path(&other.namespace, "copy"));
    assert_same(before.path(), &scene.data("db"));
    drop(shared);
}

/// It was not found, because only claims that are there were looked for.
#[test]
fn a_claim_of_a_stateful_set_that_was_lost_is_made_again() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    scene.back_up("first", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "first");
    let before = copy_of(&scene.data("db"));
    let own = ["-n", &*scene.namespace];
    let kubectl = |arguments: &[&str]| scene.cluster.kubectl(&[&own[..], arguments].concat());
    kubectl(&["scale", "statefulset", "db", "--replicas=0"]);
    kubectl(&["wait", "pod/db-0", "--for=delete", "--timeout=120s"]);
    kubectl(&["delete", "persistentvolumeclaim", "data-db-0"]);
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: back}\n\
         spec: {from: {backupRef: {name: first}}}\n",
    );
    scene.succeeded("restore", "back");
    assert_same(before.path(), &scene.data("db"));
}
