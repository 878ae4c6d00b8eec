//! A small service in a namespace of its own, with its data on a claim, a store, and an operator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, Namespace, PATIENCE};

/// What a backup with its pods may take on a machine that builds something else beside it: an end to hanging
/// and no measure of anything.
pub const LONG: Duration = Duration::from_mins(10);

/// How long a service may take to stop: a kubelet on a busy machine says late that pods have ended, and
/// an operation that gives up before and undoes itself is right, and not what a test is about.
pub const STOPS: &str = "5m";

/// The scene.
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace.
    pub namespace: Namespace,
}

/// The images of the service: `1` and `2` listen on port 8080 when they are ready (a probe by a command
/// would be a process in a container each time), `3` writes to the data and never becomes ready, and so
/// does `4`, which ends at once. Made of the image with a shell.
pub fn service_image(cluster: &Cluster, version: u32) -> String {
    if let Ok(prefix) = std::env::var("EIDER_TEST_SERVICE") {
        return format!("{prefix}:{version}.0.0");
    }
    let tag = format!("eider-test/service:{version}.0.0");
    let script = match version {
        3 => "#!/bin/sh\ntrap 'exit 0' TERM\necho 3 > /data/version\nsleep 100000 & wait\n",
        4 => "#!/bin/sh\necho 4 > /data/version\nexit 1\n",
        _ => {
            "#!/bin/sh\ntrap 'exit 0' TERM\n\
             [ \"$(cat /data/version 2>/dev/null)\" = VERSION ] || echo VERSION > /data/version\n\
             httpd -p 8080 -h /tmp\nsleep 100000 & wait\n"
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let script = script.replace("VERSION", &version.to_string());
    std::fs::write(directory.path().join("service"), script).unwrap();
    let recipe = format!(
        "FROM {}\nCOPY service /service\nRUN [\"/bin/chmod\", \"755\", \"/service\"]\nENTRYPOINT [\"/service\"]\n",
        cluster.busybox()
    );
    std::fs::write(directory.path().join("Dockerfile"), recipe).unwrap();
    let output = Command::new("docker")
        .args(["build", "-q", "-t", &tag])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "docker build {tag}: {output:?}");
    tag
}

impl Scene {
    /// A namespace with a store and a StatefulSet `db` of one pod that runs.
    pub fn new(cluster: Cluster) -> Self {
        let scene = Self::empty(cluster);
        scene.service("db", 1);
        scene
    }

    /// A namespace with a store.
    pub fn empty(cluster: Cluster) -> Self {
        let scene = Self::restricted(cluster);
        // The provisioner of host paths makes directories that only root can write to.
        let allow = "eider.dev/allow-root-movers=true";
        scene.cluster.kubectl(&["annotate", "namespace", &scene.namespace, allow]);
        scene
    }

    /// A namespace with a store, in which no mover may be root.
    pub fn restricted(cluster: Cluster) -> Self {
        cluster.install_crds();
        let namespace = cluster.namespace("eider");
        let scene = Self { cluster, namespace };
        scene.apply(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: backups}\n\
             spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n---\n\
             apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: main}\n\
             spec: {volumeClaim: {name: backups}}\n",
        );
        scene
    }

    /// A StatefulSet with a claim, and its pod ready.
    pub fn service(&self, name: &str, version: u32) {
        let image = service_image(&self.cluster, version);
        self.apply(&format!(
            r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  serviceName: {name}
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: service
        image: {image}
        imagePullPolicy: IfNotPresent
        readinessProbe:
          tcpSocket: {{port: 8080}}
          periodSeconds: 1
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"
        ));
        self.running(name);
    }

    /// Waits until the service runs with all its replicas.
    pub fn running(&self, name: &str) {
        self.cluster.wait(&format!("{name} to run"), LONG, || {
            let found = self.object("statefulset", name)?;
            let wanted = found["spec"]["replicas"].as_i64()?;
            (wanted > 0 && found["status"]["readyReplicas"].as_i64() == Some(wanted)).then_some(())
        });
    }

    /// Applies documents in the namespace.
    #[track_caller]
    pub fn apply(&self, documents: &str) {
        self.cluster.apply(&self.namespace, documents);
    }

    /// An object, if it is there.
    #[track_caller]
    pub fn object(&self, kind: &str, name: &str) -> Option<Value> {
        self.cluster.object(&self.namespace, kind, name)
    }

    /// Where the bytes of the service's claim are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.cluster.claim_path(&self.namespace, &format!("data-{name}-0"))
    }

    /// Fills the service's data with files of several kinds.
    pub fn fill(&self, name: &str) {
        let data = self.data(name);
        std::fs::create_dir_all(data.join("deep/er")).unwrap();
        for number in 0..20 {
            let text = format!("{number}\n").repeat(number * 100);
            std::fs::write(data.join(format!("deep/er/{number}.txt")), text).unwrap();
        }
        std::fs::hard_link(data.join("deep/er/7.txt"), data.join("linked.txt")).unwrap();
        std::os::unix::fs::symlink("deep/er/3.txt", data.join("symlink")).unwrap();
        let owned = data.join("deep/er/5.txt");
        std::os::unix::fs::chown(&owned, Some(1234), Some(4321)).unwrap();
    }

    /// Applies a Backup of a StatefulSet.
    pub fn back_up(&self, name: &str, service: &str, more: &str) {
        self.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: {service}}}}}\n  \
             storeRef: {{name: main}}\n{more}"
        ));
    }

    /// Applies a Restore of a Backup to where it was taken.
    pub fn put_back(&self, name: &str, backup: &str, more: &str) {
        self.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  \
             from: {{backupRef: {{name: {backup}}}}}\n{more}"
        ));
    }

    /// Applies an Upgrade of the service `db` to a version, soaked for so long.
    pub fn upgrade(&self, name: &str, version: u32, soak: &str) {
        let image = service_image(&self.cluster, version);
        self.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n  toVersion: \"{version}.0.0\"\n  \
             images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
             healthGate: {{timeout: 200s, soak: {soak}}}\n"
        ));
    }

    /// Changes the pod template of `db` and waits until its pod is of the new one.
    pub fn change_template(&self, spec: &str) {
        let patch = format!("{{\"spec\":{{\"template\":{{\"spec\":{spec}}}}}}}");
        let namespace = ["-n", &self.namespace];
        let patching = ["patch", "statefulset", "db", "-p", &patch];
        self.cluster.kubectl(&[&namespace[..], &patching].concat());
        let waiting = ["rollout", "status", "statefulset/db"];
        self.cluster.kubectl(&[&namespace[..], &waiting].concat());
    }

    /// Has the pod of `db` take so many seconds to end.
    pub fn ends_slowly(&self, seconds: u32) {
        self.change_template(&format!(
            "{{\"terminationGracePeriodSeconds\":60,\"containers\":[{{\"name\":\"service\",\"lifecycle\":\
             {{\"preStop\":{{\"exec\":{{\"command\":[\"sleep\",\"{seconds}\"]}}}}}}}}]}}"
        ));
    }

    /// Waits until the pod of `db` is asked to end.
    #[track_caller]
    pub fn is_asked_to_end(&self) {
        self.cluster.wait("the pod to be asked to end", LONG, || {
            let pod = self.object("pod", "db-0")?;
            pod["metadata"]["deletionTimestamp"].is_string().then_some(())
        });
    }

    /// Takes an object away although its finalizer holds it.
    pub fn take_away(&self, kind: &str, name: &str) {
        let none = "{\"metadata\":{\"finalizers\":null}}";
        let namespace = ["-n", &self.namespace];
        let patch = ["patch", kind, name, "--type=merge", "--patch", none];
        self.cluster.kubectl(&[&namespace[..], &patch].concat());
        self.cluster.kubectl(&[&namespace[..], &["delete", kind, name]].concat());
    }

    /// The image that `db` is to run.
    pub fn image(&self) -> String {
        let found = self.object("statefulset", "db").unwrap();
        let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().unwrap().to_owned()
    }

    /// The identity of the pod that runs `db`.
    pub fn pod_uid(&self) -> String {
        let found = self.object("pod", "db-0").unwrap();
        found["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Waits until an object has ended, and returns its status.
    #[track_caller]
    pub fn ended(&self, kind: &str, name: &str) -> Value {
        self.cluster.wait(&format!("{kind} {name} to end"), LONG, || {
            let status = self.object(kind, name)?["status"].clone();
            let phase = status["phase"].as_str()?;
            matches!(phase, "Succeeded" | "Failed" | "RolledBack").then_some(status)
        })
    }

    /// Waits for success with kubectl's own words, and returns the status.
    #[track_caller]
    pub fn succeeded(&self, kind: &str, name: &str) -> Value {
        let status = self.ended(kind, name);
        assert_eq!(status["phase"], "Succeeded", "{kind} {name}: {status:#}");
        let object = format!("{kind}/{name}");
        let wait = ["-n", &self.namespace, "wait", "--for=condition=Succeeded", &object];
        self.cluster.kubectl(&[&wait[..], &["--timeout=5s"]].concat());
        status
    }

    /// Waits for the end, which must be a failure that kubectl and kstatus see, with this reason.
    #[track_caller]
    pub fn failed(&self, kind: &str, name: &str, reason: &str) -> Value {
        let status = self.ended(kind, name);
        let condition = |wanted: &str| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().find(|one| one["type"] == wanted).cloned().unwrap_or_default()
        };
        assert_eq!(condition("Succeeded")["status"], "False", "{status:#}");
        assert_eq!(condition("Succeeded")["reason"], reason, "{status:#}");
        assert_eq!(condition("Stalled")["status"], "True", "{status:#}");
        let object = format!("{kind}/{name}");
        let wait = ["-n", &self.namespace, "wait", "--for=condition=Succeeded", &object];
        let waited = self.cluster.try_kubectl(&[&wait[..], &["--timeout=1s"]].concat());
        assert!(waited.is_err(), "kubectl wait says a failure is a success");
        status
    }

    /// The archives in the store, by name.
    pub fn archives(&self) -> Vec<String> {
        let store = self.cluster.claim_path(&self.namespace, "backups");
        let mut names: Vec<String> = std::fs::read_dir(store)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".manifest.json"))
            .collect();
        names.sort();
        names
    }

    /// Nothing of Eider is left on a service or at work in the namespace.
    pub fn tidy(&self, service: &str) {
        let found = self.object("statefulset", service).unwrap();
        let annotations = found["metadata"]["annotations"].to_string();
        assert!(!annotations.contains("eider.dev/held"), "{annotations}");
        assert!(!annotations.contains("eider.dev/images-before"), "{annotations}");
        self.cluster.wait("movers to be gone", PATIENCE, || {
            let jobs = self.cluster.json(&["-n", &self.namespace, "get", "jobs"]);
            jobs["items"].as_array().unwrap().is_empty().then_some(())
        });
    }
}

/// A copy of a tree with everything that rsync can keep.
pub fn copy_of(tree: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let from = format!("{}/", tree.display());
    let to = format!("{}/", copy.path().display());
    let output =
        Command::new("rsync").args(["-aHAX", "--numeric-ids", &from, &to]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    copy
}

/// Fails, with the differences, unless rsync finds two trees the same.
#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (format!("{}/", one.display()), format!("{}/", other.display()));
    let output = Command::new("rsync")
        .args([
            "-aHAXn",
            "--checksum",
            "--delete",
            "--numeric-ids",
            "--itemize-changes",
            &one,
            &other,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let differences = String::from_utf8_lossy(&output.stdout);
    assert!(differences.trim().is_empty(), "{one} and {other} differ:\n{differences}");
}
