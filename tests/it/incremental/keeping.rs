//! Chains stay whole: when somebody deletes, when archives expire, when they are moved or imported, and
//! when the catalog is made again.

use super::*;
use crate::scene::STORE;

fn chain_of_three(scene: &Scene) -> [String; 3] {
    std::fs::write(scene.path("live/one"), "1").unwrap();
    increment(scene, "second", "");
    std::fs::write(scene.path("live/two"), "2").unwrap();
    increment(scene, "third", "");
    ["first", "second", "third"].map(|backup| name(&scene.record(backup)))
}

#[test]
fn what_others_build_on_is_not_deleted_by_anybody() {
    let scene = scene();
    let [first, second, third] = chain_of_three(&scene);
    for force in [None, Some("--force")] {
        let mut arguments = vec!["backup", "delete", "first", "--yes"];
        arguments.extend(force);
        scene.run(&arguments).code(4).says(&format!("{second} builds on it"));
    }
    // From the end on they go.
    for (backup, archive) in [("third", third), ("second", second), ("first", first)] {
        scene.run(&["backup", "delete", backup, "--yes", "--force"]).ok();
        assert!(!scene.stored().contains(&archive));
    }
    assert_eq!(scene.stored(), Vec::<String>::new());
}

#[test]
fn a_document_that_goes_leaves_an_archive_that_is_needed() {
    let scene = Scene::new();
    grow(&scene.path("live"));
    let specs = scene.path("specs");
    std::fs::create_dir(&specs).unwrap();
    std::fs::write(specs.join("store.yaml"), scene.fill(STORE)).unwrap();
    let policy = "deletionPolicy: Delete";
    std::fs::write(specs.join("a.yaml"), scene.fill(&backup("first", "@/live", policy))).unwrap();
    let daemon = crate::scene::Daemon::start(&scene, "specs");
    let done = |name: &str| {
        let found = scene.backups().into_iter().find(|record| record["object"] == name);
        found.is_some_and(|record| record["status"] == "Succeeded")
    };
    crate::scene::wait_until("the full one", || done("first"));
    let more = format!("type: Incremental\n{policy}");
    std::fs::write(specs.join("b.yaml"), scene.fill(&backup("second", "@/live", &more))).unwrap();
    crate::scene::wait_until("the incremental one", || done("second"));
    let archives = ["first", "second"].map(|backup| name(&scene.record(backup)));
    assert_eq!(scene.record("second")["parent"], archives[0]);
    std::fs::remove_file(specs.join("a.yaml")).unwrap();
    // Something that is noticed after it: another document, carried out.
    std::fs::write(specs.join("c.yaml"), scene.fill(&backup("other", "@/live/a", ""))).unwrap();
    crate::scene::wait_until("another one", || done("other"));
    assert!(archives.iter().all(|archive| scene.stored().contains(archive)));
    std::fs::remove_file(specs.join("b.yaml")).unwrap();
    crate::scene::wait_until("the end of the child", || !scene.stored().contains(&archives[1]));
    daemon.stop();
}

#[test]
fn a_chain_moves_and_is_imported_as_a_whole() {
    let scene = scene();
    let names = chain_of_three(&scene);
    let live = walked(&scene.path("live"));
    scene
        .apply(
            "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: second}\nspec: {local: {path: @/elsewhere}}\n",
        )
        .ok();
    scene.run(&["store", "migrate", "main", "second", "--yes"]).ok();
    assert_eq!(scene.stored(), Vec::<String>::new());
    assert_eq!(walked(&restore(&scene, "third", "moved")), live);
    scene.run(&["backup", "verify", "--all"]).ok();

    // Into an empty catalog: the last one brings what it builds on.
    let other = Scene::new();
    other.apply(STORE).ok();
    let from = scene.path("elsewhere").join(&names[2]);
    let from = from.to_str().unwrap();
    other.run(&["backup", "import", from, "--store", "main"]).ok().says(&names[0]);
    let records = other.backups();
    assert_eq!(records.len(), 3, "{records:?}");
    other.run(&["backup", "verify", "--all"]).ok();
    other.run(&["backup", "extract", "third", "--to", "out"]).ok();
    assert_eq!(walked(&other.path("out/live")), live);

    // Without what it builds on, or without its manifest, it is refused and leaves nothing.
    let third = Scene::new();
    third.apply(STORE).ok();
    let alone = third.path("alone");
    std::fs::create_dir(&alone).unwrap();
    for suffix in ["", ".manifest.json"] {
        let file = format!("{}{suffix}", names[2]);
        std::fs::copy(scene.path("elsewhere").join(&file), alone.join(&file)).unwrap();
    }
    let file = alone.join(&names[2]);
    let import = ["backup", "import", file.to_str().unwrap(), "--store", "main"];
    third.run(&import).code(3).says(&names[1]);
    std::fs::remove_file(alone.join(format!("{}.manifest.json", names[2]))).unwrap();
    third.run(&import).code(3).says("its own manifest is missing");
    assert_eq!(third.stored(), Vec::<String>::new());
}

#[test]
fn a_catalog_that_is_made_again_knows_the_chain() {
    let scene = scene();
    let [first, second, _] = chain_of_three(&scene);
    std::fs::remove_dir_all(scene.path("catalog")).unwrap();
    scene.run(&["db", "rebuild", "--store", "store"]).ok();
    assert_eq!(scene.record("third")["parent"], second);
    assert_eq!(scene.record("third")["backupType"], "Incremental");
    scene.run(&["backup", "delete", "first", "--yes", "--force"]).code(4).says("builds on it");
    assert!(scene.stored().contains(&first));
    scene.apply(STORE).ok();
    std::fs::write(scene.path("live/three"), "3").unwrap();
    let fourth = increment(&scene, "fourth", "");
    assert_eq!(fourth["parent"], name(&scene.record("third")));
    assert_eq!(walked(&scene.path("live")), walked(&restore(&scene, "fourth", "out")));
}
