//! Archives onto hosts.

use std::collections::BTreeMap;

use super::*;
use crate::spec::Reason;
use crate::spec::target::DockerTarget;

fn roots() -> Vec<String> {
    ["volumes/shop_data", "volumes/shop_uploads", "binds/srv/shop"].map(str::to_owned).to_vec()
}

fn definition(name: &str, compose: &str) -> VolumeDefinition {
    let labels = BTreeMap::from([
        ("com.docker.compose.project".to_owned(), "shop".to_owned()),
        ("com.docker.compose.volume".to_owned(), compose.to_owned()),
    ]);
    let name = name.to_owned();
    VolumeDefinition { name, driver: "local".to_owned(), labels, ..VolumeDefinition::default() }
}

fn definitions() -> Definitions {
    let volumes = vec![definition("shop_data", "data"), definition("shop_uploads", "uploads")];
    Definitions { volumes, ..Definitions::default() }
}

fn project(name: &str) -> DockerTarget {
    DockerTarget { project: Some(name.to_owned()), ..DockerTarget::default() }
}

fn volumes(names: &[&str]) -> DockerTarget {
    let volumes = Some(names.iter().map(|name| (*name).to_owned()).collect());
    DockerTarget { volumes, ..DockerTarget::default() }
}

fn placed(target: &DockerTarget, host: &HostFacts) -> Placements {
    place(target, Some(&project("shop")), &roots(), &definitions(), host).unwrap()
}

fn homes(placements: &Placements) -> Vec<String> {
    placements
        .roots
        .iter()
        .map(|placement| match &placement.source {
            RootSource::Volume(name) => format!("{} -> {name}", placement.root),
            RootSource::Bind(path) => format!("{} -> {path}", placement.root),
        })
        .collect()
}

#[test]
fn everything_goes_back_and_missing_volumes_are_made_as_they_were() {
    let there = VolumeFacts { name: "shop_data".to_owned(), ..VolumeFacts::default() };
    let host = HostFacts { volumes: vec![there], ..HostFacts::default() };
    let placements = placed(&project("shop"), &host);
    assert_eq!(
        homes(&placements),
        [
            "volumes/shop_data -> shop_data",
            "volumes/shop_uploads -> shop_uploads",
            "binds/srv/shop -> /srv/shop"
        ]
    );
    assert_eq!(placements.roots[0].create, None);
    assert_eq!(placements.roots[1].create, Some(definition("shop_uploads", "uploads")));
    assert!(placements.warnings.is_empty());
}

#[test]
fn in_another_project_volumes_go_by_their_compose_names_and_paths_stay() {
    let mut named = VolumeFacts { name: "custom".to_owned(), ..VolumeFacts::default() };
    named.labels = definition("custom", "data").labels;
    named.labels.insert("com.docker.compose.project".to_owned(), "copy".to_owned());
    let host = HostFacts { volumes: vec![named], ..HostFacts::default() };
    let placements = placed(&project("copy"), &host);
    assert_eq!(
        homes(&placements),
        ["volumes/shop_data -> custom", "volumes/shop_uploads -> copy_uploads"]
    );
    let made = placements.roots[1].create.as_ref().unwrap();
    assert_eq!(made.labels["com.docker.compose.project"], "copy");
    assert!(placements.warnings[0].contains("/srv/shop"), "{placements:?}");
}

#[test]
fn named_volumes_are_those_of_the_archive_or_new_homes_in_order() {
    let host = HostFacts::default();
    let one = placed(&volumes(&["uploads"]), &host);
    assert_eq!(homes(&one), ["volumes/shop_uploads -> shop_uploads"]);
    assert_eq!(one.warnings.len(), 2);
    let fresh = placed(&volumes(&["new-1", "new-2"]), &host);
    assert_eq!(homes(&fresh), ["volumes/shop_data -> new-1", "volumes/shop_uploads -> new-2"]);
    let made = fresh.roots[0].create.as_ref().unwrap();
    assert!(made.name == "new-1" && made.labels.is_empty(), "Compose must not adopt a copy");
    for names in [&["shop_data", "new"][..], &["new"]] {
        let refused = place(&volumes(names), None, &roots(), &definitions(), &host).unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidSpec);
        assert!(refused.message.contains("shop_data, shop_uploads"), "{refused}");
    }
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let roots = ["data".to_owned()];
    let definitions = Definitions::default();
    let refused = place(&project("shop"), None, &roots, &definitions, &HostFacts::default());
    assert!(refused.unwrap_err().hint.unwrap().contains("target.host"));
}

#[test]
fn what_belongs_to_the_system_stays_in_the_archive() {
    let roots = ["binds/lib/modules", "binds/srv/shop"].map(str::to_owned);
    let definitions = Definitions::default();
    let placements =
        place(&project("shop"), None, &roots, &definitions, &HostFacts::default()).unwrap();
    assert_eq!(homes(&placements), ["binds/srv/shop -> /srv/shop"]);
    assert!(placements.warnings[0].contains("/lib/modules"), "{placements:?}");
}

#[test]
fn a_path_of_which_the_archive_holds_nothing_stays_as_it_is() {
    let mut placements = placed(&project("shop"), &HostFacts::default());
    let left = placements.leave_empty(|root| root != "binds/srv/shop");
    assert_eq!(left, ["/srv/shop stays as it is: the archive holds nothing of it"]);
    assert_eq!(placements.roots.len(), 2);
    assert!(placements.leave_empty(|_| false).is_empty(), "volumes are always held");
}

#[test]
fn an_archive_without_its_manifest_still_tells_its_roots() {
    let found = |names: &[&str]| {
        let mut roots = RootNames::default();
        for name in names {
            roots.see(name);
        }
        roots.found()
    };
    let own = [
        "volumes/shop_data/",
        "volumes/shop_data/log",
        "binds/srv/shop/site/",
        "binds/srv/shop/site/deep/er",
        "binds/srv/shop/site.conf",
    ];
    let roots = ["binds/srv/shop/site", "binds/srv/shop/site.conf", "volumes/shop_data"];
    assert_eq!(found(&own), roots);
    assert_eq!(found(&["volumes/", "volumes/a/", "volumes/b/x"]), ["volumes/a", "volumes/b"]);
    // Put together by others: `/srv` is not to be replaced for it.
    for others in [
        &["binds/", "binds/srv/", "binds/srv/shop/"][..],
        &["binds/srv/shop/x", "binds/srv/shop/"],
        &["volumes/a/", "etc/passwd"],
        &["gnu/", "gnu/greeting"],
        &[],
    ] {
        assert!(found(others).is_empty(), "{others:?}");
    }
}

#[test]
fn a_second_volume_of_the_same_directory_is_made_again_with_the_first() {
    let mut definitions = definitions();
    definitions.volumes.push(definition("shop_twin", "twin"));
    let placed = |target: &DockerTarget, host: &HostFacts| {
        let placements = place(target, Some(&project("shop")), &roots(), &definitions, host);
        let names: Vec<String> =
            placements.unwrap().besides.into_iter().map(|volume| volume.name).collect();
        names
    };
    assert_eq!(placed(&project("shop"), &HostFacts::default()), ["shop_twin"]);
    assert!(placed(&project("other"), &HostFacts::default()).is_empty());
    let there = VolumeFacts { name: "shop_twin".to_owned(), ..VolumeFacts::default() };
    let host = HostFacts { volumes: vec![there], ..HostFacts::default() };
    assert!(placed(&project("shop"), &host).is_empty());
}

/// It had shown the very data of the first, which was replaced under those who worked on it.
#[test]
fn a_new_volume_does_not_show_the_directory_of_the_one_that_it_is_like() {
    let mut definitions = definitions();
    let options = [("type", "none"), ("o", "bind"), ("device", "/srv/data")];
    definitions.volumes[0].options =
        options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for target in [project("other"), volumes(&["new-a", "new-b"])] {
        let roots = &roots()[..2];
        let host = HostFacts::default();
        let placed = place(&target, Some(&project("shop")), roots, &definitions, &host).unwrap();
        assert!(placed.roots[0].create.as_ref().unwrap().options.is_empty(), "{placed:?}");
        assert!(placed.warnings.iter().any(|told| told.contains("device=/srv/data")), "{placed:?}");
    }
    let back = placed(&project("shop"), &HostFacts::default());
    assert!(back.warnings.is_empty());
    let back =
        place(&project("shop"), None, &roots(), &definitions, &HostFacts::default()).unwrap();
    assert_eq!(back.roots[0].create.as_ref().unwrap().options.len(), 3);
}
