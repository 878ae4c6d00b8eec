//! Who waits for whom when containers stop and start.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

fn stopping(containers: &[ContainerFacts]) -> Stopping {
    let order = entries(&containers.iter().collect::<Vec<_>>());
    Stopping { order, warnings: Vec::new() }
}

/// Names of those that the container of this name needs.
fn needed(stopping: &Stopping, name: &str) -> Vec<String> {
    let place = stopping.order.iter().position(|entry| entry.name == name).unwrap();
    stopping.needed_at(place).map(|(_, entry)| entry.name.clone()).collect()
}

#[test]
fn who_needs_nobody_waits_for_nobody() {
    let stopping = stopping(&[
        ContainerFacts::of_shop("db", ""),
        ContainerFacts::of_shop("cache", ""),
        ContainerFacts::of_shop("web", "db:service_healthy:false,cache:service_started:false"),
    ]);
    assert_eq!(needed(&stopping, "web"), ["cache", "db"]);
    assert!(needed(&stopping, "db").is_empty() && needed(&stopping, "cache").is_empty());
}

#[test]
fn a_circle_has_a_first_one() {
    let one = ContainerFacts::of_shop("one", "two:service_started:false");
    let stopping = stopping(&[one, ContainerFacts::of_shop("two", "one:service_started:false")]);
    assert_eq!(needed(&stopping, "one"), ["two"]);
    assert!(needed(&stopping, "two").is_empty());
}

#[test]
fn by_an_older_journal_everybody_waits_for_those_further_back() {
    let mut stopping = stopping(&[
        ContainerFacts::of_shop("db", ""),
        ContainerFacts::of_shop("cache", ""),
        ContainerFacts::of_shop("web", ""),
    ]);
    for entry in &mut stopping.order {
        entry.after = None;
    }
    assert_eq!(needed(&stopping, "cache"), ["db", "web"]);
    assert!(needed(&stopping, "web").is_empty());
}

/// A database that had not answered yet before a Backup kept others down for half an hour after it.
#[test]
fn nobody_waits_for_the_health_of_one_that_was_not_healthy_before() {
    let mut starting = ContainerFacts::of_shop("starting", "");
    starting.is_unproven = true;
    let mut ill = ContainerFacts::of_shop("ill", "");
    ill.is_ill = true;
    let mut frozen = ContainerFacts::of_shop("frozen", "");
    frozen.state = RunState::Paused;
    let stopping = stopping(&[starting, ill, frozen, ContainerFacts::of_shop("well", "")]);
    let awaited = stopping.order.iter().filter(|entry| entry.is_to_be_awaited());
    assert_eq!(awaited.map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["well"]);
}

#[test]
fn what_an_earlier_look_has_seen_counts() {
    let web = ContainerFacts::of_shop("web", "db:service_healthy:false");
    let earlier = stopping(&[ContainerFacts::of_shop("db", ""), web.clone()]);
    let mut db = ContainerFacts::of_shop("db", "");
    db.is_unproven = true;
    let again = stopping(&[db, web.clone()]).with_earlier(earlier.clone());
    assert_eq!(again, earlier, "it has been started by ourselves since");
    let without = stopping(&[web]).with_earlier(earlier);
    assert_eq!(needed(&without, "web"), ["db"]);
    assert_eq!(without.order[0].after_healthy, ["id-db"]);
}

/// Seven services that did not listen took seven times ten seconds, which no Backup allows them.
#[test]
fn who_does_not_need_the_other_stops_at_the_same_time() {
    let stopping = stopping(&[
        ContainerFacts::of_shop("db", ""),
        ContainerFacts::of_shop("web", "db:service_started:false"),
        ContainerFacts::of_shop("cache", ""),
        ContainerFacts::of_shop("mail", ""),
    ]);
    let names = |begun: &[usize], stopped: &[usize]| -> Vec<String> {
        let places = |list: &[usize]| -> BTreeSet<usize> { list.iter().copied().collect() };
        let ready = stopping.ready(&places(begun), &places(stopped));
        ready.into_iter().map(|(_, entry)| entry.name.clone()).collect()
    };
    assert_eq!(names(&[], &[]), ["cache", "mail", "web"]);
    assert!(names(&[0, 1, 2], &[0, 1]).is_empty(), "the web server still runs");
    assert_eq!(names(&[0, 1, 2], &[2]), ["db"]);
    assert_eq!(stopping.longest(|_| Duration::from_secs(10)), Duration::from_secs(20));
}
