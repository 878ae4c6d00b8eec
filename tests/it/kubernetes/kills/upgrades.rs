//! Upgrades whose operator is killed, those that roll back among them.

use std::process::Command;
use std::time::Instant;

use super::Catalog::Kept;
use super::Mover::{LosesJob, LosesPod, Stays};
use super::{Catalog, Mover, Stage, note};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::scene::{STOPS, assert_same, copy_of, service_image};

/// One Upgrade for each point, to and fro between two versions.
fn upgrades(catalog: Catalog, points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let expected = copy_of(&stage.data());
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let version = if number % 2 == 0 { 2 } else { 1 };
        let image = service_image(&stage.scene.cluster, version);
        let before = stage.scene.archives();
        let process = stage.kill(point, *mover, || {
            stage.scene.apply(&upgrade(&name, version, &image, 100));
        });
        let status = stage.scene.succeeded("upgrade", &name);
        stage.settled(&before, 1);
        assert_eq!(stage.image(), image);
        let written = stage.data().join("version");
        assert_eq!(std::fs::read_to_string(&written).unwrap(), format!("{version}\n"));
        let copied = Command::new("cp").arg("-p").arg(&written).arg(expected.path()).status();
        assert!(copied.unwrap().success());
        assert_same(expected.path(), &stage.data());
        stage.scene.succeeded("backup", status["backupName"].as_str().unwrap());
        process.kill();
        note("Upgrade", point, (*mover, catalog), begun);
    }
}

fn upgrade(name: &str, version: u32, image: &str, timeout: u32) -> String {
    format!(
        "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{workload: {{kind: Deployment, name: web}}}}\n  toVersion: \"{version}.0.0\"\n  \
         force: true\n  images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
         healthGate: {{timeout: {timeout}s, soak: 1s}}\n  consistency: {{timeout: {STOPS}}}\n"
    )
}

pub fn before_its_change(catalog: Catalog) {
    upgrades(
        catalog,
        &[
            ("upgrade.preflight.announced", Stays),
            ("upgrade.fetch.performed", Stays),
            ("upgrade.quiesce.performed", Stays),
            ("upgrade.backup.announced", Stays),
            ("backup.seal.performed", LosesJob),
            ("upgrade.backup.performed", Stays),
            ("upgrade.keep-old.announced", Stays),
            ("upgrade.keep-old.performed", Stays),
        ],
    );
}

pub fn after_its_change(catalog: Catalog) {
    upgrades(
        catalog,
        &[
            ("upgrade.apply.announced", Stays),
            ("upgrade.apply.performed", Stays),
            ("upgrade.start.announced", Stays),
            ("upgrade.start.performed", Stays),
            ("upgrade.health.announced", Stays),
            ("upgrade.soak.announced", Stays),
            ("upgrade.commit.performed", Stays),
            ("upgrade.conclude.closed", Stays),
        ],
    );
}

pub fn that_rolls_back(catalog: Catalog) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let expected = copy_of(&stage.data());
    let old = stage.image();
    let image = service_image(&stage.scene.cluster, 3);
    for (number, (point, mover)) in [
        ("upgrade.rollback-remove-new.announced", Stays),
        ("upgrade.rollback-data.announced", Stays),
        ("restore.swap.performed", LosesPod),
        ("upgrade.rollback-restore-old.performed", Stays),
        ("upgrade.rollback-resume.announced", Stays),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        let process = stage.kill(point, mover, || {
            stage.scene.apply(&upgrade(&name, 3, &image, 6));
        });
        let status = stage.scene.failed("upgrade", &name, "RolledBack");
        assert_eq!(status["phase"], "RolledBack", "{status:#}");
        stage.settled(&before, 1);
        assert_eq!(stage.image(), old);
        assert_same(expected.path(), &stage.data());
        process.kill();
        note("Upgrade that rolls back", point, (mover, catalog), begun);
    }
}

#[test]
fn an_upgrade_goes_on_before_its_change() {
    before_its_change(Kept);
}

#[test]
fn an_upgrade_goes_on_after_its_change() {
    after_its_change(Kept);
}

#[test]
fn a_rollback_goes_on() {
    that_rolls_back(Kept);
}
