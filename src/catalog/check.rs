//! Judging the catalog: can every row be read, is every key unique, does every reference hold.
//!
//! The schema has no constraints, so what they would keep is looked for here.

use std::collections::HashMap;

use super::backup::{BackupRecord, RecordStatus};
use super::error::CatalogError;
use super::request::{ArchiveOnDisk, Finding, Severity};
use super::store::Store;

const KEYS: &[(&str, &str)] = &[
    ("app_config", "config_key"),
    ("app_state", "id"),
    ("backup_records", "id"),
    ("backup_records", "backup_name"),
    ("upgrade_history", "id"),
    ("upgrade_history", "upgrade_id"),
    ("resources", "concat_ws('/', kind, namespace, name)"),
    ("scheduled_tasks", "concat_ws('/', namespace, task_name)"),
    ("current_service_status", "service_name"),
    ("hosts", "name"),
    ("operation_journal", "id"),
    ("user_actions", "id"),
    ("schema_version", "version"),
];

const TABLES: &[&str] = &[
    "app_config",
    "app_state",
    "backup_records",
    "upgrade_history",
    "auto_upgrade_tasks",
    "scheduled_tasks",
    "download_tasks",
    "download_chunks",
    "user_actions",
    "service_status_history",
    "current_service_status",
    "system_checks",
    "performance_metrics",
    "hosts",
    "notifications",
    "resources",
    "operation_journal",
    "schema_version",
];

/// Looks at everything; an empty list means that all is well.
pub(super) fn run(store: &Store, archives: &[ArchiveOnDisk]) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    let mut add = |severity, table: &str, object: String, message: String| {
        findings.push(Finding { severity, table: table.to_owned(), object, message });
    };
    for table in TABLES {
        // Hashing every column of every row makes the engine read, and check, every block.
        let sql = format!("SELECT count(hash(t)) FROM {table} AS t");
        if let Err(error) = store.number(&sql) {
            add(Severity::Error, table, (*table).to_owned(), error.to_string());
        }
    }
    for (table, key) in KEYS {
        // The name of a deleted archive may be given again within its second.
        let rows = if *key == "backup_name" { "WHERE deleted_at IS NULL" } else { "" };
        let sql = format!(
            "SELECT ({key})::VARCHAR FROM {table} {rows} GROUP BY ALL HAVING count(*) > 1 \
             ORDER BY ALL"
        );
        for object in names(store, &sql)? {
            add(Severity::Error, table, object, format!("several rows have this {key}"));
        }
    }
    for object in names(
        store,
        "SELECT upgrade_id FROM upgrade_history WHERE backup_id IS NOT NULL \
         AND backup_id NOT IN (SELECT id FROM backup_records) ORDER BY ALL",
    )? {
        let message = "its safety backup is not recorded".to_owned();
        add(Severity::Error, "upgrade_history", object, message);
    }
    for object in names(
        store,
        "SELECT DISTINCT operation FROM operation_journal WHERE regexp_replace(operation, '/[0-9]+$', '') \
         NOT IN (SELECT concat_ws('/', kind, namespace, name) FROM resources) ORDER BY ALL",
    )? {
        let message = "no resource of this name was ever recorded".to_owned();
        add(Severity::Warning, "operation_journal", object, message);
    }
    let seen: HashMap<&str, Option<i64>> =
        archives.iter().map(|archive| (archive.path.as_str(), archive.size)).collect();
    for record in store.select::<BackupRecord>("WHERE status = 'Succeeded' ORDER BY id", &[])? {
        debug_assert_eq!(record.status, RecordStatus::Succeeded);
        let message = match (seen.get(record.backup_path.as_str()), record.backup_size) {
            (Some(None), _) => "its archive is missing".to_owned(),
            (Some(Some(size)), Some(recorded)) if *size != recorded => {
                format!("its archive has {size} bytes, recorded are {recorded}")
            }
            _ => continue,
        };
        add(Severity::Error, "backup_records", record.backup_name, message);
    }
    Ok(findings)
}

fn names(store: &Store, sql: &str) -> Result<Vec<String>, CatalogError> {
    let failed = |error| CatalogError::statement("check", error);
    let mut statement = store.connection()?.prepare(sql).map_err(failed)?;
    statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)
}
