//! Every named point of a Backup and of a Restore, each killed once.

use super::kill::{Play, try_points};
use super::points::{
    BACKUP_INNER, BACKUP_STEPS, CATALOG, RESTORE_EMPTY_STEPS, RESTORE_INNER, RESTORE_STEPS,
    RESTORE_UNDO_INNER, RESTORE_UNDO_STEPS, around, end, named,
};

#[test]
fn backup_steps() {
    let points = [around("backup", BACKUP_STEPS), end("backup")].concat();
    try_points(Play::Backup(1), &points);
}

#[test]
fn backup_inner_points_with_two_roots() {
    try_points(Play::Backup(2), &named(BACKUP_INNER));
}

#[test]
fn backup_between_transactions() {
    let numbers = 1..=2;
    let points: Vec<String> = numbers
        .flat_map(|number| CATALOG.iter().map(move |point| format!("{point}:{number}")))
        .collect();
    try_points(Play::Backup(1), &points);
}

#[test]
fn restore_steps() {
    let points = [around("restore", RESTORE_STEPS), end("restore")].concat();
    try_points(Play::Restore(1), &points);
}

#[test]
fn restore_to_an_empty_place() {
    try_points(Play::RestoreOfNothing, &around("restore", RESTORE_EMPTY_STEPS));
}

#[test]
fn restore_inner_points() {
    try_points(Play::Restore(1), &named(RESTORE_INNER));
}

#[test]
fn restore_of_two_roots() {
    let points = ["swap.exchanged", "swap.exchanged:2", "swap.next-root", "swap.old-moved:2"];
    let more = ["restore.swap.performed", "drop.started", "drop.started:2", "drop.middle:20"];
    let points = [named(&points), named(&more)].concat();
    try_points(Play::Restore(2), &points);
}

#[test]
fn restore_in_its_safety_backup() {
    let inner = ["archive.middle", "seal.renamed", "seal.manifest-renamed", "verify.proved"];
    let steps = ["archive", "seal", "verify"];
    let points = [around("backup", &steps), end("backup"), named(&inner)].concat();
    try_points(Play::Restore(1), &points);
}

#[test]
fn restore_being_undone() {
    let steps = around("restore", RESTORE_UNDO_STEPS);
    let points = [steps, end("restore"), named(RESTORE_UNDO_INNER)].concat();
    try_points(Play::FailingRestore(1), &points);
    let points = ["swap-back.root", "swap-back.root:2", "discard.middle:20"];
    try_points(Play::FailingRestore(2), &named(&points));
}

#[test]
fn restore_between_transactions() {
    let numbers = 1..=2;
    let points: Vec<String> = numbers
        .flat_map(|number| CATALOG.iter().map(move |point| format!("{point}:{number}")))
        .collect();
    try_points(Play::Restore(1), &points);
}
