use jiff::SignedDuration;

use super::*;
use crate::spec::{Reason, VerifyMode};

const NAME: &str = "backup_manual_v0_2026-01-01_00-00-00.tar.gz";

fn store(place: &Path, name: &str) -> LocalStore {
    LocalStore::open(&place.join(name), name, true).unwrap()
}

fn small_root(place: &Path) -> PathBuf {
    let root = place.join("data");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("file"), "some text").unwrap();
    root
}

fn back_up(store: &LocalStore, root: &Path, name: &str) -> Manifest {
    let mut pending = store.begin(name).unwrap();
    let format = detect_extension(name);
    let summary = pack(&options(root, format), &mut pending, &Silent, &Cancel::new()).unwrap();
    let manifest = manifest(pending.name(), &summary);
    pending.seal(&manifest).unwrap();
    manifest
}

fn check(store: &LocalStore, name: &str, mode: VerifyMode) -> Result<Manifest, EngineError> {
    verify(store, name, mode, &Silent, &Cancel::new())
}

/// Ten schedules of one second: one of them failed with "File exists".
#[test]
fn those_who_ask_at_once_whether_a_store_can_be_written_to_all_hear_that_it_can() {
    let place = tempfile::tempdir().unwrap();
    let store = store(place.path(), "main");
    let ask = || (0..200).for_each(|_| store.check_writable().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(ask);
        }
    });
    assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 0);
}

#[test]
fn every_single_changed_byte_is_detected() {
    for format in FORMATS {
        let place = tempfile::tempdir().unwrap();
        let store = store(place.path(), "main");
        let name = NAME.replace("tar.gz", format.extension());
        back_up(&store, &small_root(place.path()), &name);
        check(&store, &name, VerifyMode::Full).unwrap();
        check(&store, &name, VerifyMode::Quick).unwrap();
        for path in [store.archive_path(&name), store.path().join(format!("{name}.manifest.json"))]
        {
            let whole = std::fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                std::fs::write(&path, &bytes).unwrap();
                let error = check(&store, &name, VerifyMode::Full).unwrap_err();
                assert!(
                    matches!(
                        error.reason(),
                        Reason::ArchiveDamaged | Reason::ArchiveUnsafe | Reason::UnsupportedFormat
                    ),
                    "byte {at} of {}: {error}",
                    path.display()
                );
            }
            for bytes in [&whole[..whole.len() - 1], &[&whole[..], b"\n"].concat(), b""] {
                std::fs::write(&path, bytes).unwrap();
                assert_eq!(
                    check(&store, &name, VerifyMode::Full).unwrap_err().reason(),
                    Reason::ArchiveDamaged
                );
                assert!(check(&store, &name, VerifyMode::Quick).is_err());
            }
            std::fs::write(&path, &whole).unwrap();
        }
        check(&store, &name, VerifyMode::Full).unwrap();
    }
}

#[test]
fn a_large_archive_of_several_members_verifies() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    let store = store(place.path(), "main");
    for format in FORMATS {
        let name = NAME.replace("tar.gz", format.extension());
        let manifest = back_up(&store, &root, &name);
        let verified = check(&store, &name, VerifyMode::Full).unwrap();
        assert_eq!(verified.counts, manifest.counts);
        let sum = run("sha256sum", &[store.archive_path(&name).to_str().unwrap()]).unwrap();
        assert!(sum.starts_with(&manifest.sha256));
    }
}

#[test]
fn manifests_read_back_and_refuse_newer_versions() {
    let mut one = manifest(NAME, &PackSummary::default());
    one.other.insert("laterField".into(), serde_json::json!({"a": [1, 2.5]}));
    let text = one.to_text();
    let mut back = Manifest::from_text(NAME, text.as_bytes()).unwrap();
    assert_eq!(back.digest.as_str().len(), 64);
    back.mark_verified(Timestamp::UNIX_EPOCH);
    let again = Manifest::from_text(NAME, back.to_text().as_bytes()).unwrap();
    assert_eq!(again.verified_at, Some(Timestamp::UNIX_EPOCH));
    assert_eq!(again.other, one.other);
    let newer = text.replace("\"formatVersion\": 1", "\"formatVersion\": 3");
    let error = Manifest::from_text(NAME, newer.as_bytes()).unwrap_err();
    assert!(matches!(error, EngineError::NewerFormat { found: 3, supported: 2, .. }));
    assert!(Manifest::from_text("other.tar.gz", text.as_bytes()).is_err());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["type"], "Full");
}

#[test]
fn names_are_counted_up_when_they_are_taken() {
    let place = tempfile::tempdir().unwrap();
    let store = store(place.path(), "main");
    let first = store.begin(NAME).unwrap();
    let second = store.begin(NAME).unwrap();
    assert_eq!(first.name(), NAME);
    assert_eq!(second.name(), "backup_manual_v0_2026-01-01_00-00-00-2.tar.gz");
    first.discard().unwrap();
    second.discard().unwrap();
    let root = small_root(place.path());
    back_up(&store, &root, NAME);
    let third = store.begin(NAME).unwrap();
    assert_eq!(third.name(), "backup_manual_v0_2026-01-01_00-00-00-2.tar.gz");
    for name in ["", "a/b", ".hidden", "../x", "a\0b", "x.manifest.json", &"n".repeat(250)] {
        assert!(matches!(store.begin(name), Err(EngineError::InvalidName { .. })), "{name}");
        assert!(store.delete(name).is_err());
        assert!(store.read_manifest(name).is_err());
    }
}

#[test]
fn only_what_nobody_is_writing_is_cleaned_up() {
    let place = tempfile::tempdir().unwrap();
    let store = store(place.path(), "main");
    let root = small_root(place.path());
    back_up(&store, &root, NAME);
    let living = store.begin("backup_living.tar.gz").unwrap();
    drop(store.begin("backup_dead.tar.gz").unwrap());
    // Killed between the rename and the manifest.
    let dead = store.begin("backup_half.tar.gz").unwrap();
    store.publish("backup_half.tar.gz").unwrap();
    store.publish("backup_half.tar.gz").unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.unfinished, ["backup_half.tar.gz"]);
    assert_eq!(listing.partial, ["backup_dead.tar.gz", "backup_living.tar.gz"]);
    assert!(matches!(store.discard("backup_half.tar.gz"), Err(EngineError::Busy { .. })));
    drop(dead);
    std::fs::write(store.path().join("notes.txt"), "mine").unwrap();
    std::fs::write(store.path().join("foreign.tar.gz"), "mine").unwrap();

    let grace = SignedDuration::from_hours(1);
    let now = Timestamp::now();
    assert_eq!(store.clean_unfinished(grace, now).unwrap(), Cleaned::default());
    let later = now + SignedDuration::from_hours(2);
    let cleaned = store.clean_unfinished(grace, later).unwrap();
    assert_eq!(cleaned.removed, [".eider-partial-backup_dead.tar.gz", "backup_half.tar.gz"]);
    check(&store, NAME, VerifyMode::Full).unwrap();
    assert!(
        store.path().join("notes.txt").exists() && store.path().join("foreign.tar.gz").exists()
    );
    assert!(matches!(store.discard("backup_living.tar.gz"), Err(EngineError::Busy { .. })));
    living.discard().unwrap();
    store.discard("backup_living.tar.gz").unwrap();
    store.discard(NAME).unwrap();
    assert!(
        check(&store, NAME, VerifyMode::Full).is_ok(),
        "a committed archive is never discarded"
    );
}

#[test]
fn missing_parts_are_told_apart_and_deleting_twice_is_success() {
    let place = tempfile::tempdir().unwrap();
    let store = store(place.path(), "main");
    let root = small_root(place.path());
    back_up(&store, &root, NAME);
    std::fs::remove_file(store.archive_path(NAME)).unwrap();
    assert_eq!(store.list().unwrap().archives[0].size_bytes, None);
    assert_eq!(check(&store, NAME, VerifyMode::Full).unwrap_err().reason(), Reason::ArchiveMissing);
    store.delete(NAME).unwrap();
    store.delete(NAME).unwrap();
    assert!(store.list().unwrap().archives.is_empty());
    let error = store.read_manifest(NAME).unwrap_err();
    assert_eq!(error.reason(), Reason::ArchiveMissing);
}

#[test]
fn copying_to_another_store_can_be_repeated() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (store(place.path(), "one"), store(place.path(), "two"));
    let root = small_root(place.path());
    back_up(&one, &root, NAME);
    let copy = || one.copy_archive(NAME, &two, &Silent, &Cancel::new());
    // A killed copy left a piece; then one that was killed before the manifest.
    std::fs::write(two.path().join(format!(".eider-partial-{NAME}")), "half").unwrap();
    let copied = copy().unwrap();
    assert_eq!(copied.store, "two");
    std::fs::remove_file(two.path().join(format!("{NAME}.manifest.json"))).unwrap();
    copy().unwrap();
    copy().unwrap();
    check(&two, NAME, VerifyMode::Full).unwrap();
    check(&one, NAME, VerifyMode::Full).unwrap();
    // A damaged original is not copied.
    two.delete(NAME).unwrap();
    let mut bytes = std::fs::read(one.archive_path(NAME)).unwrap();
    bytes[30] ^= 1;
    std::fs::write(one.archive_path(NAME), bytes).unwrap();
    assert_eq!(copy().unwrap_err().reason(), Reason::ArchiveDamaged);
    assert!(two.list().unwrap().partial.is_empty());
}

#[test]
fn stores_that_cannot_be_used_say_why() {
    let place = tempfile::tempdir().unwrap();
    let missing = LocalStore::open(&place.path().join("no"), "main", false).unwrap_err();
    assert_eq!(missing.reason(), Reason::StoreUnavailable);
    std::fs::write(place.path().join("file"), "").unwrap();
    let file = LocalStore::open(&place.path().join("file"), "main", false).unwrap_err();
    assert!(file.hint().contains("directory"), "{file}: {}", file.hint());
    let store = store(place.path(), "main");
    store.check_writable().unwrap();
    assert!(store.free_bytes().unwrap() > 0);
    let full = EngineError::WriteArchive { source: std::io::ErrorKind::StorageFull.into() };
    assert_eq!(full.reason(), Reason::NotEnoughSpace);
}
