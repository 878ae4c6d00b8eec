//! How tests reach an engine, and the services they run on it: every test has a project of its own,
//! whose containers and volumes are removed with it. May not call the library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::scene::{Ended, STORE, Scene, head, wait_longer};

/// The image of every service: a static busybox.
pub const IMAGE: &str = "eider-test/busybox:1";

/// A service that says when it starts and when it is asked to stop, in a file among its data, and
/// writes into another all the time.
pub const SERVICE: &str = "trap 'echo stopped >> /data/log; exit 0' TERM
echo started >> /data/log
while :; do date +%s.%N > /data/now; sleep 0.1 & wait $!; done";

/// The same, deaf to SIGTERM.
pub const DEAF: &str = "trap '' TERM; echo started >> /data/log; while :; do sleep 0.1; done";

/// Whether an engine answers; says so when none does, and fails where `EIDER_REQUIRE` names docker.
#[allow(clippy::print_stderr)] // How a skip is seen.
fn engine_answers() -> bool {
    let answers = Command::new("docker").arg("info").output().is_ok_and(|out| out.status.success());
    let image = Command::new("docker").args(["image", "inspect", IMAGE]).output();
    if answers && image.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = std::env::var("EIDER_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == "docker"),
        "EIDER_REQUIRE names docker, but there is no engine with the image {IMAGE}"
    );
    eprintln!("SKIPPED: no Docker Engine with the image {IMAGE}");
    false
}

/// A Compose project as far as its labels go, and a scene for Eider beside it.
pub struct Project {
    pub scene: Scene,
    pub name: String,
}

impl Project {
    /// A project of this test; none, loudly, if there is no engine.
    pub fn new() -> Option<Self> {
        if !engine_answers() {
            return None;
        }
        let scene = Scene::new();
        let place = scene.path("").to_string_lossy().into_owned();
        let unique: String = place.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("eider{}", unique.to_lowercase());
        Some(Self { scene, name })
    }

    /// The name of a container or volume of the project.
    pub fn of(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Makes a volume as Compose does.
    pub fn volume(&self, name: &str) -> String {
        let full = self.of(name);
        let project = format!("com.docker.compose.project={}", self.name);
        let volume = format!("com.docker.compose.volume={name}");
        docker(&["volume", "create", "--label", &project, "--label", &volume, &full]);
        full
    }

    /// Starts a service of the project: `more` are further arguments of `docker run`.
    pub fn start(&self, service: &str, more: &[&str], script: &str) -> String {
        let full = self.of(service);
        let project = format!("com.docker.compose.project={}", self.name);
        let label = format!("com.docker.compose.service={service}");
        let mut arguments = vec!["run", "--detach", "--name", &full, "--label", &project];
        arguments.extend(["--label", &label]);
        arguments.extend(more);
        arguments.extend([IMAGE, "/bin/sh", "-c", script]);
        docker(&arguments).trim().to_owned()
    }

    /// The usual scene: a database on a volume and a web server on it and on a path of the host, a
    /// container of somebody else that works on the volume, and a service that is stopped.
    pub fn shop(&self) {
        let (data, uploads) = (self.volume("data"), self.volume("uploads"));
        self.scene.write("live/site/index.html", "<h1>shop</h1>");
        let site = format!("{}:/site", self.scene.path("live/site").display());
        self.start("db", &["-v", &format!("{data}:/data")], SERVICE);
        let depends = "com.docker.compose.depends_on=db:service_started:false";
        let shared = format!("{data}:/shared:ro");
        let uploads = format!("{uploads}:/data");
        let web = ["--label", depends, "-v", &shared, "-v", &uploads, "-v", &site];
        self.start("web", &web, SERVICE);
        self.start("off", &["-v", &format!("{data}:/data")], "exit 0");
        let reporter = self.of("reporter");
        let shared = format!("{data}:/data");
        let script =
            SERVICE.replace("/data/log", "/data/reporter-log").replace("/data/now", "/tmp/now");
        docker(&["run", "-d", "--name", &reporter, "-v", &shared, IMAGE, "/bin/sh", "-c", &script]);
        let log = self.at("data").join("log");
        wait_longer("the services have started", Duration::from_secs(20), &mut || {
            log.exists()
                && self.at("uploads").join("log").exists()
                && self.states()["off"] == "exited"
        });
    }

    /// Where the engine keeps a volume.
    pub fn at(&self, volume: &str) -> PathBuf {
        let format = "{{.Mountpoint}}";
        docker(&["volume", "inspect", "--format", format, &self.of(volume)]).trim().into()
    }

    /// Status of each container of the test by its short name.
    pub fn states(&self) -> std::collections::BTreeMap<String, String> {
        self.inspected()
            .into_iter()
            .map(|(name, found)| (name, text(&found["State"]["Status"])))
            .collect()
    }

    /// What the engine says of each container of the test. One that is removed between the list and the look
    /// is not there: what is left of the answer holds the others.
    #[track_caller]
    pub fn inspected(&self) -> std::collections::BTreeMap<String, Value> {
        let filter = format!("name=^/?{}_", self.name);
        let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        if ids.trim().is_empty() {
            return [].into();
        }
        let mut look = std::process::Command::new("docker");
        let output = look.arg("inspect").args(ids.split_whitespace()).output().unwrap();
        let reason = String::from_utf8_lossy(&output.stderr);
        let gone = |line: &str| line.is_empty() || line.contains("No such object");
        assert!(output.status.success() || reason.lines().all(gone), "docker: {reason}");
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let prefix = format!("/{}_", self.name);
        let name = |found: &Value| text(&found["Name"]).trim_start_matches(&prefix).to_owned();
        found.into_iter().map(|found| (name(&found), found)).collect()
    }

    /// Everything that ran runs, and what did not does not.
    #[track_caller]
    pub fn runs_as_before(&self) {
        let states = self.states();
        let expected =
            [("db", "running"), ("off", "exited"), ("reporter", "running"), ("web", "running")];
        let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(states, expected.into());
    }

    /// Applies the store and one Backup of the project, with further lines of its spec.
    pub fn back_up(&self, name: &str, more: &str) -> Ended {
        let target = format!("project: {}", self.name);
        self.scene.apply(&format!("{STORE}---\n{}", backup(name, &target, more)))
    }

    /// The published status of an object.
    pub fn status(&self, kind: &str, name: &str) -> Value {
        let found = self.scene.run(&["get", kind, name, "-o", "json"]).ok().json();
        found["items"][0]["status"].clone()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let filter = format!("name=^/?{}_", self.name);
        let list = |arguments: &[&str]| docker(arguments);
        let containers = list(&["ps", "--all", "--quiet", "--filter", &filter]);
        for id in containers.split_whitespace() {
            let _ = Command::new("docker").args(["rm", "--force", "--volumes", id]).output();
        }
        let filter = format!("name={}_", self.name);
        for kind in ["volume", "network"] {
            let names = list(&[kind, "ls", "--quiet", "--filter", &filter]);
            for name in names.split_whitespace() {
                let _ = Command::new("docker").args([kind, "rm", name]).output();
            }
        }
    }
}

/// A Backup of a Docker target, given in flow style, into the store `main`.
pub fn backup(name: &str, target: &str, more: &str) -> String {
    let more = more.lines().fold(String::new(), |text, line| text + "  " + line + "\n");
    format!(
        "{}metadata: {{name: {name}}}\nspec:\n  target: {{docker: {{{target}}}}}\n  \
         storeRef: {{name: main}}\n{more}",
        head("Backup")
    )
}

/// Standard output of a `docker` command that has to succeed.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    crate::scene::tool("docker", arguments)
}

/// A JSON string.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Lines of a file; none if there is no such file.
pub fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
