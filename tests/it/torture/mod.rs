//! What backup programs have been tormented with since 1991, in our own words: trees of every name,
//! length, kind and hole, and files that change under the reader's hands. Each case goes through the real
//! program into every format and back; a walker in Python compares every attribute of every entry.

// The counts are what a reader of the log wants to see.
#![allow(clippy::print_stdout)]

mod moving;
mod still;

use std::path::Path;

use serde_json::Value;

use crate::scene::{Scene, backup, head, tool};

const FORMATS: [&str; 3] = ["tar.gz", "tar.zst", "tar"];

/// What a file of this name holds: every place of every file something of its own, so that nothing can be shifted,
/// cut out, repeated or another file's without being seen. Files of even names are compressible.
fn contents(name: &[u8], length: usize) -> Vec<u8> {
    contents_from(name, 0, length)
}

/// The same from some place on.
fn contents_from(name: &[u8], start: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut source = blake3::Hasher::new().update(name).finalize_xof();
    source.set_position(start);
    source.fill(&mut bytes);
    if name.last().is_some_and(|last| last % 2 == 0) {
        for byte in &mut bytes {
            *byte = b'a' + *byte % 16;
        }
    }
    bytes
}

/// Backs up `live` in one format and restores it beside; gives the manifest.
fn there_and_back(scene: &Scene, format: &str) -> Value {
    let name = format.replace('.', "-");
    let more = format!("archive: {{format: {format}}}");
    scene.apply(&backup(&name, "@/live", &more)).ok();
    let to = format!("back-{name}");
    scene
        .apply(&format!(
            "{}metadata: {{name: {to}}}\nspec: {{from: {{backupRef: {{name: {name}}}}}, \
             target: {{host: {{paths: [@/{to}]}}}}, safetyBackup: false}}\n",
            head("Restore")
        ))
        .ok();
    manifest(&scene.archive(&name))
}

fn manifest(archive: &Path) -> Value {
    let text = std::fs::read_to_string(format!("{}.manifest.json", archive.display())).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// How many entries GNU tar finds; it escapes odd names, so that each is one line.
fn counted_by_tar(archive: &Path) -> u64 {
    tool("tar", &["tf", archive.to_str().unwrap()]).lines().count() as u64
}
