//! The kit itself: a cluster is reached, pods run, and what a test leaves behind goes away.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::cluster::{Cluster, PATIENCE};

#[test]
fn the_kit_reaches_a_cluster_and_runs_a_pod() {
    let Some(cluster) = Cluster::connect() else { return };
    let namespace = cluster.namespace("kit-pod");
    cluster.apply(
        &namespace,
        &format!(
            r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: writer}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo written > /data/file"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
"#,
            cluster.busybox()
        ),
    );
    cluster.wait("the pod to succeed", PATIENCE, || {
        let pod = cluster.object(&namespace, "pod", "writer")?;
        (pod["status"]["phase"] == "Succeeded").then_some(())
    });
    let path = cluster.claim_path(&namespace, "data");
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "written\n");
}

#[test]
fn a_pod_of_the_image_runs_the_program_as_nobody_in_particular() {
    let Some(cluster) = Cluster::connect() else { return };
    let namespace = cluster.namespace("kit-image");
    let image = cluster.image();
    assert_eq!(cluster.image(), image);
    // As restricted as a mover is: DuckDB has to open with nothing but /tmp to write to.
    cluster.apply(
        &namespace,
        &format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: eider}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 1234}}
  containers:
  - name: main
    image: {image}
    imagePullPolicy: IfNotPresent
    args: [db, check]
    env: [{{name: EIDER_CATALOG, value: /tmp/catalog/eider.duckdb}}]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {{drop: [ALL]}}
    volumeMounts: [{{name: tmp, mountPath: /tmp}}]
  volumes: [{{name: tmp, emptyDir: {{}}}}]
"
        ),
    );
    let phase = cluster.wait("the pod to end", PATIENCE, || {
        let pod = cluster.object(&namespace, "pod", "eider")?;
        let phase = pod["status"]["phase"].as_str()?.to_owned();
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    });
    let log = cluster.kubectl(&["-n", &namespace, "logs", "eider"]);
    assert_eq!((phase.as_str(), log.as_str()), ("Succeeded", "the catalog is in order\n"));
}

#[test]
fn a_namespace_goes_with_its_test_even_when_an_operator_left_finalizers() {
    let Some(cluster) = Cluster::connect() else { return };
    cluster.install_crds();
    let mut name = String::new();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let namespace = cluster.namespace("kit-gone");
        name = namespace.to_string();
        cluster.apply(
            &namespace,
            "apiVersion: eider.dev/v1alpha1\nkind: BackupStore\n\
             metadata: {name: main, finalizers: [eider.dev/test]}\n\
             spec: {local: {path: /backups}}\n",
        );
        panic!("a test fails");
    }));
    assert!(ended.is_err());
    cluster.wait("the namespace to be gone", PATIENCE, || {
        let left = cluster.kubectl(&["get", "namespace", &name, "--ignore-not-found"]);
        left.is_empty().then_some(())
    });
}

#[test]
fn waiting_in_vain_says_for_what_and_what_was_there_instead() {
    let Some(cluster) = Cluster::connect() else { return };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        cluster.wait("a namespace of gold", Duration::ZERO, || {
            cluster.try_kubectl(&["get", "namespace", "gold"]).ok()
        })
    }));
    let said = *ended.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("a namespace of gold"), "{said}");
    assert!(said.contains("namespaces \"gold\" not found"), "{said}");
}
