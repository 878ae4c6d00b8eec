//! Every verb that needs no cluster, as a user types it: exit codes, forms of output, mistakes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::scene::{Ended, STORE, Scene, backup, head, shell, tool};

fn schedule() -> String {
    format!(
        "{}metadata: {{name: default}}\nspec:\n  schedule: '0 2 * * *'\n  template: {{spec: \
         {{target: {{host: {{paths: [@/live]}}}}, storeRef: {{name: main}}}}}}\n",
        head("BackupSchedule")
    )
}

/// A store, the schedule `default` and one backup `one`.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("live/f", "content\n");
    scene
        .apply(&format!(
            "{STORE}---\n{}---\n{}",
            schedule(),
            backup("one", "@/live", "serviceVersion: 1.2.0")
        ))
        .ok();
    scene
}

#[test]
fn the_spellings_of_the_first_documents_work() {
    let scene = scene();
    scene.run(&["backup", "create", "--type", "manual", "--version", "v1.2.0"]).ok();
    let newest = &scene.run(&["backup", "list", "-o", "json"]).ok().items()[0];
    assert_eq!(newest["sourceVersion"], "v1.2.0");
    assert!(newest["backupName"].as_str().unwrap().starts_with("backup_manual_v1.2.0_"));
    scene.run(&["backup", "list"]).ok();
    scene.run(&["backup", "delete", "--id", "123"]).code(3).says("hint");
    scene.run(&["backup", "delete", "--id", "1"]).code(2).says("--yes");
    scene.run(&["backup", "delete", "--id", "1", "--yes"]).ok();
    scene.run(&["auto-backup", "enabled", "--enable", "false"]).ok();
    assert!(scene.run(&["auto-backup", "status"]).ok().stdout.contains("no"));
    scene.run(&["auto-backup", "enabled", "--enable", "true"]).ok();
    scene.run(&["auto-backup", "run"]).ok();
}

#[test]
fn lists_have_three_forms_and_tables_fit() {
    let scene = scene();
    scene.restore("back", "{from: {backupRef: {name: one}}}").ok();
    for arguments in [
        "backup list",
        "backup files one",
        "backup verify --all",
        "schedule list",
        "store list",
        "store check",
        "get all",
        "get ebk",
        "history",
        "config list",
        "service status",
        "service history",
        "upgrade list",
        "validate -f documents.yaml",
    ] {
        let mut words: Vec<&str> = arguments.split(' ').collect();
        let table = scene.run(&words).ok().stdout;
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "`{arguments}` is too wide:\n{line}");
        }
        assert!(!table.contains('\u{1b}'), "`{arguments}` is coloured in a pipe");
        words.extend(["-o", "json"]);
        scene.run(&words).ok().items();
        *words.last_mut().unwrap() = "yaml";
        assert!(scene.run(&words).ok().stdout.starts_with("items:"), "{arguments}");
    }
    for arguments in ["backup show one", "auto-backup status", "config get auto_backup_directory"] {
        let mut words: Vec<&str> = arguments.split(' ').collect();
        scene.run(&words).ok();
        words.extend(["-o", "json"]);
        assert!(scene.run(&words).ok().json().is_object(), "{arguments}");
    }
    scene.run(&["describe", "backup", "one"]).ok();
}

#[test]
fn the_table_of_backups_is_as_it_was() {
    let scene = scene();
    let table = scene.run(&["backup", "list"]).ok().stdout;
    insta::with_settings!({filters => vec![
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<time>"),
        (r"\d+ B ", "<size> "),
        (r"host:\S+", "<target>"),
        (r" +", " "),
    ]}, {
        insta::assert_snapshot!(table, @"
        ID NAME TYPE CREATED VERSION SIZE STATUS VERIFIED FILE TARGET
        1 one manual <time> 1.2.0 <size> Succeeded yes ok <target>
        ");
    });
}

#[test]
fn quiet_says_nothing_beside_the_result() {
    let scene = scene();
    scene.write("again.yaml", scene.fill(&backup("two", "@/live", "")));
    let ended = scene.run(&["run", "--quiet", "-f", "again.yaml"]).ok();
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let scene = scene();
    let program = scene.command::<&str>(&[]).get_program().to_owned();
    let mut command = Command::new("bash");
    command.args(["-c", "\"$0\" config list -o json | true; exit ${PIPESTATUS[0]}"]).arg(program);
    for (name, value) in scene.command::<&str>(&[]).get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.stderr, "");
}

#[test]
fn an_unchanged_document_does_not_run_again_and_a_changed_one_does() {
    let scene = scene();
    scene.apply(&backup("one", "@/live", "serviceVersion: 1.2.0")).ok().says("unchanged");
    assert_eq!(scene.backups().len(), 1);
    scene.apply(&backup("one", "@/live", "serviceVersion: 1.3.0")).ok();
    assert_eq!(scene.backups().len(), 2);
    let generated = backup("x", "@/live", "").replace("name: x", "generateName: x-");
    scene.apply(&generated).ok();
    scene.apply(&generated).ok();
    assert_eq!(scene.backups().len(), 4);
}

#[test]
fn runs_within_one_second_are_different_runs() {
    let scene = scene();
    for _ in 0..3 {
        let ended = scene.run(&["schedule", "run", "default"]).ok();
        assert!(!ended.stderr.contains("does not run again"), "{}", ended.stderr);
    }
    assert_eq!(scene.backups().len(), 4);
}

#[test]
fn mistakes_in_documents_are_told_with_their_place() {
    let scene = Scene::new();
    scene.write(
        "bad.yaml",
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: x}\nspec:\n  \
         target: {host: {paths: 3}}\n  storeRef: {nam: main}\n",
    );
    for verb in ["validate", "run"] {
        scene
            .run(&[verb, "-f", "bad.yaml"])
            .code(2)
            .says("bad.yaml:5:26: spec.target.host.paths: expected a list")
            .says("bad.yaml:6:14: spec.storeRef.nam: unknown field; did you mean `name`?");
    }
    let problems = scene.run(&["validate", "-f", "bad.yaml", "-o", "json"]).code(2);
    assert_eq!(problems.json()["problems"][0]["line"], 5);
    scene.write("broken.yaml", "a: [1,\nb: 2");
    scene.run(&["validate", "-f", "broken.yaml"]).code(2).says("broken.yaml:1:");
    scene.write("bytes.yaml", b"\xff\xfe\x00");
    scene.run(&["validate", "-f", "bytes.yaml"]).code(2).says("UTF-8");
    scene.write("empty.yaml", "");
    scene.run(&["run", "-f", "empty.yaml"]).code(2);
    // Manifests of a service beside its backups; a slip of the pen is none of them.
    scene.write(
        "beside.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: main}\n\
         spec: {local: {path: /backups}}\n",
    );
    scene.run(&["validate", "-f", "beside.yaml"]).code(0).says("Deployment web is not Eider's");
    scene.run(&["run", "-f", "beside.yaml"]).code(2).says("`apps/v1` is not an API version");
    scene.write("slip.yaml", "apiVersion: v1\nkind: Backup\nmetadata: {name: x}\nspec: {}\n");
    scene.run(&["validate", "-f", "slip.yaml"]).code(2).says("write `apiVersion: eider.dev/");
    // Bombs: depth and aliases.
    scene.write("deep.yaml", "[".repeat(100_000));
    scene.run(&["validate", "-f", "deep.yaml"]).code(2);
}

#[test]
fn a_missing_file_of_documents_is_told_in_a_sentence() {
    let scene = Scene::new();
    let ended = scene.run(&["run", "-f", "nowhere.yaml"]).code(2).says("nowhere.yaml").says("hint");
    assert!(!ended.stderr.contains("os error"), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot be read"), "{}", ended.stderr);
}

#[test]
fn what_is_not_there_is_exit_code_three() {
    let scene = scene();
    for arguments in [
        "backup show nope",
        "backup show --id 99",
        "backup verify nope",
        "backup files nope",
        "backup extract nope --to x",
        "backup extract one --stdout live/nope",
        "restore create nope --yes",
        "rollback --yes",
        "schedule run nope",
        "schedule suspend nope",
        "upgrade show nope",
        "config get nope",
        "get backup nope",
        "describe backup nope",
        "db rebuild --store nowhere",
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        scene.run(&words).code(3).says("error:");
    }
    scene.apply(&backup("absent", "/no/such/path", "")).code(3).says("hint");
    scene.apply(&backup("lost", "@/live", "").replace("main", "other")).code(3).says("hint");
}

#[test]
fn wrong_usage_is_exit_code_two() {
    let scene = scene();
    for arguments in [
        "",
        "run",
        "frob",
        "get nope",
        "backup create --format rar -p live",
        "config set backup.unfinished_grace_minutes abc",
        "config set app.version 3",
        "restore create one",
        "daemon --specs nowhere",
    ] {
        let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
        scene.run(&words).code(2);
    }
    for sql in ["DROP TABLE backup_records", "selec", "COPY backup_records TO '/tmp/x'", "PRAGMA x"]
    {
        scene.run(&["db", "query", sql]).code(2);
    }
    assert_eq!(scene.backups().len(), 1);
}

#[test]
fn a_store_that_cannot_be_written_is_told() {
    if tool("id", &["-u"]).trim() == "0" {
        // Root may write everywhere, but a file is no directory for anybody.
        let scene = Scene::new();
        scene.write("live/f", "x");
        fs::remove_dir(scene.path("store")).unwrap();
        scene.write("store", "a file");
        scene.backup("one", "@/live", "").code(1).says("hint");
        return;
    }
    let scene = Scene::new();
    scene.write("live/f", "x");
    fs::set_permissions(scene.path("store"), fs::Permissions::from_mode(0o555)).unwrap();
    scene.backup("one", "@/live", "").code(1).says("hint");
}

#[test]
fn errors_in_json_have_four_fields() {
    let scene = scene();
    let ended = scene.run(&["backup", "show", "nope", "-o", "json"]).code(3);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    for field in ["reason", "message", "object", "hint"] {
        assert!(error.get(field).is_some(), "{error}");
    }
    assert_eq!(error["reason"], "BackupNotFound");
}

#[test]
fn an_interrupted_run_puts_back_and_ends_with_130() {
    // A terminal that is lost is one too.
    for signal in ["-INT", "-HUP"] {
        is_put_back_after(signal);
    }
}

fn is_put_back_after(signal: &str) {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let hooks = "hooks:\n  before: [{exec: {command: [sh, -c, 'touch @/begun; sleep 600']}}]\n  \
                 after: [{exec: {command: [touch, '@/after']}}]";
    let text = scene.fill(&format!("{STORE}---\n{}", backup("one", "@/live", hooks)));
    scene.write("slow.yaml", text);
    let child = scene
        .command(&["run", "-f", "slow.yaml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    super::scene::wait_until("the hook runs", || scene.path("begun").exists());
    tool("kill", &[signal, &child.id().to_string()]);
    Ended::from(child.wait_with_output().unwrap()).code(130);
    assert!(scene.path("after").exists());
    assert_eq!(scene.stored(), Vec::<String>::new());
    assert_ne!(scene.record("one")["status"], "Succeeded");
}

#[test]
fn what_was_carried_out_before_is_no_success_of_now() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let text = scene.fill(&format!("{STORE}---\n{}", backup("one", "@/live", "")));
    scene.write("d.yaml", text);
    let first = scene.run(&["run", "-f", "d.yaml", "-q"]).ok();
    assert!(!first.stdout.contains("before"), "{}", first.stdout);
    let second = scene.run(&["run", "-f", "d.yaml", "-q"]).ok();
    assert!(second.stdout.contains("Succeeded before, 20"), "{}", second.stdout);
    let told = scene.run(&["run", "-f", "d.yaml", "-o", "json"]).ok().json();
    assert_eq!(told["items"][0]["repeated"], true);
    assert!(told["items"][0]["completedAt"].is_string(), "{told}");
}

#[test]
fn warnings_are_said_with_the_result_and_shown_with_the_record() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let more = "hooks: {before: [{exec: {command: [\"false\"]}, onError: Continue}]}";
    let ended = scene.apply(&format!("{STORE}---\n{}", backup("one", "@/live", more))).ok();
    assert_eq!(ended.stderr.matches("warning: ").count(), 1, "{}", ended.stderr);
    let shown = scene.run(&["backup", "show", "one"]).ok();
    assert!(shown.stdout.contains("Warning:"), "{}", shown.stdout);
}

#[test]
fn a_dry_run_changes_nothing() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    scene.write("d.yaml", scene.fill(&format!("{STORE}---\n{}", backup("one", "@/live", ""))));
    scene.run(&["run", "--dry-run", "-f", "d.yaml"]).ok();
    assert!(scene.stored().is_empty() && scene.backups().is_empty());
}

#[test]
fn the_database_is_copied_exported_restored_and_made_again() {
    let scene = scene();
    scene.run(&["db", "check"]).ok();
    scene.run(&["db", "export", "exported"]).ok();
    assert!(scene.path("exported/backup_records.parquet").exists());
    scene.run(&["db", "backup", "copy.duckdb"]).ok();
    scene.run(&["db", "backup", "copy.duckdb"]).code(1).says("exists");
    scene.run(&["backup", "create", "-p", "live", "--name", "later"]).ok();
    scene.run(&["db", "restore", "copy.duckdb"]).code(2).says("--yes");
    scene.run(&["db", "restore", "copy.duckdb", "--yes"]).ok();
    assert_eq!(scene.backups().len(), 1);
    scene.run(&["db", "rebuild"]).ok();
    assert_eq!(scene.backups().len(), 2);
    scene.run(&["db", "restore", "documents.yaml", "--yes"]).code(1);
    assert_eq!(scene.backups().len(), 2);
    let csv = scene.run(&["db", "query", "--csv", "SELECT 'a,b' AS x, 2 AS y"]).ok().stdout;
    assert_eq!(csv, "x,y\r\n\"a,b\",2\r\n");
}

#[test]
fn a_corrupt_catalog_is_set_aside_and_made_again_from_manifests() {
    let scene = scene();
    scene.write("catalog/eider.duckdb", "garbage");
    // Not "nothing to show" and success, neither now nor the next time.
    for _ in 0..2 {
        scene.run(&["backup", "list"]).code(1).says("damaged").says("db rebuild");
    }
    scene.run(&["db", "rebuild", "--store", "store"]).ok();
    assert_eq!(scene.record("one")["status"], "Succeeded");
    assert!(shell(&scene.path("catalog"), "ls").contains("damaged"));
}

#[test]
fn archives_of_others_and_our_own_can_be_imported() {
    let scene = scene();
    shell(&scene.path(""), "mkdir gnu && echo hello > gnu/greeting && tar czf gnu.tar.gz gnu");
    scene.run(&["backup", "import", "gnu.tar.gz", "--version", "3.0"]).ok();
    let imported = scene.backups().remove(0);
    assert_eq!(imported["sourceVersion"], "3.0");
    let id = imported["id"].to_string();
    scene.run(&["backup", "verify", &id]).ok();
    let content = scene.run(&["backup", "extract", &id, "--stdout", "gnu/greeting"]).ok().stdout;
    assert_eq!(content, "hello\n");
    fs::create_dir(scene.path("target")).unwrap();

    // What could never be restored is no backup.
    shell(&scene.path("gnu"), "tar czPf ../climbs.tar.gz ../gnu/greeting");
    shell(
        &scene.path("gnu"),
        &format!("tar czPf ../absolute.tar.gz {}", scene.path("gnu").display()),
    );
    for hostile in ["climbs.tar.gz", "absolute.tar.gz"] {
        scene.run(&["backup", "import", hostile, "--store", "main"]).code(4).says("hint");
    }
    assert_eq!(scene.backups().len(), 2);

    // Our own, from another store, with its manifest.
    let other =
        scene.fill(STORE).replace("name: main", "name: second").replace("store}", "store2}");
    fs::create_dir(scene.path("store2")).unwrap();
    scene.apply(&other).ok();
    shell(&scene.path(""), "cp -r store away");
    let name = scene.archive("one").file_name().unwrap().to_str().unwrap().to_owned();
    scene.run(&["backup", "delete", "one", "--yes", "--force"]).ok();
    scene.run(&["backup", "import", &format!("away/{name}"), "--store", "main"]).ok();
    scene.run(&["restore", "create", &name, "--yes"]).ok();
    scene.run(&["backup", "import", "documents.yaml", "--store", "main"]).code(1).says("error:");
    let missing = scene.run(&["backup", "import", "nowhere.tar.gz", "--store", "main"]);
    assert!([1, 3].contains(&missing.code), "{missing:?}");
}

#[test]
fn files_are_taken_out_without_a_restore() {
    let scene = scene();
    assert_eq!(
        scene.run(&["backup", "extract", "one", "--stdout", "live/f"]).ok().stdout,
        "content\n"
    );
    scene.run(&["backup", "extract", "one", "--to", "out"]).ok();
    assert_eq!(scene.read("out/live/f"), "content\n");
    scene.run(&["backup", "extract", "one", "--to", "out"]).code(4).says("not empty");
}

#[test]
fn another_archive_under_the_name_of_a_backup_is_not_taken_for_it() {
    let scene = scene();
    shell(&scene.path(""), "mkdir -p evil/live; echo evil > evil/live/f");
    let archive = scene.archive("one");
    shell(&scene.path("evil"), &format!("tar czf {} live", archive.display()));
    for how in [["--stdout", "live/f"], ["--to", "out"]] {
        let ended = scene.run(&[&["backup", "extract", "one"][..], &how].concat());
        assert!(!ended.stdout.contains("evil"));
        ended.code(1).says("damaged");
    }
    assert!(!scene.path("out/live").exists());
}

#[test]
fn the_last_verified_backup_is_not_deleted_without_force() {
    let scene = scene();
    scene.run(&["backup", "delete", "one", "--yes"]).code(4).says("last verified");
    scene.run(&["backup", "delete", "one", "--yes", "--force"]).ok();
    assert!(scene.stored().is_empty());
}

#[test]
fn settings_and_history_are_kept() {
    let scene = scene();
    let key = "backup.unfinished_grace_minutes";
    scene.run(&["config", "set", key, "99"]).ok();
    assert_eq!(scene.run(&["config", "get", key, "-o", "json"]).ok().json()["configValue"], 99);
    scene.run(&["config", "reset", key]).ok();
    assert_eq!(scene.run(&["config", "get", key, "-o", "json"]).ok().json()["configValue"], 60);
    let actions = scene.run(&["history", "-o", "json"]).ok().items();
    assert!(actions.len() >= 3, "{actions:?}");
}

#[test]
fn completions_and_man_pages_are_written() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(scene.run(&["generate", "completions", shell]).ok().stdout.contains("backup"));
    }
    scene.run(&["generate", "man", "man"]).ok();
    assert!(fs::read_dir(scene.path("man")).unwrap().count() > 20);
    scene.run(&["--version"]).ok();
    scene.run(&["backup", "create", "--help"]).ok();
}

#[test]
fn a_store_is_moved_with_its_archives() {
    let scene = scene();
    fs::create_dir(scene.path("store2")).unwrap();
    let other =
        scene.fill(STORE).replace("name: main", "name: second").replace("store}", "store2}");
    scene.apply(&other).ok();
    scene.run(&["store", "migrate", "main", "second", "--yes"]).ok();
    assert!(scene.archive("one").starts_with(scene.path("store2")));
    assert_eq!(scene.record("one")["file"], "ok");
    assert!(scene.stored().is_empty());
    scene.run(&["backup", "verify", "one"]).ok();
    scene.run(&["restore", "create", "one", "--yes"]).ok();
}
