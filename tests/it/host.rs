//! Backup and Restore of real directories on a plain host, judged by rsync and GNU tar.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::scene::{Ended, STORE, Scene, SmallDisk, assert_same, backup, may_mount, shell, tool};

/// A tree with what is easily lost: links, holes, attributes, odd names, modes, times.
const RICH: &str = r"
mkdir -p a/b/empty 'with space' && echo one > a/one && ln a/one a/b/same && echo two > 'with space/two'
ln -s a/one relative && ln -s /nowhere dangling && ln -s a to-directory
truncate -s 3M sparse && printf end >> sparse && mkfifo pipe
printf odd > $'new\nline' && printf odd > $'not\xffutf8' && printf odd > -dash && printf odd > '*'
head -c 70000 /dev/urandom > random && : > nothing
long=$(printf 'n%.0s' {1..250}) && mkdir -p $long/$long && echo deep > $long/$long/$long
chmod 4750 a/one && chmod 1777 'with space' && chmod 600 random
touch -d '2001-02-03 04:05:06.123456789' random && touch -h -d '1999-12-31' dangling
touch -d '2010-10-10 10:10:10.5' a/b
setfattr -n user.colour -v green a/one 2>/dev/null || true
setfacl -m u:1234:rx a 2>/dev/null || true
";

fn rich(scene: &Scene) {
    shell(&scene.path("live"), RICH);
    tool(
        "cp",
        &["-a", scene.path("live").to_str().unwrap(), scene.path("before").to_str().unwrap()],
    );
}

#[test]
fn a_restored_tree_is_what_was_backed_up_and_its_safety_backup_undoes_it() {
    let scene = Scene::new();
    rich(&scene);
    scene.backup("first", "@/live", "serviceVersion: '1.2.0'").ok();
    let record = scene.record("first");
    assert_eq!(record["status"], "Succeeded");
    assert!(record["verifiedAt"].is_string());
    assert!(record["backupName"].as_str().unwrap().starts_with("backup_manual_v1.2.0_"));

    shell(
        &scene.path("live"),
        "rm -r a sparse; echo changed > random; echo new > added; ln -sfn / relative",
    );
    shell(scene.path("live").parent().unwrap(), "cp -a live altered");
    scene.restore("back", "{from: {backupRef: {name: first}}}").ok();
    assert_same(&scene.path("before"), &scene.path("live"));
    let live = scene.path("live");
    assert_eq!(
        fs::metadata(live.join("a/one")).unwrap().ino(),
        fs::metadata(live.join("a/b/same")).unwrap().ino()
    );
    assert!(
        fs::metadata(live.join("sparse")).unwrap().blocks() * 512 < 1 << 20,
        "holes are filled"
    );
    assert!(fs::symlink_metadata(live.join("pipe")).unwrap().file_type().is_fifo());

    let safety = scene.record("back-before");
    assert_eq!(safety["trigger"], "pre-restore");
    assert!(safety["verifiedAt"].is_string());
    scene.restore("undo", "{from: {backupRef: {name: back-before}}}").ok();
    assert_same(&scene.path("altered"), &scene.path("live"));
    scene.run(&["db", "check"]).ok();
    let left: Vec<_> = fs::read_dir(scene.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("eider") && name != "catalog")
        .collect();
    assert!(left.is_empty(), "left over beside the root: {left:?}");
}

#[test]
fn every_format_is_read_by_gnu_tar() {
    let scene = Scene::new();
    rich(&scene);
    // ACLs are kept as extended attributes, which GNU tar does not turn into ACLs again.
    shell(&scene.path(""), "setfacl -b live/a before/a 2>/dev/null || true");
    for format in ["tar.gz", "tar.zst", "tar"] {
        let name = format.replace('.', "-");
        scene.backup(&name, "@/live", &format!("archive: {{format: {format}}}")).ok();
        let archive = scene.archive(&name);
        assert!(archive.to_str().unwrap().ends_with(&format!(".{format}")));
        let listed = tool("tar", &["tf", archive.to_str().unwrap()]);
        assert_eq!(listed.lines().filter(|line| line.ends_with("a/one")).count(), 1);
        let out = scene.path(&name);
        fs::create_dir(&out).unwrap();
        tool(
            "tar",
            &[
                "xpf",
                archive.to_str().unwrap(),
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "-C",
                out.to_str().unwrap(),
            ],
        );
        assert_same(&scene.path("before"), &out.join("live"));
        scene.run(&["backup", "verify", &name]).ok();
    }
}

#[test]
fn merge_preserve_and_include_touch_only_what_they_should() {
    let scene = Scene::new();
    shell(
        &scene.path("live"),
        "mkdir data config; echo 1 > data/db; echo 1 > config/c; echo 1 > top",
    );
    scene.backup("one", "@/live", "").ok();
    let spoil = "mkdir -p data; echo 2 > data/db; echo 2 > config/c; echo 2 > top; echo 2 > added";

    shell(&scene.path("live"), spoil);
    scene.restore("merge", "{from: {backupRef: {name: one}}, mode: Merge}").ok();
    assert_eq!(scene.read("live/top"), "1\n");
    assert_eq!(scene.read("live/added"), "2\n");

    shell(&scene.path("live"), spoil);
    scene.restore("keep", "{from: {backupRef: {name: one}}, preserve: ['config/']}").ok();
    assert_eq!(scene.read("live/config/c"), "2\n");
    assert_eq!(scene.read("live/data/db"), "1\n");
    assert!(!scene.path("live/added").exists());

    shell(&scene.path("live"), spoil);
    scene
        .restore("some", "{from: {backupRef: {name: one}}, mode: Merge, include: ['live/data/**']}")
        .ok();
    assert_eq!(scene.read("live/data/db"), "1\n");
    assert_eq!(scene.read("live/config/c"), "2\n");
    assert_eq!(scene.read("live/top"), "2\n");
}

#[test]
fn another_path_is_a_migration_and_a_missing_root_is_made_again() {
    let scene = Scene::new();
    rich(&scene);
    scene.backup("one", "@/live", "").ok();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    scene
        .restore(
            "move",
            &scene.fill("{from: {backupRef: {name: one}}, target: {host: {paths: [@/elsewhere]}}}"),
        )
        .ok();
    assert_same(&scene.path("before"), &scene.path("elsewhere"));
    assert_same(&scene.path("before"), &scene.path("live"));

    fs::remove_dir_all(scene.path("live")).unwrap();
    scene.restore("again", "{from: {backupRef: {name: one}}}").ok();
    assert_same(&scene.path("before"), &scene.path("live"));
}

#[test]
fn two_roots_and_a_single_file_come_back_together() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene.write("second/g", "two");
    scene.write("alone.conf", "three");
    scene.backup("three", "@/live, @/second, @/alone.conf", "").ok();
    fs::remove_dir_all(scene.path("second")).unwrap();
    scene.write("live/f", "spoilt");
    scene.write("alone.conf", "spoilt");
    scene.restore("back", "{from: {backupRef: {name: three}}}").ok();
    assert_eq!(scene.read("live/f"), "one");
    assert_eq!(scene.read("second/g"), "two");
    assert_eq!(scene.read("alone.conf"), "three");
}

#[test]
fn a_root_that_is_a_symlink_stays_one() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    symlink(scene.path("live"), scene.path("current")).unwrap();
    scene.backup("link", "@/current", "").ok();
    scene.write("live/f", "spoilt");
    scene.restore("back", "{from: {backupRef: {name: link}}}").ok();
    assert_eq!(scene.read("live/f"), "one");
    assert!(fs::symlink_metadata(scene.path("current")).unwrap().is_symlink());
}

#[test]
fn a_root_that_is_a_mount_point_is_restored_within() {
    if !may_mount("a_root_that_is_a_mount_point_is_restored_within") {
        return;
    }
    let scene = Scene::new();
    let _disk = SmallDisk::mount(&scene.path("live"), "16m");
    rich(&scene);
    scene.backup("mounted", "@/live", "").ok();
    shell(&scene.path("live"), "rm -r a; echo new > added; echo spoilt > random");
    scene.restore("back", "{from: {backupRef: {name: mounted}}}").ok();
    tool("mountpoint", &[scene.path("live").to_str().unwrap()]);
    assert_same(&scene.path("before"), &scene.path("live"));
}

/// A bind mount is no other file system by its number: what lay elsewhere was archived unasked, files longer than
/// directories.
#[test]
fn what_is_mounted_from_elsewhere_is_left_out() {
    if !may_mount("what_is_mounted_from_elsewhere_is_left_out") {
        return;
    }
    let scene = Scene::new();
    shell(
        &scene.path(""),
        "mkdir -p live/bound live/d elsewhere; echo 1 > live/f; echo hidden > 'live/d/a file'; echo secret > elsewhere/f",
    );
    let bind = |from: &str, to: &str| {
        let (from, to) = (scene.path(from), scene.path(to));
        tool("mount", &["--bind", from.to_str().unwrap(), to.to_str().unwrap()]);
        SmallDisk::mounted(&to)
    };
    let _mounted = [bind("elsewhere", "live/bound"), bind("elsewhere/f", "live/d/a file")];
    let ended = scene.backup("one", "@/live", "");
    ended
        .ok()
        .says("live/bound: something is mounted here")
        .says("d/a file: another file is mounted here");
    let names = tool("tar", &["tzf", scene.archive("one").to_str().unwrap()]);
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["live/", "live/bound/", "live/d/", "live/f"]);
    // A root may be mounted itself: it was named.
    scene.backup("file", "'@/live/d/a file'", "").ok();
    let held = scene.run(&["backup", "extract", "file", "--stdout", "a file"]).ok();
    assert_eq!(held.stdout, "secret\n");
    scene.backup("all", "@/live", "crossFileSystems: true").ok();
    let names = tool("tar", &["tzf", scene.archive("all").to_str().unwrap()]);
    assert!(names.contains("live/bound/f") && names.contains("live/d/a file"), "{names}");
}

/// A shell allows a thousand open files, and a walk has one open for each directory above another.
#[test]
fn a_tree_that_is_deeper_than_files_may_be_open_was_not_backed_up() {
    let scene = Scene::new();
    let deep = vec!["d"; 400].join("/");
    shell(&scene.path("live"), &format!("mkdir -p {deep}; echo bottom > {deep}/f"));
    scene.write(
        "documents.yaml",
        scene.fill(&format!("{STORE}---\n{}", backup("deep", "@/live", ""))),
    );
    let limit = ["sh", "-c", "ulimit -Sn 256; exec \"$@\"", "sh"];
    through(&scene, &limit, &["run", "-f", "documents.yaml"]).ok();
    let names = tool("tar", &["tzf", scene.archive("deep").to_str().unwrap()]);
    assert!(names.contains(&format!("live/{deep}/f")));
}

/// Directories that a Restore does not select are made anew beside what it puts back: without their access control
/// lists.
#[test]
fn directories_beside_what_is_put_back_keep_their_attributes() {
    let scene = Scene::new();
    shell(&scene.path("live"), "mkdir -p put kept/sub; echo 1 > put/f; echo 2 > kept/sub/f");
    scene.backup("one", "@/live", "").ok();
    let kept = scene.path("live/kept/sub");
    shell(
        &scene.path("live"),
        "echo spoilt > put/f; chmod 2750 kept/sub; chmod 2770 put; setfattr -n user.above -v it put",
    );
    tool("setfattr", &["-n", "user.of", "-v", "it", kept.to_str().unwrap()]);
    scene
        .restore("back", "{from: {backupRef: {name: one}}, include: [live/put/f], mode: Merge}")
        .ok();
    assert_eq!(scene.read("live/put/f"), "1\n");
    let found = tool("getfattr", &["-d", "--absolute-names", kept.to_str().unwrap()]);
    assert!(found.contains("user.of=\"it\""), "{found}");
    // Nor are those above what is selected what they were in the archive.
    let found = shell(&scene.path("live"), "getfattr -d put; stat -c %a kept/sub put");
    assert!(found.contains("user.above") && found.ends_with("2750\n2770\n"), "{found}");
}

/// What a service wrote to a place that was empty in preflight was replaced without a backup of it.
#[test]
fn what_comes_to_an_empty_place_during_a_restore_is_in_its_safety_backup() {
    let scene = Scene::new();
    shell(&scene.path(""), "mkdir -p live/one live/two; echo 1 > live/one/f; echo 2 > live/two/f");
    let (one, two) = ("@/live/one", "@/live/two");
    scene.backup("base", &format!("{one}, {two}"), "").ok();
    let hook = "hooks: {before: [{exec: {command: [sh, -c, 'echo order > @/live/one/order']}}]}";
    for emptied in ["rm live/one/f", "rm -f live/one/* live/two/*"] {
        shell(&scene.path(""), emptied);
        let name = format!("back-{}", scene.backups().len());
        let spec = format!("{{from: {{backupRef: {{name: base}}}}, {hook}}}");
        scene.restore(&name, &scene.fill(&spec)).ok();
        assert_eq!(scene.read("live/one/f"), "1\n");
        assert!(!scene.path("live/one/order").exists());
        let kept = scene.archive(&format!("{name}-before"));
        let listed = tool("tar", &["tzf", kept.to_str().unwrap()]);
        assert!(listed.lines().any(|line| line.ends_with("one/order")), "{listed}");
    }
    // Where nothing comes, none is taken.
    shell(&scene.path(""), "rm -f live/one/* live/two/*");
    let before = scene.backups().len();
    scene.restore("quiet", "{from: {backupRef: {name: base}}}").ok();
    assert_eq!(scene.backups().len(), before);
}

#[test]
fn excluded_paths_are_not_in_the_archive() {
    let scene = Scene::new();
    shell(
        &scene.path("live"),
        "mkdir cache d; echo x > cache/x; echo x > d/a.tmp; echo x > d/keep",
    );
    scene.backup("some", "@/live", "exclude: ['**/*.tmp', 'cache/']").ok();
    let listed = tool("tar", &["tf", scene.archive("some").to_str().unwrap()]);
    assert!(listed.contains("live/d/keep"));
    assert!(!listed.contains(".tmp") && !listed.contains("cache"), "{listed}");
}

/// Runs the program by another one, which is given its name and arguments.
fn through(scene: &Scene, wrapper: &[&str], arguments: &[&str]) -> Ended {
    let mut command = std::process::Command::new(wrapper[0]);
    let own = scene.command(arguments);
    command.args(&wrapper[1..]).arg(own.get_program()).args(own.get_args());
    let environment = own.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(environment).current_dir(scene.path("")).output().unwrap().into()
}

/// Runs the program as somebody who may not read everything, which root always may.
fn as_nobody(scene: &Scene, arguments: &[&str]) -> Ended {
    let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    through(scene, &somebody, arguments)
}

#[test]
fn an_unreadable_file_fails_the_backup_unless_allowed() {
    if tool("id", &["-u"]).trim() != "0" {
        return;
    }
    let scene = Scene::new();
    scene.write("live/open", "x");
    scene.write("live/shut", "x");
    fs::set_permissions(scene.path("live/shut"), fs::Permissions::from_mode(0o000)).unwrap();
    // Who may not write to a file may not give it attributes either, once it has its mode.
    shell(
        &scene.path(""),
        "echo x > live/fixed; setfattr -n user.of -v it live/fixed; chmod 444 live/fixed; \
         chmod 755 .; chown 65534 . store; chown -R 65534 live",
    );
    let program = scene.command::<&str>(&[]).get_program().to_owned();
    shell(Path::new(&program).parent().unwrap(), "chmod 755 .");
    let probe = as_nobody(&scene, &["--version"]);
    if probe.code != 0 {
        // libduckdb may lie where only its owner may look.
        #[allow(clippy::print_stderr)]
        {
            eprintln!("SKIPPED: another user cannot run the program: {}", probe.stderr);
        }
        return;
    }
    let document = |name: &str, more: &str| {
        scene.write(
            &format!("{name}.yaml"),
            scene.fill(&format!("{STORE}---\n{}", backup(name, "@/live", more))),
        );
    };
    document("strict", "");
    document("lenient", "allowUnreadable: true");
    as_nobody(&scene, &["run", "-f", "strict.yaml"]).code(1).says("shut");
    assert_eq!(scene.stored(), Vec::<String>::new());
    as_nobody(&scene, &["run", "-f", "lenient.yaml"]).ok();
    let listed = tool("tar", &["tf", scene.archive("lenient").to_str().unwrap()]);
    assert!(listed.contains("live/open") && !listed.contains("live/shut"), "{listed}");
    let shown = scene.run(&["describe", "backup", "lenient"]).ok().stdout;
    assert!(shown.contains("shut"), "{shown}");
    as_nobody(&scene, &["backup", "extract", "lenient", "--to", "out"]).ok();
    let fixed = scene.path("out/live/fixed");
    let found = tool("getfattr", &["-d", "--absolute-names", fixed.to_str().unwrap()]);
    assert!(found.contains("user.of=\"it\""), "{found}");
}

#[test]
fn guards_turn_a_vanished_source_into_a_failure_with_the_archive_kept() {
    let scene = Scene::new();
    for number in 0..10 {
        scene.write(&format!("live/{number}"), "content");
    }
    scene.backup("full", "@/live", "").ok();
    shell(&scene.path("live"), "rm 0 1 2 3 4 5 6");
    scene.backup("less", "@/live", "").code(1).says("check the source");
    shell(&scene.path("live"), "rm *");
    scene.backup("none", "@/live", "").code(1);
    for (name, reason) in [("less", "SuspiciousShrink"), ("none", "EmptySource")] {
        let record = scene.record(name);
        assert_eq!(record["status"], "Failed");
        assert!(record["verifiedAt"].is_null());
        assert_eq!(record["file"], "ok");
        let shown = scene.run(&["get", "backup", name, "-o", "json"]).ok();
        assert!(shown.stdout.contains(reason), "{}", shown.stdout);
    }
    // Such an archive is not what a restore takes without being told to.
    scene.restore("bad", "{from: {backupRef: {name: none}}}").code(4).says("unverified");
    scene.backup("allowed", "@/live", "guards: {maxShrink: 100, allowEmpty: true}").ok();
}

#[test]
fn the_time_of_expiry_is_recorded() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    scene.backup("short", "@/live", "expiresAfter: 30d").ok();
    let record = scene.record("short");
    let time = |field: &str| record[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let days = (time("expiresAt").as_second() - time("createdAt").as_second()) / 86_400;
    assert!((29..=30).contains(&days), "{record}");
}

#[test]
fn the_latest_backup_of_a_schedule_and_an_archive_by_name_can_be_restored() {
    let scene = Scene::new();
    scene.write("live/f", "one");
    scene
        .apply(&format!(
            "{STORE}---\napiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\n\
             metadata: {{name: nightly}}\nspec:\n  schedule: '0 2 * * *'\n  template: {{spec: \
             {{target: {{host: {{paths: [@/live]}}}}, storeRef: {{name: main}}}}}}\n"
        ))
        .ok();
    scene.run(&["schedule", "run", "nightly"]).ok();
    scene.write("live/f", "two");
    scene.run(&["schedule", "run", "nightly"]).ok();
    let backups = scene.backups();
    assert_eq!(backups.len(), 2, "two runs in one second are two backups: {backups:?}");
    scene.write("live/f", "three");
    scene.restore("newest", "{from: {latest: {scheduleRef: {name: nightly}}}}").ok();
    assert_eq!(scene.read("live/f"), "two");
    let oldest = backups[1]["backupName"].as_str().unwrap();
    scene
        .restore(
            "named",
            &format!("{{from: {{archive: {{storeRef: {{name: main}}, name: {oldest}}}}}}}"),
        )
        .ok();
    assert_eq!(scene.read("live/f"), "one");
}

#[test]
fn a_store_inside_its_own_source_is_refused() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let ended = scene.apply(&format!(
        "{}---\n{}",
        STORE.replace("@/store", "@/live/store"),
        backup("inside", "@/live", "")
    ));
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("inside") && ended.stderr.contains("hint"), "{}", ended.stderr);
    assert!(!scene.path("live/store").join("backup").exists());
}

#[test]
fn a_failing_hook_fails_the_backup_and_after_still_runs() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    let after = scene.fill("after: [{exec: {command: [sh, -c, 'echo after >> @/ran']}}]");
    let hooks = |before: &str| format!("hooks:\n  before: [{before}]\n  {after}");
    scene
        .backup("fails", "@/live", &hooks("{exec: {command: [sh, -c, 'echo why >&2; exit 7']}}"))
        .code(1)
        .says("why");
    assert_eq!(scene.read("ran"), "after\n");
    assert_eq!(scene.record("fails")["status"], "Failed");
    assert_eq!(scene.stored(), Vec::<String>::new());
    scene
        .backup("goes-on", "@/live", &hooks("{exec: {command: ['false']}, onError: Continue}"))
        .ok();
    scene
        .backup("too-slow", "@/live", &hooks("{exec: {command: [sleep, '600']}, timeout: 1s}"))
        .code(1);
    scene.backup("absent", "@/live", &hooks("{exec: {command: [no-such-program]}}")).code(1);
    assert_eq!(scene.read("ran").lines().count(), 4);
    let record = scene.record("too-slow");
    assert!(record["errorMessage"].as_str().unwrap().contains("1s"), "{record}");
}

#[test]
fn a_store_that_would_lie_in_the_data_is_refused_without_leaving_a_trace_in_it() {
    let scene = Scene::new();
    scene.write("live/file", "x");
    let store = STORE.replace("@/store", "@/live/deep/store");
    assert_ne!(store, STORE);
    let refused = scene.apply(&format!("{store}---\n{}", backup("one", "@/live", "")));
    refused.code(2).says("lies inside");
    assert_eq!(shell(&scene.path("live"), "ls -A").trim(), "file");
}
