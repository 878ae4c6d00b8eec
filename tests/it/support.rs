//! A scene for the tests of the real program: a temporary directory with a live tree, a store,
//! documents, a catalog and a socket of its own; and ways to judge the outcome that use none of
//! Eider's code. May not call the library.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long a test waits for something that ought to come at once.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The program under test, under a name that a build at the same time does not take away.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        fs::create_dir_all(&place).unwrap();
        // What earlier runs of the tests have left goes with the next one.
        for left in fs::read_dir(&place).unwrap().flatten() {
            if !Path::new("/proc").join(left.file_name()).exists() {
                let _ = fs::remove_dir_all(left.path());
            }
        }
        let own = place.join(std::process::id().to_string());
        fs::create_dir_all(&own).unwrap();
        let program = own.join("eider");
        let built = env!("CARGO_BIN_EXE_eider");
        if !program.exists() && fs::hard_link(built, &program).is_err() {
            fs::copy(built, &program).unwrap();
        }
        program
    })
}

/// What a finished process has left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; nothing when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Asserts exit code 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
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
    /// An empty scene with the directories `live`, `store` and `specs`.
    pub fn new() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["live", "store", "specs"] {
            fs::create_dir(scene.path(name)).unwrap();
        }
        scene
    }

    /// A path in the scene.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// The directory that holds what is backed up: `live`.
    pub fn live(&self) -> PathBuf {
        self.path("live")
    }

    /// The directory of the store `main`.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The program with arguments, on this scene's catalog and socket.
    pub fn eider<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("EIDER_CATALOG", self.path("catalog/eider.duckdb"))
            .env("EIDER_SOCKET", self.path("eider.sock"))
            .env("NO_COLOR", "1")
            .env_remove("EIDER_FAILPOINT")
            .env_remove("EIDER_LISTEN")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Finished {
        self.eider(arguments).output().unwrap().into()
    }

    /// Runs the program, which is to die at a failpoint on the way.
    pub fn run_into<I: AsRef<OsStr>>(
        &self,
        point: &str,
        arguments: impl IntoIterator<Item = I>,
    ) -> Finished {
        self.eider(arguments).env("EIDER_FAILPOINT", point).output().unwrap().into()
    }

    /// Writes documents into the file `name` below the scene. `@` stands for the scene's path.
    pub fn document(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let place = self.directory.path().to_str().unwrap();
        fs::write(&path, text.replace('@', place)).unwrap();
        path
    }

    /// What the hooks of [`HOOKS`] have written so far.
    pub fn hook_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("hooks.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The rows of a query on the catalog.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Vec<Value> {
        let answer = self.run(["db", "query", "--json", sql]).succeeded();
        let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
        answer["items"].as_array().unwrap().clone()
    }

    /// Names of the files in the store `main`, sorted.
    pub fn stored(&self) -> Vec<String> {
        names(&self.store())
    }

    /// Starts the daemon on the scene's `specs` and waits until it is ready.
    pub fn daemon(&self) -> Daemon {
        // The port is free until the daemon takes it, as far as one can know.
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.1:{port}");
        let specs = self.path("specs");
        let log = fs::File::create(self.path(&format!("daemon-{port}.log"))).unwrap();
        let child = self
            .eider(["daemon", "--listen", &listen, "--specs"])
            .arg(specs)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, port, log: self.path(&format!("daemon-{port}.log")) };
        daemon.wait_until("ready", || daemon.get("/readyz").is_some_and(|(code, _)| code == 200));
        daemon
    }
}

/// Hooks for a document that write `before` and `after` into the scene's log.
pub const HOOKS: &str = r#"
    before: [{exec: {command: [sh, -c, "echo before >> @/hooks.log"]}}]
    after: [{exec: {command: [sh, -c, "echo after >> @/hooks.log"]}}]"#;

/// A running daemon; killed when it goes out of scope.
pub struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Status code and body of a page of the daemon, if it answers.
    pub fn get(&self, page: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// Waits until something holds; fails the test with the daemon's log when it never does.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl FnMut() -> bool) {
        assert!(
            wait(holds),
            "waited in vain until {what}:\n{}",
            fs::read_to_string(&self.log).unwrap_or_default()
        );
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Finished {
        let status = self.child.wait().unwrap();
        Finished {
            code: status.code(),
            signal: status.signal(),
            stdout: String::new(),
            stderr: fs::read_to_string(&self.log).unwrap_or_default(),
        }
    }

    /// Stops it as a service manager does.
    pub fn stop(self) -> Finished {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that the test has started.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until something holds, and says whether it came to hold.
pub fn wait(mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Sorted names of what is in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Fills a directory with a small tree of every kind of entry that an archive has to bring back.
/// What `flavour` says is in the contents, so that trees can be told apart.
pub fn grow(root: &Path, flavour: &str) {
    fs::create_dir_all(root.join("conf/keys")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::write(root.join(format!("only-{flavour}")), flavour).unwrap();
    fs::write(root.join("conf/service.toml"), format!("flavour = '{flavour}'\n")).unwrap();
    fs::write(root.join("conf/keys/key"), format!("secret of {flavour}")).unwrap();
    for number in 0..8 {
        let text = format!("{flavour} {number} ").repeat(500 * number);
        fs::write(root.join(format!("file-{number}")), text).unwrap();
    }
    fs::write(root.join("umläut und leer"), flavour).unwrap();
    fs::hard_link(root.join("file-1"), root.join("linked")).unwrap();
    symlink("file-2", root.join("pointer")).unwrap();
    symlink("/nowhere/at/all", root.join("conf/dangling")).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("conf/keys/key", 0o600);
    mode("conf/keys", 0o700);
    mode("file-3", 0o755);
}

/// Every entry of a tree with type, mode, owner, size, time, and content or target: equal for equal
/// trees. Made with the standard library and SHA-256 alone.
pub fn fingerprint(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    note(root, root, &mut found);
    found
}

fn note(root: &Path, path: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let kind = metadata.file_type();
    let said = if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        format!("link to {}", String::from_utf8_lossy(target.as_os_str().as_bytes()))
    } else if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_file() {
        let content = Sha256::digest(fs::read(path).unwrap());
        format!("file of {} bytes {content:x?} with {} names", metadata.len(), metadata.nlink())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        "other".to_owned()
    };
    let relative = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    let (mode, seconds, nanos) = (metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
    let (user, group) = (metadata.uid(), metadata.gid());
    found.insert(relative, format!("{said}, mode {mode:o}, {user}:{group}, {seconds}.{nanos:09}"));
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            note(root, &entry.unwrap().path(), found);
        }
    }
}

/// What rsync would change to make the second tree like the first; empty for equal trees.
pub fn rsync_differences(from: &Path, to: &Path) -> String {
    let mut from = from.as_os_str().to_owned();
    from.push("/");
    let output = Command::new("rsync")
        .args(["-aHAXn", "--checksum", "--delete", "--itemize-changes"])
        .arg(from)
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether GNU tar can list an archive.
pub fn tar_accepts(archive: &Path) -> bool {
    let output = Command::new("tar").arg("tf").arg(archive).output().unwrap();
    output.status.success()
}

/// SHA-256 of a file, in hex, by another program.
pub fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}
