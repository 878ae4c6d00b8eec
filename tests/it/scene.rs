//! What the tests of hosts, damage, command line, daemon and scale stand on: a temporary place with a
//! store, a live tree and a catalog of its own, and the real program. May not call the library.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The command ended with this code, and never by a panic.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let Self { code, stdout, stderr } = &self;
        assert_eq!(*code, expected, "\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Standard error holds this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no `{text}` in\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The items of a list in JSON.
    #[track_caller]
    pub fn items(&self) -> Vec<Value> {
        self.json()["items"].as_array().unwrap().clone()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A place of its own for one test.
pub struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    /// A place with the empty directories `live` and `store`.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("live")).unwrap();
        std::fs::create_dir(directory.path().join("store")).unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file below the place, with the directories it needs.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program with this place's catalog and socket; not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(crate::support::program());
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("EIDER_CATALOG", self.path("catalog/eider.duckdb"))
            .env("EIDER_SOCKET", self.path("eider.sock"))
            .env("TZ", "UTC")
            .env_remove("EIDER_LISTEN")
            .env_remove("COLUMNS")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Applies documents; `@` stands for the place's path.
    pub fn apply(&self, documents: &str) -> Ended {
        self.write("documents.yaml", self.fill(documents));
        self.run(&["run", "-f", "documents.yaml"])
    }

    /// Replaces `@` by the place's path.
    pub fn fill(&self, text: &str) -> String {
        text.replace('@', self.directory.path().to_str().unwrap())
    }

    /// Applies the store `main` and one Backup of `paths` with further lines of its spec.
    pub fn backup(&self, name: &str, paths: &str, more: &str) -> Ended {
        self.apply(&format!("{STORE}---\n{}", backup(name, paths, more)))
    }

    /// Applies one Restore with this spec, given in flow style.
    pub fn restore(&self, name: &str, spec: &str) -> Ended {
        self.apply(&format!("{}metadata: {{name: {name}}}\nspec: {spec}\n", head("Restore")))
    }

    /// The records of backups, newest first.
    pub fn backups(&self) -> Vec<Value> {
        self.run(&["backup", "list", "-o", "json"]).ok().items()
    }

    /// The record of one Backup.
    pub fn record(&self, name: &str) -> Value {
        self.backups().into_iter().find(|record| record["object"] == name).unwrap()
    }

    /// The archive of one Backup.
    pub fn archive(&self, name: &str) -> PathBuf {
        PathBuf::from(self.record(name)["backupPath"].as_str().unwrap())
    }

    /// Names in the store, sorted.
    pub fn stored(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// The store `main`.
pub const STORE: &str = "apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {name: main}
spec: {local: {path: @/store}}
";

/// The first two lines of a document.
pub fn head(kind: &str) -> String {
    format!("apiVersion: eider.dev/v1alpha1\nkind: {kind}\n")
}

/// A Backup into the store `main`; `more` are further lines of its spec without indentation.
pub fn backup(name: &str, paths: &str, more: &str) -> String {
    let more = more.lines().fold(String::new(), |text, line| text + "  " + line + "\n");
    format!(
        "{}metadata: {{name: {name}}}\nspec:\n  target: {{host: {{paths: [{paths}]}}}}\n  \
         storeRef: {{name: main}}\n{more}",
        head("Backup")
    )
}

/// Runs a foreign tool that has to succeed; gives its standard output.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A shell command that has to succeed, in a directory.
#[track_caller]
pub fn shell(directory: &Path, script: &str) -> String {
    let output =
        Command::new("bash").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// rsync sees no difference between two trees: contents, types, modes, owners, times, links, ACLs
/// and extended attributes.
#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    let slash = |path: &Path| format!("{}/", path.display());
    let seen = tool(
        "rsync",
        &["-aHAXSni", "--checksum", "--delete", "--specials", &slash(one), &slash(other)],
    );
    assert!(seen.is_empty(), "{} and {} differ:\n{seen}", one.display(), other.display());
}

/// A process that is ended with the test.
pub struct Daemon {
    pub child: Child,
    port: u16,
}

impl Daemon {
    /// Starts the daemon on a directory of documents and waits until it is ready.
    pub fn start(scene: &Scene, specs: &str) -> Self {
        Self::start_with(scene, specs, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_with(scene: &Scene, specs: &str, environment: &[(&str, &str)]) -> Self {
        Self::launch(scene, specs, &[], environment)
    }

    /// The same with these further arguments.
    pub fn start_as(scene: &Scene, specs: &str, arguments: &[&str]) -> Self {
        Self::launch(scene, specs, arguments, &[])
    }

    fn launch(
        scene: &Scene,
        specs: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let log = std::fs::File::create(scene.path("daemon.log")).unwrap();
        let child = scene
            .command(&["daemon", "--specs", specs, "--listen", &format!("127.0.0.1:{port}")])
            .args(arguments)
            .envs(environment.iter().copied())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, port };
        wait_until("the daemon is ready", || {
            daemon.get("/readyz").is_some_and(|(code, _)| code == 200)
        });
        daemon
    }

    /// Status code and body of an address; nothing while nobody listens.
    pub fn get(&self, address: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// Asks it to stop, and waits; its exit code.
    pub fn stop(mut self) -> Option<i32> {
        tool("kill", &["-TERM", &self.child.id().to_string()]);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits, for at most half a minute, until something holds.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_longer(what, Duration::from_secs(30), &mut holds);
}

/// Waits until something holds, for at most this long.
#[track_caller]
pub fn wait_longer(what: &str, patience: Duration, holds: &mut dyn FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < patience, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether this user may mount; says so when not, so that a skipped test is seen.
pub fn may_mount(test: &str) -> bool {
    let root = tool("id", &["-u"]).trim() == "0";
    let may = root
        && Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|status| status.success());
    if !may {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("SKIPPED {test}: it has to mount a tmpfs, which needs root");
        }
    }
    may
}

/// A small file system of its own, gone with the test.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        tool("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", path.to_str().unwrap()]);
        Self::mounted(path)
    }

    /// One that somebody else has mounted there.
    pub fn mounted(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
