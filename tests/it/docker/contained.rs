//! Eider in a container of its own: it reaches volumes and paths by workers, and its death and theirs
//! change nothing about the end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::engine::{DEAF, IMAGE, Project, SERVICE, backup, docker, lines, text};
use crate::scene::{Ended, STORE, assert_same, shell, tool, wait_longer};

/// The image of the program under test.
pub fn image() -> &'static str {
    // Once: another build may replace the program while tests run.
    static IMAGE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    IMAGE.get_or_init(made_image)
}

fn made_image() -> String {
    let program = env!("CARGO_BIN_EXE_eider");
    let digest = tool("sha256sum", &[program])[..12].to_owned();
    let tag = format!("eider-test/eider:{digest}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image.sh");
    let lock = std::env::temp_dir().join("eider-test-image.lock");
    let script = script.to_str().unwrap();
    tool("flock", &[lock.to_str().unwrap(), script, &tag, program]);
    // Images of builds of other days.
    let old = ["--filter=label=dev.eider.image", "--filter=until=24h"];
    let _ = Command::new("docker").args(["image", "prune", "--all", "--force"]).args(old).output();
    tag
}

/// Arguments of `docker run` for Eider beside a project: the engine's socket, the store, the catalog and
/// the documents, each where it is on the host, so that both sides can be asked for the same things.
pub fn arguments(project: &Project, more: &[&str]) -> Vec<String> {
    let scene = &project.scene;
    for name in ["catalog", "specs"] {
        std::fs::create_dir_all(scene.path(name)).unwrap();
    }
    let mut arguments: Vec<String> = ["run", "--user", "0:0", "--network", "none"]
        .iter()
        .chain(["--volume", "/var/run/docker.sock:/var/run/docker.sock"].iter())
        .map(|word| (*word).to_owned())
        .collect();
    for name in ["catalog", "specs", "store"] {
        let path = scene.path(name);
        arguments.push(format!("--volume={0}:{0}", path.display()));
    }
    let catalog = scene.path("catalog/eider.duckdb");
    arguments.push(format!("--env=EIDER_CATALOG={}", catalog.display()));
    arguments.push("--env=EIDER_SOCKET=/tmp/eider.sock".to_owned());
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    arguments.push(image().to_owned());
    arguments
}

/// Runs Eider in a container to its end; `environment` are assignments.
pub fn run(project: &Project, environment: &[&str], command: &[&str]) -> Ended {
    let mut more = vec!["--rm".to_owned()];
    more.extend(environment.iter().map(|assignment| format!("--env={assignment}")));
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut arguments = arguments(project, &more);
    arguments.extend(command.iter().map(|word| (*word).to_owned()));
    Command::new("docker").args(arguments).output().unwrap().into()
}

/// Applies documents in a container.
pub fn apply(project: &Project, environment: &[&str], documents: &str) -> Ended {
    let file = project.scene.write("specs/documents.yaml", project.scene.fill(documents));
    run(project, environment, &["run", "-f", file.to_str().unwrap()])
}

/// Containers of workers of this test: they mount its store.
fn workers(project: &Project) -> String {
    let store = format!("volume={}", project.scene.path("store").display());
    docker(&["ps", "--all", "--quiet", "--filter", "label=eider.worker", "--filter", &store])
}

fn night(project: &Project, more: &str) -> String {
    let target = format!("project: {}", project.name);
    format!("{STORE}---\n{}", backup("night", &target, more))
}

const RESTORE: &str = "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: back}\n\
                       spec: {from: {backupRef: {name: night}}}\n";

#[test]
fn a_project_is_backed_up_damaged_and_restored_identically() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let script = "mkdir -p deep/er; echo one > deep/er/one; ln -s deep/er/one link; ln deep/er/one hard;
                  truncate -s 5M sparse; chmod 4711 hard; chown 12:34 deep; touch -d 2020-02-02 deep;
                  mkfifo pipe; setfattr -n user.note -v kept deep/er/one";
    shell(&project.at("data"), script);
    apply(&project, &[], &night(&project, "")).ok();
    project.runs_as_before();
    assert_eq!(lines(&project.at("data").join("log")), ["started", "stopped", "started"]);
    assert_eq!(workers(&project), "", "a worker is left");
    let names = ["db", "web", "reporter"].map(|name| project.of(name));
    let archive = project.scene.archive("night");
    let place = project.scene.path("reference");
    std::fs::create_dir(&place).unwrap();
    let gnu = ["--numeric-owner", "--xattrs", "-xpzf", archive.to_str().unwrap(), "-C"];
    tool("tar", &[&gnu[..], &[place.to_str().unwrap()]].concat());
    let data = place.join("volumes").join(project.of("data"));

    shell(&project.at("data"), "rm -rf deep link pipe; echo damage > hard; echo more > junk");
    project.scene.write("live/site/index.html", "defaced");
    apply(&project, &[], RESTORE).ok();
    project.runs_as_before();
    assert_eq!(workers(&project), "", "a worker is left");
    assert_eq!(project.scene.read("live/site/index.html"), "<h1>shop</h1>");
    docker(&["stop", &names[0], &names[1], &names[2]]);
    for file in ["log", "now", "reporter-log"] {
        for tree in [&data, &project.at("data")] {
            let _ = std::fs::remove_file(tree.join(file));
        }
    }
    for tree in [&data, &project.at("data")] {
        shell(tree, "touch -d 2021-01-01 .");
    }
    assert_same(&data, &project.at("data"));
}

#[test]
fn missing_volumes_and_paths_are_made_and_volumes_that_are_nowhere_are_reached() {
    let Some(project) = Project::new() else { return };
    let (data, device) = (project.volume("data"), project.of("device"));
    let place = project.scene.path("device");
    std::fs::create_dir(&place).unwrap();
    // Its data is not at its mount point: only a container can read it there.
    let option = format!("device={}", place.display());
    docker(&[
        "volume",
        "create",
        "--opt",
        "type=none",
        "--opt",
        "o=bind",
        "--opt",
        &option,
        &device,
    ]);
    let site = project.scene.path("live/site");
    project.scene.write("live/site/index.html", "<h1>shop</h1>");
    let bind = format!("{}:/site", site.display());
    let mounts = [format!("{data}:/data"), format!("{device}:/device"), bind];
    let mounts: Vec<&str> = mounts.iter().flat_map(|mount| ["-v", mount]).collect();
    project.start("db", &mounts, "echo kept > /data/file; echo kept > /device/file; sleep 1000");
    wait_longer("the files are there", Duration::from_secs(20), &mut || {
        place.join("file").exists()
    });
    apply(&project, &[], &night(&project, "consistency: {mode: Pause}")).ok();
    docker(&["rm", "-f", &project.of("db")]);
    docker(&["volume", "rm", &data]);
    std::fs::remove_dir_all(&site).unwrap();
    std::fs::write(place.join("file"), "damaged").unwrap();
    apply(&project, &[], RESTORE).ok();
    assert_eq!(lines(&project.at("data").join("file")), ["kept"]);
    assert_eq!(lines(&place.join("file")), ["kept"]);
    assert_eq!(project.scene.read("live/site/index.html"), "<h1>shop</h1>");
    let label = "{{index .Labels \"com.docker.compose.volume\"}}";
    assert_eq!(docker(&["volume", "inspect", "--format", label, &data]).trim(), "data");
}

#[test]
fn whatever_way_an_operation_ends_it_leaves_no_worker() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let name = project.of("eider");
    let specs = project.scene.path("specs");
    let mut arguments = arguments(&project, &["--detach", "--name", &name]);
    arguments.extend(["daemon", "--specs", specs.to_str().unwrap()].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // It fails between its look at the data and reading it: the way back has nothing to do with data.
    let failing = "hooks: {before: [{exec: {container: db, command: [\"false\"]}}]}";
    project.scene.write("specs/night.yaml", project.scene.fill(&night(&project, failing)));
    docker(&arguments);
    let get = ["exec", &name, "/usr/local/bin/eider", "get", "backup", "night", "-o", "json"];
    wait_longer("the Backup has failed", Duration::from_mins(1), &mut || {
        let found = Command::new("docker").args(get).output().unwrap();
        String::from_utf8_lossy(&found.stdout).contains("\"HookFailed\"")
    });
    wait_longer("its worker is gone", Duration::from_secs(10), &mut || {
        workers(&project).is_empty()
    });
    assert_eq!(text(&project.inspected()["eider"]["State"]["Status"]), "running");
}

#[test]
fn a_store_that_would_go_with_the_container_or_lies_on_the_data_is_refused() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let inside = night(&project, "").replace("@/store", "/backups");
    apply(&project, &[], &inside).says("would go with it");
    // The store on a volume of the project, under another name in here.
    let data = format!("--volume={}:/backups", project.of("data"));
    let mut arguments = arguments(&project, &["--rm", &data]);
    let again = inside.replace("name: night", "name: again");
    let file = project.scene.write("specs/again.yaml", project.scene.fill(&again));
    arguments.extend(["run", "-f", file.to_str().unwrap()].map(str::to_owned));
    let ended: Ended = Command::new("docker").args(arguments).output().unwrap().into();
    ended.code(2).says("which is to be backed up");
    assert_eq!(lines(&project.at("data").join("log")), ["started"], "somebody was stopped");
    assert_eq!(workers(&project), "");
}

/// Names do not tell: a Backup would lie in what it backs up, and a Restore swap it away.
#[test]
fn a_store_that_shows_the_data_by_another_name_is_refused() {
    let Some(project) = Project::new() else { return };
    project.scene.write("live/shop/file", "kept");
    let shop = project.scene.path("live/shop");
    std::fs::create_dir(shop.join("backups")).unwrap();
    let volume = |name: &str, device: &Path| {
        let (name, device) = (project.of(name), format!("device={}", device.display()));
        let bind = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
        docker(&[&["volume", "create"], &bind[..], &[&name]].concat());
        name
    };
    let data = volume("data", &shop);
    let (same, inner) = (volume("same", &shop), volume("inner", &shop.join("backups")));
    // Only the kernel knows where it leads.
    let link = project.scene.path("link");
    std::os::unix::fs::symlink(&shop, &link).unwrap();
    let link = link.to_string_lossy().into_owned();
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    let target = format!("project: {}", project.name);
    for (number, store) in [same, inner, link].iter().enumerate() {
        let mount = format!("--volume={store}:/backups");
        let mut arguments = arguments(&project, &["--rm", &mount]);
        let document = backup(&format!("night{number}"), &target, "");
        let document = format!("{STORE}---\n{document}").replace("@/store", "/backups/main");
        let file = project.scene.write("specs/again.yaml", project.scene.fill(&document));
        arguments.extend(["run", "-f", file.to_str().unwrap()].map(str::to_owned));
        let ended: Ended = Command::new("docker").args(arguments).output().unwrap().into();
        assert_ne!(ended.code, 0, "{store}: {ended:#?}");
        ended.says("which is to be backed up");
    }
    assert_eq!(lines(&shop.join("log")), ["started"], "somebody was stopped");
    assert_eq!(workers(&project), "");
}

/// A worker that dies at any of these points: the operation ends with its reason, or succeeds by
/// another worker, and the services run.
#[test]
fn a_worker_that_is_killed_leaves_the_services_running() {
    let Some(project) = Project::new() else { return };
    project.shop();
    shell(&project.at("data"), "mkdir deep; echo one > deep/one; seq 200000 > numbers");
    apply(&project, &[], &night(&project, "")).ok();
    let point = |name: &str| format!("EIDER_WORKER_FAILPOINT={name}");
    for (number, (name, codes)) in [
        ("archive.started", [1, 1]),
        ("archive.middle", [1, 1]),
        ("archive.written", [1, 1]),
        // Others are made in its place, and die at the same point unless they find it passed.
        ("seal.synced", [0, 1]),
        ("seal.renamed", [0, 1]),
        ("seal.manifest-renamed", [0, 1]),
        ("verify.middle", [1, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("project: {}", project.name);
        let document = format!("{STORE}---\n{}", backup(&format!("b{number}"), &target, ""));
        let ended = apply(&project, &[&point(name)], &document);
        assert!(codes.contains(&ended.code), "{name}: {ended:#?}");
        if ended.code == 1 {
            assert!(ended.stderr.contains("was lost"), "{name}: {ended:#?}");
        }
        project.runs_as_before();
        assert_eq!(workers(&project), "", "{name}");
        assert_eq!(project.scene.stored().len() % 2, 0, "{name}: {:?}", project.scene.stored());
    }
    // A worker reaches a volume by its own mount of it, so the children are moved one by one.
    let points = [
        ("extract.middle", true),
        ("swap.child-moved-out", true),
        ("swap.child-moved-in", true),
        // What is replaced has been by then.
        ("drop.started", false),
        ("drop.middle", false),
    ];
    for (number, (name, is_lost)) in points.into_iter().enumerate() {
        shell(&project.at("data"), "rm -rf deep; echo damage > numbers; echo junk > junk");
        let document = RESTORE.replace("back}", &format!("r{number}}}"));
        let ended = apply(&project, &[&point(name)], &document);
        assert_eq!(ended.code, i32::from(is_lost), "{name}: {ended:#?}");
        assert_eq!(ended.stderr.contains("was lost"), is_lost, "{name}: {ended:#?}");
        project.runs_as_before();
        assert_eq!(workers(&project), "", "{name}");
        let (old, new) = (
            project.at("data").join("junk").exists(),
            project.at("data").join("deep/one").exists(),
        );
        assert!(old != new, "{name}: neither the old nor the new tree");
    }
    project.scene.run(&["backup", "verify", "--all"]).ok();
}

#[test]
fn a_daemon_that_is_killed_while_it_stops_a_project_lets_it_run_again() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let mount = format!("{data}:/data");
    project.start("db", &["--stop-timeout", "3", "-v", &mount], DEAF);
    let depends = "com.docker.compose.depends_on=db:service_started:false";
    project.start("web", &["--label", depends, "-v", &mount], SERVICE);
    let name = project.of("eider");
    let specs = project.scene.path("specs");
    let mut arguments = arguments(&project, &["--detach", "--name", &name]);
    arguments.extend(["daemon", "--specs", specs.to_str().unwrap()].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let document = night(&project, "").replace("services:", "");
    project.scene.write("specs/night.yaml", project.scene.fill(&document));
    docker(&arguments);
    let state = |service: &str| text(&project.inspected()[service]["State"]["Status"]);
    wait_longer("web is stopped", Duration::from_mins(1), &mut || state("web") == "exited");
    docker(&["kill", &name]);
    assert_eq!(state("web"), "exited");
    docker(&["start", &name]);
    wait_longer("both run", Duration::from_secs(30), &mut || {
        state("web") == "running" && state("db") == "running"
    });
    wait_longer("the Backup has ended", Duration::from_secs(30), &mut || {
        let found = Command::new("docker")
            .args(["exec", &name, "/usr/local/bin/eider", "get", "backup", "night", "-o", "json"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        text.contains("\"Interrupted\"")
    });
    assert_eq!((state("web"), state("db")), ("running".to_owned(), "running".to_owned()));
    assert!(docker(&["image", "ls", "--quiet", IMAGE]).trim().len() > 1);
    assert_eq!(workers(&project), "");
}

/// The files by which a container is known are those of whoever's network it lives in.
#[test]
fn eider_in_the_network_of_another_container_does_not_take_itself_for_that_one() {
    let Some(project) = Project::new() else { return };
    project.shop();
    let vpn = project.of("vpn");
    let idle = "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done";
    docker(&["run", "-d", "--name", &vpn, IMAGE, "/bin/sh", "-c", idle]);
    let run = |network: &str, name: &str, target: &str| -> Ended {
        let text = project.scene.fill(&format!("{STORE}---\n{}", backup(name, target, "")));
        let file = project.scene.write("specs/documents.yaml", text);
        // As engines of today do it, so that its control group does not tell its id.
        let more = ["--rm", "--cgroupns", "private", "--name", &project.of("eider")];
        let mut arguments = arguments(&project, &more);
        let place = arguments.iter().position(|word| word == "none").unwrap();
        arguments[place] = format!("container:{network}");
        arguments.extend(["run", "-f", file.to_str().unwrap()].map(str::to_owned));
        Command::new("docker").args(arguments).output().unwrap().into()
    };
    let whole = format!("project: {}", project.name);
    run(&vpn, "night", &whole).ok();
    docker(&["rm", "--force", &vpn]);
    project.runs_as_before();
    assert_eq!(workers(&project), "", "a worker is left");
    // It would take its own network away.
    let web = project.of("web");
    let before = project.inspected()["web"]["State"]["StartedAt"].clone();
    run(&web, "morning", &whole).code(2).says(&format!("is Eider itself and lives in {web}"));
    assert_eq!(project.inspected()["web"]["State"]["StartedAt"], before);
}
