//! Schedules from labels on containers, for those who want no file. Pure: from facts to documents.
//!
//! Containers of one Compose project that ask for the same belong to one schedule, so that they are held
//! still together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::facts::{ContainerFacts, HostFacts};
use crate::spec::object_name;

/// When backups are taken of whoever does not say.
const DAILY: &str = "@daily";
/// Words of `eider.retention` and the fields that they stand for.
const RETENTION: &[(&str, &str)] = &[
    ("last", "keepLast"),
    ("hourly", "keepHourly"),
    ("daily", "keepDaily"),
    ("weekly", "keepWeekly"),
    ("monthly", "keepMonthly"),
    ("yearly", "keepYearly"),
    ("failed", "keepFailed"),
];

/// Labels that people write, without `eider.`.
const KNOWN: &[&str] =
    &["enable", "schedule", "store", "retention", "stop", "hook.before", "hook.after", "exclude"];
/// Labels that Eider writes on what it makes.
const OWN: &[&str] = &["operation", "restore", "upgrade", "worker"];

/// What the labels of a host ask for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled {
    /// Documents: stores first, then schedules.
    pub documents: Vec<Value>,
    /// Labels that say nothing that can be done.
    pub problems: Vec<String>,
}

/// What a group of containers asks for alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    schedule: String,
    store: String,
    retention: String,
    paused: bool,
}

/// Reads the labels of every container with `eider.enable=true`. `stores` are those that there are: a single
/// one is that of those who name none.
pub fn labelled(host: &HostFacts, stores: &[&str]) -> Labelled {
    let mut scopes: BTreeMap<(bool, String), Vec<&ContainerFacts>> = BTreeMap::new();
    for container in &host.containers {
        if container.own_flag("enable") == Some(true) && !container.is_one_off() {
            let scope = match container.project() {
                Some(project) => (true, project.to_owned()),
                None => (false, container.name.clone()),
            };
            scopes.entry(scope).or_default().push(container);
        }
    }
    let problems = host.containers.iter().flat_map(unreadable).collect();
    let mut found = Labelled { documents: Vec::new(), problems };
    let mut made = BTreeMap::new();
    let mut schedules = Vec::new();
    let mut names = BTreeSet::new();
    let store = Some(stores).filter(|stores| stores.len() == 1).and_then(|stores| stores.first());
    for ((is_project, scope), mut members) in scopes {
        members.sort_by(|one, other| one.name.cmp(&other.name));
        // Who says nothing of its own goes with the first of the project that does.
        let common = |label: &str| {
            let mut values = members.iter().filter_map(|member| member.own_label(label));
            values.next().map(str::to_owned)
        };
        let own = |member: &ContainerFacts, label: &str| {
            member.own_label(label).map(str::to_owned).or_else(|| common(label))
        };
        let mut groups: BTreeMap<Wish, Vec<&ContainerFacts>> = BTreeMap::new();
        for member in &members {
            let Some(store) =
                own(member, "store").or_else(|| store.map(|store| (*store).to_owned()))
            else {
                found.problems.push(format!(
                    "{}: the label eider.store is missing, and there is not exactly one store",
                    member.name
                ));
                continue;
            };
            if !store.starts_with('/') && !stores.contains(&&*store) {
                found.problems.push(format!(
                    "{}: eider.store names `{store}`, and there is no such store",
                    member.name
                ));
                continue;
            }
            let wish = Wish {
                schedule: own(member, "schedule").unwrap_or_else(|| DAILY.to_owned()),
                store,
                retention: own(member, "retention").unwrap_or_default(),
                paused: member.own_label("stop") == Some("pause"),
            };
            groups.entry(wish).or_default().push(member);
        }
        let several = groups.len() > 1;
        for (wish, group) in groups {
            let Some(retention) = retention(&wish.retention) else {
                found.problems.push(format!(
                    "{}: eider.retention `{}` is not like `daily=7,weekly=4,within=30d`",
                    group[0].name, wish.retention
                ));
                continue;
            };
            let first = group[0].service().unwrap_or(&group[0].name);
            let name = schedule_name(is_project, &scope, several.then_some(first));
            if !names.insert(name.clone()) {
                found.problems.push(format!(
                    "{}: another schedule is called {name} already; give one of them another name",
                    group[0].name
                ));
                continue;
            }
            let store = store_of(&wish.store, &mut made);
            schedules.push(schedule(
                &name,
                is_project.then_some(&*scope),
                &wish,
                &group,
                (&store, retention),
            ));
        }
    }
    found.documents = made.into_values().chain(schedules).collect();
    found
}

/// Labels of a container that nobody reads, and those that say nothing that is understood.
fn unreadable(container: &ContainerFacts) -> Vec<String> {
    let names = container.labels.keys().filter_map(|label| label.strip_prefix("eider."));
    let unknown = names.filter(|name| !KNOWN.contains(name) && !OWN.contains(name));
    let mut problems: Vec<String> = unknown
        .map(|name| {
            let known: Vec<String> = KNOWN.iter().map(|name| format!("eider.{name}")).collect();
            format!(
                "{}: there is no label eider.{name}; there are {}",
                container.name,
                known.join(", ")
            )
        })
        .collect();
    if let Some(word) = container
        .own_label("stop")
        .filter(|word| container.own_flag("stop").is_none() && *word != "pause")
    {
        problems.push(format!(
            "{}: eider.stop `{word}` is none of true, false, pause: it is stopped",
            container.name
        ));
    }
    let nonsense = |word: &&str| container.own_flag("enable").is_none() && !word.trim().is_empty();
    if let Some(word) = container.own_label("enable").filter(nonsense) {
        problems
            .push(format!("{}: eider.enable `{word}` is neither true nor false", container.name));
    }
    problems
}

/// A name of its own for each: projects and single containers begin differently, a point separates the group,
/// and what had to be changed to be a name says what it was by a digest.
fn schedule_name(is_project: bool, scope: &str, group: Option<&str>) -> String {
    let stem = if is_project { "labels" } else { "labelled" };
    let name = format!("{stem}-{}", distinct_name(scope));
    group.map_or_else(|| name.clone(), |group| format!("{name}.{}", distinct_name(group)))
}

/// A name for an object of any name; no two have the same one. A point would look like what separates a group.
fn distinct_name(text: &str) -> String {
    let name = object_name(text);
    if name == text && !text.contains('.') {
        return name;
    }
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let name = name.replace('.', "-");
    format!("{name}-{}", &digest[..8]).trim_start_matches('-').to_owned()
}

/// A store by name, or a directory, for which a document is made.
fn store_of(word: &str, stores: &mut BTreeMap<String, Value>) -> String {
    if !word.starts_with('/') {
        return word.to_owned();
    }
    let name = format!("labels-{}", distinct_name(word));
    let document = json!({
        "apiVersion": crate::spec::API_VERSION,
        "kind": "BackupStore",
        "metadata": {"name": name},
        "spec": {"local": {"path": word}},
    });
    stores.insert(name.clone(), document);
    name
}

/// `daily=7,weekly=4,within=30d`, or the number of the newest to keep.
fn retention(text: &str) -> Option<Value> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Value::Null);
    }
    if let Ok(last) = text.parse::<u32>() {
        return Some(json!({"keepLast": last}));
    }
    let mut kept = Map::new();
    for entry in text.split(',') {
        let (word, value) = entry.split_once('=')?;
        let (word, value) = (word.trim(), value.trim());
        if word == "within" {
            kept.insert("keepWithin".to_owned(), json!(value));
        } else {
            let (_, field) = RETENTION.iter().find(|(known, _)| *known == word)?;
            kept.insert((*field).to_owned(), json!(value.parse::<u32>().ok()?));
        }
    }
    Some(Value::Object(kept))
}

fn schedule(
    name: &str,
    project: Option<&str>,
    wish: &Wish,
    group: &[&ContainerFacts],
    (store, retention): (&str, Value),
) -> Value {
    let target = match project {
        Some(project) => {
            let mut services: Vec<&str> =
                group.iter().filter_map(|member| member.service()).collect();
            services.sort_unstable();
            services.dedup();
            json!({"project": project, "services": services})
        }
        None => json!({"containers": [group[0].name]}),
    };
    let goes_on = |member: &&&ContainerFacts| member.own_flag("stop") == Some(false);
    let mode = if wish.paused {
        "Pause"
    } else if group.iter().all(|member| goes_on(&member)) {
        "Live"
    } else {
        "Stop"
    };
    let hooks = |label: &str| -> Vec<Value> {
        let hook = |member: &&&ContainerFacts| {
            let command = member.own_label(label)?;
            Some(json!({"exec": {
                "container": member.name, "command": ["/bin/sh", "-c", command],
            }}))
        };
        group.iter().filter_map(|member| hook(&member)).collect()
    };
    let mut backup = json!({
        "target": {"docker": target},
        "storeRef": {"name": store},
        "consistency": {"mode": mode},
    });
    let (before, after) = (hooks("hook.before"), hooks("hook.after"));
    if !before.is_empty() || !after.is_empty() {
        backup["hooks"] = json!({"before": before, "after": after});
    }
    let mut spec = json!({"schedule": wish.schedule, "template": {"spec": backup}});
    if !retention.is_null() {
        spec["retention"] = retention;
    }
    json!({
        "apiVersion": crate::spec::API_VERSION,
        "kind": "BackupSchedule",
        "metadata": {"name": name},
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> ContainerFacts {
        let mut all: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if let Some((project, service)) = name.split_once('/') {
            all.insert("com.docker.compose.project".to_owned(), project.to_owned());
            all.insert("com.docker.compose.service".to_owned(), service.to_owned());
        }
        ContainerFacts {
            id: format!("id-{name}"),
            name: name.replace('/', "-"),
            labels: all,
            ..ContainerFacts::default()
        }
    }

    fn read(containers: Vec<ContainerFacts>) -> Labelled {
        let host = HostFacts { containers, ..HostFacts::default() };
        let found = labelled(&host, &["main"]);
        for document in &found.documents {
            let text = document.to_string();
            crate::spec::load(&text, "labels").unwrap_or_else(|error| panic!("{error:?}: {text}"));
        }
        found
    }

    const ON: (&str, &str) = ("eider.enable", "true");

    #[test]
    fn a_project_has_one_schedule_and_others_have_their_own() {
        let found = read(vec![
            container("shop/db", &[ON, ("eider.schedule", "0 3 * * *"), ("eider.retention", "7")]),
            container("shop/web", &[ON]),
            container("shop/cache", &[]),
            container("legacy_db", &[ON]),
        ]);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let name = |index: usize| found.documents[index]["metadata"]["name"].as_str().unwrap();
        assert!(name(0).starts_with("labelled-legacy-db-"), "{}", name(0));
        assert_eq!((name(1), found.documents.len()), ("labels-shop", 2));
        let shop = &found.documents[1]["spec"];
        assert_eq!(shop["schedule"], "0 3 * * *");
        assert_eq!(shop["retention"], json!({"keepLast": 7}));
        let backup = &shop["template"]["spec"];
        assert_eq!(
            backup["target"]["docker"],
            json!({"project": "shop", "services": ["db", "web"]})
        );
        assert_eq!(backup["consistency"]["mode"], "Stop");
        let legacy = &found.documents[0]["spec"];
        assert_eq!(legacy["schedule"], DAILY);
        assert_eq!(legacy["template"]["spec"]["target"]["docker"]["containers"][0], "legacy_db");
    }

    /// `docker compose run` made a schedule of its own for as long as it ran.
    #[test]
    fn a_one_off_run_has_no_schedule() {
        let found = read(vec![
            container("shop/db", &[ON]),
            container("shop/db-run-1", &[ON, ("com.docker.compose.oneoff", "True")]),
        ]);
        assert_eq!(found.documents.len(), 1);
    }

    #[test]
    fn who_wants_something_else_has_a_schedule_of_its_own() {
        let found = read(vec![
            container("shop/db", &[ON, ("eider.schedule", "@hourly"), ("eider.stop", "pause")]),
            container("shop/web", &[ON, ("eider.schedule", "@daily"), ("eider.stop", "false")]),
        ]);
        let names: Vec<&Value> =
            found.documents.iter().map(|one| &one["metadata"]["name"]).collect();
        assert_eq!(names, ["labels-shop.web", "labels-shop.db"]);
        let mode = |index: usize| {
            found.documents[index]["spec"]["template"]["spec"]["consistency"]["mode"].clone()
        };
        assert_eq!((mode(0), mode(1)), (json!("Live"), json!("Pause")));
    }

    #[test]
    fn hooks_directories_and_retention_are_read() {
        let labels = [
            ON,
            ("eider.hook.before", "pg_dump > /dump"),
            ("eider.hook.after", "rm /dump"),
            ("eider.store", "/srv/backups"),
            ("eider.retention", "daily=7, weekly=4,within=30d"),
        ];
        let found = read(vec![container("shop/db", &labels)]);
        assert_eq!(found.documents[0]["kind"], "BackupStore");
        assert_eq!(found.documents[0]["spec"]["local"]["path"], "/srv/backups");
        let spec = &found.documents[1]["spec"];
        assert_eq!(
            spec["retention"],
            json!({"keepDaily": 7, "keepWeekly": 4, "keepWithin": "30d"})
        );
        let backup = &spec["template"]["spec"];
        assert_eq!(backup["storeRef"]["name"], found.documents[0]["metadata"]["name"]);
        let hook = &backup["hooks"]["before"][0]["exec"];
        assert_eq!(hook["command"], json!(["/bin/sh", "-c", "pg_dump > /dump"]));
        assert_eq!(hook["container"], "shop-db");
    }

    #[test]
    fn what_cannot_be_read_prunes_nothing() {
        for text in ["daily", "daily=x", "often=3", "daily=7;weekly=4"] {
            let found = read(vec![container("shop/db", &[ON, ("eider.retention", text)])]);
            assert!(found.documents.is_empty(), "{text}");
            assert!(found.problems[0].contains(text), "{:?}", found.problems);
        }
        let host =
            HostFacts { containers: vec![container("shop/db", &[ON])], ..HostFacts::default() };
        assert!(labelled(&host, &[]).problems[0].contains("eider.store"));
        let off = HostFacts {
            containers: vec![container("shop/db", &[("eider.enable", "false")])],
            ..HostFacts::default()
        };
        assert_eq!(labelled(&off, &["main"]), Labelled::default());
    }

    #[test]
    fn no_two_owners_of_labels_have_one_schedule_name() {
        let other = [ON, ("eider.schedule", "@hourly")];
        let found = read(vec![
            container("x", &[ON]),
            container("x/db", &[ON]),
            container("a-b/db", &[ON]),
            container("a_b/db", &[ON]),
            container("a/b", &[ON, ("eider.schedule", "@daily")]),
            container("a/c", &other),
            container("y.z", &[ON]),
            container("y-z", &[ON]),
        ]);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let names: BTreeSet<String> =
            found.documents.iter().map(|one| one["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 8, "{names:?}");
    }

    #[test]
    fn labels_that_nobody_can_read_are_told() {
        let found = read(vec![
            container("shop/db", &[ON, ("eider.stop", "perhaps"), ("eider.worker", "x")]),
            container("shop/web", &[("eider.exlude", "cache")]),
            container("shop/cache", &[("eider.enable", "maybe")]),
            container("other", &[ON, ("eider.store", "nosuch")]),
        ]);
        let told = found.problems.join("\n");
        for part in
            ["eider.stop `perhaps`", "no label eider.exlude", "eider.enable `maybe`", "`nosuch`"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(found.problems.len(), 4, "{told}");
        assert_eq!(found.documents.len(), 1, "whose store is not there has no schedule");
    }
}
