//! How much memory the real program takes: a million entries, and a file of 20 GB that is mostly hole. Not in
//! the default run: making, reading, proving and restoring a million files takes minutes (`make e2e-memory`).
//! Needs two million inodes where temporary files are, and 2 GB.

// The figures are what a reader of the log wants to see.
#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::scene::{Ended, STORE, Scene, backup, head};

/// What the engine may take beside the index, whatever the data: archive.md's bar, in KiB.
const FIXED: u64 = 64 << 10;
/// Bytes that an entry may take.
const PER_ENTRY: u64 = 200;
const ENTRIES: u64 = 1_000_000;

/// Runs the program and gives the most memory that it ever had resident, in KiB.
fn peak(scene: &Scene, arguments: &[&str]) -> (u64, Ended) {
    peak_with(scene, arguments, Stdio::piped())
}

/// The same with another standard output: what has more to say than a pipe holds would wait for a reader.
fn peak_with(scene: &Scene, arguments: &[&str], output: Stdio) -> (u64, Ended) {
    let mut command = scene.command(arguments);
    let begun = Instant::now();
    let mut child = command.stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    // The mark only rises, so that the last look before the end is what counts.
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let found = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        most = most.max(found.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = Ended::from(child.wait_with_output().unwrap());
    println!("{}: {} MiB at most, {:.1?}", arguments.join(" "), most >> 10, begun.elapsed());
    (most, ended)
}

fn apply(scene: &Scene, document: &str) -> u64 {
    scene.write("documents.yaml", scene.fill(document));
    let (most, ended) = peak(scene, &["run", "-f", "documents.yaml"]);
    ended.ok();
    most
}

/// What the program takes for one small file: the catalog and everything else that is no matter of data.
fn baseline(scene: &Scene) -> u64 {
    scene.apply(STORE).ok();
    scene.write("small/file", "x");
    apply(scene, &backup("small", "@/small", ""))
        .max(apply(scene, &restoring("small", "small-back")))
}

fn restoring(name: &str, to: &str) -> String {
    format!(
        "{}metadata: {{name: {to}}}\nspec: {{from: {{backupRef: {{name: {name}}}}}, \
         target: {{host: {{paths: [@/{to}]}}}}, safetyBackup: false}}\n",
        head("Restore")
    )
}

fn million(root: &Path) {
    for number in 0..1_000_u32 {
        let directory = root.join(format!("directory-{number:04}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..999_u32 {
            let mut created = File::create(directory.join(format!("file-{file:04}.txt"))).unwrap();
            // One with data has a hash, but takes room on the disk as well.
            if file % 5 == 0 {
                created.write_all(b"x").unwrap();
            }
        }
    }
}

#[test]
fn a_million_entries_take_two_hundred_bytes_each() {
    let scene = Scene::new();
    let base = baseline(&scene);
    million(&scene.path("live"));
    let bound = base + FIXED + ENTRIES * PER_ENTRY / 1024;
    let taken = apply(&scene, &backup("full", "@/live", ""));
    let again = apply(&scene, &backup("again", "@/live", "type: Incremental"));
    let restored = apply(&scene, &restoring("again", "back"));
    let (verified, ended) = peak(&scene, &["backup", "verify", "again"]);
    ended.ok();
    let mut listed = 0;
    for arguments in [
        ["backup", "files", "again", "-o", "table"],
        ["backup", "files", "again", "-o", "json"],
        ["backup", "files", "again", "--diff", "full"],
    ] {
        let (most, ended) = peak_with(&scene, &arguments, Stdio::null());
        ended.ok();
        listed = listed.max(most);
    }
    println!(
        "base {base} KiB, bound {bound} KiB: {taken}, {again}, {restored}, {verified}, {listed}"
    );
    // Nothing of a list is kept, but the index is.
    assert!(listed <= bound, "listing took {listed} KiB of {bound}");
    assert!(taken <= bound, "a full backup took {taken} KiB of {bound}");
    assert!(again <= bound, "an incremental backup took {again} KiB of {bound}");
    assert!(restored <= bound, "a restore took {restored} KiB of {bound}");
    assert!(verified <= bound, "verifying took {verified} KiB of {bound}");
}

/// As one snapshot of many that share their files: every name waits for others that never come.
#[test]
fn a_million_links_out_of_the_tree_take_no_more() {
    let scene = Scene::new();
    let base = baseline(&scene);
    million(&scene.path("live"));
    let outside = scene.path("outside");
    fs::create_dir(&outside).unwrap();
    for directory in fs::read_dir(scene.path("live")).unwrap() {
        let directory = directory.unwrap();
        let to = outside.join(directory.file_name());
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(directory.path()).unwrap() {
            let file = file.unwrap();
            fs::hard_link(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let bound = base + FIXED + ENTRIES * PER_ENTRY / 1024;
    let taken = apply(&scene, &backup("full", "@/live", ""));
    let again = apply(&scene, &backup("again", "@/live", "type: Incremental"));
    println!("base {base} KiB, bound {bound} KiB: {taken}, {again}");
    assert!(taken <= bound, "a full backup took {taken} KiB of {bound}");
    assert!(again <= bound, "an incremental backup took {again} KiB of {bound}");
}

#[test]
fn twenty_gigabytes_of_hole_take_no_memory() {
    let scene = Scene::new();
    let base = baseline(&scene);
    let mut file = File::create(scene.path("live/disk.img")).unwrap();
    file.set_len(20_000_000_000).unwrap();
    for piece in 0..200_u64 {
        file.seek(SeekFrom::Start(piece * 99_000_000)).unwrap();
        file.write_all(&vec![u8::try_from(piece).unwrap(); 100_000]).unwrap();
    }
    drop(file);
    let bound = base + FIXED;
    for format in ["tar.gz", "tar.zst", "tar"] {
        let name = format.replace('.', "-");
        let more = format!("archive: {{format: {format}}}");
        let taken = apply(&scene, &backup(&name, "@/live", &more));
        let back = format!("back-{name}");
        let restored = apply(&scene, &restoring(&name, &back));
        assert!(
            taken <= bound && restored <= bound,
            "{format}: {taken}, {restored} KiB of {bound}"
        );
        let (from, to) = (scene.path("live/disk.img"), scene.path(&format!("{back}/disk.img")));
        let blocks =
            |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap());
        assert!(blocks(&to) <= blocks(&from) + 4096, "{} {}", blocks(&from), blocks(&to));
        // The pieces are compared; the holes are what the block counts say.
        let (mut one, mut other) = (File::open(&from).unwrap(), File::open(&to).unwrap());
        assert_eq!(one.metadata().unwrap().len(), other.metadata().unwrap().len());
        for piece in 0..200_u64 {
            let mut both = [vec![0; 200_000], vec![0; 200_000]];
            for (file, data) in [&mut one, &mut other].into_iter().zip(&mut both) {
                file.seek(SeekFrom::Start((piece * 99_000_000).saturating_sub(50_000))).unwrap();
                std::io::Read::read_exact(file, data).unwrap();
            }
            assert!(both[0] == both[1], "{format}: piece {piece}");
        }
    }
}
