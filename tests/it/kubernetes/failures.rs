//! What goes wrong around an operation: objects and namespaces that are deleted in the middle, objects
//! that cannot be carried out, causes that come and go, and a leader that dies. Every one ends in, or
//! waits with, a condition that says why. Judges by `kubectl` alone.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::{Cluster, PATIENCE};
use super::process::Operator;
use super::scene::{LONG, Scene, assert_same, copy_of};
use crate::scene::{SmallDisk, may_mount};
use crate::support::wait;

const LIVE: &str = "  consistency: {mode: Live}\n";

/// A claim that no provisioner serves, for StatefulSet-like names or the store.
fn pending_claim(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  \
         storageClassName: none-such\n  accessModes: [ReadWriteOnce]\n  \
         resources: {{requests: {{storage: 1Mi}}}}\n"
    )
}

/// The volume for such a claim, as somebody provides it by hand.
fn provided(volume: &str, namespace: &str, claim: &str, path: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {volume}}}\nspec:\n  \
         storageClassName: none-such\n  capacity: {{storage: 1Mi}}\n  \
         accessModes: [ReadWriteOnce]\n  persistentVolumeReclaimPolicy: Retain\n  \
         claimRef: {{namespace: {namespace}, name: {claim}}}\n  \
         hostPath: {{path: {}}}\n",
        path.display()
    )
}

/// A Backup of claims, whoever works on them.
fn of_claims(name: &str, claims: &str, store: &str) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{volumeClaims: [{claims}]}}\n  storeRef: {{name: {store}}}\n{LIVE}"
    )
}

fn condition(object: &Value, wanted: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == wanted).unwrap_or_default()
}

impl Scene {
    /// Waits until an object says, unfinished, why it waits.
    #[track_caller]
    fn waits(&self, kind: &str, name: &str, reason: &str) -> Value {
        let what = format!("{kind} {name} to wait for {reason}");
        self.cluster.wait(&what, PATIENCE, || {
            let found = self.object(kind, name)?;
            let succeeded = condition(&found, "Succeeded");
            let said = succeeded["reason"] == reason && succeeded["status"] == "Unknown";
            (said && condition(&found, "Reconciling")["status"] == "True").then_some(found)
        })
    }

    /// Waits until an object's journal has this step.
    #[track_caller]
    pub fn reaches(&self, kind: &str, name: &str, step: &str) {
        self.cluster.wait(&format!("{kind} {name} to reach {step}"), LONG, || {
            let found = self.object(kind, name)?;
            let journal = found["status"]["journal"].as_array()?;
            journal.iter().any(|line| line["step"] == step).then_some(())
        });
    }
}

#[test]
fn a_backup_deleted_in_the_middle_leaves_nothing() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    for step in ["quiesce", "archive"] {
        let name = format!("gone-at-{step}");
        scene.back_up(&name, "db", "");
        deleted_at(&scene, "backup", &name, step);
        assert_eq!(scene.archives(), Vec::<String>::new(), "{step}");
    }
    assert_same(data.path(), &scene.data("db"));
    // What comes after is not hindered.
    scene.back_up("after", "db", LIVE);
    scene.succeeded("backup", "after");
}

/// The service stayed down: the journal of an object without its finalizer was nobody's.
#[test]
fn a_backup_whose_object_is_taken_away_by_force_lets_its_service_run_again() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start_into("backup.archive.announced");
    scene.back_up("forced", "db", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.take_away("backup", "forced");
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 0, "it is not held any more");
    let _process = operator.start();
    scene.running("db");
    scene.tidy("db");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// Deletes an object at a step and waits until it is gone. The service has to run again by then.
#[track_caller]
pub fn deleted_at(scene: &Scene, kind: &str, name: &str, step: &str) {
    scene.reaches(kind, name, step);
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", kind, name, "--wait=false"]);
    scene
        .cluster
        .wait("the object to go", LONG, || scene.object(kind, name).is_none().then_some(()));
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 1, "let go before the service was started again");
    scene.running("db");
    scene.tidy("db");
}

#[test]
fn a_restore_deleted_in_the_middle_leaves_the_data_as_it_was() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    scene.back_up("base", "db", LIVE);
    scene.succeeded("backup", "base");
    std::fs::write(scene.data("db").join("since"), "not in the archive").unwrap();
    let data = copy_of(&scene.data("db"));
    for step in ["extract", "safety-backup"] {
        let name = format!("gone-at-{step}");
        scene.put_back(&name, "base", "");
        deleted_at(&scene, "restore", &name, step);
        assert_same(data.path(), &scene.data("db"));
    }
    assert!(scene.archives().len() <= 2, "a safety backup that was cancelled left its archive");
}

#[test]
fn an_upgrade_deleted_in_the_middle_leaves_the_old_image_on_the_old_data() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    let old = scene.image();
    for step in ["backup", "health"] {
        let name = format!("gone-at-{step}");
        scene.upgrade(&name, 3, "1s");
        deleted_at(&scene, "upgrade", &name, step);
        assert_eq!(scene.image(), old, "{step}");
        assert_same(data.path(), &scene.data("db"));
    }
}

#[test]
fn a_store_that_fills_up_fails_the_backup_and_takes_the_next_one() {
    let Some(cluster) = Cluster::connect() else { return };
    if !may_mount("a_store_that_fills_up_fails_the_backup_and_takes_the_next_one") {
        return;
    }
    let scene = Scene::new(cluster);
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    let _mounted = SmallDisk::mount(&disk, "8m");
    let namespace: &str = &scene.namespace;
    let volume = format!("{namespace}-small");
    scene.apply(&pending_claim("small"));
    scene.apply(&provided(&volume, namespace, "small", &disk));
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: small}\n\
         spec: {volumeClaim: {name: small}}\n",
    );
    let back_up = |name: &str| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n  storeRef: {{name: small}}\n"
        ));
    };
    let stored = || {
        let entries = std::fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.filter(|name| name != "ballast").collect();
        names.sort();
        names
    };
    let large = scene.data("db").join("large");
    let noise = |path: &Path, bytes: &str| {
        let arguments =
            ["-c", &format!("head -c {bytes} /dev/urandom > '{}' || :", path.display())];
        assert!(std::process::Command::new("sh").args(arguments).status().unwrap().success());
    };
    let operator = Operator::new(&scene.cluster, namespace);
    let process = operator.start();
    noise(&large, "3000000");
    back_up("early");
    scene.succeeded("backup", "early");
    let early = stored();
    // The estimate says that it cannot fit: nothing is stopped for it.
    noise(&large, "20000000");
    back_up("refused");
    let status = scene.failed("backup", "refused", "NotEnoughSpace");
    assert!(status["downtime"].is_null(), "stopped for nothing: {status:#}");
    assert_eq!(stored(), early);
    process.kill();
    // What no estimate knows: somebody else fills the store while the service is held.
    noise(&large, "3000000");
    let process = operator.start_into("backup.archive.intended");
    back_up("filled");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    noise(&disk.join("ballast"), "16000000");
    let _process = operator.start();
    scene.failed("backup", "filled", "NotEnoughSpace");
    scene.running("db");
    scene.tidy("db");
    assert_eq!(stored(), early, "a part of an archive is left");
    // The cause goes.
    std::fs::remove_file(disk.join("ballast")).unwrap();
    back_up("later");
    scene.succeeded("backup", "later");
    scene.running("db");
    scene.cluster.kubectl(&["delete", "persistentvolume", &volume, "--wait=false"]);
}

/// The object said what it had said before, and `/readyz` that all was well.
#[test]
fn an_operator_whose_catalog_is_full_says_so_and_goes_on() {
    let Some(cluster) = Cluster::connect() else { return };
    if !may_mount("an_operator_whose_catalog_is_full_says_so_and_goes_on") {
        return;
    }
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace).listening();
    let _mounted = SmallDisk::mount(operator.directory(), "24m");
    let process = operator.start();
    scene.back_up("early", "db", LIVE);
    scene.succeeded("backup", "early");
    let ballast = operator.directory().join("ballast");
    let full = format!("cat /dev/zero > '{}' || :", ballast.display());
    assert!(std::process::Command::new("sh").args(["-c", &full]).status().unwrap().success());
    // What may be larger than what the last page of the catalog's file has room for.
    let text = "as it is ".repeat(100);
    for number in 0..3 {
        scene.back_up(&format!("held-{number}"), "db", &format!("  description: \"{text}\"\n"));
    }
    scene.waits("backup", "held-2", "CatalogFailed");
    scene.cluster.wait("/readyz to say so", PATIENCE, || {
        let (code, text) = process.get("/readyz")?;
        (code == 503 && text.contains("[-] catalog")).then_some(())
    });
    std::fs::remove_file(&ballast).unwrap();
    for number in 0..3 {
        scene.succeeded("backup", &format!("held-{number}"));
    }
    scene.running("db");
    scene.tidy("db");
    assert_eq!(process.get("/readyz").unwrap().0, 200);
}

#[test]
fn a_namespace_deleted_in_the_middle_goes() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let mut process = operator.start();
    scene.back_up("first", "db", LIVE);
    scene.succeeded("backup", "first");
    scene.back_up("second", "db", "");
    scene.reaches("backup", "second", "quiesce");
    scene.cluster.kubectl(&["delete", "namespace", &scene.namespace, "--wait=false"]);
    scene.cluster.wait("the namespace to go", LONG, || {
        let name: &str = &scene.namespace;
        let left =
            scene.cluster.kubectl(&["get", "namespace", name, "--ignore-not-found", "-o=name"]);
        left.trim().is_empty().then_some(())
    });
    assert!(process.runs(), "{}", process.log());
}

#[test]
fn what_cannot_be_carried_out_says_so_and_hinders_nobody() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bare}\nspec:\n  replicas: 0\n  \
         selector: {matchLabels: {app: bare}}\n  template:\n    metadata: {labels: {app: bare}}\n    \
         spec: {containers: [{name: web, image: none}]}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: claimless}\n\
         spec: {volumeClaim: {name: not-there}}\n",
    );
    // Two targets at once: a rule of the CRD that servers before 1.25 do not enforce; newer ones do.
    let both = "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: both}\nspec:\n  \
                target: {workload: {kind: StatefulSet, name: db}, volumeClaims: [data-db-0]}\n  \
                storeRef: {name: main}\n";
    let apply = ["-n", &scene.namespace, "apply", "--validate=false", "-f", "-"];
    let accepted = scene.cluster.kubectl_reading(&apply, both).is_ok();
    // Nonsense that the schema lets through and no type can hold.
    let odd = "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: odd}\nspec:\n  \
               target: {workload: {kind: StatefulSet, name: db}}\n  storeRef: {name: main}\n  \
               consistency: {timeout: \"99999999999999999999h\"}\n";
    let odd_accepted = scene.cluster.kubectl_reading(&apply, odd).is_ok();
    scene.back_up("bare", "bare", "");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: of-bare}\nspec:\n  \
         target: {workload: {kind: Deployment, name: bare}}\n  storeRef: {name: main}\n",
    );
    scene.apply(&of_claims("of-none", "nothing-here", "main"));
    scene.apply(&of_claims("into-none", "data-db-0", "claimless"));
    scene.apply(&pending_claim("device").replace("spec:\n", "spec:\n  volumeMode: Block\n"));
    scene.apply(&of_claims("of-device", "device", "main"));
    // All of them are there before the operator is: its first list has them.
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    if accepted {
        scene.failed("backup", "both", "InvalidSpec");
    }
    if odd_accepted {
        scene.failed("backup", "odd", "InvalidSpec");
    }
    assert!(accepted || odd_accepted, "nothing malformed was accepted");
    scene.failed("backup", "bare", "TargetNotFound");
    let status = scene.failed("backup", "of-bare", "TargetNotFound");
    assert!(status["message"].as_str().unwrap().contains("mounts no claim"), "{status:#}");
    scene.failed("backup", "of-none", "TargetNotFound");
    scene.failed("backup", "into-none", "StoreUnavailable");
    scene.failed("backup", "of-device", "UnsupportedTarget");
    scene.cluster.wait("the store without its claim to say so", PATIENCE, || {
        let found = scene.object("backupstore", "claimless")?;
        let ready = condition(&found, "Ready");
        (ready["status"] == "False" && ready["reason"] == "StoreUnavailable").then_some(())
    });
    scene.back_up("good", "db", LIVE);
    scene.succeeded("backup", "good");
    assert_eq!(scene.archives().len(), 1);
    scene.tidy("db");
}

#[test]
fn objects_may_be_applied_in_any_order() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: early}\n\
         spec: {from: {backupRef: {name: first}}, safetyBackup: false}\n",
    );
    scene.waits("restore", "early", "BackupNotFound");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: first}\nspec:\n  \
         target: {workload: {kind: StatefulSet, name: db}}\n  storeRef: {name: later}\n",
    );
    scene.waits("backup", "first", "StoreNotFound");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: later}\n\
         spec: {volumeClaim: {name: backups, path: later}}\n",
    );
    scene.succeeded("backup", "first");
    scene.succeeded("restore", "early");
    assert_same(data.path(), &scene.data("db"));
}

#[test]
fn a_pending_claim_is_waited_for_and_named() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace)
        .arguments(&["--mover-start-timeout", "45s"]);
    let _process = operator.start();
    scene.apply(&pending_claim("never"));
    scene.apply(&pending_claim("in-time"));
    scene.apply(&of_claims("hopeless", "never", "main"));
    scene.apply(&of_claims("patient", "in-time", "main"));
    let found = scene.waits("backup", "patient", "ClaimPending");
    assert!(found["status"]["message"].as_str().unwrap().contains("unbound"), "{found:#}");
    scene.waits("backup", "hopeless", "ClaimPending");
    // The cause goes: somebody provisions the volume by hand.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("volume");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("file"), "here").unwrap();
    let volume = format!("{}-in-time", &*scene.namespace);
    scene.apply(&provided(&volume, &scene.namespace, "in-time", &path));
    let status = scene.ended("backup", "patient");
    let failed = scene.failed("backup", "hopeless", "ClaimPending");
    scene.cluster.kubectl(&["delete", "persistentvolume", &volume, "--wait=false"]);
    assert_eq!(status["phase"], "Succeeded", "{status:#}");
    assert_eq!(status["archive"]["files"], 1, "{status:#}");
    assert!(failed["message"].as_str().unwrap().contains("unbound"), "{failed:#}");
    scene.tidy("db");
}

#[test]
fn another_replica_takes_over_in_the_middle_with_an_empty_catalog() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let data = copy_of(&scene.data("db"));
    let with_usual_lease = || {
        Operator::new(&scene.cluster, &scene.namespace).environment("EIDER_LEASE_DURATION", "15s")
    };
    let first = with_usual_lease().arguments(&["--identity", "one"]);
    let second = with_usual_lease().arguments(&["--identity", "two"]).lease(first.lease_name());
    let leader = first.start_into("backup.archive.performed");
    scene.back_up("handed-over", "db", "");
    scene.reaches("backup", "handed-over", "preflight");
    let follower = second.start();
    assert!(wait(|| follower.log().contains("waiting for the lease")), "{}", follower.log());
    assert_eq!(leader.wait_exit(LONG).signal, Some(9));
    let died = Instant::now();
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 0, "it is in the middle");
    scene.cluster.wait("the follower to lead", PATIENCE, || {
        follower.log().contains("leading").then_some(())
    });
    let took = died.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let status = scene.succeeded("backup", "handed-over");
    assert_eq!(status["archive"]["files"], 21, "{status:#}");
    scene.running("db");
    scene.tidy("db");
    assert_eq!(scene.archives().len(), 1);
    assert_same(data.path(), &scene.data("db"));
}
