//! A replica that leads again: its catalog tells of what has gone and changed since.

use super::*;
use crate::catalog::{BackupRecord, RecordStatus, ScheduledTask};
use crate::engine::{Manifest, PackSummary};
use crate::plan::{BackupJob, Job, JournalEntry, Mark, OPERATION, OperationId, StoreBinding};
use crate::spec::ArchiveFormat;

const STORES: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/backupstores";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/eider/leases";

pub(super) fn store() -> StoreBinding {
    let spec = json!({"volumeClaim": {"name": "backups"}});
    StoreBinding { name: "main".to_owned(), spec: serde_json::from_value(spec).unwrap() }
}

pub(super) fn verified() -> Value {
    let mut backup = finished();
    backup["status"]["conditions"] = json!([
        {"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "1 file",
         "lastTransitionTime": "2026-01-01T00:00:09Z", "observedGeneration": 1},
        {"type": "Verified", "status": "True", "reason": "Verified", "message": "1 file",
         "lastTransitionTime": "2026-01-01T00:00:09Z", "observedGeneration": 1},
    ]);
    backup
}

impl Scene {
    /// An operator that leads after another one.
    fn again(server: Server) -> Self {
        let mut scene = Self::on(server, Leadership::unconditional());
        Arc::get_mut(&mut scene.context).unwrap().knows_what_was_done = false;
        scene
    }

    pub(super) async fn records(&self) -> Vec<BackupRecord> {
        self.context.operator.catalog().backups(BackupFilter::default()).await.unwrap()
    }

    pub(super) fn store_identity() -> OperationId {
        "BackupStore/shop/main/1".parse().unwrap()
    }

    pub(super) async fn hears_of(&self, before: &[BackupRecord], present: &[&str]) {
        let present: HashSet<String> = present.iter().map(|name| (*name).to_owned()).collect();
        self.context.operator.end_the_gone(&store(), before, &present).await.unwrap();
    }
}

/// The journal of an operation of which nobody has said how it ended, as an earlier term has left it.
pub(super) async fn begun(scene: &Scene, operation: &OperationId, spec: &Value) {
    let job = Job::Backup(BackupJob {
        operation: operation.clone(),
        spec: serde_json::from_value(spec.clone()).unwrap(),
        store: store(),
        schedule: None,
        previous: None,
        origin: None,
        root_names: Vec::new(),
        anonymous_volumes: false,
        places: Vec::new(),
        definitions: None,
    });
    begun_as(scene, &job).await;
}

pub(super) async fn begun_as(scene: &Scene, job: &Job) {
    line(scene, job.operation(), OPERATION, Mark::Intent, json!(job)).await;
}

pub(super) async fn line(
    scene: &Scene,
    operation: &OperationId,
    step: &str,
    mark: Mark,
    detail: Value,
) {
    let line = JournalEntry {
        operation: operation.clone(),
        step: step.to_owned(),
        mark,
        at: Timestamp::now(),
        session: "of an earlier term".to_owned(),
        detail,
    };
    scene.context.operator.catalog().append_journal(line).await.unwrap();
}

/// Its record kept the place of the last archive that there was, and retention removed that one.
#[tokio::test]
async fn a_backup_whose_archive_is_gone_says_so_until_it_is_back() {
    let scene = Scene::new();
    let path = format!("{BACKUPS}/first");
    scene.server.put(BACKUPS, &verified());
    scene.look(Kind::Backup, &verified()).await.unwrap();
    let recorded = scene.records().await;
    scene.hears_of(&recorded, &["a.tar.gz", "b.tar.gz"]).await;
    assert_eq!(scene.server.lines(), [""; 0], "it is there");
    scene.hears_of(&[], &[]).await;
    assert_eq!(scene.server.lines(), [""; 0], "it was sealed after the look had begun");

    scene.hears_of(&recorded, &["b.tar.gz"]).await;
    let said = scene.server.get(&path).unwrap()["status"].clone();
    assert_eq!(condition(&said, "Verified")["status"], "False");
    assert_eq!(condition(&said, "Verified")["reason"], "ArchiveMissing");
    assert_eq!(said["message"], "a.tar.gz is not in store main any more");
    assert_eq!(
        (&said["phase"], &said["archive"]["name"]),
        (&json!("Succeeded"), &json!("a.tar.gz"))
    );
    let ended = scene.records().await;
    assert_eq!(ended[0].status, RecordStatus::Deleted);
    assert!(ended[0].deleted_at.is_some());
    // What has ended is not taken up again by a look at the object, here or by a successor.
    scene.server.calls();
    let successor = Scene::on(scene.server.clone(), Leadership::unconditional());
    for scene in [&scene, &successor] {
        scene.look_again(Kind::Backup, &path).await.unwrap();
        assert_eq!(scene.records().await[0].status, RecordStatus::Deleted);
    }
    assert_eq!(scene.server.lines(), [""; 0]);

    let at = ended[0].created_at;
    let format = ArchiveFormat::TarGz;
    let mut manifest = Manifest::new("a.tar.gz", format, &PackSummary::default(), at);
    (manifest.namespace, manifest.backup) = ("shop".to_owned(), "first".to_owned());
    let manifests = [manifest];
    let (operator, owner) = (&scene.context.operator, Scene::store_identity());
    operator.record_manifests(&owner, &store(), &recorded, &manifests).await.unwrap();
    let deleted = RecordStatus::Deleted;
    assert_eq!(scene.records().await[0].status, deleted, "it ended after the look had begun");
    operator.record_manifests(&owner, &store(), &ended, &manifests).await.unwrap();
    let back = scene.records().await;
    assert_eq!((back.len(), back[0].status), (1, RecordStatus::Succeeded));
    assert_eq!((back[0].deleted_at, back[0].uid.as_deref()), (None, Some("uid-of-first")));
    let said = scene.server.get(&path).unwrap()["status"].clone();
    assert_eq!(condition(&said, "Verified")["status"], "True");
}

#[tokio::test]
async fn what_went_while_another_replica_led_is_ended_here() {
    let scene = Scene::again(Server::default());
    let catalog = scene.context.operator.catalog();
    let spec = json!({
        "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
        "storeRef": {"name": "main"}, "deletionPolicy": "Delete",
    });
    let record = |name: &str, status: RecordStatus| BackupRecord {
        backup_name: format!("{name}.tar.gz"),
        backup_path: format!("backups/{name}.tar.gz"),
        namespace: "shop".to_owned(),
        object: name.to_owned(),
        uid: Some(format!("uid-of-{name}")),
        store: "main".to_owned(),
        status,
        ..BackupRecord::default()
    };
    for (name, status) in [
        ("removed", RecordStatus::Succeeded),
        ("begun", RecordStatus::Running),
        ("there", RecordStatus::Succeeded),
    ] {
        scene.mirror(Kind::Backup, name, &spec).await;
        catalog.insert_backup(record(name, status)).await.unwrap();
    }
    scene.server.put(BACKUPS, &object(Kind::Backup, "there", &spec));
    let operation = |name: &str| -> OperationId {
        format!("Backup/shop/{name}/1/uid-of-{name}").parse().unwrap()
    };
    begun(&scene, &operation("begun"), &spec).await;
    leave::forget_the_gone(&["shop".to_owned()], &scene.context).await.unwrap();
    let status = |name: &str, records: &[BackupRecord]| {
        records.iter().find(|record| record.object == name).unwrap().status
    };
    let records = scene.records().await;
    assert_eq!(status("removed", &records), RecordStatus::Deleted);
    assert_eq!(status("there", &records), RecordStatus::Succeeded);
    // It stayed Running for ever.
    assert_eq!(status("begun", &records), RecordStatus::Failed);
    assert_eq!(catalog.open_operations().await.unwrap(), []);
}

/// What carries the mark of an operation is still held by it, whoever has led since: without an object nobody else
/// would let the service run.
#[tokio::test]
async fn a_service_that_is_marked_as_held_runs_again_though_another_replica_has_led() {
    const WORKLOADS: &str = "/apis/apps/v1/namespaces/shop/statefulsets";
    let spec = json!({
        "target": {"workload": {"kind": "StatefulSet", "name": "db"}}, "storeRef": {"name": "main"},
    });
    let operation: OperationId = "Backup/shop/first/1/uid-of-first".parse().unwrap();
    let scale = format!("PATCH {WORKLOADS}/db/scale");
    for holder in [operation.to_string(), "Backup/shop/another/1".to_owned()] {
        let scene = Scene::again(Server::default());
        let held = json!({"operation": holder, "replicas": 2});
        let workload = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "db", "namespace": "shop", "generation": 3, "uid": "uid-of-db",
                         "annotations": {"eider.dev/held": held.to_string()}},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "db"}},
                     "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}}},
            "status": {"observedGeneration": 3},
        });
        scene.server.put(WORKLOADS, &workload);
        let replicas = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": "scale", "namespace": "shop"}, "spec": {"replicas": 0},
        });
        scene.server.put(&format!("{WORKLOADS}/db"), &replicas);
        scene.mirror(Kind::Backup, "first", &spec).await;
        begun(&scene, &operation, &spec).await;
        line(&scene, &operation, "preflight", Mark::Intent, Value::Null).await;
        line(&scene, &operation, "preflight", Mark::Done, json!({})).await;
        line(&scene, &operation, "quiesce", Mark::Intent, held.clone()).await;
        line(&scene, &operation, "quiesce", Mark::Done, held.clone()).await;
        leave::forget_the_gone(&["shop".to_owned()], &scene.context).await.unwrap();
        let is_own = holder == operation.to_string();
        assert_eq!(scene.context.is_active(&operation), is_own, "{holder}");
        let mut asked = None;
        for _ in 0..if is_own { 200 } else { 1 } {
            asked = scene.server.calls().into_iter().find(|call| call.line == scale);
            if asked.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            asked.map(|call| call.body["spec"]["replicas"].clone()),
            is_own.then(|| json!(2))
        );
    }
}

/// A record that was begun here stayed Running, and its journal open, though another replica had brought the Backup
/// to its end.
#[tokio::test]
async fn what_another_replica_has_ended_is_ended_here() {
    let scene = Scene::again(Server::default());
    let operation: OperationId = "Backup/shop/first/1/uid-of-first".parse().unwrap();
    let spec = verified()["spec"].clone();
    let catalog = scene.context.operator.catalog();
    begun(&scene, &operation, &spec).await;
    let record = BackupRecord {
        backup_name: operation.to_string(),
        namespace: "shop".to_owned(),
        object: "first".to_owned(),
        uid: operation.uid.clone(),
        generation: Some(1),
        store: "main".to_owned(),
        status: RecordStatus::Running,
        ..BackupRecord::default()
    };
    catalog.insert_backup(record).await.unwrap();
    scene.server.put(BACKUPS, &verified());
    scene.look(Kind::Backup, &verified()).await.unwrap();
    assert_eq!(catalog.open_operations().await.unwrap(), []);
    let records = scene.records().await;
    let [record] = &records[..] else { panic!("{records:#?}") };
    assert_eq!((record.status, record.backup_name.as_str()), (RecordStatus::Succeeded, "a.tar.gz"));
    assert!(record.verified_at.is_some());
    assert_eq!(scene.server.lines(), [""; 0], "nothing is done a second time");
}

/// It said that runs were missed which another replica had made, and made the newest of them again.
#[tokio::test]
async fn a_schedule_goes_on_from_where_another_replica_has_brought_it() {
    let scene = Scene::again(Server::default());
    let spec = json!({
        "schedule": "0 0 1 1 *", "startingDeadline": "4000d",
        "template": {"spec": {
            "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
            "storeRef": {"name": "main"},
        }},
    });
    let run: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let earlier: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
    let created: Timestamp = "2023-06-01T00:00:00Z".parse().unwrap();
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    let mut schedule = object(Kind::BackupSchedule, "yearly", &spec);
    schedule["metadata"]["creationTimestamp"] = json!(created);
    schedule["status"] = json!({
        "observedGeneration": 1, "lastRunAt": run, "lastSuccessAt": run, "missedRuns": 4,
    });
    let task = ScheduledTask {
        task_name: "yearly".to_owned(),
        namespace: "shop".to_owned(),
        created_at: created,
        last_run_at: Some(earlier),
        decided_until: Some(earlier),
        missed_runs: 1,
        ..ScheduledTask::default()
    };
    scene.context.operator.catalog().put_scheduled_task(task).await.unwrap();
    scene.mirror(Kind::BackupSchedule, "yearly", &spec).await;
    let catalog = scene.context.operator.catalog();
    let kind = Kind::BackupSchedule.as_str();
    let mut mirrored = catalog.resource(kind, "shop", "yearly").await.unwrap().unwrap();
    mirrored.status = schedule["status"].clone();
    mirrored.document = schedule.clone();
    catalog.put_resource(mirrored).await.unwrap();
    let known = scene.context.operator.schedule("shop", "yearly").await.unwrap();
    let task = scene.context.operator.schedule_task(&known, now).await.unwrap();
    assert_eq!((task.last_run_at, task.decided_until), (Some(run), Some(run)));
    assert_eq!((task.last_success_at, task.missed_runs), (Some(run), 4));
}

#[tokio::test]
async fn a_lease_is_signed_by_its_holder_alone() {
    let server = Server::default();
    let lease = |holder: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "lead", "namespace": "eider", "resourceVersion": "7",
                         "annotations": {"eider.dev/session": "of the leader"}},
            "spec": {"holderIdentity": holder},
        })
    };
    let client = server.client(Leadership::unconditional());
    let place = ("eider", "lead");
    server.put(LEASES, &lease("other"));
    let refused = sign(&client, place, "me", "mine").await.unwrap_err();
    assert!(matches!(refused, SignError::Lost(holder) if holder == "other"));
    assert_eq!(server.lines(), [format!("GET {LEASES}/lead")]);
    server.put(LEASES, &lease("me"));
    let earlier = sign(&client, place, "me", "mine").await.unwrap();
    assert_eq!(earlier.as_deref(), Some("of the leader"));
    let written = server.get(&format!("{LEASES}/lead")).unwrap();
    assert_eq!(written["metadata"]["annotations"]["eider.dev/session"], "mine");
    assert_eq!(written["metadata"]["resourceVersion"], "7", "on the version that was read");
}

/// Without a record to compare it with, a Backup of next to nothing passed for a good one.
#[tokio::test]
async fn after_anothers_term_a_backup_waits_for_the_first_look_into_its_store() {
    let scene = Scene::again(Server::default());
    let mut store = object(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}}));
    store["status"] = json!({"observedGeneration": 1, "backups": 3});
    scene.mirror(Kind::BackupStore, "main", &store["spec"]).await;
    let catalog = scene.context.operator.catalog();
    let kind = Kind::BackupStore.as_str();
    let mut mirrored = catalog.resource(kind, "shop", "main").await.unwrap().unwrap();
    mirrored.status = store["status"].clone();
    catalog.put_resource(mirrored).await.unwrap();
    scene.server.put(BACKUPS, &backup());
    let path = format!("{BACKUPS}/first");
    scene.look(Kind::Backup, &backup()).await.unwrap();
    let said = scene.server.get(&path).unwrap()["status"].clone();
    assert_eq!(said["phase"], "Pending");
    assert!(said["message"].as_str().unwrap().contains("looked into first"), "{said:#}");
    // Its claim is not there: it cannot be looked into, and nobody waits any longer.
    scene.server.put(STORES, &store);
    scene.look(Kind::BackupStore, &store).await.unwrap();
    for _ in 0..200 {
        scene.look_again(Kind::Backup, &path).await.unwrap();
        if scene.server.get(&path).unwrap()["status"]["phase"] == "Failed" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it waits for ever: {:#}", scene.server.get(&path).unwrap());
}
