//! Nothing runs twice, nothing is taken for something else: regressions, each named after what broke.

use std::fs;
use std::time::Duration;

use super::scene::{Daemon, STORE, Scene, backup, head, wait_longer, wait_until};

fn restore(name: &str, from: &str) -> String {
    format!(
        "{}metadata: {{name: {name}}}\nspec: {{from: {{backupRef: {{name: {from}}}}}}}\n",
        head("Restore")
    )
}

fn catalog(scene: &Scene) -> std::path::PathBuf {
    scene.path("catalog/eider.duckdb")
}

/// The files of the catalog without the ledger.
fn lose_catalog(scene: &Scene) {
    let _ = fs::remove_file(catalog(scene));
    let _ = fs::remove_file(scene.path("catalog/eider.duckdb.wal"));
}

fn done(scene: &Scene, name: &str) -> bool {
    let records = scene.backups();
    records.iter().any(|record| record["object"] == name && record["status"] == "Succeeded")
}

#[test]
fn a_lost_catalog_made_old_restores_run_again_over_live_data() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    let text = format!("{STORE}---\n{}---\n{}", backup("a", "@/live", ""), restore("r", "a"));
    scene.write("specs/all.yaml", scene.fill(&text));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("backup and restore are carried out", || {
        let restores = scene.run(&["get", "restores", "-o", "json"]).ok().items();
        restores.iter().any(|one| one["status"]["phase"] == "Succeeded")
    });
    assert_eq!(daemon.stop(), Some(0));
    scene.write("live/f", "written since");
    let stored = scene.stored();
    for damage in [false, true] {
        lose_catalog(&scene);
        if damage {
            fs::write(catalog(&scene), vec![7_u8; 90_000]).unwrap();
        }
        let daemon = Daemon::start(&scene, "specs");
        wait_until("the documents are known", || {
            !scene.run(&["get", "restores", "-o", "json"]).ok().items().is_empty()
        });
        // A new document is carried out: the daemon is past the old ones by then.
        let name = if damage { "after-damage" } else { "after-loss" };
        scene.write(&format!("specs/{name}.yaml"), scene.fill(&backup(name, "@/live", "")));
        wait_until("a new document is carried out", || done(&scene, name));
        assert_eq!(daemon.stop(), Some(0));
        assert_eq!(scene.read("live/f"), "written since");
    }
    assert_eq!(scene.stored().len(), stored.len() + 4, "{:?}", scene.stored());
    let lost = scene.run(&["get", "restores", "-o", "json"]).ok().items();
    assert!(lost[0]["status"]["message"].as_str().unwrap().contains("lost with the catalog"));
}

#[test]
fn a_rebuilt_record_was_overwritten_by_another_run_of_the_same_document() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.apply(&format!("{STORE}---\n{}", backup("a", "@/live", ""))).ok();
    let first = scene.record("a")["name"].clone();
    lose_catalog(&scene);
    // Without the ledger too it is a new beginning, and the document runs: beside what there is.
    fs::remove_file(scene.path("catalog/eider.duckdb.operations")).unwrap();
    let store = scene.path("store");
    scene.run(&["db", "rebuild", "--store", store.to_str().unwrap()]).ok();
    scene.apply(&format!("{STORE}---\n{}", backup("a", "@/live", ""))).ok();
    let names: Vec<_> = scene.backups().iter().map(|record| record["name"].clone()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&first), "{names:?} without {first}");
}

#[test]
fn an_object_in_two_documents_ran_again_and_again() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.write("specs/store.yaml", scene.fill(STORE));
    scene.write("specs/one.yaml", scene.fill(&backup("same", "@/live", "")));
    scene.write("specs/two.yaml", scene.fill(&backup("same", "@/live", "exclude: [x]\n")));
    let ended = scene.run(&["run", "-f", "specs"]).code(2);
    ended.says("Backup default/same stands in");
    scene.run(&["validate", "-f", "specs"]).code(2);
    assert!(scene.stored().is_empty());
    fs::remove_file(scene.path("specs/two.yaml")).unwrap();
    scene.run(&["run", "-f", "specs"]).ok();
    assert_eq!(scene.backups().len(), 1);
}

#[test]
fn a_failure_that_retention_cleared_away_counted_as_a_success() {
    let scene = Scene::new();
    scene.apply(STORE).ok();
    let text = format!(
        "{}metadata: {{name: nightly}}\nspec:\n  schedule: '0 2 * * *'\n  retention: {{keepFailed: 1}}\n  \
         template: {{spec: {{target: {{host: {{paths: [@/nowhere]}}}}, storeRef: {{name: main}}}}}}\n",
        head("BackupSchedule")
    );
    scene.apply(&text).ok();
    for _ in 0..3 {
        scene.run(&["schedule", "run", "nightly"]).code(3);
    }
    let statistics = scene.run(&["db", "query", "SELECT * FROM backup_statistics", "-o", "json"]);
    let statistics = statistics.ok().stdout;
    assert!(
        !statistics.contains("\"succeeded\": 1") && !statistics.contains("\"succeeded\": 2"),
        "{statistics}"
    );
    let schedules = scene.run(&["get", "ebs", "-o", "json"]).ok().stdout;
    assert!(!schedules.contains("lastSuccessAt\": \"2"), "{schedules}");
}

#[test]
fn a_restore_beside_its_backup_in_the_daemons_directory_failed_for_ever() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    // The Restore stands first, and its Backup takes a while.
    let hooks = "hooks: {before: [{exec: {command: [sleep, '1']}}]}\n";
    let text = format!("{STORE}---\n{}---\n{}", restore("r", "a"), backup("a", "@/live", hooks));
    scene.write("specs/all.yaml", scene.fill(&text));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the restore has ended", || {
        let restores = scene.run(&["get", "restores", "-o", "json"]).ok().items();
        restores.iter().any(|one| one["status"]["phase"] == "Succeeded")
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_busy_target_kept_other_targets_waiting() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.write("other/f", "two");
    scene.write("specs/1-store.yaml", scene.fill(STORE));
    let marker = scene.path("go-on");
    let wait = format!(
        "hooks: {{before: [{{exec: {{command: [sh, -c, 'until [ -e {} ]; do sleep 0.1; done']}}}}]}}\n",
        marker.display()
    );
    let daemon = Daemon::start(&scene, "specs");
    scene.write("specs/2-slow.yaml", scene.fill(&backup("slow", "@/live", &wait)));
    wait_until("the slow one has begun", || {
        let backups = scene.run(&["get", "backups", "-o", "json"]).ok().items();
        backups.iter().any(|one| one["status"]["phase"] == "Running")
    });
    for name in ["same-1", "same-2", "same-3"] {
        scene.write(&format!("specs/3-{name}.yaml"), scene.fill(&backup(name, "@/live", "")));
    }
    scene.write("specs/4-other.yaml", scene.fill(&backup("unrelated", "@/other", "")));
    wait_longer("the unrelated one is done", Duration::from_secs(30), &mut || {
        done(&scene, "unrelated")
    });
    assert!(!done(&scene, "slow"));
    fs::write(marker, "").unwrap();
    wait_until("the others follow", || {
        ["slow", "same-1", "same-2", "same-3"].iter().all(|name| done(&scene, name))
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn expiry_without_a_schedule_removed_nothing() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.apply(&format!("{STORE}---\n{}", backup("old", "@/live", "expiresAfter: 1s\n"))).ok();
    scene.apply(&backup("new", "@/live", "expiresAfter: 1s\n")).ok();
    std::thread::sleep(Duration::from_millis(1200));
    scene.write("specs/store.yaml", scene.fill(STORE));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the expired one is removed", || scene.stored().len() == 2);
    // The newest verified one stays, expired or not.
    assert_eq!(scene.backups()[0]["object"], "new");
    assert_eq!(daemon.stop(), Some(0));
}

/// What its schedule keeps was judged as if it had none, as soon as a Backup by hand of the same target had expired.
#[test]
fn a_backup_by_hand_that_expired_took_those_of_a_schedule_with_it() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.apply(&format!("{STORE}---\n{}", backup("by-hand", "@/live", "expiresAfter: 1s\n"))).ok();
    let schedule = format!(
        "{}metadata: {{name: nightly}}\nspec:\n  schedule: '0 2 1 1 *'\n  retention: {{keepLast: 5}}\n  \
         template: {{spec: {{target: {{host: {{paths: [@/live]}}}}, storeRef: {{name: main}}, \
         expiresAfter: 1s}}}}\n",
        head("BackupSchedule")
    );
    scene.write("specs/all.yaml", scene.fill(&format!("{STORE}---\n{schedule}")));
    scene.apply(&schedule).ok();
    for _ in 0..2 {
        scene.run(&["schedule", "run", "nightly"]).ok();
    }
    std::thread::sleep(Duration::from_millis(1200));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the expired one is removed", || {
        scene.backups().iter().all(|record| record["object"] != "by-hand")
    });
    let left = scene.backups();
    assert!(left.iter().all(|record| record["file"] == "ok"), "{left:?}");
    assert_eq!((left.len(), scene.stored().len()), (2, 4));
    assert_eq!(daemon.stop(), Some(0));
}
