//! Upgrades that are killed.

use super::Eider::{self, InAContainer, OnTheHost};
use super::{Stage, hooks, judge_hooks, note, points};
use crate::docker::engine::{lines, text};
use crate::docker::upgrades::{self, Version};
use crate::scene::shell;

/// Upgrades to `to`, or to its like if that is what runs, each killed at one point; `more` are lines of its
/// specification.
fn upgraded(eider: Eider, points: &[String], to: Version, more: &str) {
    let Some(project) = upgrades::stage() else { return };
    if more.contains("dataFrom") {
        project.back_up("base", "").ok();
    }
    let stage = Stage { project, eider };
    let data = stage.project.at("data");
    let image = |stage: &Stage| text(&stage.project.inspected()["db"]["Config"]["Image"]);
    for (number, point) in points.iter().enumerate() {
        let (before, runs) = (lines(&data.join("version")), image(&stage));
        let to = if runs == to.image() { Version::Better } else { to };
        shell(&data, &format!("echo precious > {}", to.removes()));
        let forced = "  force: true\n  backup: {storeRef: {name: main}}\n";
        let document = upgrades::document(&stage.project, &format!("u{number}"), to, more)
            .replace("  backup: {storeRef: {name: main}}\n", forced)
            .replace("soak: 5s", "soak: 1s");
        assert!(stage.killed(point, &document), "{point} is never passed");
        stage.start_again(point, &["db", "proxy"]);
        let states = stage.project.states();
        let expected = [("db", "running"), ("proxy", "running")];
        let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(states, expected.into(), "{point}");
        let new = image(&stage) == to.image();
        assert!(new || image(&stage) == runs, "{point}: {}", image(&stage));
        let version = lines(&data.join("version"));
        let right = if new { vec![to.number().to_owned()] } else { before };
        assert_eq!(version, right, "{point}: another version's data");
        assert_eq!(data.join(to.removes()).exists(), !new, "{point}: another version's data");
        let policy = stage.project.inspected()["db"]["HostConfig"]["RestartPolicy"]["Name"].clone();
        assert_eq!(policy, "unless-stopped", "{point}");
        judge_hooks(&stage.project, point);
        note(&format!("{point}: the {} version", if new { "new" } else { "old" }));
    }
    stage.project.scene.run(&["backup", "verify", "--all"]).ok();
}

/// Hooks as a line of the specification.
fn with_hooks() -> String {
    format!("  {}\n", hooks("true"))
}

#[test]
fn an_upgrade_killed_before_its_change() {
    upgraded(OnTheHost, &points::of_an_upgrade_before_its_change(), Version::Good, "");
}

#[test]
fn an_upgrade_killed_after_its_change() {
    upgraded(OnTheHost, &points::of_an_upgrade_after_its_change(), Version::Good, "");
}

#[test]
fn an_upgrade_with_hooks_and_data_that_is_killed() {
    let more = format!("  dataFrom: {{name: base}}\n{}", with_hooks());
    upgraded(OnTheHost, &points::of_an_upgrade_with_hooks_and_data(), Version::Good, &more);
}

#[test]
fn an_upgrade_that_changes_nothing_and_is_killed_again() {
    upgraded(OnTheHost, &points::of_an_upgrade_that_changes_nothing(), Version::Good, "");
}

#[test]
fn a_rollback_that_is_killed() {
    upgraded(OnTheHost, &points::of_a_rollback(), Version::FailsToStart, "");
}

#[test]
fn a_rollback_killed_around_its_hooks() {
    let points = points::of_the_hooks_of_a_rollback();
    upgraded(OnTheHost, &points, Version::FailsToStart, &with_hooks());
}

#[test]
fn an_upgrade_whose_container_is_killed() {
    upgraded(InAContainer, &points::of_an_upgrade_in_a_container(), Version::Good, "");
    upgraded(InAContainer, &points::of_a_rollback_in_a_container(), Version::FailsToStart, "");
}
