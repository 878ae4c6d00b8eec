use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::*;

#[test]
fn a_tree_of_everything_survives_in_every_format() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    for format in FORMATS {
        let archive = place.path().join(format!("x.{}", format.extension()));
        let summary = pack_to(&options(&root, format), &archive).unwrap();
        assert_eq!(summary.warnings, [], "{format:?}");
        assert_eq!(detect_format(&archive).unwrap(), format);
        let to = place.path().join(format!("out-{}", format.extension()));
        let unpacked = unpack_to(&archive, "data", &to).unwrap();
        assert_eq!(unpacked.warnings, [], "{format:?}");
        assert_eq!(unpacked.entries, summary.counts.entries);
        assert_eq!(unpacked.bytes, summary.source_bytes);
        assert_eq!(snapshot(&root), snapshot(&to), "{format:?}");
        assert_same_by_rsync(&root, &to);
        assert!(to.join("a/hole").metadata().unwrap().blocks() < 200);
        assert!(summary.archive_bytes < 8_000_000, "holes are not stored");
    }
}

#[test]
fn the_estimate_is_what_is_packed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    let mut options = options(&root, ArchiveFormat::Tar);
    options.exclude = vec!["/deep".into(), "*.none".into()];
    let estimate = estimate(&options, &Cancel::new()).unwrap();
    let archive = place.path().join("x.tar");
    let summary = pack_to(&options, &archive).unwrap();
    assert_eq!(
        (estimate.entries, estimate.files, estimate.bytes),
        (summary.counts.entries, summary.counts.files, summary.source_bytes)
    );
    assert!(estimate.allocated_bytes < estimate.bytes);
    assert!(!names_in(&archive).iter().any(|name| name.starts_with("data/deep")));
}

#[test]
fn three_thousand_links_to_one_file_are_stored_once() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("first"), vec![7; 100_000]).unwrap();
    for number in 0..3000 {
        std::fs::hard_link(root.join("first"), root.join(format!("link{number}"))).unwrap();
    }
    let archive = place.path().join("x.tar");
    let summary = pack_to(&options(&root, ArchiveFormat::Tar), &archive).unwrap();
    assert_eq!((summary.counts.files, summary.counts.hard_links), (1, 3000));
    assert_eq!(summary.source_bytes, 100_000);
    let to = place.path().join("out");
    let unpacked = unpack_to(&archive, "data", &to).unwrap();
    assert_eq!(to.join("link2999").metadata().unwrap().nlink(), 3001);
    // A backup and its restore count the same things.
    assert_eq!((unpacked.entries, unpacked.files), (summary.counts.entries, 1));
}

#[test]
fn roots_that_are_files_go_where_they_are_told() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("a/data")).unwrap();
    std::fs::create_dir_all(place.path().join("b/data")).unwrap();
    std::fs::write(place.path().join("a/data/x"), "ax").unwrap();
    std::fs::write(place.path().join("b/data/x"), "bx").unwrap();
    std::fs::write(place.path().join("app.conf"), "conf").unwrap();
    std::fs::hard_link(place.path().join("a/data/x"), place.path().join("b/data/y")).unwrap();
    let paths: Vec<String> = ["a/data", "b/data", "app.conf"]
        .iter()
        .map(|path| place.path().join(path).to_str().unwrap().to_owned())
        .collect();
    let options = PackOptions { roots: name_roots(&paths).unwrap(), ..PackOptions::default() };
    let archive = place.path().join("x.tar.gz");
    pack_to(&options, &archive).unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    let unpack_options = UnpackOptions {
        destinations: vec![
            ("a/data".into(), one.clone()),
            ("b/data".into(), two.clone()),
            ("app.conf".into(), place.path().join("restored.conf")),
        ],
        ..UnpackOptions::default()
    };
    unpack(&archive, ArchiveFormat::TarGz, &unpack_options, &Silent, &Cancel::new()).unwrap();
    assert_eq!(std::fs::read_to_string(place.path().join("restored.conf")).unwrap(), "conf");
    assert_eq!(std::fs::read_to_string(two.join("x")).unwrap(), "bx");
    assert_eq!(one.join("x").metadata().unwrap().ino(), two.join("y").metadata().unwrap().ino());
    // One root alone: the link into the other root becomes the file itself.
    let alone = place.path().join("alone");
    unpack_to(&archive, "b/data", &alone).unwrap();
    assert_eq!(std::fs::read_to_string(alone.join("y")).unwrap(), "ax");
    let tree = place.path().join("tree");
    extract_tree(&archive, ArchiveFormat::TarGz, &[], &tree, &Silent, &Cancel::new()).unwrap();
    assert_eq!(std::fs::read_to_string(tree.join("b/data/y")).unwrap(), "ax");
    let mut text = Vec::new();
    assert_eq!(extract_one(&archive, ArchiveFormat::TarGz, "b/data/y", &mut text).unwrap(), 2);
    assert_eq!(text, b"ax");
    let missing = extract_one(&archive, ArchiveFormat::TarGz, "b/data/z", &mut text);
    assert!(matches!(missing, Err(EngineError::EntryMissing { .. })));
}

#[test]
fn sizes_and_owners_beyond_ustar_read_back() {
    use super::super::tar::{TarReader, entry_blocks};
    let info = EntryInfo {
        name: [b"d/".repeat(300), b"\xff".to_vec()].concat(),
        kind: EntryKind::File,
        size: 9 << 30,
        mode: 0o7777,
        uid: 4_000_000_000,
        gid: 3_000_000,
        modified: Moment { seconds: -7, nanoseconds: 1 },
        link_target: None,
        device: (0, 0),
        xattrs: vec![(b"user.a=b%".to_vec(), vec![0, 10, 61])],
        sparse: false,
    };
    let (blocks, complete) = entry_blocks(&info, None);
    assert!(complete);
    let entry = TarReader::new(&blocks[..], "x").next_entry().unwrap().unwrap();
    assert_eq!(entry.info, info);
    assert_eq!(entry.segments[0].length, 9 << 30);
}

#[test]
fn other_file_systems_are_crossed_only_when_asked() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    let mount = root.join("mounted");
    std::fs::create_dir_all(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: tmpfs cannot be mounted here");
        return;
    }
    std::fs::write(mount.join("file"), "x").unwrap();
    let mut options = options(&root, ArchiveFormat::Tar);
    let archive = place.path().join("x.tar");
    let staying = pack_to(&options, &archive);
    let names_staying = names_in(&archive);
    options.cross_file_systems = true;
    let crossing = pack_to(&options, &archive);
    shell(&root, "umount mounted");
    assert_eq!(staying.unwrap().warnings[0].kind, WarningKind::OtherFileSystem);
    assert_eq!(names_staying, ["data/", "data/mounted/"]);
    assert_eq!(crossing.unwrap().warnings, []);
    assert_eq!(names_in(&archive), ["data/", "data/mounted/", "data/mounted/file"]);
}

#[derive(Debug, Clone)]
enum Node {
    File { data: Vec<u8>, mode: u32, holes: bool },
    Directory(Vec<(Vec<u8>, Node)>, u32),
    Symlink(Vec<u8>),
    Link,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no slash or NUL", |byte| *byte != 0 && *byte != b'/');
    let odd = proptest::collection::vec(byte, 1..40);
    let long = (90_usize..255).prop_map(|length| vec![b'n'; length]);
    prop_oneof![4 => odd, 1 => long, 4 => "[a-z]{1,8}".prop_map(String::into_bytes)]
        .prop_filter("no dots", |name| name != b"." && name != b"..")
}

fn node() -> impl Strategy<Value = Node> {
    let target = proptest::collection::vec(1_u8..=255, 1..200);
    let leaf = prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..3000), 0_u32..0o10000, any::<bool>())
            .prop_map(|(data, mode, holes)| Node::File { data, mode, holes }),
        1 => target.prop_map(Node::Symlink),
        1 => Just(Node::Link),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        (proptest::collection::vec((name(), inner), 0..6), 0_u32..0o10000)
            .prop_map(|(children, mode)| Node::Directory(children, mode | 0o700))
    })
}

/// Only root gets setuid and setgid back.
fn restorable(mode: u32) -> std::fs::Permissions {
    let root = rustix::process::geteuid().is_root();
    std::fs::Permissions::from_mode(if root { mode } else { mode & 0o1777 })
}

fn build(path: &Path, node: &Node, last_file: &mut Option<PathBuf>) {
    match node {
        Node::File { data, mode, holes } => {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::create(path).unwrap();
            if *holes {
                file.set_len(5_000_000).unwrap();
                file.write_all_at(data, 1_000_000).unwrap();
                file.write_all_at(data, 3_333_333).unwrap();
            } else {
                file.write_all_at(data, 0).unwrap();
            }
            file.set_permissions(restorable(*mode | 0o400)).unwrap();
            *last_file = Some(path.to_owned());
        }
        Node::Directory(children, mode) => {
            std::fs::create_dir(path).unwrap();
            for (name, child) in children {
                let path = path.join(std::ffi::OsStr::from_bytes(name));
                if path.symlink_metadata().is_err() {
                    build(&path, child, last_file);
                }
            }
            std::fs::set_permissions(path, restorable(*mode)).unwrap();
        }
        Node::Symlink(target) => {
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path).unwrap();
        }
        Node::Link => {
            if let Some(file) = last_file {
                std::fs::hard_link(file, path).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn packing_and_unpacking_is_the_identity(
        children in proptest::collection::vec((name(), node()), 0..6),
        format in proptest::sample::select(FORMATS.to_vec()),
    ) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        build(&root, &Node::Directory(children, 0o755), &mut None);
        let archive = place.path().join("archive");
        let summary = pack_to(&options(&root, format), &archive).unwrap();
        prop_assert_eq!(summary.warnings, []);
        let to = place.path().join("out");
        let unpacked = unpack_to(&archive, "root", &to).unwrap();
        prop_assert_eq!(unpacked.warnings, []);
        prop_assert_eq!(snapshot(&root), snapshot(&to));
    }
}

/// What was put back could be read by whomever the directory above names in its default access control list.
#[test]
fn nothing_inherits_the_access_list_of_the_directory_that_it_is_put_into() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join("d")).unwrap();
    std::fs::write(root.join("d/f"), "secret").unwrap();
    std::fs::set_permissions(root.join("d/f"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let path = place.path().join("x");
    pack_to(&options(&root, ArchiveFormat::Tar), &path).unwrap();
    let above = place.path().join("above");
    std::fs::create_dir(&above).unwrap();
    // user::rwx, user:1234:rwx, group::r-x, mask::rwx, other::---
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, number) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 7, 1234),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(number.to_le_bytes());
    }
    let default = "system.posix_acl_default";
    rustix::fs::setxattr(&above, default, &list, rustix::fs::XattrFlags::empty()).unwrap();
    extract_tree(&path, ArchiveFormat::Tar, &[], &above.join("to"), &Silent, &Cancel::new())
        .unwrap();
    for (name, list) in [
        ("to/data/d/f", "system.posix_acl_access"),
        ("to/data/d", "system.posix_acl_access"),
        ("to/data/d", default),
    ] {
        let mut buffer = [0; 256];
        let found = rustix::fs::getxattr(above.join(name), list, &mut buffer[..]);
        assert_eq!(found, Err(rustix::io::Errno::NODATA), "{name} {list}");
    }
    let found = above.join("to/data/d/f").metadata().unwrap().mode();
    assert_eq!(found & 0o7777, 0o640);
}
