//! What retention may remove, and what it makes of archives that are there by half.

use super::terms::{begun_as, line, store};
use super::*;
use crate::catalog::{BackupRecord, RecordStatus};
use crate::plan::{Job, Mark, OperationId, UpgradeJob};

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
