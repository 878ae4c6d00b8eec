//! Replicas with a catalog each, that lead one after the other and again.

use super::cluster::Cluster;
use super::process::{Operator, OperatorProcess};
use super::scene::{LONG, Scene};

/// One of two replicas.
fn replica(scene: &Scene, name: &str, lease: Option<&str>) -> Operator {
    let operator = Operator::new(&scene.cluster, &scene.namespace)
        .environment("EIDER_LEASE_DURATION", "15s")
        .arguments(&["--identity", name]);
    match lease {
        Some(lease) => operator.lease(lease),
        None => operator,
    }
}

fn says(scene: &Scene, process: &OperatorProcess, text: &str) {
    scene.cluster.wait(&format!("the log to say: {text}"), LONG, || {
        process.log().contains(text).then_some(())
    });
}

/// By its own journal a replica that led again undid what another had finished: the archive was discarded, an
/// Upgrade went back with its data, and a record that it had begun was never finished.
#[test]
fn a_replica_that_leads_again_undoes_nothing_that_another_has_finished() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let first = replica(&scene, "one", None);
    let second = replica(&scene, "two", Some(first.lease_name()));
    for name in ["kept", "gone"] {
        let leader = first.start_into("backup.archive.performed");
        scene.back_up(name, "db", "  consistency: {mode: Live}\n");
        assert_eq!(leader.wait_exit(LONG).signal, Some(9));
        let follower = second.start();
        scene.succeeded("backup", name);
        assert_eq!(follower.stop().code, Some(0));
    }
    let archives = scene.archives();
    assert_eq!(archives.len(), 2);
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "backup", "gone"]);
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=0"];
    scene.cluster.kubectl(&scale);
    let leader = first.start();
    says(&scene, &leader, "another replica has led since");
    scene.put_back("back", "kept", "");
    scene.succeeded("restore", "back");
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 0, "somebody else wants it to stand still");
    // Beside the safety backup of the Restore.
    let left = scene.archives();
    assert!(archives.iter().all(|archive| left.contains(archive)), "{left:?}");
    assert!(!leader.log().contains("\"step\":\"discard\""), "{}", leader.log());
    assert!(!found["metadata"]["annotations"].to_string().contains("eider.dev/held"));
}

/// The backup before an Upgrade was taken a second time by whoever took over after it: the service stood still for
/// longer, and the first archive was nobody's.
#[test]
fn what_an_upgrade_has_backed_up_was_backed_up_again_by_another_replica() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let first = replica(&scene, "one", None);
    let second = replica(&scene, "two", Some(first.lease_name()));
    let leader = first.start_into("upgrade.backup.performed");
    scene.upgrade("up", 2, "1s");
    assert_eq!(leader.wait_exit(LONG).signal, Some(9));
    let archives = scene.archives();
    assert_eq!(archives.len(), 1);
    let _follower = second.start();
    let status = scene.succeeded("upgrade", "up");
    assert_eq!(scene.archives(), archives);
    scene.succeeded("backup", status["backupName"].as_str().unwrap());
    scene.running("db");
    scene.tidy("db");
}

/// The Restore of a rollback took the mark of its Upgrade off. With nothing but the status, a replica that took over
/// then could not know that the service was held.
#[test]
fn a_service_whose_data_was_put_back_was_nobodys_until_it_ran() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let old = scene.image();
    let first = replica(&scene, "one", None);
    let second = replica(&scene, "two", Some(first.lease_name()));
    let leader = first.start_into("upgrade.rollback-data.performed");
    scene.upgrade("up", 4, "1s");
    assert_eq!(leader.wait_exit(LONG).signal, Some(9));
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 0);
    let held = found["metadata"]["annotations"]["eider.dev/held"].as_str().unwrap_or_default();
    assert!(held.contains("Upgrade/"), "{found:#}");
    let archives = scene.archives();
    let _follower = second.start();
    scene.failed("upgrade", "up", "RolledBack");
    assert_eq!(scene.image(), old);
    assert_eq!(std::fs::read_to_string(scene.data("db").join("version")).unwrap(), "1\n");
    assert_eq!(scene.archives(), archives);
    scene.running("db");
    scene.tidy("db");
}

/// What a record told was taken for an archive that keeps its place: with it in the count, retention removed the last
/// one that there was, and the Backup whose archive was gone went on to say that it was verified.
#[test]
fn retention_counts_the_archives_that_are_there() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let template = "template: {spec: {target: {workload: {kind: StatefulSet, name: db}}, \
                    storeRef: {name: main}}}";
    scene.apply(&format!(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {{name: often}}\nspec:\n  \
         schedule: \"0 0 1 1 *\"\n  retention: {{keepLast: 2}}\n  {template}\n"
    ));
    let back_up = |name: &str| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata:\n  name: {name}\n  \
             labels: {{eider.dev/schedule: often}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n  storeRef: {{name: main}}\n  \
             consistency: {{mode: Live}}\n"
        ));
        let status = scene.succeeded("backup", name);
        status["archive"]["name"].as_str().unwrap().to_owned()
    };
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    let first = back_up("first");
    let removed = back_up("removed");
    let store = scene.cluster.claim_path(&scene.namespace, "backups");
    for suffix in ["", ".manifest.json"] {
        std::fs::remove_file(store.join(format!("{removed}{suffix}"))).unwrap();
    }
    // A manifest alone is no archive either.
    std::fs::remove_file(store.join(back_up("halved"))).unwrap();
    let third = back_up("third");
    for gone in ["removed", "halved"] {
        scene.cluster.wait("the Backup to say that its archive is gone", LONG, || {
            let status = scene.object("backup", gone)?["status"].clone();
            let conditions = status["conditions"].as_array()?;
            let verified = conditions.iter().find(|one| one["type"] == "Verified")?;
            (verified["status"] == "False" && verified["reason"] == "ArchiveMissing").then_some(())
        });
    }
    let archives = scene.archives();
    assert!(archives.contains(&first) && archives.contains(&third), "{archives:?}");
    // What is there is counted as ever.
    let fourth = back_up("fourth");
    scene.cluster.wait("the first to be removed", LONG, || {
        scene.object("backup", "first").is_none().then_some(())
    });
    assert_eq!(scene.archives(), [third, fourth]);
    says(&scene, &process, "is not in store main any more");
    assert_eq!(process.stop().code, Some(0));
}
