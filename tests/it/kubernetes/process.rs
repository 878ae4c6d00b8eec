//! The real operator as a process of this host, against the cluster or a proxy before it. Can be
//! killed, stopped and started again on the same catalog, and is never left behind. May not call the
//! library.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster::Cluster;
use super::proxy::Fault;
use crate::support::{Finished, program, signal, wait};

/// How to start the operator. Every start is with the same catalog and the same lease; a second
/// replica is a second one of these with the first one's [`lease`](Self::lease).
pub struct Operator {
    program: PathBuf,
    directory: TempDir,
    kubeconfig: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    lease: String,
    listens: bool,
    running: KillSwitch,
    starts: Cell<usize>,
}

impl Operator {
    /// The operator of one namespace, with a catalog of its own, a lease of its own and the image of
    /// the program under test for its movers.
    pub fn new(cluster: &Cluster, namespace: &str) -> Self {
        let arguments = ["operator", "--namespace", namespace, "--mover-image", &cluster.image()]
            .map(OsString::from)
            .to_vec();
        let lease = format!("eider-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        Self {
            program: program().to_owned(),
            directory: tempfile::tempdir().unwrap(),
            kubeconfig: cluster.kubeconfig().to_owned(),
            arguments,
            environment: [
                // Its own in every start, as that of a pod of a StatefulSet: no lease has to run out.
                ("POD_NAME", lease.as_str()),
                // A process that loses its lease ends, and here is no kubelet to start it again: beside other
                // tests a server may take longer to answer than a lease holds by default.
                ("EIDER_LEASE_DURATION", "1m"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            lease,
            listens: false,
            running: KillSwitch::default(),
            starts: Cell::new(0),
        }
    }

    /// Starts another program in its place: a script, for testing this file.
    pub(super) fn program(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.program);
        self
    }

    /// Leads it to another server: a proxy's.
    pub fn kubeconfig(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.kubeconfig);
        self
    }

    /// Contends for this lease.
    pub fn lease(mut self, name: &str) -> Self {
        name.clone_into(&mut self.lease);
        self
    }

    /// The lease that it contends for.
    pub fn lease_name(&self) -> &str {
        &self.lease
    }

    /// Serves `/metrics` and `/readyz` on a free port: [`OperatorProcess::get`].
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }

    /// More arguments, from the next start on.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// A variable for every start.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The directory of its catalog and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Takes its catalog away, while no process of it runs: the next one begins with an empty one.
    pub fn empty_catalog(&self) {
        fs::remove_dir_all(self.directory.path().join("catalog")).unwrap();
    }

    /// Kills whichever process of this operator runs when it is pressed; can be had, for a proxy,
    /// before the first is started.
    pub fn kill_switch(&self) -> KillSwitch {
        self.running.clone()
    }

    /// Starts a process.
    pub fn start(&self) -> OperatorProcess {
        self.start_with(&[])
    }

    /// Starts a process that is to die at a failpoint.
    pub fn start_into(&self, failpoint: &str) -> OperatorProcess {
        self.start_with(&[("EIDER_FAILPOINT", failpoint)])
    }

    fn start_with(&self, environment: &[(&str, &str)]) -> OperatorProcess {
        let start = self.starts.get();
        self.starts.set(start + 1);
        let log = self.directory.path().join(format!("operator-{start}.log"));
        // The port is free until the process takes it, as far as one can know.
        let port = self.listens.then(|| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
        });
        let listen = port.map_or_else(|| "off".to_owned(), |port| format!("127.0.0.1:{port}"));
        let output = File::create(&log).unwrap();
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--listen", &listen, "--lease-name", &self.lease])
            .env_remove("EIDER_FAILPOINT")
            .env_remove("EIDER_LISTEN")
            .env_remove("RUST_LOG")
            .env("KUBECONFIG", &self.kubeconfig)
            .env("EIDER_CATALOG", self.directory.path().join("catalog/eider.duckdb"))
            .env("EIDER_SOCKET", self.directory.path().join("eider.sock"))
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        *self.running.0.lock().unwrap() = Some(child.id());
        OperatorProcess { child, running: self.running.clone(), log, port, ended: false }
    }
}

/// Kills the running process of an [`Operator`] by SIGKILL.
#[derive(Clone, Default)]
pub struct KillSwitch(Arc<Mutex<Option<u32>>>);

impl KillSwitch {
    /// The fault that the operator is killed when its k-th write has reached the server, before the
    /// answer has reached the operator.
    pub fn at_write(&self, number: usize) -> Fault {
        let switch = self.clone();
        Fault::KillAt(number, Arc::new(move || switch.press()))
    }

    /// Kills it, if one runs, and waits until it does nothing any more.
    pub fn press(&self) {
        // Held over the kill: nobody collects the process meanwhile, so its number is still its own.
        let running = self.0.lock().unwrap();
        let Some(id) = *running else { return };
        let _ = Command::new("kill").args(["-s", "KILL", &id.to_string()]).status();
        assert!(wait(|| is_dead(id)), "process {id} outlives SIGKILL");
    }
}

/// Whether a process has ended, collected or not.
fn is_dead(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_none_or(|state| state.trim().starts_with(['Z', 'X']))
}

/// A running operator; killed when it goes out of scope, and its log printed if the test fails.
pub struct OperatorProcess {
    child: Child,
    running: KillSwitch,
    log: PathBuf,
    port: Option<u16>,
    ended: bool,
}

impl OperatorProcess {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Status code and body of a page, if it listens and answers.
    pub fn get(&self, page: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let mut answer = agent.get(format!("http://127.0.0.1:{}{page}", self.port?)).call().ok()?;
        let body = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), body))
    }

    /// Kills it by SIGKILL and waits until it is gone.
    pub fn kill(mut self) -> Finished {
        let _ = self.child.kill();
        self.finish(Duration::from_mins(1))
    }

    /// Stops it as a kubelet does, and waits until it is gone.
    pub fn stop(mut self) -> Finished {
        signal(&self.child, "TERM");
        self.finish(Duration::from_mins(1))
    }

    /// Waits until it ends by itself, or by a failpoint.
    #[track_caller]
    pub fn wait_exit(mut self, timeout: Duration) -> Finished {
        self.finish(timeout)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.collect().is_none()
    }

    #[track_caller]
    fn finish(&mut self, timeout: Duration) -> Finished {
        let begin = Instant::now();
        loop {
            if let Some(finished) = self.collect() {
                return finished;
            }
            assert!(begin.elapsed() < timeout, "the operator did not end in {timeout:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn collect(&mut self) -> Option<Finished> {
        use std::os::unix::process::ExitStatusExt;
        let mut running = self.running.0.lock().unwrap();
        let status = self.child.try_wait().unwrap()?;
        if *running == Some(self.child.id()) {
            *running = None;
        }
        self.ended = true;
        drop(running);
        Some(Finished {
            code: status.code(),
            signal: status.signal(),
            stdout: String::new(),
            stderr: self.log(),
        })
    }
}

impl Drop for OperatorProcess {
    #[allow(clippy::print_stderr)] // Beside the panic's own message.
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
            // A poisoned lock is another panic's affair.
            if let Ok(mut running) = self.running.0.lock()
                && *running == Some(self.child.id())
            {
                *running = None;
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let left_out = lines.len().saturating_sub(300);
            eprintln!("--- {} ({left_out} lines left out)", self.log.display());
            eprintln!("{}", lines[left_out..].join("\n"));
        }
    }
}
