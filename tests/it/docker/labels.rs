//! Schedules without a document of Eider's: from labels on containers, and from a Compose file.

use std::time::Duration;

use serde_json::Value;

use super::engine::{Project, SERVICE, docker, lines};
use crate::scene::{Daemon, STORE, wait_longer};

const PATIENCE: Duration = Duration::from_mins(1);

fn schedules(project: &Project) -> Vec<String> {
    let listed = project.scene.run(&["get", "backupschedules", "-o", "json"]).ok().items();
    let name = |one: &Value| one["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    listed.iter().map(name).collect()
}

#[test]
fn labels_are_followed_while_they_are_there() {
    let Some(project) = Project::new() else { return };
    project.scene.write("specs/store.yaml", project.scene.fill(STORE));
    std::fs::create_dir_all(project.scene.path("specs")).unwrap();
    let daemon = Daemon::start(&project.scene, "specs");
    let data = project.volume("data");
    let mount = format!("{data}:/data");
    let labels = [
        "eider.enable=true",
        "eider.schedule=0 3 1 1 *",
        "eider.retention=last=1",
        "eider.hook.before=echo dumped > /data/dump",
        "eider.hook.after=rm /data/dump",
        "eider.stop=pause",
    ];
    let more: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
    project.start("db", &[&more[..], &["-v", &mount]].concat(), SERVICE);
    project.start("web", &["-v", &mount], SERVICE);
    let name = format!("labels-{}", project.name);
    wait_longer("the labels are read", PATIENCE, &mut || schedules(&project).contains(&name));
    for _ in 0..2 {
        project.scene.run(&["schedule", "run", &name]).ok();
    }
    let backups = project.scene.backups();
    let kept: Vec<&Value> = backups.iter().filter(|one| one["deletedAt"].is_null()).collect();
    assert_eq!(kept.len(), 1, "{backups:#?}");
    let archive = kept[0]["backupPath"].as_str().unwrap();
    let dump = crate::scene::tool("tar", &["xzOf", archive, &format!("volumes/{data}/dump")]);
    assert_eq!(dump, "dumped\n");
    assert!(!project.at("data").join("dump").exists());
    let log = lines(&project.at("data").join("log"));
    assert!(!log.contains(&"stopped".to_owned()), "it was paused: {log:?}");
    docker(&["rm", "--force", &project.of("db")]);
    wait_longer("the labels are gone", PATIENCE, &mut || !schedules(&project).contains(&name));
    assert_eq!(project.scene.backups().len(), backups.len(), "the archives stay");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_compose_file_says_when_its_project_is_backed_up() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    project.start("db", &["-v", &format!("{data}:/data")], SERVICE);
    let compose = format!(
        "name: {}\nservices:\n  db:\n    image: eider-test/busybox:1\n    volumes: [\"data:/data\"]\n\
         volumes:\n  data:\nx-eider:\n  schedule: \"@yearly\"\n  store: main\n  retention: {{keepLast: 3}}\n",
        project.name
    );
    let file = project.scene.write("compose.yaml", compose);
    let store = project.scene.write("store.yaml", project.scene.fill(STORE));
    let (store, file) = (store.to_str().unwrap(), file.to_str().unwrap());
    project.scene.run(&["run", "-f", store, "-f", file]).ok();
    assert_eq!(schedules(&project), [project.name.as_str()]);
    project.scene.run(&["schedule", "run", &project.name]).ok();
    assert_eq!(project.scene.backups().len(), 1);
    assert_eq!(project.states()["db"], "running");
}
