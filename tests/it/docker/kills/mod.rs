//! Eider is killed at every step of an operation and started again: every service that ran runs, the
//! data is the old or the new one, and what is recorded as good is good.

mod backups;
mod points;
mod restores;
mod upgrades;

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::contained;
use super::engine::{Project, lines, text};
use crate::scene::{STORE, shell, tool, wait_longer};

/// Where Eider runs.
#[derive(Clone, Copy, PartialEq)]
enum Eider {
    OnTheHost,
    InAContainer,
}
use Eider::InAContainer;

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

    /// Runs the document with a death at `point`; whether it came to that. Of several, with `+` between them, each
    /// is met by the next start.
    fn killed(&self, points: &str, document: &str) -> bool {
        let scene = &self.project.scene;
        let text = scene.fill(&format!("{STORE}---\n{document}"));
        scene.write("specs/tested.yaml", text);
        points.split('+').all(|point| self.dies(point))
    }

    fn dies(&self, point: &str) -> bool {
        let scene = &self.project.scene;
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

    /// Everybody of these runs, exactly once, and nothing is left beside the data.
    fn judge(&self, point: &str, services: &[&str]) {
        let states = self.project.states();
        for name in services {
            assert_eq!(states[*name], "running", "{point}: {states:?}");
        }
        assert_eq!(states["off"], "exited", "{point}");
        assert_eq!(states.len(), services.len() + 1, "{point}: {states:?}");
        // Who writes into each.
        let volumes = [("db", "data"), ("web", "uploads")];
        for (_, volume) in volumes.iter().filter(|(writer, _)| services.contains(writer)) {
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

/// Hooks that say into the data of `db` that they have run; the one `after` succeeds if `holds` does.
fn hooks(holds: &str) -> String {
    let exec =
        |command: &str| format!("[{{exec: {{container: db, command: [sh, -c, '{command}']}}}}]");
    let after = exec(&format!("{holds} && echo after >> /data/hooks"));
    format!("hooks: {{before: {}, after: {after}}}", exec("echo before >> /data/hooks"))
}

/// After the last hooks `before` those `after` have run.
fn judge_hooks(project: &Project, point: &str) {
    let said = lines(&project.at("data").join("hooks"));
    assert!(said.last().is_none_or(|last| last == "after"), "{point}: {said:?}");
}

/// Says what was done: the count is read off the output.
#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("KILL {text}");
}
