//! All of it again, by an operator that finds its catalog empty.

use super::Catalog::Emptied;
use super::{backups, restores, upgrades};

#[test]
fn a_backup_goes_on_with_its_mover() {
    backups::with_its_mover(Emptied);
}

#[test]
fn a_backup_goes_on_when_its_mover_has_ended() {
    backups::when_its_mover_has_ended(Emptied);
}

#[test]
fn a_backup_goes_on_with_another_mover() {
    backups::with_another_mover(Emptied);
}

#[test]
fn a_stopped_service_runs_again_after_its_backup() {
    backups::of_a_stopped_service(Emptied);
}

#[test]
fn hooks_run_again_and_before_their_service_is_left_alone() {
    backups::with_hooks(Emptied);
}

#[test]
fn a_restore_goes_on_before_its_swap() {
    restores::before_its_swap(Emptied);
}

#[test]
fn a_restore_goes_on_around_its_swap() {
    restores::around_its_swap(Emptied);
}

#[test]
fn a_restore_goes_on_after_its_swap() {
    restores::after_its_swap(Emptied);
}

#[test]
fn a_restore_goes_on_while_it_carries_over_what_is_to_stay() {
    restores::with_what_is_to_stay(Emptied);
}

#[test]
fn a_restore_that_fails_after_its_swap_is_undone_whoever_is_killed() {
    restores::that_is_undone(Emptied);
}

#[test]
fn an_upgrade_goes_on_before_its_change() {
    upgrades::before_its_change(Emptied);
}

#[test]
fn an_upgrade_goes_on_after_its_change() {
    upgrades::after_its_change(Emptied);
}

#[test]
fn a_rollback_goes_on() {
    upgrades::that_rolls_back(Emptied);
}
