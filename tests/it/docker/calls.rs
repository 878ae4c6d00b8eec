//! What Eider asks of the engine is what deploy/docker/README.md lists: a proxy in between writes down
//! every call, and the table is compared with it in both directions.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::contained;
use super::engine::{Project, SERVICE, backup, docker};
use super::images::{self, OwnImage};
use super::upgrades::{self, Version};
use crate::scene::{Daemon, Ended, STORE, head, wait_until};

/// A socket that passes everything on to the engine and notes the calls.
struct Recorder {
    socket: PathBuf,
    calls: Arc<Mutex<BTreeSet<String>>>,
}

impl Recorder {
    fn new(project: &Project) -> Self {
        let socket = project.scene.path("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&calls);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || pass_on(client, &noted));
            }
        });
        Self { socket, calls }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

fn pass_on(client: UnixStream, calls: &Mutex<BTreeSet<String>>) {
    let engine = UnixStream::connect("/var/run/docker.sock").unwrap();
    let (mut answers, mut back) = (engine.try_clone().unwrap(), client.try_clone().unwrap());
    let answering = std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (client, engine);
    let (mut piece, mut seen) = (vec![0; 65536], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut piece) {
        seen.extend_from_slice(&piece[..count]);
        // Whole lines only; bodies are JSON in one line each.
        while let Some(end) = seen.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = seen.drain(..=end).collect();
            calls.lock().unwrap().extend(call(&String::from_utf8_lossy(&line)));
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = answering.join();
}

/// `POST /containers/{id}/stop` of the first line of a request.
fn call(line: &str) -> Option<String> {
    let (method, rest) = line.split_once(' ')?;
    if !matches!(method, "GET" | "HEAD" | "POST" | "PUT" | "DELETE") {
        return None;
    }
    let path = rest.strip_suffix("HTTP/1.1\r\n")?.trim();
    let path = path.split('?').next()?;
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/')?..],
        None => path,
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let path = match parts.as_slice() {
        [area @ ("containers" | "volumes" | "networks" | "images"), "json" | "create" | "load"] => {
            format!("/{area}/{}", parts[1])
        }
        // Names of images have slashes.
        ["images", .., last @ "json"] => format!("/images/{{id}}/{last}"),
        [area, _] => format!("/{area}/{{id}}"),
        [area, _, verb] => format!("/{area}/{{id}}/{verb}"),
        _ => path.to_owned(),
    };
    Some(format!("{method} {path}"))
}

/// The calls that the table lists.
fn listed() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docker/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`'))
        .map(|(call, _)| call.to_owned())
        .filter(|call| call.contains(" /"))
        .collect()
}

#[test]
fn the_table_of_calls_is_what_eider_asks_for() {
    let Some(project) = upgrades::stage() else { return };
    let second = project.of("second");
    docker(&["network", "create", &second]);
    docker(&["network", "connect", "--alias", "store", &second, &project.of("db")]);
    let recorder = Recorder::new(&project);
    let run = |documents: &str| -> Ended {
        project.scene.write("documents.yaml", project.scene.fill(documents));
        let mut command = project.scene.command(&["run", "-f", "documents.yaml"]);
        command.env("DOCKER_HOST", recorder.address()).output().unwrap().into()
    };
    let target = format!("project: {}", project.name);
    let document = |name: &str, more: &str| format!("{STORE}---\n{}", backup(name, &target, more));
    let hook = "hooks: {before: [{exec: {container: db, command: [\"true\"]}}]}";
    run(&document("first", hook)).ok();
    run(&document("paused", "consistency: {mode: Pause}")).ok();
    let upgrade = |name: &str, version| {
        format!("{STORE}---\n{}", upgrades::document(&project, name, version, ""))
    };
    run(&upgrade("good", Version::Good)).ok();
    run(&upgrade("bad", Version::FailsToStart)).code(1);
    let missing = upgrade("missing", Version::Better)
        .replace(&Version::Better.image(), "localhost:1/no/such:2.5.0");
    run(&missing).code(1).says("localhost:1/no/such");
    let file = project.scene.path("image.tar");
    let own = OwnImage::new(&format!("eider-test/{}", project.name), "calls");
    own.save(&file);
    let archives = format!("  imageArchives: [{}]\n", file.display());
    let loaded = images::to(&project, "loaded", &own.0, &archives) + "  force: true\n";
    run(&format!("{STORE}---\n{loaded}")).ok();
    for name in ["proxy", "db"] {
        docker(&["rm", "--force", &project.of(name)]);
    }
    docker(&["volume", "rm", &project.of("data")]);
    docker(&["network", "rm", &project.of("net"), &second]);
    let restore = "metadata: {name: back}\nspec: {from: {backupRef: {name: paused}}, recreateContainers: true}\n";
    // Its image is another one by now and has to be there by its name.
    run(&format!("{}{restore}", head("Restore"))).ok();
    // From within a container, through the same socket; one worker dies and is asked for its end.
    let mount = format!("--volume={}:/var/run/docker.sock", recorder.socket.display());
    let arguments = contained::arguments(&project, &["--rm"]);
    let arguments = arguments.iter().map(|argument| {
        if argument.contains("docker.sock:") { mount.clone() } else { argument.clone() }
    });
    let arguments: Vec<String> = arguments.filter(|argument| argument != "--volume").collect();
    for (name, point, code) in [("inside", "", 0), ("killed", "archive.started", 1)] {
        let file = format!("specs/{name}.yaml");
        let file = project.scene.write(&file, project.scene.fill(&document(name, "")));
        let ended: Ended = Command::new("docker")
            .args(&arguments[..arguments.len() - 1])
            .arg(format!("--env=EIDER_WORKER_FAILPOINT={point}"))
            .args(&arguments[arguments.len() - 1..])
            .args(["run", "-f", file.to_str().unwrap()])
            .output()
            .unwrap()
            .into();
        ended.code(code);
    }
    // The daemon watches.
    project.start("more", &["-v", &format!("{}:/data", project.of("data"))], SERVICE);
    let daemon = {
        let socket = project.scene.path("eider.sock");
        assert!(!socket.exists());
        Daemon::start_with(&project.scene, "specs", &[("DOCKER_HOST", &recorder.address())])
    };
    wait_until("the daemon has looked", || {
        let calls = recorder.calls.lock().unwrap();
        calls.contains("GET /events") && calls.contains("GET /containers/{id}/stats")
    });
    assert_eq!(daemon.stop(), Some(0));
    let called = recorder.calls.lock().unwrap().clone();
    let listed = listed();
    let missing: Vec<&String> = called.difference(&listed).collect();
    let needless: Vec<&String> = listed.difference(&called).collect();
    assert!(
        missing.is_empty() && needless.is_empty(),
        "not listed: {missing:#?}\nnot called: {needless:#?}"
    );
}

#[test]
fn calls_are_told_apart_by_what_they_do() {
    let told = |line: &str| call(&format!("{line} HTTP/1.1\r\n"));
    let stop = told("POST /v1.41/containers/0123abcd/stop?t=3");
    assert_eq!(stop.as_deref(), Some("POST /containers/{id}/stop"));
    let image = told("GET /v1.41/images/localhost:5000/a/b:1/json");
    assert_eq!(image.as_deref(), Some("GET /images/{id}/json"));
    assert_eq!(told("GET /volumes").as_deref(), Some("GET /volumes"));
    assert_eq!(told("{\"Cmd\":[\"GET /\"]}"), None);
}
