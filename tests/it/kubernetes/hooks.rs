//! Hooks: commands in the pods of a service, requests from the operator.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};

use super::cluster::Cluster;
use super::process::Operator;
use super::scene::Scene;

/// A server that notes what it is asked and answers, with 500 where the path says so.
struct Listener {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        // Ends with the process, which is one test's.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut buffer = [0_u8; 4096];
                let count = stream.read(&mut buffer).unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let line = text.lines().next().unwrap_or_default().to_owned();
                let status = if line.contains("/fail") { "500 Broken" } else { "200 OK" };
                noted.lock().unwrap().push(line.trim_end_matches(" HTTP/1.1").to_owned());
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// A command in the service's container.
fn shell(script: &str) -> String {
    format!("exec: {{container: service, command: [/bin/sh, -c, \"{script}\"]}}")
}

fn hooks(before: &[String], after: &[String]) -> String {
    let list = |hooks: &[String]| {
        let items: Vec<String> = hooks.iter().map(|hook| format!("{{{hook}}}")).collect();
        format!("[{}]", items.join(", "))
    };
    format!("  hooks:\n    before: {}\n    after: {}\n", list(before), list(after))
}

#[test]
fn hooks_run_around_the_stop_and_after_a_failure_too() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let operator = Operator::new(&scene.cluster, &scene.namespace);
    let _process = operator.start();
    let listener = Listener::new();
    let request =
        |path: &str| format!("http: {{url: \"http://127.0.0.1:{}{path}\"}}", listener.port);
    let log = scene.data("db").join("hooks");
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();

    // In order, in the pod that runs, before it is stopped; after, in the pod that runs again.
    let before = [shell("echo before $HOSTNAME >> /data/hooks"), request("/before")];
    let after = [shell("echo after $HOSTNAME >> /data/hooks"), request("/after")];
    scene.back_up("good", "db", &hooks(&before, &after));
    let status = scene.succeeded("backup", "good");
    assert_eq!(logged(), "before db-0\nafter db-0\n");
    assert_eq!(listener.asked(), ["POST /before", "POST /after"]);
    // The archive is of the moment between them.
    let place = scene.cluster.claim_path(&scene.namespace, "backups");
    let archive = place.join(status["archive"]["name"].as_str().unwrap());
    let output = std::process::Command::new("tar")
        .arg("-xzOf")
        .arg(&archive)
        .args(["--wildcards", "*/hooks"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "before db-0\n", "{output:?}");

    // A command that fails: what it said is in the message, nothing is stopped, and after runs.
    let pod = scene.object("pod", "db-0").unwrap();
    let before = [shell("echo it cannot be frozen >&2; exit 3"), request("/never")];
    scene.back_up("bad", "db", &hooks(&before, &after));
    let status = scene.failed("backup", "bad", "HookFailed");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("hook before 1"), "{message}");
    assert!(message.contains("it cannot be frozen"), "{message}");
    assert!(logged().ends_with("after db-0\nafter db-0\n"), "{}", logged());
    assert_eq!(listener.asked(), ["POST /after"]);
    let same = scene.object("pod", "db-0").unwrap();
    assert_eq!(pod["metadata"]["uid"], same["metadata"]["uid"], "the pod was replaced");

    // A request that is refused may be noted only.
    let before = [format!("{}, onError: Continue", request("/fail"))];
    let live = format!("{}  consistency: {{mode: Live}}\n", hooks(&before, &[]));
    scene.back_up("noted", "db", &live);
    let status = scene.succeeded("backup", "noted");
    assert!(status["warnings"][0].as_str().unwrap().contains("500"), "{status:#}");
    assert_eq!(listener.asked(), ["POST /fail"]);
    assert_eq!(scene.archives().len(), 2, "one of the first, one of the last");
    scene.tidy("db");
}
