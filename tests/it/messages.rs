//! What the program says when something is not as it should be: the right words, place and code.

use std::process::Stdio;

use serde_json::Value;

use super::scene::{STORE, Scene, backup, wait_until};

#[test]
fn a_rebuild_names_the_manifests_it_cannot_use() {
    let scene = Scene::new();
    scene.write("live/f", "content");
    scene.backup("one", "@/live", "").ok();
    scene.backup("two", "@/live", "").ok();
    let manifest = format!("{}.manifest.json", scene.archive("two").display());
    std::fs::write(&manifest, "{").unwrap();
    std::fs::remove_file(scene.path("catalog/eider.duckdb")).unwrap();
    let rebuild = scene.run(&["db", "rebuild", "--store", "store"]).code(1);
    assert!(rebuild.stdout.contains("1 record added"), "{}", rebuild.stdout);
    let archive = manifest.trim_end_matches(".manifest.json");
    rebuild.says(&format!("skipped {archive}: ")).says("hint: ");
}

#[test]
fn a_refused_query_is_told_in_one_sentence() {
    let scene = Scene::new();
    for statement in ["DELETE FROM backup_records", "SELECT 1; SELECT 2", "PRAGMA database_list"] {
        let refused = scene.run(&["db", "query", statement]).code(2).says("only reads");
        assert!(!refused.stderr.contains("json"), "{}", refused.stderr);
        refused.says("hint: `SHOW TABLES`");
    }
    scene.run(&["db", "query", "SELEC 1"]).code(2).says("cannot be parsed").says("SELEC");
    let plan = scene.run(&["db", "query", "EXPLAIN SELECT * FROM hosts"]).ok().stdout;
    assert!(plan.lines().count() > 3 && !plan.contains('\u{fffd}'), "{plan}");
}

#[test]
fn a_store_that_is_a_file_is_told_to_be_one() {
    let scene = Scene::new();
    scene.write("live/f", "content");
    std::fs::remove_dir(scene.path("store")).unwrap();
    scene.write("store", "a file");
    let failed = scene.backup("one", "@/live", "").says("must be a directory");
    assert_ne!(failed.code, 0);
}

/// `backup`, `upgrade` and `store` say which there are, the nearest first.
#[test]
fn a_store_that_is_not_there_is_told_with_those_that_are() {
    let scene = Scene::new();
    scene.write("live/f", "content");
    scene.write("other/f", "content");
    scene.backup("one", "@/live", "").ok();
    let create = ["backup", "create", "--path", "live", "--store"];
    let upgrade = ["upgrade", "create", "--project", "shop", "--image", "web=shop:2", "--store"];
    let archive = scene.archive("one");
    let import = ["backup", "import", archive.to_str().unwrap(), "--store"];
    for command in [&create[..], &upgrade, &import, &["store", "check"]] {
        let code = scene.run(&[command, &["mian"]].concat()).code;
        let ended = scene.run(&[command, &["mian"]].concat()).code(code);
        assert_ne!(code, 0, "{command:?}");
        ended.says("did you mean `main`? there are: main");
        scene.run(&[command, &["zzzzzz"]].concat()).code(code).says("hint: there are: main");
    }
    scene.run(&["store", "migrate", "mian", "main", "--yes"]).says("did you mean `main`?");
    scene.run(&[&create[..], &["other"]].concat()).says("`--store ./other`");
}

#[test]
fn an_error_in_json_is_all_that_stands_on_standard_error() {
    let scene = Scene::new();
    let error = |arguments: &[&str], code: i32| -> Value {
        let ended = scene.run(arguments).code(code);
        serde_json::from_str(&ended.stderr).unwrap_or_else(|_| panic!("{}", ended.stderr))
    };
    let wrong = error(&["backup", "list", "--nonsense", "-o", "json"], 2);
    assert_eq!(wrong["reason"], "InvalidSpec");
    assert!(wrong["message"].as_str().unwrap().contains("--nonsense"), "{wrong}");
    error(&["config", "set", "maintenance.cleanup_user_actions_days", "soon", "-o", "json"], 2);
    // Remarks go with it.
    scene.write("b.yaml", scene.fill(&format!("{STORE}---\n{}", backup("a", "@/nowhere", ""))));
    let failed = error(&["run", "-f", "b.yaml", "-o", "json"], 3);
    assert_eq!(failed["reason"], "TargetNotFound");
    assert!(failed["notes"].to_string().contains("created"), "{failed}");
}

#[test]
fn hints_on_a_host_do_not_speak_of_clusters() {
    let scene = Scene::new();
    scene.write("live/f", "content");
    let without_store = scene.apply(&backup("one", "@/live", ""));
    let without_target = scene.run(&["backup", "create"]);
    let without_any = scene.run(&["backup", "create", "-p", "live", "--store", "nowhere"]);
    for ended in [without_store, without_target, without_any] {
        assert_ne!(ended.code, 0);
        let said = ended.says("hint: ").stderr;
        for word in ["apply", "namespace", "kubectl", "cluster"] {
            assert!(!said.contains(word), "`{word}` in {said}");
        }
    }
}

/// A Backup under way, whose hook takes so many seconds.
fn slow(scene: &Scene, seconds: u32) -> std::process::Child {
    scene.write("live/f", "content");
    let hook = format!(
        "hooks: {{before: [{{exec: {{command: [sh, -c, 'touch @/begun; sleep {seconds}']}}}}]}}"
    );
    let text = scene.fill(&format!("{STORE}---\n{}", backup("slow", "@/live", &hook)));
    scene.write("slow.yaml", text);
    let mut command = scene.command(&["run", "-f", "slow.yaml"]);
    let holder = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the hook runs", || scene.path("begun").exists());
    holder
}

#[test]
fn a_catalog_held_by_a_command_is_not_said_to_have_a_socket() {
    let scene = Scene::new();
    let mut holder = slow(&scene, 20);
    let refused = scene.run(&["backup", "list"]).code(5).says(&format!("PID {}", holder.id()));
    assert!(!refused.stderr.contains("socket"), "{}", refused.stderr);
    refused.says("wait for the other process");
    assert!(holder.wait().unwrap().success());
}

/// A daemon failed at its start because somebody asked for a list at that moment.
#[test]
fn who_finds_the_catalog_taken_by_a_command_waits_a_moment() {
    let scene = Scene::new();
    let mut holder = slow(&scene, 1);
    scene.run(&["backup", "list"]).ok();
    assert!(holder.wait().unwrap().success());
}

#[test]
fn a_first_backup_of_nothing_carries_a_warning() {
    let scene = Scene::new();
    scene.backup("one", "@/live", "").ok();
    let shown = scene.run(&["backup", "show", "one"]).ok().stdout;
    assert!(shown.contains("holds no file"), "{shown}");
    scene.backup("two", "@/live", "guards: {allowEmpty: true}").ok();
    assert!(!scene.run(&["backup", "show", "two"]).ok().stdout.contains("holds no file"));
}
