//! Any blocks as the index of a golden archive, behind a footer that is right: reading it never panics, and
//! what it says is never believed against the stream.
//!
//! In the input the contents of blocks are not compressed, so that what is changed in them is reached; they
//! are compressed here.
#![no_main]

use std::io::Write;

use eider::engine::{Cancel, Silent, check_names, list_entries, space_needed, survey};
use eider::spec::ArchiveFormat;
use libfuzzer_sys::fuzz_target;

const GOLDEN: &[u8] = include_bytes!(
    "../../tests/fixtures/archives/version-2/backup_manual_v2.0_2026-11-21_17-39-19.tar"
);

/// The members of the golden archive: its stream of tar.
fn stream() -> &'static [u8] {
    let footer = &GOLDEN[GOLDEN.len() - 76..];
    let offset = u64::from_le_bytes(footer[16..24].try_into().expect("eight bytes"));
    &GOLDEN[..usize::try_from(offset).expect("a small file")]
}

/// Kind, count, raw length, packed length, contents; the first length is made from the contents.
fn packed(mut input: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some((header, rest)) = input.split_at_checked(13) {
        let length = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        let (contents, rest) = rest.split_at(length.min(rest.len()));
        input = rest;
        let hashes = header[0] == b'H';
        let compressed = zstd::bulk::compress(contents, 1).unwrap_or_default();
        let stored = if hashes { contents } else { &compressed };
        payload.extend_from_slice(&header[..5]);
        for length in [contents.len(), stored.len()] {
            payload.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        }
        payload.extend_from_slice(stored);
    }
    payload.extend_from_slice(input);
    payload
}

fuzz_target!(|input: &[u8]| {
    let payload = packed(input);
    let mut bytes = stream().to_vec();
    let start = bytes.len() as u64;
    bytes.extend_from_slice(&payload);
    let fill = (payload.len() + 76).next_multiple_of(512) - 76 - payload.len();
    bytes.resize(bytes.len() + fill, 0);
    let mut footer = [0_u8; 76];
    footer[..8].copy_from_slice(b"EIDERIDX");
    footer[8] = 1;
    footer[16..24].copy_from_slice(&start.to_le_bytes());
    footer[24..32].copy_from_slice(&((payload.len() + fill) as u64).to_le_bytes());
    footer[32..40].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    footer[40..72].copy_from_slice(blake3::hash(&payload).as_bytes());
    let sum = crc32fast::hash(&footer[..72]);
    footer[72..].copy_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(&footer);
    let file = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(file);
    file.write_all(&bytes).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let path = std::path::Path::new(&path);
    let _ = list_entries(path, ArchiveFormat::Tar, &mut |_| Ok(()));
    let _ = survey(path, ArchiveFormat::Tar, &Silent, &Cancel::new());
    let _ = check_names(path, ArchiveFormat::Tar, &Cancel::new());
    let _ = space_needed(path, ArchiveFormat::Tar);
});
