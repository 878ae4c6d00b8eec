//! Any bytes as an archive: listing, surveying, checking names and looking for what damage has left never panic,
//! hang or eat memory.
#![no_main]

use std::io::Write;

use eider::engine::{
    Cancel, Silent, check_names, count_salvageable, detect_format, list_entries, survey,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let path = std::path::Path::new(&path);
    let format = detect_format(path).unwrap();
    let _ = list_entries(path, format, &mut |_| Ok(()));
    let _ = survey(path, format, &Silent, &Cancel::new());
    let _ = check_names(path, format, &Cancel::new());
    let _ = count_salvageable(path, format, &Cancel::new());
});
