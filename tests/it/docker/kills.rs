//! Eider is killed at every step of an operation and started again: every service that ran runs, the
//! data is the old or the new one, and what is recorded as good is good.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::contained;
use super::engine::{Project, docker, lines, text};
use super::upgrades::{self, Version};
use crate::scene::{STORE, head, shell, tool, wait_longer};

/// Where Eider runs.
#[derive(Clone, Copy, PartialEq)]
enum Eider {
    OnTheHost,
    InAContainer,
}
use Eider::{InAContainer, OnTheHost};

/// Who runs in it.
const OF_THE_SHOP: [&str; 3] = ["db", "web", "reporter"];

/// How long whoever ran before may stay down.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// A clock that goes on with each look at the engine, as far as that takes on a machine that has nothing else to do.
/// What holds the looks up holds up everybody.
struct Clock {
    last: Instant,
    passed: Duration,
}

impl Clock {
    /// The longest that a look takes at rest, with the pause after it.
    const LOOK: Duration = Duration::from_millis(300);

    fn new(now: Instant) -> Self {
        Self { last: now, passed: Duration::ZERO }
    }

    fn look(&mut self, now: Instant) {
        self.passed += now.duration_since(self.last).min(Self::LOOK);
        self.last = now;
    }
}

#[test]
fn a_look_that_is_held_up_does_not_count_for_more() {
    let begun = Instant::now();
    let mut clock = Clock::new(begun);
    let mut now = begun;
    for milliseconds in [200, 250, 9000, 100] {
        now += Duration::from_millis(milliseconds);
        clock.look(now);
    }
    assert_eq!(clock.passed, Duration::from_millis(200 + 250 + 300 + 100));
    // At rest it is the one on the wall, so that half a minute is half a minute.
    for _ in 0..150 {
        now += Duration::from_millis(200);
        clock.look(now);
    }
    assert!(clock.passed > HALF_A_MINUTE);
}

/// A project of two services that share a volume, with a good backup.
struct Stage {
    project: Project,
    eider: Eider,
}

impl Stage {
    fn set(eider: Eider) -> Option<Self> {
        let project = Project::new()?;
        project.shop();
        shell(&project.at("data"), "mkdir deep; echo one > deep/one; seq 200000 > numbers");
        project.back_up("base", "").ok();
        Some(Self { project, eider })
    }

    /// Runs the document with a death at `point`; whether it came to that.
    fn killed(&self, point: &str, document: &str) -> bool {
        let scene = &self.project.scene;
        let text = scene.fill(&format!("{STORE}---\n{document}"));
        scene.write("specs/tested.yaml", text);
        let point = format!("EIDER_FAILPOINT={point}");
        if self.eider == InAContainer {
            // As the first process of a container it cannot kill itself; it aborts.
            return matches!(self.contained(&[&point]).code, 137 | 139);
        }
        let (name, value) = point.split_once('=').unwrap();
        let ended =
            scene.command(&["run", "-f", "specs/tested.yaml"]).env(name, value).output().unwrap();
        ended.status.signal() == Some(9)
    }

    fn contained(&self, environment: &[&str]) -> crate::scene::Ended {
        let file = self.project.scene.path("specs/tested.yaml");
        contained::run(&self.project, environment, &["run", "-f", file.to_str().unwrap()])
    }

    /// Starts the program again; whatever was begun is put right, and everybody runs within half a minute.
    fn start_again(&self, point: &str, services: &[&str]) {
        let (begun, since) = (Instant::now(), jiff::Timestamp::now());
        let mut clock = Clock::new(begun);
        let (ended, run) = std::thread::scope(|scope| {
            let running = scope.spawn(|| self.again());
            let mut run = false;
            while !run {
                let is_over = running.is_finished();
                let states = self.project.states();
                let runs = |name: &&str| states.get(*name).is_some_and(|state| state == "running");
                run = services.iter().all(runs);
                if is_over {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
                clock.look(Instant::now());
            }
            (running.join().unwrap(), run)
        });
        assert!(matches!(ended.code, 0 | 1), "{point}: {ended:#?}");
        assert!(!ended.stderr.contains("panicked"), "{point}: {ended:#?}");
        assert!(run, "{point}: not everybody runs: {ended:#?}");
        let found = self.project.inspected();
        let started = |name: &&str| -> jiff::Timestamp {
            text(&found[*name]["State"]["StartedAt"]).parse().unwrap()
        };
        // By the engine's own word; who was never stopped has been started long before.
        let last = services.iter().map(started).max().unwrap();
        let back = Duration::try_from(last.duration_since(since)).unwrap_or_default();
        let back = back.min(clock.passed);
        assert!(back < HALF_A_MINUTE, "{point}: they run after {back:?}: {ended:#?}");
        note(&format!("{point}: all run after {back:?}, done after {:?}", begun.elapsed()));
    }

    fn again(&self) -> crate::scene::Ended {
        if self.eider == InAContainer {
            return self.contained(&[]);
        }
        let scene = &self.project.scene;
        scene.command(&["run", "-f", "specs/tested.yaml"]).output().unwrap().into()
    }

    /// Everybody runs, exactly once, and nothing is left beside the data.
    fn judge(&self, point: &str) {
        let states = self.project.states();
        for name in OF_THE_SHOP {
            assert_eq!(states[name], "running", "{point}: {states:?}");
        }
        assert_eq!(states["off"], "exited", "{point}");
        assert_eq!(states.len(), 4, "{point}: {states:?}");
        for volume in ["data", "uploads"] {
            let log = lines(&self.project.at(volume).join("log"));
            let (last, last_but_one) = (log.last().unwrap(), log.iter().rev().nth(1));
            assert_eq!(last, "started", "{point}: {log:?}");
            assert!(last_but_one.is_none_or(|line| line == "stopped"), "{point}: {log:?}");
            let beside = crate::support::names(self.project.at(volume).parent().unwrap());
            if self.eider == InAContainer {
                // There is no beside: what is put aside lies in the volume itself.
                let left = shell(&self.project.at(volume), "ls -A | grep ^.eider || true");
                assert_eq!(left, "", "{point}");
            }
            let beside: Vec<_> =
                beside.iter().filter(|name| *name != "_data" && *name != "opts.json").collect();
            assert!(beside.is_empty(), "{point}: {beside:?}");
        }
        // Whoever is running can write: it is not on a tree that was moved away.
        let now = self.project.at("data").join("now");
        let before = lines(&now);
        wait_longer("the database writes", Duration::from_secs(10), &mut || lines(&now) != before);
        for record in self.project.scene.backups() {
            if record["status"] == "Succeeded" || record["status"] == "success" {
                let archive = record["backupPath"].as_str().unwrap();
                tool("tar", &["tzf", archive]);
            }
        }
        self.project.scene.run(&["backup", "verify", "--all"]).ok();
    }
}

/// Says what was done: the count is read off the output.
#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("KILL {text}");
}

/// Every moment around these steps of a kind.
fn around(kind: &str, steps: &[&str]) -> Vec<String> {
    let moments = ["before", "intended", "performed", "recorded"];
    let point = |step: &str, moment: &str| format!("{kind}.{step}.{moment}");
    steps.iter().flat_map(|step| moments.map(|moment| point(step, moment))).collect()
}

fn backups(eider: Eider, points: &[String]) {
    let Some(stage) = Stage::set(eider) else { return };
    for (number, point) in points.iter().enumerate() {
        let target = format!("project: {}", stage.project.name);
        let document = super::engine::backup(&format!("b{number}"), &target, "");
        assert!(stage.killed(point, &document), "{point} is never passed");
        stage.start_again(point, &OF_THE_SHOP);
        stage.judge(point);
        let stored = stage.project.scene.stored();
        assert_eq!(stored.len() % 2, 0, "{point}: an archive without its manifest: {stored:?}");
    }
}

#[test]
fn a_backup_killed_before_its_data_is_read() {
    let mut points = around("backup", &["preflight", "quiesce"]);
    points.extend(
        ["docker.next-stop", "docker.next-stop:2", "docker.next-stop:3"].map(str::to_owned),
    );
    points.extend(around("backup", &["archive"]));
    points.extend(
        ["archive.started", "archive.middle", "archive.read", "archive.written"].map(str::to_owned),
    );
    backups(OnTheHost, &points);
}

#[test]
fn a_backup_killed_after_its_data_is_read() {
    let mut points = around("backup", &["resume"]);
    points.extend(
        ["docker.next-start", "docker.next-start:2", "docker.next-start:3"].map(str::to_owned),
    );
    points.extend(around("backup", &["seal", "verify"]));
    let more =
        ["seal.synced", "seal.renamed", "seal.manifest-renamed", "verify.middle", "verify.proved"];
    points.extend(more.map(str::to_owned));
    points
        .extend(["before", "recorded", "closed"].map(|moment| format!("backup.conclude.{moment}")));
    backups(OnTheHost, &points);
}

fn restores(eider: Eider, points: &[String]) {
    let Some(stage) = Stage::set(eider) else { return };
    let data = stage.project.at("data");
    for (number, point) in points.iter().enumerate() {
        shell(&data, "rm -rf deep; echo damage > numbers; echo junk > junk");
        let document = format!(
            "{}metadata: {{name: r{number}}}\nspec: {{from: {{backupRef: {{name: base}}}}}}\n",
            head("Restore")
        );
        assert!(stage.killed(point, &document), "{point} is never passed");
        stage.start_again(point, &OF_THE_SHOP);
        stage.judge(point);
        // The old tree or the new one, whole.
        let old = data.join("junk").exists();
        let numbers = Command::new("sh").args(["-c", "seq 200000"]).output().unwrap().stdout;
        let found = std::fs::read(data.join("numbers")).unwrap();
        assert_eq!(found == numbers, !old, "{point}: neither the old nor the new tree");
        assert_eq!(data.join("deep/one").exists(), !old, "{point}");
        note(&format!("{point}: the {} tree", if old { "old" } else { "new" }));
    }
    docker(&["info"]);
}

#[test]
fn a_restore_killed_before_its_swap() {
    let mut points = around("restore", &["preflight", "verify-source", "extract", "quiesce"]);
    points.extend(["extract.middle", "docker.next-stop:2"].map(str::to_owned));
    points.extend(around("restore", &["safety-backup"]));
    restores(OnTheHost, &points);
}

#[test]
fn a_restore_killed_around_and_after_its_swap() {
    let mut points = around("restore", &["swap"]);
    points.extend(["swap.exchanged", "swap.old-moved", "swap.next-root"].map(str::to_owned));
    points.extend(around("restore", &["resume"]));
    points.extend(["docker.next-start", "docker.next-start:2"].map(str::to_owned));
    points.extend(around("restore", &["health", "drop-old"]));
    points.extend(
        ["before", "recorded", "closed"].map(|moment| format!("restore.conclude.{moment}")),
    );
    restores(OnTheHost, &points);
}

/// Upgrades to `to`, or to its like if that is what runs, each killed at one point.
fn upgraded(eider: Eider, points: &[String], to: Version) {
    let Some(project) = upgrades::stage() else { return };
    let stage = Stage { project, eider };
    let data = stage.project.at("data");
    let image = |stage: &Stage| text(&stage.project.inspected()["db"]["Config"]["Image"]);
    for (number, point) in points.iter().enumerate() {
        let (before, runs) = (lines(&data.join("version")), image(&stage));
        let to = if runs == to.image() { Version::Better } else { to };
        shell(&data, &format!("echo precious > {}", to.removes()));
        let more = "  force: true\n  backup: {storeRef: {name: main}}\n";
        let document = upgrades::document(&stage.project, &format!("u{number}"), to, "")
            .replace("  backup: {storeRef: {name: main}}\n", more)
            .replace("soak: 5s", "soak: 1s");
        assert!(stage.killed(point, &document), "{point} is never passed");
        stage.start_again(point, &["db", "proxy"]);
        let states = stage.project.states();
        let expected = [("db", "running"), ("proxy", "running")];
        let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(states, expected.into(), "{point}");
        let new = image(&stage) == to.image();
        assert!(new || image(&stage) == runs, "{point}: {}", image(&stage));
        let version = lines(&data.join("version"));
        let right = if new { vec![to.number().to_owned()] } else { before };
        assert_eq!(version, right, "{point}: another version's data");
        assert_eq!(data.join(to.removes()).exists(), !new, "{point}: another version's data");
        let policy = stage.project.inspected()["db"]["HostConfig"]["RestartPolicy"]["Name"].clone();
        assert_eq!(policy, "unless-stopped", "{point}");
        note(&format!("{point}: the {} version", if new { "new" } else { "old" }));
    }
    stage.project.scene.run(&["backup", "verify", "--all"]).ok();
}

#[test]
fn an_upgrade_killed_before_its_change() {
    let mut points = around("upgrade", &["preflight", "fetch", "quiesce", "backup"]);
    points.extend(around("upgrade", &["keep-old"]));
    points.extend(["docker.next-aside", "docker.next-aside:2"].map(str::to_owned));
    upgraded(OnTheHost, &points, Version::Good);
}

#[test]
fn an_upgrade_killed_after_its_change() {
    let mut points = around("upgrade", &["apply"]);
    points.extend(["docker.next-new", "docker.next-new:2"].map(str::to_owned));
    points.extend(around("upgrade", &["start", "health", "soak", "commit"]));
    points.extend(
        ["before", "recorded", "closed"].map(|moment| format!("upgrade.conclude.{moment}")),
    );
    upgraded(OnTheHost, &points, Version::Good);
}

#[test]
fn a_rollback_that_is_killed() {
    let steps = ["rollback-remove-new", "rollback-data", "rollback-restore-old", "rollback-resume"];
    let mut points = around("upgrade", &steps);
    points.extend(["docker.next-back", "docker.next-back:2"].map(str::to_owned));
    upgraded(OnTheHost, &points, Version::FailsToStart);
}

fn these(points: &[&str]) -> Vec<String> {
    points.iter().map(|point| (*point).to_owned()).collect()
}

#[test]
fn a_backup_whose_container_is_killed() {
    let mut points = around("backup", &["preflight", "quiesce", "archive"]);
    points.extend(these(&["docker.worker-made", "docker.worker-attached"]));
    points.extend(these(&["docker.worker-started", "docker.next-stop:2", "docker.next-start:2"]));
    points.extend(around("backup", &["resume", "seal", "verify"]));
    backups(InAContainer, &points);
}

#[test]
fn a_restore_whose_container_is_killed() {
    let mut points = these(&["restore.preflight.performed", "restore.extract.intended"]);
    points.extend(these(&["restore.extract.performed", "restore.quiesce.performed"]));
    points.extend(around("restore", &["safety-backup", "swap", "resume"]));
    points.extend(these(&["docker.worker-made:2", "restore.health.before"]));
    points.extend(around("restore", &["drop-old"]));
    restores(InAContainer, &points);
}

#[test]
fn an_upgrade_whose_container_is_killed() {
    let mut points = these(&["upgrade.quiesce.performed"]);
    points.extend(around("upgrade", &["backup", "apply"]));
    points.extend(these(&["upgrade.start.performed", "upgrade.commit.before"]));
    upgraded(InAContainer, &points, Version::Good);
    let mut points = around("upgrade", &["rollback-data"]);
    points.extend(these(&["upgrade.rollback-restore-old.performed"]));
    upgraded(InAContainer, &points, Version::FailsToStart);
}
