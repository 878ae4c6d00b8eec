//! What is behind the tar stream, seen by other programs, by later versions, and when it lies.

use std::os::unix::fs::PermissionsExt;

use super::super::archive::Archive;
use super::super::index::frame::write_tail;
use super::super::index::{Index, IndexEntry, IndexWriter, Location, Member};
use super::*;
use crate::spec::VerifyMode;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archives")
}

/// Many small files, one of several members, one that cannot be compressed.
fn several_members(root: &Path) {
    std::fs::create_dir(root).unwrap();
    for number in 0..300 {
        std::fs::write(root.join(format!("small{number}")), vec![b'a'; 9000 + number]).unwrap();
    }
    let mut noise = vec![0; 9_500_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(root.join("noise"), &noise).unwrap();
    std::fs::write(root.join("text"), "line after line\n".repeat(600_000)).unwrap();
}

fn indexed(path: &Path) -> Archive {
    let archive = Archive::open(path, detect_format(path).unwrap()).unwrap();
    assert!(archive.index.is_some());
    archive
}

fn entries(index: &Index) -> Vec<IndexEntry> {
    index.entries().map(Result::unwrap).collect()
}

#[test]
fn members_begin_with_entries_and_carry_their_lengths() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    several_members(&root);
    for format in FORMATS {
        let path = place.path().join("x");
        pack_to(&options(&root, format), &path).unwrap();
        let archive = indexed(&path);
        let index = archive.index.as_ref().unwrap();
        assert!(index.members.len() >= 5, "{format:?}");
        let starts: Vec<u64> = entries(index)
            .iter()
            .filter_map(|entry| match entry.location {
                Location::Here { offset, .. } => Some(offset),
                Location::Ancestor(_) => None,
            })
            .collect();
        let whole: u64 = super::super::member::piece_length(format) as u64;
        for member in &index.members {
            assert_eq!(member.begins_entry, starts.contains(&member.offset));
            assert!(member.raw <= whole + 4096, "{format:?}: {member:?}");
        }
        if format == ArchiveFormat::TarGz {
            // Also without the index every member can be found.
            let bytes = std::fs::read(&path).unwrap();
            let mut at = 0;
            for member in &index.members {
                let header = super::super::member::parse_member_header(&bytes[at..]).unwrap();
                assert_eq!(u64::from(header.packed), member.packed);
                assert_eq!(u64::from(header.raw), member.raw);
                assert_eq!(header.place.offset, member.offset);
                at += header.packed as usize;
            }
            assert!(super::super::member::parse_member_header(&bytes[at..]).is_none());
            let stored = index.members.iter().filter(|member| member.stored).count();
            assert!((9..=12).contains(&stored), "the noise is stored: {stored}");
        }
    }
}

#[test]
fn every_other_program_reads_every_format() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    several_members(&root);
    std::fs::create_dir(root.join("empty")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
    let expected = snapshot(&root);
    for format in FORMATS {
        let archive = place.path().join(format!("x.{}", format.extension()));
        let summary = pack_to(&options(&root, format), &archive).unwrap();
        let path = archive.to_str().unwrap().to_owned();
        let testers: &[(&str, &[&str])] = match format {
            ArchiveFormat::TarGz => {
                &[("gzip", &["-t"]), ("pigz", &["-t"]), ("7z", &["t"]), ("tar", &["tzf"])]
            }
            ArchiveFormat::TarZst => &[("zstd", &["-tq"])],
            ArchiveFormat::Tar => &[("7z", &["t"])],
        };
        for (program, arguments) in testers {
            run(program, &[arguments, &[path.as_str()][..]].concat());
        }
        let python = "import sys,tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])";
        let unpack = format!(
            "busybox tar xf {path} -C \"$0\" 2>/dev/null || zstd -dcq {path} | busybox tar x -C \"$0\""
        );
        let mut readers: Vec<(&str, Vec<&str>)> = vec![
            ("tar", vec!["xpf", &path, "-C"]),
            ("bsdtar", vec!["xpf", &path, "-C"]),
            ("sh", vec!["-c", &unpack]),
        ];
        if format != ArchiveFormat::TarZst {
            readers.push(("python3", vec!["-c", python, &path]));
        }
        for (program, arguments) in readers {
            let to = place.path().join("out");
            let _ = std::fs::remove_dir_all(&to);
            std::fs::create_dir(&to).unwrap();
            let arguments: Vec<&str> =
                arguments.into_iter().chain([to.to_str().unwrap()]).collect();
            if run(program, &arguments).is_none() {
                continue;
            }
            let mut found = snapshot(&to.join("data"));
            assert_eq!(found.len() as u64, summary.counts.entries, "{program} {format:?}");
            // BusyBox has whole seconds only, Python a float, and it sets no times of links.
            let mut wanted = expected.clone();
            if program == "sh" || program == "python3" {
                for text in found.values_mut().chain(wanted.values_mut()) {
                    let fields: Vec<&str> = text.split(' ').collect();
                    let seconds = fields[2].split('.').next().unwrap();
                    *text =
                        format!("{} {} {seconds} {}", fields[0], fields[1], fields[3..].join(" "));
                }
            }
            if program == "python3" {
                wanted.remove(Path::new("link"));
                found.remove(Path::new("link"));
            }
            if program == "sh" {
                // Nor does BusyBox set times of directories and links.
                for tree in [&mut found, &mut wanted] {
                    tree.retain(|_, text| text.starts_with("100"));
                }
            }
            found.retain(|path, text| wanted.get(path) != Some(text));
            assert_eq!(found, BTreeMap::new(), "{program} {format:?}");
        }
    }
}

#[test]
fn archives_of_every_version_are_read() {
    for version in [1, 2] {
        let directory = fixtures().join(format!("version-{version}"));
        let store = LocalStore::open(&directory, "fixtures", false).unwrap();
        let listing = store.list().unwrap();
        assert_eq!(listing.archives.len(), 3, "version {version}");
        for stored in listing.archives {
            let manifest = stored.manifest.unwrap();
            assert_eq!(manifest.format_version, version);
            for mode in [VerifyMode::Full, VerifyMode::Quick] {
                verify(&store, &stored.name, mode, &Silent, &Cancel::new()).unwrap();
            }
            let path = store.archive_path(&stored.name);
            let place = tempfile::tempdir().unwrap();
            let to = place.path().join("out");
            unpack_to(&path, "data", &to).unwrap();
            let mut text = String::new();
            for (name, line) in snapshot(&to) {
                // Where this is not run by root, owners and setuid bits are not restored.
                let line = line.replace(" 0:0 ", " 1000:1000 ");
                writeln!(text, "{} {line}", name.as_os_str().as_bytes().escape_ascii()).unwrap();
            }
            let expected = std::fs::read_to_string(fixtures().join("tree.txt")).unwrap();
            if rustix::process::geteuid().is_root() {
                assert_eq!(text, expected, "{}", stored.name);
            }
            let mut numbers = Vec::new();
            extract_one(&path, manifest.format, "data/sub/numbers", &mut numbers).unwrap();
            assert_eq!(numbers.len(), 1492);
            if version == 2 {
                // What is written today is what was written then, apart from what the machine adds.
                assert!(Archive::open(&path, manifest.format).unwrap().index.is_some());
            }
        }
    }
}

/// Writes the archive's index anew, changed by `change`, with footer and hashes that fit it.
fn rewrite_index(path: &Path, change: &mut dyn FnMut(&mut Vec<IndexEntry>, &mut Vec<Member>)) {
    let archive = indexed(path);
    let index = archive.index.as_ref().unwrap();
    let mut entries = entries(index);
    let mut members = index.members.clone();
    let end = members.last().map(|member| member.file_offset + member.packed).unwrap();
    change(&mut entries, &mut members);
    let mut writer = IndexWriter::new().unwrap();
    let hashes: Vec<[u8; 32]> = entries.iter().filter_map(|entry| entry.hash).collect();
    for entry in &entries {
        let follows = entry.hash.is_some();
        writer.add(&IndexEntry { hash: None, ..entry.clone() }, follows).unwrap();
    }
    let payload = writer.finish(&index.description, None, &members, &hashes).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(usize::try_from(end).unwrap());
    write_tail(&mut bytes, archive.format, end, &payload, &members).unwrap();
    std::fs::write(path, bytes).unwrap();
}

type Lie = (&'static str, fn(&mut Vec<IndexEntry>, &mut Vec<Member>));

/// Every way in which an index can say something else than the stream.
pub(super) const LIES: [Lie; 17] = [
    ("another name", |entries, _| entries[2].info.name = b"data/../../outside/file".to_vec()),
    ("a name beside", |entries, _| entries[2].info.name = b"data/other".to_vec()),
    ("another kind", |entries, _| entries[2].info.kind = EntryKind::Fifo),
    ("a link", |entries, _| {
        entries[2].info.kind = EntryKind::Symlink;
        entries[2].info.link_target = Some(b"/etc".to_vec());
        entries[2].hash = None;
    }),
    ("setuid", |entries, _| entries[2].info.mode = 0o4777),
    ("another owner", |entries, _| entries[2].info.uid ^= 7),
    ("another time", |entries, _| entries[2].info.modified.seconds += 1),
    ("another size", |entries, _| entries[2].info.size += 512),
    ("attributes", |entries, _| entries[2].has_xattrs ^= true),
    ("holes", |entries, _| entries[2].info.sparse ^= true),
    ("an entry less", |entries, _| drop(entries.remove(2))),
    ("an entry more", |entries, _| entries.insert(2, entries[2].clone())),
    // Read as a stream, as the archive of a program in which the last of a name counts, nothing was compared any more.
    ("a name twice", |entries, _| entries[3].info.name = entries[2].info.name.clone()),
    ("exchanged entries", |entries, _| entries.swap(2, 3)),
    ("another hash of a member", |_, members| members[0].hash[3] ^= 1),
    ("a shorter member", |_, members| members[0].raw -= 512),
    ("other bounds", |_, members| {
        members[0].begins_entry ^= true;
    }),
];

#[test]
fn an_index_that_lies_is_damage_and_nothing_is_written_outside() {
    for format in FORMATS {
        for (what, lie) in LIES {
            let place = tempfile::tempdir().unwrap();
            let root = place.path().join("data");
            std::fs::create_dir(&root).unwrap();
            for name in ["a", "bb", "ccc", "dddd"] {
                std::fs::write(root.join(name), name.repeat(300)).unwrap();
            }
            let path = place.path().join("x");
            pack_to(&options(&root, format), &path).unwrap();
            rewrite_index(&path, &mut |entries, members| lie(entries, members));
            let to = place.path().join("out");
            let before = snapshot(&root);
            let result = extract_tree(&path, format, &[], &to, &Silent, &Cancel::new());
            assert!(
                matches!(result, Err(EngineError::Damaged { .. } | EngineError::Unsafe { .. })),
                "{what} {format:?}: {result:?}"
            );
            assert_eq!(snapshot(&root), before);
            assert!(!place.path().join("outside").exists());
            let result = survey(&path, format, &Silent, &Cancel::new());
            assert!(
                matches!(result, Err(EngineError::Damaged { .. } | EngineError::Unsafe { .. })),
                "{what} {format:?}: {result:?}"
            );
        }
    }
}

#[test]
fn a_wrong_hash_of_a_file_is_found_and_named_by_verification() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    several_members(&root);
    for format in FORMATS {
        let path = place.path().join("x");
        pack_to(&options(&root, format), &path).unwrap();
        rewrite_index(&path, &mut |entries, _| {
            for entry in entries {
                if entry.info.name.ends_with(b"small7") || entry.info.name.ends_with(b"noise") {
                    entry.hash.as_mut().unwrap()[0] ^= 1;
                }
            }
        });
        let error = survey(&path, format, &Silent, &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains("damaged are `data/noise`, `data/small7`"), "{error}");
    }
}

#[test]
fn damage_in_a_member_names_the_files_that_it_hits() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    several_members(&root);
    for format in FORMATS {
        let path = place.path().join("x");
        pack_to(&options(&root, format), &path).unwrap();
        let (at, expected) = {
            let archive = indexed(&path);
            let index = archive.index.as_ref().unwrap();
            let entries = entries(index);
            let noise = entries.iter().find(|entry| entry.info.name.ends_with(b"noise")).unwrap();
            let Location::Here { offset, .. } = noise.location else { panic!("in this archive") };
            let member = &index.members[index.member_at(offset + 2_000_000).unwrap()];
            (member.file_offset + member.packed / 2, noise.info.display_name())
        };
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0x20;
        std::fs::write(&path, &bytes).unwrap();
        let error = survey(&path, format, &Silent, &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("damaged are `{expected}`")), "{format:?}: {error}");
        let to = place.path().join("out");
        let _ = std::fs::remove_dir_all(&to);
        let result = extract_tree(&path, format, &[], &to, &Silent, &Cancel::new());
        assert!(matches!(result, Err(EngineError::Damaged { .. })));
        // Another file is not touched by it.
        let mut other = Vec::new();
        extract_one(&path, format, "data/small17", &mut other).unwrap();
        assert_eq!(other.len(), 9017);
        // Nor is listing.
        assert_eq!(names_in(&path).len(), 303);
    }
}
