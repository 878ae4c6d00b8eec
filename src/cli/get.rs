//! `eider get`, `eider describe`: objects as kubectl prints them.

use serde_json::{Value, json};

use super::arguments::{GetArguments, GlobalArguments};
use super::output::format::{age, size};
use super::output::{CliError, ExitCode, Output};
use super::session::Session;
use crate::catalog::ResourceRecord;
use crate::plan::{Log, OperationId, status};
use crate::spec::{Kind, Reason};
use crate::web::object;

/// The records that the arguments mean.
async fn find(
    session: &Session,
    arguments: &GetArguments,
) -> Result<Vec<ResourceRecord>, CliError> {
    let kind: Option<Kind> = match arguments.kind.as_str() {
        "all" | "eider" => None,
        word => Some(word.parse().map_err(|error: crate::spec::UnknownKind| {
            CliError::new(ExitCode::Usage, Reason::InvalidSpec, error.to_string())
        })?),
    };
    let kind = kind.map(|kind| kind.as_str().to_owned());
    let mut found: Vec<ResourceRecord> = session
        .operator
        .catalog()
        .resources(kind)
        .await?
        .into_iter()
        .filter(|record| record.removed_at.is_none())
        .filter(|record| {
            arguments.namespace.as_ref().is_none_or(|namespace| record.namespace == *namespace)
        })
        .filter(|record| arguments.name.as_ref().is_none_or(|name| record.name == *name))
        .collect();
    found.sort_by(|one, other| {
        (&one.kind, &one.namespace, &one.name).cmp(&(&other.kind, &other.namespace, &other.name))
    });
    if found.is_empty()
        && let Some(name) = &arguments.name
    {
        return Err(CliError::new(
            ExitCode::NotFound,
            Reason::TargetNotFound,
            format!("there is no {} `{name}`", arguments.kind),
        )
        .hint("`eider get all` shows what there is"));
    }
    Ok(found)
}

fn condition(record: &ResourceRecord, name: &str) -> String {
    let found = record.status["conditions"]
        .as_array()
        .and_then(|conditions| conditions.iter().find(|condition| condition["type"] == name));
    found.and_then(|condition| condition["status"].as_str()).unwrap_or("-").to_owned()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Phase of a run-once object, Ready of one that lives on.
fn state(record: &ResourceRecord) -> String {
    match record.status["phase"].as_str() {
        Some(phase) => phase.to_owned(),
        None if matches!(record.kind.as_str(), "BackupStore" | "BackupSchedule") => {
            match condition(record, "Ready").as_str() {
                "True" => "Ready".to_owned(),
                "False" => "NotReady".to_owned(),
                _ => "Pending".to_owned(),
            }
        }
        None => "Pending".to_owned(),
    }
}

fn columns(kind: Option<Kind>) -> Vec<&'static str> {
    match kind {
        Some(Kind::Backup) => {
            vec!["NAMESPACE", "NAME", "PHASE", "SIZE", "FILES", "VERIFIED", "AGE", "TARGET"]
        }
        Some(Kind::Restore) => {
            vec!["NAMESPACE", "NAME", "PHASE", "FILES", "AGE", "ARCHIVE", "TARGET"]
        }
        Some(Kind::Upgrade) => vec!["NAMESPACE", "NAME", "PHASE", "FROM", "TO", "BACKUP", "AGE"],
        Some(Kind::BackupSchedule) => {
            vec!["NAMESPACE", "NAME", "SCHEDULE", "OVERDUE", "NEXT RUN", "LAST BACKUP", "AGE"]
        }
        Some(Kind::BackupStore) => {
            vec!["NAMESPACE", "NAME", "STATE", "BACKUPS", "SIZE", "FREE", "AGE"]
        }
        None => vec!["NAMESPACE", "KIND", "NAME", "STATE", "AGE", "MESSAGE"],
    }
}

fn row(kind: Option<Kind>, record: &ResourceRecord) -> Vec<String> {
    let status = &record.status;
    let bytes = |value: &Value| value.as_i64().map_or_else(|| "-".to_owned(), size);
    let born = age(record.observed_at);
    let mut row = vec![record.namespace.clone()];
    match kind {
        Some(Kind::Backup) => row.extend([
            record.name.clone(),
            state(record),
            bytes(&status["archive"]["sizeBytes"]),
            text(&status["archive"]["files"]),
            condition(record, "Verified"),
            born,
            text(&status["target"]),
        ]),
        Some(Kind::Restore) => row.extend([
            record.name.clone(),
            state(record),
            text(&status["files"]),
            born,
            text(&status["archiveName"]),
            text(&status["target"]),
        ]),
        Some(Kind::Upgrade) => row.extend([
            record.name.clone(),
            state(record),
            text(&status["fromVersion"]),
            text(&status["toVersion"]),
            text(&status["backupName"]),
            born,
        ]),
        Some(Kind::BackupSchedule) => row.extend([
            record.name.clone(),
            text(&record.document["spec"]["schedule"]),
            condition(record, "Overdue"),
            text(&status["nextRunAt"]),
            text(&status["lastBackup"]),
            born,
        ]),
        Some(Kind::BackupStore) => row.extend([
            record.name.clone(),
            state(record),
            text(&status["backups"]),
            bytes(&status["bytes"]),
            bytes(&status["freeBytes"]),
            born,
        ]),
        None => row.extend([
            record.kind.clone(),
            record.name.clone(),
            state(record),
            born,
            text(&status["message"]),
        ]),
    }
    row
}

/// `eider get`.
pub async fn get(
    global: &GlobalArguments,
    arguments: &GetArguments,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        let found = find(&session, arguments).await?;
        let kind = arguments.kind.parse::<Kind>().ok();
        let items: Vec<Value> = found.iter().map(object).collect();
        let rows: Vec<Vec<String>> = found.iter().map(|record| row(kind, record)).collect();
        session.output.table(&columns(kind), &rows, &items)?;
        Ok(())
    }
    .await;
    session.finish(result).await
}

/// `eider describe`.
pub async fn describe(
    global: &GlobalArguments,
    arguments: &GetArguments,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        for record in find(&session, arguments).await? {
            let operation = OperationId {
                uid: None,
                kind: record.kind.clone(),
                namespace: record.namespace.clone(),
                name: record.name.clone(),
                generation: record.generation,
            };
            let journal = session.operator.catalog().journal(&operation).await?;
            let steps = status::steps(&Log::new(&journal));
            let mut fields = vec![
                ("Kind".to_owned(), record.kind.clone()),
                ("Name".to_owned(), format!("{}/{}", record.namespace, record.name)),
                ("Generation".to_owned(), record.generation.to_string()),
                ("Source".to_owned(), record.source.clone()),
                ("State".to_owned(), state(&record)),
            ];
            flatten("Spec", &record.document["spec"], &mut fields);
            let mut rest = record.status.clone();
            if let Value::Object(map) = &mut rest {
                map.shift_remove("conditions");
                map.shift_remove("steps");
            }
            flatten("Status", &rest, &mut fields);
            for condition in record.status["conditions"].as_array().into_iter().flatten() {
                fields.push((
                    format!("Condition {}", text(&condition["type"])),
                    format!(
                        "{} ({}) {}",
                        text(&condition["status"]),
                        text(&condition["reason"]),
                        condition["message"].as_str().unwrap_or_default()
                    )
                    .trim_end()
                    .to_owned(),
                ));
            }
            for step in &steps {
                let mut line = step.outcome.clone();
                if let (Some(from), Some(to)) = (&step.started_at, &step.completed_at) {
                    let took = to.0.duration_since(from.0);
                    line.push_str(&format!(" in {:.1}s", took.as_secs_f64().max(0.0)));
                }
                if let Some(message) = &step.message {
                    line.push_str(": ");
                    line.push_str(message);
                }
                fields.push((format!("Step {}", step.name), line));
            }
            let mut whole = object(&record);
            whole["steps"] = json!(steps);
            session.output.object(&whole, &fields)?;
        }
        Ok(())
    }
    .await;
    session.finish(result).await
}

/// Nested values as `Spec.target.host.paths`.
fn flatten(prefix: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&format!("{prefix}.{key}"), value, fields);
            }
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let words: Vec<String> = items.iter().map(text).collect();
            fields.push((prefix.to_owned(), words.join(", ")));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{prefix}[{index}]"), item, fields);
            }
        }
        Value::Null => {}
        other => fields.push((prefix.to_owned(), text(other))),
    }
}
