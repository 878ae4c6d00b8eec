use std::os::fd::AsFd as _;

use super::super::source::hook::{self, Stage};
use super::*;

/// Packs while `change` runs at the given stage of reading `file`.
fn pack_while(
    options: &PackOptions,
    archive: &Path,
    stage: Stage,
    file: &'static str,
    mut change: impl FnMut() -> rustix::io::Result<()> + 'static,
) -> Result<PackSummary, EngineError> {
    hook::set(Box::new(move |at, name| {
        if at == stage && name.to_bytes() == file.as_bytes() { change() } else { Ok(()) }
    }));
    let result = pack_to(options, archive);
    hook::clear();
    result
}

#[test]
fn files_that_change_while_they_are_read_leave_a_valid_archive() {
    let kinds = [
        (Stage::Described, 3_000_000_u64, 1_000_000, WarningKind::Shrank),
        (Stage::Described, 3_000_000, 5_000_000, WarningKind::Grew),
        (Stage::Described, 0, 10, WarningKind::Grew),
        (Stage::Described, 10, 0, WarningKind::Shrank),
    ];
    for (stage, before, after, kind) in kinds {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("data");
        std::fs::create_dir(&root).unwrap();
        let file = root.join("file");
        std::fs::write(&file, vec![b'x'; usize::try_from(before).unwrap()]).unwrap();
        std::fs::write(root.join("other"), "other").unwrap();
        let archive = place.path().join("x.tar.gz");
        let summary =
            pack_while(&options(&root, ArchiveFormat::TarGz), &archive, stage, "file", move || {
                let handle = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
                handle.set_len(after).unwrap();
                Ok(())
            })
            .unwrap();
        assert_eq!(summary.warnings.len(), 1);
        assert_eq!(summary.warnings[0].kind, kind);
        let mut data = Vec::new();
        let size = extract_one(&archive, ArchiveFormat::TarGz, "data/file", &mut data).unwrap();
        assert_eq!(size, before);
        let kept = usize::try_from(before.min(after)).unwrap();
        assert!(data[..kept].iter().all(|byte| *byte == b'x'));
        assert!(data[kept..].iter().all(|byte| *byte == 0));
        run("tar", &["tzf", archive.to_str().unwrap()]);
        assert_eq!(names_in(&archive).len(), 3);
    }
}

#[test]
fn files_that_vanish_are_left_out() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let file = root.join("file");
    std::fs::write(&file, "x").unwrap();
    let archive = place.path().join("x.tar");
    let summary =
        pack_while(&options(&root, ArchiveFormat::Tar), &archive, Stage::Open, "file", move || {
            std::fs::remove_file(&file).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(summary.warnings[0].kind, WarningKind::Vanished);
    assert_eq!(names_in(&archive), ["data/"]);
}

#[test]
fn a_file_that_becomes_a_symlink_is_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let file = root.join("file");
    std::fs::write(&file, "x").unwrap();
    let archive = place.path().join("x.tar");
    let summary =
        pack_while(&options(&root, ArchiveFormat::Tar), &archive, Stage::Open, "file", move || {
            std::fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(summary.warnings[0].kind, WarningKind::Changed);
    assert_eq!(names_in(&archive), ["data/"]);
}

#[test]
fn unreadable_paths_fail_the_backup_unless_allowed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join("secret")).unwrap();
    std::fs::write(root.join("file"), "x").unwrap();
    let archive = place.path().join("x.tar");
    let mut options = options(&root, ArchiveFormat::Tar);
    for name in ["file", "secret"] {
        let refuse = || Err(rustix::io::Errno::ACCESS);
        let error = pack_while(&options, &archive, Stage::Open, name, refuse).unwrap_err();
        assert_eq!(error.reason(), crate::spec::Reason::UnreadablePath);
        let path = root.join(name).display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
        assert!(!error.hint().is_empty());
        options.allow_unreadable = true;
        let summary = pack_while(&options, &archive, Stage::Open, name, refuse).unwrap();
        assert_eq!(summary.warnings[0].kind, WarningKind::Unreadable);
        assert_eq!(names_in(&archive).len(), 2);
        options.allow_unreadable = false;
    }
}

#[test]
fn a_file_that_even_root_cannot_read_fails_the_backup() {
    let root = Path::new("/proc/sys/net/ipv4/route");
    if std::fs::File::open(root.join("flush")).is_ok() || !root.join("flush").exists() {
        println!("SKIPPED: there is no unreadable {}", root.display());
        return;
    }
    let mut options = options(root, ArchiveFormat::Tar);
    let error = pack(&options, &mut Vec::new(), &Silent, &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("route/flush"), "{error}");
    options.allow_unreadable = true;
    assert!(pack(&options, &mut Vec::new(), &Silent, &Cancel::new()).is_ok());
}

#[test]
fn missing_roots_cancelling_and_sockets_have_their_reasons() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    let archive = place.path().join("x.tar");
    let error = pack_to(&options(&root, ArchiveFormat::Tar), &archive).unwrap_err();
    assert_eq!(error.reason(), crate::spec::Reason::TargetNotFound);
    std::fs::create_dir(&root).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let summary = pack_to(&options(&root, ArchiveFormat::Tar), &archive).unwrap();
    assert_eq!(summary.warnings[0].kind, WarningKind::SocketSkipped);
    let cancel = Cancel::new();
    cancel.cancel();
    let error = pack(&options(&root, ArchiveFormat::Tar), &mut Vec::new(), &Silent, &cancel);
    assert!(matches!(error, Err(EngineError::Cancelled)));
    let mut skipping = options(&root, ArchiveFormat::Tar);
    std::fs::create_dir(root.join("store")).unwrap();
    std::fs::write(root.join("store/x"), "x").unwrap();
    skipping.skip = vec![root.join("store")];
    pack_to(&skipping, &archive).unwrap();
    assert_eq!(names_in(&archive), ["data/"]);
}

#[test]
fn a_root_that_is_a_socket_is_refused_before_it_is_an_archive_of_nothing() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("app.sock");
    let _socket = std::os::unix::net::UnixListener::bind(&root).unwrap();
    let options = options(&root, ArchiveFormat::Tar);
    let looked = estimate(&options, &Cancel::new()).map(|_| ());
    let packed = pack_to(&options, &place.path().join("x.tar")).map(|_| ());
    for result in [looked, packed] {
        let error = result.unwrap_err();
        assert_eq!(error.reason(), crate::spec::Reason::InvalidSpec);
        assert!(error.to_string().contains("it is a socket"), "{error}");
    }
}

#[test]
fn roots_are_what_the_archive_holds_of_them() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    std::fs::write(root.join("deep/file"), "x").unwrap();
    let archive = place.path().join("x.tar.gz");
    pack_to(&options(&root, ArchiveFormat::TarGz), &archive).unwrap();
    let roots = ["data", "dat", "data/deep/file", "gone"];
    let kinds = root_kinds(&archive, ArchiveFormat::TarGz, &roots).unwrap();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert_eq!(kinds["data"], EntryKind::Directory);
    assert_eq!(kinds["data/deep/file"], EntryKind::File);
    // Other programs leave out directories.
    let foreign = place.path().join("foreign.tar");
    let names = ["cf", foreign.to_str().unwrap(), "-C", place.path().to_str().unwrap()];
    run("tar", &[&names[..], &["data/deep/file"]].concat());
    let kinds = root_kinds(&foreign, ArchiveFormat::Tar, &["data"]).unwrap();
    assert_eq!(kinds["data"], EntryKind::Directory);
}

#[test]
fn a_root_that_another_takes_the_place_of_is_told_as_gone() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    for name in ["data", "new"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
        std::fs::write(place.path().join(name).join("file"), name).unwrap();
    }
    let archive = place.path().join("x.tar");
    let (live, old, new) = (root.clone(), place.path().join("old"), place.path().join("new"));
    let change = move || {
        std::fs::rename(&live, &old).unwrap();
        std::fs::rename(&new, &live).unwrap();
        Ok(())
    };
    let options = options(&root, ArchiveFormat::Tar);
    let summary = pack_while(&options, &archive, Stage::Described, "file", change).unwrap();
    assert_eq!(summary.warnings[0].kind, WarningKind::Vanished);
    assert!(summary.warnings[0].path.ends_with("/data"), "{:?}", summary.warnings);
}

#[test]
fn a_file_that_is_written_to_between_its_names_stays_one_file() {
    for at in [Stage::Open, Stage::Described] {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("data");
        std::fs::create_dir_all(root.join("d")).unwrap();
        let names = ["one", "two", "d/three"].map(|name| root.join(name));
        std::fs::write(&names[0], "text").unwrap();
        for name in &names[1..] {
            std::fs::hard_link(&names[0], name).unwrap();
        }
        let stat = rustix::fs::stat(&names[0]).unwrap();
        let parent = std::fs::File::open(&root).unwrap();
        let source = super::super::source::AttributeSource::Named(parent.as_fd(), c"one");
        if super::super::source::born(&source, &stat).is_none() {
            println!("SKIPPED: the file system does not tell when files were made");
            return;
        }
        let (mut is_read, mut is_done, file) = (false, false, names[0].clone());
        hook::set(Box::new(move |stage, _| {
            is_read = is_read || stage == Stage::Described;
            // While the first name is read, or before the second is.
            if stage == at && is_read && !std::mem::replace(&mut is_done, true) {
                let mut file = std::fs::File::options().append(true).open(&file).unwrap();
                std::io::Write::write_all(&mut file, b" and more").unwrap();
            }
            Ok(())
        }));
        let archive = place.path().join("x.tar");
        let packed = pack_to(&options(&root, ArchiveFormat::Tar), &archive);
        hook::clear();
        let summary = packed.unwrap();
        assert_eq!((summary.counts.files, summary.counts.hard_links), (1, 2), "{summary:?}");
        // Torn by what came while it was read, and by nothing that came after.
        assert_eq!(summary.warnings.len(), usize::from(at == Stage::Described), "{summary:?}");
        let to = place.path().join("to");
        unpack_to(&archive, "data", &to).unwrap();
        for name in ["one", "two", "d/three"] {
            assert_eq!(std::fs::read(to.join(name)).unwrap(), b"text", "{name}");
            let (one, other) = (to.join("one"), to.join(name));
            assert_eq!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());
        }
    }
}
