use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::spec::VerifyMode;

/// Long after the files were written: nothing is too fresh to be trusted.
const LATER: i64 = i64::MAX / 2;

/// A store with a chain of archives of one tree.
struct Chain {
    store: LocalStore,
    format: ArchiveFormat,
    root: PathBuf,
    names: Vec<String>,
}

impl Chain {
    fn new(place: &Path, format: ArchiveFormat) -> Self {
        let store = LocalStore::open(&place.join("store"), "main", true).unwrap();
        Self { store, format, root: place.join("data"), names: Vec::new() }
    }

    /// Backs the tree up as it is, against the archive before.
    fn add(&mut self, started: i64) -> Manifest {
        let name = format!("backup_manual_v{}.{}", self.names.len(), self.format.extension());
        let mut options = options(&self.root, self.format);
        let parent = self.names.last().map(|parent| {
            let manifest = self.store.read_manifest(parent).unwrap();
            ParentArchive { name: parent.clone(), sha256: manifest.sha256 }
        });
        options.parent = parent.clone().map(|archive| ParentOptions {
            path: self.store.archive_path(&archive.name),
            format: self.format,
            archive,
            started,
        });
        let mut pending = self.store.begin(&name).unwrap();
        let summary = pack(&options, &mut pending, &Silent, &Cancel::new()).unwrap();
        let mut manifest = super::manifest(&name, &summary);
        manifest.parent = parent;
        pending.seal(&manifest).unwrap();
        self.names.push(name);
        manifest
    }

    /// Restores one archive of the chain and compares it with the tree.
    fn restore(&self, name: &str, expected: &Path) {
        let to = self.store.path().join("../out");
        let _ = std::fs::remove_dir_all(&to);
        let unpacked = unpack_to(&self.store.archive_path(name), "data", &to).unwrap();
        assert_eq!(unpacked.warnings, []);
        assert_eq!(snapshot(expected), snapshot(&to), "{name}");
        assert_same_by_rsync(expected, &to);
    }
}

#[test]
fn an_unchanged_tree_costs_next_to_nothing_and_restores_exactly() {
    for format in FORMATS {
        let place = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(place.path(), format);
        build_tree(&chain.root);
        let first = chain.add(0);
        let second = chain.add(LATER);
        assert_eq!((second.counts, second.source_bytes), (first.counts, first.source_bytes));
        // Only hard links are stored again.
        assert!(second.size_bytes < 15_000, "{format:?}: {}", second.size_bytes);
        for name in &chain.names {
            verify(&chain.store, name, VerifyMode::Full, &Silent, &Cancel::new()).unwrap();
            chain.restore(name, &chain.root);
        }
        let last = chain.store.archive_path(&chain.names[1]);
        assert_eq!(names_in(&last).len() as u64, first.counts.entries);
        let mut text = Vec::new();
        extract_one(&last, format, "data/a/b/c/link2", &mut text).unwrap();
        assert_eq!(text, b"hello");
    }
}

#[test]
fn a_chain_of_thirty_restores_every_state_exactly() {
    let place = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(place.path(), ArchiveFormat::TarGz);
    build_tree(&chain.root);
    let copies = place.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    for number in 0..30 {
        // Deleted, renamed, changed in type, linked across the bounds of archives, times put back.
        let script = match number % 10 {
            0 => "echo new > n$0; mkdir -p sub/$0; echo $0 > sub/$0/f",
            1 => "rm -f n$(($0 - 1)); ln a/file l$0",
            2 => "mv sub/$(($0 - 2)) moved$0; echo more >> moved$0/f",
            3 => "rm -rf moved$(($0 - 1)); echo 'now a file' > moved$(($0 - 1))",
            4 => "rm moved$(($0 - 2)); mkdir moved$(($0 - 2)); touch moved$(($0 - 2))/x",
            5 => "ln -sfn a s; chmod 700 a/b; touch -d '1999-01-01 UTC' a/big",
            6 => {
                "printf XXXXX | dd of=a/file conv=notrunc 2>/dev/null; touch -d '2020-01-01 UTC' a/file"
            }
            7 => "rm -f s; mkfifo s; mv 'with space' spaced$0; mv spaced$0 'with space'",
            8 => {
                "printf z | dd of=a/hole bs=1 seek=$((3000000 + $0)) conv=notrunc 2>/dev/null; rm s"
            }
            _ => "setfattr -n user.n -v $0 a/zero 2>/dev/null || true; rm l$(($0 - 8))",
        };
        let script = script.replace("$0", &number.to_string());
        shell(&chain.root, &script);
        // The clock of the source goes back and forth.
        chain.add(if number % 7 == 3 { 0 } else { LATER });
        shell(place.path(), &format!("cp -a data copies/{number}"));
    }
    for (number, name) in chain.names.iter().enumerate() {
        chain.restore(name, &copies.join(number.to_string()));
    }
    verify(&chain.store, &chain.names[29], VerifyMode::Full, &Silent, &Cancel::new()).unwrap();
    // One archive of the chain lost: what needs it is refused, what does not is not.
    std::fs::remove_file(chain.store.archive_path(&chain.names[5])).unwrap();
    assert!(
        verify(&chain.store, &chain.names[29], VerifyMode::Full, &Silent, &Cancel::new()).is_err()
    );
    chain.restore(&chain.names[4], &copies.join("4"));
}

#[test]
fn what_is_too_fresh_is_stored_again() {
    let place = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(place.path(), ArchiveFormat::TarZst);
    std::fs::create_dir(&chain.root).unwrap();
    std::fs::write(chain.root.join("f"), "x".repeat(100_000)).unwrap();
    chain.add(0);
    let now = chain.root.join("f").metadata().unwrap();
    // Read in the very second of the change: the times cannot tell what came after.
    let fresh = chain.add(std::os::unix::fs::MetadataExt::ctime(&now));
    let later = chain.add(std::os::unix::fs::MetadataExt::ctime(&now) + 10);
    let here = |name: &str| {
        let archive = super::super::archive::Archive::open(
            &chain.store.archive_path(name),
            ArchiveFormat::TarZst,
        )
        .unwrap();
        archive.index.as_ref().unwrap().stream_length()
    };
    assert!(here(&fresh.name) > 100_000);
    assert_eq!(here(&later.name), 1024);
    chain.restore(&later.name, &chain.root);
}

#[test]
fn another_parent_of_the_same_name_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(place.path(), ArchiveFormat::TarGz);
    build_tree(&chain.root);
    chain.add(0);
    chain.add(LATER);
    let first = chain.names[0].clone();
    chain.store.delete(&first).unwrap();
    shell(&chain.root, "echo other > a/file");
    let mut other =
        Chain { names: Vec::new(), root: chain.root.clone(), store: chain.store.clone(), ..chain };
    assert_eq!(other.add(0).name, first);
    let to = place.path().join("to");
    let result = unpack_to(&other.store.archive_path("backup_manual_v1.tar.gz"), "data", &to);
    assert!(matches!(result, Err(EngineError::Damaged { .. })), "{result:?}");
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
}

/// Damage in an ancestor was looked for in the members of the archive that was saved: other files were named, or the
/// program broke down. Without the ancestor nothing at all was saved.
#[test]
fn what_damage_in_an_ancestor_hits_is_told_by_its_own_index() {
    for format in FORMATS {
        let place = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(place.path(), format);
        std::fs::create_dir(&chain.root).unwrap();
        let mut noise = vec![0; 14_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        std::fs::write(chain.root.join("large"), noise).unwrap();
        shell(&chain.root, "mkdir d; echo 1 > d/small; echo 1 > d/replaced");
        chain.add(0);
        shell(&chain.root, "echo 2 > d/replaced; echo 1 > new");
        chain.add(LATER);
        let parent = chain.store.archive_path(&chain.names[0]);
        let last = chain.store.archive_path(&chain.names[1]);
        let mut bytes = std::fs::read(&parent).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 100].fill(0x55);
        std::fs::write(&parent, &bytes).unwrap();
        let to = place.path().join("saved");
        let saved = |to: &Path| {
            std::fs::create_dir(to).unwrap();
            salvage(&last, format, &[], to, &Silent, &Cancel::new()).unwrap()
        };
        let found = saved(&to);
        assert_eq!(found.lost, ["data/large"], "{format:?}");
        assert_eq!(std::fs::read(to.join("data/d/replaced")).unwrap(), b"2\n");
        assert_eq!(std::fs::read(to.join("data/d/small")).unwrap(), b"1\n");
        std::fs::remove_file(&parent).unwrap();
        let to = place.path().join("saved without it");
        let mut found = saved(&to);
        found.lost.sort();
        // Directories in it are lost as such; what is in them is not.
        found.lost.retain(|name| name != "data" && name != "data/d" && !name.ends_with('/'));
        assert_eq!(found.lost, ["data/d/small", "data/large"], "{format:?}");
        assert_eq!(std::fs::read(to.join("data/d/replaced")).unwrap(), b"2\n");
        assert_eq!(std::fs::read(to.join("data/new")).unwrap(), b"1\n");
    }
}

/// A link holds no data, so no damage was ever found in it: who knows the file by that name alone was told nothing.
#[test]
fn hard_links_of_what_damage_hits_are_named_in_every_archive_of_a_chain() {
    for format in FORMATS {
        let place = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(place.path(), format);
        std::fs::create_dir(&chain.root).unwrap();
        let mut noise = vec![0; 14_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let large = chain.root.join("large");
        std::fs::write(&large, noise).unwrap();
        // Behind the file in the order of inodes, so that it is the link that has the name in there.
        let inode = |path: &Path| path.metadata().unwrap().ino();
        let old = (0..10_000).map(|number| chain.root.join(format!("d{number}"))).find(|path| {
            std::fs::create_dir(path).unwrap();
            inode(path) > inode(&large)
        });
        let old = old.unwrap();
        std::fs::hard_link(&large, old.join("link")).unwrap();
        shell(&chain.root, "echo 1 > small; ln small whole");
        chain.add(0);
        // The file stays as it is, and its link has a name that the ancestor does not know.
        std::fs::rename(&old, chain.root.join("renamed")).unwrap();
        let old = format!("data/{}/link", old.file_name().unwrap().display());
        let last = chain.add(LATER);
        assert!(last.size_bytes < 100_000, "{format:?}: {}", last.size_bytes);
        let mut bytes = std::fs::read(chain.store.archive_path(&chain.names[0])).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 100].fill(0x55);
        std::fs::write(chain.store.archive_path(&chain.names[0]), &bytes).unwrap();

        let told = |name: &str| {
            verify(&chain.store, name, VerifyMode::Full, &Silent, &Cancel::new())
                .unwrap_err()
                .to_string()
        };
        let of_full = told(&chain.names[0]);
        let ends = |text: &str, names: [&str; 2], more: &[&str]| {
            let mut names = [&names[..], more].concat();
            names.sort_unstable();
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            assert!(text.ends_with(&format!("damaged are {}", names.join(", "))), "{text}");
        };
        ends(&of_full, ["data/large", &old], &[]);
        let of_last = told(&chain.names[1]);
        ends(&of_last, ["data/large", &old], &["data/renamed/link"]);
        for (name, link) in chain.names.iter().zip([old.as_str(), "data/renamed/link"]) {
            let to = place.path().join(name);
            let path = chain.store.archive_path(name);
            let found = salvage(&path, format, &[], &to, &Silent, &Cancel::new()).unwrap();
            let mut expected = ["data/large", link];
            expected.sort_unstable();
            assert_eq!((&found.lost[..], found.lost_count), (&expected.map(str::to_owned)[..], 2));
        }
    }
}

#[test]
fn differences_are_told_from_the_indexes_alone() {
    let place = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(place.path(), ArchiveFormat::TarGz);
    std::fs::create_dir(&chain.root).unwrap();
    shell(
        &chain.root,
        "echo 1 > same; echo 1 > changed; echo 1 > touched; echo 1 > gone; echo 1 > kind; mkdir d; echo 1 > d/f; \
         echo 1 > listed; setfattr -n user.of -v one listed",
    );
    chain.add(0);
    shell(
        &chain.root,
        "echo 2 > changed; touch -d '2001-01-01 UTC' touched; rm gone; rm kind; mkdir kind; mv d e; \
         setfattr -n user.of -v other listed",
    );
    chain.add(LATER);
    let mut found = BTreeMap::new();
    let paths: Vec<PathBuf> =
        chain.names.iter().map(|name| chain.store.archive_path(name)).collect();
    let format = ArchiveFormat::TarGz;
    differences((&paths[0], format), (&paths[1], format), &mut |difference| {
        found.insert(difference.display_name(), difference.change);
        Ok(())
    })
    .unwrap();
    found.remove("data");
    let expected = [
        ("data/changed", Change::Changed),
        ("data/d", Change::Removed),
        ("data/d/f", Change::Removed),
        ("data/e", Change::Added),
        ("data/e/f", Change::Added),
        ("data/gone", Change::Removed),
        ("data/kind", Change::Changed),
        ("data/listed", Change::Attributes),
        ("data/touched", Change::Attributes),
    ];
    assert_eq!(found, expected.map(|(name, change)| (name.to_owned(), change)).into());
    // The later archive alone says which names are gone.
    let archive = super::super::archive::Archive::open(&paths[1], format).unwrap();
    let mut removed = archive.index.unwrap().removed();
    removed.sort();
    assert_eq!(removed, [b"data/d".to_vec(), b"data/d/f".to_vec(), b"data/gone".to_vec()]);
}

#[test]
fn holes_need_no_room_wherever_the_data_lies() {
    for format in FORMATS {
        let place = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(place.path(), format);
        std::fs::create_dir(&chain.root).unwrap();
        let root = chain.root.clone();
        let sparse = |name: &str| {
            let file = File::create(root.join(name)).unwrap();
            file.set_len(1 << 40).unwrap();
            file.write_all_at(&[7; 4096], 1 << 30).unwrap();
        };
        sparse("old");
        std::fs::write(chain.root.join("plain"), [1; 5000]).unwrap();
        std::fs::hard_link(chain.root.join("plain"), chain.root.join("linked")).unwrap();
        chain.add(LATER);
        sparse("new");
        chain.add(LATER);
        for (name, files) in chain.names.iter().zip(1_u64..) {
            let path = chain.store.archive_path(name);
            let needed = space_needed(&path, format).unwrap().unwrap();
            let [(root, bytes)] = &needed[..] else { panic!("{needed:?}") };
            assert_eq!(root, "data");
            // The map of a sparse file is a block of its own.
            let least = 5000 + files * 4096;
            assert!((least..=least + files * 1024).contains(bytes), "{format:?} {name}: {bytes}");
        }
    }
}
