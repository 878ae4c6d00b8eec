//! `docs/design/failpoints.md` names every point of the sources, and no other; and every point has
//! its kill test. Reads the sources as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::points;

/// Points that no kill test passes, and why.
const NOT_KILLED: &[(&str, &str)] = &[
    ("upgrade.", "nothing on a plain host can be upgraded; `tests/it/kubernetes/kills.rs`"),
    ("docker.", "a plain host has no containers; `tests/it/docker/kills/points.rs`"),
];

fn sources(directory: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// String literals that look like a point of an engine or the catalog: `word.word-word`, where the
/// first word is one of those that some literal in a call of `hit` begins with.
fn literal_points() -> BTreeSet<String> {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let literals = |text: &str| -> Vec<String> {
        text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut groups = BTreeSet::new();
    for text in &texts {
        for call in text.split("failpoint::hit(\"").skip(1) {
            let point = call.split('"').next().unwrap();
            groups.insert(point.split('.').next().unwrap().to_owned());
        }
    }
    // Some are passed to the function that hits them. Those groups are named here.
    groups.insert("discard".to_owned());
    let mut found = BTreeSet::new();
    for text in &texts {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for literal in literals(line) {
                let Some((group, rest)) = literal.split_once('.') else { continue };
                let named = !rest.is_empty()
                    && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
                // A registry, which looks like one.
                if named && groups.contains(group) && literal != "docker.io" {
                    found.insert(literal);
                }
            }
        }
    }
    found
}

/// `{kind}.{step}.{moment}` for the steps of the planners.
fn step_points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["backup", "restore", "upgrade"] {
        let path = format!("{}/src/plan/{kind}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let module = text.split("pub mod step {").nth(1).unwrap().split("\n}").next().unwrap();
        let mut steps: BTreeSet<String> = module
            .lines()
            .filter(|line| line.contains("pub const"))
            .map(|line| line.split('"').nth(1).unwrap().to_owned())
            .collect();
        // Steps that one planner takes from another.
        for line in module.lines().filter(|line| line.contains("pub use")) {
            let list = line.split(['{', '}']).nth(1).unwrap();
            steps.extend(list.split(", ").map(|name| name.to_lowercase().replace('_', "-")));
        }
        for step in steps {
            found.extend(points::around(kind, &[&step]));
            found.insert(format!("{kind}.{step}.announced"));
        }
        found.extend(points::end(kind));
    }
    found
}

/// All of them.
pub fn all() -> BTreeSet<String> {
    literal_points().into_iter().chain(step_points()).collect()
}

/// What the document lists, with `{a,b}` spelled out.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design/failpoints.md");
    let text = fs::read_to_string(path).unwrap();
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let name = line.split('`').nth(1).unwrap();
        match name.split_once(".{") {
            Some((stem, list)) => {
                let list = list.trim_end_matches('}').split(',');
                found.extend(list.map(|moment| format!("{stem}.{moment}")));
            }
            None => _ = found.insert(name.to_owned()),
        }
    }
    found
}

#[test]
fn every_point_is_documented() {
    let sources = all();
    let documented = documented();
    let missing: Vec<_> = sources.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&sources).collect();
    assert!(missing.is_empty(), "not in docs/design/failpoints.md: {missing:#?}");
    assert!(invented.is_empty(), "in docs/design/failpoints.md only: {invented:#?}");
    assert!(sources.len() > 100);
}

#[test]
fn every_point_is_killed() {
    let mut killed: BTreeSet<String> = [
        points::around("backup", points::BACKUP_STEPS),
        points::around("backup", points::BACKUP_UNDO_STEPS),
        points::around("restore", points::RESTORE_STEPS),
        points::around("restore", points::RESTORE_EMPTY_STEPS),
        points::around("restore", points::RESTORE_UNDO_STEPS),
        points::end("backup"),
        points::end("restore"),
    ]
    .concat()
    .into_iter()
    .collect();
    for list in [
        points::BACKUP_INNER,
        points::RESTORE_INNER,
        points::RESTORE_UNDO_INNER,
        points::INSIDE_INNER,
        points::INSIDE_UNDO_INNER,
        points::MIGRATE,
        points::DELETE,
        points::CATALOG,
    ] {
        killed.extend(list.iter().map(|point| point.split(':').next().unwrap().to_owned()));
    }
    // On a plain host nothing but hooks holds a service still: the steps of that are never taken.
    let unreachable = |point: &str| {
        let step = point.split('.').nth(1).unwrap_or_default();
        ["quiesce", "resume", "health", "undo-quiesce", "undo-resume"].contains(&step)
            // In a cluster alone there is anything to announce to: `tests/it/kubernetes/kills.rs`.
            || point.ends_with(".announced")
            || NOT_KILLED.iter().any(|(prefix, _)| point.starts_with(prefix))
    };
    let sources = all();
    let never: Vec<_> =
        sources.difference(&killed).filter(|point| !unreachable(point.as_str())).collect();
    assert!(never.is_empty(), "without a kill test: {never:#?}");
}
