//! A Compose file with an `x-eider` block as the BackupSchedule that it stands for.
//!
//! Compose ignores top-level keys that begin with `x-`, so that a project and its backups can stand in one
//! file. Part of reading (`yaml` is its only user).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::document::API_VERSION;

/// The block.
pub(super) const BLOCK: &str = "x-eider";
/// Fields of the block that are the schedule's own; all others are those of its Backups.
const OF_SCHEDULE: &[&str] = &[
    "schedule",
    "timeZone",
    "jitter",
    "suspend",
    "concurrencyPolicy",
    "startingDeadline",
    "overdueAfter",
    "retention",
];
/// When backups are taken of whoever does not say.
pub(super) const DAILY: &str = "@daily";

/// What a Compose file stands for; nothing for anything else.
pub(super) fn as_document(value: &Value, file: &str) -> Option<Value> {
    if value.get("apiVersion").is_some() || value.get("services").is_none() {
        return None;
    }
    let block = value.get(BLOCK)?.as_object()?;
    let project = value["name"].as_str().map_or_else(|| project_of(file), str::to_owned);
    let mut spec = Map::new();
    spec.insert("schedule".to_owned(), json!(DAILY));
    let mut backup = Map::new();
    let mut target = Map::from_iter([("project".to_owned(), json!(project))]);
    let mut metadata = Map::from_iter([("name".to_owned(), json!(object_name(&project)))]);
    for (field, value) in block {
        let (place, name): (&mut Map<String, Value>, &str) = match field.as_str() {
            "name" | "namespace" => (&mut metadata, field),
            "services" | "volumes" => (&mut target, field),
            "store" => {
                backup.insert("storeRef".to_owned(), json!({"name": value}));
                continue;
            }
            own if OF_SCHEDULE.contains(&own) => (&mut spec, own),
            other => (&mut backup, other),
        };
        place.insert(name.to_owned(), value.clone());
    }
    backup.insert("target".to_owned(), json!({"docker": target}));
    spec.insert("template".to_owned(), json!({"spec": backup}));
    Some(json!({
        "apiVersion": API_VERSION, "kind": "BackupSchedule", "metadata": metadata, "spec": spec,
    }))
}

/// Where what stands at a path in the file stands in the document.
pub(super) fn moved(path: &str) -> Option<String> {
    let rest = path.strip_prefix(BLOCK)?.strip_prefix('.')?;
    let field = rest.split(['.', '[']).next()?;
    Some(match field {
        "name" | "namespace" => format!("metadata.{rest}"),
        "services" | "volumes" => format!("spec.template.spec.target.docker.{rest}"),
        "store" => "spec.template.spec.storeRef.name".to_owned(),
        own if OF_SCHEDULE.contains(&own) => format!("spec.{rest}"),
        _ => format!("spec.template.spec.{rest}"),
    })
}

/// The project's name where the file does not say it: as Compose makes it, of its directory.
fn project_of(file: &str) -> String {
    let path = std::path::absolute(file).unwrap_or_else(|_| Path::new(file).to_owned());
    let directory = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let kept = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let name: String = directory.unwrap_or_default().to_lowercase().chars().filter(kept).collect();
    name.trim_start_matches(['-', '_']).to_owned()
}

/// A name for an object, of any name.
pub fn object_name(name: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        kept @ ('a'..='z' | '0'..='9' | '.') => kept,
        _ => '-',
    };
    let name: String = name.chars().map(letter).collect();
    name.trim_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::yaml::load;
    use super::*;

    const FILE: &str = "services:
  db: {image: postgres:16}
x-eider:
  schedule: \"15 3 * * *\"
  retention: {keepDaily: 7}
  services: [db]
  store: main
  consistency: {mode: Live}
";

    #[test]
    fn a_block_is_a_schedule_of_the_project() {
        let loaded = load(&format!("name: shop\n{FILE}"), "compose.yaml").unwrap();
        let document = loaded[0].value.to_value();
        assert_eq!(document["kind"], "BackupSchedule");
        assert_eq!(document["metadata"]["name"], "shop");
        assert_eq!(document["spec"]["schedule"], "15 3 * * *");
        let backup = &document["spec"]["template"]["spec"];
        assert_eq!(backup["target"]["docker"], json!({"project": "shop", "services": ["db"]}));
        assert_eq!(backup["storeRef"]["name"], "main");
        assert_eq!(backup["consistency"]["mode"], "Live");
        // Without a name it is the directory's, as for Compose.
        let loaded = load(FILE, "/srv/My_Shop.2/compose.yaml").unwrap();
        let document = loaded[0].value.to_value();
        assert_eq!(document["metadata"]["name"], "my-shop2");
        let target = &document["spec"]["template"]["spec"]["target"];
        assert_eq!(target["docker"]["project"], "my_shop2");
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        let text = FILE.replace("keepDaily: 7", "keepDaily: seven");
        let problems = load(&text, "compose.yaml").unwrap_err();
        assert_eq!(problems[0].line, 5, "{problems:?}");
        let text = FILE.replace("  store: main", "  shop: main");
        let problems = load(&text, "compose.yaml").unwrap_err();
        assert!(problems.iter().any(|problem| problem.line == 7), "{problems:?}");
    }

    #[test]
    fn other_files_are_left_alone() {
        assert_eq!(as_document(&json!({"services": {}}), "compose.yaml"), None);
        assert_eq!(as_document(&json!({"x-eider": {}}), "x.yaml"), None);
    }
}
