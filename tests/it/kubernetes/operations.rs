//! The main job, end to end, by kubectl alone.

use super::cluster::{Cluster, PATIENCE};
use super::process::Operator;
use super::scene::{LONG, STOPS, Scene, assert_same, copy_of, service_image};

#[test]
fn a_service_is_backed_up_damaged_and_restored_identically() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    scene.back_up("first", "db", "");
    let status = scene.succeeded("backup", "first");
    assert_eq!(status["archive"]["files"], 21, "{status:#}");
    assert_eq!(status["archive"]["claims"][0]["name"], "data-db-0");
    assert!(status["downtime"].is_string(), "{status:#}");
    assert!(status["journal"].is_null(), "{status:#}");
    scene.running("db");
    scene.tidy("db");
    assert_eq!(scene.archives().len(), 1);

    let data = scene.data("db");
    let before = copy_of(&data);
    std::fs::remove_dir_all(data.join("deep")).unwrap();
    std::fs::write(data.join("linked.txt"), "damage").unwrap();
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: back}\n\
         spec: {from: {backupRef: {name: first}}}\n",
    );
    let status = scene.succeeded("restore", "back");
    scene.running("db");
    assert_same(before.path(), &data);
    // What was there before is kept, verified, as a Backup of its own.
    let safety = status["safetyBackupName"].as_str().unwrap();
    let safety = scene.succeeded("backup", safety);
    assert_eq!(scene.archives().len(), 2);
    // What the Restore has laid ready beside the data is no part of it.
    let store = scene.cluster.claim_path(&scene.namespace, "backups");
    let archive = store.join(safety["archive"]["name"].as_str().unwrap());
    let listed = std::process::Command::new("tar").arg("tzf").arg(archive).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("linked.txt"), "{listed}");
    assert!(!listed.contains(".eider-restore"), "{listed}");
    scene.tidy("db");

    let listing = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "eider"]);
    for word in ["backup.eider.dev/first", "restore.eider.dev/back", "Succeeded", "statefulset/db"]
    {
        assert!(listing.contains(word), "{word} is not in:\n{listing}");
    }
    let events = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "events"]);
    assert!(events.contains("backup/first") && events.contains("restore/back"), "{events}");
}

#[test]
fn a_good_upgrade_changes_the_image_and_keeps_a_backup() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let image = service_image(&scene.cluster, 2);
    scene.apply(&upgrade("to-two", "2.0.0", &image));
    let status = scene.succeeded("upgrade", "to-two");
    assert_eq!(status["fromVersion"], "1.0.0");
    scene.running("db");
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
    assert_eq!(found["spec"]["replicas"], 1);
    // Whoever manages the workload may set the next image without a conflict.
    let managers = found["metadata"]["managedFields"].to_string();
    assert!(!managers.contains("eider-upgrade"), "{managers}");
    assert_eq!(std::fs::read_to_string(scene.data("db").join("version")).unwrap(), "2\n");
    let backup = status["backupName"].as_str().unwrap();
    scene.succeeded("backup", backup);
    scene.tidy("db");
}

/// The images of the first Upgrade stayed in the hands of a field manager, and an Upgrade of another container
/// took them away.
#[test]
fn containers_are_upgraded_one_after_the_other() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let one = service_image(&scene.cluster, 1);
    let two = service_image(&scene.cluster, 2);
    let shell = scene.cluster.busybox().to_owned();
    scene.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: service, image: "{one}", imagePullPolicy: IfNotPresent}}
      - {{name: side, image: "{one}", imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}}
"#
    ));
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    for (name, version, container, image) in
        [("first", "2.0.0", "service", &two), ("second", "3.0.0", "side", &shell)]
    {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: Deployment, name: web}}}}\n  toVersion: \"{version}\"\n  \
             images: {{{container}: \"{image}\"}}\n  backup: {{mode: Skip}}\n  rollback: {{data: false}}\n  \
             consistency: {{timeout: {STOPS}}}\n  healthGate: {{timeout: 5m, soak: 2s}}\n"
        ));
        scene.succeeded("upgrade", name);
        let found = scene.object("deployment", "web").unwrap();
        let managers = found["metadata"]["managedFields"].to_string();
        assert!(!managers.contains("eider-upgrade"), "{managers}");
    }
    let found = scene.object("deployment", "web").unwrap();
    let images = &found["spec"]["template"]["spec"]["containers"];
    assert_eq!((&images[0]["image"], &images[1]["image"]), (&two.into(), &shell.into()));
    assert!(!process.stop().stderr.contains("panicked"));
}

#[test]
fn an_upgrade_that_never_becomes_ready_rolls_back_image_and_data() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.fill("db");
    let before = copy_of(&scene.data("db"));
    let image = service_image(&scene.cluster, 3);
    scene.apply(&upgrade("to-three", "3.0.0", &image));
    let status = scene.failed("upgrade", "to-three", "RolledBack");
    assert_eq!(status["phase"], "RolledBack");
    assert!(status["rollbackReason"].as_str().unwrap().contains("not healthy"), "{status:#}");
    scene.running("db");
    let found = scene.object("statefulset", "db").unwrap();
    let old = service_image(&scene.cluster, 1);
    assert_eq!(found["spec"]["template"]["spec"]["containers"][0]["image"], old.as_str());
    assert_same(before.path(), &scene.data("db"));
    scene.tidy("db");
}

#[test]
fn an_upgrade_to_an_image_that_is_not_there_stops_nothing() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let pod = scene.object("pod", "db-0").unwrap();
    scene.apply(&upgrade("to-nowhere", "9.0.0", "eider-test/there-is-no-such-image:9"));
    scene.failed("upgrade", "to-nowhere", "ImageUnavailable");
    let after = scene.object("pod", "db-0").unwrap();
    assert_eq!(pod["metadata"]["uid"], after["metadata"]["uid"], "the pod was replaced");
    scene.tidy("db");
}

fn upgrade(name: &str, version: &str, image: &str) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{workload: {{kind: StatefulSet, name: db}}}}\n  toVersion: \"{version}\"\n  \
         images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: 100s, soak: 3s}}\n"
    )
}

#[test]
fn a_schedule_fires_prunes_and_reports_what_is_overdue() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: often}\nspec:\n  \
         schedule: \"* * * * *\"\n  retention: {keepLast: 1}\n  template:\n    spec:\n      \
         target: {workload: {kind: StatefulSet, name: db}}\n      storeRef: {name: main}\n      \
         consistency: {mode: Live}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: late}\nspec:\n  \
         schedule: \"0 0 1 1 *\"\n  overdueAfter: 5s\n  template:\n    spec:\n      \
         target: {workload: {kind: StatefulSet, name: db}}\n      storeRef: {name: main}\n",
    );
    let condition = |name: &str, wanted: &str| {
        let found = scene.object("backupschedule", name)?;
        let conditions = found["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|one| one["type"] == wanted)
    };
    scene.cluster.wait("the late one to be overdue", PATIENCE, || {
        (condition("late", "Overdue")?["status"] == "True").then_some(())
    });
    // Two runs, and the archive of the first is gone: by a mover, from the store.
    let seen = scene.cluster.wait("two runs", LONG, || {
        let found = scene.object("backupschedule", "often")?;
        let last = found["status"]["lastBackup"].as_str()?.to_owned();
        let archives = scene.archives();
        let events = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "events"]);
        let runs: std::collections::BTreeSet<&str> =
            events.split_whitespace().filter(|word| word.starts_with("backup/often-")).collect();
        (runs.len() >= 2 && archives.len() == 1).then_some((last, archives))
    });
    let (last, archives) = seen;
    let kept = scene.succeeded("backup", &last);
    assert_eq!(kept["archive"]["name"], archives[0].as_str());
    assert_eq!(condition("often", "Overdue").unwrap()["status"], "False");
    let owner = scene.object("backup", &last).unwrap()["metadata"]["ownerReferences"].clone();
    assert_eq!(owner[0]["name"], "often");
}

/// The next run of a schedule that replaces ends the one before it, whose service runs again.
#[test]
fn a_schedule_that_replaces_ends_the_run_before() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let schedule = |hooks: &str| {
        format!(
            "apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {{name: often}}\nspec:\n  \
             schedule: \"* * * * *\"\n  concurrencyPolicy: Replace\n  template:\n    spec:\n      \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n      storeRef: {{name: main}}\n{hooks}"
        )
    };
    // Longer than it is to the next run; the edit is for that one.
    scene.apply(&schedule(
        "      hooks: {before: [{exec: {container: service, command: [/bin/sleep, \"200\"]}}]}\n",
    ));
    let last = || {
        let found = scene.object("backupschedule", "often")?;
        found["status"]["lastBackup"].as_str().map(str::to_owned)
    };
    let first = scene.cluster.wait("the first run", PATIENCE, last);
    scene.reaches("backup", &first, "hooks-before");
    scene.apply(&schedule(""));
    let status = scene.failed("backup", &first, "Cancelled");
    assert!(status["archive"]["name"].is_null(), "{status:#}");
    // On a busy machine a run may take longer than it is to the next one.
    let suspend = "{\"spec\":{\"suspend\":true}}";
    let patch = ["patch", "backupschedule", "often", "--type=merge", "--patch", suspend];
    scene.cluster.kubectl(&[&["-n", &scene.namespace][..], &patch].concat());
    scene.cluster.wait("a later run to succeed", LONG, || {
        let status = scene.object("backup", &last()?)?["status"].clone();
        (status["phase"] == "Succeeded").then_some(())
    });
    scene.running("db");
    scene.tidy("db");
}
