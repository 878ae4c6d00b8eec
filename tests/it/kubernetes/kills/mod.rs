//! The operator killed at the moments of every step, with its mover at work, finished or lost, and
//! started again, with its catalog or without: the end is that of an undisturbed run. Judges by
//! `kubectl`, GNU tar, sha256sum and rsync. May not call the library.

mod backups;
mod emptied;
mod restores;
mod upgrades;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::cluster::{Cluster, PATIENCE};
use super::process::{Operator, OperatorProcess};
use super::scene::{LONG, STOPS, Scene, service_image};
use crate::support::sha256sum;

/// What happens to the mover while the operator is down.
#[derive(Clone, Copy, Debug)]
enum Mover {
    /// It stays as it is: it goes on with what it was asked for.
    Stays,
    /// It ends by itself, as after ten idle minutes.
    Ends,
    /// Its pod is deleted by force.
    LosesPod,
    /// Its Job is deleted.
    LosesJob,
}

/// What of its own records the operator finds when it is started again.
#[derive(Clone, Copy, Debug)]
enum Catalog {
    /// All, as on a claim.
    Kept,
    /// Nothing, as another replica with a catalog of its own: it has the resources, what is written on
    /// them, and the manifests.
    Emptied,
}

/// A Deployment with a claim, and an operator that is to be killed.
struct Stage {
    scene: Scene,
    operator: Operator,
    catalog: Catalog,
}

/// The service of these tests.
pub const DEPLOYMENT: &str = r"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: service
        image: IMAGE
        imagePullPolicy: IfNotPresent
        readinessProbe:
          tcpSocket: {port: 8080}
          periodSeconds: 1
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

impl Stage {
    fn new(cluster: Cluster, catalog: Catalog) -> Self {
        let scene = Scene::empty(cluster);
        // Not a StatefulSet: its next pod has to wait until the kubelet has removed the last one.
        let image = service_image(&scene.cluster, 1);
        scene.apply(&DEPLOYMENT.replace("IMAGE", &image));
        let operator = Operator::new(&scene.cluster, &scene.namespace);
        let stage = Self { scene, operator, catalog };
        stage.runs();
        stage.fill();
        stage
    }

    fn data(&self) -> PathBuf {
        self.scene.cluster.claim_path(&self.scene.namespace, "data")
    }

    fn fill(&self) {
        let deep = self.data().join("deep/er");
        std::fs::create_dir_all(&deep).unwrap();
        for number in 0..20_usize {
            let text = format!("{number}\n").repeat(number * 100);
            std::fs::write(deep.join(format!("{number}.txt")), text).unwrap();
        }
        std::fs::hard_link(deep.join("7.txt"), self.data().join("linked.txt")).unwrap();
        std::os::unix::fs::symlink("deep/er/3.txt", self.data().join("symlink")).unwrap();
    }

    /// Waits until the one replica runs, and only it.
    fn runs(&self) {
        self.scene.cluster.wait("the service to run", LONG, || {
            let found = self.scene.object("deployment", "web")?;
            let status = &found["status"];
            let one = |name: &str| status[name].as_i64() == Some(1);
            let seen = status["observedGeneration"] == found["metadata"]["generation"];
            (seen && one("readyReplicas") && one("replicas") && one("updatedReplicas"))
                .then_some(())
        });
    }

    fn image(&self) -> String {
        let found = self.scene.object("deployment", "web").unwrap();
        let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().unwrap().to_owned()
    }

    fn back_up(&self, name: &str, mode: &str, more: &str) {
        self.scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: Deployment, name: web}}}}\n  storeRef: {{name: main}}\n  \
             consistency: {{mode: {mode}, timeout: {STOPS}}}\n{more}"
        ));
    }

    fn store(&self) -> PathBuf {
        self.scene.cluster.claim_path(&self.scene.namespace, "backups")
    }

    /// What GNU tar finds in an archive.
    fn listing(&self, archive: &str) -> String {
        let path = self.store().join(archive);
        let arguments = ["--full-time", "--numeric-owner", "-tvf"];
        let output = Command::new("tar").args(arguments).arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Has the operator die at a point of what `begin` asks for, and started again after the mover and
    /// the catalog have met their fate.
    fn kill(&self, point: &str, mover: Mover, begin: impl FnOnce()) -> OperatorProcess {
        let process = self.operator.start_into(point);
        begin();
        let finished = process.wait_exit(LONG);
        assert_eq!(finished.signal, Some(9), "not killed at {point}:\n{}", finished.stderr);
        self.treat(mover);
        if matches!(self.catalog, Catalog::Emptied) {
            self.operator.empty_catalog();
        }
        self.operator.start()
    }

    fn treat(&self, mover: Mover) {
        let namespace: &str = &self.scene.namespace;
        let cluster = &self.scene.cluster;
        let movers = ["-n", namespace, "-l", "eider.dev/operation"];
        match mover {
            Mover::Stays => {}
            Mover::LosesPod => {
                let delete = ["delete", "pods", "--grace-period=0", "--force", "--wait=false"];
                cluster.kubectl(&[&movers[..], &delete[..]].concat());
            }
            Mover::LosesJob => {
                let delete = ["delete", "jobs", "--wait=false"];
                cluster.kubectl(&[&movers[..], &delete[..]].concat());
            }
            Mover::Ends => self.end_movers(),
        }
    }

    /// Asks every mover to end, and waits until they have.
    fn end_movers(&self) {
        let cluster = &self.scene.cluster;
        let namespace: &str = &self.scene.namespace;
        let list = ["-n", namespace, "get", "pods", "-l", "eider.dev/operation"];
        let mut names = Vec::new();
        for pod in cluster.json(&list)["items"].as_array().unwrap() {
            if pod["status"]["phase"] != "Running"
                || !pod["metadata"]["deletionTimestamp"].is_null()
            {
                continue;
            }
            let text = pod["metadata"]["annotations"]["eider.dev/steps"].as_str().unwrap();
            let mut steps: Vec<Value> = serde_json::from_str(text).unwrap();
            steps.push(serde_json::json!({"id": "finish.0", "work": "Finish"}));
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let steps = format!("eider.dev/steps={}", Value::Array(steps));
            cluster.kubectl(&["-n", namespace, "annotate", "--overwrite", "pod", &name, &steps]);
            names.push(name);
        }
        for name in names {
            cluster.wait("a mover to end", PATIENCE, || {
                let pod = cluster.object(namespace, "pod", &name)?;
                (pod["status"]["phase"] == "Succeeded").then_some(())
            });
        }
    }

    /// The end of every undisturbed operation: the service runs, nothing of Eider's is left on it or at
    /// work, and `more` archives were added, complete, with nothing beside them.
    fn settled(&self, before: &[String], more: usize) {
        self.runs();
        let found = self.scene.object("deployment", "web").unwrap();
        assert_eq!(found["spec"]["replicas"], 1);
        let annotations = found["metadata"]["annotations"].to_string();
        for name in ["eider.dev/held", "eider.dev/images-before"] {
            assert!(!annotations.contains(name), "{annotations}");
        }
        let namespace: &str = &self.scene.namespace;
        self.scene.cluster.wait("movers to be gone", PATIENCE, || {
            let jobs = self.scene.cluster.json(&["-n", namespace, "get", "jobs"]);
            jobs["items"].as_array().unwrap().is_empty().then_some(())
        });
        let after = self.scene.archives();
        assert_eq!(after.len(), before.len() + more, "{before:?} became {after:?}");
        for archive in &after {
            let path = self.store().join(archive);
            let manifest = self.store().join(format!("{archive}.manifest.json"));
            let manifest: Value =
                serde_json::from_str(&std::fs::read_to_string(manifest).unwrap()).unwrap();
            assert_eq!(manifest["sha256"], sha256sum(&path).as_str(), "{archive}");
        }
    }
}

/// Says what was done: the counts of a run are read off its output.
#[allow(clippy::print_stderr)]
fn note(kind: &str, point: &str, (mover, catalog): (Mover, Catalog), begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("KILLED {kind} at {point}, mover {mover:?}, catalog {catalog:?}: {seconds:.1} s");
}
