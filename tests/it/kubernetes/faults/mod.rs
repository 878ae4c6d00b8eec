//! The API server misbehaving at every write of an operation, in the manner of Sieve (OSDI '22): the
//! k-th write fails, conflicts, loses its answer, or is the operator's last; events of watches are
//! hidden, late, repeated; the server is away. The end is that of an undisturbed run, and no object is
//! written more often than the fault explains. May not call the library.

mod blind;
mod silent;
mod stopped;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, PATIENCE};
use super::process::{Operator, OperatorProcess};
use super::proxy::{Fault, Proxy, matter};
use super::scene::{LONG, STOPS, Scene, assert_same, copy_of, service_image};
use crate::support::sha256sum;

/// The most writes that an undisturbed Backup of a running service may take: 11, and what a slow machine
/// has it say about how far it is.
const WRITES_OF_A_BACKUP: usize = 16;
/// The same of a Restore in place with its safety backup: 34.
const WRITES_OF_A_RESTORE: usize = 42;
/// The same of an Upgrade with its backup: 33.
const WRITES_OF_AN_UPGRADE: usize = 42;

/// A service, and an operator behind a proxy.
struct Stage {
    scene: Scene,
    proxy: Proxy,
    operator: Operator,
    process: Option<OperatorProcess>,
}

impl Stage {
    fn new(cluster: Cluster) -> Self {
        Self::with(cluster, &[])
    }

    /// With more arguments for the operator.
    fn with(cluster: Cluster, arguments: &[&str]) -> Self {
        let scene = Scene::new(cluster);
        scene.fill("db");
        // What is written about the store is not of the operation.
        let of_operation = |method: &str, path: &str| {
            let store = ["/backupstores/", "eider-backupstore-"];
            matter(method, path) && !store.iter().any(|part| path.contains(part))
        };
        let proxy = Proxy::counting(&scene.cluster, vec![], of_operation);
        let operator = Operator::new(&scene.cluster, &scene.namespace)
            .kubeconfig(&proxy.kubeconfig())
            // Here a process that loses its lease is started again.
            .environment("EIDER_LEASE_DURATION", "15s")
            .arguments(arguments);
        let process = Some(operator.start());
        let stage = Self { scene, proxy, operator, process };
        stage.inspected();
        stage.quiet();
        stage
    }

    fn data(&self) -> PathBuf {
        self.scene.data("db")
    }

    /// Waits until the store has been looked into, whose mover's creation is a write as well.
    fn inspected(&self) {
        self.scene.cluster.wait("the store to be ready", PATIENCE, || {
            let found = self.scene.object("backupstore", "main")?;
            let ready = found["status"]["conditions"]
                .as_array()?
                .iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True");
            ready.then_some(())
        });
    }

    /// Waits until nothing is written any more and no mover is left.
    fn quiet(&self) {
        let namespace: &str = &self.scene.namespace;
        self.scene.cluster.wait("movers to be gone", PATIENCE, || {
            let jobs = self.scene.cluster.json(&["-n", namespace, "get", "jobs"]);
            jobs["items"].as_array().unwrap().is_empty().then_some(())
        });
        let mut seen = (self.proxy.writes().len(), Instant::now());
        self.scene.cluster.wait("the operator to be quiet", PATIENCE, || {
            let now = self.proxy.writes().len();
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            (seen.1.elapsed() > Duration::from_millis(1200)).then_some(())
        });
    }

    /// Has these faults happen to what `begin` asks for. An operator that is killed is started again.
    fn disturbed(
        &mut self,
        faults: Vec<Fault>,
        begin: impl FnOnce(&Scene),
        kind: &str,
        name: &str,
    ) {
        self.proxy.reset(faults);
        begin(&self.scene);
        let waited = Instant::now();
        loop {
            let process = self.process.as_mut().unwrap();
            if !process.runs() {
                self.process = Some(self.operator.start());
            }
            let phase = self.scene.object(kind, name).unwrap()["status"]["phase"].clone();
            if phase == "Succeeded" || phase == "Failed" || phase == "RolledBack" {
                break;
            }
            let log = process_log(self.process.as_ref());
            assert!(waited.elapsed() < LONG * 2, "{kind} {name} does not end:\n{log}");
            std::thread::sleep(Duration::from_millis(200));
        }
        if !self.process.as_mut().unwrap().runs() {
            self.process = Some(self.operator.start());
        }
        self.scene.succeeded(kind, name);
        self.quiet();
    }

    /// How often each object was written, by what it is: names are different in every run.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (object, count) in self.proxy.count_by_object() {
            // An operator that has been killed looks into the store again by a mover of its own, whose
            // creation cannot be told from others by its path.
            if object.contains("/jobs/eider-backupstore-") {
                continue;
            }
            let (method, path) = object.split_once(' ').unwrap();
            let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
            let place = parts.iter().position(|part| *part == "namespaces").unwrap();
            let mut what = vec![method, parts[place + 2]];
            what.extend(parts.get(place + 4));
            *counts.entry(what.join(" ")).or_default() += count;
        }
        counts
    }

    /// One more archive, and every archive what its manifest says.
    fn archived(&self, before: &[String], more: usize) {
        let after = self.scene.archives();
        assert_eq!(after.len(), before.len() + more, "{before:?} became {after:?}");
        let store = self.scene.cluster.claim_path(&self.scene.namespace, "backups");
        for archive in &after {
            let manifest = store.join(format!("{archive}.manifest.json"));
            let manifest: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(manifest).unwrap()).unwrap();
            assert_eq!(manifest["sha256"], sha256sum(&store.join(archive)).as_str(), "{archive}");
        }
    }

    /// A Backup under these faults: its counts.
    fn backup(&mut self, name: &str, faults: Vec<Fault>) -> BTreeMap<String, usize> {
        let before = self.scene.archives();
        let begin = |scene: &Scene| scene.back_up(name, "db", "  consistency: {mode: Live}\n");
        self.disturbed(faults, begin, "backup", name);
        self.archived(&before, 1);
        self.counts()
    }
}

/// What may happen to the k-th write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Fails,
    Conflicts,
    LosesItsAnswer,
    IsTheLast,
    IsLate,
    IsNeverAnswered,
}
use Trouble::{Conflicts, Fails, IsLate, IsNeverAnswered, IsTheLast, LosesItsAnswer};

impl Trouble {
    fn at(self, write: usize, stage: &Stage) -> Fault {
        match self {
            Fails => Fault::FailWrite(write),
            Conflicts => Fault::ConflictWrite(write),
            LosesItsAnswer => Fault::DropAnswer(write),
            IsTheLast => stage.operator.kill_switch().at_write(write),
            IsLate => Fault::Delay(write, Duration::from_secs(6)),
            IsNeverAnswered => Fault::Silence(write),
        }
    }

    /// How many more writes of one kind it explains.
    fn repeats(self, what: &str) -> usize {
        // What the clock or a restart has the operator say again.
        let said = usize::from(what.ends_with("status")) + 1;
        match self {
            Fails | Conflicts | IsLate => said,
            LosesItsAnswer | IsNeverAnswered => said + 1,
            IsTheLast => said + 3,
        }
    }

    #[track_caller]
    fn bounds(
        self,
        write: usize,
        counts: &BTreeMap<String, usize>,
        reference: &BTreeMap<String, usize>,
    ) {
        for (what, count) in counts {
            let usual = reference.get(what).copied().unwrap_or(0);
            let most = usual + self.repeats(what);
            assert!(*count <= most, "{self:?} at {write}: {what}: {count} times, usually {usual}");
        }
        let jobs = |counts: &BTreeMap<String, usize>| counts.get("POST jobs").copied();
        assert_eq!(jobs(counts), jobs(reference), "{self:?} at {write}: another mover was made");
    }
}

/// What the operator that runs has said.
fn process_log(process: Option<&OperatorProcess>) -> String {
    process.map(OperatorProcess::log).unwrap_or_default()
}

/// Says what was done: the counts of a run are read off its output.
#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("FAULTS {text}");
}

/// Every write of a Backup in one kind of trouble.
fn every_write(trouble: Trouble) {
    let Some(cluster) = Cluster::connect() else { return };
    // Shorter than by default, so that silence is noticed within the patience of a test.
    let patience: &[&str] = match trouble {
        IsNeverAnswered => &["--request-timeout", "5s"],
        _ => &[],
    };
    let mut stage = Stage::with(cluster, patience);
    let reference = stage.backup("reference", vec![]);
    let writes = stage.proxy.writes().len();
    note(&format!("an undisturbed Backup takes {writes} writes: {reference:?}"));
    assert!((8..=WRITES_OF_A_BACKUP).contains(&writes), "{reference:#?}");
    let data = copy_of(&stage.data());
    for write in 1..=writes {
        let begun = Instant::now();
        let fault = trouble.at(write, &stage);
        let counts = stage.backup(&format!("write-{write}"), vec![fault]);
        trouble.bounds(write, &counts, &reference);
        note(&format!("Backup, write {write}: {trouble:?}: {:?}", begun.elapsed()));
    }
    assert_same(data.path(), &stage.data());
}

#[test]
fn a_backup_whose_nth_write_fails() {
    every_write(Fails);
}

#[test]
fn a_backup_whose_nth_write_conflicts() {
    every_write(Conflicts);
}

#[test]
fn a_backup_whose_nth_write_loses_its_answer() {
    every_write(LosesItsAnswer);
}

#[test]
fn a_backup_whose_nth_write_is_the_operators_last() {
    every_write(IsTheLast);
}

#[test]
fn a_backup_whose_nth_write_is_late() {
    every_write(IsLate);
}

#[test]
fn a_backup_whose_nth_write_is_never_answered() {
    every_write(IsNeverAnswered);
}

/// Which writes of the longer operations one test disturbs, each in another kind of trouble: every
/// sixth from `first` on, so that the six of an operation have them all.
fn every_sixth_write(first: usize, writes: usize) -> Vec<(usize, Trouble)> {
    let troubles = [LosesItsAnswer, IsTheLast, Fails, Conflicts, IsLate];
    let rotated = troubles.into_iter().cycle().skip(first);
    (first..=writes).step_by(6).zip(rotated).collect()
}

#[test]
fn every_write_of_a_longer_operation_is_in_trouble_once() {
    let all = (1..=6).flat_map(|first| every_sixth_write(first, 40));
    let mut writes: Vec<usize> = all.map(|(write, _)| write).collect();
    writes.sort_unstable();
    assert_eq!(writes, (1..=40).collect::<Vec<_>>());
}

/// Damages the data, and has a Restore of the Backup `base` put it back through these faults.
fn restore(stage: &mut Stage, data: &Path, name: &str, faults: Vec<Fault>) {
    let before = stage.scene.archives();
    std::fs::remove_dir_all(stage.data().join("deep")).unwrap();
    std::fs::write(stage.data().join("junk"), "damage").unwrap();
    let begin = |scene: &Scene| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\n\
             spec: {{from: {{backupRef: {{name: base}}}}, consistency: {{timeout: {STOPS}}}}}\n"
        ));
    };
    stage.disturbed(faults, begin, "restore", name);
    stage.scene.running("db");
    stage.scene.tidy("db");
    stage.archived(&before, 1);
    assert_same(data, &stage.data());
}

fn restores(first: usize) {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    stage.backup("base", vec![]);
    let data = copy_of(&stage.data());
    restore(&mut stage, data.path(), "reference", vec![]);
    let (reference, writes) = (stage.counts(), stage.proxy.writes().len());
    note(&format!("an undisturbed Restore takes {writes} writes: {reference:?}"));
    assert!((20..=WRITES_OF_A_RESTORE).contains(&writes), "{reference:#?}");
    for (write, trouble) in every_sixth_write(first, writes) {
        let begun = Instant::now();
        let fault = trouble.at(write, &stage);
        restore(&mut stage, data.path(), &format!("write-{write}"), vec![fault]);
        trouble.bounds(write, &stage.counts(), &reference);
        note(&format!("Restore, write {write}: {trouble:?}: {:?}", begun.elapsed()));
    }
}

/// Has an Upgrade change the service to its other version through these faults.
fn upgrade(stage: &mut Stage, number: &mut u32, name: &str, faults: Vec<Fault>) {
    let before = stage.scene.archives();
    *number += 1;
    let version = *number % 2 + 1;
    let image = service_image(&stage.scene.cluster, version);
    let begin = |scene: &Scene| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n  force: true\n  \
             toVersion: \"{version}.0.0\"\n  images: {{service: \"{image}\"}}\n  \
             backup: {{storeRef: {{name: main}}}}\n  consistency: {{timeout: {STOPS}}}\n  \
             healthGate: {{timeout: 150s, soak: 1s}}\n"
        ));
    };
    stage.disturbed(faults, begin, "upgrade", name);
    stage.scene.running("db");
    stage.scene.tidy("db");
    stage.archived(&before, 1);
    let found = stage.scene.object("statefulset", "db").unwrap();
    assert_eq!(found["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
    let written = std::fs::read_to_string(stage.data().join("version")).unwrap();
    assert_eq!(written, format!("{version}\n"));
}

fn upgrades(first: usize) {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let mut number = 0;
    upgrade(&mut stage, &mut number, "reference", vec![]);
    let (reference, writes) = (stage.counts(), stage.proxy.writes().len());
    note(&format!("an undisturbed Upgrade takes {writes} writes: {reference:?}"));
    assert!((20..=WRITES_OF_AN_UPGRADE).contains(&writes), "{reference:#?}");
    for (write, trouble) in every_sixth_write(first, writes) {
        let begun = Instant::now();
        let fault = trouble.at(write, &stage);
        upgrade(&mut stage, &mut number, &format!("write-{write}"), vec![fault]);
        trouble.bounds(write, &stage.counts(), &reference);
        note(&format!("Upgrade, write {write}: {trouble:?}: {:?}", begun.elapsed()));
    }
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_first() {
    restores(1);
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_second() {
    restores(2);
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_third() {
    restores(3);
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_fourth() {
    restores(4);
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_fifth() {
    restores(5);
}

#[test]
fn a_restore_with_trouble_at_every_sixth_write_from_the_sixth() {
    restores(6);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_first() {
    upgrades(1);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_second() {
    upgrades(2);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_third() {
    upgrades(3);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_fourth() {
    upgrades(4);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_fifth() {
    upgrades(5);
}

#[test]
fn an_upgrade_with_trouble_at_every_sixth_write_from_the_sixth() {
    upgrades(6);
}
