//! Engines that are reached over the network: on this machine they are like any other, on another one
//! nothing is read here in its name.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;

use super::engine::{Project, SERVICE, backup, docker, lines};
use crate::scene::{Ended, STORE, head};

/// The engine at a TCP address. With `far` its answers name another directory for what it keeps of its
/// containers, as those of an engine on another machine do, while its volumes have paths that exist here.
fn engine_at(far: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let root = docker(&["info", "--format", "{{.DockerRootDir}}"]);
    let known = format!("{}/containers/", root.trim());
    // Of the same length: answers say how long they are.
    let told = if far { known.replace("/containers/", "/container5/") } else { known.clone() };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let engine = UnixStream::connect("/var/run/docker.sock").unwrap();
            let (mut requests, mut passed) =
                (client.try_clone().unwrap(), engine.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut requests, &mut passed);
                let _ = passed.shutdown(Shutdown::Write);
            });
            let (known, told) = (known.clone().into_bytes(), told.clone().into_bytes());
            std::thread::spawn(move || {
                rewrite(engine, &client, &known, &told);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

fn rewrite(mut from: impl Read, mut to: impl Write, known: &[u8], told: &[u8]) {
    let (mut piece, mut held) = (vec![0; 1 << 16], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut piece) {
        held.extend_from_slice(&piece[..count]);
        let mut at = 0;
        while at + known.len() <= held.len() {
            if held[at..].starts_with(known) {
                held[at..at + told.len()].copy_from_slice(told);
            }
            at += 1;
        }
        // What may be the beginning of a path waits for the rest.
        let begun = (1..known.len()).rev().find(|length| held.ends_with(&known[..*length]));
        let ready = held.len() - begun.unwrap_or_default();
        if to.write_all(&held[..ready]).is_err() {
            return;
        }
        held.drain(..ready);
    }
}

fn stage() -> Option<Project> {
    let project = Project::new()?;
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    Some(project)
}

fn run(project: &Project, address: &str, arguments: &[&str]) -> Ended {
    project.scene.command(arguments).env("DOCKER_HOST", address).output().unwrap().into()
}

fn document(project: &Project, name: &str) -> String {
    let target = format!("project: {}", project.name);
    project.scene.fill(&format!("{STORE}---\n{}", backup(name, &target, "")))
}

#[test]
fn an_engine_of_this_machine_at_an_address_is_like_any_other() {
    let Some(project) = stage() else { return };
    project.scene.write("documents.yaml", document(&project, "night"));
    run(&project, &engine_at(false), &["run", "-f", "documents.yaml"]).ok();
    assert_eq!(project.states()["db"], "running");
    project.scene.run(&["backup", "verify", "--all"]).ok();
}

/// The volumes of the engine have mount points that exist here too, with other data in them.
#[test]
fn the_data_of_an_engine_on_another_machine_is_not_taken_from_this_one() {
    let Some(project) = stage() else { return };
    project.back_up("here", "").ok();
    let far = engine_at(true);
    project.scene.write("documents.yaml", document(&project, "night"));
    let log = project.at("data").join("log");
    let before = lines(&log);
    let ended = run(&project, &far, &["run", "-f", "documents.yaml"]).code(2);
    assert!(ended.stderr.contains("not on this machine"), "{ended:#?}");
    let target = ["--project", &project.name, "--store", "main", "--dry-run"];
    run(&project, &far, &[&["backup", "create"][..], &target].concat()).says("not on this machine");
    // Nothing is put there either, and no volume is made on the way.
    let volume = project.of("new");
    let restore = format!(
        "{}metadata: {{name: back}}\nspec: {{from: {{backupRef: {{name: here}}}}, \
         target: {{docker: {{volumes: [{volume}]}}}}}}\n",
        head("Restore")
    );
    project.scene.write("restore.yaml", restore);
    run(&project, &far, &["run", "-f", "restore.yaml"]).code(2).says("not on this machine");
    assert!(!docker(&["volume", "ls", "--quiet"]).contains(&volume));
    assert_eq!(lines(&log), before, "somebody was stopped");
    assert_eq!(project.scene.stored().len(), 2);
}
