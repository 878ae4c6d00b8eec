//! Hundreds of places of damage, each through the steps that the planner wants of a Restore: nothing live is touched.

// The counts are what a reader of the log wants to see.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eider::engine::{Cancel, Silent};
use eider::plan::{self, Conclusion, Decision, Job, JournalEntry, Log, Mark};
use eider::runtime::host::HostRuntime;
use eider::runtime::{Handles, Runtime, Turn};
use jiff::Timestamp;
use serde_json::json;

use super::manifest;
use crate::scene::{Scene, assert_same, shell};

/// Flips of a bit in each part, for each format: in the members, the index, the footer and what follows it, and in
/// the manifest.
const FLIPS: [usize; 4] = [30, 20, 15, 15];

/// Everything about a tree that would show that somebody was there: identity, mode, times of data and inode, contents.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut text = format!(
            "{} {:o} {}:{} {}.{:09} {}.{:09}",
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        );
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            text += &format!(" {} {}", meta.len(), blake3::hash(&fs::read(&path).unwrap()));
        } else {
            text += &format!(" {}", fs::read_link(&path).unwrap().display());
        }
        found.insert(path, text);
    }
    found
}

/// Carries a job out as the operator's loop does: look, ask the planner, write the intent, act, write the outcome.
async fn carry_out(job: &Job) -> (Conclusion, Vec<&'static str>) {
    let runtime = HostRuntime::default();
    let handles =
        Handles { progress: Arc::new(Silent), cancel: Cancel::new(), turn: Turn::default() };
    let (mut journal, mut steps) = (Vec::new(), Vec::new());
    loop {
        let log = Log::new(&journal);
        let observed = runtime.observe(job, log).await.unwrap();
        let (step, action) = match plan::next(job, &log, &observed, Timestamp::now()) {
            Decision::Perform { step, action, .. } => (step, action),
            Decision::Wait { message, .. } => panic!("it waits: {message}"),
            Decision::Finish(conclusion) => return (conclusion, steps),
        };
        steps.push(step);
        let entry = |mark, detail| JournalEntry {
            operation: job.operation().clone(),
            step: step.to_owned(),
            mark,
            at: Timestamp::now(),
            session: "one".to_owned(),
            detail,
        };
        let intent = runtime.intend(job, &action, log).await.unwrap();
        journal.push(entry(Mark::Intent, intent));
        let outcome = match runtime.perform(job, &action, Log::new(&journal), &handles).await {
            Ok(facts) => entry(Mark::Done, facts),
            Err(failure) => entry(Mark::Failed, json!(failure)),
        };
        journal.push(outcome);
    }
}

fn job(scene: &Scene, archive: &Path, safety_backup: bool) -> Job {
    let job = json!({
        "kind": "Restore",
        "operation": "Restore/default/back/1",
        "spec": {"from": {"backupRef": {"name": "one"}}, "safetyBackup": safety_backup},
        "store": {"name": "main", "spec": {"local": {"path": scene.path("store")}}},
        "archive": archive.file_name().unwrap().to_str().unwrap(),
        "target": {"host": {"paths": [scene.path("live")]}},
    });
    serde_json::from_value(job).unwrap()
}

/// Members, index, and footer with what follows it, by `docs/design/archive-format.md`.
fn parts(archive: &[u8]) -> [Range<usize>; 3] {
    let magic = archive.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
    let index = u64::from_le_bytes(archive[magic + 16..magic + 24].try_into().unwrap());
    let index = usize::try_from(index).unwrap();
    [0..index, index..magic, magic..archive.len()]
}

/// So many places in a part, the first and the last among them.
fn places(part: &Range<usize>, count: usize) -> impl Iterator<Item = usize> {
    let (start, length) = (part.start, part.len());
    assert!(length >= count, "{part:?} is too short for {count} places");
    (0..count).map(move |number| start + number * (length - 1) / (count - 1))
}

#[test]
fn whatever_is_damaged_a_restore_is_refused_before_anything_live_is_touched() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut flips, mut cuts) = (0, 0);
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    for format in ["tar.gz", "tar.zst", "tar"] {
        let scene = Scene::new();
        // Several members: what cannot be compressed, what can, and small files.
        shell(
            &scene.path("live"),
            "mkdir -p d/e; for i in $(seq 40); do echo file $i > d/$i; done; head -c 2500000 /dev/urandom > noise
             seq 100000 > d/e/text; ln d/1 d/e/link; ln -s noise l; chmod 2750 d/e; chmod 4711 d/7",
        );
        shell(&scene.path(""), "cp -a live before");
        scene.backup("one", "@/live", &format!("archive: {{format: {format}}}")).ok();
        shell(&scene.path("live"), "echo live > d/1; echo live > new; rm l; chmod 700 d");
        let archive = scene.archive("one");
        let refused = job(&scene, &archive, true);
        let live = tree(&scene.path("live"));
        let beside = |scene: &Scene| shell(&scene.path(""), "ls -A . store");
        let around = beside(&scene);

        let mut attempt = |path: &Path, broken: &[u8], whole: &[u8], what: &str| {
            fs::write(path, broken).unwrap();
            let (conclusion, steps) = runtime.block_on(carry_out(&refused));
            let what = format!("{format}, {what} of {}: {steps:?}", path.display());
            let failure = conclusion.failure.unwrap_or_else(|| panic!("not noticed: {what}"));
            // Read as a whole before anything of it is written anywhere, and before anything stands still.
            let reached = steps.iter().any(|step| !matches!(*step, "preflight" | "verify-source"));
            assert!(!reached || steps.ends_with(&["verify-source", "discard-staging"]), "{what}");
            assert_eq!(tree(&scene.path("live")), live, "{what}");
            assert_eq!(beside(&scene), around, "{what}");
            let step = if steps.contains(&"verify-source") { "verify-source" } else { "preflight" };
            *ended.entry(format!("{step}: {}", failure.reason)).or_default() += 1;
            fs::write(path, whole).unwrap();
        };
        let whole = fs::read(&archive).unwrap();
        let told = manifest(&archive);
        let written = fs::read(&told).unwrap();
        let [members, index, footer] = parts(&whole);
        let all = [
            (&archive, &whole, members),
            (&archive, &whole, index.clone()),
            (&archive, &whole, footer.clone()),
            (&told, &written, 0..written.len()),
        ];
        for ((path, whole, part), count) in all.into_iter().zip(FLIPS) {
            for (number, at) in places(&part, count).enumerate() {
                let mut broken = whole.clone();
                broken[at] ^= 1 << (number % 8);
                attempt(path, &broken, whole, &format!("bit {} of byte {at}", number % 8));
                flips += 1;
            }
        }
        let ends = [0, index.start / 3, index.start, footer.start, whole.len() - 1];
        let of_manifest = [0, written.len() / 2, written.len() - 1];
        let cut = ends.iter().map(|end| (&archive, &whole, *end));
        for (path, whole, end) in cut.chain(of_manifest.iter().map(|end| (&told, &written, *end))) {
            attempt(path, &whole[..end], whole, &format!("all behind byte {end}"));
            cuts += 1;
        }
        // As it was it is put back, by the same steps and one that changes what is live.
        let (conclusion, steps) = runtime.block_on(carry_out(&job(&scene, &archive, false)));
        assert!(conclusion.is_success() && steps.contains(&"swap"), "{conclusion:?} {steps:?}");
        assert_same(&scene.path("before"), &scene.path("live"));
        assert_ne!(tree(&scene.path("live")), live);
    }
    assert_eq!((flips, cuts), (3 * FLIPS.iter().sum::<usize>(), 3 * 8));
    assert!(flips + cuts >= 200);
    println!(
        "{flips} flips and {cuts} truncations, each refused with the live tree as it was: {ended:?}"
    );
}
