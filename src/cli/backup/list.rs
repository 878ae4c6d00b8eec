//! `eider backup list` and `show`.

use serde_json::{Value, json};

use crate::catalog::{BackupFilter, BackupRecord, RecordStatus};
use crate::cli::arguments::{BackupListArguments, BackupReference};
use crate::cli::output::format::{age, duration, local_minute, local_time, size};
use crate::cli::output::{CliError, OutputFormat};
use crate::cli::session::Session;

/// Whether a record's archive is where it should be.
fn presence(record: &BackupRecord) -> &'static str {
    if record.deleted_at.is_some() {
        return "deleted";
    }
    // What lies on a claim cannot be seen from here.
    if record.backup_path.is_empty() || record.uid.is_some() {
        return "-";
    }
    match std::fs::metadata(&record.backup_path) {
        Ok(metadata) if i64::try_from(metadata.len()).ok() == record.backup_size => "ok",
        Ok(_) => "wrong size",
        Err(_) => "MISSING",
    }
}

fn item(record: &BackupRecord) -> Value {
    let mut item = json!(record);
    if let Value::Object(map) = &mut item {
        map.insert("file".to_owned(), json!(presence(record).to_lowercase()));
    }
    item
}

pub(super) async fn list(
    session: &Session,
    arguments: &BackupListArguments,
) -> Result<(), CliError> {
    let filter = BackupFilter {
        namespace: arguments.namespace.clone(),
        schedule: arguments.schedule.clone(),
        ..BackupFilter::default()
    };
    let limit = match arguments.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let records: Vec<BackupRecord> = session
        .operator
        .catalog()
        .backups(filter)
        .await?
        .into_iter()
        .filter(|record| arguments.all || record.deleted_at.is_none())
        .filter(|record| {
            arguments.target.as_ref().is_none_or(|target| record.target.contains(target.as_str()))
        })
        .take(limit)
        .collect();
    // Thousands of records are shown one way or the other, not made ready for both.
    if session.output.format != OutputFormat::Table {
        let items: Vec<Value> = records.iter().map(item).collect();
        return session.output.table(&[], &[], &items);
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            vec![
                record.id.to_string(),
                record.object.clone(),
                record.trigger.clone().unwrap_or_else(|| "-".to_owned()),
                local_minute(record.created_at),
                record.source_version.clone().unwrap_or_else(|| "-".to_owned()),
                record.backup_size.map_or_else(|| "-".to_owned(), size),
                format!("{:?}", record.status),
                if record.verified_at.is_some() { "yes" } else { "no" }.to_owned(),
                presence(record).to_owned(),
                record.target.clone(),
            ]
        })
        .collect();
    session.output.table::<Value>(
        &[
            "ID", "NAME", "TYPE", "CREATED", "VERSION", "SIZE", "STATUS", "VERIFIED", "FILE",
            "TARGET",
        ],
        &rows,
        &[],
    )
}

pub(super) async fn show(session: &Session, reference: &BackupReference) -> Result<(), CliError> {
    let record = super::resolve(session, reference).await?;
    session.output.object(&item(&record), &backup_fields(&record))
}

/// A record for people.
pub(in crate::cli) fn backup_fields(record: &BackupRecord) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            fields.push((name.to_owned(), value));
        }
    };
    let seconds = |seconds: f64| duration(std::time::Duration::from_secs_f64(seconds.max(0.0)));
    field("Id", Some(record.id.to_string()));
    field("Name", Some(format!("{}/{}", record.namespace, record.object)));
    field("Status", Some(format!("{:?}", record.status)));
    field("Error", record.error_message.clone());
    field("Archive", (record.status != RecordStatus::Failed).then(|| record.backup_name.clone()));
    field("Location", Some(record.backup_path.clone()));
    field("File", Some(presence(record).to_owned()));
    field(
        "Type",
        Some(format!("{}, {}", record.backup_type, record.trigger.as_deref().unwrap_or("manual"))),
    );
    field("Continues", record.parent.clone());
    field("Target", Some(record.target.clone()));
    field("Version", record.source_version.clone());
    field("Schedule", record.schedule.clone());
    field("Store", Some(record.store.clone()));
    field(
        "Created",
        Some(format!("{} ({} ago)", local_time(record.created_at), age(record.created_at))),
    );
    field("Duration", record.duration_seconds.map(seconds));
    field("Downtime", record.downtime_seconds.map(seconds));
    field("Files", record.file_count.map(|count| count.to_string()));
    field("Source", record.source_bytes.map(size));
    field("Size", record.backup_size.map(size));
    field("Verified", Some(record.verified_at.map_or_else(|| "no".to_owned(), local_time)));
    field("Expires", record.expires_at.map(local_time));
    field("SHA-256", record.backup_hash.clone());
    field("Host", record.host.clone());
    field("Description", record.description.clone());
    for warning in &record.warnings {
        field("Warning", Some(warning.clone()));
    }
    fields
}
