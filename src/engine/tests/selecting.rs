use super::*;

#[test]
fn include_and_preserve_choose_what_is_unpacked() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::create_dir_all(root.join("c")).unwrap();
    for file in ["a/b/one", "a/two.log", "c/three"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    std::fs::hard_link(root.join("c/three"), root.join("a/b/linked")).unwrap();
    shell(&root, "chmod 750 a; touch -d '2001-01-01 UTC' a a/b");
    let archive = place.path().join("x.tar.gz");
    pack_to(&options(&root, ArchiveFormat::TarGz), &archive).unwrap();

    let unpack_with = |include: &[&str], preserve: &[&str], to: &str| {
        let to = place.path().join(to);
        std::fs::create_dir(&to).unwrap();
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let options = UnpackOptions {
            include: text(include),
            preserve: text(preserve),
            destinations: vec![("data".into(), to.clone())],
            ..UnpackOptions::default()
        };
        unpack(&archive, ArchiveFormat::TarGz, &options, &Silent, &Cancel::new()).unwrap();
        let mut found: Vec<String> =
            snapshot(&to).into_keys().map(|path| path.display().to_string()).collect();
        found.sort();
        (found, to)
    };
    let (found, to) = unpack_with(&["data/a/b"], &[], "one");
    assert_eq!(found, ["", "a", "a/b", "a/b/linked", "a/b/one"]);
    // Whichever of the two names came first in the archive, the data is there.
    assert_eq!(std::fs::read_to_string(to.join("a/b/linked")).unwrap(), "c/three");
    let (before, after) = (root.join("a").metadata().unwrap(), to.join("a").metadata().unwrap());
    assert_eq!(
        before.permissions(),
        after.permissions(),
        "directories above keep their attributes"
    );
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    let (found, _) = unpack_with(&[], &["*.log", "/c"], "two");
    assert_eq!(found, ["", "a", "a/b", "a/b/linked", "a/b/one"]);
    let (found, _) = unpack_with(&["*.log"], &[], "three");
    assert_eq!(found, ["", "a", "a/two.log"]);
}

#[test]
fn the_working_directory_of_a_restore_is_not_backed_up() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join(".eider-restore-0123/new")).unwrap();
    std::fs::create_dir_all(root.join("deep/.eider-restore-mine")).unwrap();
    std::fs::write(root.join(".eider-restore-0123/new/big"), "staged").unwrap();
    std::fs::write(root.join(".eider-restore-list"), "a file").unwrap();
    std::fs::write(root.join("live"), "live").unwrap();
    let archive = place.path().join("x.tar.gz");
    pack_to(&options(&root, ArchiveFormat::TarGz), &archive).unwrap();
    // Only a directory at the top of a root is Eider's own.
    let wanted = [
        "data",
        "data/.eider-restore-list",
        "data/deep",
        "data/deep/.eider-restore-mine",
        "data/live",
    ];
    let found: Vec<String> =
        names_in(&archive).iter().map(|name| name.trim_end_matches('/').to_owned()).collect();
    assert_eq!(found, wanted);
}
