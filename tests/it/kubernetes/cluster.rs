//! How tests reach a cluster: the one that `KUBECONFIG` names (one file), else the one that the script
//! `shared/k8s/cluster` beside the repository starts, else none. What tests share (the cluster, the
//! image, the CRDs) is made under a file lock, for every test is a process of its own.
//!
//! Judges by `kubectl` alone. May not call the library.

use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::reader::Reader;
use crate::support::{program, sha256sum};

/// How long a test waits for what a cluster ought to do at once: a two-core machine that runs the
/// cluster and the tests takes its time.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// A cluster that answers.
#[derive(Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// The last commands and what they said: the state to print when a test waits in vain.
    last: Arc<Mutex<Option<String>>>,
    image: Arc<OnceLock<String>>,
    reader: Arc<OnceLock<Option<Reader>>>,
    busybox: String,
}

impl Cluster {
    /// The cluster, started if need be; none, loudly, if there is none to be had. Panics instead when
    /// `EIDER_REQUIRE` names `kubernetes`.
    #[allow(clippy::print_stderr)] // How a skip is seen.
    pub fn connect() -> Option<Self> {
        match Self::find() {
            Ok(cluster) => Some(cluster),
            Err(reason) => {
                let required = std::env::var("EIDER_REQUIRE").unwrap_or_default();
                assert!(
                    !required.split(',').any(|name| name.trim() == "kubernetes"),
                    "EIDER_REQUIRE names kubernetes, but there is no cluster: {reason}"
                );
                eprintln!("SKIPPED: no Kubernetes cluster: {reason}");
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        let kubeconfig = match std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            Some(path) => path.into(),
            None => start(&script().ok_or("KUBECONFIG is not set")?)?,
        };
        let busybox = std::env::var("EIDER_TEST_BUSYBOX");
        let busybox = busybox.unwrap_or_else(|_| "eider-test/busybox:1".to_owned());
        let cluster = Self {
            kubeconfig,
            last: Arc::default(),
            image: Arc::default(),
            reader: Arc::default(),
            busybox,
        };
        cluster.try_kubectl(&["version", "--request-timeout=20s"])?;
        Ok(cluster)
    }

    /// The file that leads to the cluster, past any proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same cluster, reached with another kubeconfig.
    pub fn reached_by(&self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), reader: Arc::default(), ..self.clone() }
    }

    /// Standard output of a `kubectl` command that has to succeed.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Standard output of a `kubectl` command, or the command and all that it said.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl_reading(arguments, "")
    }

    /// The same with something on standard input, for `-f -`.
    pub fn kubectl_reading(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let command = format!("kubectl {}", arguments.join(" "));
        let mut child = Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command}: {error}"))?;
        // A command that fails early does not read it, and says why itself.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!(
            "{command}: {}\n--- stdout\n{stdout}\n--- stderr\n{}\n--- stdin\n{input}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        *self.last.lock().unwrap() = Some(said.clone());
        if output.status.success() { Ok(stdout) } else { Err(said) }
    }

    /// What `kubectl … -o json` answers.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        if let ["-n", namespace, "get", kind] = arguments
            && let Ok(Some(list)) = self.read(namespace, kind, None)
        {
            return list;
        }
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&arguments)).unwrap()
    }

    /// What the reader finds; an error if it cannot be asked, and `kubectl` has to be.
    fn read(
        &self,
        namespace: &str,
        kind: &str,
        name: Option<&str>,
    ) -> Result<Option<Value>, String> {
        let reader = self.reader.get_or_init(|| Reader::start(&self.kubeconfig));
        let reader = reader.as_ref().ok_or("there is no reader")?;
        let found = reader.read(namespace, kind, name)?;
        let said = found.as_ref().map_or_else(|| "none".to_owned(), |found| format!("{found:#}"));
        let asked = format!("{namespace}: {kind} {}", name.unwrap_or_default());
        *self.last.lock().unwrap() = Some(format!("{asked}: {said}"));
        Ok(found)
    }

    /// One object as JSON; nothing when it is not there.
    #[track_caller]
    pub fn object(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        if let Ok(found) = self.read(namespace, kind, Some(name)) {
            return found;
        }
        let text =
            self.kubectl(&["-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "json"]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    /// Applies documents, client-side: old servers refuse some by server-side apply.
    #[track_caller]
    pub fn apply(&self, namespace: &str, documents: &str) -> String {
        // An old server has no schema that a newer kubectl could validate by.
        let arguments = ["-n", namespace, "apply", "--validate=false", "-f", "-"];
        self.kubectl_reading(&arguments, documents).unwrap_or_else(|said| panic!("{said}"))
    }

    /// A new namespace that can run pods; deleted, without waiting for it, at the end of the test.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> Namespace {
        let name = format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        self.kubectl(&["create", "namespace", &name]);
        let namespace = Namespace { cluster: self.clone(), name };
        // Pods are refused before the controller has made it.
        self.wait("the service account of a new namespace", PATIENCE, || {
            self.object(&namespace, "serviceaccount", "default")
        });
        namespace
    }

    /// Asks until there is an answer. Panics after the timeout with what it waited for and the last
    /// thing that `kubectl` said.
    #[track_caller]
    pub fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut answer: impl FnMut() -> Option<T>,
    ) -> T {
        let begin = Instant::now();
        *self.last.lock().unwrap() = None;
        loop {
            if let Some(found) = answer() {
                return found;
            }
            if begin.elapsed() >= timeout {
                let last = self.last.lock().unwrap().clone();
                let last = last.unwrap_or_else(|| "nobody asked kubectl anything".to_owned());
                panic!("waited {timeout:?} in vain for {what}. The last state:\n{last}");
            }
            // Each look is a kubectl of its own: a busy machine would do nothing but ask.
            std::thread::sleep(Duration::from_millis(400));
        }
    }

    /// Installs the repository's CRDs, or brings them up to date, and waits until they are served.
    #[track_caller]
    pub fn install_crds(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path().to_str().unwrap().to_owned();
            // The kustomization beside them is none of the server's business.
            if path.contains("eider.dev_") {
                files.extend(["-f".to_owned(), path]);
            }
        }
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let with = |words: &[&'static str]| [words, &files[..]].concat();
        let _lock = lock();
        // Not `apply`: the CRDs with their rules are larger than its annotation may be.
        if let Err(said) = self.try_kubectl(&with(&["create", "--validate=false"])) {
            assert!(said.contains("AlreadyExists"), "{said}");
            self.kubectl(&with(&["replace", "--validate=false"]));
        }
        self.kubectl(&with(&["wait", "--for=condition=Established", "--timeout=60s"]));
    }

    /// Where the bytes of a claim are on this host, once it is bound. Only for a cluster that
    /// provisions host paths and whose node is this machine.
    #[track_caller]
    pub fn claim_path(&self, namespace: &str, claim: &str) -> PathBuf {
        let volume = self.wait(&format!("claim {claim} to be bound"), PATIENCE, || {
            let claim = self.object(namespace, "persistentvolumeclaim", claim)?;
            let bound = claim["status"]["phase"] == "Bound";
            bound.then(|| claim["spec"]["volumeName"].as_str().unwrap().to_owned())
        });
        let volume = self.json(&["get", "persistentvolume", &volume]);
        match volume["spec"]["hostPath"]["path"].as_str() {
            Some(path) => path.into(),
            None => panic!("the volume of claim {claim} is no host path: {}", volume["spec"]),
        }
    }

    /// An image of the program under test that the nodes can run, made at the first call. For
    /// clusters that do not share this machine's Docker, `EIDER_TEST_IMAGE` names one.
    #[track_caller]
    pub fn image(&self) -> String {
        if let Ok(image) = std::env::var("EIDER_TEST_IMAGE") {
            return image;
        }
        let make = || {
            let digest = &sha256sum(program())[..12];
            // The digest in its name: another build at the same time makes another image.
            let tag = format!("eider-test/eider:{digest}");
            let _lock = lock();
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image.sh");
            let output = Command::new(script).arg(&tag).arg(program()).output().unwrap();
            assert!(output.status.success(), "scripts/image.sh {tag}: {output:?}");
            // Images of builds of other days.
            let filters = ["label=dev.eider.image", "until=24h"];
            let _ = Command::new("docker")
                .args(["image", "prune", "--all", "--force"])
                .args(filters.map(|filter| format!("--filter={filter}")))
                .output();
            tag
        };
        self.image.get_or_init(make).clone()
    }

    /// An image with a shell and the usual tools, to be used with `imagePullPolicy: IfNotPresent`.
    /// `EIDER_TEST_BUSYBOX` names another.
    pub fn busybox(&self) -> &str {
        &self.busybox
    }
}

/// A namespace of one test.
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Deref for Namespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let cluster = &self.cluster;
        let _ = cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        // Nobody is left who would take an operator's finalizers off, and the namespace would stay for
        // ever. Without the CRDs there is nothing to list.
        let kinds = "backups,restores,upgrades,backupschedules,backupstores";
        let listed = cluster.try_kubectl(&["-n", &self.name, "get", kinds, "-o", "name"]);
        let listed = listed.unwrap_or_default();
        let objects: Vec<&str> = listed.lines().collect();
        if !objects.is_empty() {
            let none = r#"{"metadata":{"finalizers":null}}"#;
            let patch = ["-n", &self.name, "patch", "--type=merge", "-p", none];
            let _ = cluster.try_kubectl(&[&patch[..], &objects[..]].concat());
        }
    }
}

/// The script that starts a cluster, in the repository's or a parent's neighbourhood.
fn script() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = root.ancestors().skip(1).map(|place| place.join("shared/k8s/cluster"));
    places.into_iter().find(|script| script.is_file())
}

/// Runs the script, which does nothing when the cluster is up, and gives the kubeconfig that it names.
fn start(script: &Path) -> Result<PathBuf, String> {
    let _lock = lock();
    let output = Command::new(script)
        .arg("up")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    match stdout.lines().last() {
        Some(path) if output.status.success() => Ok(path.into()),
        _ => Err(format!("{} up: {output:?}", script.display())),
    }
}

/// Held by whoever starts or changes what all tests of this machine share; free again when dropped,
/// and when the process dies.
fn lock() -> File {
    let path = std::env::temp_dir().join("eider-test-kubernetes.lock");
    let file = File::options().create(true).append(true).open(&path).unwrap();
    file.lock().unwrap();
    file
}
