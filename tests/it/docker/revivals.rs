//! Containers that are gone are made again by a Restore, as they were.

use serde_json::{Value, json};

use super::engine::{Project, SERVICE, docker, lines, text};
use super::upgrades::{self, Version};
use crate::scene::{STORE, shell, tool};

const SPEC: &str = "{from: {backupRef: {name: night}}, recreateContainers: true}";

/// Removes everything of a project that the engine knows.
fn lose(project: &Project) {
    for name in project.inspected().keys() {
        docker(&["rm", "--force", "--volumes", &project.of(name)]);
    }
    let filter = format!("name={}_", project.name);
    for kind in ["volume", "network"] {
        for name in docker(&[kind, "ls", "--quiet", "--filter", &filter]).split_whitespace() {
            docker(&[kind, "rm", name]);
        }
    }
}

/// Settings without what belongs to one life of a container.
fn lasting(found: &Value) -> Value {
    let mut settings = upgrades::settings(found);
    // The new one's anonymous volume is another one, and its neighbour has another id.
    settings["mounts"].as_array_mut().unwrap().retain(|mount| mount[2] != "/cache");
    if text(&settings["host"]["NetworkMode"]).starts_with("container:") {
        settings["host"]["NetworkMode"] = json!("container");
    }
    settings["config"]["Labels"].as_object_mut().unwrap().remove("eider.restore");
    settings
}

#[test]
fn a_project_comes_back_on_an_empty_host_as_it_was() {
    let Some(project) = upgrades::stage() else { return };
    let data = project.volume("data");
    project.start("off", &["-v", &format!("{data}:/data")], "exit 0");
    project.back_up("night", "").ok();
    let before = project.inspected();
    lose(&project);
    let plan = ["restore", "create", "night", "--recreate-containers", "--dry-run"];
    let plan = project.scene.run(&plan).ok().stdout;
    for name in before.keys() {
        let line = format!("{} is made again", project.of(name));
        assert!(plan.contains(&line), "{plan}");
    }
    assert!(project.inspected().is_empty(), "a plan made something");
    project.scene.restore("back", SPEC).ok();
    let after = project.inspected();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["db", "off", "proxy"]);
    for (name, found) in &before {
        assert_ne!(found["Id"], after[name]["Id"]);
        assert_eq!(lasting(found), lasting(&after[name]), "{name}");
        assert_eq!(found["Config"]["Image"], after[name]["Config"]["Image"]);
    }
    let states = project.states();
    assert_eq!(
        [&*states["db"], &*states["off"], &*states["proxy"]],
        ["running", "created", "running"]
    );
    let mode = text(&after["proxy"]["HostConfig"]["NetworkMode"]);
    let known = [
        format!("container:{}", text(&after["db"]["Id"])),
        format!("container:{}", project.of("db")),
    ];
    assert!(known.contains(&mode), "{mode}");
    assert_eq!(lines(&project.at("data").join("rows")).len(), 1000);
    // A second Restore finds them there and makes none.
    project.scene.restore("again", SPEC).ok();
    for (name, found) in project.inspected() {
        assert_eq!(found["Id"], after[&name]["Id"], "{name}");
    }
}

#[test]
fn definitions_were_lost_with_the_manifest() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data"), "--env", "CACHE=1"], SERVICE);
    shell(&project.at("data"), "echo kept > file");
    project.back_up("night", "").ok();
    let before = project.inspected();
    let only = project.scene.path("only_the_archive.tar.gz");
    std::fs::copy(project.scene.archive("night"), &only).unwrap();
    lose(&project);
    project.scene.run(&["backup", "import", only.to_str().unwrap(), "--store", "main"]).ok();
    project.scene.restore("back", &SPEC.replace("night", "only-the-archive")).ok();
    let after = project.inspected();
    let (before, after) = (lasting(&before["db"]), lasting(&after["db"]));
    // Not its address: the default network gives whichever is free.
    for part in ["config", "host", "mounts"] {
        assert_eq!(before[part], after[part]);
    }
    assert_eq!(project.states()["db"], "running");
    assert_eq!(shell(&project.at("data"), "cat file"), "kept\n");
    let labels = |volume: &str| docker(&["volume", "inspect", "-f", "{{json .Labels}}", volume]);
    assert!(labels(&data).contains(&project.name), "{}", labels(&data));
}

/// Who backs up a path of the host too was told to name the target, and then to leave it out.
#[test]
fn one_with_a_path_of_the_host_is_made_again_without_a_manifest() {
    let Some(project) = Project::new() else { return };
    let bound = project.scene.path("bound");
    std::fs::create_dir(&bound).unwrap();
    let mounts =
        [format!("{}:/data", project.volume("data")), format!("{}:/bound", bound.display())];
    project.start("db", &["-v", &mounts[0], "-v", &mounts[1]], SERVICE);
    shell(&bound, "echo kept > file");
    project.back_up("night", "").ok();
    let only = project.scene.path("only_the_archive.tar.gz");
    std::fs::copy(project.scene.archive("night"), &only).unwrap();
    lose(&project);
    shell(&bound, "rm file");
    project.scene.run(&["backup", "import", only.to_str().unwrap(), "--store", "main"]).ok();
    let spec = |target: &str| {
        let from = SPEC.replace("night", "only-the-archive");
        format!("{}, target: {{docker: {{project: {target}}}}}}}", from.trim_end_matches('}'))
    };
    project.scene.restore("back", &spec(&project.name)).ok();
    assert_eq!(project.states()["db"], "running");
    assert_eq!(shell(&bound, "cat file"), "kept\n");
}

#[test]
fn one_that_was_frozen_is_frozen_when_it_is_made_again() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    project.start("db", &["-v", &data], SERVICE);
    project.start("web", &["-v", &data], SERVICE);
    docker(&["pause", &project.of("web")]);
    project.back_up("night", "").ok();
    docker(&["unpause", &project.of("web")]);
    lose(&project);
    project.scene.restore("back", SPEC).ok();
    let states = project.states();
    assert_eq!([&*states["db"], &*states["web"]], ["running", "paused"]);
}

/// It is taken while everybody stands still, and they are to run all the same.
#[test]
fn what_a_backup_before_an_upgrade_holds_runs_again_on_an_empty_host() {
    let Some(project) = upgrades::stage() else { return };
    let up = upgrades::document(&project, "up", Version::Good, "").replace("soak: 5s", "soak: 1s");
    project.scene.apply(&format!("{STORE}---\n{up}")).ok();
    lose(&project);
    let spec = SPEC.replace("night", "up-before-upgrade");
    project.scene.restore("back", &spec).ok();
    let states = project.states();
    assert_eq!([&*states["db"], &*states["proxy"]], ["running", "running"]);
    assert_eq!(text(&project.inspected()["db"]["Config"]["Image"]), Version::First.image());
    assert_eq!(lines(&project.at("data").join("version")), ["1.0.0"]);
}

#[test]
fn one_that_cannot_start_is_removed_again_with_the_restored_data() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let publish = format!("{}:80", port.local_addr().unwrap());
    drop(port);
    project.start("db", &["-v", &format!("{data}:/data"), "-p", &publish], SERVICE);
    project.back_up("night", "").ok();
    lose(&project);
    let _taken = std::net::TcpListener::bind(publish.trim_end_matches(":80")).unwrap();
    project.scene.restore("back", SPEC).code(1).says("db");
    assert!(project.inspected().is_empty(), "{:?}", project.states());
    assert_eq!(shell(&project.at("data"), "ls -A"), "", "the restored data was taken back");
}

#[test]
fn an_image_that_is_gone_is_found_out_before_anything_is_made() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let image = format!("localhost:1/{}:1", project.name);
    docker(&["tag", super::engine::IMAGE, &image]);
    // An image of its own, or the id would be found under the other name.
    let recipe = format!("FROM {image}\nLABEL of={}\nCMD [\"sleep\", \"1000\"]\n", project.name);
    project.scene.write("image/Dockerfile", recipe);
    let place = project.scene.path("image");
    shell(&place, &format!("DOCKER_BUILDKIT=0 docker build --quiet --tag {image} ."));
    let label = format!("com.docker.compose.project={}", project.name);
    let mount = format!("{data}:/data");
    let name = project.of("db");
    tool("docker", &["run", "-d", "--name", &name, "--label", &label, "-v", &mount, &image]);
    shell(&project.at("data"), "echo kept > file");
    project.back_up("night", "").ok();
    lose(&project);
    docker(&["rmi", &image]);
    project.scene.restore("back", SPEC).code(1).says(&image);
    assert!(project.inspected().is_empty());
    let volumes = docker(&["volume", "ls", "--quiet", "--filter", &format!("name={data}")]);
    assert_eq!(volumes, "", "nothing was made");
}

#[test]
fn who_uses_volumes_and_processes_of_others_is_made_after_them() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("z", &["-v", &format!("{data}:/data")], SERVICE);
    let of = |name: &str| project.of(name);
    project.start("y", &["--volumes-from", &text(&project.inspected()["z"]["Id"])], SERVICE);
    project.start("x", &["--pid", &format!("container:{}", of("y"))], "sleep 1000");
    project.start("w", &["--network", &format!("container:{}", of("x"))], "sleep 1000");
    project.start("v", &["--link", &format!("{}:friend", of("z"))], "sleep 1000");
    // The engine keeps a short id as it was given.
    let short = text(&project.inspected()["z"]["Id"])[..12].to_owned();
    project.start("a", &["--volumes-from", &format!("{short}:ro")], "sleep 1000");
    project.back_up("night", "consistency: {mode: Live}").ok();
    lose(&project);
    project.scene.restore("back", SPEC).ok();
    let states = project.states();
    assert_eq!(states.keys().collect::<Vec<_>>(), ["a", "v", "w", "x", "y", "z"]);
    assert!(states.values().all(|state| state == "running"), "{states:?}");
    let found = project.inspected();
    assert_eq!(found["a"]["HostConfig"]["VolumesFrom"], json!([format!("{}:ro", of("z"))]));
    assert_eq!(found["a"]["Mounts"][0]["Name"], json!(data));
}

/// It was stopped, and no engine starts one without the other that it was made with.
#[test]
fn one_whose_company_is_made_again_is_made_again_with_it_or_left_alone() {
    let Some(project) = Project::new() else { return };
    let data = format!("{}:/data", project.volume("data"));
    project.start("z", &["-v", &data], SERVICE);
    let company = format!("container:{}", project.of("z"));
    project.start("a", &["-v", &data, "--network", &company], SERVICE);
    project.back_up("night", "").ok();
    docker(&["rm", "--force", &project.of("z")]);
    let why = "which is gone: once stopped it could not be started again";
    project.scene.restore("back", SPEC).code(1).says(why).says("hint: remove it");
    project.back_up("other", "").code(1).says(why);
    assert_eq!(project.states()["a"], "running");
    docker(&["rm", "--force", &project.of("a")]);
    project.scene.restore("again", SPEC).ok();
    let states = project.states();
    assert_eq!([&*states["a"], &*states["z"]], ["running", "running"]);
    let found = project.inspected();
    let mode = text(&found["a"]["HostConfig"]["NetworkMode"]);
    let known = [company.clone(), format!("container:{}", text(&found["z"]["Id"]))];
    assert!(known.contains(&mode), "{mode}");
    // One that does not run is left as it is, and people are told.
    docker(&["rm", "--force", &project.of("a")]);
    project.start("a", &["-v", &data, "--network", &company], SERVICE);
    docker(&["stop", &project.of("a")]);
    docker(&["rm", "--force", &project.of("z")]);
    let plan = ["restore", "create", "night", "--recreate-containers", "--dry-run"];
    let told = format!("{} cannot be started any more: it lives in", project.of("a"));
    let plan = project.scene.run(&plan).ok().stdout;
    assert!(plan.contains(&told), "{plan}");
    project.scene.restore("third", SPEC).ok();
    let warnings = project.status("restore", "third")["warnings"].to_string();
    assert!(warnings.contains(&told), "{warnings}");
    let states = project.states();
    assert_eq!([&*states["a"], &*states["z"]], ["exited", "running"]);
}
