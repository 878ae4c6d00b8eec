//! The same for what is no operation: moving a store and deleting a backup; and ways of being killed
//! that the matrix does not have: twice, inside a mount point, with the daemon as the one that
//! puts things right.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kill::{Play, SIGKILL, Stage, recover_and_judge, try_points};
use super::points::{DELETE, INSIDE_INNER, INSIDE_UNDO_INNER, MIGRATE, named};
use crate::support::{self, HOOKS, Scene};

/// Killed at the first point, and while that is put right at the second.
#[test]
fn killed_again_during_recovery() {
    let pairs = [
        (Play::Backup(1), "archive.middle", "backup.hooks-after.intended"),
        (Play::Backup(1), "backup.archive.performed", "backup.discard.intended"),
        (Play::Backup(1), "backup.seal.before", "seal.renamed"),
        (Play::Backup(1), "seal.renamed", "backup.discard.performed"),
        (Play::Backup(1), "seal.manifest-renamed", "backup.seal.performed"),
        (Play::Backup(1), "verify.middle", "verify.proved"),
        (Play::Backup(1), "backup.conclude.recorded", "backup.conclude.recorded"),
        (Play::Restore(1), "extract.middle", "restore.discard-staging.intended"),
        (Play::Restore(1), "restore.hooks-before.performed", "discard.middle:4"),
        (Play::Restore(1), "carry.middle:3", "restore.hooks-after.performed"),
        (Play::Restore(2), "swap.next-root", "swap-back.root"),
        (Play::Restore(2), "swap.exchanged:2", "restore.swap-back.performed"),
        (Play::Restore(1), "restore.swap.performed", "restore.hooks-after.performed"),
        (Play::Restore(1), "drop.middle", "drop.middle:3"),
        (Play::Restore(1), "verify.proved", "backup.conclude.closed"),
    ];
    for (play, first, second) in pairs {
        let stage = Stage::set(play);
        stage.kill_at(first);
        let again = stage.scene.run_into(second, stage.arguments());
        assert_eq!(
            again.signal,
            Some(SIGKILL),
            "{first}, then {second} was not passed: {again:#?}"
        );
        recover_and_judge(&stage);
    }
}

/// A failing backup removes its archive; killed while doing that.
#[test]
fn killed_while_discarding() {
    for moment in super::points::MOMENTS {
        let stage = Stage::set(Play::Backup(1));
        stage.kill_at("archive.written");
        let point = format!("backup.{}.{moment}", super::points::BACKUP_UNDO_STEPS[0]);
        let again = stage.scene.run_into(&point, stage.arguments());
        assert_eq!(again.signal, Some(SIGKILL), "{point} was not passed: {again:#?}");
        recover_and_judge(&stage);
    }
}

/// A root that is a mount point, where the children are moved one by one. Needs root.
#[test]
fn killed_inside_a_mount_point() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    let inside = |play: Play, point: &str| {
        let mounts = std::cell::RefCell::new(Vec::new());
        let stage = Stage::set_in(Scene::new(), play, |root| mounts.borrow_mut().push(mount(root)));
        stage.kill_at(point);
        recover_and_judge(&stage);
        drop(mounts);
    };
    for point in INSIDE_INNER {
        inside(Play::Restore(1), point);
    }
    for point in INSIDE_UNDO_INNER {
        inside(Play::FailingRestore(1), point);
    }
}

/// A mounted tmpfs, until it goes out of scope.
struct Mount(PathBuf);

fn mount(place: &Path) -> Mount {
    let done = Command::new("mount").args(["-t", "tmpfs", "eider-test"]).arg(place).status();
    assert!(done.unwrap().success());
    Mount(place.to_owned())
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Two stores and two backups in the first.
fn two_backups(scene: &Scene, other: &Path) {
    let root = scene.live().join("root");
    std::fs::create_dir(&root).unwrap();
    support::grow(&root, "first");
    let text = |name: &str, hooks: &str| {
        format!(
            "apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {{name: main}}
spec: {{local: {{path: @/store}}}}
---
apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {{name: other}}
spec: {{local: {{path: {}}}}}
---
apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {{name: {name}}}
spec:
  target: {{host: {{paths: [@/live/root]}}}}
  storeRef: {{name: main}}
  hooks: {hooks}
",
            other.display()
        )
    };
    for name in ["one", "two"] {
        let document = scene.document(&format!("{name}.yaml"), &text(name, HOOKS));
        scene.run(["run", "-f", document.to_str().unwrap()]).succeeded();
    }
}

#[test]
fn a_store_moves_however_often_it_is_killed() {
    // Another file system, where there is one.
    let memory = Path::new("/dev/shm");
    for point in MIGRATE {
        let scene = Scene::new();
        let other = match tempfile::tempdir_in(memory) {
            Ok(other) if device(memory) != device(&scene.store()) => other,
            _ => tempfile::tempdir().unwrap(),
        };
        two_backups(&scene, other.path());
        let before = scene.stored();
        assert_eq!(before.len(), 4);
        let migrate = ["store", "migrate", "main", "other", "--yes"];
        let killed = scene.run_into(point, migrate);
        assert_eq!(killed.signal, Some(SIGKILL), "{point} was never passed: {killed:#?}");
        // Between the two runs nothing is lost.
        scene.run(["backup", "verify", "--all"]).succeeded();
        scene.run(migrate).succeeded();
        assert_eq!(scene.stored(), Vec::<String>::new(), "after {point}");
        assert_eq!(visible(other.path()), before, "after {point}");
        let rows = scene
            .query("select *, backup_metadata->>'store' as store from backup_records order by id");
        assert_eq!(rows.len(), 2, "{rows:#?}");
        for row in &rows {
            let path = Path::new(row["backup_path"].as_str().unwrap());
            assert_eq!(path.parent(), Some(other.path()), "after {point}: {row}");
            assert_eq!(support::sha256sum(path), row["backup_hash"].as_str().unwrap());
            assert!(support::tar_accepts(path));
            assert_eq!(row["store"], "other", "{row}");
            assert_eq!(row["status"], "Succeeded", "{row}");
        }
        scene.run(["backup", "verify", "--all"]).succeeded();
        scene.run(["store", "check", "--full"]).succeeded();
        scene.run(migrate).succeeded();
        assert_eq!(visible(other.path()), before);
    }
}

/// What a killed copy has left under a temporary name is removed by `store check --clean` when it is
/// old enough.
fn visible(directory: &Path) -> Vec<String> {
    support::names(directory).into_iter().filter(|name| !name.starts_with('.')).collect()
}

fn device(path: &Path) -> u64 {
    path.metadata().unwrap().dev()
}

#[test]
fn a_deletion_is_finished_by_deleting_again() {
    for point in DELETE {
        let scene = Scene::new();
        two_backups(&scene, &scene.path("other"));
        let delete = ["backup", "delete", "one", "--yes"];
        let killed = scene.run_into(point, delete);
        assert_eq!(killed.signal, Some(SIGKILL), "{point} was never passed: {killed:#?}");
        // The archive is gone; the list says so before anybody has put the record right.
        assert_eq!(scene.stored().len(), 2);
        let list = scene.run(["backup", "list", "--output", "json"]).succeeded().stdout;
        assert!(list.contains("\"missing\""), "{list}");
        scene.run(delete).succeeded();
        let rows = scene.query(
            "select backup_metadata->>'object' as object, status, deleted_at from backup_records
             order by id",
        );
        assert_eq!(rows[0]["status"], "Deleted", "{rows:#?}");
        assert!(rows[0]["deleted_at"].is_string(), "{rows:#?}");
        assert_eq!(rows[1]["status"], "Succeeded", "{rows:#?}");
        assert_eq!(scene.stored().len(), 2);
        scene.run(["backup", "verify", "--all"]).succeeded();
    }
}

/// Roots that do not exist any more: there is no old tree to lose, and a kill must not leave a half
/// of the new one.
#[test]
fn restore_in_place_of_nothing() {
    let points =
        ["restore.swap.before", "restore.swap.performed", "swap.next-root", "drop.started"];
    try_points(Play::RestoreOfNothing, &named(&points));
}
