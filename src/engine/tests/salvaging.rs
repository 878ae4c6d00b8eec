use super::*;
use crate::engine::archive::Archive;

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
        assert_eq!(found.proved, format != ArchiveFormat::Tar);
        assert_eq!((found.lost_count, found.gaps), (0, 0), "{format:?}");
        let counted = count_salvageable(&path, format, &Cancel::new()).unwrap();
        assert_eq!(counted, (found.summary.entries, 0), "{format:?}");
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

/// The archive's own files, and files that are archives: with entries of the same names, each telling where it is from.
fn nesting_tree(place: &Path, format: ArchiveFormat, root: &Path) {
    let noise = |seed: &str, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        [seed.as_bytes(), &bytes].concat()
    };
    let inner = place.join("inner/data");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir_all(root).unwrap();
    // Around the others, so that what holds them is stored, and their members can be seen.
    std::fs::write(inner.join("noise-1"), noise("noise 1", 1_500_000)).unwrap();
    for number in 0..40 {
        let name = format!("f{number}");
        std::fs::write(inner.join(&name), noise(&format!("inner {number}"), 100)).unwrap();
        std::fs::write(inner.join(format!("inner{number}")), noise("strange", 100)).unwrap();
        std::fs::write(root.join(&name), noise(&format!("outer {number}"), 3000)).unwrap();
    }
    std::fs::write(inner.join("z"), "not the last").unwrap();
    // Of several members, so that one may lead to the next.
    std::fs::write(inner.join("zeros"), vec![0; 9_000_000]).unwrap();
    std::fs::write(inner.join("noise-2"), noise("noise 2", 1_500_000)).unwrap();
    pack_to(&options(&inner, format), &root.join("f05-eider")).unwrap();
    shell(&place.join("inner"), "tar cf ../data/f06-tar data/f* data/inner* data/z");
    // Larger than a member, with a header where the second piece begins.
    shell(&place.join("inner"), "rm data/zeros; head -c 4193792 /dev/zero > data/zeros");
    std::fs::write(inner.join("zeros"), noise("zeros", 4_193_792 - 5)).unwrap();
    shell(
        &place.join("inner"),
        "tar cf ../data/large-tar data/zeros data/f1 data/inner1 data/f2 data/f3 data/zeros",
    );
    std::fs::write(root.join("z"), "the last").unwrap();
}

/// Salvages and compares: what is there is what it was or told to be uncertain, and what was the archive's own stays.
fn judge_nested(found: &Salvaged, root: &Path, to: &Path, case: &str) {
    for file in std::fs::read_dir(to.join("data")).unwrap().map(|file| file.unwrap()) {
        let name = file.file_name();
        let told = found.uncertain.contains(&format!("data/{}", name.display()));
        let right = std::fs::read(root.join(&name)).ok() == std::fs::read(file.path()).ok();
        assert!(right || told, "{case}: {} is not the archive's: {found:?}", name.display());
    }
}

/// Behind damage the next header was searched for, and archives that are files in the archive have headers too: their
/// entries were saved as if they were its own, over files of the same names that had been saved rightly.
#[test]
fn an_archive_within_a_file_is_not_taken_for_the_archive() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    let (path, to) = (place.path().join("x"), place.path().join("out"));
    for format in FORMATS {
        nesting_tree(place.path(), format, &root);
        pack_to(&options(&root, format), &path).unwrap();
        let mut whole = std::fs::read(&path).unwrap();
        let magic = whole.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
        whole[magic + 50] ^= 1;
        let mut places = Vec::new();
        for needle in [&b"outer 7"[..], b"inner 3", b"strange", b"zeros", b"data/f06-tar"] {
            places.extend(whole.windows(needle.len()).position(|window| window == needle));
        }
        places.extend((1..10).map(|part| whole.len() * part / 10));
        // Where members and frames begin.
        let starts: &[u8] = match format {
            ArchiveFormat::TarGz => b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x18\0EM",
            ArchiveFormat::TarZst => b"\x28\xb5\x2f\xfd",
            ArchiveFormat::Tar => b"ustar\0",
        };
        let begins = whole.windows(starts.len()).enumerate();
        let begins = begins.filter(|(_, window)| *window == starts).map(|(at, _)| at);
        let begins: Vec<usize> = begins.collect();
        let found = Archive::open(&path, format).unwrap().index.unwrap().members;
        assert!(
            begins.len() > found.len() + 2,
            "{format:?}: those of the archive within are hidden"
        );
        // A bare tar has one for every file.
        places.extend(begins.into_iter().step_by(if format == ArchiveFormat::Tar {
            24
        } else {
            1
        }));
        let members: u64 = found.iter().map(|member| member.packed).sum();
        let members = usize::try_from(members).unwrap();
        let (mut certain, mut all) = (0, 0);
        for (number, at) in places.iter().enumerate() {
            // Every other of them has lost index, footer and table, too.
            let damage = [[(1, false), (5000, true)], [(5000, false), (60, true)]];
            for (length, is_cut) in damage[number % 2] {
                let mut broken = whole.clone();
                let end = (at + length).min(magic);
                broken[*at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
                if is_cut {
                    broken.truncate(members);
                }
                std::fs::write(&path, &broken).unwrap();
                let found = saved(&path, format, &to);
                let case = format!("{format:?} {at} {length} {is_cut}");
                assert!(!found.indexed, "{case}");
                // A bare tar has no checksums of what is in its files.
                if format == ArchiveFormat::Tar {
                    for name in std::fs::read_dir(to.join("data")).unwrap() {
                        let name = name.unwrap().file_name();
                        let told = found.uncertain.contains(&format!("data/{}", name.display()));
                        assert!(told || root.join(&name).exists(), "{case}: {}", name.display());
                    }
                } else {
                    judge_nested(&found, &root, &to, &case);
                }
                (certain, all) = (certain + usize::from(found.uncertain_count == 0), all + 1);
            }
        }
        println!("{format:?}: {certain} of {all} without a doubt");
        assert!(certain * 10 >= all * 7, "{format:?}: {certain} of {all} without a doubt");
        std::fs::remove_dir_all(&root).unwrap();
    }
}

/// One bit of a size led into a file, and what is an archive there was taken for the rest of the archive; zeros over
/// some blocks were taken for its end.
#[test]
fn damage_in_a_bare_tar_leads_nowhere_unsaid() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    let (path, to) = (place.path().join("x"), place.path().join("out"));
    let format = ArchiveFormat::Tar;
    nesting_tree(place.path(), format, &root);
    pack_to(&options(&root, format), &path).unwrap();
    let mut whole = std::fs::read(&path).unwrap();
    let magic = whole.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
    whole[magic + 50] ^= 1;
    let name = b"data/f06-tar\0";
    let header = whole.windows(name.len()).position(|window| window == name).unwrap();
    for (digit, bit) in (124..135).flat_map(|digit| [(digit, 1), (digit, 2), (digit, 4)]) {
        let mut broken = whole.clone();
        broken[header + digit] ^= bit;
        std::fs::write(&path, &broken).unwrap();
        let found = saved(&path, format, &to);
        let case = format!("{digit} {bit}");
        judge_nested(&found, &root, &to, &case);
        assert!(found.gaps > 0 && to.join("data/z").exists(), "{case}: {found:?}");
    }
    let mut broken = whole;
    broken[header..header + 4096].fill(0);
    std::fs::write(&path, &broken).unwrap();
    let found = saved(&path, format, &to);
    judge_nested(&found, &root, &to, "zeros");
    assert!(found.gaps > 0 && to.join("data/z").exists(), "{found:?}");
}
