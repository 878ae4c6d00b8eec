use proptest::prelude::*;

use super::super::tar::{BLOCK, END_OF_ARCHIVE, entry_blocks, padding};
use super::*;

fn entry(name: &str, kind: EntryKind) -> EntryInfo {
    EntryInfo {
        name: name.into(),
        kind,
        size: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Moment::default(),
        link_target: None,
        device: (0, 0),
        xattrs: vec![],
        sparse: false,
    }
}

fn link(name: &str, kind: EntryKind, target: &str) -> EntryInfo {
    EntryInfo { link_target: Some(target.into()), ..entry(name, kind) }
}

fn tar_of(entries: &[EntryInfo]) -> Vec<u8> {
    let mut tar = Vec::new();
    for info in entries {
        let info = if info.kind == EntryKind::File {
            EntryInfo { size: 4, ..info.clone() }
        } else {
            info.clone()
        };
        tar.extend(entry_blocks(&info, None).0);
        if info.kind == EntryKind::File {
            tar.extend(b"evil");
            tar.extend(padding(4));
        }
    }
    tar.extend(END_OF_ARCHIVE);
    tar
}

/// Unpacks into a directory with a sibling that must not change; returns the error.
fn refused(tar: &[u8]) -> EngineError {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("x.tar");
    std::fs::write(&archive, tar).unwrap();
    std::fs::create_dir_all(place.path().join("outside/dir")).unwrap();
    std::fs::write(place.path().join("outside/file"), "safe").unwrap();
    let before = snapshot(&place.path().join("outside"));
    let to = place.path().join("out");
    std::fs::create_dir(&to).unwrap();
    let options = UnpackOptions {
        destinations: vec![(String::new(), to.clone())],
        allow_devices: false,
        ..UnpackOptions::default()
    };
    let error =
        unpack(&archive, ArchiveFormat::Tar, &options, &Silent, &Cancel::new()).unwrap_err();
    assert_eq!(snapshot(&place.path().join("outside")), before);
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0, "nothing is written: {error}");
    error
}

#[test]
fn unsafe_archives_are_refused_before_anything_is_written() {
    use EntryKind::{CharacterDevice, Directory, Fifo, File, HardLink, Symlink};
    let good = entry("good", File);
    let cases = [
        vec![entry("/absolute", File)],
        vec![entry("../outside/file", File)],
        vec![entry("a/../../outside/file", File)],
        vec![link("l", Symlink, "../outside"), entry("l/file", File)],
        vec![link("l", Symlink, ".."), link("l/m", Symlink, "outside"), entry("l/m/file", File)],
        vec![link("l", Symlink, "../outside/dir"), entry("l", Directory)],
        vec![link("l", Symlink, "../outside/file"), entry("l", File)],
        vec![entry("d/x", File), link("d", Symlink, "../outside")],
        vec![link("h", HardLink, "../outside/file")],
        vec![link("h", HardLink, "/etc/passwd")],
        vec![link("h", HardLink, "later"), entry("later", File)],
        vec![entry("d", Directory), link("h", HardLink, "d")],
        vec![link("h", HardLink, "h")],
        vec![link("l", Symlink, "../outside/file"), link("l", HardLink, "l")],
        vec![entry("f", File), entry("f", Fifo)],
        vec![entry("f", File), entry("f", Directory)],
        vec![entry("f", File), entry("f/below", File)],
        vec![entry("f", File), link("f", Symlink, "x")],
        vec![entry("device", CharacterDevice)],
        vec![entry("", File)],
        vec![entry(".", File)],
        vec![entry(&"n".repeat(256), File)],
        vec![entry(&"d/".repeat(40_000), Directory)],
    ];
    for case in cases {
        let names: Vec<String> = case.iter().map(EntryInfo::display_name).collect();
        let error = refused(&tar_of(&[std::slice::from_ref(&good), case.as_slice()].concat()));
        assert!(
            matches!(error, EngineError::Unsafe { .. }),
            "{:?}: {error}",
            names.iter().map(|name| name.chars().take(40).collect()).collect::<Vec<String>>()
        );
        assert_eq!(error.reason(), crate::spec::Reason::ArchiveUnsafe);
    }
}

#[test]
fn names_with_nul_bytes_and_unknown_types_are_refused() {
    let long = format!("long/{}", "x".repeat(200));
    let mut tar = tar_of(&[entry(&long, EntryKind::File)]);
    let at = tar.windows(4).position(|window| window == b"xxxx").unwrap();
    let at = tar[at + BLOCK..]
        .windows(4)
        .position(|window| window == b"xxxx")
        .map_or(at, |more| at + BLOCK + more);
    tar[at.min(700)] = 0;
    let error = refused(&tar);
    assert!(error.to_string().contains("NUL"), "{error}");

    let mut tar = tar_of(&[entry("f", EntryKind::File)]);
    tar[156] = b'Q';
    fix_checksum(&mut tar);
    assert!(matches!(refused(&tar), EngineError::Unsafe { .. }));
}

fn fix_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn sizes_that_smuggle_entries_follow_posix_or_are_refused() {
    // A header that claims 0 bytes and a record that says 1024: the record counts, and what looks
    // like an entry in the data is none.
    let inner = tar_of(&[entry("smuggled", EntryKind::File)]);
    let mut tar = entry_blocks(&entry("x", EntryKind::Fifo), None).0;
    tar.clear();
    let record = b"13 size=1024\n";
    let mut extended =
        entry_blocks(&EntryInfo { size: 13, ..entry("pax", EntryKind::File) }, None).0;
    extended[156] = b'x';
    fix_checksum(&mut extended);
    tar.extend(extended);
    tar.extend(record);
    tar.extend(padding(13));
    tar.extend(entry_blocks(&entry("outer", EntryKind::File), None).0);
    tar.extend(&inner[..1024]);
    tar.extend(END_OF_ARCHIVE);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.tar");
    std::fs::write(&path, &tar).unwrap();
    assert_eq!(names_in(&path), ["outer"]);

    let mut tar = tar_of(&[EntryInfo { size: 0, ..entry("d", EntryKind::Directory) }]);
    tar[124..135].copy_from_slice(b"00000001000");
    fix_checksum(&mut tar);
    assert!(matches!(refused(&tar), EngineError::Unsafe { .. }));
}

#[test]
fn cut_extended_and_unended_archives_are_damaged() {
    let tar = tar_of(&[entry("a", EntryKind::File), entry("b", EntryKind::File)]);
    let damaged = |tar: &[u8]| {
        let error = refused(tar);
        assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
    };
    for length in 0..tar.len() {
        if length % 97 == 0 || length % 512 < 2 {
            damaged(&tar[..length]);
        }
    }
    damaged(&[&tar[..], b"garbage"].concat());
    damaged(&[&tar[..], &tar[..]].concat());
    damaged(&[&tar[..tar.len() - 512], &tar[..]].concat());
    let place = tempfile::tempdir().unwrap();
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        let root = place.path().join("data");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("f"), "text").unwrap();
        let path = place.path().join("x");
        pack_to(&options(&root, format), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &[&whole[..], b"x"].concat()] {
            std::fs::write(&path, bytes).unwrap();
            let error = list_entries(&path, format, &mut |_| Ok(())).unwrap_err();
            assert!(matches!(error, EngineError::Damaged { .. }), "{format:?}: {error}");
        }
    }
}

#[test]
fn bombs_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.tar");
    std::fs::write(&path, tar_of(&[entry("a", EntryKind::File), entry("b", EntryKind::File)]))
        .unwrap();
    let to = place.path().join("out");
    std::fs::create_dir(&to).unwrap();
    for limits in
        [Limits { entries: Some(1), bytes: None }, Limits { entries: None, bytes: Some(7) }]
    {
        let options = UnpackOptions {
            destinations: vec![(String::new(), to.clone())],
            limits,
            ..UnpackOptions::default()
        };
        let error = unpack(&path, ArchiveFormat::Tar, &options, &Silent, &Cancel::new());
        assert!(matches!(error, Err(EngineError::Unsafe { .. })));
    }
    // An extended header of a gigabyte is refused by its size alone.
    let mut tar = tar_of(&[entry("a", EntryKind::File)]);
    tar[156] = b'x';
    tar[124..135].copy_from_slice(b"10000000000");
    fix_checksum(&mut tar);
    assert!(matches!(refused(&tar), EngineError::Damaged { .. }));
    // Endless zeros after the end blocks.
    let mut tar = tar_of(&[entry("a", EntryKind::File)]);
    tar.resize(tar.len() + (20 << 20), 0);
    assert!(matches!(refused(&tar), EngineError::Damaged { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_header_makes_the_reader_panic_or_write_outside(
        edits in proptest::collection::vec((0_usize..3, 0_usize..512, any::<u8>()), 1..6),
        size in prop_oneof![any::<u64>(), Just(u64::MAX), 0_u64..2000],
        realsize in any::<u64>(),
    ) {
        let long = "x".repeat(150);
        let mut tar = tar_of(&[entry("a", EntryKind::File), link("l", EntryKind::Symlink, "../outside"), entry("l2", EntryKind::Fifo)]);
        for (block, at, value) in edits {
            let block = &mut tar[[0, 1024, 1536][block]..];
            block[at] = value;
            fix_checksum(block);
        }
        let mut records = Vec::new();
        for (key, value) in [("size", size), ("GNU.sparse.realsize", realsize), ("GNU.sparse.major", 1), ("GNU.sparse.minor", 0)] {
            let rest = format!(" {key}={value}\n");
            records.push(format!("{}{rest}", rest.len() + 2));
        }
        let records = records.concat();
        let mut extended = entry_blocks(&EntryInfo { size: records.len() as u64, ..entry(&long[..50], EntryKind::File) }, None).0;
        extended[156] = b'x';
        fix_checksum(&mut extended);
        extended.extend(records.as_bytes());
        extended.extend(padding(records.len() as u64));
        let place = tempfile::tempdir().unwrap();
        for bytes in [tar.clone(), [extended, tar].concat()] {
            let path = place.path().join("x.tar");
            std::fs::write(&path, &bytes).unwrap();
            let to = place.path().join("out");
            let _ = std::fs::remove_dir_all(&to);
            let _ = extract_tree(&path, ArchiveFormat::Tar, &[], &to, &Silent, &Cancel::new());
            prop_assert!(!place.path().join("outside").exists());
        }
    }
}

#[test]
fn hostile_destinations_are_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let path = place.path().join("x.tar");
    std::fs::write(&path, tar_of(&[entry("d/f", EntryKind::File)])).unwrap();
    let to = place.path().join("out");
    std::fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink(&outside, to.join("d")).unwrap();
    let error = extract_tree(&path, ArchiveFormat::Tar, &[], &to, &Silent, &Cancel::new());
    assert!(matches!(error, Err(EngineError::Extract { .. })), "{error:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    std::fs::remove_file(to.join("d")).unwrap();
    std::fs::create_dir(to.join("d")).unwrap();
    std::os::unix::fs::symlink(outside.join("new"), to.join("d/f")).unwrap();
    let error = extract_tree(&path, ArchiveFormat::Tar, &[], &to, &Silent, &Cancel::new());
    assert!(matches!(error, Err(EngineError::Extract { .. })), "{error:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_file_that_comes_twice_is_the_later_one() {
    let place = tempfile::tempdir().unwrap();
    let mut tar = tar_of(&[entry("f", EntryKind::File), entry("f", EntryKind::File)]);
    tar[512 * 3..512 * 3 + 4].copy_from_slice(b"last");
    let path = place.path().join("x.tar");
    std::fs::write(&path, tar).unwrap();
    let to = place.path().join("out");
    extract_tree(&path, ArchiveFormat::Tar, &[], &to, &Silent, &Cancel::new()).unwrap();
    assert_eq!(std::fs::read(to.join("f")).unwrap(), b"last");
}
