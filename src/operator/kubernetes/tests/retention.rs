//! What retention may remove, and what it makes of archives that are there by half.

use super::super::removal::REMOVING_ANNOTATION;
use super::terms::{begun_as, line, store, verified};
use super::*;
use crate::catalog::{BackupRecord, RecordStatus};
use crate::engine::{Manifest, PackSummary, ParentArchive};
use crate::operator::presence::{lacks, stored};
use crate::plan::{Failure, Job, Mark, OperationId, UpgradeJob};
use crate::spec::ArchiveFormat;

fn record(name: &str) -> BackupRecord {
    BackupRecord {
        backup_name: format!("{name}.tar.gz"),
        backup_path: format!("backups/{name}.tar.gz"),
        namespace: "shop".to_owned(),
        object: name.to_owned(),
        uid: Some(format!("uid-of-{name}")),
        store: "main".to_owned(),
        status: RecordStatus::Succeeded,
        target: "StatefulSet/db".to_owned(),
        ..BackupRecord::default()
    }
}

fn named(name: &str) -> Manifest {
    let at = Timestamp::UNIX_EPOCH;
    Manifest::new(name, ArchiveFormat::TarGz, &PackSummary::default(), at)
}

fn manifest(name: &str) -> Manifest {
    let mut manifest = named(&format!("{name}.tar.gz"));
    (manifest.namespace, manifest.backup) = ("shop".to_owned(), name.to_owned());
    manifest
}

/// Retention removed what an Upgrade would have gone back to, and what its data was to come from.
#[tokio::test]
async fn what_an_upgrade_under_way_may_put_back_is_in_use() {
    let scene = Scene::new();
    let operation: OperationId = "Upgrade/shop/new/1/uid-of-new".parse().unwrap();
    let spec = json!({
        "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
        "toVersion": "2", "dataFrom": {"name": "earlier"}, "backup": {"storeRef": {"name": "main"}},
    });
    let spec: crate::spec::UpgradeSpec = serde_json::from_value(spec).unwrap();
    let target = spec.target.summary();
    let taken = |name: &str, trigger: &str, at: Timestamp| BackupRecord {
        target: target.clone(),
        trigger: Some(trigger.to_owned()),
        created_at: at,
        ..record(name)
    };
    let now = Timestamp::now() + Duration::from_mins(1);
    let catalog = scene.context.operator.catalog();
    for record in [
        taken("earlier", "manual", Timestamp::UNIX_EPOCH),
        taken("other", "manual", now),
        taken("of-another-upgrade", "pre-upgrade", Timestamp::UNIX_EPOCH),
        taken("being-told", "pre-upgrade", now),
        BackupRecord { target: "another".to_owned(), ..taken("of-another", "pre-upgrade", now) },
    ] {
        catalog.insert_backup(record).await.unwrap();
    }
    let job = UpgradeJob { operation: operation.clone(), spec, store: Some(store()) };
    begun_as(&scene, &Job::Upgrade(job)).await;
    let mut used = scene.context.operator.archives_in_use().await.unwrap();
    used.sort();
    assert_eq!(used, ["being-told.tar.gz", "earlier.tar.gz"]);
    line(&scene, &operation, "backup", Mark::Done, json!({"name": "other", "verified": true}))
        .await;
    let mut used = scene.context.operator.archives_in_use().await.unwrap();
    used.sort();
    assert_eq!(used, ["being-told.tar.gz", "earlier.tar.gz", "other.tar.gz"]);
}

/// The archive of a Backup that had shrunk is kept to be looked at; back in its store it had no record for good.
#[tokio::test]
async fn the_archive_of_a_failure_that_is_back_has_its_record_again() {
    let scene = Scene::new();
    let failed = BackupRecord {
        status: RecordStatus::Failed,
        error_message: Some("SuspiciousShrink: 1 file and not 100".to_owned()),
        ..record("shrunk")
    };
    scene.context.operator.catalog().insert_backup(failed.clone()).await.unwrap();
    let recorded = scene.records().await;
    scene.hears_of(&recorded, &["another.tar.gz"]).await;
    let ended = scene.records().await;
    assert_eq!(ended[0].status, RecordStatus::Failed);
    assert!(ended[0].deleted_at.is_some());
    let manifests = [manifest("shrunk")];
    let owner = Scene::store_identity();
    let operator = &scene.context.operator;
    operator.record_manifests(&owner, &store(), &ended, &manifests).await.unwrap();
    let back = scene.records().await;
    assert_eq!((back.len(), back[0].deleted_at), (1, None));
    assert_eq!((back[0].status, &back[0].error_message), (failed.status, &failed.error_message));
    assert_eq!(back[0].verified_at, None);
}

/// An increment whose parent was gone kept the place of the last archive that could be restored, and said nothing.
#[tokio::test]
async fn a_backup_whose_archive_cannot_be_restored_says_what_it_lacks_until_it_can() {
    let scene = Scene::new();
    let path = format!("{BACKUPS}/first");
    scene.server.put(BACKUPS, &verified());
    scene.look(Kind::Backup, &verified()).await.unwrap();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    let look = scene.context.link.looks.of("shop", "main");
    let parent = ParentArchive { name: "full.tar.gz".to_owned(), sha256: "1".to_owned() };
    let increment = Manifest { parent: Some(parent), ..named("a.tar.gz") };
    let full = Manifest { sha256: "1".to_owned(), ..named("full.tar.gz") };
    let cut = Failure::new(Reason::ArchiveDamaged, "it has 3 bytes, its manifest says 5");
    let cases = [
        (
            vec![increment.clone()],
            None,
            "ArchiveMissing",
            "a.tar.gz builds on full.tar.gz, which is not there",
        ),
        (vec![increment.clone(), full], None, "Verified", "a.tar.gz can be restored again"),
        (
            vec![increment],
            Some(("full.tar.gz", cut.clone())),
            "ArchiveDamaged",
            "a.tar.gz builds on full.tar.gz, which is not all there",
        ),
        (vec![], Some(("a.tar.gz", cut.clone())), "ArchiveDamaged", cut.message.as_str()),
    ];
    for (whole, broken, reason, message) in cases {
        let mut present: Vec<&str> = whole.iter().map(|one| one.name.as_str()).collect();
        present.extend(broken.iter().map(|(name, _)| *name));
        let broken = broken.iter().map(|(name, why)| ((*name).to_owned(), why.clone())).collect();
        look.found(lacks(&whole.iter().map(stored).collect(), broken));
        let before = scene.records().await;
        scene.server.calls();
        for writes in [1, 0] {
            scene.hears_of(&before, &present).await;
            let all = present.iter().map(|name| (*name).to_owned()).collect();
            let operator = &scene.context.operator;
            operator.tell_what_lacks(&store(), &before, &all, &look).await.unwrap();
            let calls = scene.server.lines();
            let written = calls.iter().filter(|line| line.ends_with("/status")).count();
            assert_eq!(written, writes, "{message}: {calls:?}");
        }
        let said = scene.server.get(&path).unwrap()["status"].clone();
        assert_eq!(condition(&said, "Verified")["reason"], reason);
        assert_eq!(condition(&said, "Verified")["message"], message);
        // What is there by half may be whole again: its record goes on.
        assert_eq!(scene.records().await[0].status, RecordStatus::Succeeded);
        let kept = scene.context.operator.without_the_gone(before, true).await.unwrap();
        assert_eq!(kept.1.is_empty(), reason == "Verified");
    }
}

/// A record that was made of a status that says what its archive lacks was never a verified one again, and retention
/// did not count it.
#[tokio::test]
async fn what_was_recorded_while_it_lacked_something_is_verified_again() {
    for reason in ["ArchiveDamaged", "StoreUnavailable"] {
        let scene = Scene::new();
        let mut lacking = verified();
        let said = &mut lacking["status"]["conditions"][1];
        (said["status"], said["reason"]) = (json!("False"), json!(reason));
        scene.server.put(BACKUPS, &lacking);
        scene.look(Kind::Backup, &lacking).await.unwrap();
        scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
        let before = scene.records().await;
        assert_eq!(before[0].verified_at, None);
        let mut found = manifest("first");
        found.name.clone_from(&before[0].backup_name);
        found.mark_verified(Timestamp::UNIX_EPOCH);
        let present = [found.name.clone()].into();
        let look = scene.context.link.looks.of("shop", "main");
        let (operator, owner) = (&scene.context.operator, Scene::store_identity());
        operator.record_manifests(&owner, &store(), &before, &[found]).await.unwrap();
        operator.tell_what_lacks(&store(), &before, &present, &look).await.unwrap();
        let after = scene.records().await;
        assert_eq!((after.len(), after[0].verified_at), (1, Some(Timestamp::UNIX_EPOCH)));
        let said = scene.server.get(&format!("{BACKUPS}/first")).unwrap()["status"].clone();
        assert_eq!(condition(&said, "Verified")["status"], "True", "{reason}");
    }
}

/// A store that was looked into before its Backups were left records that knew no object: retention removed archives
/// and left what stands for them.
#[tokio::test]
async fn a_record_made_of_a_manifest_knows_its_object_once_that_is_seen() {
    let scene = Scene::new();
    scene.server.put(BACKUPS, &verified());
    let archive = verified()["status"]["archive"]["name"].as_str().unwrap().to_owned();
    let found = Manifest { name: archive, ..manifest("first") };
    let (operator, owner) = (&scene.context.operator, Scene::store_identity());
    operator.record_manifests(&owner, &store(), &[], &[found]).await.unwrap();
    assert_eq!(scene.records().await[0].uid, None);
    // An object of the same name with another archive is another.
    let mut another = verified();
    another["status"]["archive"]["name"] = json!("another.tar.gz");
    scene.look(Kind::Backup, &another).await.unwrap();
    assert_eq!(scene.records().await[0].uid, None);
    scene.look(Kind::Backup, &verified()).await.unwrap();
    let recorded = scene.records().await;
    assert_eq!((recorded.len(), recorded[0].uid.as_deref()), (1, Some("uid-of-first")));
}

/// Retention that died after its mover had removed left the objects for ever, each with a false alarm.
#[tokio::test]
async fn what_retention_had_removed_goes_quietly_whoever_goes_on() {
    let scene = Scene::new();
    let path = format!("{BACKUPS}/first");
    scene.server.put(BACKUPS, &verified());
    scene.look(Kind::Backup, &verified()).await.unwrap();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    let recorded = scene.records().await;
    scene.server.calls();
    // Its claim is not there, so that it comes as far as asking for the mover.
    let operator = &scene.context.operator;
    operator.remove_from_cluster(&recorded).await.unwrap_err();
    let lines = scene.server.lines();
    let claim = "GET /api/v1/namespaces/shop/persistentvolumeclaims/backups".to_owned();
    assert_eq!(lines, [format!("PATCH {path}"), claim], "marked before");
    let mark = || scene.server.get(&path).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(mark()[REMOVING_ANNOTATION], "a.tar.gz");
    assert_eq!(scene.records().await, recorded);

    // It stayed, and nobody may take it for removed by retention later on.
    let all = HashSet::from(["a.tar.gz".to_owned()]);
    let owner = Scene::store_identity();
    operator.forget_unfinished_removals(&owner, &recorded, &all).await.unwrap();
    assert_eq!(mark()[REMOVING_ANNOTATION], Value::Null);
    operator.remove_from_cluster(&recorded).await.unwrap_err();

    // It is gone: a successor with an empty catalog says nothing, and takes the object away.
    let successor = Scene::on(scene.server.clone(), Leadership::unconditional());
    successor.look_again(Kind::Backup, &path).await.unwrap();
    let adopted = successor.records().await;
    scene.server.calls();
    scene.server.refuse_once(&format!("DELETE {path}"), 403, "Forbidden");
    let gone = HashSet::from(["another.tar.gz".to_owned()]);
    let operator = &successor.context.operator;
    operator.end_the_gone(&store(), &adopted, &gone).await.unwrap_err();
    assert_eq!(successor.records().await, adopted, "its object is still there");
    successor.hears_of(&adopted, &["another.tar.gz"]).await;
    assert_eq!(scene.server.get(&path), None);
    let ended = successor.records().await;
    assert_eq!((ended[0].status, &ended[0].error_message), (RecordStatus::Deleted, &None));
    let lines = scene.server.lines();
    assert!(lines.iter().all(|line| !line.starts_with("PATCH ")), "{lines:?}");
}

/// Whoever deleted a finished Backup waited for every look into a store that retention waited for.
#[tokio::test]
async fn a_finished_backup_may_go_before_retention_has_had_its_turn() {
    let scene = Scene::new();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    let mut due = backup();
    let template = json!({"spec": due["spec"]});
    let spec = json!({"schedule": "0 2 1 1 *", "retention": {"keepLast": 1}, "template": template});
    scene.mirror(Kind::BackupSchedule, "nightly", &spec).await;
    for (name, at) in [("older", 1), ("newer", 2)] {
        let record = BackupRecord {
            schedule: Some("nightly".to_owned()),
            created_at: Timestamp::from_second(at).unwrap(),
            ..record(name)
        };
        scene.context.operator.catalog().insert_backup(record).await.unwrap();
    }
    due["metadata"]["labels"] = json!({"eider.dev/schedule": "nightly"});
    scene.server.put(BACKUPS, &due);
    let look = scene.context.link.looks.of("shop", "main");
    let turn = look.turn.lock().await;
    scene.look(Kind::Backup, &due).await.unwrap();
    let path = format!("{BACKUPS}/first");
    let released = || scene.server.get(&path).unwrap()["metadata"]["finalizers"] == json!([]);
    for _ in 0..200 {
        if released() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(released(), "{:#}", scene.server.get(&path).unwrap());
    // Retention has its turn all the same.
    let claim = "GET /api/v1/namespaces/shop/persistentvolumeclaims/backups";
    scene.server.calls();
    drop(turn);
    for _ in 0..200 {
        if scene.server.lines().iter().any(|line| line == claim) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody looks into the store");
}
