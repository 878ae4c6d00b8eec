//! Definitions of containers are in the catalog, with the passwords in their environments.

use std::os::unix::fs::PermissionsExt;

use notify::Watcher as _;

use super::*;
use crate::catalog::private::is_private_from_now_on;

/// Files in a directory, and in those in it, that others than their owner may do anything with.
fn open_to_others(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[tokio::test]
async fn nobody_else_reads_the_catalog_its_log_or_a_copy() {
    let (directory, path) = place();
    let Opened { catalog, .. } = open(&path);
    catalog.insert_backup(backup(1)).await.unwrap();
    let log = super::super::open::beside(&path, ".wal");
    assert!(log.exists(), "this test is to see the log");
    assert_eq!(open_to_others(directory.path()), [""; 0].map(PathBuf::from));
    catalog.back_up_to(&directory.path().join("copy.duckdb")).await.unwrap();
    catalog.insert_backup(backup(2)).await.unwrap();
    catalog.export(&directory.path().join("parquet")).await.unwrap();
    assert_eq!(open_to_others(directory.path()), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_catalog_that_others_could_read_is_theirs_no_more() {
    let (directory, path) = place();
    open(&path).catalog.close().await.unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _opened = open(&path);
    assert_eq!(open_to_others(directory.path()), [""; 0].map(PathBuf::from));
}

fn mode_of_a_new_file(path: &Path) -> u32 {
    std::fs::write(path, "").unwrap();
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// Whether a thread may have a mode for new files of its own; says so if not.
#[allow(clippy::print_stderr)] // How a skip is seen.
fn threads_may_differ(directory: &Path) -> bool {
    let file = directory.join("of-a-thread");
    let other =
        std::thread::spawn(move || is_private_from_now_on().then(|| mode_of_a_new_file(&file)));
    let found = other.join().unwrap();
    if found.is_none() {
        eprintln!("SKIPPED: no thread may have a umask of its own here");
    }
    assert!(found.is_none_or(|mode| mode == 0o600), "{found:?}");
    found.is_some()
}

#[test]
fn what_other_threads_make_has_the_mode_that_it_had() {
    let (directory, _) = place();
    let before = mode_of_a_new_file(&directory.path().join("before"));
    threads_may_differ(directory.path());
    assert_eq!(mode_of_a_new_file(&directory.path().join("after")), before);
}

/// It was made with the mode that the `umask` of the user leaves and tightened just after: whoever opened it in
/// between could read on.
#[tokio::test]
async fn the_log_of_the_catalog_is_nobody_elses_from_its_first_moment() {
    let (directory, path) = place();
    if !threads_may_differ(directory.path()) {
        return;
    }
    let (tell, changes) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(tell).unwrap();
    watcher.watch(directory.path(), notify::RecursiveMode::NonRecursive).unwrap();
    let Opened { catalog, .. } = open(&path);
    catalog.insert_backup(backup(1)).await.unwrap();
    catalog.back_up_to(&directory.path().join("copy.duckdb")).await.unwrap();
    // The log is made anew: the catalog was closed for the copy.
    catalog.insert_backup(backup(2)).await.unwrap();
    catalog.close().await.unwrap();
    // Events come in the order of what they tell.
    let last = directory.path().join("last");
    std::fs::write(&last, "").unwrap();
    let of_mode = |kind: notify::EventKind| {
        matches!(kind, notify::EventKind::Modify(notify::event::ModifyKind::Metadata(_)))
    };
    let log = super::super::open::beside(&path, ".wal");
    let seen = changes.iter().map(Result::unwrap);
    let seen: Vec<_> = seen.take_while(|event| !event.paths.contains(&last)).collect();
    assert!(seen.iter().any(|event| event.kind.is_create() && event.paths.contains(&log)));
    let tightened: Vec<_> = seen.into_iter().filter(|event| of_mode(event.kind)).collect();
    assert!(tightened.is_empty(), "{tightened:?}");
}
