//! Upgrades of running services: to a good version, and to three bad ones, which are undone with the
//! data.

use std::time::Duration;

use serde_json::{Value, json};

use super::engine::{IMAGE, Project, docker, lines, text};
use crate::scene::{Ended, STORE, head, shell, tool};

/// The versions of the tests' service.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    First,
    Good,
    /// Another one that is good.
    Better,
    /// Ends at once, after it has changed the data.
    FailsToStart,
    /// Runs, and its health check never passes.
    NeverHealthy,
    /// Is healthy, and ends two seconds later.
    DiesInTheSoak,
}

impl Version {
    pub fn number(self) -> &'static str {
        match self {
            Self::First => "1.0.0",
            Self::Good => "2.0.0",
            Self::Better => "2.5.0",
            Self::FailsToStart => "3.0.0",
            Self::NeverHealthy => "4.0.0",
            Self::DiesInTheSoak => "5.0.0",
        }
    }

    /// A file among the data that this version removes, and no other does.
    pub fn removes(self) -> String {
        format!("only-before-{}", self.number())
    }

    fn behaves(self) -> &'static str {
        match self {
            Self::First | Self::Good | Self::Better => "touch /tmp/healthy",
            Self::FailsToStart => "echo 'no such table' >&2; exit 1",
            Self::NeverHealthy => "true",
            Self::DiesInTheSoak => "touch /tmp/healthy; sleep 4; exit 1",
        }
    }

    /// The image, made if it is not there: it writes its version into the data and removes a file.
    pub fn image(self) -> String {
        let number = self.number();
        let tag = format!("eider-test/docker-service:{number}");
        let migrate = format!("echo {number} > /data/version");
        let drop = format!("rm -f /data/{}", self.removes());
        let script = format!(
            "trap 'exit 0' TERM; {migrate}; {drop}; {}; while :; do sleep 0.1 & wait $!; done",
            self.behaves()
        );
        // It keeps something of its own where the old version has nothing.
        let volume = if matches!(self, Self::NeverHealthy) { "VOLUME /fresh\n" } else { "" };
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("service"), script).unwrap();
        let recipe = format!(
            "FROM {IMAGE}\nLABEL org.opencontainers.image.version={number}\nENV VERSION={number}\n\
             COPY service /service\n{volume}HEALTHCHECK --interval=1s --timeout=2s --retries=3 \
             CMD test -e /tmp/healthy\nCMD [\"/bin/sh\", \"/service\"]\n"
        );
        std::fs::write(place.path().join("Dockerfile"), recipe).unwrap();
        shell(place.path(), &format!("DOCKER_BUILDKIT=0 docker build --quiet --tag {tag} ."));
        tag
    }
}

/// A project whose service `db` runs the first version with everything that may get lost, and whose
/// service `proxy` lives in its network.
pub fn stage() -> Option<Project> {
    let project = Project::new()?;
    let data = project.volume("data");
    let network = project.of("net");
    docker(&["network", "create", "--subnet", &subnet(&project), &network]);
    let image = Version::First.image();
    let full = project.of("db");
    let labels = [
        format!("com.docker.compose.project={}", project.name),
        "com.docker.compose.service=db".to_owned(),
        "org.example.own=kept".to_owned(),
    ];
    let address = subnet(&project).replace("0/24", "77");
    docker(&[
        "run",
        "-d",
        "--name",
        &full,
        "--label",
        &labels[0],
        "--label",
        &labels[1],
        "--label",
        &labels[2],
        "-v",
        &format!("{data}:/data"),
        "-v",
        "/cache",
        "--network",
        &network,
        "--ip",
        &address,
        "--network-alias",
        "database",
        "--restart",
        "unless-stopped",
        "--cpus",
        "1.5",
        "--pids-limit",
        "200",
        "--memory",
        "64m",
        "--cap-add",
        "NET_ADMIN",
        "--env",
        "PASSWORD=secret",
        "--ulimit",
        "nofile=1000:2000",
        "--stop-timeout",
        "7",
        "--log-opt",
        "max-size=1m",
        "--add-host",
        "other:10.1.2.3",
        "--tmpfs",
        "/run/x",
        "--read-only=false",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=80",
        &image,
    ]);
    let own = format!("container:{full}");
    docker(&[
        "run",
        "-d",
        "--name",
        &project.of("proxy"),
        "--label",
        &labels[0],
        "--label",
        "com.docker.compose.service=proxy",
        "--network",
        &own,
        IMAGE,
        "/bin/sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done",
    ]);
    crate::scene::wait_until("the first version has started", || {
        lines(&project.at("data").join("version")) == ["1.0.0"]
    });
    shell(&project.at("data"), "seq 1000 > rows");
    docker(&["exec", &full, "/bin/sh", "-c", "echo warm > /cache/state"]);
    Some(project)
}

/// A network of its own for each project.
fn subnet(project: &Project) -> String {
    let sum: u32 = project.name.bytes().fold(7, |sum, byte| (sum * 31 + u32::from(byte)) % 60_000);
    format!("10.{}.{}.0/24", 100 + sum / 256 % 100, sum % 256)
}

/// One Upgrade of the project's `db`.
pub fn document(project: &Project, name: &str, version: Version, more: &str) -> String {
    let (number, image) = (version.number(), version.image());
    format!(
        "{}metadata: {{name: {name}}}\nspec:\n  target: {{docker: {{project: {}}}}}\n  \
         toVersion: \"{number}\"\n  images: {{db: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: 8s, soak: 5s}}\n{more}",
        head("Upgrade"),
        project.name
    )
}

fn upgrade(project: &Project, name: &str, version: Version, more: &str) -> Ended {
    let text = document(project, name, version, more);
    project.scene.apply(&format!("{STORE}---\n{text}"))
}

/// What is the same before and after; ids, times and what the image brings are not.
pub fn settings(found: &Value) -> Value {
    let mut found = found.clone();
    let config = &mut found["Config"];
    for field in ["Image", "Hostname"] {
        config[field] = Value::Null;
    }
    let kept = |item: &Value| !text(item).starts_with("VERSION=");
    let environment = config["Env"].as_array().unwrap().iter().filter(|item| kept(item));
    config["Env"] = json!(environment.collect::<Vec<_>>());
    for label in ["org.opencontainers.image.version", "eider.upgrade"] {
        config["Labels"].as_object_mut().unwrap().remove(label);
    }
    let networks = found["NetworkSettings"]["Networks"].clone();
    let endpoint = |endpoint: &Value| {
        let id = text(&found["Id"]);
        let aliases: Vec<String> = endpoint["Aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .filter(|alias| !id.starts_with(alias.as_str()))
            .collect();
        json!([endpoint["IPAMConfig"], endpoint["IPAddress"], endpoint["MacAddress"], aliases])
    };
    let networks: Vec<Value> = networks.as_object().unwrap().values().map(endpoint).collect();
    let mut mounts: Vec<Value> = found["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| json!([mount["Type"], mount["Name"], mount["Destination"], mount["RW"]]))
        .collect();
    mounts.sort_by_key(ToString::to_string);
    let mut host = found["HostConfig"].clone();
    // The same volume, now by its name: among the mounts it is compared.
    host["Mounts"] = Value::Null;
    json!({"config": found["Config"], "host": host, "networks": networks, "mounts": mounts})
}

#[test]
fn a_good_version_takes_over_with_every_setting_of_the_old_one() {
    let Some(project) = stage() else { return };
    let before = project.inspected();
    upgrade(&project, "up", Version::Good, "").ok();
    let after = project.inspected();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["db", "proxy"], "nothing is left over");
    assert_ne!(before["db"]["Id"], after["db"]["Id"]);
    assert_eq!(text(&after["db"]["Config"]["Image"]), Version::Good.image());
    assert_eq!(settings(&before["db"]), settings(&after["db"]));
    for name in ["db", "proxy"] {
        assert_eq!(after[name]["State"]["Status"], "running", "{name}");
    }
    let mode = text(&after["proxy"]["HostConfig"]["NetworkMode"]);
    let id = text(&after["db"]["Id"]);
    assert!(mode == format!("container:{id}") || mode.ends_with(&project.of("db")), "{mode}");
    assert_eq!(lines(&project.at("data").join("version")), ["2.0.0"]);
    let cache = docker(&["exec", &project.of("db"), "/bin/cat", "/cache/state"]);
    assert_eq!(cache, "warm\n", "the anonymous volume went with the service");
    let status = project.status("upgrade", "up");
    assert_eq!(status["phase"], "Succeeded", "{status:#}");
    assert_eq!(status["fromVersion"], "1.0.0");
    // The backup before it holds the old data.
    let record = project.scene.record("up-before-upgrade");
    assert_eq!(record["sourceVersion"], "1.0.0", "{record:#}");
    // Nothing to do is refused, and so is the way back, unless somebody insists.
    upgrade(&project, "again", Version::Good, "").code(4).says("runs these images already");
    upgrade(&project, "back", Version::First, "").code(4).says("older");
    upgrade(&project, "forced", Version::First, "  force: true\n").ok();
}

/// Engines before API 1.44 keep it in the container's configuration, where the client library does not look.
#[test]
fn a_hardware_address_that_somebody_chose_goes_with_its_service() {
    let Some(project) = Project::new() else { return };
    let (data, network, full) = (project.volume("data"), project.of("net"), project.of("db"));
    docker(&["network", "create", &network]);
    let chosen = "02:ab:cd:00:00:07";
    let body = json!({
        "Image": Version::First.image(),
        "MacAddress": chosen,
        "Labels": {
            "com.docker.compose.project": project.name,
            "com.docker.compose.service": "db",
        },
        "HostConfig": {"Binds": [format!("{data}:/data")], "NetworkMode": network},
        "NetworkingConfig": {"EndpointsConfig": {(&network): {"MacAddress": chosen}}},
    });
    // Newer `docker run` asks an older engine for no address: so the engine is asked itself.
    let api = docker(&["version", "--format", "{{.Server.APIVersion}}"]);
    let url = format!("http://engine/v{}/containers/create?name={full}", api.trim());
    let socket = ["--unix-socket", "/var/run/docker.sock"];
    let sent = ["-sSf", "-H", "Content-Type: application/json", "--data", &body.to_string(), &url];
    tool("curl", &[&socket[..], &sent].concat());
    docker(&["start", &full]);
    crate::scene::wait_until("the first version has started", || {
        lines(&project.at("data").join("version")) == ["1.0.0"]
    });
    let address = || {
        let db = project.inspected()["db"].clone();
        (text(&db["Id"]), text(&db["NetworkSettings"]["Networks"][&network]["MacAddress"]))
    };
    let (old, before) = address();
    assert_eq!(before, chosen);
    upgrade(&project, "up", Version::Good, "").ok();
    let (new, after) = address();
    assert_ne!(old, new);
    assert_eq!(after, chosen);
}

/// The old version came back on what the new one had written: the restore of its data was cancelled, too.
#[test]
fn an_upgrade_that_is_interrupted_while_its_new_version_runs_puts_the_old_data_back() {
    let Some(project) = stage() else { return };
    let text = document(&project, "up", Version::Good, "").replace("soak: 5s", "soak: 5m");
    let file = project.scene.write("up.yaml", project.scene.fill(&format!("{STORE}---\n{text}")));
    let mut running =
        project.scene.command(&["run", "-f", file.to_str().unwrap()]).spawn().unwrap();
    crate::scene::wait_longer("the new version runs", Duration::from_mins(2), &mut || {
        lines(&project.at("data").join("version")) == ["2.0.0"]
    });
    shell(&project.at("data"), "echo new > schema");
    let interrupt = rustix::process::Signal::INT;
    let process = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(process, interrupt).unwrap();
    assert!(!running.wait().unwrap().success());
    assert_eq!(image_of_db(&project), Version::First.image());
    assert_eq!(lines(&project.at("data").join("version")), ["1.0.0"]);
    assert!(!project.at("data").join("schema").exists(), "the old version has the new one's data");
}

fn image_of_db(project: &Project) -> String {
    text(&project.inspected()["db"]["Config"]["Image"])
}

fn rolls_back(version: Version, because: &str) {
    let Some(project) = stage() else { return };
    let before = project.inspected();
    let precious = version.removes();
    shell(&project.at("data"), &format!("echo precious > {precious}"));
    let ended = upgrade(&project, "up", version, "").code(1);
    assert!(ended.stderr.contains(because), "{ended:#?}");
    let after = project.inspected();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["db", "proxy"], "nothing is left over");
    for name in ["db", "proxy"] {
        assert_eq!(before[name]["Id"], after[name]["Id"], "{name} is the old one");
        assert_eq!(after[name]["State"]["Status"], "running", "{name}");
        let policy = |found: &Value| found["HostConfig"]["RestartPolicy"].clone();
        assert_eq!(policy(&before[name]), policy(&after[name]));
    }
    let data = project.at("data");
    assert_eq!(lines(&data.join(precious)), ["precious"], "the data is the old one");
    assert_eq!(lines(&data.join("version")), ["1.0.0"]);
    assert_eq!(lines(&data.join("rows")).len(), 1000);
    let status = project.status("upgrade", "up");
    assert_eq!(status["phase"], "RolledBack", "{status:#}");
    assert!(text(&status["rollbackReason"]).contains("Unhealthy"), "{status:#}");
    // What has been written since must not be taken for the new version's.
    project.scene.run(&["upgrade", "rollback", "up", "--yes"]).code(4).says("undone already");
}

#[test]
fn a_version_that_fails_to_start_is_undone_with_its_data() {
    rolls_back(Version::FailsToStart, "db has ended");
}

#[test]
fn a_version_that_never_becomes_healthy_is_undone_with_its_data() {
    rolls_back(Version::NeverHealthy, "db is unhealthy");
}

#[test]
fn a_version_that_dies_in_the_soak_is_undone_with_its_data() {
    rolls_back(Version::DiesInTheSoak, "did not stay healthy");
}

#[test]
fn an_image_that_is_not_there_is_found_out_before_anything_stops() {
    let Some(project) = stage() else { return };
    let document = document(&project, "up", Version::Good, "");
    let missing = document.replace("eider-test/docker-service:2.0.0", "localhost:1/no/such:2.0.0");
    let started = project.inspected()["db"]["State"]["StartedAt"].clone();
    project
        .scene
        .apply(&format!("{STORE}---\n{missing}"))
        .code(1)
        .says("localhost:1/no/such:2.0.0");
    assert_eq!(project.inspected()["db"]["State"]["StartedAt"], started);
}

#[test]
fn a_store_that_cannot_take_the_backup_is_found_out_before_anything_stops() {
    let Some(project) = stage() else { return };
    let started = project.inspected()["db"]["State"]["StartedAt"].clone();
    let document = document(&project, "up", Version::Good, "");
    let full = STORE.trim_end().replace("local:", "minFree: 900Pi, local:");
    project.scene.apply(&format!("{full}\n---\n{document}")).code(4).says("not enough space");
    let found = project.inspected();
    assert_eq!(found["db"]["State"]["StartedAt"], started, "it was stopped for nothing");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["db", "proxy"]);
}

#[test]
fn an_upgrade_from_the_command_line_and_the_way_back_later() {
    let Some(project) = stage() else { return };
    let data = project.at("data");
    let scene = &project.scene;
    scene.apply(STORE).ok();
    let image = format!("db={}", Version::Good.image());
    let create = ["upgrade", "create", "--project", &project.name, "--image", &image];
    let create = [&create[..], &["--name", "up", "--store", "main", "--soak", "1s"]].concat();
    let plan = scene.run(&[&create[..], &["--dry-run"]].concat()).ok();
    assert!(plan.stdout.contains("keep the old"), "{}", plan.stdout);
    let removed = Version::Good.removes();
    shell(&data, &format!("echo precious > {removed}"));
    scene.run(&create).ok();
    assert_eq!(lines(&data.join("version")), ["2.0.0"]);
    // Later, after it has worked with the new version.
    shell(&data, "echo later > later");
    scene.run(&["upgrade", "rollback", "up", "--dry-run"]).ok();
    scene.run(&["upgrade", "rollback", "up"]).code(2).says("--yes");
    scene.run(&["upgrade", "rollback", "up", "--yes"]).ok();
    assert_eq!(text(&project.inspected()["db"]["Config"]["Image"]), Version::First.image());
    assert_eq!(lines(&data.join("version")), ["1.0.0"]);
    assert_eq!(lines(&data.join(removed)), ["precious"]);
    assert!(!data.join("later").exists(), "the data is that of before the upgrade");
    assert_eq!(project.inspected().keys().collect::<Vec<_>>(), ["db", "proxy"]);
    // What was there before the way back is kept too.
    let kept = scene
        .backups()
        .into_iter()
        .find(|one| one["object"].as_str().is_some_and(|name| name.starts_with("up-back-")));
    let archive = kept.unwrap()["backupPath"].as_str().unwrap().to_owned();
    let listed = crate::scene::tool("tar", &["tzf", &archive]);
    assert!(listed.lines().any(|line| line.ends_with("/later")), "{listed}");
    // What was written since is not to be replaced once more.
    scene.run(&["upgrade", "rollback", "up", "--yes"]).code(4).says("taken back already");
    // Without its backup nothing leads back.
    scene.run(&["backup", "delete", "up-before-upgrade", "--yes"]).ok();
    scene.run(&["upgrade", "rollback", "up", "--yes"]).code(3).says("is not there any more");
    scene.run(&["upgrade", "rollback", "nothing", "--yes"]).code(3);
}

#[test]
fn a_way_back_that_fails_leaves_the_new_version_on_its_data() {
    let Some(project) = stage() else { return };
    let data = project.at("data");
    project.scene.apply(STORE).ok();
    upgrade(&project, "up", Version::Good, "").ok();
    shell(&data, "echo later > later");
    let bad = document(&project, "bad-back", Version::FailsToStart, "  force: true\n")
        .replace("  healthGate", "  dataFrom: {name: up-before-upgrade}\n  healthGate");
    project.scene.apply(&bad).code(1).says("db has ended");
    assert_eq!(text(&project.inspected()["db"]["Config"]["Image"]), Version::Good.image());
    assert_eq!(lines(&data.join("version")), ["2.0.0"]);
    assert_eq!(lines(&data.join("later")), ["later"]);
}
