//! Backups that are killed.

use super::Eider::{self, InAContainer, OnTheHost};
use super::{OF_THE_SHOP, Stage, hooks, judge_hooks, points};
use crate::docker::engine::backup;

/// How a Backup ends that nobody kills.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Good,
    /// Its hooks `after` fail.
    Bad,
}

/// Archives and manifests. What else a dead process may leave has a hidden name, and goes when it is old enough.
fn stored(stage: &Stage) -> Vec<String> {
    let all = stage.project.scene.stored().into_iter();
    all.filter(|name| !name.starts_with('.')).collect()
}

fn backups(eider: Eider, points: &[String], more: &str, end: End) {
    let Some(stage) = Stage::set(eider) else { return };
    for (number, point) in points.iter().enumerate() {
        let target = format!("project: {}", stage.project.name);
        let document = backup(&format!("b{number}"), &target, more);
        let before = stored(&stage);
        assert!(stage.killed(point, &document), "{point} is never passed");
        stage.start_again(point, &OF_THE_SHOP);
        stage.judge(point, &OF_THE_SHOP);
        let stored = stored(&stage);
        assert_eq!(stored.len() % 2, 0, "{point}: an archive without its manifest: {stored:?}");
        if end == End::Bad {
            assert_eq!(stored, before, "{point}: what failed is left");
        } else {
            judge_hooks(&stage.project, point);
        }
    }
}

#[test]
fn a_backup_killed_before_its_data_is_read() {
    backups(OnTheHost, &points::of_a_backup_before_its_data_is_read(), "", End::Good);
}

#[test]
fn a_backup_killed_after_its_data_is_read() {
    backups(OnTheHost, &points::of_a_backup_after_its_data_is_read(), "", End::Good);
}

#[test]
fn a_backup_killed_around_its_hooks() {
    backups(OnTheHost, &points::of_the_hooks_of_a_backup(), &hooks("true"), End::Good);
}

#[test]
fn a_backup_that_fails_and_is_killed() {
    backups(OnTheHost, &points::of_a_backup_that_fails(), &hooks("false"), End::Bad);
}

#[test]
fn a_backup_whose_container_is_killed() {
    backups(InAContainer, &points::of_a_backup_in_a_container(), "", End::Good);
}
