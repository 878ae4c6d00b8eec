//! What goes wrong on a Docker host in the middle of an operation: it ends, says why, and the services run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::engine::{DEAF, IMAGE, Project, SERVICE, backup, docker, lines, text};
use super::second::SecondEngine;
use super::upgrades::{self, Version};
use crate::scene::{Ended, STORE, Scene, SmallDisk, head, may_mount, shell, wait_longer};

/// A server that does something when it is asked, and then answers: what a hook can call.
fn on_request(act: impl Fn() + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            act();
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    address
}

fn hook(address: &str) -> String {
    format!("hooks: {{before: [{{http: {{url: \"{address}\", method: POST}}}}]}}")
}

#[test]
fn an_engine_that_is_restarted_in_the_middle_finds_its_services_started_again() {
    let Some(mut engine) = SecondEngine::start() else { return };
    let scene = Scene::new();
    let run = |name: &str, more: &[&str], script: &str| {
        let label = format!("com.docker.compose.service={name}");
        let labels = ["--label", "com.docker.compose.project=shop", "--label", &label];
        let first = ["run", "--detach", "--network", "none", "--name", name];
        let mount = ["-v", "shop_data:/data"];
        let last = [IMAGE, "/bin/sh", "-c", script];
        engine.docker(&[&first[..], &labels, &mount, more, &last].concat());
    };
    run("db", &["--stop-timeout", "4"], DEAF);
    let depends = "com.docker.compose.depends_on=db:service_started:false";
    run("web", &["--label", depends], SERVICE);
    scene.write(
        "documents.yaml",
        scene.fill(&format!("{STORE}---\n{}", backup("night", "project: shop", ""))),
    );
    let mut command = scene.command(&["run", "-f", "documents.yaml"]);
    command.env("DOCKER_HOST", engine.address());
    let running = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_longer("web is stopped", Duration::from_secs(30), &mut || engine.state("web") == "exited");
    let started = |engine: &SecondEngine| {
        engine.docker(&["inspect", "--format", "{{.State.StartedAt}}", "web", "db"])
    };
    let before = started(&engine);
    engine.restart(Duration::from_secs(2));
    let ended: Ended = running.wait_with_output().unwrap().into();
    assert!(matches!(ended.code, 1 | 5), "{ended:#?}");
    assert_eq!((&*engine.state("web"), &*engine.state("db")), ("running", "running"));
    let after = started(&engine);
    assert!(before.lines().zip(after.lines()).all(|(before, after)| before != after), "{after}");
    assert!(scene.stored().iter().all(|name| !name.contains("manifest")), "{:?}", scene.stored());
    // And it goes on as if nothing had been.
    let again =
        format!("{STORE}---\n{}", backup("again", "project: shop", "consistency: {timeout: 30s}"));
    scene.write("documents.yaml", scene.fill(&again));
    let mut command = scene.command(&["run", "-f", "documents.yaml"]);
    let ended: Ended = command.env("DOCKER_HOST", engine.address()).output().unwrap().into();
    ended.ok();
    assert!(engine.volume("shop_data").join("log").exists());
}

/// A socket that passes everything on to the engine but some requests, which it swallows.
fn deaf_to(socket: &Path, part: &'static str, times: u32) -> String {
    let listener = UnixListener::bind(socket).unwrap();
    let left = Arc::new(AtomicU32::new(times));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let engine = UnixStream::connect("/var/run/docker.sock").unwrap();
                let (mut answers, mut back) =
                    (engine.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut answers, &mut back);
                    let _ = back.shutdown(Shutdown::Write);
                });
                let (mut from, mut to, mut piece) = (client, engine, vec![0; 65536]);
                while let Ok(count @ 1..) = from.read(&mut piece) {
                    let text = String::from_utf8_lossy(&piece[..count]);
                    let is_meant = text.lines().next().is_some_and(|line| line.contains(part));
                    let take = |left: u32| left.checked_sub(1);
                    if is_meant
                        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
                    {
                        // It hangs: nothing is passed on, nothing is answered.
                        std::thread::sleep(Duration::from_mins(5));
                        return;
                    }
                    if to.write_all(&piece[..count]).is_err() {
                        return;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    format!("unix://{}", socket.display())
}

fn backed_up_through(project: &Project, address: &str, more: &str) -> Ended {
    let target = format!("project: {}", project.name);
    let text = format!("{STORE}---\n{}", backup("night", &target, more));
    project.scene.write("documents.yaml", project.scene.fill(&text));
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    command.env("DOCKER_HOST", address).output().unwrap().into()
}

#[test]
fn a_socket_that_hangs_while_stopping_is_given_up_in_time() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let address = deaf_to(&project.scene.path("engine.sock"), "/stop", u32::MAX);
    let ended = backed_up_through(&project, &address, "consistency: {timeout: 3s}");
    ended.code(1).says("did not stop within 3 s");
    project.runs_as_before();
    assert!(project.scene.stored().is_empty());
}

#[test]
fn a_socket_that_hangs_while_starting_is_asked_again() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let address = deaf_to(&project.scene.path("engine.sock"), "/start", 1);
    backed_up_through(&project, &address, "");
    project.runs_as_before();
    project.scene.run(&["backup", "verify", "--all"]).ok();
}

#[test]
fn a_socket_that_hangs_while_the_new_version_is_made_leaves_the_old_one() {
    let Some(project) = upgrades::stage() else { return };
    let before = project.inspected();
    let address = deaf_to(&project.scene.path("engine.sock"), "/containers/create", 1);
    let document = upgrades::document(&project, "up", Version::Good, "");
    let text = format!("{STORE}---\n{document}");
    project.scene.write("documents.yaml", project.scene.fill(&text));
    let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
    let ended: Ended = command.env("DOCKER_HOST", address).output().unwrap().into();
    ended.code(1).says("did not answer within 60 s");
    let after = project.inspected();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["db", "proxy"], "nothing is left over");
    for name in ["db", "proxy"] {
        assert_eq!(before[name]["Id"], after[name]["Id"], "{name} is the old one");
        assert_eq!(after[name]["State"]["Status"], "running", "{name}");
    }
    assert_eq!(project.status("upgrade", "up")["phase"], "RolledBack");
    assert_eq!(lines(&project.at("data").join("version")), ["1.0.0"]);
}

#[test]
fn a_volume_that_vanishes_fails_the_backup_and_nobody_is_left_down() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let lost = project.volume("lost");
    shell(&project.at("lost"), "echo data > file");
    let volume = lost.clone();
    let address = on_request(move || {
        docker(&["volume", "rm", &volume]);
    });
    let target = format!("volumes: [{lost}, {}]", project.of("data"));
    let text = format!("{STORE}---\n{}", backup("night", &target, &hook(&address)));
    let ended = project.scene.apply(&text);
    assert!(matches!(ended.code, 1 | 3), "{ended:#?}");
    assert!(ended.stderr.contains(&lost), "{ended:#?}");
    project.runs_as_before();
    assert!(project.scene.stored().is_empty(), "{:?}", project.scene.stored());
}

#[test]
fn a_full_disk_is_seen_before_or_in_the_middle_and_nobody_is_left_down() {
    if !may_mount("a full disk under a Docker backup") {
        return;
    }
    let Some(project) = Project::new() else { return };
    project.shop();
    let _disk = SmallDisk::mount(&project.scene.path("store"), "3m");
    shell(&project.at("data"), "head -c 5M /dev/urandom > noise");
    project.back_up("before", "").code(4).says("not enough space");
    assert_eq!(lines(&project.at("data").join("log")), ["started"], "nobody was stopped");
    // Full after the look: what is left is less than what is written.
    shell(&project.at("data"), "head -c 1M /dev/urandom > noise");
    let filler = project.scene.path("store/filler");
    let address = on_request(move || {
        let _ = std::fs::write(&filler, vec![1; 2_700_000]);
    });
    let ended = project.back_up("middle", &hook(&address)).code(4);
    assert!(ended.stderr.to_lowercase().contains("space"), "{ended:#?}");
    project.runs_as_before();
    assert_eq!(project.scene.stored(), ["filler"]);
}

#[test]
fn a_service_that_dies_on_the_restored_data_is_put_back_with_its_own() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let script = format!("test -e /data/poison && exit 137; {SERVICE}");
    project.start("db", &["-v", &format!("{data}:/data")], &script);
    wait_longer("it runs", Duration::from_secs(20), &mut || {
        project.at("data").join("now").exists()
    });
    shell(&project.at("data"), "echo good > state; touch poison");
    project.back_up("night", "consistency: {mode: Pause}").ok();
    shell(&project.at("data"), "rm poison; echo newer > state");
    let spec = "{from: {backupRef: {name: night}}}";
    project.scene.restore("back", spec).code(1).says("ended with code 137");
    assert_eq!(project.states()["db"], "running");
    assert_eq!(lines(&project.at("data").join("state")), ["newer"]);
    assert!(!project.at("data").join("poison").exists());
}

/// How many operations the daemon of the fifty containers may work on at once.
const AT_ONCE: usize = 3;

/// How many backups were under way at once, by their records.
fn most_at_once(records: &[serde_json::Value]) -> usize {
    let mut changes = Vec::new();
    for record in records {
        let Some(seconds) = record["durationSeconds"].as_f64() else { continue };
        let begun: jiff::Timestamp = text(&record["createdAt"]).parse().unwrap();
        changes.push((begun, true));
        changes.push((begun + Duration::from_secs_f64(seconds), false));
    }
    // Who ends makes room for who begins at that very moment.
    changes.sort();
    let (mut now, mut most) = (0_usize, 0);
    for (_, begins) in changes {
        now = if begins { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

/// How many projects had a container down at once, by what the engine told of those whose names begin so.
fn most_projects_down(events: &[String], prefix: &str) -> usize {
    let mut down: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut most = 0;
    for event in events {
        let Some((action, name)) = event.split_once(' ') else { continue };
        let Some(name) = name.strip_prefix(prefix) else { continue };
        let Some((project, service)) = name.split_once('-') else { continue };
        let of_it = down.entry(project).or_default();
        if action == "die" {
            of_it.insert(service);
        } else {
            of_it.remove(service);
        }
        most = most.max(down.values().filter(|services| !services.is_empty()).count());
    }
    most
}

#[test]
fn what_is_under_way_at_once_is_counted() {
    let record = |begun: &str, seconds: f64| serde_json::json!({"createdAt": begun, "durationSeconds": seconds});
    let records = [
        record("2026-01-01T00:00:00Z", 10.0),
        record("2026-01-01T00:00:05Z", 10.0),
        record("2026-01-01T00:00:10Z", 1.0),
        serde_json::json!({"createdAt": "2026-01-01T00:00:10Z"}),
    ];
    assert_eq!(most_at_once(&records), 2);
    let events = ["die a_1-1", "die a_1-2", "start a_1-1", "die a_2-1", "start a_1-2", "die b_3-1"];
    assert_eq!(most_projects_down(&events.map(str::to_owned), "a_"), 2);
}

#[test]
fn fifty_containers_in_ten_projects_are_backed_up_by_overlapping_schedules() {
    let Some(project) = Project::new() else { return };
    let quiet = "trap 'exit 0' TERM; while :; do sleep 5 & wait $!; done";
    let mut schedules = project.scene.fill(STORE);
    for number in 0..10 {
        let name = format!("{}x{number}", project.name);
        for service in 0..5 {
            let full = project.of(&format!("{number}-{service}"));
            let volume = project.of(&format!("v{number}-{}", service % 2));
            let labels = [
                format!("com.docker.compose.project={name}"),
                format!("com.docker.compose.service=s{service}"),
            ];
            docker(&[
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                &full,
                "--label",
                &labels[0],
                "--label",
                &labels[1],
                "-v",
                &format!("{volume}:/data"),
                IMAGE,
                "/bin/sh",
                "-c",
                quiet,
            ]);
        }
        schedules.push_str(&format!(
            "---\n{}metadata: {{name: s{number}}}\nspec:\n  schedule: \"* * * * *\"\n  \
             retention: {{keepLast: 2}}\n  template: {{spec: {{target: {{docker: {{project: {name}}}}}, \
             storeRef: {{name: main}}}}}}\n",
            head("BackupSchedule")
        ));
    }
    project.scene.write("specs/all.yaml", schedules);
    let said = project.scene.path("events");
    let mut listener = Command::new("docker")
        .args(["events", "--filter", "event=die", "--filter", "event=start", "--format"])
        .arg("{{.Action}} {{.Actor.Attributes.name}}")
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let limit = AT_ONCE.to_string();
    let daemon =
        crate::scene::Daemon::start_as(&project.scene, "specs", &["--concurrency", &limit]);
    let pid = daemon.child.id();
    wait_longer("every project has been backed up twice", Duration::from_mins(10), &mut || {
        std::thread::sleep(Duration::from_secs(2));
        let backups = project.scene.backups();
        let done = |number: u32| {
            let target = format!("docker:{}x{number}", project.name);
            let good = |one: &&serde_json::Value| {
                one["target"] == target.as_str() && one["verifiedAt"].is_string()
            };
            backups.iter().filter(good).count() >= 2
        };
        (0..10).all(done)
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    #[allow(clippy::print_stderr)] // The number is for the report.
    {
        eprintln!("FIFTY peak resident memory: {} MiB", peak / 1024);
    }
    assert!(peak < 256 * 1024, "{peak} kB");
    // What is under way is put back first.
    assert_eq!(daemon.stop(), Some(0));
    listener.kill().unwrap();
    listener.wait().unwrap();
    let told = most_projects_down(&lines(&said), &format!("{}_", project.name));
    let recorded = most_at_once(&project.scene.backups());
    #[allow(clippy::print_stderr)] // The numbers are for the report.
    {
        eprintln!("FIFTY at once: {recorded} by the records, {told} projects down by the engine");
    }
    // It is not that they happened to come one after another.
    assert!((2..=AT_ONCE).contains(&recorded), "{recorded} at once");
    assert!((1..=AT_ONCE).contains(&told), "{told} projects were down at once");
    let states = project.states();
    assert_eq!(states.len(), 50);
    let down: Vec<_> = states.iter().filter(|(_, state)| *state != "running").collect();
    assert!(down.is_empty(), "left down: {down:?}");
    let failed: Vec<serde_json::Value> = project
        .scene
        .backups()
        .into_iter()
        .filter(|one| {
            one["status"] == "Failed" && !one["errorMessage"].to_string().contains("ancel")
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
