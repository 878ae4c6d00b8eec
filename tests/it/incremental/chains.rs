//! What a chain restores, and what happens when a part of it is gone.

use super::*;
use crate::scene::assert_same;

/// Changes of every kind: new and removed files, renamed trees, other types under the same name, links
/// across the bounds of archives, times that are put back.
fn change(live: &Path, number: usize) {
    let script = match number % 10 {
        0 => "echo new > n$0; mkdir -p sub/$0; echo $0 > sub/$0/f",
        1 => "rm -f n$(($0 - 1)); ln a/file l$0",
        2 => "mv sub/$(($0 - 2)) moved$0; echo more >> moved$0/f",
        3 => "rm -rf moved$(($0 - 1)); echo 'now a file' > moved$(($0 - 1))",
        4 => "rm moved$(($0 - 2)); mkdir moved$(($0 - 2)); touch moved$(($0 - 2))/x",
        5 => "mv a z; mv z/b .; mv b z/; mv z a; chmod 700 a/b",
        // The same length and the same time of modification as before: only the inode's change tells.
        6 => {
            "cp -p a/file ../stamp; printf XXXXX | dd of=a/file conv=notrunc status=none; touch -r ../stamp a/file"
        }
        7 => "ln -sfn a s; touch -h -d '2031-01-01 UTC' s; touch -d '1969-12-31 12:00 UTC' a/b/c/7",
        8 => "printf z | dd of=a/hole bs=1 seek=$((3200000 + $0)) conv=notrunc status=none; rm s",
        _ => {
            "setfattr -n user.n -v $0 a/big || true; rm -f l$(($0 - 8)); chown 1234:99 a/b/c/9 || true"
        }
    };
    shell(live, &script.replace("$0", &number.to_string()));
}

#[test]
fn a_chain_of_thirty_restores_every_state_exactly() {
    let scene = scene();
    let live = scene.path("live");
    std::fs::create_dir(scene.path("copies")).unwrap();
    shell(&scene.path(""), "cp -a live first");
    let first = scene.path("first");
    let mut names = Vec::new();
    for number in 0..29 {
        change(&live, number);
        let record = increment(&scene, &format!("i{number}"), "");
        assert_eq!(record["backupType"], "Incremental", "{record}");
        assert_eq!(warnings(&record), "");
        names.push(name(&record));
        shell(&scene.path("copies"), &format!("cp -a ../live {number}"));
    }
    // Each continues the one before, and says so in record and manifest.
    let parents: Vec<Value> =
        (1..29).map(|number| scene.record(&format!("i{number}"))["parent"].clone()).collect();
    assert_eq!(parents, names[..28]);
    // Every one of them.
    let mut states = 0;
    for number in 0..29 {
        let restored = restore(&scene, &format!("i{number}"), &format!("out{number}"));
        let expected = scene.path(&format!("copies/{number}"));
        assert_eq!(walked(&expected), walked(&restored), "{number}");
        assert_same(&expected, &restored);
        std::fs::remove_dir_all(restored).unwrap();
        states += 1;
    }
    assert_eq!(walked(&first), walked(&restore(&scene, "first", "out-first")));
    assert_eq!(states + 1, 30);
    scene.run(&["backup", "verify", "i28"]).ok();
    // The thirty-first would be one too many: a full one begins a new chain, and says why.
    let last = increment(&scene, "i29", "");
    assert_eq!(last["backupType"], "Full", "{last}");
    assert!(warnings(&last).contains("30 of 30 archives"), "{last}");
    assert_eq!(last["parent"], Value::Null);
}

#[test]
fn an_unchanged_tree_costs_next_to_nothing_and_is_seen_through_the_chain() {
    let scene = Scene::new();
    grow(&scene.path("live"));
    settle();
    scene.backup("first", "@/live", "").ok();
    std::fs::write(scene.path("live/a/file2"), "later").unwrap();
    let record = increment(&scene, "second", "");
    let full = scene.record("first")["backupSize"].as_i64().unwrap();
    let size = record["backupSize"].as_i64().unwrap();
    assert!(size * 20 < full, "{size} of {full}");
    assert_eq!(record["fileCount"], scene.record("first")["fileCount"].as_i64().unwrap() + 1);
    // Listed, extracted and verified as if everything were in it.
    let listed = scene.run(&["backup", "files", "second", "-o", "json"]).ok().items();
    assert!(listed.iter().any(|entry| entry["name"] == "live/a/b/c/17"));
    let text = scene.run(&["backup", "extract", "second", "--stdout", "live/a/b/c/17"]).ok();
    assert_eq!(text.stdout, "17\n");
    scene.run(&["backup", "extract", "second", "--to", "taken"]).ok();
    assert_eq!(walked(&scene.path("live")), walked(&scene.path("taken/live")));
    let changed = scene.run(&["backup", "files", "second", "--diff", "first", "-o", "json"]).ok();
    let mut changed: Vec<Value> =
        changed.items().into_iter().map(|entry| entry["name"].clone()).collect();
    changed.retain(|name| name != "live/a");
    assert_eq!(changed, ["live/a/file2"]);
    let shown = scene.run(&["backup", "show", "second"]).ok().stdout;
    assert!(shown.contains("Incremental") && shown.contains(&name(&scene.record("first"))));
    // GNU tar reads what is in it: the new file and the names of the linked one.
    let held = tool("tar", &["tf", scene.archive("second").to_str().unwrap()]);
    assert!(held.contains("live/a/file2") && !held.contains("c/17"), "{held}");
}

#[test]
fn a_chain_that_lacks_a_part_is_told_before_anything_live_is_touched() {
    let scene = scene();
    let live = scene.path("live");
    for number in 0..4 {
        change(&live, number);
        increment(&scene, &format!("i{number}"), "");
    }
    let kept = walked(&live);
    let in_place = |name: &str, to: &str| {
        scene.restore(
            &format!("r-{name}-{to}"),
            &format!("{{from: {{backupRef: {{name: {name}}}}}}}"),
        )
    };
    let middle = scene.archive("i1");
    let whole = std::fs::read(&middle).unwrap();
    damage(&middle);
    in_place("i3", "damaged").code(1).says(&name(&scene.record("i1")));
    assert_eq!(walked(&live), kept);
    scene.run(&["backup", "verify", "i3"]).code(1).says("failed verification");
    // What does not need it is whole.
    restore(&scene, "i0", "before");
    std::fs::remove_file(&middle).unwrap();
    in_place("i3", "missing").code(3).says("does not exist");
    assert_eq!(walked(&live), kept);
    // Put back, it is as if nothing had been.
    std::fs::write(&middle, whole).unwrap();
    scene.run(&["backup", "verify", "i3"]).ok();
    in_place("i3", "whole").ok();
    assert_eq!(walked(&live), kept);
}
