//! What waits says what for, and keeps nobody else waiting.

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{LONG, Scene};

/// Waits until a Backup gives this reason for waiting.
pub fn waits(scene: &Scene, name: &str, reason: &str) -> String {
    scene.cluster.wait(&format!("backup {name} to wait for {reason}"), LONG, || {
        let status = scene.object("backup", name)?["status"].clone();
        let conditions = status["conditions"].as_array()?;
        let found = conditions.iter().find(|one| one["type"] == "Succeeded")?;
        let waits = found["status"] == "Unknown" && found["reason"] == reason;
        waits.then(|| status["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn of_claim(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{volumeClaims: [{claim}]}}\n  storeRef: {{name: main}}\n  \
         guards: {{allowEmpty: true}}\n"
    )
}

#[test]
fn a_claim_that_is_stuck_keeps_only_its_own_operations_waiting() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let claim = |name: &str, class: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  \
             {class}accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: 1Gi}}}}\n---\n"
        )
    };
    scene.apply(&claim("stuck", "storageClassName: there-is-none\n  "));
    scene.apply(&claim("free", ""));
    let operator =
        Operator::new(&scene.cluster, &scene.namespace).arguments(&["--concurrency", "1"]);
    let process = operator.start();
    scene.apply(&of_claim("first", "stuck"));
    waits(&scene, "first", "ClaimPending");
    scene.apply(&of_claim("second", "stuck"));
    let message = waits(&scene, "second", "TargetBusy");
    assert!(message.contains("Backup first"), "{message}");
    // With one place for work at a time, and an operation in it that cannot work.
    scene.apply(&of_claim("other", "free"));
    scene.succeeded("backup", "other");
    // Who waits in the queue can be taken back, and the next takes its place.
    scene.apply(&of_claim("third", "stuck"));
    waits(&scene, "third", "TargetBusy");
    let delete = ["-n", &scene.namespace, "delete", "backup", "--timeout=4m"];
    scene.cluster.kubectl(&[&delete[..], &["second"]].concat());
    scene.cluster.kubectl(&[&delete[..], &["first"]].concat());
    waits(&scene, "third", "ClaimPending");
    assert!(!process.stop().stderr.contains("panicked"));
}

#[test]
fn a_quota_that_is_used_up_is_named_and_waited_for() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: small}\nspec: {hard: {pods: \"1\"}}\n",
    );
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    scene.back_up("squeezed", "db", "  consistency: {mode: Live}\n");
    let message = waits(&scene, "squeezed", "QuotaExceeded");
    assert!(message.contains("small"), "{message}");
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "resourcequota", "small"]);
    scene.succeeded("backup", "squeezed");
    assert_eq!(scene.archives().len(), 1);
    assert!(!process.stop().stderr.contains("panicked"));
}
