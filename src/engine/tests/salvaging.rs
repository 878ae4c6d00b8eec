use super::*;

/// A tree whose every file says what it has to hold.
fn telling_tree(root: &Path) {
    std::fs::create_dir_all(root.join("d")).unwrap();
    for number in 0..400 {
        let text = format!("file {number}; ").repeat(700);
        std::fs::write(root.join(format!("d/f{number}")), text).unwrap();
    }
    let mut noise = vec![0; 14_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(root.join("large"), noise).unwrap();
    std::fs::hard_link(root.join("d/f1"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("d/f2", root.join("symlink")).unwrap();
}

/// How many files are there, all of which must be what they were; large ones may have zeros.
fn whole_files(root: &Path, saved: &Path, lost: &[String]) -> usize {
    let mut whole = 0;
    for (name, text) in snapshot(&saved.join("data")) {
        let original = root.join(&name);
        let meta = original.symlink_metadata().unwrap();
        if !meta.is_file() || text.contains("same as link") {
            continue;
        }
        let (one, other) = (
            std::fs::read(&original).unwrap(),
            std::fs::read(saved.join("data").join(&name)).unwrap(),
        );
        if lost.contains(&format!("data/{}", name.display())) {
            assert_eq!(one.len(), other.len());
            assert!(one.iter().zip(&other).all(|(one, other)| one == other || *other == 0));
        } else {
            assert!(one == other, "{} is neither whole nor told to be lost", name.display());
            whole += 1;
        }
    }
    whole
}

fn saved(path: &Path, format: ArchiveFormat, to: &Path) -> Salvaged {
    let _ = std::fs::remove_dir_all(to);
    salvage(path, format, &[], to, &Silent, &Cancel::new()).unwrap()
}

#[test]
fn what_is_not_damaged_is_saved_and_what_is_lost_is_named() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    telling_tree(&root);
    let to = place.path().join("out");
    let path = place.path().join("x");
    for format in FORMATS {
        pack_to(&options(&root, format), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let found = saved(&path, format, &to);
        assert_eq!((found.lost_count, found.indexed), (0, true), "{format:?}");
        assert_eq!(snapshot(&root), snapshot(&to.join("data")));
        // A hundred bytes in the middle of the file: the large one is there, with zeros.
        for part in [3, 5, 7] {
            let mut broken = whole.clone();
            let at = broken.len() * part / 9;
            broken[at..at + 100].fill(0x55);
            std::fs::write(&path, &broken).unwrap();
            let found = saved(&path, format, &to);
            assert!(found.indexed);
            assert!(found.lost_count >= 1, "{format:?} {part}");
            assert!(whole_files(&root, &to, &found.lost) >= 200, "{format:?} {part}");
        }
    }
}

#[test]
fn archives_that_have_lost_their_index_or_their_end_are_saved_too() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    telling_tree(&root);
    let to = place.path().join("out");
    let path = place.path().join("x");
    for format in FORMATS {
        pack_to(&options(&root, format), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // The index alone: nothing else is lost.
        let mut broken = whole.clone();
        let magic = broken.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
        broken[magic + 50] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert!(extract_tree(&path, format, &[], &to, &Silent, &Cancel::new()).is_err());
        let found = saved(&path, format, &to);
        assert!(!found.indexed);
        assert_eq!((found.lost_count, found.gaps), (0, 0), "{format:?}");
        assert_eq!(snapshot(&root), snapshot(&to.join("data")), "{format:?}");
        // Half of the file is gone, and something in the first half is damaged.
        let mut broken = whole[..whole.len() / 2].to_vec();
        let at = broken.len() / 2;
        broken[at..at + 2000].fill(0x55);
        std::fs::write(&path, &broken).unwrap();
        let found = saved(&path, format, &to);
        assert!(!found.indexed);
        whole_files(&root, &to, &found.lost);
        // Cut, and nothing else: that more was there has to be told too.
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let found = saved(&path, format, &to);
        assert!(!found.indexed && found.gaps > 0, "{format:?}");
    }
}

/// A directory, a link or an empty file whose header was damaged was lost without a word, as the next block is a header
/// again.
#[test]
fn an_entry_without_data_whose_header_is_damaged_leaves_a_gap() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a"), "a").unwrap();
    std::os::unix::fs::symlink("a", root.join("symlink")).unwrap();
    std::fs::write(root.join("z"), "z").unwrap();
    let (path, to) = (place.path().join("x"), place.path().join("out"));
    let format = ArchiveFormat::Tar;
    pack_to(&options(&root, format), &path).unwrap();
    let mut broken = std::fs::read(&path).unwrap();
    let header = broken.windows(12).position(|window| window == b"data/symlink").unwrap();
    broken[header + 1] ^= 1;
    let magic = broken.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
    broken[magic + 50] ^= 1;
    std::fs::write(&path, &broken).unwrap();
    let found = saved(&path, format, &to);
    assert!(!found.indexed && found.gaps > 0, "{found:?}");
    assert!(to.join("data/z").exists() && !to.join("data/symlink").exists());
}
