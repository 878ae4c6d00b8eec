//! Definitions of containers are in the catalog, with the passwords in their environments.

use std::os::unix::fs::PermissionsExt;

use super::*;

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
