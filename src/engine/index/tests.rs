use proptest::prelude::*;

use super::footer::Footer;
use super::frame::{read_footer, read_payload, write_tail};
use super::*;
use crate::engine::entry::EntryKind;
use crate::spec::ArchiveFormat;

fn moment() -> impl Strategy<Value = Moment> {
    (any::<i64>(), 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| Moment { seconds, nanoseconds })
}

fn entry() -> impl Strategy<Value = IndexEntry> {
    let kinds = vec![
        EntryKind::File,
        EntryKind::HardLink,
        EntryKind::Symlink,
        EntryKind::CharacterDevice,
        EntryKind::Directory,
        EntryKind::Fifo,
    ];
    let name = proptest::collection::vec(1_u8..=255, 1..60);
    let numbers = (any::<u64>(), 0_u32..0o10000, any::<u64>(), any::<u64>(), any::<u64>());
    let more = (any::<bool>(), any::<bool>(), 0_u64..5000, any::<[u8; 32]>());
    (name, proptest::sample::select(kinds), numbers, (moment(), moment()), more).prop_map(
        |(mut name, kind, (size, mode, uid, gid, inode), (modified, changed), more)| {
            let (flag, ancestor, stored, hash) = more;
            let file = kind == EntryKind::File;
            if name.ends_with(b"/") {
                name.push(b'x');
            }
            if kind == EntryKind::Directory {
                name.push(b'/');
            }
            let stored = if file { stored } else { 0 };
            let location = if ancestor {
                Location::Ancestor(7)
            } else {
                Location::Here { offset: 0, header: 512, stored }
            };
            let link = matches!(kind, EntryKind::HardLink | EntryKind::Symlink);
            let info = EntryInfo {
                name,
                kind,
                size: if file { size } else { 0 },
                mode,
                uid,
                gid,
                modified,
                link_target: link.then(|| b"target".to_vec()),
                device: if kind.is_device() { (1, 300) } else { (0, 0) },
                xattrs: Vec::new(),
                sparse: flag && file,
            };
            IndexEntry {
                info,
                has_xattrs: flag,
                changed,
                file_system: uid ^ 5,
                inode,
                location,
                hash: (stored > 0 || (ancestor && file && flag)).then_some(hash),
            }
        },
    )
}

/// Entries one after the other, as an archive has them.
fn placed(mut entries: Vec<IndexEntry>) -> (Vec<IndexEntry>, u64) {
    let mut at = 0;
    for entry in &mut entries {
        if let Location::Here { offset, header, stored } = &mut entry.location {
            *offset = at;
            at += *header + stored.next_multiple_of(512);
        }
    }
    (entries, at)
}

fn definitions() -> serde_json::Value {
    serde_json::json!({"containers": [{"Name": "/db"}]})
}

fn payload_of(entries: &[IndexEntry], members: &[Member]) -> Vec<u8> {
    let mut writer = IndexWriter::new().unwrap();
    let mut following = Vec::new();
    for entry in entries {
        let here = matches!(entry.location, Location::Here { .. });
        match entry.hash {
            // As the packer does it: what is packed now has its hash later.
            Some(hash) if here => {
                following.push(hash);
                writer.add(&IndexEntry { hash: None, ..entry.clone() }, true).unwrap();
            }
            _ => writer.add(entry, false).unwrap(),
        }
    }
    writer.remove(b"gone").unwrap();
    let description = Description { version: 1, tool: "test".into(), ..Description::default() };
    writer.finish(&description, Some(&definitions()), members, &following).unwrap()
}

fn member(number: u64) -> Member {
    Member {
        file_offset: number * 700,
        packed: 700,
        offset: number * 1024,
        raw: 1024,
        begins_entry: number == 0,
        stored: true,
        hash: [u8::try_from(number).unwrap(); 32],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_index_reads_back(entries in proptest::collection::vec(entry(), 0..200)) {
        let (entries, end) = placed(entries);
        let members: Vec<Member> = (0..5).map(member).collect();
        let index = parse(payload_of(&entries, &members), 5 * 700).unwrap();
        let mut reader = index.entries();
        let read: Vec<IndexEntry> = reader.by_ref().map(Result::unwrap).collect();
        prop_assert_eq!(reader.offset(), end);
        prop_assert_eq!(read, entries);
        prop_assert_eq!(&index.members, &members);
        prop_assert_eq!(index.definitions.as_ref(), Some(&definitions()));
        prop_assert_eq!(index.removed(), vec![b"gone".to_vec()]);
        prop_assert_eq!(index.member_at(1024), Some(1));
        prop_assert_eq!(index.member_at(5 * 1024), None);
    }

    #[test]
    fn no_index_makes_the_reader_panic(
        entries in proptest::collection::vec(entry(), 1..20),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = payload_of(&placed(entries).0, &[member(0)]);
        for (at, value) in edits {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        for payload in [payload[..cut.index(payload.len())].to_vec(), payload] {
            if let Ok(index) = parse(payload, 700) {
                let _ = index.entries().count();
            }
        }
    }
}

#[test]
fn however_many_names_are_removed_the_index_can_be_read() {
    let mut writer = IndexWriter::new().unwrap();
    let name = |number: u32| format!("{number}-{}", "x".repeat(250)).into_bytes();
    // More than one block may hold.
    let count = u32::try_from(BLOCK_LIMIT).unwrap() / 200;
    for number in 0..count {
        writer.remove(&name(number)).unwrap();
    }
    let description = Description { version: 1, ..Description::default() };
    let payload = writer.finish(&description, None, &[member(0)], &[]).unwrap();
    let removed = parse(payload, 700).unwrap().removed();
    assert_eq!(removed.len(), count as usize);
    assert!(removed.into_iter().eq((0..count).map(name)));
}

/// Eight million empty names pack into some hundred bytes: an archive of 7 kB took 4 GB of memory.
#[test]
fn what_an_index_packs_well_takes_no_memory() {
    let description = Description { version: 1, ..Description::default() };
    let whole = |blocks: &[u8]| {
        let writer = IndexWriter::new().unwrap();
        let mut payload = writer.finish(&description, None, &[member(0)], &[]).unwrap();
        payload.extend_from_slice(blocks);
        payload
    };
    let block_of = |kind: u8, count: usize, raw: &[u8]| {
        let packed = zstd::bulk::compress(raw, 3).unwrap();
        let mut block = vec![kind];
        for number in [count, raw.len(), packed.len()] {
            block.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        }
        block.extend_from_slice(&packed);
        block
    };
    let empty = block_of(b'X', BLOCK_LIMIT, &vec![0; BLOCK_LIMIT]);
    assert!(empty.len() < 1000);
    assert!(parse(whole(&empty), 700).unwrap_err().contains("removed names"));
    // A hundred thousand members of a byte each, in an archive that has no room for them.
    let member = [&[1, 1, 0][..], &[0; 32]].concat();
    let members = block_of(b'M', 100_000, &member.repeat(100_000));
    assert!(parse(whole(&members), 1000).unwrap_err().contains("members"));
    assert_eq!(parse(whole(&members), 700 + 100_000).unwrap().members.len(), 100_001);
}

#[test]
fn definitions_that_no_block_can_hold_do_not_make_an_index_that_nobody_can_read() {
    let description = Description { version: 1, ..Description::default() };
    let long = serde_json::json!("x".repeat(BLOCK_LIMIT));
    let writer = IndexWriter::new().unwrap();
    let payload = writer.finish(&description, Some(&long), &[member(0)], &[]).unwrap();
    assert_eq!(parse(payload, 700).unwrap().definitions, None);
}

#[test]
fn the_tail_reads_back_in_every_format_and_nothing_else_passes() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x");
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar] {
        for length in [1, 437, 512, 65_000, 65_001, 200_000] {
            let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut bytes = vec![9; 700];
            write_tail(&mut bytes, format, 700, &payload, &[member(0)]).unwrap();
            std::fs::write(&path, &bytes).unwrap();
            let read = || -> Result<(Footer, Vec<u8>), frame::TailError> {
                let file = std::fs::File::open(&path).unwrap();
                let footer = read_footer(&file, file.metadata().unwrap().len(), format)?;
                let payload = read_payload(&file, &footer, format)?;
                Ok((footer, payload))
            };
            let (footer, found) = read().unwrap();
            assert_eq!((footer.offset, found), (700, payload));
            if length > 600 {
                continue;
            }
            for at in 700..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x40;
                std::fs::write(&path, &broken).unwrap();
                // The seek table is for other programs; verification compares it.
                let table = format == ArchiveFormat::TarZst && at >= 700 + 8 + length + 84;
                assert!(read().is_err() || table, "{format:?}: byte {at} of {}", bytes.len());
            }
            for cut in 0..bytes.len() {
                std::fs::write(&path, &bytes[..cut]).unwrap();
                assert!(read().is_err(), "{format:?}: cut at {cut}");
            }
        }
    }
}
