//! An engine of the test's own, beside the one that others use: it may be ended and started again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::engine::IMAGE;
use crate::scene::{tool, wait_longer};

/// A Docker Engine on a socket and in directories of its own, without a bridge.
pub struct SecondEngine {
    place: tempfile::TempDir,
    daemon: Child,
    more: Vec<String>,
}

impl SecondEngine {
    /// Starts one with the tests' image; none, loudly, where this user may not.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same, with further arguments.
    #[allow(clippy::print_stderr)] // How a skip is seen.
    pub fn start_with(more: &[&str]) -> Option<Self> {
        let installed = Command::new("dockerd").arg("--version").output().is_ok();
        if !installed || tool("id", &["-u"]).trim() != "0" {
            eprintln!("SKIPPED an engine of the test's own: it needs root and dockerd");
            return None;
        }
        // Sockets have short paths.
        let place = tempfile::Builder::new().prefix("ed").tempdir_in("/tmp").unwrap();
        let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
        let daemon = launch(&place, &more);
        let engine = Self { place, daemon, more };
        engine.await_answer();
        let socket = engine.address();
        let load = format!("docker save {IMAGE} | docker --host {socket} load");
        tool("sh", &["-c", &load]);
        Some(engine)
    }

    /// As `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.place.path().join("s").display())
    }

    /// A command in the network of the engine, whose only address is 127.0.0.1.
    pub fn beside(&self, program: &std::path::Path) -> Command {
        let network = format!("--net=/proc/{}/ns/net", self.daemon.id());
        tool("nsenter", &[&network, "busybox", "ip", "link", "set", "lo", "up"]);
        let mut command = Command::new("nsenter");
        command.arg(network).arg(program);
        command
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        tool("docker", &[&["--host", &self.address()], arguments].concat())
    }

    /// Where the engine keeps a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]).trim().into()
    }

    pub fn state(&self, name: &str) -> String {
        let state = self.docker(&["inspect", "--format", "{{.State.Status}}", name]);
        state.trim().to_owned()
    }

    /// Ends the engine, with everything that runs on it, and starts it again after a while.
    pub fn restart(&mut self, pause: Duration) {
        self.end();
        std::thread::sleep(pause);
        self.daemon = launch(&self.place, &self.more);
        self.await_answer();
    }

    fn await_answer(&self) {
        wait_longer("the second engine answers", Duration::from_mins(1), &mut || {
            let version = ["--host", &self.address(), "version"];
            Command::new("docker").args(version).output().is_ok_and(|out| out.status.success())
        });
    }

    fn end(&mut self) {
        // It ends its own containerd with it.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        let host = ["--host", &self.address()];
        let listed = Command::new("docker").args(host).args(["ps", "--all", "--quiet"]).output();
        let listed = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        for id in listed.unwrap_or_default().split_whitespace() {
            let _ = Command::new("docker").args(host).args(["rm", "--force", id]).output();
        }
        self.end();
        let _ = Command::new("sh")
            .args(["-c", "grep -o \" $0/[^ ]*\" /proc/mounts | xargs -r umount -l"])
            .arg(self.place.path())
            .status();
    }
}

fn launch(place: &tempfile::TempDir, more: &[String]) -> Child {
    let at = |name: &str| place.path().join(name).display().to_string();
    let log = std::fs::File::options().create(true).append(true).open(at("log")).unwrap();
    // In a network of its own: an engine without a bridge takes `docker0` away when it starts, and that
    // of the engine beside it is what every container of the machine hangs on.
    let mut command = Command::new("unshare");
    command
        .args(["--net", "dockerd"])
        .args(["--host", &format!("unix://{}", at("s"))])
        .args(["--data-root", &at("d"), "--exec-root", &at("e"), "--pidfile", &at("p")])
        .args(["--bridge", "none", "--iptables=false", "--ip-forward=false"])
        .args(more);
    // Some virtual machines forbid what the plain one asks for.
    let lenient = "/usr/local/bin/runc-oom-safe";
    if std::path::Path::new(lenient).exists() {
        command.args(["--add-runtime", &format!("lenient={lenient}")]);
        command.args(["--default-runtime", "lenient"]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
