//! Restores whose operator is killed.

use std::process::Command;
use std::time::Instant;

use super::Catalog::Kept;
use super::Mover::{Ends, LosesJob, LosesPod, Stays};
use super::{Catalog, Mover, Stage, note};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::scene::{STOPS, assert_same, copy_of};

/// One Restore of damaged data for each point.
fn restores(catalog: Catalog, points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let data = copy_of(&stage.data());
    let process = stage.operator.start();
    stage.back_up("base", "Live", "");
    stage.scene.succeeded("backup", "base");
    stage.settled(&[], 1);
    process.kill();
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        std::fs::remove_dir_all(stage.data().join("deep")).unwrap();
        std::fs::write(stage.data().join("linked.txt"), "damage").unwrap();
        std::fs::write(stage.data().join("junk"), "damage").unwrap();
        let process = stage.kill(point, *mover, || {
            stage.scene.apply(&format!(
                "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\n\
                 spec: {{from: {{backupRef: {{name: base}}}}, consistency: {{timeout: {STOPS}}}}}\n"
            ));
        });
        let status = stage.scene.succeeded("restore", &name);
        stage.settled(&before, 1);
        assert_same(data.path(), &stage.data());
        let safety = status["safetyBackupName"].as_str().unwrap();
        stage.scene.succeeded("backup", safety);
        assert!(status["journal"].is_null(), "{status:#}");
        process.kill();
        note("Restore", point, (*mover, catalog), begun);
    }
}

pub fn before_its_swap(catalog: Catalog) {
    restores(
        catalog,
        &[
            ("restore.preflight.performed", Stays),
            ("restore.verify-source.announced", Stays),
            ("restore.extract.announced", Stays),
            ("restore.extract.performed", Stays),
            ("restore.extract.performed", LosesPod),
            ("restore.quiesce.announced", Stays),
            ("restore.safety-backup.announced", Stays),
        ],
    );
}

pub fn around_its_swap(catalog: Catalog) {
    restores(
        catalog,
        &[
            ("backup.archive.performed", LosesJob),
            ("restore.safety-backup.performed", LosesJob),
            ("restore.swap.announced", Stays),
            ("restore.swap.announced", LosesPod),
            ("restore.swap.performed", Stays),
            ("restore.swap.performed", LosesPod),
            ("restore.swap.recorded", Ends),
        ],
    );
}

pub fn after_its_swap(catalog: Catalog) {
    restores(
        catalog,
        &[
            ("restore.resume.announced", Stays),
            ("restore.resume.performed", Stays),
            ("restore.health.announced", LosesJob),
            ("restore.drop-old.announced", Stays),
            ("restore.drop-old.performed", LosesPod),
            ("restore.conclude.before", Stays),
            ("restore.conclude.closed", Stays),
        ],
    );
}

pub fn with_what_is_to_stay(catalog: Catalog) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let process = stage.operator.start();
    stage.back_up("base", "Live", "");
    stage.scene.succeeded("backup", "base");
    process.kill();
    let (base, expected) = (copy_of(&stage.data()), copy_of(&stage.data()));
    for (number, (point, mover)) in [
        ("restore.carry-over.announced", Stays),
        ("restore.carry-over.announced", LosesPod),
        ("restore.carry-over.performed", Stays),
        ("restore.carry-over.performed", LosesJob),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        std::fs::remove_dir_all(stage.data().join("deep")).unwrap();
        // Younger than the backup, and not to be lost with the rest.
        let kept = stage.data().join("kept");
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(kept.join("number"), format!("{number}\n")).unwrap();
        let copied = Command::new("cp").arg("-a").arg(&kept).arg(expected.path()).status();
        assert!(copied.unwrap().success());
        // The tree is as old as it was, with what stays in it.
        let touched =
            Command::new("touch").arg("-r").arg(base.path()).arg(expected.path()).status();
        assert!(touched.unwrap().success());
        let process = stage.kill(point, mover, || {
            stage.scene.apply(&format!(
                "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  \
                 from: {{backupRef: {{name: base}}}}\n  preserve: [kept]\n  \
                 consistency: {{timeout: {STOPS}}}\n"
            ));
        });
        stage.scene.succeeded("restore", &name);
        stage.settled(&before, 1);
        assert_same(expected.path(), &stage.data());
        process.kill();
        note("Restore that preserves", point, (mover, catalog), begun);
    }
}

pub fn that_is_undone(catalog: Catalog) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let process = stage.operator.start();
    stage.back_up("base", "Live", "");
    stage.scene.succeeded("backup", "base");
    process.kill();
    for (number, (point, mover)) in [
        ("restore.hooks-after.performed", Stays),
        ("restore.undo-quiesce.announced", Stays),
        ("restore.swap-back.announced", Stays),
        ("restore.swap-back.announced", LosesPod),
        ("restore.swap-back.performed", LosesJob),
        ("restore.undo-resume.announced", Stays),
        ("restore.discard-staging.announced", LosesPod),
        ("restore.discard-staging.performed", Stays),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        std::fs::write(stage.data().join("live"), format!("{number}\n")).unwrap();
        let live = copy_of(&stage.data());
        let process = stage.kill(point, mover, || {
            stage.scene.apply(&format!(
                "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  \
                 from: {{backupRef: {{name: base}}}}\n  consistency: {{timeout: {STOPS}}}\n  \
                 hooks: {{after: [{{exec: {{container: service, command: [/bin/false]}}}}]}}\n"
            ));
        });
        stage.scene.failed("restore", &name, "HookFailed");
        stage.settled(&before, 1);
        assert_same(live.path(), &stage.data());
        process.kill();
        note("Restore that is undone", point, (mover, catalog), begun);
    }
}

#[test]
fn a_restore_goes_on_before_its_swap() {
    before_its_swap(Kept);
}

#[test]
fn a_restore_goes_on_around_its_swap() {
    around_its_swap(Kept);
}

#[test]
fn a_restore_goes_on_after_its_swap() {
    after_its_swap(Kept);
}

#[test]
fn a_restore_goes_on_while_it_carries_over_what_is_to_stay() {
    with_what_is_to_stay(Kept);
}

#[test]
fn a_restore_that_fails_after_its_swap_is_undone_whoever_is_killed() {
    that_is_undone(Kept);
}
