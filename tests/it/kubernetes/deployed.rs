//! The operator as it is deployed: from the kustomization, in a pod, with its own account and image.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::cluster::Cluster;
use super::scene::{LONG, Scene, assert_same, copy_of};

/// The user of the operator's pod.
const OPERATOR: u32 = 65_532;

/// A directory with a kustomization of the overlay for one namespace, in this one and with this image.
fn kustomization(scene: &Scene) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kustomize");
    let copied = Command::new("cp").arg("-r").arg(source).arg(directory.path()).status().unwrap();
    assert!(copied.success());
    let image = scene.cluster.image();
    let (name, tag) = image.rsplit_once(':').unwrap();
    let text = format!(
        "namespace: {}\nresources: [../kustomize/overlays/one-namespace]\n\
         images: [{{name: eider, newName: {name}, newTag: {tag:?}}}]\n",
        &*scene.namespace
    );
    let own = directory.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("kustomization.yaml"), text).unwrap();
    directory
}

#[test]
fn the_kustomization_gives_an_operator_that_does_the_main_job_and_goes_with_its_namespace() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let namespace: &str = &scene.namespace;
    let directory = kustomization(&scene);
    let own = directory.path().join("own");
    let apply = ["apply", "--validate=false", "-k", own.to_str().unwrap()];
    scene.cluster.kubectl(&apply);
    // What a provisioner that knows `fsGroup` does; this one's directories are root's.
    let claim = scene.cluster.claim_path(namespace, "eider-catalog");
    chown(claim, Some(OPERATOR), Some(OPERATOR)).unwrap();
    let rollout = ["-n", namespace, "rollout", "status", "deployment/eider", "--timeout=4m"];
    scene.cluster.kubectl(&rollout);
    let described = scene.object("deployment", "eider").unwrap();
    let pod = &described["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], OPERATOR, "{pod:#}");

    scene.fill("db");
    let before = copy_of(&scene.data("db"));
    scene.back_up("first", "db", "  consistency: {timeout: 5m}\n");
    // Its pod is lost in the middle: the next one goes on.
    scene.cluster.wait("the backup to be under way", LONG, || {
        (scene.object("backup", "first")?["status"]["phase"] == "Running").then_some(())
    });
    let selector = "app.kubernetes.io/component=operator";
    let delete = ["-n", namespace, "delete", "pods", "-l", selector, "--grace-period=0", "--force"];
    scene.cluster.kubectl(&delete);
    scene.succeeded("backup", "first");
    scene.running("db");
    std::fs::remove_file(scene.data("db").join("linked.txt")).unwrap();
    std::fs::write(scene.data("db").join("deep/er/5.txt"), "spoilt").unwrap();
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: back}\n\
         spec: {from: {backupRef: {name: first}}, consistency: {timeout: 5m}}\n",
    );
    scene.succeeded("restore", "back");
    assert_same(before.path(), &scene.data("db"));
    assert_eq!(scene.archives().len(), 2, "the backup, and the safety backup of the restore");

    // `kubectl exec` beside the operator reads its catalog.
    let exec = ["-n", namespace, "exec", "deployment/eider", "--"];
    let list = ["eider", "backup", "list", "--output", "json"];
    let listed = scene.cluster.kubectl(&[&exec[..], &list].concat());
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed["items"].as_array().unwrap();
    assert!(listed.iter().all(|one| one["target"] == "statefulset/db"), "{listed:#?}");
    assert_eq!(listed.len(), 2, "{listed:#?}");

    // Whoever deletes the namespace deletes the operator with it: nothing of what has ended may wait
    // for somebody to take a finalizer off.
    scene.cluster.kubectl(&["delete", "namespace", namespace, "--timeout=4m"]);
}
