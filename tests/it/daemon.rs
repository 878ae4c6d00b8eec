//! The daemon: documents from a directory, schedules, its addresses, its socket, its end.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::scene::{Daemon, STORE, Scene, backup, head, wait_longer, wait_until};

fn schedule(name: &str, cron: &str, more: &str) -> String {
    format!(
        "{}metadata: {{name: {name}}}\nspec:\n  schedule: '{cron}'\n{more}  template: {{spec: \
         {{target: {{host: {{paths: [@/live]}}}}, storeRef: {{name: main}}}}}}\n",
        head("BackupSchedule")
    )
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.write("specs/store.yaml", scene.fill(STORE));
    scene
}

#[test]
fn documents_are_carried_out_and_verbs_go_through_the_socket() {
    let scene = scene();
    let daemon = Daemon::start(&scene, "specs");
    scene.write("specs/one.yaml", scene.fill(&backup("one", "@/live", "")));
    wait_until("the Backup is carried out", || {
        scene.backups().iter().any(|record| record["status"] == "Succeeded")
    });
    // A broken document harms nobody else, and the daemon goes on.
    scene.write("specs/broken.yaml", "kind: [");
    scene.write("live/f", "two");
    scene.run(&["restore", "create", "one", "--yes"]).ok();
    assert_eq!(scene.read("live/f"), "one");
    scene.run(&["backup", "create", "-p", "live", "--name", "by-hand"]).ok();
    scene.run(&["backup", "verify", "by-hand"]).ok();
    scene.run(&["backup", "files", "by-hand"]).ok();
    scene.run(&["db", "query", "SELECT 1"]).ok();
    scene.run(&["db", "check"]).ok();
    scene.run(&["history"]).ok();
    scene.run(&["config", "list"]).ok();
    scene.run(&["store", "check"]).ok();

    // Another daemon, and a verb without the socket, are told who holds the catalog.
    let holder = format!("PID {}", daemon.child.id());
    let other = scene.path("other.sock");
    for arguments in [
        vec!["daemon", "--specs", "specs", "--listen", "off"],
        vec!["--socket", other.to_str().unwrap(), "backup", "list"],
    ] {
        scene.run(&arguments).code(5).says(&holder);
    }

    for page in ["/livez", "/readyz", "/api/v1/backups", "/api/v1/backups/1", "/api/v1/schedules"] {
        assert_eq!(daemon.get(page).unwrap().0, 200, "{page}");
    }
    for page in ["/api/v1/stores", "/api/v1/operations", "/api/v1/resources/Backup"] {
        assert_eq!(daemon.get(page).unwrap().0, 200, "{page}");
    }
    assert_eq!(daemon.get("/api/v1/backups/999").unwrap().0, 404);
    assert_eq!(daemon.get("/nothing").unwrap().0, 404);
    for (address, code) in [
        ("/api/v1/backups/abc", 400),
        ("/api/v1/backups?limit=abc", 400),
        ("/api/v1/resources/Cow", 404),
        ("/api/v1/nothing", 404),
    ] {
        let (status, body) = daemon.get(address).unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body["reason"].as_str()), (code, Some("InvalidSpec")), "{address}");
    }
    // A mistake is one in the same words and with the same code, through the socket too.
    scene.run(&["config", "set", "maintenance.cleanup_user_actions_days", "soon"]).code(2);
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(metrics.contains("eider_backups_total"), "{metrics}");
    promtool(&scene, &metrics);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!scene.path("eider.sock").exists());
    // The next one starts where this one ended: nothing runs twice, gauges are back.
    let daemon = Daemon::start(&scene, "specs");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let gauge = "eider_backup_last_success_timestamp_seconds{";
    assert!(metrics.lines().any(|line| line.starts_with(gauge)), "{metrics}");
    assert_eq!(scene.backups().iter().filter(|record| record["object"] == "one").count(), 1);
    assert_eq!(daemon.stop(), Some(0));
}

fn promtool(scene: &Scene, metrics: &str) {
    let file = fs::File::open(scene.write("metrics.txt", metrics)).unwrap();
    match Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::from(file)).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
        #[allow(clippy::print_stderr)]
        Err(_) => eprintln!("SKIPPED the check by promtool, which is not installed"),
    }
}

#[test]
fn a_directory_that_is_swapped_like_a_config_map_is_followed() {
    let scene = scene();
    for (generation, name) in [("..1", "one"), ("..2", "two")] {
        let text = format!("{STORE}---\n{}", backup(name, "@/live", ""));
        scene.write(&format!("mounted/{generation}/all.yaml"), scene.fill(&text));
    }
    symlink("..1", scene.path("mounted/..data")).unwrap();
    symlink("..data/all.yaml", scene.path("mounted/all.yaml")).unwrap();
    let daemon = Daemon::start(&scene, "mounted");
    let done = |name: &str| {
        scene
            .backups()
            .iter()
            .any(|record| record["object"] == name && record["status"] == "Succeeded")
    };
    wait_until("the first generation is carried out", || done("one"));
    symlink("..2", scene.path("mounted/..data_tmp")).unwrap();
    fs::rename(scene.path("mounted/..data_tmp"), scene.path("mounted/..data")).unwrap();
    wait_until("the second generation is carried out", || done("two"));
    assert_eq!(scene.backups().len(), 2);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn retention_keeps_what_it_says_and_suspending_survives() {
    let scene = scene();
    let text = schedule("nightly", "0 2 * * *", "  retention: {keepLast: 2}\n");
    scene.write("specs/nightly.yaml", scene.fill(&text));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the schedule is known", || {
        !scene.run(&["schedule", "list", "-o", "json"]).ok().items().is_empty()
    });
    for number in 0..4 {
        scene.write("live/f", number.to_string());
        scene.run(&["schedule", "run", "nightly"]).ok();
    }
    wait_until("retention has pruned", || scene.stored().len() == 4);
    let backups = scene.backups();
    assert_eq!(backups.len(), 2, "{backups:?}");
    assert!(backups.iter().all(|record| record["file"] == "ok"));
    let judged =
        scene.run(&["schedule", "prune", "nightly", "--dry-run", "-o", "json"]).ok().items();
    let verdict = |item: &serde_json::Value| item["keep"] == true && item["rules"].is_array();
    assert!(judged.len() == 2 && judged.iter().all(verdict), "{judged:?}");
    // Nothing to remove is nothing to ask about.
    scene.run(&["schedule", "prune", "nightly"]).ok();
    assert_eq!(scene.stored().len(), 4);
    scene.run(&["db", "check"]).ok();

    scene.run(&["schedule", "suspend", "nightly"]).ok();
    assert_eq!(daemon.stop(), Some(0));
    let daemon = Daemon::start(&scene, "specs");
    let suspended = || scene.run(&["schedule", "list"]).ok().stdout.contains("yes");
    assert!(suspended());
    scene.run(&["schedule", "resume", "nightly"]).ok();
    assert!(!suspended());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_schedule_is_ready_while_its_store_is_there() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    let text = schedule("nightly", "0 2 * * *", "");
    scene.write("specs/nightly.yaml", scene.fill(&text));
    let daemon = Daemon::start(&scene, "specs");
    let ready = |status: &str, reason: &str| {
        let found = scene.run(&["get", "ebs", "-o", "json"]).ok().items();
        let conditions = found.first().and_then(|one| one["status"]["conditions"].as_array());
        let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready");
        ready.is_some_and(|ready| ready["status"] == status && ready["reason"] == reason)
    };
    wait_until("it says that its store is missing", || ready("False", "StoreNotFound"));
    let said = scene.run(&["get", "ebs", "-o", "json"]).ok().stdout;
    assert!(said.contains("there is no BackupStore default/main"), "{said}");
    let store = scene.write("specs/store.yaml", scene.fill(STORE));
    wait_until("it is ready with its store", || ready("True", "Ready"));
    fs::remove_file(store).unwrap();
    wait_until("it is not without it", || ready("False", "StoreNotFound"));
    assert_eq!(daemon.stop(), Some(0));
}

/// The archives of a store, oldest first.
fn archives(scene: &Scene) -> Vec<String> {
    let mut stored = scene.stored();
    stored.retain(|name| !name.ends_with("manifest.json"));
    stored.sort();
    stored
}

/// What is made by so many runs of the schedule `nightly`, in their order.
fn runs(scene: &Scene, count: usize) -> Vec<String> {
    wait_until("the schedule is known", || {
        !scene.run(&["schedule", "list", "-o", "json"]).ok().items().is_empty()
    });
    let mut made: Vec<String> = Vec::new();
    for number in 0..count {
        scene.write("live/f", number.to_string());
        scene.run(&["schedule", "run", "nightly"]).ok();
        made.extend(
            archives(scene).into_iter().filter(|name| !made.contains(name)).collect::<Vec<_>>(),
        );
    }
    made
}

/// The record of the newer one kept its place, and the only archive that there was went. So did a manifest that was
/// left without its archive.
#[test]
fn retention_leaves_the_last_archive_when_a_newer_one_was_removed_by_hand() {
    for with_manifest in [true, false] {
        let scene = scene();
        let text = schedule("nightly", "0 2 1 1 *", "  retention: {keepLast: 3}\n");
        scene.write("specs/nightly.yaml", scene.fill(&text));
        let daemon = Daemon::start(&scene, "specs");
        let made = runs(&scene, 3);
        let text = schedule("nightly", "0 2 1 1 *", "  retention: {keepLast: 1}\n");
        for gone in &made[1..] {
            fs::remove_file(scene.path(&format!("store/{gone}"))).unwrap();
            if with_manifest {
                fs::remove_file(scene.path(&format!("store/{gone}.manifest.json"))).unwrap();
            }
        }
        scene.write("specs/nightly.yaml", scene.fill(&text));
        let dry = ["schedule", "prune", "nightly", "--dry-run", "-o", "json"];
        wait_until("what is gone is not judged", || {
            let judged = scene.run(&dry).ok().items();
            judged.len() == 1 && judged[0]["rules"][0] == "last 1 of 1"
        });
        scene.run(&["schedule", "prune", "nightly"]).ok();
        assert_eq!(archives(&scene), made[..1]);
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Two disks that are one store to Eider: what is on the one that is away neither takes the place of what is there
/// nor goes, and its records come back with it.
#[test]
fn disks_that_take_turns_at_one_path_keep_what_they_have() {
    let scene = scene();
    let text = schedule("nightly", "0 2 1 1 *", "  retention: {keepLast: 2}\n");
    scene.write("specs/nightly.yaml", scene.fill(&text));
    let daemon = Daemon::start(&scene, "specs");
    let (here, away) = (scene.path("store"), scene.path("away"));
    // Those of one second differ by their ends: the order of the names is not that of the runs.
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let first = sorted(runs(&scene, 2));
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    let second = runs(&scene, 3);
    scene.run(&["schedule", "prune", "nightly"]).ok();
    assert_eq!(
        sorted(archives(&scene)),
        sorted(second[1..].to_vec()),
        "the newest two of what is there"
    );
    fs::rename(&here, scene.path("second")).unwrap();
    fs::rename(&away, &here).unwrap();
    assert_eq!(sorted(archives(&scene)), first);
    scene.run(&["db", "rebuild", "--store", here.to_str().unwrap()]).ok();
    let records = scene.backups();
    for name in &first {
        let record = records.iter().find(|one| one["backupName"] == name.as_str()).unwrap();
        assert_eq!(record["status"], "Succeeded", "{record:#}");
        scene.run(&["backup", "verify", record["object"].as_str().unwrap()]).ok();
    }
    scene.run(&["schedule", "prune", "nightly"]).ok();
    assert_eq!(sorted(archives(&scene)), first, "they are counted by what is on the other one");
    assert_eq!(daemon.stop(), Some(0));
}

/// An increment whose full archive was gone kept the place of the last one that could be restored; so did one that
/// was cut.
#[test]
fn retention_leaves_the_last_archive_that_can_be_restored() {
    let scene = scene();
    let text = |keep: u32| {
        let text =
            schedule("nightly", "0 2 1 1 *", &format!("  retention: {{keepLast: {keep}}}\n"));
        text.replace("storeRef:", "type: Incremental, maxChain: 2, storeRef:")
    };
    scene.write("specs/nightly.yaml", scene.fill(&text(9)));
    let daemon = Daemon::start(&scene, "specs");
    let made = runs(&scene, 5);
    let parents: Vec<bool> =
        scene.backups().iter().map(|record| record["parent"].is_string()).collect();
    assert_eq!(parents, [false, true, false, true, false]);
    fs::remove_file(scene.path(&format!("store/{}", made[2]))).unwrap();
    fs::remove_file(scene.path(&format!("store/{}.manifest.json", made[2]))).unwrap();
    fs::write(scene.path(&format!("store/{}", made[4])), "cut").unwrap();
    scene.write("specs/nightly.yaml", scene.fill(&text(1)));
    let dry = ["schedule", "prune", "nightly", "--dry-run", "-o", "json"];
    let mut rules = Vec::new();
    wait_until("what cannot be restored takes no place", || {
        let judged = scene.run(&dry).ok().items();
        rules = judged.iter().map(|one| one["rules"].to_string()).collect::<Vec<_>>();
        rules.iter().any(|rules| rules.contains("last 1 of 1"))
    });
    assert!(rules[0].contains("counts for nothing"), "{rules:?}");
    assert!(rules[0].contains("it has 3 bytes"), "{rules:?}");
    assert!(rules[2].contains("last 1 of 1") && rules[2].contains("last verified"), "{rules:?}");
    assert!(rules[3].contains("parent of"), "{rules:?}");
    scene.run(&["schedule", "prune", "nightly", "--yes"]).ok();
    let left = archives(&scene);
    assert!(left.contains(&made[0]) && left.contains(&made[1]), "{left:?}");
    let record =
        scene.backups().into_iter().find(|record| record["backupName"] == made[1].as_str());
    let object = record.unwrap()["object"].as_str().unwrap().to_owned();
    scene.run(&["backup", "verify", &object]).ok();
    assert_eq!(daemon.stop(), Some(0));
}

/// The one test that waits for a real minute.
#[test]
fn a_schedule_fires_when_its_minute_comes() {
    let scene = scene();
    scene.write("specs/every.yaml", scene.fill(&schedule("every", "* * * * *", "")));
    let daemon = Daemon::start(&scene, "specs");
    wait_longer("the schedule fires", Duration::from_secs(70), &mut || {
        scene.stored().iter().any(|name| name.ends_with("manifest.json"))
    });
    wait_until("the run is recorded", || {
        scene.backups().iter().any(|record| record["schedule"] == "every")
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_idle_daemon_is_small_and_still() {
    let scene = scene();
    scene.write("specs/nightly.yaml", scene.fill(&schedule("nightly", "0 2 * * *", "")));
    scene.write("specs/one.yaml", scene.fill(&backup("one", "@/live", "")));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the Backup is done", || !scene.stored().is_empty());
    // Small after work too, not only before: several at a time, then one after the other.
    let more: Vec<String> =
        (0..15).map(|number| backup(&format!("more-{number}"), "@/live", "")).collect();
    scene.write("specs/more.yaml", scene.fill(&more.join("---\n")));
    for number in 0..15 {
        let name = format!("by-hand-{number}");
        scene.run(&["backup", "create", "-p", "live", "--name", &name]).ok();
    }
    wait_until("31 backups are done", || {
        scene.backups().iter().filter(|record| record["status"] == "Succeeded").count() == 31
    });
    // What was freed goes back to the system ten seconds later.
    std::thread::sleep(Duration::from_secs(20));
    let process = daemon.child.id();
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(20));
    let used = ticks() - before;
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kibibytes = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // The rest is code, of a build for tests, which processes share and the system takes back as it likes.
    let (resident, own) = (kibibytes("VmRSS:"), kibibytes("RssAnon:"));
    #[allow(clippy::print_stderr)]
    {
        eprintln!(
            "idle daemon: {own} KiB of its own, {resident} KiB resident, {used} ticks in 20 s"
        );
    }
    assert!(own < 32 * 1024, "{own} KiB of {resident} KiB");
    assert!(resident < 96 * 1024, "{resident} KiB");
    assert!(used < 5, "{used} ticks in 20 s");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_daemon_that_is_asked_to_stop_undoes_what_is_under_way() {
    let scene = scene();
    let slow = "hooks:\n  before: [{exec: {command: [sh, -c, 'env > @/environment; touch @/begun; sleep 600']}}]\n  \
                after: [{exec: {command: [touch, '@/after']}}]";
    scene.write("specs/slow.yaml", scene.fill(&backup("slow", "@/live", slow)));
    let daemon = Daemon::start(&scene, "specs");
    wait_until("the hook runs", || scene.path("begun").exists());
    // What the daemon sets for itself is not for the commands it runs.
    let environment = scene.read("environment");
    assert!(environment.contains("PATH=") && !environment.contains("MALLOC_"), "{environment}");
    assert!(daemon.get("/api/v1/operations").unwrap().1.contains("slow"));
    assert_eq!(daemon.stop(), Some(0));
    assert!(scene.path("after").exists());
    assert_eq!(scene.stored(), Vec::<String>::new());
}

#[test]
fn data_gives_way_to_other_programs_and_the_daemon_itself_does_not() {
    let scene = scene();
    // Three seconds' work.
    scene.write("live/large", vec![7; 3 << 20]);
    let more = "archive: {format: tar, ioLimit: 1Mi}\nhooks: {before: [{exec: {command: [sh, -c, 'ps -o ni= -p $$ > @/nice']}}]}";
    scene.write("specs/slow.yaml", scene.fill(&backup("slow", "@/live", more)));
    let daemon = Daemon::start(&scene, "specs");
    let tasks = format!("/proc/{}/task", daemon.child.id());
    // The nineteenth field, counted behind the name, which may hold spaces.
    let niceness = |task: &std::path::Path| -> Option<(String, i32)> {
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    let mut data = Vec::new();
    let mut others = Vec::new();
    wait_until("the data is read by a thread for it, and by others for compressing", || {
        let all = fs::read_dir(&tasks).unwrap().filter_map(|task| niceness(&task.unwrap().path()));
        let (its, rest): (Vec<_>, Vec<_>) = all.partition(|(name, _)| name == "eider-data");
        (data, others) = (its, rest);
        data.len() > 2
    });
    let base = others.iter().map(|(_, niceness)| *niceness).min().unwrap();
    assert!(data.iter().all(|(_, niceness)| *niceness == base.max(15)), "{data:?}");
    assert!(others.iter().all(|(_, niceness)| *niceness == base), "{others:?}");
    // Hooks hold a service still or let it go: they are as urgent as the daemon.
    assert_eq!(scene.read("nice").trim(), base.to_string());
    wait_until("the Backup is carried out", || {
        scene.backups().iter().any(|record| record["status"] == "Succeeded")
    });
    assert_eq!(daemon.stop(), Some(0));
}
