//! What somebody does to a service or to an object while an operation is at work on it: told, not fought,
//! and nothing is done twice.

use super::cluster::Cluster;
use super::kills::DEPLOYMENT;
use super::process::Operator;
use super::scene::{LONG, STOPS, Scene, service_image};

#[test]
fn a_service_that_somebody_scales_back_is_reported_and_not_fought() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    // It dies when the service is held, so that there is time to scale it back.
    let process = operator.start_into("backup.quiesce.recorded");
    scene.back_up("fought", "db", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=2"];
    scene.cluster.kubectl(&scale);
    let _process = operator.start();
    let status = scene.failed("backup", "fought", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("scaled to 2"), "{status:#}");
    let found = scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["replicas"], 2, "what somebody else has set stays");
    scene.tidy("db");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// It waited for pods to be gone that were made anew, until its time was up.
#[test]
fn a_service_that_is_scaled_back_while_it_stops_is_told_at_once() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.ends_slowly(15);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    // Longer than a test waits.
    scene.back_up("fought", "db", "  consistency: {timeout: 30m}\n");
    scene.is_asked_to_end();
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=1"];
    scene.cluster.kubectl(&scale);
    let status = scene.failed("backup", "fought", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("scaled to 1"), "{status:#}");
    scene.running("db");
    scene.tidy("db");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// Servers before 1.25 let the specification of what runs be changed: it was taken up a second time.
#[test]
fn an_edit_of_what_runs_is_no_second_run() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.back_up("edited", "db", "");
    scene.reaches("backup", "edited", "quiesce");
    let edit = "{\"spec\":{\"description\":\"another\"}}";
    let patch = ["patch", "backup", "edited", "--type=merge", "--patch", edit];
    let patched = scene.cluster.try_kubectl(&[&["-n", &scene.namespace][..], &patch].concat());
    // `kubectl wait` would wait for what the edit asks for, which nobody carries out.
    assert_eq!(scene.ended("backup", "edited")["phase"], "Succeeded");
    if patched.is_ok() {
        scene.cluster.wait("the edit to be answered", LONG, || {
            let events = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "events"]);
            events.contains("does not run again").then_some(())
        });
    }
    assert_eq!(scene.archives().len(), 1, "it ran again");
    let found = scene.object("backup", "edited").unwrap();
    assert_eq!(found["status"]["phase"], "Succeeded", "{found:#}");
    scene.running("db");
    scene.tidy("db");
}

/// A Backup that succeeded lacked the data of a pod that was added after it had looked.
#[test]
fn a_pod_that_is_added_before_the_stop_is_not_left_out_of_the_backup() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let sleep = "{exec: {container: service, command: [/bin/sleep, \"30\"]}}";
    let more = format!("  hooks: {{before: [{sleep}]}}\n  consistency: {{timeout: {STOPS}}}\n");
    scene.back_up("grown", "db", &more);
    scene.reaches("backup", "grown", "hooks-before");
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=2"];
    scene.cluster.kubectl(&scale);
    let status = scene.failed("backup", "grown", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("data-db-1"), "{status:#}");
    scene.running("db");
    scene.tidy("db");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// The pod of a CronJob that began after preflight worked on the data while it was read, and no warning said so.
#[test]
fn who_begins_to_work_on_a_claim_after_preflight_is_told() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start_into("backup.quiesce.recorded");
    scene.back_up("told", "db", "");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    scene.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: report}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: report\n    image: {}\n    \
         imagePullPolicy: IfNotPresent\n    command: [/bin/sleep, \"3600\"]\n    \
         volumeMounts: [{{name: data, mountPath: /data}}]\n  \
         volumes: [{{name: data, persistentVolumeClaim: {{claimName: data-db-0}}}}]\n",
        service_image(&scene.cluster, 1)
    ));
    scene.cluster.wait("the other pod to run", LONG, || {
        (scene.object("pod", "report")?["status"]["phase"] == "Running").then_some(())
    });
    let _process = operator.start();
    let status = scene.succeeded("backup", "told");
    let told = status["warnings"].as_array().unwrap().iter();
    let told: Vec<&str> = told.filter_map(|warning| warning.as_str()).collect();
    assert!(told.iter().any(|said| said.contains("/report works on data-db-0 too")), "{told:?}");
    scene.running("db");
    scene.tidy("db");
}

/// An Upgrade succeeded although nobody ran any more who could have failed.
#[test]
fn an_upgrade_whose_service_is_scaled_to_zero_while_it_soaks_is_undone() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let old = scene.image();
    scene.upgrade("emptied", 2, "2m");
    scene.reaches("upgrade", "emptied", "soak");
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=0"];
    scene.cluster.kubectl(&scale);
    let status = scene.failed("upgrade", "emptied", "RolledBack");
    assert!(status["rollbackReason"].as_str().unwrap().contains("from 1 to 0"), "{status:#}");
    assert_eq!(scene.image(), old);
    scene.running("db");
    scene.tidy("db");
}

/// The stop of a Backup brought up a template that nobody had rolled out, on which the service did not run.
#[test]
fn a_service_of_an_older_template_is_not_stopped_and_is_named_by_what_runs() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let broken = service_image(&scene.cluster, 4);
    let change = format!(
        "{{\"spec\":{{\"updateStrategy\":{{\"type\":\"OnDelete\",\"rollingUpdate\":null}},\"template\":{{\
         \"spec\":{{\"containers\":[{{\"name\":\"service\",\"image\":\"{broken}\"}}]}}}}}}}}"
    );
    let patch = ["-n", &scene.namespace, "patch", "statefulset", "db", "-p", &change];
    scene.cluster.kubectl(&patch);
    let ran = scene.pod_uid();
    scene.back_up("stopped", "db", "");
    let status = scene.failed("backup", "stopped", "UnsupportedTarget");
    assert!(status["message"].as_str().unwrap().contains("is not complete"), "{status:#}");
    scene.back_up("beside", "db", "  consistency: {mode: Live}\n");
    scene.succeeded("backup", "beside");
    assert_eq!(scene.pod_uid(), ran, "it was stopped");
    let archives = scene.archives();
    assert!(archives[0].contains("1.0.0") && archives.len() == 1, "{archives:?}");
    scene.tidy("db");
}

/// A workload that was gone counted as stopped: its pod was there while the archive was read.
#[test]
fn a_workload_that_is_deleted_without_its_pods_does_not_count_as_stopped() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.ends_slowly(30);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.back_up("orphaned", "db", "");
    scene.is_asked_to_end();
    let delete = ["-n", &scene.namespace, "delete", "statefulset", "db", "--cascade=orphan"];
    scene.cluster.kubectl(&delete);
    let status = scene.failed("backup", "orphaned", "TargetNotFound");
    assert!(status["message"].as_str().unwrap().contains("was deleted"), "{status:#}");
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// Servers before 1.22 do not tell who has scaled a Deployment, and a Backup succeeded of what ran meanwhile.
#[test]
fn a_deployment_that_ran_while_it_was_held_still_is_not_overlooked() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    scene.apply(&DEPLOYMENT.replace("IMAGE", &service_image(&scene.cluster, 1)));
    let has = |replicas: i64| {
        scene.cluster.wait(&format!("{replicas} replicas"), LONG, || {
            let found = scene.object("deployment", "web")?;
            let status = &found["status"];
            let seen = status["observedGeneration"] == found["metadata"]["generation"];
            let is = |name: &str| status[name].as_i64().unwrap_or(0) == replicas;
            (seen && is("replicas") && is("readyReplicas")).then_some(())
        });
    };
    has(1);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let back_up = |name: &str| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: Deployment, name: web}}}}\n  storeRef: {{name: main}}\n  \
             consistency: {{timeout: {STOPS}}}\n"
        ));
    };
    let process = operator.start_into("backup.quiesce.recorded");
    back_up("torn");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let in_the_namespace = ["-n", &scene.namespace];
    let scale = |replicas: i64| {
        let scale = format!("--replicas={replicas}");
        scene
            .cluster
            .kubectl(&[&in_the_namespace[..], &["scale", "deployment/web", &scale]].concat());
        has(replicas);
    };
    scale(1);
    scale(0);
    let process = operator.start();
    let status = scene.failed("backup", "torn", "ReplicasChanged");
    assert!(status["message"].as_str().unwrap().contains("may have run"), "{status:#}");
    has(1);
    assert_eq!(process.stop().code, Some(0));
    // A ReplicaSet that is made with its replicas is scaled only once.
    let process = operator.start_into("backup.quiesce.recorded");
    back_up("another");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let image = service_image(&scene.cluster, 2);
    let both = format!(
        "{{\"spec\":{{\"replicas\":1,\"template\":{{\"spec\":{{\"containers\":\
         [{{\"name\":\"service\",\"image\":\"{image}\"}}]}}}}}}}}"
    );
    let patch = ["patch", "deployment", "web", "-p", &both];
    scene.cluster.kubectl(&[&in_the_namespace[..], &patch].concat());
    has(1);
    scale(0);
    let _process = operator.start();
    scene.failed("backup", "another", "ReplicasChanged");
    has(1);
    assert_eq!(scene.archives(), Vec::<String>::new());
}

/// A rollback took replicas away that somebody had added, and left their claims on the new version's data, without a
/// word.
#[test]
fn what_was_added_while_a_new_version_ran_is_told_when_it_goes_back() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    scene.upgrade("grown", 2, "2m");
    scene.reaches("upgrade", "grown", "soak");
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=2"];
    scene.cluster.kubectl(&scale);
    scene.running("db");
    let broken = service_image(&scene.cluster, 4);
    scene.cluster.kubectl(&[
        "-n",
        &scene.namespace,
        "set",
        "image",
        "statefulset/db",
        &format!("service={broken}"),
    ]);
    let status = scene.failed("upgrade", "grown", "RolledBack");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("claim data-db-1"), "{message}");
    assert!(message.contains("scaled to 2 meanwhile"), "{message}");
    scene.running("db");
    scene.tidy("db");
}

/// Whoever makes a service run after its backup has it write what a rollback would take away, without a word.
#[test]
fn what_the_old_version_wrote_after_its_backup_was_lost_in_a_rollback() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    scene.fill("db");
    let old = scene.image();
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start_into("upgrade.apply.announced");
    scene.upgrade("late", 4, "1s");
    assert_eq!(process.wait_exit(LONG).signal, Some(9));
    let scale = ["-n", &scene.namespace, "scale", "statefulset/db", "--replicas=1"];
    scene.cluster.kubectl(&scale);
    scene.running("db");
    std::fs::write(scene.data("db").join("order"), "one").unwrap();
    let _process = operator.start();
    let status = scene.failed("upgrade", "late", "RolledBack");
    let message = status["rollbackReason"].as_str().unwrap();
    assert!(message.contains("while it was held still"), "{status:#}");
    assert_eq!(std::fs::read_to_string(scene.data("db").join("order")).unwrap(), "one");
    assert_eq!(scene.image(), old);
    scene.running("db");
    scene.tidy("db");
}
