//! A service whose pods are on two nodes, each with a claim that only its node can mount. The second node
//! is an object alone: the scheduler puts a pod on it, and no kubelet runs it.

use std::process::Command;
use std::time::Duration;

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::{LONG, Scene, service_image};

/// A node without a machine; gone when dropped.
struct Ghost<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Ghost<'a> {
    fn new(cluster: &'a Cluster, namespace: &str) -> Self {
        // After every other in the order of names: a mover looks on the first.
        let name = format!("zz-{namespace}");
        let resources = "{cpu: \"4\", memory: 4Gi, pods: \"10\"}";
        cluster.apply(
            namespace,
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  \
                 labels: {{kubernetes.io/hostname: {name}}}\nspec:\n  \
                 taints: [{{key: eider.test/ghost, effect: NoSchedule}}]\nstatus:\n  \
                 capacity: {resources}\n  allocatable: {resources}\n  \
                 conditions: [{{type: Ready, status: \"True\"}}]\n"
            ),
        );
        Self { cluster, name }
    }

    fn vanish(&self) {
        let _ = self.cluster.try_kubectl(&["delete", "node", &self.name, "--ignore-not-found"]);
    }
}

impl Drop for Ghost<'_> {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// The mover that looks before the stop waited for claims that another node had.
#[test]
fn claims_on_two_nodes_are_read_once_their_pods_are_gone() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let ghost = Ghost::new(&scene.cluster, &scene.namespace);
    let image = service_image(&scene.cluster, 1);
    scene.apply(&format!(
        r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: db}}}}}}
      containers:
      - name: service
        image: {image}
        imagePullPolicy: IfNotPresent
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"
    ));
    let pods = || {
        let list = scene.cluster.json(&["-n", &scene.namespace, "get", "pods", "-l", "app=db"]);
        list["items"].as_array().unwrap().clone()
    };
    scene.cluster.wait("both pods to be on a node", LONG, || {
        let placed = pods().iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
        (placed == 2).then_some(())
    });
    for number in 0..2 {
        let claim = format!("data-db-{number}");
        let path = scene.cluster.claim_path(&scene.namespace, &claim);
        std::fs::write(path.join("whose"), &claim).unwrap();
    }
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let process = operator.start();
    scene.back_up("live", "db", "  consistency: {mode: Live}\n");
    let live = scene.failed("backup", "live", "UnsupportedTarget");
    assert!(live["message"].as_str().unwrap().contains(&ghost.name), "{live:#}");

    scene.back_up("stopped", "db", "  consistency: {timeout: 5m}\n");
    let far = scene.cluster.wait("the pod on the other node to be deleted", LONG, || {
        let far = pods().into_iter().find(|pod| {
            pod["spec"]["nodeName"] == *ghost.name
                && pod["metadata"]["deletionTimestamp"].is_string()
        })?;
        Some(far["metadata"]["name"].as_str().unwrap().to_owned())
    });
    // What its kubelet would do; and nobody else is to go there.
    ghost.vanish();
    let delete = ["delete", "pod", &far, "--grace-period=0", "--force", "--wait=false"];
    let _ = scene.cluster.try_kubectl(&[&["-n", &scene.namespace][..], &delete[..]].concat());
    let status = scene.succeeded("backup", "stopped");
    assert!(status["warnings"].to_string().contains("other nodes"), "{status:#}");
    let store = scene.cluster.claim_path(&scene.namespace, "backups");
    let archive = store.join(&scene.archives()[0]);
    let listed = Command::new("tar").arg("-tzf").arg(&archive).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for number in 0..2 {
        assert!(listed.contains(&format!("data-db-{number}/whose")), "{listed}");
    }
    scene.cluster.wait("the replicas to be wanted again", Duration::from_mins(1), || {
        let wanted = scene.object("statefulset", "db")?["spec"]["replicas"].clone();
        (wanted == 2).then_some(())
    });
    scene.tidy("db");
    assert!(!process.stop().stderr.contains("panicked"));
}
