//! Containers that nobody selected and that cannot be without one that is: they have what they had
//! afterwards.

use super::engine::{IMAGE, Project, SERVICE, backup, docker, lines, text};
use super::upgrades::{self, Version};
use crate::scene::{STORE, wait_until};

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done";

/// A container of nobody's project; `how` is `run` with its options, or `create`.
fn stranger(project: &Project, name: &str, how: &[&str], script: &str) {
    stranger_of(project, name, how, IMAGE, script);
}

fn stranger_of(project: &Project, name: &str, how: &[&str], image: &str, script: &str) {
    let full = project.of(name);
    let mut arguments = vec![how[0], "--name", &full];
    arguments.extend(&how[1..]);
    arguments.extend([image, "/bin/sh", "-c", script]);
    docker(&arguments);
}

/// Which network or table of processes a container lives in, by the kernel's word.
fn lives_in(project: &Project, name: &str, namespace: &str) -> String {
    let link = format!("/proc/self/ns/{namespace}");
    docker(&["exec", &project.of(name), "readlink", &link])
}

#[test]
fn who_lives_in_the_network_of_a_stopped_one_has_it_again_after_a_backup() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("vpn", &["-v", &format!("{data}:/data")], SERVICE);
    let vpn = format!("container:{}", project.of("vpn"));
    stranger(&project, "torrent", &["run", "-d", "--network", &vpn], IDLE);
    let torrent = format!("container:{}", project.of("torrent"));
    stranger(&project, "watcher", &["run", "-d", "--pid", &torrent], IDLE);
    let target = format!("project: {}, services: [vpn]", project.name);
    project.scene.apply(&format!("{STORE}---\n{}", backup("night", &target, ""))).ok();
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
    assert_eq!(lives_in(&project, "torrent", "net"), lives_in(&project, "vpn", "net"));
    assert_eq!(lives_in(&project, "watcher", "pid"), lives_in(&project, "torrent", "pid"));
}

#[test]
fn who_lives_in_the_network_of_a_replaced_one_starts_again_after_an_upgrade() {
    let Some(project) = upgrades::stage() else { return };
    let db = format!("container:{}", project.of("db"));
    stranger(&project, "torrent", &["run", "-d", "--network", &db], IDLE);
    stranger(&project, "later", &["create", "--network", &db], IDLE);
    // Its name means another image by now.
    let moved = format!("eider-test/{}:latest", project.name);
    docker(&["tag", IMAGE, &moved]);
    stranger_of(&project, "tagged", &["run", "-d", "--network", &db], &moved, IDLE);
    docker(&["tag", &Version::Better.image(), &moved]);
    let before = project.inspected();
    let up = |name: &str, version: Version| {
        let up = upgrades::document(&project, name, version, "").replace("soak: 5s", "soak: 1s");
        format!("{STORE}---\n{up}")
    };
    project.scene.apply(&up("bad", Version::FailsToStart)).code(1);
    for (name, found) in project.inspected() {
        assert_eq!(found["Id"], before[&name]["Id"], "{name} was not put back");
    }
    assert_eq!(lives_in(&project, "torrent", "net"), lives_in(&project, "db", "net"));
    project.scene.apply(&up("up", Version::Good)).ok();
    let after = project.inspected();
    assert_ne!(after["db"]["Id"], before["db"]["Id"]);
    docker(&["rmi", &moved]);
    assert_eq!(before["tagged"]["Image"], after["tagged"]["Image"]);
    assert_eq!(text(&after["later"]["State"]["Status"]), "created");
    docker(&["restart", "--time", "2", &project.of("torrent")]);
    docker(&["start", &project.of("later")]);
    for name in ["torrent", "later"] {
        assert_eq!(lives_in(&project, name, "net"), lives_in(&project, "db", "net"), "{name}");
        assert_eq!(before[name]["Config"]["Image"], after[name]["Config"]["Image"]);
    }
}

#[test]
fn who_writes_by_the_path_of_a_volume_or_by_a_link_stands_still_too() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.scene.write("live/real/file", "x");
    let (real, link) = (project.scene.path("live/real"), project.scene.path("live/link"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let site = format!("{}:/site", link.display());
    project.start("db", &["-v", &format!("{data}:/data"), "-v", &site], SERVICE);
    let writers = [("direct", project.at("data")), ("linked", real)];
    for (name, place) in &writers {
        let script = SERVICE.replace("/data/log", &format!("/data/{name}-log"));
        let script = script.replace("/data/now", "/tmp/now");
        let mount = format!("{}:/data", place.display());
        stranger(&project, name, &["run", "-d", "-v", &mount], &script);
    }
    let log =
        |(name, place): &(&str, std::path::PathBuf)| lines(&place.join(format!("{name}-log")));
    wait_until("the writers have started", || writers.iter().all(|one| !log(one).is_empty()));
    project.back_up("night", "").ok();
    for writer in &writers {
        wait_until("the writers run again", || log(writer).len() == 3);
        assert_eq!(log(writer), ["started", "stopped", "started"], "{}", writer.0);
    }
}

#[test]
fn one_directory_by_two_volumes_is_read_once_and_everybody_on_it_stands_still() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let twin = project.of("a-twin");
    let device = format!("device={}", project.at("data").display());
    let bind = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
    docker(&[&["volume", "create"][..], &bind, &[&twin]].concat());
    let scratch = project.of("scratch");
    let memory = ["--opt", "type=tmpfs", "--opt", "device=tmpfs"];
    docker(&[&["volume", "create"][..], &memory, &[&scratch]].concat());
    let mounts = [format!("{data}:/data"), format!("{twin}:/twin"), format!("{scratch}:/scratch")];
    let more = ["-v", &mounts[0], "-v", &mounts[1], "-v", &mounts[2]];
    project.start("db", &more, SERVICE);
    let script = SERVICE.replace("/data/log", "/data/other-log").replace("/data/now", "/tmp/now");
    stranger(&project, "other", &["run", "-d", "-v", &format!("{twin}:/data")], &script);
    let log = || lines(&project.at("data").join("other-log"));
    wait_until("both have started", || {
        !log().is_empty() && project.at("data").join("log").exists()
    });
    let target = format!("project: {}", project.name);
    let text = project.scene.fill(&format!("{STORE}---\n{}", backup("night", &target, "")));
    project.scene.write("documents.yaml", text);
    let plan = project.scene.run(&["run", "-f", "documents.yaml", "--dry-run"]).ok().stdout;
    let uncovered = format!("not covered: /scratch of {}: it lies in memory", project.of("db"));
    // A table has its lines where it has the room for them.
    let words: Vec<&str> = plan.split_whitespace().collect();
    assert!(words.join(" ").contains(&uncovered), "{plan}");
    project.scene.run(&["run", "-f", "documents.yaml"]).ok();
    wait_until("the other one runs again", || log().len() == 3);
    assert_eq!(log(), ["started", "stopped", "started"]);
    let names =
        crate::scene::tool("tar", &["tzf", project.scene.archive("night").to_str().unwrap()]);
    assert_eq!(names.lines().filter(|name| name.ends_with("/other-log")).count(), 1, "{names}");
    std::fs::write(project.at("data").join("log"), "damage").unwrap();
    let restore = format!(
        "{}metadata: {{name: back}}\nspec: {{from: {{backupRef: {{name: night}}}}}}\n",
        crate::scene::head("Restore")
    );
    project.scene.apply(&restore).ok();
    assert_eq!(lines(&project.at("data").join("log"))[..2], ["started", "stopped"]);
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
}

#[test]
fn a_plan_says_that_everybody_may_take_longer_to_stop_than_there_is_time() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    for (service, other) in [("one", ""), ("two", "one"), ("three", "two")] {
        let label = format!("com.docker.compose.depends_on={other}:service_started:false");
        let data = format!("{data}:/data");
        let more = ["-v", &data, "--stop-timeout", "4", "--label", &label];
        project.start(service, &more, SERVICE);
    }
    let target = format!("project: {}", project.name);
    let document = backup("night", &target, "consistency: {timeout: 5s}");
    let documents = project.scene.fill(&format!("{STORE}---\n{document}"));
    project.scene.write("slow.yaml", documents);
    let plan = project.scene.run(&["run", "-f", "slow.yaml", "--dry-run"]).ok();
    assert!(plan.stdout.contains("12 s") && plan.stdout.contains("is 5 s"), "{}", plan.stdout);
}

/// Whoever was ill for weeks made every Restore and Upgrade of its project go back.
#[test]
fn who_was_ill_before_makes_nothing_go_back() {
    let Some(project) = upgrades::stage() else { return };
    let label = format!("com.docker.compose.project={}", project.name);
    let service = ["--label", &label, "--label", "com.docker.compose.service=ill"];
    let check = ["--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"];
    stranger(&project, "ill", &[&["run", "-d"], &service[..], &check].concat(), IDLE);
    let gets_ill = || {
        wait_until("it is ill", || {
            text(&project.inspected()["ill"]["State"]["Health"]["Status"]) == "unhealthy"
        });
    };
    gets_ill();
    project.back_up("night", "").ok();
    // Just started, it is neither.
    gets_ill();
    let up = upgrades::document(&project, "up", Version::Good, "").replace("soak: 5s", "soak: 1s");
    project.scene.apply(&format!("{STORE}---\n{up}")).ok().says("ill is not well");
    gets_ill();
    project.scene.restore("back", "{from: {backupRef: {name: night}}}").ok();
    assert_eq!(lines(&project.at("data").join("rows")).len(), 1000);
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
}
