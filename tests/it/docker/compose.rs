//! Docker Compose itself: the published files are what it understands, what it makes is what Eider backs up,
//! and it takes what Eider has made again for its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::contained;
use super::engine::{IMAGE, Project, backup, docker};
use crate::scene::{STORE, head, shell, wait_longer};

/// A way to call Compose, version 2 or later; none, loudly, where there is none. Fails where `EIDER_REQUIRE`
/// names compose.
#[allow(clippy::print_stderr)] // How a skip is seen.
fn compose() -> Option<&'static [&'static str]> {
    let found = [&["docker", "compose"][..], &["docker-compose"]].into_iter().find(|words| {
        let version =
            Command::new(words[0]).args(&words[1..]).args(["version", "--short"]).output();
        version.is_ok_and(|said| {
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            let major =
                text.trim().trim_start_matches('v').split('.').next().map(str::parse::<u32>);
            said.status.success() && major.is_some_and(|major| major.is_ok_and(|major| major >= 2))
        })
    });
    if found.is_none() {
        let required = std::env::var("EIDER_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "compose"),
            "EIDER_REQUIRE names compose, but there is no Docker Compose 2 or newer"
        );
        eprintln!("SKIPPED Docker Compose: it is not installed, or it is version 1");
    }
    found
}

/// Files and what Compose is called with.
struct Called<'a> {
    words: &'static [&'static str],
    directory: PathBuf,
    files: &'a [&'a str],
    environment: Vec<(&'static str, String)>,
}

impl Called<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.words[0]);
        command.args(&self.words[1..]).current_dir(&self.directory);
        for file in self.files {
            command.args(["--file", file]);
        }
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// What Compose says, on standard error as it does.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr) + &text(&output.stdout)
    }
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--volumes", "--timeout", "2"]);
    }
}

fn published(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The services of the example with images that are here.
const STAND_INS: &str = "services:
  db:
    image: @image
    network_mode: none
    command: [/bin/sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.1 & wait $$!; done\"]
  cache:
    image: @image
    network_mode: none
    command: [/bin/sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.1 & wait $$!; done\"]
";

#[test]
fn the_example_is_backed_up_lost_and_taken_up_again_by_compose() {
    let Some(project) = Project::new() else { return };
    let Some(words) = compose() else { return };
    // Projects have a name of their own each; containers are called NAME-SERVICE-1.
    let name = format!("{}_c", project.name);
    let example =
        published("examples/docker/compose.yaml").replace("name: shop", &format!("name: {name}"));
    project.scene.write("compose.yaml", example);
    project.scene.write("stand-ins.yaml", STAND_INS.replace("@image", IMAGE));
    project.scene.write("store.yaml", project.scene.fill(STORE));
    let directory = project.scene.path("");
    let environment = Vec::new();
    let files =
        Called { words, directory, files: &["compose.yaml", "stand-ins.yaml"], environment };
    files.ok(&["up", "--detach", "--wait"]);
    let data = format!("{name}_data");
    let format = "{{.Mountpoint}}";
    let at = || PathBuf::from(docker(&["volume", "inspect", "--format", format, &data]).trim());
    shell(&at(), "echo precious > rows; chmod 700 .; chown 70:70 .");
    let started = |service: &str| {
        let format = "{{.State.StartedAt}}";
        docker(&["inspect", "--format", format, &format!("{name}-{service}-1")])
    };
    let before = (started("db"), started("cache"));
    project.scene.run(&["run", "-f", "store.yaml", "-f", "compose.yaml"]).ok();
    let schedules = project.scene.run(&["schedule", "list", "-o", "json"]).ok().items();
    project.scene.run(&["schedule", "run", schedules[0]["name"].as_str().unwrap()]).ok();
    assert_ne!(started("db"), before.0, "it was read while it ran");
    assert_eq!(started("cache"), before.1, "its label says that it goes on");
    let object = project.scene.backups()[0]["object"].as_str().unwrap().to_owned();
    let archive = project.scene.archive(&object);
    let listed = crate::scene::tool("tar", &["tzf", archive.to_str().unwrap()]);
    assert!(
        listed.contains(&format!("volumes/{data}/rows")) && !listed.contains("cache"),
        "{listed}"
    );

    files.ok(&["down", "--volumes", "--timeout", "2"]);
    let spec = format!("{{from: {{backupRef: {{name: {object}}}}}}}");
    project.scene.restore("back", &spec).ok();
    let said = files.ok(&["up", "--detach", "--wait"]);
    assert!(!said.contains("was not created by") && !said.contains("already exists"), "{said}");
    assert_eq!(shell(&at(), "cat rows; stat -c '%a %u' ."), "precious\n700 70\n");
    assert_eq!(shell(&at().join(".."), "stat -c %a _data").trim(), "700");

    // Containers that Eider has made again are its own too.
    docker(&["rm", "--force", &format!("{name}-db-1")]);
    let again = format!(
        "{}metadata: {{name: again}}\nspec: {{from: {{backupRef: {{name: {object}}}}}, \
         recreateContainers: true}}\n",
        head("Restore")
    );
    project.scene.apply(&again).ok();
    let made = docker(&["inspect", "--format", "{{.Id}}", &format!("{name}-db-1")]);
    files.ok(&["up", "--detach", "--wait"]);
    let kept = docker(&["inspect", "--format", "{{.Id}}", &format!("{name}-db-1")]);
    assert_eq!(made, kept, "Compose has made another one");
}

/// An image with the HAProxy of this machine; none without it.
fn proxy_image(project: &Project) -> Option<&'static str> {
    const PROXY: &str = "eider-test/haproxy:1";
    Command::new("haproxy").arg("-v").output().ok()?;
    let place = project.scene.path("haproxy");
    std::fs::create_dir(&place).unwrap();
    let script = format!(
        "mkdir -p bin etc tmp usr/local/etc/haproxy; cp -L $(command -v haproxy) bin/haproxy
        ldd bin/haproxy | sed -nE 's/^[[:space:]]*(.* => )?(\\/[^ ]+) \\(0x.*$/\\2/p' |
        while read library; do mkdir -p .${{library%/*}}; cp -L $library .$library; done
        printf '%s\\n' 'root:x:0:0:root:/:/bin/sh' > etc/passwd
        tar -c . | docker import --change 'ENV PATH=/bin' - {PROXY} >/dev/null"
    );
    shell(&place, &script);
    Some(PROXY)
}

/// Runs deploy/docker as Compose does, and waits for a backup of the project by it.
fn deployed(project: &Project, words: &'static [&'static str], files: &[&str], proxy: &str) {
    let place = project.scene.path("deploy");
    std::fs::create_dir_all(place.join("specs")).unwrap();
    for name in ["compose.yaml", "compose.socket-proxy.yaml", "haproxy.cfg"] {
        std::fs::write(place.join(name), published(&format!("deploy/docker/{name}"))).unwrap();
    }
    // Other tests may have the port.
    std::fs::write(place.join("ports.yaml"), "services: {eider: {ports: !override []}}\n").unwrap();
    let name = format!("{}_e", project.name);
    let environment = vec![
        ("COMPOSE_PROJECT_NAME", name.clone()),
        ("EIDER_IMAGE", contained::image().to_owned()),
        ("EIDER_PROXY_IMAGE", proxy.to_owned()),
        ("EIDER_BACKUPS", project.scene.path("store").display().to_string()),
    ];
    let files = Called { words, directory: place.clone(), files, environment };
    files.ok(&["up", "--detach", "--wait"]);
    let target = format!("project: {}", project.name);
    let store = STORE.replace("@/store", "/srv/backups");
    let object = format!("by-{}", files.files.len());
    let document = format!("{store}---\n{}", backup(&object, &target, ""));
    std::fs::write(place.join("specs/night.yaml"), document).unwrap();
    let eider = ["exec", "-T", "eider", "/usr/local/bin/eider"];
    let mut last = String::new();
    wait_longer("the project is backed up", Duration::from_mins(2), &mut || {
        let list = files.run(&[&eider[..], &["get", "backup", &object, "-o", "json"]].concat());
        last = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(!last.contains("\"Failed\""), "{last}");
        last.contains("\"Succeeded\"") && last.contains("sha256")
    });
    files.ok(&["exec", "-T", "eider", "/usr/local/bin/eider", "health"]);
    assert_eq!(project.states()["db"], "running");
}

#[test]
fn the_compose_files_run_as_they_are_published() {
    let Some(project) = Project::new() else { return };
    let Some(words) = compose() else { return };
    project.shop();
    let _ = std::fs::create_dir(project.scene.path("store"));
    deployed(&project, words, &["compose.yaml", "ports.yaml"], "none");
    project.runs_as_before();
    let Some(proxy) = proxy_image(&project) else { return };
    let files = ["compose.yaml", "compose.socket-proxy.yaml", "ports.yaml"];
    deployed(&project, words, &files, proxy);
    project.runs_as_before();
}
