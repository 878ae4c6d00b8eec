//! Records made again from manifests.

use super::*;

#[tokio::test]
async fn a_rebuild_gives_the_same_records_and_may_be_repeated() {
    let (directory, path) = place();
    let catalog = open(&path).catalog;
    let records: Vec<_> = (0..10_000).map(backup).collect();
    let report = catalog.rebuild(records.clone()).await.unwrap();
    assert_eq!((report.added, report.rewritten, report.kept), (10_000, 0, 0));
    let first = catalog.backups(BackupFilter::default()).await.unwrap();
    let again = catalog.rebuild(records.clone()).await.unwrap();
    assert_eq!((again.added, again.rewritten, again.kept), (0, 10_000, 0));
    assert_eq!(catalog.backups(BackupFilter::default()).await.unwrap(), first);
    let stripped: Vec<_> =
        first.into_iter().rev().map(|record| BackupRecord { id: 0, ..record }).collect();
    assert!(stripped == records);
    let next = catalog.insert_backup(backup(10_000)).await.unwrap();
    assert_eq!(next, 10_001);
    let on_disk = vec![
        ArchiveOnDisk { path: "/backups/shop-1.tar.gz".into(), size: None },
        ArchiveOnDisk { path: "/backups/shop-2.tar.gz".into(), size: Some(5) },
        ArchiveOnDisk { path: "/backups/shop-3.tar.gz".into(), size: Some(1003) },
    ];
    assert_eq!(catalog.check(on_disk).await.unwrap().len(), 2);
    let files = catalog.export(&directory.path().join("out")).await.unwrap();
    assert_eq!(files.len(), 18);
    assert_eq!(&std::fs::read(&files[0]).unwrap()[..4], b"PAR1");
}

/// Archives are named after the second they were begun in: one record was left of each second.
#[tokio::test]
async fn archives_of_one_name_in_several_places_have_a_record_each() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    let of = |namespace: &str, store: &str, hash: &str| BackupRecord {
        namespace: namespace.to_owned(),
        store: store.to_owned(),
        backup_hash: Some(hash.to_owned()),
        ..backup(1)
    };
    let records = vec![of("shop", "main", "a"), of("blog", "main", "b"), of("shop", "off", "c")];
    let copy = of("shop", "copies", "a");
    let with_copy = [records.clone(), vec![copy]].concat();
    let report = catalog.rebuild(with_copy.clone()).await.unwrap();
    assert_eq!((report.added, report.rewritten, report.kept), (3, 0, 0), "a copy is no other");
    let found = catalog.backups(BackupFilter::default()).await.unwrap();
    let mut places: Vec<_> =
        found.iter().map(|one| (one.namespace.as_str(), one.store.as_str())).collect();
    places.sort_unstable();
    assert_eq!(places, [("blog", "main"), ("shop", "main"), ("shop", "off")]);
    let again = catalog.rebuild(with_copy).await.unwrap();
    assert_eq!((again.added, again.rewritten, again.kept), (0, 3, 0));
    // Recorded once more after a crash, each is still its own.
    for record in records {
        catalog.insert_backup(record).await.unwrap();
    }
    assert_eq!(catalog.backups(BackupFilter::default()).await.unwrap().len(), 3);
    // What an object has said stays where it is.
    let mut own = found.into_iter().find(|one| one.namespace == "blog").unwrap();
    own.uid = Some("uid".to_owned());
    catalog.update_backup(own).await.unwrap();
    let report = catalog.rebuild(vec![of("blog", "copies", "b")]).await.unwrap();
    assert_eq!((report.added, report.rewritten, report.kept), (0, 0, 3));
}
