use super::*;
use proptest::prelude::*;
use serde_json::json;

use crate::plan::StoreBinding;

fn job(spec: &serde_json::Value) -> BackupJob {
    let mut whole = json!({
        "target": {"host": {"paths": ["/srv/data"]}},
        "storeRef": {"name": "main"},
        "type": "Incremental",
    });
    if let (Some(whole), Some(more)) = (whole.as_object_mut(), spec.as_object()) {
        whole.extend(more.clone());
    }
    BackupJob::new(
        "Backup/shop/b/1".parse().unwrap(),
        serde_json::from_value(whole).unwrap(),
        StoreBinding {
            name: "main".to_owned(),
            spec: serde_json::from_value(json!({"local": {"path": "/x"}})).unwrap(),
        },
    )
}

fn archive(name: &str) -> ParentFacts {
    ParentFacts { name: name.to_owned(), sha256: format!("hash of {name}") }
}

fn candidate(name: &str, minute: i64, parent: Option<&str>) -> Candidate {
    Candidate {
        archive: archive(name),
        parent: parent.map(archive),
        namespace: "shop".to_owned(),
        backup: name.to_owned(),
        backup_type: BackupType::Full,
        target: job(&json!({})).spec.target,
        exclude: Vec::new(),
        cross_file_systems: false,
        created_at: Timestamp::from_second(minute * 60).unwrap(),
        verified: true,
    }
}

#[test]
fn the_newest_verified_backup_of_the_same_target_is_continued() {
    let stored = [
        candidate("a", 1, None),
        candidate("c", 3, Some("a")),
        candidate("b", 2, None),
        Candidate { verified: false, ..candidate("d", 4, None) },
        Candidate { namespace: "other".to_owned(), ..candidate("e", 5, None) },
        Candidate { target: Target::default(), ..candidate("f", 6, None) },
        Candidate { backup_type: BackupType::DataOnly, ..candidate("g", 7, None) },
        Candidate { exclude: vec!["x".to_owned()], ..candidate("h", 8, None) },
        Candidate { cross_file_systems: true, ..candidate("i", 9, None) },
    ];
    assert_eq!(choose(&job(&json!({})), &stored), Ok(archive("c")));
    assert_eq!(choose(&job(&json!({"exclude": ["x"]})), &stored), Ok(archive("h")));
    assert_eq!(choose(&job(&json!({"parentRef": {"name": "b"}})), &stored), Ok(archive("b")));
    // Where the job is one on directories, the origin is what counts.
    let origin = job(&json!({})).spec.target;
    let mut translated = job(&json!({"target": {"host": {"paths": ["/mnt/1"]}}}));
    assert!(choose(&translated, &stored).is_err());
    translated.origin = Some(origin);
    assert_eq!(choose(&translated, &stored), Ok(archive("c")));
}

#[test]
fn without_a_parent_the_reason_is_said() {
    let why = |spec, stored: &[Candidate]| choose(&job(&spec), stored).unwrap_err();
    assert_eq!(why(json!({}), &[]), "store main holds no backup of host:/srv/data");
    let one = [candidate("a", 1, None)];
    assert_eq!(
        why(json!({"parentRef": {"name": "b"}}), &one),
        "store main holds no archive of host:/srv/data by Backup b"
    );
    assert_eq!(
        why(json!({"exclude": ["x"]}), &one),
        "the backups of host:/srv/data in store main leave out other paths"
    );
    assert_eq!(
        why(json!({}), &[Candidate { verified: false, ..candidate("a", 1, None) }]),
        "no backup of host:/srv/data in store main has been verified"
    );
    let torn = [candidate("a", 1, None), candidate("c", 3, Some("b"))];
    assert_eq!(why(json!({}), &torn), "c builds on b, which is not in store main");
    // Another archive of the parent's name is not the parent.
    let mut replaced = [candidate("a", 1, None), candidate("b", 3, Some("a"))];
    replaced[0].archive.sha256 = "another".to_owned();
    assert_eq!(why(json!({}), &replaced), "b builds on a, which is not in store main");
    let circle = [candidate("a", 1, Some("b")), candidate("b", 2, Some("a"))];
    assert!(why(json!({}), &circle).ends_with("builds on itself"));
}

#[test]
fn a_chain_ends_at_its_limit() {
    let mut stored = vec![candidate("0", 0, None)];
    for number in 1..40_i64 {
        let parent = (number - 1).to_string();
        stored.push(candidate(&number.to_string(), number, Some(&parent)));
    }
    let chosen = |limit: Option<u8>, count: usize| {
        let spec = limit.map_or(json!({}), |limit| json!({"maxChain": limit}));
        choose(&job(&spec), &stored[..count])
    };
    assert_eq!(chosen(None, 29), Ok(archive("28")));
    assert_eq!(chosen(None, 30).unwrap_err(), "the chain that ends in 29 has 30 of 30 archives");
    assert_eq!(chosen(Some(2), 1), Ok(archive("0")));
    assert!(chosen(Some(2), 2).is_err());
    assert_eq!(chosen(Some(255), 40), Ok(archive("39")));
}

fn link(name: &str, parent: Option<&str>) -> Link {
    Link { name: name.to_owned(), parent: parent.map(str::to_owned) }
}

#[test]
fn what_others_rest_on_stays() {
    let links = [
        link("full", None),
        link("one", Some("full")),
        link("two", Some("one")),
        link("side", Some("full")),
    ];
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let all = removal(&names(&["full", "one", "two", "side"]), &links);
    assert_eq!(all.remove, ["two", "one", "side", "full"]);
    assert_eq!(all.stay, []);
    let some = removal(&names(&["full", "one"]), &links);
    assert_eq!(some.remove, Vec::<String>::new());
    assert_eq!(some.stay.len(), 2, "{some:?}");
    let branch = removal(&names(&["one", "two", "full"]), &links);
    assert_eq!(branch.remove, ["two", "one"]);
    assert_eq!(branch.stay, [("full".to_owned(), "side".to_owned())]);
    assert_eq!(resting_on("one", &links), Some("two"));
    assert_eq!(resting_on("two", &links), None);
    let needed = needed_by_others(&["full", "one"], &links);
    assert_eq!(needed["one"], "two");
    assert_eq!(needed["full"], "side");
    assert_eq!(needed_by_others(&["full"], &links)["full"], "one");
}

#[test]
fn families_come_parents_first() {
    let links = [
        link("two", Some("one")),
        link("alone", None),
        link("one", Some("full")),
        link("torn", Some("gone")),
        link("full", None),
    ];
    assert_eq!(
        families(&links),
        [vec!["full", "one", "two"], vec!["alone"], vec!["torn"]]
            .map(|family| family.into_iter().map(str::to_owned).collect::<Vec<_>>())
    );
}

/// Up to 16 archives with any parents, missing and circular ones too.
fn any_links() -> impl Strategy<Value = Vec<Link>> {
    let one = (0_u8..12, proptest::option::weighted(0.7, 0_u8..14)).prop_map(|(name, parent)| {
        link(&format!("a{name}"), parent.map(|number| format!("a{number}")).as_deref())
    });
    proptest::collection::vec(one, 0..16)
}

proptest! {
    #[test]
    fn no_archive_ever_loses_its_parent(
        links in any_links(),
        wanted in proptest::collection::vec(0_u8..14, 0..14),
    ) {
        let names: Vec<String> = wanted.iter().map(|number| format!("a{number}")).collect();
        let found = removal(&names, &links);
        let mut left = links.clone();
        let circular = |name: &str| {
            let parents = parents(&links);
            let mut open = vec![name];
            let mut seen = BTreeSet::new();
            while let Some(at) = open.pop() {
                for parent in parents.get(at).into_iter().flatten() {
                    if *parent == name {
                        return true;
                    }
                    if seen.insert(*parent) {
                        open.push(parent);
                    }
                }
            }
            false
        };
        for name in &found.remove {
            // Whoever continues what goes now has gone before, or goes round in a circle with it.
            for child in left.iter().filter(|link| link.continues(name)) {
                prop_assert!(found.remove.contains(&child.name));
                prop_assert!(circular(name) || circular(&child.name), "{name} {links:?}");
            }
            left.retain(|link| link.name != *name);
        }
        // Each wanted name has one fate, and what stays is needed by somebody who stays.
        let mut fates: Vec<&String> =
            found.remove.iter().chain(found.stay.iter().map(|(name, _)| name)).collect();
        let mut wanted: Vec<&String> = names.iter().collect();
        fates.sort();
        wanted.sort();
        wanted.dedup();
        prop_assert_eq!(fates, wanted);
        for (name, child) in &found.stay {
            prop_assert!(!found.remove.contains(child));
            prop_assert!(links.iter().any(|link| link.name == *child && link.continues(name)));
        }
    }

    #[test]
    fn a_family_has_every_archive_once_and_parents_first(links in any_links()) {
        let families = families(&links);
        let mut members: Vec<&String> = families.iter().flatten().collect();
        let mut names: Vec<&String> = links.iter().map(|link| &link.name).collect();
        members.sort();
        names.sort();
        names.dedup();
        prop_assert_eq!(members, names);
    }

    #[test]
    fn whatever_is_needed_outside_is_named(links in any_links(), judged in proptest::collection::vec(0_u8..12, 0..8)) {
        let names: Vec<String> = judged.iter().map(|number| format!("a{number}")).collect();
        let judged: Vec<&str> = names.iter().map(String::as_str).collect();
        let needed = needed_by_others(&judged, &links);
        for link in &links {
            if let Some(parent) = &link.parent
                && judged.contains(&parent.as_str())
                && !judged.contains(&link.name.as_str())
            {
                prop_assert!(needed.contains_key(parent));
            }
        }
        prop_assert!(needed.keys().all(|name| judged.contains(&name.as_str())));
        prop_assert!(needed.values().all(|name| !judged.contains(&name.as_str())));
    }
}

#[test]
fn an_archive_lacks_the_first_ancestor_that_is_not_there() {
    let stored = |name: &str, parent: Option<ParentFacts>| {
        (name.to_owned(), Stored { sha256: archive(name).sha256, parent })
    };
    let other = ParentFacts { sha256: "another".to_owned(), ..archive("full") };
    let all = BTreeMap::from([
        stored("full", None),
        stored("one", Some(archive("full"))),
        stored("two", Some(archive("one"))),
        stored("of another", Some(other)),
        stored("orphan", Some(archive("gone"))),
        stored("its child", Some(archive("orphan"))),
        stored("circle", Some(archive("circle"))),
    ]);
    let lacking: Vec<Option<&str>> =
        ["full", "one", "two", "of another", "orphan", "its child", "circle", "not there"]
            .iter()
            .map(|name| missing_ancestor(name, &all))
            .collect();
    let gone = Some("gone");
    let expected = [None, None, None, Some("full"), gone, gone, Some("circle"), None];
    assert_eq!(lacking, expected);
}
