//! A store on a file system that fills up.

use super::scene::{Daemon, STORE, Scene, SmallDisk, backup, may_mount, shell, wait_until};

#[test]
fn a_full_disk_fails_a_backup_cleanly_and_spares_earlier_ones() {
    if !may_mount("a_full_disk_fails_a_backup_cleanly_and_spares_earlier_ones") {
        return;
    }
    let scene = Scene::new();
    let _disk = SmallDisk::mount(&scene.path("store"), "4m");
    shell(&scene.path("live"), "head -c 500000 /dev/urandom > small");
    scene.backup("early", "@/live", "").ok();
    let stored = scene.stored();

    // The estimate alone refuses what cannot fit.
    shell(&scene.path("live"), "head -c 8000000 /dev/urandom > large");
    scene.backup("refused", "@/live", "").code(4).says("bytes free");
    assert_eq!(scene.stored(), stored);
    assert_eq!(scene.record("refused")["status"], "Failed");

    // What the estimate cannot know: the disk fills up while the archive is written. The hook runs
    // after the preflight.
    shell(&scene.path("live"), "rm large; head -c 1500000 /dev/urandom > medium");
    let fill = scene.fill("{exec: {command: [sh, -c, 'cat /dev/zero > @/store/ballast || true']}}");
    let ended = scene.backup("filled", "@/live", &format!("hooks: {{before: [{fill}]}}"));
    assert!([1, 4].contains(&ended.code), "{ended:?}");
    assert!(ended.stderr.contains("hint"), "{}", ended.stderr);
    let record = scene.run(&["get", "backup", "filled", "-o", "json"]).ok().stdout;
    assert!(record.contains("NotEnoughSpace") || record.contains("ArchiveFailed"), "{record}");
    let mut left = scene.stored();
    left.retain(|name| name != "ballast");
    assert_eq!(left, stored, "a partial archive was left");
    scene.run(&["backup", "verify", "early"]).ok();

    shell(&scene.path("store"), "rm ballast");
    scene.backup("later", "@/live", "").ok();
    assert_eq!(scene.record("later")["status"], "Succeeded");
    scene.run(&["db", "check"]).ok();
}

#[test]
fn the_space_that_is_to_stay_free_is_kept() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let ended = scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: main}\n\
         spec: {local: {path: @/store}, minFree: 900000Ti}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: one}\n\
         spec: {target: {host: {paths: [@/live]}}, storeRef: {name: main}}\n",
    );
    ended.code(4).says("hint");
    assert_eq!(scene.record("one")["status"], "Failed");
    assert_eq!(scene.stored(), Vec::<String>::new());
}

#[test]
fn a_restore_that_does_not_fit_is_refused_before_anything_changes() {
    if !may_mount("a_restore_that_does_not_fit_is_refused_before_anything_changes") {
        return;
    }
    let scene = Scene::new();
    shell(&scene.path("live"), "head -c 6000000 /dev/urandom > large");
    scene.backup("large", "@/live", "").ok();
    let _disk = SmallDisk::mount(&scene.path("small"), "3m");
    scene.write("small/data/f", "as it was");
    scene
        .restore(
            "back",
            &scene.fill(
                "{from: {backupRef: {name: large}}, target: {host: {paths: [@/small/data]}}}",
            ),
        )
        .code(4)
        .says("space");
    assert_eq!(shell(&scene.path("small"), "find . -type f"), "./data/f\n");
    assert_eq!(scene.read("small/data/f"), "as it was");
}

/// What was under way stayed where it was, with its service down, until the daemon was started again.
#[test]
fn an_operation_goes_on_when_the_disk_of_the_catalog_has_room_again() {
    if !may_mount("an_operation_goes_on_when_the_disk_of_the_catalog_has_room_again") {
        return;
    }
    let scene = Scene::new();
    let _disk = SmallDisk::mount(&scene.path("catalog"), "24m");
    scene.write("live/f", "x");
    std::fs::create_dir_all(scene.path("specs")).unwrap();
    let daemon = Daemon::start(&scene, "specs");
    // The hook fills the disk, and somebody makes room later.
    let script = "setsid sh -c 'sleep 6; rm @/catalog/ballast' >/dev/null 2>&1 & \
                  cat /dev/zero > @/catalog/ballast 2>/dev/null; true";
    let hook = scene.fill(&format!("{{exec: {{command: [sh, -c, \"{script}\"]}}}}"));
    let document = backup("held", "@/live", &format!("hooks: {{before: [{hook}]}}"));
    scene.write("specs/held.yaml", scene.fill(&format!("{STORE}---\n{document}")));
    wait_until("the backup to be finished", || {
        scene.backups().iter().any(|record| record["status"] == "Succeeded")
    });
    assert!(!scene.path("catalog/ballast").exists());
    assert_eq!(scene.stored().len(), 2, "{:?}", scene.stored());
    daemon.stop();
}

/// What was held still stayed so for as long as the disk was full: nobody could write down that it was to run
/// again.
#[test]
fn what_stands_still_does_not_wait_for_a_catalog_whose_disk_is_full() {
    if !may_mount("what_stands_still_does_not_wait_for_a_catalog_whose_disk_is_full") {
        return;
    }
    let scene = Scene::new();
    let _disk = SmallDisk::mount(&scene.path("catalog"), "24m");
    scene.write("live/f", "as it was");
    std::fs::create_dir_all(scene.path("specs")).unwrap();
    let daemon = Daemon::start(&scene, "specs");
    scene.write(
        "specs/first.yaml",
        scene.fill(&format!("{STORE}---\n{}", backup("first", "@/live", ""))),
    );
    wait_until("the first backup", || scene.backups().len() == 1);

    // Only the hook after makes room again: should it wait for the catalog, both would wait for ever.
    let before = "cat /dev/zero > @/catalog/ballast 2>/dev/null; echo held >> @/log";
    let after = "echo running >> @/log; sleep 2; rm @/catalog/ballast";
    let hook = |script: &str| scene.fill(&format!("[{{exec: {{command: [sh, -c, '{script}']}}}}]"));
    let hooks = format!("hooks: {{before: {}, after: {}}}", hook(before), hook(after));
    let restore = format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\n\
         spec: {{from: {{backupRef: {{name: first}}}}, target: {{host: {{paths: [@/live]}}}}, {hooks}}}\n"
    );
    let documents =
        [("Backup", "held", backup("held", "@/live", &hooks)), ("Restore", "back", restore)];
    for (kind, name, document) in documents {
        scene.write("live/f", "as it is now");
        scene.write(&format!("specs/{name}.yaml"), scene.fill(&document));
        let said = std::cell::Cell::new(false);
        let ended = std::cell::RefCell::new(String::new());
        wait_until("the operation to end", || {
            let is_missed =
                |(code, text): (u16, String)| code == 503 && text.contains("[-] catalog");
            said.set(said.get() || daemon.get("/readyz").is_some_and(is_missed));
            *ended.borrow_mut() = phase(&scene, kind, name);
            ["Succeeded", "Failed"].contains(&ended.borrow().as_str())
        });
        assert!(said.get(), "/readyz was silent about the catalog");
        wait_until("it is ready again", || {
            daemon.get("/readyz").is_some_and(|(code, _)| code == 200)
        });
        assert_eq!(scene.read("log"), "held\nrunning\n");
        // The last page of the catalog's file has room for a line or two more, or it has not.
        let status = scene.run(&["get", kind, name, "-o", "yaml"]).ok().stdout;
        if *ended.borrow() == "Failed" {
            assert!(
                status.contains("CatalogFailed") && status.contains("let run again"),
                "{status}"
            );
            assert_eq!(scene.read("live/f"), "as it is now");
        }
        std::fs::remove_file(scene.path("log")).unwrap();
    }
    for record in scene.backups().iter().filter(|record| record["status"] == "Succeeded") {
        scene.run(&["backup", "verify", record["object"].as_str().unwrap()]).ok();
    }
    daemon.stop();
    scene.run(&["db", "check"]).ok();
}

fn phase(scene: &Scene, kind: &str, name: &str) -> String {
    let answer = scene.run(&["get", kind, name, "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    let object = &value["items"][0];
    object["status"]["phase"].as_str().unwrap_or_default().to_owned()
}
