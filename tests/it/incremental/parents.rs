//! Which archive is continued, and that everything is stored where none can be.

use super::*;

#[test]
fn without_a_parent_everything_is_stored_and_a_warning_says_why() {
    let scene = Scene::new();
    grow(&scene.path("live"));
    scene.apply(crate::scene::STORE).ok();
    let says = |name: &str, more: &str, expected: &str| {
        let record = increment(&scene, name, more);
        assert_eq!(record["backupType"], "Full", "{record}");
        assert_eq!(record["parent"], Value::Null);
        let told = warnings(&record);
        assert!(told.contains(expected) && told.contains("everything is stored"), "{told}");
        // It is a whole backup all the same.
        assert_eq!(
            walked(&scene.path("live")),
            walked(&restore(&scene, name, &format!("out-{name}")))
        );
    };
    says("none", "", "holds no backup of");
    says("named", "parentRef: {name: nobody}", "no archive of");
    says("other", "exclude: ['*.tmp']", "leave out other paths");
    // Of those with the same selection there is none that was read back.
    scene.apply(&backup("quick", "@/live", "verify: Quick\nexclude: [quick]")).ok();
    says("unproved", "exclude: [quick]", "has been verified");
    increment(&scene, "second", "parentRef: {name: none}\nmaxChain: 2");
    says("third", "parentRef: {name: second}\nmaxChain: 2", "2 of 2 archives");
}

#[test]
fn a_parent_that_is_damaged_is_found_before_anything_is_held_still() {
    let scene = scene();
    damage(&scene.archive("first"));
    // The hook shows the order: what preflight found was known before it.
    let record = increment(
        &scene,
        "second",
        "hooks: {before: [{exec: {command: [sh, -c, 'test -f @/live/a/file']}}]}",
    );
    assert_eq!(record["backupType"], "Full");
    assert!(warnings(&record).contains("cannot be continued"), "{record}");
    // The new one is what later ones continue.
    let third = increment(&scene, "third", "");
    assert_eq!(third["parent"], name(&record));
    assert_eq!(warnings(&third), "");
}

#[test]
fn a_parent_that_goes_between_looking_and_reading_costs_a_full_backup() {
    let scene = scene();
    let parent = name(&scene.record("first"));
    let record = increment(
        &scene,
        "second",
        &format!("hooks: {{before: [{{exec: {{command: [sh, -c, 'rm @/store/{parent}*']}}}}]}}"),
    );
    assert_eq!(record["backupType"], "Full");
    assert!(warnings(&record).contains("cannot be continued"), "{record}");
    restore(&scene, "second", "out");
    assert_eq!(walked(&scene.path("live")), walked(&scene.path("out")));
}

#[test]
fn a_parent_that_goes_while_it_is_continued_fails_the_backup() {
    let scene = scene();
    let parent = name(&scene.record("first"));
    let more = format!(
        "type: Incremental\nhooks: {{after: [{{exec: {{command: [sh, -c, 'rm @/store/{parent}*']}}}}]}}"
    );
    scene.apply(&backup("second", "@/live", &more)).code(3).says("removed meanwhile");
    assert_eq!(scene.stored(), Vec::<String>::new());
}

#[test]
fn the_clock_of_the_source_may_step() {
    let scene = Scene::new();
    let live = scene.path("live");
    grow(&live);
    // Written "in the future" and "long ago": what counts is whether anything differs from the parent.
    shell(
        &live,
        "echo one > ahead; touch -d '2040-01-01 UTC' ahead; echo one > back; touch -d '1980-01-01 UTC' back",
    );
    settle();
    scene.backup("first", "@/live", "").ok();
    shell(
        &live,
        "cp -p ahead ../a; cp -p back ../b; echo two > ahead; touch -r ../a ahead; echo two > back; touch -r ../b back",
    );
    increment(&scene, "second", "");
    shell(&live, "touch -d '1975-01-01 UTC' ahead; touch -d '2039-01-01 UTC' back");
    increment(&scene, "third", "");
    assert_eq!(walked(&live), walked(&restore(&scene, "third", "out")));
    let second = scene.run(&["backup", "extract", "second", "--stdout", "live/ahead"]).ok();
    assert_eq!(second.stdout, "two\n");
}

#[test]
fn the_command_line_takes_incrementals_too() {
    let scene = scene();
    let live = scene.path("live").to_str().unwrap().to_owned();
    let take = |more: &[&str]| {
        let mut arguments = vec!["backup", "create", "--path", &live, "--store", "main"];
        arguments.extend_from_slice(more);
        scene.run(&arguments).ok();
    };
    take(&["--type", "incremental", "--name", "second"]);
    take(&["--type", "incremental", "--name", "third", "--parent", "first"]);
    for child in ["second", "third"] {
        assert_eq!(scene.record(child)["parent"], name(&scene.record("first")));
    }
    let plain = ["backup", "create", "--path", &live, "--store", "main", "--parent", "first"];
    scene.run(&plain).code(2).says("Incremental");
}

#[test]
fn a_dry_run_names_the_parent_and_does_nothing() {
    let scene = Scene::new();
    scene.apply(crate::scene::STORE).ok();
    let live = scene.path("live").to_str().unwrap().to_owned();
    let plan = || {
        let more = ["--type", "incremental", "--dry-run"];
        scene
            .run(&[&["backup", "create", "--path", &live, "--store", "main"], &more[..]].concat())
            .ok()
            .stdout
    };
    let first = plan();
    assert!(first.contains("incremental, but store main holds no backup of"), "{first}");
    grow(&scene.path("live"));
    let full = increment(&scene, "one", "");
    let second = plan();
    assert!(second.contains(&format!("incremental, continues {}", name(&full))), "{second}");
    assert_eq!(scene.backups().len(), 1);
}
