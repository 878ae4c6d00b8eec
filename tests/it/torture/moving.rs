//! Files that change while they are read: the archive is valid whatever happens, and what is in it is
//! something that was there, or is told of.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::counted_by_tar;
use crate::scene::{STORE, Scene, backup};

/// Files that are changed in each way.
const TIMES: usize = 20;
/// Bytes of each file: several reads, between which the limit makes the reader wait.
const SIZE: usize = 2_500_000;

/// One of the seven ways.
struct Way {
    name: &'static str,
    /// What is there before.
    before: fn(&Path),
    /// What happens to it; called again and again until the reader is done.
    change: fn(&Path, usize),
}

fn whole() -> Vec<u8> {
    vec![b'x'; SIZE]
}

fn write_whole(path: &Path) {
    fs::write(path, whole()).unwrap();
}

fn append(path: &Path, bytes: usize) {
    if let Ok(mut file) = OpenOptions::new().append(true).open(path)
        && file.metadata().is_ok_and(|metadata| metadata.len() < 50_000_000)
    {
        let _ = file.write_all(&vec![b'x'; bytes]);
    }
}

const WAYS: [Way; 7] = [
    Way {
        name: "deleted",
        before: write_whole,
        change: |path, _| {
            let _ = fs::remove_file(path);
        },
    },
    Way {
        name: "created",
        before: |_| {},
        change: |path, round| {
            if round == 0 {
                write_whole(path);
            }
        },
    },
    Way {
        name: "a file becomes a directory",
        before: write_whole,
        change: |path, _| {
            if fs::remove_file(path).is_ok() {
                let _ = fs::create_dir(path);
                let _ = fs::write(path.join("within"), "y");
            }
        },
    },
    Way {
        name: "a directory becomes a file",
        before: |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("within"), "y").unwrap();
        },
        change: |path, _| {
            if path.is_dir() && fs::remove_dir_all(path).is_ok() {
                let _ = fs::write(path, whole());
            }
        },
    },
    Way { name: "grows fast", before: write_whole, change: |path, _| append(path, 400_000) },
    Way { name: "grows slowly", before: write_whole, change: |path, _| append(path, 7) },
    Way {
        name: "shrinks",
        before: write_whole,
        change: |path, round| {
            if let Ok(file) = OpenOptions::new().write(true).open(path) {
                let length = SIZE.saturating_sub(200_000 * (round + 1));
                let _ = file.set_len(length as u64);
            }
        },
    },
];

/// Changes every file in turn from when the reader begins to when it is done.
fn disturb(scene: &Scene, way: &Way, done: &AtomicBool) {
    let begun = || scene.stored().iter().any(|name| name.starts_with(".eider-partial-"));
    let patience = Instant::now() + Duration::from_secs(30);
    while !begun() && !done.load(Ordering::Relaxed) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    for round in 0.. {
        for number in 0..TIMES {
            if done.load(Ordering::Relaxed) {
                return;
            }
            (way.change)(&scene.path(&format!("live/f{number:02}")), round);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn the_seven_kinds_of_change_leave_valid_archives_that_say_so() {
    let mut told = 0;
    for way in &WAYS {
        let scene = Scene::new();
        scene.apply(STORE).ok();
        for number in 0..TIMES {
            (way.before)(&scene.path(&format!("live/f{number:02}")));
        }
        // Enough beside them that reading takes a while whatever they hold.
        fs::write(scene.path("live/m"), vec![b'm'; 2_000_000]).unwrap();
        let more = "archive: {ioLimit: 24Mi}\nguards: {allowEmpty: true}";
        scene.write("documents.yaml", scene.fill(&backup("moving", "@/live", more)));
        let done = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| disturb(&scene, way, &done));
            let ended = scene.run(&["run", "-f", "documents.yaml"]);
            done.store(true, Ordering::Relaxed);
            ended
        });
        // Every change is survived: the archive is sealed, read back, and read by GNU tar.
        ended.ok();
        let archive = scene.archive("moving");
        let manifest = super::manifest(&archive);
        assert_eq!(manifest["counts"]["entries"], counted_by_tar(&archive), "{}", way.name);
        scene.run(&["backup", "extract", "moving", "--to", "out"]).ok();
        let warnings = manifest["warnings"].as_array().unwrap();
        told += warnings.len();
        let is_told = |name: &str| {
            warnings.iter().any(|one| one["path"].as_str().is_some_and(|path| path.ends_with(name)))
        };
        for number in 0..TIMES {
            let name = format!("f{number:02}");
            let path = scene.path(&format!("out/live/{name}"));
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                continue;
            }
            // Nothing that was never there, unless it is said.
            let data = fs::read(&path).unwrap();
            let wrong = data.iter().any(|byte| *byte != b'x');
            assert!(!wrong || is_told(&name), "{}: {name} is silently wrong", way.name);
        }
        println!(
            "{}: {TIMES} files, {} entries in the archive, {} warnings",
            way.name, manifest["counts"]["entries"], manifest["warningCount"]
        );
    }
    println!("seven kinds of change, {} files, {told} warnings, every archive whole", 7 * TIMES);
    // Some of the changes must have hit the reader, or nothing has been tested.
    assert!(told >= 10, "only {told} changes were noticed");
}
