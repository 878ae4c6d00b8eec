//! Archives that somebody or something has changed: found by `verify`, refused by `restore`.

mod restores;

use std::fs;
use std::path::{Path, PathBuf};

use crate::scene::{STORE, Scene, assert_same, shell};
use eider::engine::{Cancel, LocalStore, Silent, verify};
use eider::spec::VerifyMode;

/// A scene with one backup `one` of a small live tree that has since changed, and a copy of the
/// live tree as it is now.
fn scene() -> (Scene, PathBuf) {
    let scene = Scene::new();
    shell(
        &scene.path("live"),
        "mkdir d; for i in 1 2 3 4 5; do echo content $i > d/$i; done; head -c 9000 /dev/urandom > r; ln -s r l",
    );
    scene.backup("one", "@/live", "").ok();
    shell(&scene.path("live"), "echo live > d/1; echo live > new");
    shell(&scene.path(""), "cp -a live now");
    let archive = scene.archive("one");
    (scene, archive)
}

fn manifest(archive: &Path) -> PathBuf {
    PathBuf::from(format!("{}.manifest.json", archive.display()))
}

/// Flips one bit of one byte.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn refused(scene: &Scene, code: i32) {
    scene.restore("back", "{from: {backupRef: {name: one}}}").code(code).says("hint");
    assert_same(&scene.path("now"), &scene.path("live"));
    assert_eq!(scene.backups().len(), 1, "no safety backup is taken for what is refused");
}

/// The program has a process of its own for each place, so the many places go through its library.
#[test]
fn a_flipped_bit_anywhere_in_archive_or_manifest_is_found() {
    let (scene, archive) = scene();
    let store = LocalStore::open(&scene.path("store"), "main", false).unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap();
    let mut places = 0;
    for path in [archive.clone(), manifest(&archive)] {
        let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        let whole = fs::read(&path).unwrap();
        // Every byte of the first and last kilobyte's header and trailer, and a grid between.
        let grid = (0..length).step_by((length / 200).max(1));
        for at in grid.chain(0..24).chain(length - 24..length) {
            flip(&path, at);
            let found = verify(&store, name, VerifyMode::Full, &Silent, &Cancel::new());
            assert!(found.is_err(), "byte {at} of {} is not noticed", path.display());
            fs::write(&path, &whole).unwrap();
            places += 1;
        }
    }
    assert!(places >= 400, "{places}");
    verify(&store, name, VerifyMode::Full, &Silent, &Cancel::new()).unwrap();
}

#[test]
fn a_flipped_bit_is_told_and_a_restore_refused() {
    let (scene, archive) = scene();
    let length = usize::try_from(fs::metadata(&archive).unwrap().len()).unwrap();
    let whole = fs::read(&archive).unwrap();
    for at in [3, length / 3, length / 2, length - 2] {
        flip(&archive, at);
        scene.run(&["backup", "verify", "one"]).code(1);
        scene.run(&["restore", "create", "one", "--yes"]).code(1).says("damaged");
        assert_same(&scene.path("now"), &scene.path("live"));
        fs::write(&archive, &whole).unwrap();
    }
    assert_eq!(scene.record("one")["verifiedAt"], serde_json::Value::Null);
    scene.run(&["backup", "verify", "one"]).ok();
    assert!(scene.record("one")["verifiedAt"].is_string());
    scene.run(&["restore", "create", "one", "--yes"]).ok();
    assert_eq!(scene.read("live/d/1"), "content 1\n");
}

#[test]
fn the_table_of_verify_says_why_and_not_the_name_again() {
    let (scene, archive) = scene();
    flip(&archive, 200);
    let ended = scene.run(&["backup", "verify", "one"]).code(1);
    let row = ended.stdout.lines().nth(1).unwrap();
    assert_eq!(row.matches("backup_manual").count(), 1, "{row}");
    assert!(row.contains("damaged"), "{row}");
}

#[test]
fn a_truncated_archive_is_marked_and_refused() {
    let (scene, archive) = scene();
    let file = fs::OpenOptions::new().write(true).open(&archive).unwrap();
    file.set_len(fs::metadata(&archive).unwrap().len() - 1).unwrap();
    assert_eq!(scene.record("one")["file"], "wrong size");
    scene.run(&["backup", "verify", "one"]).code(1);
    scene.run(&["backup", "verify", "one", "--quick"]).code(1);
    refused(&scene, 1);
}

#[test]
fn a_missing_archive_is_marked_refused_and_can_be_deleted() {
    let (scene, archive) = scene();
    fs::remove_file(&archive).unwrap();
    assert_eq!(scene.record("one")["file"], "missing");
    assert!(scene.run(&["backup", "list"]).ok().stdout.contains("MISSING"));
    scene.run(&["backup", "verify", "one"]).code(1);
    scene.run(&["db", "check"]).code(1);
    refused(&scene, 3);
    scene.run(&["backup", "delete", "one", "--yes", "--force"]).ok();
    assert!(scene.backups().is_empty());
    assert_eq!(scene.stored(), Vec::<String>::new());
    scene.run(&["db", "check"]).ok();
}

#[test]
fn an_archive_without_or_with_a_foreign_manifest_is_refused() {
    let (scene, archive) = scene();
    let whole = fs::read(manifest(&archive)).unwrap();
    fs::remove_file(manifest(&archive)).unwrap();
    scene.run(&["backup", "verify", "one"]).code(1);
    refused(&scene, 3);
    let text = String::from_utf8(whole).unwrap().replace("\"live\"", "\"evil\"");
    fs::write(manifest(&archive), text).unwrap();
    scene.run(&["backup", "verify", "one"]).code(1);
    scene.restore("again", "{from: {backupRef: {name: one}}}").code(1);
    assert_same(&scene.path("now"), &scene.path("live"));
}

#[test]
fn swapped_archives_are_told_apart() {
    let (scene, one) = scene();
    scene.apply(&format!("{STORE}---\n{}", crate::scene::backup("two", "@/live", ""))).ok();
    let two = scene.archive("two");
    let spare = scene.path("spare");
    for pair in [[&one, &two], [&manifest(&one), &manifest(&two)]] {
        fs::rename(pair[0], &spare).unwrap();
        fs::rename(pair[1], pair[0]).unwrap();
        fs::rename(&spare, pair[1]).unwrap();
        // Also when both were swapped together, so that each manifest fits the file beside it.
        let ended = scene.run(&["backup", "verify", "--all", "-o", "json"]).code(1);
        assert!(ended.items().iter().all(|item| item["result"] == "failed"), "{}", ended.stdout);
        scene.run(&["restore", "create", "one", "--yes"]).code(1);
        assert_same(&scene.path("now"), &scene.path("live"));
    }
}

/// Changes a byte in the middle of what the archive holds of a file that could not be compressed.
fn damage_within(archive: &Path, file: &Path) {
    let (mut bytes, content) = (fs::read(archive).unwrap(), fs::read(file).unwrap());
    let needle = &content[content.len() / 2..][..32];
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 0x20;
    fs::write(archive, bytes).unwrap();
}

#[test]
fn salvage_saves_what_the_damage_has_left_and_names_the_rest() {
    for format in ["tar.gz", "tar.zst"] {
        let scene = Scene::new();
        // Files of a member each and more, so that one of them is hit alone.
        shell(
            &scene.path("live"),
            "for i in a b c; do head -c 13000000 /dev/urandom > $i; done; mkdir d; echo small > d/s; ln -s a l; ln b d/link; ln a e",
        );
        scene.backup("one", "@/live", &format!("archive: {{format: {format}}}")).ok();
        let archive = scene.archive("one");
        let out = scene.path("whole");
        let to = out.to_str().unwrap();
        scene.run(&["backup", "extract", "one", "--salvage", "--to", to]).ok();
        assert_same(&scene.path("live"), &out.join("live"));

        damage_within(&archive, &scene.path("live/b"));
        // By every name that the file has, for people and for programs.
        let hit = "damaged are `live/b`, `live/d/link`";
        scene.run(&["backup", "verify", "one"]).code(1).says(hit);
        let told = scene.run(&["backup", "verify", "one", "-o", "json"]).code(1);
        assert!(told.items()[0]["message"].as_str().unwrap().ends_with(hit), "{told:?}");
        let out = scene.path("saved");
        let to = out.to_str().unwrap();
        scene.run(&["backup", "extract", "one", "--to", to]).code(1);
        shell(&scene.path(""), "rm -rf saved");
        let ended = scene.run(&["backup", "extract", "one", "--salvage", "--to", to, "-o", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&ended.code(1).stdout).unwrap();
        assert_eq!(answer["lost"], serde_json::json!(["live/b", "live/d/link"]), "{answer}");
        assert_eq!(answer["lostCount"], 2, "{answer}");
        // Of a large file the pieces that were not hit are there, and zeros stand for the rest.
        let (was, is) =
            (fs::read(scene.path("live/b")).unwrap(), fs::read(out.join("live/b")).unwrap());
        assert_eq!(was.len(), is.len());
        let differ: Vec<usize> = (0..was.len()).filter(|at| was[*at] != is[*at]).collect();
        assert!(!differ.is_empty() && differ.iter().all(|at| is[*at] == 0), "{format}");
        assert!(differ[differ.len() - 1] - differ[0] < 4 << 20, "more than a member is gone");
        // Everything else is as it was.
        shell(
            &scene.path(""),
            "rm {live,saved/live}/{b,d/link}; touch -r saved/live live; touch -r saved/live/d live/d",
        );
        assert_same(&scene.path("live"), &out.join("live"));

        // Without its index and its end: what the stream says.
        let bytes = fs::read(&archive).unwrap();
        fs::write(&archive, &bytes[..bytes.len() - 200]).unwrap();
        shell(&scene.path(""), "rm -rf saved");
        let ended = scene.run(&["backup", "extract", "one", "--salvage", "--to", to, "-o", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&ended.code(1).stdout).unwrap();
        assert_eq!(answer["indexed"], false, "{answer}");
        for saved in ["a", "c", "d/s"] {
            assert!(
                fs::read(out.join("live").join(saved)).unwrap()
                    == fs::read(scene.path("live").join(saved)).unwrap()
            );
        }
    }
}

/// Two of three files were missing, and nothing was said: what an incremental archive refers to is told by its index
/// alone.
#[test]
fn salvage_of_an_incremental_archive_without_its_index_tells_what_it_leaves_out() {
    let scene = Scene::new();
    for name in ["one", "two"] {
        scene.write(&format!("live/{name}"), name);
    }
    // Time stamps of the last seconds are not trusted.
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    scene.backup("full", "@/live", "").ok();
    scene.write("live/three", "three");
    scene.backup("more", "@/live", "type: Incremental").ok();
    let (archive, parent) = (scene.archive("more"), scene.archive("full"));
    let bytes = fs::read(&archive).unwrap();
    let salvaged = || {
        shell(&scene.path(""), "rm -rf saved");
        let out = scene.path("saved");
        let to = out.to_str().unwrap();
        let ended =
            scene.run(&["backup", "extract", "more", "--salvage", "--to", to, "-o", "json"]);
        (fs::read_dir(out.join("live")).unwrap().count(), ended)
    };
    let (files, ended) = salvaged();
    let answer: serde_json::Value = serde_json::from_str(&ended.ok().stdout).unwrap();
    assert_eq!((files, &answer["leftOut"]), (3, &serde_json::Value::Null));
    fs::write(&archive, &bytes[..bytes.len() - 20]).unwrap();
    let (files, ended) = salvaged();
    let answer: serde_json::Value = serde_json::from_str(&ended.code(1).stdout).unwrap();
    assert_eq!(files, 1, "{answer}");
    assert_eq!(answer["leftOut"], *parent.file_name().unwrap().to_str().unwrap(), "{answer}");
    let mut flipped = bytes.clone();
    flipped[bytes.len() - 20] ^= 1;
    fs::write(&archive, flipped).unwrap();
    fs::remove_file(format!("{}.manifest.json", archive.display())).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&salvaged().1.code(1).stdout).unwrap();
    assert_eq!(answer["leftOut"], "unknown", "{answer}");
}
