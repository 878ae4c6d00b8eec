use super::super::archive::Archive;
use super::super::index::Location;
use super::*;
use crate::spec::VerifyMode;

/// Numbers that are the same in every run.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % limit as u64).unwrap()
    }
}

/// The names of the entries of the member that this byte of the file is in.
fn entries_at(archive: &Archive, at: u64) -> Option<Vec<String>> {
    let index = archive.index.as_ref().unwrap();
    let member = index
        .members
        .iter()
        .find(|member| (member.file_offset..member.file_offset + member.packed).contains(&at))?;
    let bounds = member.offset..member.offset + member.raw;
    let mut names = Vec::new();
    for entry in index.entries().map(Result::unwrap) {
        let Location::Here { offset, header, stored } = entry.location else { continue };
        if offset < bounds.end && offset + header + stored > bounds.start {
            names.push(entry.info.display_name());
        }
    }
    Some(names)
}

#[test]
fn two_thousand_flips_and_truncations_are_all_detected_and_named() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let mut dice = Dice::new("tree");
    for number in 0..60 {
        let mut bytes = vec![0; dice.below(40_000)];
        dice.0.fill(&mut bytes);
        if number % 2 == 0 {
            for byte in &mut bytes {
                *byte = b'a' + *byte % 4;
            }
        }
        std::fs::write(root.join(format!("f{number}")), bytes).unwrap();
    }
    std::fs::write(root.join("large"), "line of text\n".repeat(200_000)).unwrap();
    let store = LocalStore::open(&place.path().join("store"), "main", true).unwrap();
    let check = |name: &str| verify(&store, name, VerifyMode::Full, &Silent, &Cancel::new());
    let (mut flips, mut cuts, mut named) = (0, 0, 0);
    for format in FORMATS {
        let name = format!("backup_manual_v1.{}", format.extension());
        let mut pending = store.begin(&name).unwrap();
        let summary = pack(&options(&root, format), &mut pending, &Silent, &Cancel::new()).unwrap();
        pending.seal(&super::manifest(&name, &summary)).unwrap();
        check(&name).unwrap();
        let path = store.archive_path(&name);
        let archive = Archive::open(&path, format).unwrap();
        let manifest = store.path().join(format!("{name}{MANIFEST_SUFFIX}"));
        for (path, count) in [(path, 560), (manifest, 107)] {
            let whole = std::fs::read(&path).unwrap();
            for number in 0..count {
                let at = dice.below(whole.len());
                let mut broken = whole.clone();
                let cut = number % 10 == 0;
                if cut {
                    broken.truncate(at);
                    cuts += 1;
                } else {
                    broken[at] ^= 1 << dice.below(8);
                    flips += 1;
                }
                std::fs::write(&path, &broken).unwrap();
                let error = check(&name).expect_err(&format!("{format:?}: byte {at}"));
                let text = error.to_string();
                if !cut
                    && count > 200
                    && let Some(names) = entries_at(&archive, at as u64)
                    && !names.is_empty()
                {
                    // At most ten names are shown; those shown are hit.
                    let (_, shown) = text.split_once("damaged are ").expect(&text);
                    for name in shown.split('`').skip(1).step_by(2) {
                        assert!(names.iter().any(|hit| hit == name), "{name} in {text}");
                    }
                    named += 1;
                }
                std::fs::write(&path, &whole).unwrap();
            }
        }
        check(&name).unwrap();
    }
    assert!(flips + cuts >= 2000, "{flips} + {cuts}");
    println!("{flips} flips and {cuts} truncations detected, files named for {named}");
}
