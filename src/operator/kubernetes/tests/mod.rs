//! The exact calls that looks at objects make, against an API server that is a function.

mod kinds;
mod retention;
mod server;
mod terms;
mod under_way;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use self::server::{Call, Server};
use super::look::look;
use super::*;
use crate::catalog::{BackupFilter, Catalog, OpenOptions, ResourceRecord};
use crate::runtime::kubernetes::{KubernetesRuntime, Settings};
use crate::spec::API_VERSION;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::BuildInformation;

const BACKUPS: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/backups";
const SCHEDULES: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/backupschedules";

struct Scene {
    server: Server,
    context: Arc<Context>,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::on(Server::default(), Leadership::unconditional())
    }

    /// An operator with an empty catalog.
    fn on(server: Server, leadership: Leadership) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = OpenOptions { probe: None, now: Timestamp::now() };
        let path = directory.path().join("eider.duckdb");
        let catalog = Catalog::open(&path, &options).unwrap().catalog;
        let build = BuildInformation { version: "0", commit: "0", duckdb: "0" };
        let metrics = Arc::new(Metrics::new(&build, Timestamp::now()).unwrap());
        let client = server.client(leadership);
        let runtime = KubernetesRuntime::new(client.clone(), Settings::new("eider:test"));
        let link = ClusterLink::new(client, runtime, None);
        let operator = Operator::new(catalog, metrics, None, 2).with_cluster(link);
        let context = Arc::new(Context {
            link: operator.cluster.clone().unwrap(),
            operator,
            active: Mutex::default(),
            knows_what_was_done: true,
            first_wait: OnceLock::new(),
            known_stores: HashSet::new(),
            failures: Mutex::default(),
            inspected: Mutex::default(),
        });
        Self { server, context, _directory: directory }
    }

    async fn look(&self, kind: Kind, object: &Value) -> Result<Action, LookError> {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        look(kind, &object, &self.context).await
    }

    /// An object as its own look has mirrored it; of a store that look also has a mover look into it.
    async fn mirror(&self, kind: Kind, name: &str, spec: &Value) {
        let record = ResourceRecord {
            kind: kind.as_str().to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            generation: 1,
            spec_digest: String::new(),
            document: object(kind, name, spec),
            status: Value::Null,
            source: "kubernetes".to_owned(),
            observed_at: Timestamp::now(),
            removed_at: None,
        };
        self.context.operator.catalog().put_resource(record).await.unwrap();
    }

    /// Looks at what the server has now.
    async fn look_again(&self, kind: Kind, path: &str) -> Result<Action, LookError> {
        let object = self.server.get(path).unwrap();
        self.look(kind, &object).await
    }
}

fn object(kind: Kind, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": kind.as_str(),
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "generation": 1,
            "resourceVersion": "7", "creationTimestamp": "2025-06-01T00:00:00Z",
        },
        "spec": spec,
    })
}

fn backup() -> Value {
    let spec = json!({
        "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
        "storeRef": {"name": "main"},
    });
    object(Kind::Backup, "first", &spec)
}

fn finished() -> Value {
    let mut backup = backup();
    backup["status"] = json!({
        "phase": "Succeeded", "observedGeneration": 1, "message": "1 file in a.tar.gz",
        "startedAt": "2026-01-01T00:00:00Z", "completedAt": "2026-01-01T00:00:09Z",
        "archive": {
            "name": "a.tar.gz", "location": "backups/a.tar.gz", "format": "tar.gz",
            "sizeBytes": 1, "sourceBytes": 1, "files": 1, "sha256": "00",
        },
    });
    backup
}

fn condition<'a>(status: &'a Value, wanted: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().unwrap();
    conditions.iter().find(|one| one["type"] == wanted).unwrap()
}

#[tokio::test]
async fn a_backup_whose_store_is_not_there_yet_gets_its_finalizer_and_waits() {
    let scene = Scene::new();
    scene.server.put(BACKUPS, &backup());
    scene.look(Kind::Backup, &backup()).await.unwrap();
    let calls = scene.server.calls();
    let lines: Vec<&str> = calls.iter().map(|call| call.line.as_str()).collect();
    assert_eq!(lines, [format!("PATCH {BACKUPS}/first"), format!("PATCH {BACKUPS}/first/status"),]);
    // On the version that was read: somebody else's finalizer is not lost.
    let metadata = json!({"resourceVersion": "7", "finalizers": [OPERATION_FINALIZER]});
    assert_eq!(calls[0].body, json!({"metadata": metadata}));
    // Applied, by name, as the object that was seen.
    assert!(calls[1].query.contains("fieldManager=eider"), "{}", calls[1].query);
    assert!(calls[1].query.contains("force=true"), "{}", calls[1].query);
    assert_eq!(calls[1].body["metadata"]["uid"], "uid-of-first");
    assert!(calls[1].body["spec"].is_null());
    let status = &calls[1].body["status"];
    assert_eq!((&status["phase"], &status["observedGeneration"]), (&json!("Pending"), &json!(1)));
    assert_eq!(condition(status, "Succeeded")["status"], "Unknown");
    assert_eq!(condition(status, "Succeeded")["reason"], "StoreNotFound");
    // Nothing has changed: nothing is written.
    scene.look_again(Kind::Backup, &format!("{BACKUPS}/first")).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0]);
}

#[tokio::test]
async fn an_intent_is_in_the_status_before_its_effect_and_the_end_after_it() {
    let scene = Scene::new();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    scene.server.put(BACKUPS, &backup());
    scene.look(Kind::Backup, &backup()).await.unwrap();
    let path = format!("{BACKUPS}/first");
    for _ in 0..200 {
        let found = scene.server.get(&path).unwrap();
        let over = found["status"]["phase"] == "Failed";
        if over && found["metadata"]["finalizers"] == json!([]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = scene.server.calls();
    let place = |wanted: &dyn Fn(&Call) -> bool| calls.iter().position(wanted).unwrap();
    let is_status = |call: &Call| call.line == format!("PATCH {path}/status");
    let intent = place(&|call| {
        let lines = call.body["status"]["journal"].as_array();
        is_status(call)
            && lines.is_some_and(|lines| lines.iter().any(|line| line["step"] == "preflight"))
    });
    let workload = "GET /apis/apps/v1/namespaces/shop/statefulsets/db";
    // The first look is for the claims that others may hold; the step itself looks again.
    let effect = calls.iter().rposition(|call| call.line == workload).unwrap();
    let end = place(&|call| is_status(call) && call.body["status"]["phase"] == "Failed");
    assert!(intent < effect && effect < end, "{calls:#?}");
    let status = &calls[end].body["status"];
    assert_eq!(condition(status, "Succeeded")["reason"], "TargetNotFound");
    assert_eq!(condition(status, "Stalled")["status"], "True");
    assert!(status["journal"].is_null(), "{status:#}");
    // Nothing was made for a workload that is not there.
    assert!(calls.iter().all(|call| !call.line.starts_with("POST")), "{calls:#?}");
    // A second look, by a process that has never seen it, begins nothing again.
    let other = Scene::on(scene.server.clone(), Leadership::unconditional());
    other.look_again(Kind::Backup, &path).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(scene.server.lines(), [""; 0]);
}

#[tokio::test]
async fn a_backup_that_is_done_is_read_and_never_written() {
    let scene = Scene::new();
    scene.server.put(BACKUPS, &finished());
    for _ in 0..3 {
        scene.look(Kind::Backup, &finished()).await.unwrap();
    }
    assert_eq!(scene.server.lines(), [""; 0]);
    let records = scene.context.operator.catalog().backups(BackupFilter::default()).await.unwrap();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0].backup_name, "a.tar.gz");
}

#[tokio::test]
async fn a_backup_that_is_done_may_go_unless_its_archive_goes_with_it() {
    // A namespace that is deleted with its operator in it would hang on what nobody takes off.
    for (policy, left) in [("Retain", json!([])), ("Delete", json!([ARCHIVE_FINALIZER]))] {
        let scene = Scene::new();
        let mut done = finished();
        done["spec"]["deletionPolicy"] = json!(policy);
        done["metadata"]["finalizers"] = json!([ARCHIVE_FINALIZER, OPERATION_FINALIZER]);
        scene.server.put(BACKUPS, &done);
        let path = format!("{BACKUPS}/first");
        for _ in 0..3 {
            scene.look_again(Kind::Backup, &path).await.unwrap();
        }
        assert_eq!(scene.server.get(&path).unwrap()["metadata"]["finalizers"], left, "{policy}");
        scene.server.calls();
        scene.look_again(Kind::Backup, &path).await.unwrap();
        assert_eq!(scene.server.lines(), [""; 0], "{policy}: what is said is not said again");
    }
}

#[tokio::test]
async fn a_deleted_backup_keeps_its_archive_and_other_finalizers() {
    let scene = Scene::new();
    let mut leaving = finished();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
    // The deletion counts as a generation.
    leaving["metadata"]["generation"] = json!(2);
    leaving["metadata"]["finalizers"] = json!(["other.example/keep", ARCHIVE_FINALIZER]);
    scene.server.put(BACKUPS, &leaving);
    scene.look(Kind::Backup, &leaving).await.unwrap();
    let calls = scene.server.calls();
    let lines: Vec<&str> = calls.iter().map(|call| call.line.as_str()).collect();
    assert_eq!(lines, [format!("GET {BACKUPS}/first"), format!("PATCH {BACKUPS}/first")]);
    assert_eq!(calls[1].body["metadata"]["finalizers"], json!(["other.example/keep"]));
    // Only the other's finalizer is left: nothing of ours to do.
    scene.look_again(Kind::Backup, &format!("{BACKUPS}/first")).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0]);
}

#[tokio::test]
async fn a_malformed_object_is_told_so_once() {
    let scene = Scene::new();
    let mut broken = backup();
    broken["spec"] = json!({"target": 7, "storeRef": {"name": "main", "namespace": "other"}});
    scene.server.put(BACKUPS, &broken);
    scene.look(Kind::Backup, &broken).await.unwrap();
    let calls = scene.server.calls();
    assert_eq!(calls.len(), 1, "{calls:#?}");
    assert_eq!(calls[0].line, format!("PATCH {BACKUPS}/first/status"));
    let status = &calls[0].body["status"];
    assert_eq!(condition(status, "Stalled")["reason"], "InvalidSpec");
    let path = format!("{BACKUPS}/first");
    scene.look_again(Kind::Backup, &path).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0]);
}

#[tokio::test]
async fn a_reference_to_another_namespace_is_refused_with_the_reason() {
    let scene = Scene::new();
    let mut abroad = backup();
    abroad["spec"]["storeRef"]["namespace"] = json!("other");
    scene.server.put(BACKUPS, &abroad);
    scene.look(Kind::Backup, &abroad).await.unwrap();
    let calls = scene.server.calls();
    let status = &calls[0].body["status"];
    assert_eq!(condition(status, "Succeeded")["reason"], "InvalidSpec");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("stays within its namespace"), "{message}");
    assert_eq!(calls.len(), 1, "{calls:#?}");
}

#[tokio::test]
async fn a_conflict_about_a_status_is_tried_again_and_another_object_is_left_alone() {
    let scene = Scene::new();
    scene.server.put(BACKUPS, &backup());
    let line = format!("PATCH {BACKUPS}/first/status");
    let link = &scene.context.link;
    let say = || {
        let value = json!({"phase": "Pending", "observedGeneration": 1});
        async move { link.put_status(Kind::Backup, "shop", "first", Some("u"), &value).await }
    };
    scene.server.refuse_once(&line, 409, "Conflict");
    say().await.unwrap();
    assert_eq!(scene.server.lines(), [line.clone(), line.clone()]);
    // The object was made again under its name: its history is its own.
    scene.server.refuse_once(&line, 409, "Precondition failed: UID in precondition: u, now: v");
    say().await.unwrap();
    assert_eq!(scene.server.lines(), std::slice::from_ref(&line));
    // Kubernetes 1.20 refuses its own null: the same is said by a merge.
    scene.server.refuse_once(&line, 422, "Invalid");
    let value = json!({"phase": "Running", "observedGeneration": 1});
    let uid = Some("uid-of-first");
    scene.server.put(BACKUPS, &backup());
    link.put_status(Kind::Backup, "shop", "first", uid, &value).await.unwrap();
    let get = format!("GET {BACKUPS}/first");
    assert_eq!(scene.server.lines(), [line.clone(), get, line]);
}

#[tokio::test]
async fn what_fails_again_and_again_is_looked_at_less_and_less_often() {
    let scene = Scene::new();
    let pauses: Vec<u64> =
        (0..9).map(|_| scene.context.backoff("Backup/u".to_owned()).as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
    assert_eq!(scene.context.backoff("Backup/v".to_owned()).as_secs(), 2);
    scene.context.succeeded("Backup/u");
    assert_eq!(scene.context.backoff("Backup/u".to_owned()).as_secs(), 2);
}

#[tokio::test]
async fn a_conflict_about_finalizers_is_a_new_look() {
    let scene = Scene::new();
    scene.server.put(BACKUPS, &backup());
    let line = format!("PATCH {BACKUPS}/first");
    scene.server.refuse_once(&line, 409, "Conflict");
    let error = scene.look(Kind::Backup, &backup()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ClusterUnavailable);
    assert_eq!(scene.server.lines(), [line]);
}

#[tokio::test]
async fn a_run_of_a_schedule_is_made_once_whoever_looks() {
    let scene = Scene::new();
    let spec = json!({
        "schedule": "0 0 1 1 *",
        "startingDeadline": "4000d",
        "template": {"spec": {
            "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
            "storeRef": {"name": "main"},
        }},
    });
    let schedule = object(Kind::BackupSchedule, "yearly", &spec);
    scene.server.put(SCHEDULES, &schedule);
    scene.look(Kind::BackupSchedule, &schedule).await.unwrap();
    let calls = scene.server.calls();
    let lines: Vec<&str> = calls.iter().map(|call| call.line.as_str()).collect();
    assert_eq!(lines, [format!("POST {BACKUPS}"), format!("PATCH {SCHEDULES}/yearly/status"),]);
    let made = &calls[0].body["metadata"];
    let name = made["name"].as_str().unwrap();
    assert!(name.starts_with("yearly-"), "{name}");
    assert_eq!(made["ownerReferences"][0]["uid"], "uid-of-yearly");
    assert_eq!(made["ownerReferences"][0]["controller"], true);
    // A second look at what the server has by now writes nothing.
    let path = format!("{SCHEDULES}/yearly");
    scene.look_again(Kind::BackupSchedule, &path).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0]);
    // A successor with an empty catalog, whose predecessor died before it could say so in the status,
    // asks for the same name, and finds it.
    let successor = Scene::on(scene.server.clone(), Leadership::unconditional());
    successor.look(Kind::BackupSchedule, &schedule).await.unwrap();
    let calls = scene.server.calls();
    assert_eq!(calls[0].line, format!("POST {BACKUPS}"));
    assert_eq!(calls[0].body["metadata"]["name"], name);
    assert_eq!(calls[1].line, format!("GET {BACKUPS}/{name}"));
    let made = format!("{BACKUPS}/");
    let state = scene.server.0.lock().unwrap();
    assert_eq!(state.objects.keys().filter(|path| path.starts_with(&made)).count(), 1);
}

#[tokio::test]
async fn without_the_lease_nothing_reaches_the_server() {
    let server = Server::default();
    let scene = Scene::on(server.clone(), Leadership::default());
    for object in [backup(), finished()] {
        server.put(BACKUPS, &object);
        let look = scene.look(Kind::Backup, &object);
        let _ = tokio::time::timeout(Duration::from_millis(500), look).await;
    }
    let mut leaving = finished();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
    server.put(BACKUPS, &leaving);
    let look = scene.look(Kind::Backup, &leaving);
    let _ = tokio::time::timeout(Duration::from_millis(500), look).await;
    let lines = server.lines();
    assert!(lines.iter().all(|line| line.starts_with("GET ")), "{lines:?}");
}

#[tokio::test]
async fn what_has_run_does_not_run_again_when_its_specification_is_changed() {
    let scene = Scene::new();
    let mut changed = finished();
    changed["metadata"]["generation"] = json!(2);
    changed["spec"]["description"] = json!("servers before 1.25 let this happen");
    scene.server.put(BACKUPS, &changed);
    scene.look(Kind::Backup, &changed).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0], "its result is left as it is");
    // One that was refused has not run: it may be mended.
    changed["status"] = json!({"phase": "Failed", "observedGeneration": 1, "conditions": [
        {"type": "Succeeded", "status": "False", "reason": "InvalidSpec"},
    ]});
    scene.server.put(BACKUPS, &changed);
    scene.look(Kind::Backup, &changed).await.unwrap();
    let path = format!("{BACKUPS}/first");
    assert_eq!(scene.server.lines(), [format!("PATCH {path}"), format!("PATCH {path}/status")]);
}
