//! What was begun by an earlier process, and whose object has changed since.

use super::terms::{begun, line};
use super::*;
use crate::operator::kubernetes::before;
use crate::plan::{Mark, OperationId};
use crate::telemetry::Health;

fn operation() -> OperationId {
    "Backup/shop/first/1/uid-of-first".parse().unwrap()
}

async fn under_way(scene: &Scene) {
    begun(scene, &operation(), &backup()["spec"]).await;
    line(scene, &operation(), "preflight", Mark::Intent, Value::Null).await;
}

/// It was told to be failed, without its journal, and nobody let its service run again.
#[tokio::test]
async fn what_was_begun_is_gone_on_with_though_its_object_is_wrong_now() {
    for generation in [1, 2] {
        let scene = Scene::new();
        under_way(&scene).await;
        let mut wrong = backup();
        wrong["metadata"]["generation"] = json!(generation);
        wrong["spec"]["target"] = json!({});
        wrong["status"] = json!({"phase": "Running", "observedGeneration": 1});
        scene.server.put(BACKUPS, &wrong);
        scene.look(Kind::Backup, &wrong).await.unwrap();
        assert!(scene.context.is_active(&operation()), "{generation}");
        let said = scene.server.get(&format!("{BACKUPS}/first")).unwrap()["status"].clone();
        assert_ne!(said["phase"], "Failed", "{said:#}");
    }
    // One that was carried out stays what it is.
    let scene = Scene::new();
    let mut wrong = finished();
    wrong["metadata"]["generation"] = json!(2);
    wrong["spec"]["target"] = json!({});
    scene.server.put(BACKUPS, &wrong);
    scene.look(Kind::Backup, &wrong).await.unwrap();
    let said = scene.server.get(&format!("{BACKUPS}/first")).unwrap()["status"].clone();
    assert_eq!(said["phase"], "Succeeded");
}

/// Nobody had said anything of it on the object before that was edited: everybody at its target waited for ever.
#[tokio::test]
async fn an_edit_before_anything_was_said_keeps_nobody_waiting() {
    for knows in [true, false] {
        let mut scene = Scene::new();
        Arc::get_mut(&mut scene.context).unwrap().knows_what_was_done = knows;
        under_way(&scene).await;
        let mut edited = backup();
        edited["metadata"]["generation"] = json!(2);
        scene.server.put(BACKUPS, &edited);
        let health = Health::starting(&[]);
        before::keep_places(&["shop".to_owned()], &scene.context, &health).await;
        assert_eq!(scene.context.is_active(&operation()), knows);
        if !knows {
            let open = scene.context.operator.catalog().open_operations().await.unwrap();
            assert_eq!(open, [], "another replica has led since");
        }
    }
}
