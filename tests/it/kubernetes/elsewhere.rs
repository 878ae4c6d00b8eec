//! Restores to other places than where a backup was taken, and hooks in pods.

use std::path::Path;
use std::process::Command;

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{Scene, assert_same, copy_of};

const HEAD: &str = "apiVersion: eider.dev/v1alpha1\nkind: Restore\n";

/// Copies a store as a shared file system would show it in two namespaces.
fn mirror(from: &Path, to: &Path) {
    let source = format!("{}/", from.display());
    let output = Command::new("rsync").args(["-aHAX", "--numeric-ids", &source]).arg(to).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_backup_can_be_restored_into_new_claims() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let before = copy_of(&scene.data("db"));
    scene.back_up("first", "db", "");
    scene.succeeded("backup", "first");
    scene.apply(&format!(
        "{HEAD}metadata: {{name: copy}}\n\
         spec: {{from: {{backupRef: {{name: first}}}}, target: {{volumeClaims: [copied]}}}}\n"
    ));
    let status = scene.succeeded("restore", "copy");
    // As large as the claim that was backed up, and the service was none of its business.
    let claim = scene.object("persistentvolumeclaim", "copied").unwrap();
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert!(status["downtime"].is_null(), "{status:#}");
    assert!(status["safetyBackupName"].is_null(), "{status:#}");
    assert_same(before.path(), &scene.cluster.claim_path(&scene.namespace, "copied"));
    scene.running("db");
    scene.tidy("db");
}

#[test]
fn another_namespace_takes_a_backup_only_if_it_says_so() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let Some(cluster) = Cluster::connect() else { return };
    let other = Scene::empty(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace)
        .arguments(&["--namespace", &other.namespace]);
    let _process = operator.start();
    scene.fill("db");
    let before = copy_of(&scene.data("db"));
    scene.back_up("first", "db", "");
    let archive =
        scene.succeeded("backup", "first")["archive"]["name"].as_str().unwrap().to_owned();
    // The other namespace's store has to be bound before anything can be put into it.
    other.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: seed}\n\
         spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: opens-the-store}\n\
         spec: {target: {volumeClaims: [seed]}, storeRef: {name: main}}\n",
    );
    other.succeeded("backup", "opens-the-store");
    mirror(
        &scene.cluster.claim_path(&scene.namespace, "backups"),
        &other.cluster.claim_path(&other.namespace, "backups"),
    );
    let restore = |name: &str| {
        format!(
            "{HEAD}metadata: {{name: {name}}}\nspec:\n  from: {{archive: {{storeRef: {{name: \
             main}}, name: {archive}}}}}\n  target: {{volumeClaims: [moved]}}\n"
        )
    };
    other.apply(&restore("unasked"));
    let status = other.failed("restore", "unasked", "Forbidden");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(&*scene.namespace), "{message}");
    assert!(
        other.object("persistentvolumeclaim", "moved").is_none(),
        "a claim was made for nothing"
    );
    let allowed = format!("eider.dev/allow-restore-from={}", &*scene.namespace);
    other.cluster.kubectl(&["annotate", "namespace", &other.namespace, &allowed]);
    other.apply(&restore("allowed"));
    other.succeeded("restore", "allowed");
    assert_same(before.path(), &other.cluster.claim_path(&other.namespace, "moved"));
}

#[test]
fn hooks_run_in_the_pods_and_after_runs_when_the_backup_fails() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let hooks = |before: &str| {
        format!(
            "  consistency: {{mode: Live}}\n  hooks:\n    before:\n    - {{timeout: 20s, exec: \
             {{command: [/bin/sh, -c, '{before}']}}}}\n    after:\n    - exec: {{command: \
             [/bin/sh, -c, 'echo after >> /data/hooks']}}\n"
        )
    };
    let data = scene.data("db");
    let said = || std::fs::read_to_string(data.join("hooks")).unwrap_or_default();
    scene.back_up("works", "db", &hooks("echo before >> /data/hooks"));
    scene.succeeded("backup", "works");
    assert_eq!(said(), "before\nafter\n");
    // What the command printed is in the message: it is all there is to find the cause with.
    scene.back_up("fails", "db", &hooks("echo no such luck >&2; exit 3"));
    let status = scene.failed("backup", "fails", "HookFailed");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("no such luck") && message.contains('3'), "{message}");
    assert_eq!(said(), "before\nafter\nafter\n");
    // A hook that hangs is given up.
    scene.back_up("hangs", "db", &hooks("sleep 1000").replace("20s", "3s"));
    let status = scene.failed("backup", "hangs", "HookFailed");
    assert!(status["message"].as_str().unwrap().contains("3s"), "{status:#}");
    assert_eq!(said(), "before\nafter\nafter\nafter\n");
    assert_eq!(scene.archives().len(), 1);
    scene.tidy("db");
}
