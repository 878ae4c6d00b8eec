//! Chains of incremental archives, as the program takes, keeps, moves and restores them. The judges are
//! rsync and a walker in Python.

mod chains;
mod golden;
mod keeping;
mod parents;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::scene::{Scene, backup, head, shell, tool};

/// Longer than the time after a change in which time stamps are not trusted.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(3_100);

/// Every attribute of every entry beneath a directory, as Python sees it.
#[track_caller]
pub fn walked(root: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/walk.py");
    tool("python3", &[script.as_os_str(), root.as_os_str()])
}

/// A place with the store applied and a tree of all kinds beneath `live`.
fn scene() -> Scene {
    let scene = Scene::new();
    grow(&scene.path("live"));
    scene.backup("first", "@/live", "").ok();
    scene
}

fn grow(live: &Path) {
    shell(
        live,
        "mkdir -p a/b/c empty; echo hello > a/file; ln a/file a/b/link; ln -s ../nowhere a/b/dangling
         ln -s b a/dir; head -c 300000 /dev/urandom > a/big; truncate -s 3M a/hole
         printf data | dd of=a/hole bs=1 seek=1000000 conv=notrunc status=none
         mkfifo a/fifo; chmod 4751 a/file; chmod 1777 empty; touch -d '1999-05-05 01:02:03.123456789 UTC' a/big
         setfattr -n user.colour -v red a/big || true; for n in $(seq 50); do echo $n > a/b/c/$n; done",
    );
}

/// One incremental backup; with more lines of its spec.
fn increment(scene: &Scene, name: &str, more: &str) -> Value {
    let more = format!("type: Incremental\n{more}");
    scene.apply(&backup(name, "@/live", &more)).ok();
    scene.record(name)
}

/// Restores a backup beside the live tree.
fn restore(scene: &Scene, name: &str, to: &str) -> PathBuf {
    let spec = format!(
        "{{from: {{backupRef: {{name: {name}}}}}, target: {{host: {{paths: [@/{to}]}}}}, safetyBackup: false}}"
    );
    scene.apply(&format!("{}metadata: {{name: to-{to}}}\nspec: {spec}\n", head("Restore"))).ok();
    scene.path(to)
}

fn warnings(record: &Value) -> String {
    record["warnings"].as_array().map_or_else(String::new, |lines| {
        lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    })
}

fn settle() {
    std::thread::sleep(SETTLED);
}

/// The name of a record's archive.
fn name(record: &Value) -> String {
    record["backupName"].as_str().unwrap().to_owned()
}

/// Overwrites some bytes in the middle of an archive.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    for byte in &mut bytes[2_000..2_010] {
        *byte ^= 0x55;
    }
    std::fs::write(path, bytes).unwrap();
}
