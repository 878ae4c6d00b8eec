//! Single files that are mounted into containers: backed up and put back like directories, on the host and
//! from a container.

use std::time::Duration;

use super::contained;
use super::engine::{Project, SERVICE, backup, docker, lines};
use super::upgrades::{self, Version};
use crate::scene::{Ended, STORE, head, shell, tool, wait_longer};

/// A service on a volume, on two files of one directory, and on a directory that lies beside them.
fn stage() -> Option<Project> {
    let project = Project::new()?;
    let data = project.volume("data");
    let place = project.scene.path("live");
    for (name, text) in [("a.conf", "one"), ("b.conf", "two"), ("site/index.html", "<h1>")] {
        project.scene.write(&format!("live/{name}"), text);
    }
    project.scene.write("live/bystander", "stays");
    shell(&place, "chmod 640 a.conf; chown 12:34 a.conf");
    let mount = |name: &str| format!("{0}/{name}:/mounted/{name}", place.display());
    let mounts = [format!("{data}:/data"), mount("a.conf"), mount("b.conf"), mount("site")];
    let mounts: Vec<&str> = mounts.iter().flat_map(|mount| ["-v", mount]).collect();
    project.start("db", &mounts, SERVICE);
    wait_longer("it runs", Duration::from_secs(20), &mut || {
        project.at("data").join("log").exists()
    });
    Some(project)
}

fn restored(project: &Project, apply: &dyn Fn(&str) -> Ended) {
    let place = project.scene.path("live");
    let target = format!("project: {}", project.name);
    apply(&format!("{STORE}---\n{}", backup("night", &target, ""))).ok();
    let archive = project.scene.archive("night");
    let name = format!("binds{}/a.conf", place.display());
    assert_eq!(tool("tar", &["xzOf", archive.to_str().unwrap(), &name]), "one");
    // One is damaged and one is gone.
    shell(&place, "echo damage > a.conf; chmod 777 a.conf; rm b.conf; rm -r site");
    let document = format!(
        "{}metadata: {{name: back}}\nspec: {{from: {{backupRef: {{name: night}}}}}}\n",
        head("Restore")
    );
    apply(&document).ok();
    let text = |name: &str| project.scene.read(&format!("live/{name}"));
    assert_eq!(["a.conf", "b.conf", "site/index.html"].map(text), ["one", "two", "<h1>"]);
    assert_eq!(shell(&place, "stat -c '%a %u %g' a.conf").trim(), "640 12 34");
    assert_eq!(text("bystander"), "stays");
    assert_eq!(shell(&place, "ls -A").lines().count(), 4, "something is left over");
    // The service sees what was put back, and not the file that was there before.
    let seen = docker(&["exec", &project.of("db"), "cat", "/mounted/a.conf", "/mounted/b.conf"]);
    assert_eq!(seen, "onetwo");
}

#[test]
fn single_files_are_backed_up_and_put_back() {
    let Some(project) = stage() else { return };
    restored(&project, &|documents| project.scene.apply(documents));
}

#[test]
fn single_files_are_backed_up_and_put_back_from_a_container() {
    let Some(project) = stage() else { return };
    restored(&project, &|documents| contained::apply(&project, &[], documents));
}

/// A file that a worker could not put back would leave the old version on the new version's data.
#[test]
fn an_upgrade_of_a_service_with_a_mounted_file_is_undone_with_its_data_from_a_container() {
    let Some(project) = upgrades::stage() else { return };
    let file = project.scene.write("live/proxy.conf", "one");
    docker(&["rm", "--force", &project.of("proxy")]);
    let mount = format!("{}:/etc/proxy.conf:ro", file.display());
    let quiet = "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done";
    project.start("proxy", &["--network", "none", "-v", &mount], quiet);
    let removed = Version::FailsToStart.removes();
    shell(&project.at("data"), &format!("echo precious > {removed}"));
    let document = upgrades::document(&project, "up", Version::FailsToStart, "");
    contained::apply(&project, &[], &format!("{STORE}---\n{document}")).code(1).says("rolled back");
    let data = project.at("data");
    assert_eq!(lines(&data.join(removed)), ["precious"], "the data is not the old one");
    assert_eq!(lines(&data.join("version")), ["1.0.0"]);
    assert_eq!(project.scene.read("live/proxy.conf"), "one");
    assert_eq!(project.status("upgrade", "up")["phase"], "RolledBack");
    let states = project.states();
    assert!(states.values().all(|state| state == "running"), "{states:?}");
}

/// It has no entry in an archive: an empty directory in its place would cut the service off.
#[test]
fn a_mounted_socket_is_told_as_not_covered_and_survives_a_restore() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let place = project.scene.path("live");
    std::fs::create_dir_all(&place).unwrap();
    let socket = place.join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mounts = [format!("{data}:/data"), format!("{}:/app.sock", socket.display())];
    project.start("db", &["-v", &mounts[0], "-v", &mounts[1]], SERVICE);
    wait_longer("it runs", Duration::from_secs(20), &mut || {
        project.at("data").join("log").exists()
    });
    project.back_up("night", "").ok();
    let archive = project.scene.archive("night");
    let listed = tool("tar", &["tzf", archive.to_str().unwrap()]);
    assert!(!listed.contains("binds"), "{listed}");
    project.scene.restore("back", "{from: {backupRef: {name: night}}}").ok();
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    drop(listener);
    assert_eq!(shell(&place, "ls -A").trim(), "app.sock", "something is left over");
    assert_eq!(project.states()["db"], "running");
}
