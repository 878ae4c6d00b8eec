//! `eider` beside a running operator, as `kubectl exec` runs it in its pod.

use std::process::{Command, Output};

use super::cluster::{Cluster, PATIENCE};
use super::process::Operator;
use super::scene::Scene;
use crate::support::program;

#[test]
fn records_can_be_read_beside_the_operator_and_the_rest_is_the_clusters() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    let eider = |line: &str| -> Output {
        Command::new(program())
            .args(line.split_whitespace())
            .env("EIDER_CATALOG", operator.directory().join("catalog/eider.duckdb"))
            .env("EIDER_SOCKET", operator.directory().join("eider.sock"))
            .env("NO_COLOR", "1")
            .output()
            .unwrap()
    };
    scene.back_up("first", "db", "  consistency: {mode: Live}\n");
    let status = scene.succeeded("backup", "first");
    let archive = status["archive"]["name"].as_str().unwrap();
    let list = eider("backup list --output json");
    assert!(list.status.success(), "{list:?}");
    let text = String::from_utf8_lossy(&list.stdout);
    assert!(text.contains(archive), "{text}");
    scene.cluster.wait("the store's status", PATIENCE, || {
        let stores = String::from_utf8_lossy(&eider("store list").stdout).into_owned();
        let line = stores.lines().find(|line| line.contains("main"))?.to_owned();
        (line.contains("yes") && line.contains("backups")).then_some(())
    });
    for line in ["history", "get backups", "db check", "schedule list"] {
        let said = eider(line);
        assert!(said.status.success(), "{line}: {said:?}");
    }
    for (line, instead) in [
        ("backup delete first --yes", "kubectl delete"),
        ("backup create --path /tmp --store /tmp", "Backup"),
        ("store check", "reconcile-at"),
        ("rollback", "Restore"),
    ] {
        let said = eider(line);
        assert_eq!(said.status.code(), Some(4), "{line}: {said:?}");
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains(instead), "{line}: {text}");
    }
    assert_eq!(scene.archives().len(), 1);
    // The socket goes with the process.
    process.stop();
    assert!(!operator.directory().join("eider.sock").exists());
}
