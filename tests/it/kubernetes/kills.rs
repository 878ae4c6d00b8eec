//! The operator killed at the moments of every step, with its mover at work, finished or lost, and
//! started again: the end is that of an undisturbed run. Judges by `kubectl`, GNU tar, sha256sum and
//! rsync. May not call the library.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::cluster::{Cluster, PATIENCE};
use super::process::{Operator, OperatorProcess};
use super::scene::{LONG, STOPS, Scene, assert_same, copy_of, service_image};
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
use Mover::{Ends, LosesJob, LosesPod, Stays};

/// A Deployment with a claim, and an operator that is to be killed.
struct Stage {
    scene: Scene,
    operator: Operator,
}

const DEPLOYMENT: &str = r#"
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
          exec: {command: [/bin/sh, -c, "test -e /tmp/ready"]}
          periodSeconds: 2
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"#;

impl Stage {
    fn new(cluster: Cluster) -> Self {
        let scene = Scene::empty(cluster);
        // Not a StatefulSet: its next pod has to wait until the kubelet has removed the last one.
        let image = service_image(&scene.cluster, 1);
        scene.apply(&DEPLOYMENT.replace("IMAGE", &image));
        // As in a StatefulSet's pod, whose name outlives it: no lease has to run out.
        let operator = Operator::new(&scene.cluster, &scene.namespace)
            .arguments(&["--identity", "eider-operator-0"]);
        let stage = Self { scene, operator };
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

    fn back_up(&self, name: &str, mode: &str) {
        self.scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: Deployment, name: web}}}}\n  storeRef: {{name: main}}\n  \
             consistency: {{mode: {mode}, timeout: {STOPS}}}\n"
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

    /// Has the operator die at a point of what `begin` asks for, and started again after the mover has
    /// met its fate.
    fn kill(&self, point: &str, mover: Mover, begin: impl FnOnce()) -> OperatorProcess {
        let process = self.operator.start_into(point);
        begin();
        let finished = process.wait_exit(LONG);
        assert_eq!(finished.signal, Some(9), "not killed at {point}:\n{}", finished.stderr);
        self.treat(mover);
        self.operator.start()
    }

    fn treat(&self, mover: Mover) {
        let namespace: &str = &self.scene.namespace;
        let cluster = &self.scene.cluster;
        let movers = ["-n", namespace, "-l", "eider.dev/operation"];
        match mover {
            Stays => {}
            LosesPod => {
                let delete = ["delete", "pods", "--grace-period=0", "--force", "--wait=false"];
                cluster.kubectl(&[&movers[..], &delete[..]].concat());
            }
            LosesJob => {
                let delete = ["delete", "jobs", "--wait=false"];
                cluster.kubectl(&[&movers[..], &delete[..]].concat());
            }
            Ends => self.end_movers(),
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
fn note(kind: &str, point: &str, mover: Mover, begun: Instant) {
    eprintln!("KILLED {kind} at {point}, mover {mover:?}: {:.1} s", begun.elapsed().as_secs_f64());
}

/// One Backup for each point.
fn backups(mode: &str, points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster);
    let data = copy_of(&stage.data());
    let process = stage.operator.start();
    stage.back_up("reference", mode);
    let reference = stage.scene.succeeded("backup", "reference");
    stage.settled(&[], 1);
    process.kill();
    let listing = stage.listing(reference["archive"]["name"].as_str().unwrap());
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        let process = stage.kill(point, *mover, || stage.back_up(&name, mode));
        let status = stage.scene.succeeded("backup", &name);
        stage.settled(&before, 1);
        let archive = status["archive"]["name"].as_str().unwrap();
        assert!(!before.contains(&archive.to_owned()), "{archive} is an old one");
        assert_eq!(stage.listing(archive), listing, "{point}");
        for field in ["files", "sourceBytes"] {
            assert_eq!(status["archive"][field], reference["archive"][field], "{status:#}");
        }
        assert_eq!(status["downtime"].is_string(), mode == "Stop", "{status:#}");
        assert!(status["journal"].is_null(), "{status:#}");
        assert_same(data.path(), &stage.data());
        process.kill();
        note("Backup", point, *mover, begun);
    }
}

#[test]
fn a_backup_goes_on_with_its_mover() {
    backups(
        "Live",
        &[
            ("backup.preflight.before", Stays),
            ("backup.preflight.announced", Stays),
            ("backup.preflight.performed", Stays),
            ("backup.archive.intended", Stays),
            ("backup.archive.announced", Stays),
            ("backup.archive.performed", Stays),
            ("backup.archive.recorded", Stays),
            ("backup.seal.intended", Stays),
            ("backup.seal.announced", Stays),
            ("backup.seal.performed", Stays),
            ("backup.seal.recorded", Stays),
        ],
    );
}

#[test]
fn a_backup_goes_on_when_its_mover_has_ended() {
    backups(
        "Live",
        &[
            ("backup.verify.announced", Stays),
            ("backup.verify.performed", Stays),
            ("backup.conclude.before", Stays),
            ("backup.conclude.recorded", Stays),
            ("backup.conclude.closed", Stays),
            ("backup.conclude.published", Stays),
            ("backup.archive.performed", Ends),
            ("backup.seal.performed", Ends),
            ("backup.verify.performed", Ends),
        ],
    );
}

#[test]
fn a_backup_goes_on_with_another_mover() {
    backups(
        "Live",
        &[
            ("backup.archive.announced", LosesPod),
            ("backup.archive.performed", LosesPod),
            ("backup.seal.announced", LosesPod),
            ("backup.seal.performed", LosesPod),
            ("backup.verify.performed", LosesPod),
            ("backup.preflight.performed", LosesJob),
            ("backup.archive.performed", LosesJob),
            ("backup.seal.announced", LosesJob),
            ("backup.seal.performed", LosesJob),
            ("backup.verify.announced", LosesJob),
        ],
    );
}

#[test]
fn a_stopped_service_runs_again_after_its_backup() {
    backups(
        "Stop",
        &[
            ("backup.quiesce.intended", Stays),
            ("backup.quiesce.announced", Stays),
            ("backup.quiesce.performed", Stays),
            ("backup.archive.performed", LosesJob),
            ("backup.resume.intended", Stays),
            ("backup.resume.announced", Stays),
            ("backup.resume.performed", LosesPod),
            ("backup.resume.recorded", Stays),
        ],
    );
}

/// One Restore of damaged data for each point.
fn restores(points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster);
    let data = copy_of(&stage.data());
    let process = stage.operator.start();
    stage.back_up("base", "Live");
    stage.scene.succeeded("backup", "base");
    stage.settled(&[], 1);
    process.kill();
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        std::fs::remove_dir_all(stage.data().join("deep")).unwrap();
        std::fs::write(stage.data().join("linked.txt"), "damage").unwrap();
        std::fs::write(stage.data().join("junk"), "damage").unwrap();
        let process = stage.kill(point, *mover, || {
            stage.scene.apply(&format!(
                "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\n\
                 spec: {{from: {{backupRef: {{name: base}}}}, consistency: {{timeout: {STOPS}}}}}\n"
            ));
        });
        let status = stage.scene.succeeded("restore", &name);
        stage.settled(&before, 1);
        assert_same(data.path(), &stage.data());
        let safety = status["safetyBackupName"].as_str().unwrap();
        stage.scene.succeeded("backup", safety);
        assert!(status["journal"].is_null(), "{status:#}");
        process.kill();
        note("Restore", point, *mover, begun);
    }
}

#[test]
fn a_restore_goes_on_before_its_swap() {
    restores(&[
        ("restore.preflight.performed", Stays),
        ("restore.verify-source.announced", Stays),
        ("restore.extract.announced", Stays),
        ("restore.extract.performed", Stays),
        ("restore.extract.performed", LosesPod),
        ("restore.quiesce.announced", Stays),
        ("restore.safety-backup.announced", Stays),
    ]);
}

#[test]
fn a_restore_goes_on_around_its_swap() {
    restores(&[
        ("backup.archive.performed", LosesJob),
        ("restore.safety-backup.performed", LosesJob),
        ("restore.swap.announced", Stays),
        ("restore.swap.announced", LosesPod),
        ("restore.swap.performed", Stays),
        ("restore.swap.performed", LosesPod),
        ("restore.swap.recorded", Ends),
    ]);
}

#[test]
fn a_restore_goes_on_after_its_swap() {
    restores(&[
        ("restore.resume.announced", Stays),
        ("restore.resume.performed", Stays),
        ("restore.health.announced", LosesJob),
        ("restore.drop-old.announced", Stays),
        ("restore.drop-old.performed", LosesPod),
        ("restore.conclude.before", Stays),
        ("restore.conclude.closed", Stays),
    ]);
}

/// One Upgrade for each point, to and fro between two versions.
fn upgrades(points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster);
    let expected = copy_of(&stage.data());
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let version = if number % 2 == 0 { 2 } else { 1 };
        let image = service_image(&stage.scene.cluster, version);
        let before = stage.scene.archives();
        let process = stage.kill(point, *mover, || {
            stage.scene.apply(&upgrade(&name, version, &image, 100));
        });
        let status = stage.scene.succeeded("upgrade", &name);
        stage.settled(&before, 1);
        assert_eq!(stage.image(), image);
        let written = stage.data().join("version");
        assert_eq!(std::fs::read_to_string(&written).unwrap(), format!("{version}\n"));
        let copied = Command::new("cp").arg("-p").arg(&written).arg(expected.path()).status();
        assert!(copied.unwrap().success());
        assert_same(expected.path(), &stage.data());
        stage.scene.succeeded("backup", status["backupName"].as_str().unwrap());
        process.kill();
        note("Upgrade", point, *mover, begun);
    }
}

fn upgrade(name: &str, version: u32, image: &str, timeout: u32) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{workload: {{kind: Deployment, name: web}}}}\n  toVersion: \"{version}.0.0\"\n  \
         force: true\n  images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: {timeout}s, soak: 1s}}\n  consistency: {{timeout: {STOPS}}}\n"
    )
}

#[test]
fn an_upgrade_goes_on_before_its_change() {
    upgrades(&[
        ("upgrade.preflight.announced", Stays),
        ("upgrade.fetch.performed", Stays),
        ("upgrade.quiesce.performed", Stays),
        ("upgrade.backup.announced", Stays),
        ("backup.seal.performed", LosesJob),
        ("upgrade.backup.performed", Stays),
        ("upgrade.keep-old.announced", Stays),
        ("upgrade.keep-old.performed", Stays),
    ]);
}

#[test]
fn an_upgrade_goes_on_after_its_change() {
    upgrades(&[
        ("upgrade.apply.announced", Stays),
        ("upgrade.apply.performed", Stays),
        ("upgrade.start.announced", Stays),
        ("upgrade.start.performed", Stays),
        ("upgrade.health.announced", Stays),
        ("upgrade.soak.announced", Stays),
        ("upgrade.commit.performed", Stays),
        ("upgrade.conclude.closed", Stays),
    ]);
}

#[test]
fn a_rollback_goes_on() {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster);
    let expected = copy_of(&stage.data());
    let old = stage.image();
    let image = service_image(&stage.scene.cluster, 3);
    for (number, (point, mover)) in [
        ("upgrade.rollback-remove-new.announced", Stays),
        ("upgrade.rollback-data.announced", Stays),
        ("restore.swap.performed", LosesPod),
        ("upgrade.rollback-restore-old.performed", Stays),
        ("upgrade.rollback-resume.announced", Stays),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        let process = stage.kill(point, mover, || {
            stage.scene.apply(&upgrade(&name, 3, &image, 6));
        });
        let status = stage.scene.failed("upgrade", &name, "RolledBack");
        assert_eq!(status["phase"], "RolledBack", "{status:#}");
        stage.settled(&before, 1);
        assert_eq!(stage.image(), old);
        assert_same(expected.path(), &stage.data());
        process.kill();
        note("Upgrade that rolls back", point, mover, begun);
    }
}
