//! Every point at which the kill tests end the program. A point that an operation on a Docker host passes has to be
//! here; the last test sees to it.

use std::collections::BTreeSet;

use crate::recovery::listed;

/// Every moment around these steps of a kind.
pub fn around(kind: &str, steps: &[&str]) -> Vec<String> {
    let moments = ["before", "intended", "performed", "recorded"];
    let point = |step: &str, moment: &str| format!("{kind}.{step}.{moment}");
    steps.iter().flat_map(|step| moments.map(|moment| point(step, moment))).collect()
}

/// Every moment around the end of a kind.
fn end(kind: &str) -> Vec<String> {
    let moments = ["before", "recorded", "closed", "published"];
    moments.map(|moment| format!("{kind}.conclude.{moment}")).into()
}

/// Points by their names.
pub fn these(points: &[&str]) -> Vec<String> {
    points.iter().map(|point| (*point).to_owned()).collect()
}

/// A Backup until its data is read.
pub fn of_a_backup_before_its_data_is_read() -> Vec<String> {
    let inner = ["docker.next-stop", "docker.next-stop:2", "docker.next-stop:3"];
    let archive = ["archive.started", "archive.middle", "archive.read", "archive.written"];
    [
        around("backup", &["preflight", "quiesce"]),
        these(&inner),
        around("backup", &["archive"]),
        these(&archive),
    ]
    .concat()
}

/// A Backup from then on.
pub fn of_a_backup_after_its_data_is_read() -> Vec<String> {
    let inner = ["docker.next-start", "docker.next-start:2", "docker.next-start:3"];
    let seal = ["seal.synced", "seal.renamed", "seal.manifest-written", "seal.manifest-renamed"];
    let verify = ["verify.started", "verify.middle", "verify.proved"];
    [
        around("backup", &["resume"]),
        these(&inner),
        around("backup", &["seal", "verify"]),
        these(&seal),
        these(&verify),
        these(&["catalog.before-commit", "catalog.after-commit"]),
        end("backup"),
    ]
    .concat()
}

/// The hooks of a Backup.
pub fn of_the_hooks_of_a_backup() -> Vec<String> {
    around("backup", &["hooks-before", "hooks-after"])
}

/// A Backup that fails once its archive is begun.
pub fn of_a_backup_that_fails() -> Vec<String> {
    around("backup", &["discard"])
}

/// A Restore until the new tree is put in place.
pub fn of_a_restore_before_its_swap() -> Vec<String> {
    let inner = ["extract.started", "extract.middle", "extract.finished", "docker.next-stop:2"];
    [
        around("restore", &["preflight", "verify-source", "extract", "quiesce"]),
        these(&inner),
        around("restore", &["safety-backup"]),
    ]
    .concat()
}

/// A Restore from then on.
pub fn of_a_restore_around_and_after_its_swap() -> Vec<String> {
    [
        around("restore", &["swap"]),
        these(&["swap.exchanged", "swap.old-moved", "swap.next-root"]),
        around("restore", &["resume"]),
        these(&["docker.next-start", "docker.next-start:2"]),
        around("restore", &["health", "drop-old"]),
        these(&["drop.started", "drop.middle"]),
        end("restore"),
    ]
    .concat()
}

/// The hooks of a Restore, and what it brings over.
pub fn of_a_restore_with_hooks_that_keeps_files() -> Vec<String> {
    [around("restore", &["hooks-before", "carry-over", "hooks-after"]), these(&["carry.middle"])]
        .concat()
}

/// A Restore to a place that is empty.
pub fn of_a_restore_to_an_empty_place() -> Vec<String> {
    around("restore", &["find-live"])
}

/// A Restore that makes a container again.
pub fn of_a_restore_of_a_container() -> Vec<String> {
    these(&["docker.next-revived"])
}

/// A Restore that goes back, until the old tree is in place again.
pub fn of_a_restore_that_goes_back() -> Vec<String> {
    let steps = ["undo-hooks-before", "undo-quiesce", "swap-back"];
    [around("restore", &steps), these(&["swap-back.root", "swap-back.root:2"])].concat()
}

/// A Restore that goes back, from then on.
pub fn of_a_restore_that_has_gone_back() -> Vec<String> {
    let steps = ["undo-resume", "undo-hooks-after", "discard-staging"];
    [around("restore", &steps), these(&["discard.middle", "discard.middle:3"])].concat()
}

/// An Upgrade until there is anything new.
pub fn of_an_upgrade_before_its_change() -> Vec<String> {
    [
        around("upgrade", &["preflight", "fetch", "quiesce", "backup", "keep-old"]),
        these(&["docker.next-aside", "docker.next-aside:2"]),
    ]
    .concat()
}

/// An Upgrade from then on.
pub fn of_an_upgrade_after_its_change() -> Vec<String> {
    [
        around("upgrade", &["apply"]),
        these(&["docker.next-new", "docker.next-new:2"]),
        around("upgrade", &["start", "health", "soak", "commit"]),
        end("upgrade"),
    ]
    .concat()
}

/// The hooks of an Upgrade, and the data that goes with its version.
pub fn of_an_upgrade_with_hooks_and_data() -> Vec<String> {
    around("upgrade", &["hooks-before", "data", "hooks-after"])
}

/// An Upgrade that lets the old version run again: it was killed before.
pub fn of_an_upgrade_that_changes_nothing() -> Vec<String> {
    let again = |point: String| format!("upgrade.quiesce.performed+{point}");
    around("upgrade", &["resume"]).into_iter().map(again).collect()
}

/// An Upgrade that goes back.
pub fn of_a_rollback() -> Vec<String> {
    let steps = ["rollback-remove-new", "rollback-data", "rollback-restore-old", "rollback-resume"];
    [around("upgrade", &steps), these(&["docker.next-back", "docker.next-back:2"])].concat()
}

/// The hooks of one.
pub fn of_the_hooks_of_a_rollback() -> Vec<String> {
    around("upgrade", &["rollback-hooks-after"])
}

/// A Backup by an Eider in a container.
pub fn of_a_backup_in_a_container() -> Vec<String> {
    let workers = ["docker.worker-made", "docker.worker-attached", "docker.worker-started"];
    [
        around("backup", &["preflight", "quiesce", "archive"]),
        these(&workers),
        these(&["docker.next-stop:2", "docker.next-start:2"]),
        around("backup", &["resume", "seal", "verify"]),
    ]
    .concat()
}

/// A Restore by one.
pub fn of_a_restore_in_a_container() -> Vec<String> {
    let first = ["restore.preflight.performed", "restore.extract.intended"];
    [
        these(&first),
        these(&["restore.extract.performed", "restore.quiesce.performed"]),
        around("restore", &["safety-backup", "swap", "resume"]),
        these(&["docker.worker-made:2", "restore.health.before"]),
        around("restore", &["drop-old"]),
    ]
    .concat()
}

/// An Upgrade by one.
pub fn of_an_upgrade_in_a_container() -> Vec<String> {
    [
        these(&["upgrade.quiesce.performed"]),
        around("upgrade", &["backup", "apply"]),
        these(&["upgrade.start.performed", "upgrade.commit.before"]),
    ]
    .concat()
}

/// An Upgrade by one that goes back.
pub fn of_a_rollback_in_a_container() -> Vec<String> {
    let last = these(&["upgrade.rollback-restore-old.performed"]);
    [around("upgrade", &["rollback-data"]), last].concat()
}

/// Points that no operation on a Docker host passes in Eider itself, and why.
const NOT_PASSED: &[(&str, &str)] = &[
    ("migrate.", "`store migrate` touches no service; `tests/it/recovery/`"),
    ("delete.", "nor does `backup delete`"),
    ("swap.child-", "what is no mount point of the host is exchanged; `tests/it/recovery/`"),
    ("swap-back.child-", "the same"),
];

#[test]
fn every_point_that_a_docker_host_can_reach_is_killed() {
    let killed = [
        of_a_backup_before_its_data_is_read(),
        of_a_backup_after_its_data_is_read(),
        of_the_hooks_of_a_backup(),
        of_a_backup_that_fails(),
        of_a_restore_before_its_swap(),
        of_a_restore_around_and_after_its_swap(),
        of_a_restore_with_hooks_that_keeps_files(),
        of_a_restore_to_an_empty_place(),
        of_a_restore_of_a_container(),
        of_a_restore_that_goes_back(),
        of_a_restore_that_has_gone_back(),
        of_an_upgrade_before_its_change(),
        of_an_upgrade_after_its_change(),
        of_an_upgrade_with_hooks_and_data(),
        of_an_upgrade_that_changes_nothing(),
        of_a_rollback(),
        of_the_hooks_of_a_rollback(),
        of_a_backup_in_a_container(),
        of_a_restore_in_a_container(),
        of_an_upgrade_in_a_container(),
        of_a_rollback_in_a_container(),
    ]
    .concat();
    let name = |point: &String| {
        let last = point.rsplit('+').next().unwrap();
        last.split(':').next().unwrap().to_owned()
    };
    let names: BTreeSet<String> = killed.iter().map(name).collect();
    let is_reached = |point: &String| {
        // In a cluster alone there is anything to announce to.
        !point.ends_with(".announced")
            && !NOT_PASSED.iter().any(|(prefix, _)| point.starts_with(prefix))
    };
    let reached: BTreeSet<String> = listed::all().into_iter().filter(is_reached).collect();
    let never: Vec<_> = reached.difference(&names).collect();
    let invented: Vec<_> = names.difference(&reached).collect();
    assert!(never.is_empty(), "without a kill test on a Docker host: {never:#?}");
    assert!(invented.is_empty(), "not in the sources: {invented:#?}");
    super::note(&format!("{} points, {} deaths", names.len(), killed.len()));
}
