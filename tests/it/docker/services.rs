//! The daemon watches the services of its targets.

use std::time::Duration;

use serde_json::Value;

use super::engine::{Project, SERVICE, docker};
use crate::scene::{Daemon, STORE, head, wait_longer};

const PATIENCE: Duration = Duration::from_mins(1);

fn current(project: &Project, service: &str) -> Value {
    let found = project.scene.run(&["service", "status", "-o", "json"]).ok().items();
    let name = project.of(service);
    found.into_iter().find(|one| one["serviceName"] == name.as_str()).unwrap_or_default()
}

#[test]
fn services_are_seen_when_they_change_and_every_half_minute() {
    let Some(project) = Project::new() else { return };
    let data = project.volume("data");
    let mount = format!("{data}:/data");
    let healthy = ["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "1s"];
    let more = [&healthy[..], &["--health-retries", "1", "-v", &mount]].concat();
    project.start("db", &more, SERVICE);
    project.start("web", &["-v", &mount], SERVICE);
    let schedule = format!(
        "{STORE}---\n{}metadata: {{name: nightly}}\nspec:\n  schedule: \"0 0 1 1 *\"\n  suspend: true\n  \
         template: {{spec: {{target: {{docker: {{project: {}}}}}, storeRef: {{name: main}}}}}}\n",
        head("BackupSchedule"),
        project.name
    );
    project.scene.write("specs/schedule.yaml", project.scene.fill(&schedule));
    let daemon = Daemon::start(&project.scene, "specs");
    let up = || {
        let metrics = daemon.get("/metrics").unwrap().1;
        let line =
            metrics.lines().find(|line| line.starts_with("eider_service_up{")).map(str::to_owned);
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    wait_longer("the database is healthy", PATIENCE, &mut || {
        current(&project, "db")["healthStatus"] == "healthy"
    });
    assert_eq!(current(&project, "web")["status"], "running");
    assert_eq!(current(&project, "web")["healthStatus"], "unknown");
    assert_eq!(up().as_deref(), Some("1"));
    docker(&["exec", &project.of("db"), "touch", "/tmp/ill"]);
    wait_longer("it is ill", PATIENCE, &mut || {
        current(&project, "db")["healthStatus"] == "unhealthy" && up().as_deref() == Some("0")
    });
    docker(&["exec", &project.of("db"), "rm", "/tmp/ill"]);
    wait_longer("it is well", PATIENCE, &mut || up().as_deref() == Some("1"));
    docker(&["kill", &project.of("web")]);
    wait_longer("web is down", PATIENCE, &mut || {
        current(&project, "web")["status"] == "stopped" && up().as_deref() == Some("0")
    });
    docker(&["rm", &project.of("web")]);
    wait_longer("web is gone", PATIENCE, &mut || up().as_deref() == Some("1"));
    // The second whole look tells what it used since the first.
    let name = project.of("db");
    let history = || {
        project
            .scene
            .run(&["service", "history", &name, "--limit", "50", "-o", "json"])
            .ok()
            .items()
    };
    wait_longer("its use is recorded", Duration::from_mins(1), &mut || {
        history().iter().any(|row| row["cpuUsage"].is_number())
    });
    let rows = history();
    let row = rows.iter().find(|row| row["cpuUsage"].is_number()).unwrap();
    assert!(row["memoryUsage"].as_i64().unwrap() > 10_000, "{row:#}");
    assert!(row["networkIo"]["receivedBytes"].is_number(), "{row:#}");
    assert!(row["cpuUsage"].as_f64().unwrap() < 200.0, "{row:#}");
    assert!(rows.iter().any(|row| row["healthStatus"] == "unhealthy"));
    let gone = project.scene.run(&["service", "history", &project.of("web"), "-o", "json"]).ok();
    assert!(gone.stdout.contains("the container was removed"), "{}", gone.stdout);
    project.scene.run(&["service", "status"]).ok();
    // It said "up" for ever.
    docker(&["rm", "--force", &name]);
    wait_longer("nothing is there", PATIENCE, &mut || up().as_deref() == Some("0"));
    assert_eq!(daemon.stop(), Some(0));
}
