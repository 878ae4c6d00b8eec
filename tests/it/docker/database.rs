//! A real database under write load: every backup restores to one that starts and holds every row that
//! was committed before the backup began.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::engine::{Project, docker};
use crate::scene::{shell, wait_longer};

const IMAGE: &str = "eider-test/postgres:1";

/// Starts PostgreSQL on `/data/pg`, made if it is not there. As its first process, so that it is the one
/// that is asked to stop, by its own signal for an orderly end.
const SERVER: &str = "chown 70:70 /data; mkdir -p /run/postgresql; chown 70:70 /run/postgresql
test -e /data/pg/PG_VERSION || su postgres -c 'initdb -D /data/pg -A trust -U postgres -N >/dev/null'
exec su postgres -c 'exec postgres -D /data/pg -c listen_addresses= -c unix_socket_directories=/run/postgresql'";

/// An image with the PostgreSQL of this machine's packages and a shell; none, loudly, without them.
#[allow(clippy::print_stderr)] // How a skip is seen.
fn image(project: &Project) -> bool {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else {
        eprintln!("SKIPPED a real database: PostgreSQL's packages are not installed");
        return false;
    };
    let version = versions.flatten().map(|entry| entry.file_name()).max().unwrap();
    let version = version.to_str().unwrap();
    let place = project.scene.path("postgres");
    std::fs::create_dir(&place).unwrap();
    let script = format!(
        "bin=/usr/lib/postgresql/{version}/bin; lib=/usr/lib/postgresql/{version}/lib
        mkdir -p .$bin .$lib usr/share/postgresql bin etc tmp run; chmod 1777 tmp
        cp -a $bin/. .$bin/; cp -a $lib/*.so .$lib/
        cp -a /usr/share/postgresql/{version} usr/share/postgresql/
        mkdir -p usr/share; cp -aL /usr/share/zoneinfo usr/share/ 2>/dev/null || true
        for file in $bin/postgres $bin/initdb $bin/psql $bin/pg_dump $bin/pg_ctl $lib/*.so; do
            ldd $file 2>/dev/null | sed -nE 's/^[[:space:]]*(.* => )?(\\/[^ ]+) \\(0x.*$/\\2/p'
        done | sort -u | while read library; do mkdir -p .${{library%/*}}; cp -L $library .$library; done
        cp $(command -v busybox) bin/busybox
        for applet in sh su mkdir chown test cat sleep rm ls; do ln -s busybox bin/$applet; done
        printf '%s\\n' 'root:x:0:0:root:/:/bin/sh' 'postgres:x:70:70::/data:/bin/sh' > etc/passwd
        printf '%s\\n' 'root:x:0:' 'postgres:x:70:' > etc/group
        tar -c . | docker import --change \"ENV PATH=$bin:/bin\" - {IMAGE} >/dev/null"
    );
    shell(&place, &script);
    true
}

fn serve(project: &Project, service: &str, volume: &str) {
    let full = project.of(service);
    let labels = [
        format!("com.docker.compose.project={}", project.name),
        format!("com.docker.compose.service={service}"),
    ];
    let mount = format!("{volume}:/data");
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
        &mount,
        "--stop-signal",
        "INT",
        "--stop-timeout",
        "30",
        "--init",
        IMAGE,
        "/bin/sh",
        "-c",
        SERVER,
    ]);
    wait_longer("the database answers", Duration::from_mins(1), &mut || {
        query(project, service, "SELECT 1").is_some()
    });
}

/// The answer of the database, if it gives one.
fn query(project: &Project, service: &str, sql: &str) -> Option<String> {
    let full = project.of(service);
    let psql = ["psql", "-h", "/run/postgresql", "-U", "postgres", "-tAc", sql];
    let output = Command::new("docker").args(["exec", &full]).args(psql).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Backs the database up while rows are written into it, and returns the last row that was known to be
/// committed before each backup began.
fn under_load(project: &Project, names: &[&str], more: &str) -> Vec<u64> {
    let (committed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // Ten rows a transaction, numbered without gaps.
                let sql = "INSERT INTO rows SELECT (SELECT coalesce(max(id), 0) FROM rows) + n, \
                           repeat('x', 200) FROM generate_series(1, 10) n; SELECT max(id) FROM rows";
                if let Some(answer) = query(project, "db", sql)
                    && let Some(last) = answer.lines().last().and_then(|line| line.parse().ok())
                {
                    committed.store(last, Ordering::SeqCst);
                }
            }
        });
        // Also when something below fails: the writer would be waited for in vain.
        let _end = End(&stop);
        let mut known = Vec::new();
        for name in names {
            let before = committed.load(Ordering::SeqCst);
            wait_longer("rows are written", Duration::from_mins(1), &mut || {
                committed.load(Ordering::SeqCst) > before + 50
            });
            known.push(committed.load(Ordering::SeqCst));
            project.back_up(name, more).ok();
        }
        known
    })
}

/// Says that it is over when it is dropped.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn stage() -> Option<Project> {
    let project = Project::new()?;
    if !image(&project) {
        return None;
    }
    let data = project.volume("data");
    serve(&project, "db", &data);
    query(&project, "db", "CREATE TABLE rows (id bigint PRIMARY KEY, text text)").unwrap();
    Some(project)
}

/// Puts a backup into a new volume; its name.
fn restored(project: &Project, name: &str) -> String {
    let volume = project.of(&format!("copy-{name}"));
    let spec = format!(
        "{{from: {{backupRef: {{name: {name}}}}}, target: {{docker: {{volumes: [{volume}]}}}}}}"
    );
    project.scene.restore(&format!("restore-{name}"), &spec).ok();
    volume
}

fn has_every_row(project: &Project, service: &str, last: u64) {
    let sql = format!("SELECT count(*) FROM rows WHERE id <= {last}");
    assert_eq!(query(project, service, &sql).unwrap(), last.to_string(), "{service}");
    let whole = query(project, service, "SELECT count(*) = max(id) FROM rows").unwrap();
    assert_eq!(whole, "t", "{service}: a transaction was torn");
}

#[test]
fn every_backup_in_stop_mode_holds_every_committed_row() {
    let Some(project) = stage() else { return };
    let names = ["one", "two", "three"];
    let known = under_load(&project, &names, "consistency: {timeout: 2m}");
    assert_eq!(project.states()["db"], "running");
    for (name, last) in names.into_iter().zip(known) {
        let volume = restored(&project, name);
        let service = format!("copy-{name}");
        serve(&project, &service, &volume);
        has_every_row(&project, &service, last);
        // An orderly end leaves nothing to recover.
        let log = Command::new("docker").args(["logs", &project.of(&service)]).output().unwrap();
        let log = String::from_utf8_lossy(&log.stderr).into_owned();
        assert!(!log.contains("not properly shut down"), "{name}: {log}");
    }
}

#[test]
fn a_live_backup_with_a_dump_holds_every_committed_row() {
    let Some(project) = stage() else { return };
    let more = "consistency: {mode: Live}
exclude: [\"pg/\"]
hooks:
  before: [{exec: {container: db, command: [sh, -c, \"pg_dump -h /run/postgresql -U postgres -f /data/dump.sql\"]}}]
  after: [{exec: {container: db, command: [rm, -f, /data/dump.sql]}}]";
    let known = under_load(&project, &["live"], more);
    let volume = restored(&project, "live");
    serve(&project, "copy", &volume);
    let full = project.of("copy");
    let load = ["psql", "-h", "/run/postgresql", "-U", "postgres", "-qf", "/data/dump.sql"];
    let output = Command::new("docker").args(["exec", &full]).args(load).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    has_every_row(&project, "copy", known[0]);
    assert!(!project.at("data").join("dump.sql").exists());
}
