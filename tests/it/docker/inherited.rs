//! What a container has of its own and what it has of its image, when it gets another image.

use serde_json::Value;

use super::engine::{IMAGE, Project, docker};
use crate::scene::{STORE, head, shell};

/// A version whose service takes no arguments, though its image gives some.
fn image(number: &str) -> String {
    let tag = format!("eider-test/inherited:{number}");
    let place = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\ntest $# = 0 || exit 1\ntrap 'exit 0' TERM\n\
                  while :; do sleep 0.1 & wait $!; done\n";
    std::fs::write(place.path().join("service"), script).unwrap();
    let recipe = format!(
        "FROM {IMAGE}\nLABEL org.opencontainers.image.version={number}\nENV PLACE=/data/{number}\n\
         COPY service /service\nRUN [\"/bin/chmod\", \"755\", \"/service\"]\n\
         ENTRYPOINT [\"/service\"]\nCMD [\"argument\"]\n"
    );
    std::fs::write(place.path().join("Dockerfile"), recipe).unwrap();
    shell(place.path(), &format!("DOCKER_BUILDKIT=0 docker build --quiet --tag {tag} ."));
    tag
}

/// Two services, one without the image's entry point, one with it and without the image's arguments.
fn stage() -> Option<Project> {
    let project = Project::new()?;
    let image = image("1.0.0");
    let data = format!("{}:/data", project.volume("data"));
    let label = format!("com.docker.compose.project={}", project.name);
    let start = |service: &str, entry_point: &str, command: &[&str]| {
        let name = project.of(service);
        let of_service = format!("com.docker.compose.service={service}");
        let own = ["run", "-d", "--name", &name, "--label", &label, "--label", &of_service];
        let more = ["-v", &data, "--entrypoint", entry_point, &image];
        docker(&[&own[..], &more, command].concat());
    };
    start("cleared", "", &["/service"]);
    start("bare", "/service", &[]);
    Some(project)
}

fn document(project: &Project, service: &str) -> String {
    let image = image("2.0.0");
    format!(
        "{STORE}---\n{}metadata: {{name: up}}\nspec:\n  target: {{docker: {{project: {}}}}}\n  \
         toVersion: 2.0.0\n  images: {{{service}: \"{image}\", bare: \"{image}\"}}\n  \
         backup: {{storeRef: {{name: main}}}}\n  healthGate: {{timeout: 8s, soak: 1s}}\n",
        head("Upgrade"),
        project.name
    )
}

/// The new version ran with the entry point of its image, or with arguments that nobody gave it; and what was
/// the same as in the old image changed without a word.
#[test]
fn what_was_taken_away_stays_away_and_what_changes_is_told() {
    let Some(project) = stage() else { return };
    let settings = |name: &str| {
        let found = project.inspected();
        let one = &found[name]["Config"];
        (one["Entrypoint"].clone(), one["Cmd"].clone())
    };
    let before = (settings("cleared"), settings("bare"));
    assert_eq!((&before.0.0, &before.1.1), (&Value::Null, &Value::Null), "the stage is another");
    let ended = project.scene.apply(&document(&project, "cleared")).ok();
    ended.says("PLACE=/data/2.0.0 (was /data/1.0.0)");
    assert_eq!((settings("cleared"), settings("bare")), before);
    assert!(project.states().values().all(|state| state == "running"), "{:?}", project.states());
}

/// The whole plan was shown of what is refused at once.
#[test]
fn a_plan_is_refused_for_what_the_operation_is_refused_for() {
    let Some(project) = stage() else { return };
    let text = project.scene.fill(&document(&project, "unknown"));
    project.scene.write("up.yaml", text);
    let plan = project.scene.run(&["run", "-f", "up.yaml", "--dry-run"]);
    assert_ne!(plan.code, 0, "{plan:#?}");
    plan.says("no container or service `unknown`");
    let text = project.scene.fill(&document(&project, "cleared"));
    project.scene.write("up.yaml", text);
    let plan = project.scene.run(&["run", "-f", "up.yaml", "--dry-run"]).ok();
    assert!(plan.stdout.contains("PLACE=/data/2.0.0"), "{plan:#?}");
}
