//! A Backup that holds its service still, with trouble at every write: scaled to zero and back, every
//! write of it is one after which the service may be left down. May not call the library.

use std::path::Path;

use super::{
    Cluster, Fault, Instant, STOPS, Scene, Stage, assert_same, copy_of, every_sixth_write, note,
};

/// The most writes that an undisturbed one may take: 24, and what a slow machine has it say.
const WRITES: usize = 32;

/// A Backup of the stopped service through these faults; the service runs again afterwards.
fn back_up(stage: &mut Stage, data: &Path, name: &str, faults: Vec<Fault>) {
    let before = stage.scene.archives();
    let begin = |scene: &Scene| {
        scene.back_up(name, "db", &format!("  consistency: {{timeout: {STOPS}}}\n"));
    };
    stage.disturbed(faults, begin, "backup", name);
    stage.scene.running("db");
    stage.scene.tidy("db");
    stage.archived(&before, 1);
    assert_same(data, &stage.data());
}

fn backups(first: usize) {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let data = copy_of(&stage.data());
    back_up(&mut stage, data.path(), "reference", vec![]);
    let (reference, writes) = (stage.counts(), stage.proxy.writes().len());
    note(&format!("an undisturbed Backup that stops takes {writes} writes: {reference:?}"));
    assert!((13..=WRITES).contains(&writes), "{reference:#?}");
    for (write, trouble) in every_sixth_write(first, writes) {
        let begun = Instant::now();
        let fault = trouble.at(write, &stage);
        back_up(&mut stage, data.path(), &format!("write-{write}"), vec![fault]);
        trouble.bounds(write, &stage.counts(), &reference);
        note(&format!("Backup that stops, write {write}: {trouble:?}: {:?}", begun.elapsed()));
    }
}

#[test]
fn a_stopping_backup_with_trouble_at_every_sixth_write_from_the_first_and_second() {
    backups(1);
    backups(2);
}

#[test]
fn a_stopping_backup_with_trouble_at_every_sixth_write_from_the_third_and_fourth() {
    backups(3);
    backups(4);
}

#[test]
fn a_stopping_backup_with_trouble_at_every_sixth_write_from_the_fifth_and_sixth() {
    backups(5);
    backups(6);
}
