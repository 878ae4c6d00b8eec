//! The proxy before the engine's socket as it is published: the real program with the rules of
//! deploy/docker/haproxy.cfg, on the host and in a container without the socket.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::contained;
use super::engine::{IMAGE, Project, backup, docker, lines};
use super::upgrades::{self, Version};
use crate::scene::{Ended, STORE, head, shell, wait_longer};

/// A running HAProxy.
struct Proxy {
    address: String,
    process: Child,
}

impl Proxy {
    /// Starts it; none, loudly, where it is not installed.
    #[allow(clippy::print_stderr)] // How a skip is seen.
    fn start(project: &Project) -> Option<Self> {
        if Command::new("haproxy").arg("-v").output().is_err() {
            eprintln!("SKIPPED the socket proxy: HAProxy is not installed");
            return None;
        }
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docker/haproxy.cfg");
        let log = std::fs::File::create(project.scene.path("proxy.log")).unwrap();
        let process = Command::new("haproxy")
            .arg("-f")
            .arg(rules)
            .env("EIDER_PROXY_BIND", format!("127.0.0.1:{port}"))
            .env("EIDER_PROXY_ENGINE", "/var/run/docker.sock")
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let proxy = Self { address: format!("tcp://127.0.0.1:{port}"), process };
        wait_longer("the proxy answers", Duration::from_secs(20), &mut || {
            proxy.docker(&["ps"]).status.success()
        });
        Some(proxy)
    }

    fn docker(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("docker").args(["--host", &self.address]).args(arguments).output().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn everything_is_done_through_a_proxy_that_lets_through_the_listed_calls_only() {
    let Some(project) = upgrades::stage() else { return };
    let Some(proxy) = Proxy::start(&project) else { return };
    // By the files of a container Eider sees that the engine is on this machine; those of the project go on the way.
    let witness = format!("witness-of-{}", project.name);
    let run = ["run", "--detach", "--rm", "--network", "none", "--name", &witness, IMAGE];
    docker(&[&run[..], &["sleep", "600"]].concat());
    for refused in
        [&["info"][..], &["volume", "rm", "x"], &["swarm", "init"], &["image", "rm", "x"]]
    {
        let output = proxy.docker(refused);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("403") || said.contains("forbidden"), "{refused:?}: {output:?}");
    }
    everything(&project, "host", &|text| {
        project.scene.write("documents.yaml", project.scene.fill(text));
        let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
        command.env("DOCKER_HOST", &proxy.address).output().unwrap().into()
    });
    everything(&project, "contained", &|text| {
        let file = project.scene.write("specs/documents.yaml", project.scene.fill(text));
        let environment = format!("--env=DOCKER_HOST={}", proxy.address);
        let mut arguments = contained::arguments(&project, &["--rm", &environment]);
        arguments.retain(|word| word != "--volume" && !word.starts_with("/var/run/docker.sock"));
        let network = arguments.iter_mut().find(|word| *word == "none").unwrap();
        "host".clone_into(network);
        arguments.extend(["run", "-f", file.to_str().unwrap()].map(str::to_owned));
        Command::new("docker").args(arguments).output().unwrap().into()
    });
    docker(&["rm", "--force", &witness]);
    let log = project.scene.read("proxy.log");
    assert!(!log.contains(" 403 "), "{log}");
}

/// Backs up with a hook, restores a lost project, and undoes an upgrade.
fn everything(project: &Project, name: &str, apply: &dyn Fn(&str) -> Ended) {
    let target = format!("project: {}", project.name);
    let hook = "hooks: {before: [{exec: {container: db, command: [touch, /data/hooked]}}]}";
    apply(&format!("{STORE}---\n{}", backup(name, &target, hook))).ok();
    let data = project.at("data");
    assert!(data.join("hooked").exists());
    let bad = upgrades::document(project, &format!("{name}-up"), Version::FailsToStart, "");
    apply(&format!("{STORE}---\n{bad}")).code(1).says("rolled back");
    assert_eq!(lines(&data.join("version")), ["1.0.0"]);
    shell(&data, "rm rows");
    for service in ["proxy", "db"] {
        docker(&["rm", "--force", &project.of(service)]);
    }
    docker(&["network", "rm", &project.of("net")]);
    let restore = format!(
        "{}metadata: {{name: {name}-back}}\nspec: {{from: {{backupRef: {{name: {name}}}}}, \
         recreateContainers: true}}\n",
        head("Restore")
    );
    apply(&restore).ok();
    assert_eq!(lines(&data.join("rows")).len(), 1000);
    let states = project.states();
    assert_eq!(states.len(), 2, "{states:?}");
    assert!(states.values().all(|state| state == "running"), "{states:?}");
}
