//! Backups whose operator is killed.

use std::time::Instant;

use super::Catalog::Kept;
use super::Mover::{Ends, LosesJob, LosesPod, Stays};
use super::{Catalog, Mover, Stage, note};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::scene::{assert_same, copy_of};

/// One Backup for each point.
fn backups(catalog: Catalog, mode: &str, points: &[(&str, Mover)]) {
    backups_with(catalog, mode, "", points);
}

fn backups_with(catalog: Catalog, mode: &str, more: &str, points: &[(&str, Mover)]) {
    let Some(cluster) = Cluster::connect() else { return };
    let stage = Stage::new(cluster, catalog);
    let data = copy_of(&stage.data());
    let process = stage.operator.start();
    stage.back_up("reference", mode, more);
    let reference = stage.scene.succeeded("backup", "reference");
    stage.settled(&[], 1);
    process.kill();
    let listing = stage.listing(reference["archive"]["name"].as_str().unwrap());
    for (number, (point, mover)) in points.iter().enumerate() {
        let begun = Instant::now();
        let name = format!("kill-{number}");
        let before = stage.scene.archives();
        let process = stage.kill(point, *mover, || stage.back_up(&name, mode, more));
        let status = stage.scene.succeeded("backup", &name);
        stage.settled(&before, 1);
        let archive = status["archive"]["name"].as_str().unwrap();
        assert!(!before.contains(&archive.to_owned()), "{archive} is an old one");
        assert_eq!(stage.listing(archive), listing, "{point}");
        for field in ["files", "sourceBytes"] {
            assert_eq!(status["archive"][field], reference["archive"][field], "{status:#}");
        }
        assert_eq!(status["downtime"].is_string(), mode == "Stop", "{status:#}");
        assert!(status["journal"].is_null(), "{status:#}");
        assert_same(data.path(), &stage.data());
        process.kill();
        note("Backup", point, (*mover, catalog), begun);
    }
}

pub fn with_its_mover(catalog: Catalog) {
    backups(
        catalog,
        "Live",
        &[
            ("backup.preflight.before", Stays),
            ("backup.preflight.announced", Stays),
            ("backup.preflight.performed", Stays),
            ("backup.archive.intended", Stays),
            ("backup.archive.announced", Stays),
            ("backup.archive.performed", Stays),
            ("backup.archive.recorded", Stays),
            ("backup.seal.intended", Stays),
            ("backup.seal.announced", Stays),
            ("backup.seal.performed", Stays),
            ("backup.seal.recorded", Stays),
        ],
    );
}

pub fn when_its_mover_has_ended(catalog: Catalog) {
    backups(
        catalog,
        "Live",
        &[
            ("backup.verify.announced", Stays),
            ("backup.verify.performed", Stays),
            ("backup.conclude.before", Stays),
            ("backup.conclude.recorded", Stays),
            ("backup.conclude.closed", Stays),
            ("backup.conclude.published", Stays),
            ("backup.archive.performed", Ends),
            ("backup.seal.performed", Ends),
            ("backup.verify.performed", Ends),
        ],
    );
}

pub fn with_another_mover(catalog: Catalog) {
    backups(
        catalog,
        "Live",
        &[
            ("backup.archive.announced", LosesPod),
            ("backup.archive.performed", LosesPod),
            ("backup.seal.announced", LosesPod),
            ("backup.seal.performed", LosesPod),
            ("backup.verify.performed", LosesPod),
            ("backup.preflight.performed", LosesJob),
            ("backup.archive.performed", LosesJob),
            ("backup.seal.announced", LosesJob),
            ("backup.seal.performed", LosesJob),
            ("backup.verify.announced", LosesJob),
        ],
    );
}

pub fn of_a_stopped_service(catalog: Catalog) {
    backups(
        catalog,
        "Stop",
        &[
            ("backup.quiesce.intended", Stays),
            ("backup.quiesce.announced", Stays),
            ("backup.quiesce.performed", Stays),
            ("backup.archive.performed", LosesJob),
            ("backup.resume.intended", Stays),
            ("backup.resume.announced", Stays),
            ("backup.resume.performed", LosesPod),
            ("backup.resume.recorded", Stays),
        ],
    );
}

pub fn with_hooks(catalog: Catalog) {
    let hook = |step: &str| {
        format!(
            "[{{exec: {{container: service, command: [/bin/sh, -c, \"echo {step} >> /tmp/hooks\"]}}}}]"
        )
    };
    let hooks = format!("  hooks: {{before: {}, after: {}}}\n", hook("before"), hook("after"));
    backups_with(
        catalog,
        "Live",
        &hooks,
        &[
            ("backup.hooks-before.announced", Stays),
            ("backup.hooks-before.performed", LosesJob),
            ("backup.hooks-before.recorded", Stays),
            ("backup.hooks-after.announced", Stays),
            ("backup.hooks-after.performed", LosesPod),
        ],
    );
}

#[test]
fn a_backup_goes_on_with_its_mover() {
    with_its_mover(Kept);
}

#[test]
fn a_backup_goes_on_when_its_mover_has_ended() {
    when_its_mover_has_ended(Kept);
}

#[test]
fn a_backup_goes_on_with_another_mover() {
    with_another_mover(Kept);
}

#[test]
fn a_stopped_service_runs_again_after_its_backup() {
    of_a_stopped_service(Kept);
}

#[test]
fn hooks_run_again_and_before_their_service_is_left_alone() {
    with_hooks(Kept);
}
