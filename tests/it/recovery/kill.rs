//! The kill matrix: one operation, one point, one start afterwards, and what has to hold then.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::{self, HOOKS, Scene};

/// The signal that nobody can catch.
pub const SIGKILL: i32 = 9;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// A Backup of as many roots.
    Backup(usize),
    /// A Restore of as many roots.
    Restore(usize),
    /// A Restore whose hook `after` fails on the new tree, so that it has to be undone.
    FailingRestore(usize),
    /// A Restore of a root that is not there any more.
    RestoreOfNothing,
}

/// The fingerprints of all roots.
type Trees = Vec<BTreeMap<String, String>>;

/// A scene with an acknowledged backup `earlier`, a live tree that has changed since, and a document
/// for the operation `tested`.
pub struct Stage {
    pub scene: Scene,
    pub play: Play,
    pub document: PathBuf,
    roots: Vec<PathBuf>,
    old: Trees,
    new: Trees,
    earlier: Vec<(String, String)>,
    saved: tempfile::TempDir,
}

/// The records of a scene, read in one go.
#[derive(Debug, PartialEq)]
struct Records {
    journal: Vec<Value>,
    backups: Vec<Value>,
    actions: Vec<Value>,
    resources: Vec<Value>,
}

/// Records, store, live trees and hook log: what must not change when nothing is to be done.
type Everything = (Records, BTreeMap<String, String>, Trees, Vec<String>);

const STORE: &str = "apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {name: main}
spec: {local: {path: @/store}}
---
";

impl Stage {
    pub fn set(play: Play) -> Self {
        Self::set_in(Scene::new(), play, |_| {})
    }

    /// With roots that `prepare` makes in its own way.
    pub fn set_in(scene: Scene, play: Play, prepare: impl Fn(&Path)) -> Self {
        let count = match play {
            Play::Backup(count) | Play::Restore(count) | Play::FailingRestore(count) => count,
            Play::RestoreOfNothing => 1,
        };
        let roots: Vec<PathBuf> =
            (0..count).map(|number| scene.live().join(format!("root-{number}"))).collect();
        for root in &roots {
            std::fs::create_dir_all(root).unwrap();
            prepare(root);
            support::grow(root, "archived");
        }
        let list: Vec<&str> = roots.iter().map(|root| root.to_str().unwrap()).collect();
        let target = format!("target: {{host: {{paths: [{}]}}}}", list.join(", "));
        let backup = |name: &str, hooks: &str| {
            format!(
                "{STORE}apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {{name: {name}}}
spec:
  {target}
  storeRef: {{name: main}}
  verify: Full
  hooks: {hooks}
"
            )
        };
        let first = scene.document("earlier.yaml", &backup("earlier", "{}"));
        scene.run(["run", "-f", first.to_str().unwrap()]).succeeded();
        let archived: Trees = roots.iter().map(|root| support::fingerprint(root)).collect();
        for root in &roots {
            let copy = scene.path("archived").join(root.file_name().unwrap());
            std::fs::create_dir_all(&copy).unwrap();
            copy_all(root, &copy);
            empty(root);
            if play == Play::RestoreOfNothing {
                std::fs::remove_dir(root).unwrap();
            } else {
                support::grow(root, "live");
            }
        }
        let old: Trees = roots.iter().map(|root| support::fingerprint(root)).collect();
        let hooks = match play {
            Play::FailingRestore(_) => HOOKS.replace(
                "echo after >> @/hooks.log",
                "echo after >> @/hooks.log; test -e @/live/root-0/only-live",
            ),
            _ => HOOKS.to_owned(),
        };
        let preserve = if play == Play::RestoreOfNothing { "" } else { "conf/" };
        let text = match play {
            Play::Backup(_) => backup("tested", &hooks),
            Play::Restore(_) | Play::FailingRestore(_) | Play::RestoreOfNothing => format!(
                "{STORE}apiVersion: eider.dev/v1alpha1
kind: Restore
metadata: {{name: tested}}
spec:
  from: {{backupRef: {{name: earlier}}}}
  preserve: [{preserve}]
  hooks: {hooks}
"
            ),
        };
        let document = scene.document("tested.yaml", &text);
        let new = match play {
            Play::Backup(_) => old.clone(),
            Play::RestoreOfNothing => archived,
            _ => old.iter().zip(&archived).map(|(old, new)| preserved(old, new)).collect(),
        };
        let files = scene.stored().into_iter().filter(|name| !name.contains(".manifest"));
        let earlier: Vec<_> =
            files.map(|name| (support::sha256sum(&scene.store().join(&name)), name)).collect();
        assert_eq!(earlier.len(), 1);
        let saved = tempfile::tempdir().unwrap();
        copy_all(&scene.path(""), saved.path());
        Self { scene, play, document, roots, old, new, earlier, saved }
    }

    /// Puts the scene back as it was set.
    pub fn reset(&self) {
        empty(&self.scene.path(""));
        copy_all(self.saved.path(), &self.scene.path(""));
    }

    /// The arguments that carry the document out.
    pub fn arguments(&self) -> [&str; 3] {
        ["run", "-f", self.document.to_str().unwrap()]
    }

    /// Starts the operation, which dies at the point.
    pub fn kill_at(&self, point: &str) {
        let killed = self.scene.run_into(point, self.arguments());
        assert_eq!(killed.signal, Some(SIGKILL), "{point} was never passed: {killed:#?}");
    }

    fn records(&self) -> Records {
        let rows = self.scene.query(
            "select 'journal' as kind, to_json(t)::varchar as row from operation_journal t union all
             select 'backup', to_json(t)::varchar from backup_records t union all
             select 'action', to_json(t)::varchar from user_actions t union all
             select 'resource', to_json(t)::varchar from
                (select kind, namespace, name, generation, status from resources
                 where kind <> 'BackupStore') t order by all",
        );
        let of = |kind: &str| {
            rows.iter()
                .filter(|row| row["kind"] == kind)
                .map(|row| serde_json::from_str(row["row"].as_str().unwrap()).unwrap())
                .collect()
        };
        Records {
            journal: of("journal"),
            backups: of("backup"),
            actions: of("action"),
            resources: of("resource"),
        }
    }

    fn everything(&self) -> Everything {
        let trees = self.roots.iter().map(|root| support::fingerprint(root)).collect();
        let mut store = support::fingerprint(&self.scene.store());
        // Whether the store can be written is found out by writing: its own time may change.
        store.remove("");
        (self.records(), store, trees, self.scene.hook_log())
    }

    /// What has to hold after the start that followed a kill, however that went. Returns whether the
    /// operation succeeded.
    pub fn judge(&self) -> bool {
        let (succeeded, _) = self.judge_all();
        succeeded
    }

    fn judge_all(&self) -> (bool, Everything) {
        self.clean_store();
        let all = self.everything();
        let records = &all.0;
        let succeeded = judge_journal(records);
        // Services are up again.
        let hooks = &all.3;
        assert!(hooks.last().is_none_or(|last| last == "after"), "{hooks:?}");
        assert!(!succeeded || hooks.contains(&"before".to_owned()), "{hooks:?}");
        self.judge_trees(succeeded, &all.2);
        self.judge_store(succeeded, &records.backups);
        (succeeded, all)
    }

    /// What a killed process may leave under a temporary name, `store check --clean` takes away once
    /// it is old enough.
    fn clean_store(&self) {
        let left: Vec<String> =
            self.scene.stored().into_iter().filter(|name| name.starts_with('.')).collect();
        for name in &left {
            let file = std::fs::File::options().write(true).open(self.scene.store().join(name));
            let long_ago = SystemTime::now() - Duration::from_hours(30 * 24);
            file.unwrap().set_modified(long_ago).unwrap();
        }
        if !left.is_empty() {
            self.scene.run(["store", "check", "--clean"]).succeeded();
            let now = self.scene.stored();
            assert!(!now.iter().any(|name| name.starts_with('.')), "{now:?}");
        }
    }

    fn judge_trees(&self, succeeded: bool, found: &Trees) {
        let wanted = if succeeded { &self.new } else { &self.old };
        for ((found, wanted), root) in found.iter().zip(wanted).zip(&self.roots) {
            let differing: Vec<_> = found
                .iter()
                .filter(|(name, said)| wanted.get(*name) != Some(said))
                .chain(wanted.iter().filter(|(name, _)| !found.contains_key(*name)))
                .collect();
            if succeeded && !matches!(self.play, Play::Backup(_)) {
                let archived = self.scene.path("archived").join(root.file_name().unwrap());
                let differences = support::rsync_differences(&archived, root);
                // What is preserved is not the archive's.
                let mut others = differences.lines().filter(|line| !line.contains(" conf/"));
                assert_eq!(others.next(), None, "rsync finds:\n{differences}");
            }
            assert!(
                differing.is_empty(),
                "{} (succeeded: {succeeded}) is not as it has to be: {differing:#?}",
                root.display()
            );
        }
        let mut expected: Vec<String> = wanted
            .iter()
            .zip(&self.roots)
            .filter(|(tree, _)| !tree.is_empty())
            .map(|(_, root)| root.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        expected.sort();
        assert_eq!(support::names(&self.scene.live()), expected, "left beside the roots");
    }

    fn judge_store(&self, succeeded: bool, backups: &[Value]) {
        let mut expected = Vec::new();
        let mut good = Vec::new();
        for row in backups {
            if row["status"] == "Failed" {
                assert!(row["error_message"].as_str().is_some_and(|text| text.len() > 10), "{row}");
                continue;
            }
            assert_eq!(row["status"], "Succeeded", "{row}");
            let path = Path::new(row["backup_path"].as_str().unwrap());
            assert!(row["verified_at"].is_string(), "{row}");
            let sum = support::sha256sum(path);
            assert_eq!(sum, row["backup_hash"].as_str().unwrap());
            assert!(support::tar_accepts(path), "{row}");
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            expected.push(format!("{name}.manifest.json"));
            expected.push(name.clone());
            good.push((sum, name));
        }
        expected.sort();
        assert_eq!(
            self.scene.stored(),
            expected,
            "the store holds other archives than the catalog"
        );
        assert!(self.earlier.iter().all(|earlier| good.contains(earlier)), "lost: {good:?}");
        let wanted = match (self.play, succeeded) {
            (Play::Backup(_), false) | (Play::RestoreOfNothing, _) => good.len() == 1,
            (_, true) => good.len() == 2,
            // The safety backup may have been taken before the restore failed, and is kept.
            (_, false) => (1..=2).contains(&good.len()),
        };
        assert!(wanted, "{backups:#?}");
    }

    /// Eider itself finds every archive good, and the same document again changes nothing any more.
    fn judge_repetition(&self, succeeded: bool, before: &Everything) {
        let again = self.scene.run(self.arguments());
        assert_eq!(again.code == Some(0), succeeded, "{again:#?}");
        assert!(*before == self.everything(), "{before:#?} became {:#?}", self.everything());
        // Last, because it writes the time of verification.
        let verified =
            self.scene.run(["backup", "verify", "--all", "--output", "json"]).succeeded();
        let good = before.0.backups.iter().filter(|row| row["status"] == "Succeeded").count();
        assert_eq!(verified.stdout.matches("\"verified\"").count(), good, "{verified:#?}");
    }
}

/// Every operation has ended exactly once, and has been audited exactly once. Returns whether the
/// tested one succeeded.
fn judge_journal(records: &Records) -> bool {
    let mut ends: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for row in &records.journal {
        let of = ends.entry(row["operation"].as_str().unwrap()).or_default();
        if row["step"] == "operation" && row["mark"] != "Intent" {
            of.push(row);
        }
    }
    for (operation, rows) in &ends {
        assert_eq!(rows.len(), 1, "{operation} has not ended exactly once: {rows:#?}");
        let detail = rows[0]["detail"].to_string();
        assert!(rows[0]["mark"] == "Done" || detail.contains("reason"), "{operation}: {detail}");
        let audited = records.actions.iter();
        let audited = audited
            .filter(|row| row["action_params"].to_string().contains(&format!("{operation}\"")));
        let audited = audited.count();
        assert_eq!(audited, 1, "{operation} is not audited exactly once: {:#?}", records.actions);
    }
    let tested = ends.iter().find(|(operation, _)| operation.ends_with("/tested/1"));
    tested.expect("the operation was never begun").1[0]["mark"] == "Done"
}

fn copy_all(from: &Path, to: &Path) {
    let from = from.join(".");
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// The archive's tree with what is preserved as it is.
fn preserved(
    live: &BTreeMap<String, String>,
    archived: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let stays = |name: &str| name == "conf" || name.starts_with("conf/");
    let kept = live.iter().filter(|(name, _)| stays(name));
    let others = archived.iter().filter(|(name, _)| !stays(name));
    others.chain(kept).map(|(name, said)| (name.clone(), said.clone())).collect()
}

/// Removes what is in a directory, and not the directory: it may be a mount point.
fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The start after the kill, and everything that has to hold.
pub fn recover_and_judge(stage: &Stage) {
    let again = stage.scene.run(stage.arguments());
    let (succeeded, all) = stage.judge_all();
    assert_eq!(again.code, Some(i32::from(!succeeded)), "{again:#?}");
    stage.judge_repetition(succeeded, &all);
}

/// Kills at every point, starts again and judges, two at a time; fails with all that went wrong.
pub fn try_points(play: Play, points: &[String]) {
    let queue = Mutex::new(points.iter());
    let (tried, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let stage = Stage::set(play);
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(point) = next else { break };
                    tried.fetch_add(1, Ordering::Relaxed);
                    stage.reset();
                    let attempt = AssertUnwindSafe(|| {
                        stage.kill_at(point);
                        recover_and_judge(&stage);
                    });
                    if let Err(panic) = catch_unwind(attempt) {
                        failed.lock().unwrap().push(format!("{point}: {}", said(panic.as_ref())));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), points.len(), failed.join("\n"));
    assert_eq!(tried.into_inner(), points.len());
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?")
}
