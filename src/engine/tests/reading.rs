use std::sync::{Condvar, Mutex};

use super::*;

/// Hears that all has been read, and lets nothing be written before.
#[derive(Default)]
struct Gate {
    read: Mutex<u32>,
    heard: Condvar,
}

impl Progress for Gate {
    fn total(&self, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}

    fn all_read(&self) {
        *self.read.lock().unwrap() += 1;
        self.heard.notify_all();
    }
}

struct Gated<'a>(&'a Gate, Vec<u8>);

impl std::io::Write for Gated<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let read = self.0.read.lock().unwrap();
        let wait = std::time::Duration::from_mins(1);
        let (_read, waited) =
            self.0.heard.wait_timeout_while(read, wait, |read| *read == 0).unwrap();
        if waited.timed_out() {
            return Err(std::io::Error::other("nobody says that all has been read"));
        }
        std::io::Write::write(&mut self.1, data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn that_all_has_been_read_is_said_once_and_before_the_archive_is_complete() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    for number in 0..20 {
        std::fs::write(root.join(format!("file-{number}")), vec![number; 10_000]).unwrap();
    }
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar] {
        let gate = Gate::default();
        let mut output = Gated(&gate, Vec::new());
        let summary = pack(&options(&root, format), &mut output, &gate, &Cancel::new()).unwrap();
        assert_eq!(summary.archive_bytes, u64::try_from(output.1.len()).unwrap());
        assert_eq!(*gate.read.lock().unwrap(), 1, "{format:?}");
    }
    // Work that does not get that far never says so.
    let cancel = Cancel::new();
    cancel.cancel();
    let gate = Gate::default();
    let mut output = Vec::new();
    pack(&options(&root, ArchiveFormat::TarGz), &mut output, &gate, &cancel).unwrap_err();
    assert_eq!(*gate.read.lock().unwrap(), 0);
}
