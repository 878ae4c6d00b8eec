//! Redis under write load: every backup restores to one that starts and holds everything that was written
//! before the backup began.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::database::End;
use super::engine::{Project, docker};
use crate::scene::{shell, wait_longer};

const IMAGE: &str = "eider-test/redis:1";

/// With a log of every write, as for data that is not only a cache.
const SERVER: &str = "exec redis-server --dir /data --appendonly yes --save '' --unixsocket \
                      /tmp/redis.sock --port 0 --daemonize no";

/// Ten more rows with the numbers that follow, at once; the last number.
const WRITE: &str = "local last; for i = 1, 10 do last = redis.call('INCR', 'last'); \
                     redis.call('RPUSH', 'rows', last .. string.rep('x', 200)) end; return last";

/// An image with the Redis of this machine's packages; none, loudly, without them.
#[allow(clippy::print_stderr)] // How a skip is seen.
fn image(project: &Project) -> bool {
    if Command::new("redis-server").arg("--version").output().is_err() {
        eprintln!("SKIPPED Redis under load: its packages are not installed");
        return false;
    }
    let place = project.scene.path("redis");
    std::fs::create_dir(&place).unwrap();
    let script = format!(
        "mkdir -p bin tmp data; chmod 1777 tmp
        for name in redis-server redis-cli; do cp -L $(command -v $name) bin/$name; done
        for file in bin/*; do
            ldd $file 2>/dev/null | sed -nE 's/^[[:space:]]*(.* => )?(\\/[^ ]+) \\(0x.*$/\\2/p'
        done | sort -u | while read library; do mkdir -p .${{library%/*}}; cp -L $library .$library; done
        cp $(command -v busybox) bin/busybox
        for applet in sh rm; do ln -s busybox bin/$applet; done
        tar -c . | docker import --change \"ENV PATH=/bin\" - {IMAGE} >/dev/null"
    );
    shell(&place, &script);
    true
}

fn serve(project: &Project, service: &str, volume: &str, server: &str) {
    let full = project.of(service);
    let labels = [
        format!("com.docker.compose.project={}", project.name),
        format!("com.docker.compose.service={service}"),
    ];
    let mount = format!("{volume}:/data");
    let begin = ["run", "-d", "--network", "none", "--name", &full, "--stop-timeout", "30"];
    let labels = ["--label", &labels[0], "--label", &labels[1]];
    let end = ["-v", &mount, IMAGE, "/bin/sh", "-c", server];
    docker(&[&begin[..], &labels, &end].concat());
    wait_longer("Redis answers", Duration::from_mins(1), &mut || {
        ask(project, service, &["PING"]).as_deref() == Some("PONG")
    });
}

/// The answer, if there is one.
fn ask(project: &Project, service: &str, command: &[&str]) -> Option<String> {
    let full = project.of(service);
    let client = ["exec", &full, "redis-cli", "-s", "/tmp/redis.sock", "--raw"];
    let output = Command::new("docker").args(client).args(command).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Backs Redis up while it is written to; the last row that was answered for before each backup began.
fn under_load(project: &Project, names: &[&str], more: &str) -> Vec<u64> {
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let answer = ask(project, "cache", &["EVAL", WRITE, "0"]);
                if let Some(last) = answer.and_then(|answer| answer.parse().ok()) {
                    written.store(last, Ordering::SeqCst);
                }
            }
        });
        let _end = End(&stop);
        let mut known = Vec::new();
        for name in names {
            let before = written.load(Ordering::SeqCst);
            wait_longer("rows are written", Duration::from_mins(1), &mut || {
                written.load(Ordering::SeqCst) > before + 50
            });
            known.push(written.load(Ordering::SeqCst));
            project.back_up(name, more).ok();
        }
        known
    })
}

fn stage() -> Option<Project> {
    let project = Project::new()?;
    if !image(&project) {
        return None;
    }
    let data = project.volume("data");
    serve(&project, "cache", &data, SERVER);
    Some(project)
}

/// A Redis on a new volume with a backup's data holds every row up to this one, whole and in order.
fn holds_every_row(project: &Project, name: &str, server: &str, last: u64) {
    let volume = project.of(&format!("copy-{name}"));
    let spec = format!(
        "{{from: {{backupRef: {{name: {name}}}}}, target: {{docker: {{volumes: [{volume}]}}}}}}"
    );
    project.scene.restore(&format!("restore-{name}"), &spec).ok();
    let service = format!("copy-{name}");
    serve(project, &service, &volume, server);
    let rows = ask(project, &service, &["LRANGE", "rows", "0", "-1"]).unwrap();
    let numbers: Vec<u64> =
        rows.lines().map(|row| row.trim_end_matches('x').parse().unwrap()).collect();
    assert!(numbers.len() as u64 >= last, "{name}: {} of {last} rows", numbers.len());
    let in_order = numbers.iter().zip(1..).all(|(found, expected)| *found == expected);
    assert!(in_order && numbers.len().is_multiple_of(10), "{name}: a write is missing or torn");
}

#[test]
fn every_backup_of_redis_in_stop_mode_holds_every_write() {
    let Some(project) = stage() else { return };
    let names = ["one", "two", "three"];
    let known = under_load(&project, &names, "consistency: {timeout: 1m}");
    assert_eq!(project.states()["cache"], "running");
    for (name, last) in names.into_iter().zip(known) {
        holds_every_row(&project, name, SERVER, last);
    }
}

/// The log of writes is left out: what is restored is the snapshot that the hook has made.
#[test]
fn a_live_backup_of_redis_with_a_snapshot_holds_every_write() {
    let Some(project) = stage() else { return };
    let more = "consistency: {mode: Live}
exclude: [\"appendonlydir/\"]
hooks:
  before: [{exec: {container: cache, command: [redis-cli, -s, /tmp/redis.sock, -e, SAVE]}}]
  after: [{exec: {container: cache, command: [rm, -f, /data/dump.rdb]}}]";
    let known = under_load(&project, &["live"], more);
    let archive = project.scene.archive("live");
    let listed = crate::scene::tool("tar", &["tzf", archive.to_str().unwrap()]);
    assert!(listed.contains("/dump.rdb") && !listed.contains("/appendonlydir/"), "{listed}");
    assert!(!project.at("data").join("dump.rdb").exists());
    // Redis reads a snapshot only if it is not told to look for a log.
    let server = SERVER.replace("--appendonly yes", "--appendonly no");
    holds_every_row(&project, "live", &server, known[0]);
}
