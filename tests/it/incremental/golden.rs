//! Chains that an earlier version of this program has made (`scripts/golden-chain.sh`): every later one reads them.

use super::*;
use crate::scene::STORE;

/// The lines of a tree, without those that say which names are one inode.
fn names(state: &str) -> Vec<String> {
    let entry = |line: &&str| !line.contains(" one inode: ");
    let name = |line: &str| {
        let (name, _) = line.strip_prefix("b'").unwrap().split_once("' [").unwrap();
        if name == "." { "data".to_owned() } else { format!("data/{name}") }
    };
    let mut names: Vec<String> = state.lines().filter(entry).map(name).collect();
    names.sort();
    names
}

#[test]
fn golden_chains_are_listed_verified_and_restored_exactly() {
    let scene = Scene::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chains/version-2");
    shell(&golden, &format!("cp backup_* {}", scene.path("store").display()));
    scene.apply(STORE).ok();
    scene.run(&["db", "rebuild", "--store", "store"]).ok();
    let verified = scene.run(&["backup", "verify", "--all", "-o", "json"]).ok().items();
    assert_eq!(verified.len(), 9);
    let mut states = 0;
    for number in 0..3 {
        let expected = std::fs::read_to_string(golden.join(format!("state-{number}.txt"))).unwrap();
        for format in ["tar-gz", "tar-zst", "tar"] {
            let backup = format!("{format}-{number}");
            let record = scene.record(&backup);
            assert_eq!(record["backupType"], if number == 0 { "Full" } else { "Incremental" });
            if number > 0 {
                let parent = scene.record(&format!("{format}-{}", number - 1));
                assert_eq!(record["parent"], name(&parent));
            }
            let listed = scene.run(&["backup", "files", &backup, "-o", "json"]).ok().items();
            let mut found: Vec<&str> = listed
                .iter()
                .map(|entry| entry["name"].as_str().unwrap().trim_end_matches('/'))
                .collect();
            found.sort_unstable();
            assert_eq!(found, names(&expected), "{backup}");
            let out = restore(&scene, &backup, &format!("out-{backup}"));
            assert_eq!(walked(&out), expected, "{backup}");
            states += 1;
        }
    }
    assert_eq!(states, 9);
}
