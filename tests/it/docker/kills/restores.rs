//! Restores that are killed.

use std::process::Command;

use super::Eider::{self, InAContainer, OnTheHost};
use super::{OF_THE_SHOP, Stage, hooks, judge_hooks, note, points};
use crate::docker::engine::docker;
use crate::scene::{head, shell};

/// What is special about a Restore.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Plain,
    /// With hooks, and a file that stays.
    Keeps,
    /// One of the places is empty before.
    ToAnEmptyPlace,
    /// A container is gone before.
    OfAContainer,
    /// The hooks `after` fail on the new tree.
    GoesBack,
}

impl Manner {
    fn spec(self) -> String {
        match self {
            Self::Plain | Self::ToAnEmptyPlace => String::new(),
            Self::Keeps => format!(", preserve: [stays], {}", hooks("true")),
            Self::OfAContainer => ", recreateContainers: true".to_owned(),
            Self::GoesBack => format!(", {}", hooks("test -e /data/junk")),
        }
    }

    /// Brings about what it is for.
    fn prepare(self, stage: &Stage) {
        let project = &stage.project;
        shell(&project.at("data"), "rm -rf deep; echo damage > numbers; echo junk > junk");
        match self {
            Self::Keeps => _ = shell(&project.at("data"), "echo kept > stays"),
            Self::ToAnEmptyPlace => _ = shell(&project.scene.path("live/site"), "rm -f index.html"),
            Self::OfAContainer if project.states().contains_key("web") => {
                docker(&["stop", &project.of("web")]);
                docker(&["rm", &project.of("web")]);
            }
            _ => {}
        }
    }
}

fn restores(eider: Eider, points: &[String], manner: Manner) {
    let Some(stage) = Stage::set(eider) else { return };
    let data = stage.project.at("data");
    for (number, point) in points.iter().enumerate() {
        manner.prepare(&stage);
        let document = format!(
            "{}metadata: {{name: r{number}}}\nspec: {{from: {{backupRef: {{name: base}}}}{}}}\n",
            head("Restore"),
            manner.spec(),
        );
        assert!(stage.killed(point, &document), "{point} is never passed");
        // Who was gone is there with the new tree alone.
        let those_before = OF_THE_SHOP.iter().copied();
        let those_before: Vec<&str> =
            those_before.filter(|name| manner != Manner::OfAContainer || *name != "web").collect();
        stage.start_again(point, &those_before);
        // The old tree or the new one, whole.
        let old = data.join("junk").exists();
        stage.judge(point, if old { &those_before } else { &OF_THE_SHOP });
        let numbers = Command::new("sh").args(["-c", "seq 200000"]).output().unwrap().stdout;
        let found = std::fs::read(data.join("numbers")).unwrap();
        assert_eq!(found == numbers, !old, "{point}: neither the old nor the new tree");
        assert_eq!(data.join("deep/one").exists(), !old, "{point}");
        judge_hooks(&stage.project, point);
        match manner {
            Manner::Keeps => assert!(data.join("stays").exists(), "{point}: it did not stay"),
            Manner::GoesBack => assert!(old, "{point}: it did not go back"),
            Manner::ToAnEmptyPlace => {
                let page = stage.project.scene.path("live/site/index.html");
                assert_eq!(page.exists(), !old, "{point}: one place is not like the others");
            }
            _ => {}
        }
        note(&format!("{point}: the {} tree", if old { "old" } else { "new" }));
    }
    docker(&["info"]);
}

#[test]
fn a_restore_killed_before_its_swap() {
    restores(OnTheHost, &points::of_a_restore_before_its_swap(), Manner::Plain);
}

#[test]
fn a_restore_killed_around_and_after_its_swap() {
    restores(OnTheHost, &points::of_a_restore_around_and_after_its_swap(), Manner::Plain);
}

#[test]
fn a_restore_with_hooks_that_keeps_files_and_is_killed() {
    restores(OnTheHost, &points::of_a_restore_with_hooks_that_keeps_files(), Manner::Keeps);
}

#[test]
fn a_restore_to_an_empty_place_that_is_killed() {
    restores(OnTheHost, &points::of_a_restore_to_an_empty_place(), Manner::ToAnEmptyPlace);
}

#[test]
fn a_restore_of_a_container_that_is_killed() {
    restores(OnTheHost, &points::of_a_restore_of_a_container(), Manner::OfAContainer);
}

#[test]
fn a_restore_killed_while_it_goes_back() {
    restores(OnTheHost, &points::of_a_restore_that_goes_back(), Manner::GoesBack);
}

#[test]
fn a_restore_killed_after_it_has_gone_back() {
    restores(OnTheHost, &points::of_a_restore_that_has_gone_back(), Manner::GoesBack);
}

#[test]
fn a_restore_whose_container_is_killed() {
    restores(InAContainer, &points::of_a_restore_in_a_container(), Manner::Plain);
}
