//! Files that change while they are read: the archive is valid whatever happens, and what is in it is
//! something that was there, or is told of.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{contents, contents_from, counted_by_tar};
use crate::scene::{STORE, Scene, backup};

/// Files that are changed in each way.
const TIMES: usize = 20;
/// Bytes of each file: several reads, between which the limit makes the reader wait.
const SIZE: usize = 2_500_000;
/// By how much a file shrinks in each round.
const STEP: usize = 200_000;

/// One of the seven ways.
struct Way {
    name: &'static str,
    /// What is there before.
    before: fn(&Path),
    /// What happens to it; called again and again until the reader is done.
    change: fn(&Path, usize),
    /// Whether a file was ever of this size.
    was: fn(usize) -> bool,
    /// Whether there is a file of each name all the time, so that all have to be in the archive.
    stays: bool,
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().unwrap().as_bytes()
}

/// Puts a file there at once: nobody sees a part of it.
fn write_whole(path: &Path) {
    let beside = path.parent().unwrap().with_file_name(path.file_name().unwrap());
    fs::write(&beside, contents(name_of(path), SIZE)).unwrap();
    fs::rename(beside, path).unwrap();
}

fn append(path: &Path, bytes: usize) {
    if let Ok(mut file) = OpenOptions::new().write(true).open(path)
        && let Ok(length) = file.seek(SeekFrom::End(0))
        && length < 50_000_000
    {
        let _ = file.write_all(&contents_from(name_of(path), length, bytes));
    }
}

fn is_whole(size: usize) -> bool {
    size == SIZE
}

const WAYS: [Way; 7] = [
    Way {
        name: "deleted",
        before: write_whole,
        change: |path, _| {
            let _ = fs::remove_file(path);
        },
        was: is_whole,
        stays: false,
    },
    Way {
        name: "created",
        before: |_| {},
        change: |path, round| {
            if round == 0 {
                write_whole(path);
            }
        },
        was: is_whole,
        stays: false,
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
        was: is_whole,
        stays: false,
    },
    Way {
        name: "a directory becomes a file",
        before: |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("within"), "y").unwrap();
        },
        change: |path, _| {
            if path.is_dir() && fs::remove_dir_all(path).is_ok() {
                write_whole(path);
            }
        },
        was: is_whole,
        stays: false,
    },
    // The kernel shows a file that is appended to with every page more.
    Way {
        name: "grows fast",
        before: write_whole,
        change: |path, _| append(path, 400_000),
        was: |size| size >= SIZE,
        stays: true,
    },
    Way {
        name: "grows slowly",
        before: write_whole,
        change: |path, _| append(path, 7),
        was: |size| (SIZE..2 * SIZE).contains(&size),
        stays: true,
    },
    Way {
        name: "shrinks",
        before: write_whole,
        change: |path, round| {
            if let Ok(file) = OpenOptions::new().write(true).open(path) {
                let length = SIZE.saturating_sub(STEP * (round + 1));
                let _ = file.set_len(length as u64);
            }
        },
        was: |size| size == 0 || (size <= SIZE && (SIZE - size).is_multiple_of(STEP)),
        stays: true,
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
    let (mut told, mut sizes) = (0, 0);
    for way in &WAYS {
        let scene = Scene::new();
        scene.apply(STORE).ok();
        for number in 0..TIMES {
            (way.before)(&scene.path(&format!("live/f{number:02}")));
        }
        // Enough beside them that reading takes a while whatever they hold.
        fs::write(scene.path("live/m"), contents(b"m", 2_000_000)).unwrap();
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
            let Ok(found) = fs::symlink_metadata(&path) else {
                assert!(!way.stays, "{}: {name} is not there", way.name);
                continue;
            };
            if found.is_dir() {
                continue;
            }
            // Every byte is the one of its name and place, and the size one that it had. What was cut off
            // before it was read is zeros to the end, and said.
            let data = fs::read(&path).unwrap();
            assert!((way.was)(data.len()), "{}: {name} was never of {}", way.name, data.len());
            let expected = contents(name.as_bytes(), data.len());
            if data != expected {
                let at = data.iter().zip(&expected).position(|(is, was)| is != was).unwrap();
                let zeros = data[at..].iter().all(|byte| *byte == 0);
                assert!(zeros && is_told(&name), "{}: {name} is wrong from {at} on", way.name);
            }
            sizes += data.len();
        }
        assert!(fs::read(scene.path("out/live/m")).unwrap() == contents(b"m", 2_000_000));
        println!(
            "{}: {TIMES} files, {} entries in the archive, {} warnings",
            way.name, manifest["counts"]["entries"], manifest["warningCount"]
        );
    }
    println!(
        "seven kinds of change, {} files, {told} warnings, {sizes} bytes in their places",
        7 * TIMES
    );
    // Some of the changes must have hit the reader, or nothing has been tested.
    assert!(told >= 10, "only {told} changes were noticed");
}
