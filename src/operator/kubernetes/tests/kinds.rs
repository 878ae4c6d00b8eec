//! Restores, Upgrades and stores: what the first looks at them ask of the server.

use serde_json::Value;

use super::*;

const RESTORES: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/restores";
const UPGRADES: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/upgrades";
const STORES: &str = "/apis/eider.dev/v1alpha1/namespaces/shop/backupstores";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";

impl Scene {
    /// Waits until the status of an object is as asked.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let status = self.server.get(path).unwrap()["status"].clone();
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("waited in vain: {:#}", self.server.get(path).unwrap());
    }
}

#[tokio::test]
async fn a_restore_waits_for_its_backup_and_says_so_once() {
    let scene = Scene::new();
    let spec = json!({"from": {"backupRef": {"name": "later"}}});
    let restore = object(Kind::Restore, "back", &spec);
    scene.server.put(RESTORES, &restore);
    let path = format!("{RESTORES}/back");
    scene.look(Kind::Restore, &restore).await.unwrap();
    assert_eq!(scene.server.lines(), [format!("PATCH {path}"), format!("PATCH {path}/status")]);
    let waiting = scene.server.get(&path).unwrap();
    assert_eq!(waiting["metadata"]["finalizers"], json!([OPERATION_FINALIZER]));
    assert_eq!(condition(&waiting["status"], "Succeeded")["reason"], "BackupNotFound");
    scene.look_again(Kind::Restore, &path).await.unwrap();
    assert_eq!(scene.server.lines(), [""; 0]);
}

#[tokio::test]
async fn upgrades_of_another_day_keep_nobody_waiting() {
    let scene = Scene::new();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    // As many as may work at the same time, and one of them on the very workload.
    for name in ["one", "two"] {
        let upgrade = object(
            Kind::Upgrade,
            name,
            &json!({
                "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
                "toVersion": "2.0.0", "images": {"service": "db:2.0.0"},
                "scheduledAt": "2999-01-01T02:00:00Z",
                "backup": {"storeRef": {"name": "main"}},
            }),
        );
        scene.server.put(UPGRADES, &upgrade);
        scene.look(Kind::Upgrade, &upgrade).await.unwrap();
    }
    let path = format!("{UPGRADES}/one");
    let status = scene.until(&path, |status| status["phase"] == "Pending").await;
    assert!(status["message"].as_str().unwrap().contains("2999-01-01"), "{status:#}");
    scene.server.put(BACKUPS, &backup());
    scene.look(Kind::Backup, &backup()).await.unwrap();
    let path = format!("{BACKUPS}/first");
    scene.until(&path, |status| status["phase"] == "Failed").await;
}

#[tokio::test]
async fn a_schedule_whose_name_fits_into_no_label_is_refused() {
    let scene = Scene::new();
    let spec = json!({
        "schedule": "0 0 1 1 *",
        "template": {"spec": {
            "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
            "storeRef": {"name": "main"},
        }},
    });
    let name = "long-".repeat(14);
    let schedule = object(Kind::BackupSchedule, name.trim_end_matches('-'), &spec);
    scene.server.put(SCHEDULES, &schedule);
    scene.look(Kind::BackupSchedule, &schedule).await.unwrap();
    let calls = scene.server.calls();
    assert_eq!(calls.len(), 1, "{calls:#?}");
    assert_eq!(condition(&calls[0].body["status"], "Ready")["reason"], "InvalidSpec");
}

#[tokio::test]
async fn an_upgrade_of_nothing_ends_without_touching_anything() {
    let scene = Scene::new();
    scene.mirror(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}})).await;
    let upgrade = object(
        Kind::Upgrade,
        "newer",
        &json!({
            "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
            "toVersion": "2.0.0",
            "images": {"service": "db:2.0.0"},
            "backup": {"storeRef": {"name": "main"}},
        }),
    );
    scene.server.put(UPGRADES, &upgrade);
    let path = format!("{UPGRADES}/newer");
    scene.look(Kind::Upgrade, &upgrade).await.unwrap();
    let status = scene.until(&path, |status| status["phase"] == "Failed").await;
    assert_eq!(condition(&status, "Succeeded")["reason"], "TargetNotFound");
    for _ in 0..200 {
        if scene.server.get(&path).unwrap()["metadata"]["finalizers"] == json!([]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = scene.server.calls();
    let finalizers: Vec<&Value> = calls
        .iter()
        .map(|call| &call.body["metadata"]["finalizers"])
        .filter(|v| !v.is_null())
        .collect();
    assert_eq!(finalizers, [&json!([OPERATION_FINALIZER]), &json!([])]);
    let own = |call: &Call| call.line.starts_with("GET ") || call.line.contains(&path);
    assert!(calls.iter().all(own), "{calls:#?}");
}

#[tokio::test]
async fn a_store_without_its_claim_says_so_and_makes_nothing() {
    let scene = Scene::new();
    let store = object(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}}));
    scene.server.put(STORES, &store);
    let path = format!("{STORES}/main");
    scene.look(Kind::BackupStore, &store).await.unwrap();
    let status = scene.until(&path, |status| status["conditions"].is_array()).await;
    assert_eq!(condition(&status, "Ready")["reason"], "StoreUnavailable");
    let calls = scene.server.calls();
    assert!(calls.iter().all(|call| !call.line.starts_with("POST")), "{calls:#?}");
    // On a machine's directory no mover could look.
    let scene = Scene::new();
    let store = object(Kind::BackupStore, "main", &json!({"local": {"path": "/srv"}}));
    scene.server.put(STORES, &store);
    scene.look(Kind::BackupStore, &store).await.unwrap();
    assert_eq!(scene.server.lines(), [format!("PATCH {path}/status")]);
    let status = &scene.server.get(&path).unwrap()["status"];
    assert_eq!(condition(status, "Ready")["reason"], "UnsupportedTarget");
}

/// Its first generation had been looked into, so it never became ready.
#[tokio::test]
async fn a_store_that_was_deleted_and_made_again_is_looked_into() {
    let scene = Scene::new();
    let path = format!("{STORES}/main");
    for uid in ["the-first", "the-second"] {
        let spec = json!({"volumeClaim": {"name": "backups"}});
        let mut store = object(Kind::BackupStore, "main", &spec);
        store["metadata"]["uid"] = json!(uid);
        scene.server.put(STORES, &store);
        scene.look(Kind::BackupStore, &store).await.unwrap();
        let status = scene.until(&path, |status| status["conditions"].is_array()).await;
        assert_eq!(condition(&status, "Ready")["reason"], "StoreUnavailable", "{uid}");
    }
}

#[tokio::test]
async fn a_store_is_looked_into_as_whoever_wrote_it_last() {
    let scene = Scene::new();
    let mut store = object(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}}));
    store["status"] = json!({
        "observedGeneration": 1,
        "moverSecurityContext": {"runAsUser": 70, "runAsGroup": 71, "fsGroup": 72},
    });
    scene.server.put(STORES, &store);
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "backups", "namespace": "shop"}, "spec": {},
    });
    scene.server.put(CLAIMS, &claim);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    scene.server.put("/api/v1/namespaces", &namespace);
    scene.look(Kind::BackupStore, &store).await.unwrap();
    let made = format!("POST {JOBS}");
    let job = 'found: {
        for _ in 0..200 {
            let calls = scene.server.calls();
            if let Some(call) = calls.into_iter().find(|call| call.line == made) {
                break 'found call.body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no mover was made");
    };
    let pod = &job["spec"]["template"]["spec"];
    let context = &pod["securityContext"];
    let identity = [&context["runAsUser"], &context["runAsGroup"], &context["fsGroup"]];
    assert_eq!(identity, [&json!(70), &json!(71), &json!(72)], "{pod:#}");
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "uid-of-main");
}

#[tokio::test]
async fn a_restart_does_not_look_into_a_store_again_that_was_looked_into_just_now() {
    let looked = |scene: &mut Scene, known: bool, asked: &str, minutes: i64| {
        let at = Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        let mut store =
            object(Kind::BackupStore, "main", &json!({"volumeClaim": {"name": "backups"}}));
        store["metadata"]["annotations"] = json!({crate::spec::RECONCILE_AT: asked});
        store["status"] = json!({
            "observedGeneration": 1, "lastInspectedAt": at.to_string(),
            "lastHandledReconcileAt": "then", "conditions": [{
                "type": "Ready", "status": "True", "reason": "Ready", "message": "3 backups",
                "lastTransitionTime": at.to_string(),
            }],
        });
        scene.server.put(STORES, &store);
        if known {
            let key = ("shop".to_owned(), "main".to_owned());
            Arc::get_mut(&mut scene.context).unwrap().known_stores.insert(key);
        }
        store
    };
    for (known, asked, minutes, quiet) in [
        (true, "then", 5, true),
        (true, "now", 5, false),
        (true, "then", 400, false),
        (false, "then", 5, false),
    ] {
        let mut scene = Scene::new();
        let store = looked(&mut scene, known, asked, minutes);
        scene.look(Kind::BackupStore, &store).await.unwrap();
        let mut lines = Vec::new();
        for _ in 0..20 {
            lines.extend(scene.server.lines());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(lines.is_empty(), quiet, "{known} {asked} {minutes}: {lines:?}");
    }
}
