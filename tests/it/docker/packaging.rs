//! The image and the Compose file that are published: built without a registry, run as they say.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::engine::{IMAGE, Project, SERVICE, backup, docker, text};
use crate::scene::{STORE, tool, wait_longer};

/// Builds the Dockerfile from the binary under test, from local images only.
fn built(project: &Project) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = project.scene.path("context");
    std::fs::create_dir(&place).unwrap();
    let (script, place) = (root.join("scripts/image.sh"), place.to_str().unwrap().to_owned());
    let script = script.to_str().unwrap();
    tool(script, &["--tree", &place, env!("CARGO_BIN_EXE_eider")]);
    let tag = format!("eider-test/published:{}", project.name);
    let recipe = root.join("Dockerfile");
    let output = Command::new("docker")
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", "--force-rm", "--build-arg", &format!("BUILDER={IMAGE}")])
        .args(["--build-arg", "BASE=scratch", "--tag", &tag])
        .args(["--label", "dev.eider.image=published", "--file", recipe.to_str().unwrap(), &place])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    tag
}

struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

#[test]
fn the_image_is_built_without_a_registry_and_becomes_healthy_as_the_compose_file_runs_it() {
    let Some(project) = Project::new() else { return };
    let image = Image(built(&project));
    let found: Value = serde_json::from_str(&docker(&["image", "inspect", &image.0])).unwrap();
    let configuration = &found[0]["Config"];
    assert_eq!(configuration["User"], "65532:65532");
    assert_eq!(configuration["Entrypoint"][0], "/usr/local/bin/eider");
    let check = configuration["Healthcheck"]["Test"].to_string();
    assert_eq!(check, r#"["CMD","/usr/local/bin/eider","health"]"#);
    let version = docker(&["run", "--rm", "--network", "none", &image.0, "--version"]);
    assert!(version.starts_with("eider "), "{version}");

    // A container without a daemon is not healthy.
    let health = Command::new("docker")
        .args(["run", "--rm", "--network", "none", &image.0, "health"])
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(5));

    // As deploy/docker/compose.yaml has it.
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    for name in ["specs", "store"] {
        let _ = std::fs::create_dir(project.scene.path(name));
    }
    let target = format!("project: {}", project.name);
    let store = STORE.replace("@/store", "/srv/backups");
    let document = format!("{store}---\n{}", backup("night", &target, ""));
    let (state, name) = (project.volume("state"), project.of("eider"));
    let volumes = [
        "/var/run/docker.sock:/var/run/docker.sock".to_owned(),
        format!("{}:/etc/eider:ro", project.scene.path("specs").display()),
        format!("{state}:/var/lib/eider"),
        format!("{}:/srv/backups", project.scene.path("store").display()),
    ];
    let mut arguments = vec!["run", "--detach", "--name", &name, "--user", "0:0", "--read-only"];
    arguments.extend(["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]);
    arguments.extend(["--tmpfs", "/run/eider", "--tmpfs", "/tmp", "--memory", "512m"]);
    arguments.extend(["--health-interval", "1s", "--health-start-period", "1s"]);
    arguments.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
    arguments.extend([&image.0, "daemon", "--specs", "/etc/eider", "--listen", "0.0.0.0:9110"]);
    docker(&arguments);
    wait_longer("it is healthy", Duration::from_mins(1), &mut || {
        text(&project.inspected()["eider"]["State"]["Health"]["Status"]) == "healthy"
    });
    project.scene.write("specs/night.yaml", document);
    wait_longer("the backup is there", Duration::from_mins(1), &mut || {
        project.scene.stored().iter().any(|name| name.ends_with(".manifest.json"))
    });
    let listed = docker(&["exec", &name, "/usr/local/bin/eider", "backup", "list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["items"][0]["object"], "night", "{listed:#}");
    // SIGTERM puts everything back and ends well.
    docker(&["stop", "--time", "60", &name]);
    assert_eq!(project.inspected()["eider"]["State"]["ExitCode"], 0);
    assert_eq!(project.states()["db"], "running");
}
