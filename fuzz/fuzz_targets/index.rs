//! Any bytes as the index of an archive whose footer is right: reading it never panics, and what it says
//! is never believed against the stream.
#![no_main]

use std::io::Write;

use eider::engine::{Cancel, Silent, check_names, list_entries, survey};
use eider::spec::ArchiveFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    // A bare tar of nothing but its end blocks, then the index, then a footer that fits it.
    let mut bytes = vec![0_u8; 1024];
    bytes.extend_from_slice(payload);
    let fill = (payload.len() + 76).next_multiple_of(512) - 76 - payload.len();
    bytes.resize(bytes.len() + fill, 0);
    let mut footer = [0_u8; 76];
    footer[..8].copy_from_slice(b"EIDERIDX");
    footer[8] = 1;
    footer[16..24].copy_from_slice(&1024_u64.to_le_bytes());
    footer[24..32].copy_from_slice(&((payload.len() + fill) as u64).to_le_bytes());
    footer[32..40].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    footer[40..72].copy_from_slice(blake3::hash(payload).as_bytes());
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
});
