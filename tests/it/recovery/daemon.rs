//! The daemon: it puts right what a killed process left, stops without leaving anything held still,
//! and carries a document out once.

use std::process::Stdio;

use super::kill::{Play, SIGKILL, Stage};
use crate::support::{self, Finished, Scene};

const STORE: &str = "apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {name: main}
spec: {local: {path: @/store}}
---
";

/// A Backup whose hook `before` takes as long as the file `@/hold` is there.
fn holding(description: &str) -> String {
    format!(
        "{STORE}apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {{name: tested}}
spec:
  target: {{host: {{paths: [@/live/root]}}}}
  storeRef: {{name: main}}
  description: {description}
  hooks:
    before:
    - exec:
        command: [sh, -c, \"echo before >> @/hooks.log; while test -e @/hold; do sleep 0.05; done\"]
    after: [{{exec: {{command: [sh, -c, \"echo after >> @/hooks.log\"]}}}}]
"
    )
}

fn scene() -> Scene {
    let scene = Scene::new();
    let root = scene.live().join("root");
    std::fs::create_dir(&root).unwrap();
    support::grow(&root, "live");
    scene
}

fn ended(scene: &Scene) -> Vec<(String, String)> {
    let rows = scene.query(
        "select operation, detail->>'$.failure.reason' as reason from operation_journal
         where step = 'operation' and mark <> 'Intent' order by id",
    );
    rows.iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            (text("operation"), text("reason"))
        })
        .collect()
}

fn pair(operation: &str, reason: &str) -> (String, String) {
    (operation.to_owned(), reason.to_owned())
}

#[test]
fn recovers_what_a_killed_run_left() {
    let points = [
        (Play::Backup(1), "archive.middle"),
        (Play::Backup(1), "seal.renamed"),
        (Play::Backup(1), "backup.verify.intended"),
        (Play::Restore(2), "swap.next-root"),
        (Play::Restore(1), "restore.swap.performed"),
        (Play::Restore(1), "backup.archive.performed"),
    ];
    for (play, point) in points {
        let stage = Stage::set(play);
        stage.kill_at(point);
        let daemon = stage.scene.daemon();
        let stopped = daemon.stop();
        assert_eq!(stopped.code, Some(0), "{point}: {stopped:#?}");
        stage.judge();
    }
}

#[test]
fn terminated_in_the_middle_of_a_backup() {
    let scene = scene();
    scene.document("hold", "");
    scene.document("specs/tested.yaml", &holding("terminated"));
    let daemon = scene.daemon();
    daemon.wait_until("the hook runs", || !scene.hook_log().is_empty());
    let stopped = daemon.stop();
    assert_eq!(stopped.code, Some(0), "{stopped:#?}");
    assert_eq!(scene.hook_log(), ["before", "after"]);
    assert_eq!(ended(&scene), [pair("Backup/default/tested/1", "Cancelled")]);
    assert_eq!(scene.stored(), Vec::<String>::new());
    assert!(!scene.path("eider.sock").exists());
}

#[test]
fn killed_in_the_middle_of_a_backup_and_started_again() {
    let scene = scene();
    scene.document("hold", "");
    let document = holding("killed");
    scene.document("specs/tested.yaml", &document);
    let daemon = scene.daemon();
    daemon.wait_until("the hook runs", || !scene.hook_log().is_empty());
    daemon.signal("KILL");
    assert_eq!(daemon.wait().signal, Some(SIGKILL));
    std::fs::remove_file(scene.path("hold")).unwrap();
    // It is put right, and an unchanged document does not run again, this time or the next.
    for _ in 0..2 {
        let daemon = scene.daemon();
        daemon.wait_until("the hooks after have run", || scene.hook_log() == ["before", "after"]);
        assert_eq!(daemon.stop().code, Some(0));
        assert_eq!(scene.hook_log(), ["before", "after"]);
        assert_eq!(ended(&scene), [pair("Backup/default/tested/1", "Interrupted")]);
        assert_eq!(scene.stored(), Vec::<String>::new());
    }
    // A changed one is another generation.
    let daemon = scene.daemon();
    scene.document("specs/tested.yaml", &holding("changed"));
    daemon.wait_until("the new generation has run", || scene.stored().len() == 2);
    daemon.wait_until("it has ended", || ended(&scene).len() == 2);
    assert_eq!(ended(&scene)[1], pair("Backup/default/tested/2", ""));
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(scene.hook_log(), ["before", "after", "before", "after"]);
    let daemon = scene.daemon();
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(ended(&scene).len(), 2);
    scene.run(["backup", "verify", "--all"]).succeeded();
}

#[test]
fn an_interrupted_run_puts_everything_back() {
    for name in ["INT", "TERM"] {
        let scene = scene();
        scene.document("hold", "");
        let document = scene.document("tested.yaml", &holding("interrupted"));
        let child = scene
            .eider(["run", "-f", document.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(support::wait(|| !scene.hook_log().is_empty()));
        support::signal(&child, name);
        let finished: Finished = child.wait_with_output().unwrap().into();
        assert_eq!(finished.code, Some(130), "{finished:#?}");
        assert!(finished.stderr.contains("everything is put back"), "{finished:#?}");
        assert_eq!(scene.hook_log(), ["before", "after"]);
        assert_eq!(ended(&scene), [pair("Backup/default/tested/1", "Cancelled")]);
        assert_eq!(scene.stored(), Vec::<String>::new());
    }
}

#[test]
fn an_interrupted_restore_leaves_the_old_tree() {
    let stage = Stage::set(Play::Restore(1));
    // The hook of the document waits for this file to go, which it does not.
    let text = std::fs::read_to_string(&stage.document).unwrap();
    let hold = stage.scene.document("hold", "");
    let waiting = format!("; while test -e {}; do sleep 0.05; done\"]", hold.display());
    let text = text.replacen("\"]", &waiting, 1);
    std::fs::write(&stage.document, text).unwrap();
    let child = stage
        .scene
        .eider(stage.arguments())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(support::wait(|| !stage.scene.hook_log().is_empty()));
    support::signal(&child, "INT");
    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!(finished.code, Some(130), "{finished:#?}");
    assert!(!stage.judge());
    assert_eq!(stage.scene.hook_log(), ["before", "after"]);
}
