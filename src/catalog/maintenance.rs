//! Retention of the records themselves, and making the catalog again from manifests.

use std::collections::HashMap;

use jiff::{Timestamp, ToSpan};

use super::backup::BackupRecord;
use super::configuration::{ConfigEntry, Settings};
use super::error::CatalogError;
use super::open;
use super::request::{MaintenanceReport, RebuildReport};
use super::row::{self, Record, time_cell};
use super::store::Store;

fn days_before(now: Timestamp, days: i64) -> Timestamp {
    let hours = days.saturating_mul(24).clamp(0, 24 * 36_500);
    now.checked_sub(hours.hours()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Removes what is older than the settings say, and writes everything into the file.
pub(super) fn run(store: &Store, now: Timestamp) -> Result<MaintenanceReport, CatalogError> {
    let entries: Vec<ConfigEntry> = store.select("", &[])?;
    let settings = Settings::from_entries(&entries);
    let mut report = MaintenanceReport::default();
    for (table, column, days) in [
        ("service_status_history", "recorded_at", settings.service_history_days),
        ("user_actions", "started_at", settings.user_actions_days),
        ("system_checks", "checked_at", settings.user_actions_days),
        ("notifications", "sent_at", settings.user_actions_days),
        ("performance_metrics", "recorded_at", settings.performance_metrics_days),
    ] {
        let sql = format!("DELETE FROM {table} WHERE {column} < ?");
        let count = store.execute(&sql, &[time_cell(days_before(now, days))])?;
        report.removed.push((table.to_owned(), count));
    }
    let count = prune_journal(store, days_before(now, settings.operation_journal_days))?;
    report.removed.push(("operation_journal".to_owned(), count));
    store.execute("VACUUM", &[])?;
    open::checkpoint(store.connection()?)?;
    Ok(report)
}

/// Removes the journals of operations that ended before `before`; open ones stay.
pub(super) fn prune_journal(store: &Store, before: Timestamp) -> Result<u64, CatalogError> {
    store.execute(
        "DELETE FROM operation_journal WHERE operation IN (SELECT operation FROM operation_journal \
         GROUP BY operation HAVING max(recorded_at) < ? \
         AND count(*) FILTER (WHERE step = 'operation' AND mark IN ('Done', 'Failed')) > 0)",
        &[time_cell(before)],
    )
}

/// Writes a record for each manifest, in one transaction; a second time changes nothing.
pub(super) fn rebuild(
    store: &mut Store,
    mut backups: Vec<BackupRecord>,
) -> Result<RebuildReport, CatalogError> {
    let present: Vec<BackupRecord> = store.select("ORDER BY deleted_at IS NULL, id", &[])?;
    let known = u64::try_from(present.len()).unwrap_or(u64::MAX);
    let mut by_name: HashMap<String, Vec<BackupRecord>> = HashMap::new();
    for record in present {
        by_name.entry(record.backup_name.clone()).or_default().push(record);
    }
    backups.sort_by(|one, other| {
        (one.created_at, &one.backup_name).cmp(&(other.created_at, &other.backup_name))
    });
    let mut report = RebuildReport::default();
    let mut rewritten: Vec<BackupRecord> = Vec::with_capacity(backups.len());
    for mut backup in backups {
        let of_name = by_name.entry(backup.backup_name.clone()).or_default();
        // Of several rows the last counts: the one whose archive has not been deleted.
        let same = of_name.iter().rposition(|record| record.is_same_archive(&backup));
        match same.map(|index| of_name.remove(index)) {
            // Two stores may hold the same archive; one record speaks of it.
            Some(record) if record.id == 0 => {
                of_name.push(record);
                continue;
            }
            // That of an object says more than a manifest; a copy in another store is no reason to move it.
            Some(record)
                if record.uid.is_some()
                    && record.deleted_at.is_none()
                    && record.store != backup.store =>
            {
                of_name.push(record);
                continue;
            }
            Some(record) => {
                backup.id = record.id;
                report.rewritten += 1;
            }
            None => {
                backup.id = store.next_number::<BackupRecord>()?;
                report.added += 1;
            }
        }
        of_name.push(BackupRecord { id: 0, ..backup.clone() });
        rewritten.push(backup);
    }
    let backups = rewritten;
    report.kept = known.saturating_sub(report.rewritten);
    store.transaction(|store| {
        let failed = |error| CatalogError::statement("write rebuilt records", error);
        let connection = store.connection()?;
        connection
            .execute_batch("CREATE TEMP TABLE rebuilt AS FROM backup_records LIMIT 0")
            .map_err(failed)?;
        {
            let mut appender = connection.appender("rebuilt").map_err(failed)?;
            for backup in &backups {
                let cells = row::cells(backup, None)?;
                appender
                    .append_row(duckdb::appender_params_from_iter(cells.iter()))
                    .map_err(failed)?;
            }
            appender.flush().map_err(failed)?;
        }
        connection
            .execute_batch(&format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM rebuilt); \
                 INSERT INTO {table} SELECT * FROM rebuilt; DROP TABLE rebuilt",
                table = BackupRecord::TABLE
            ))
            .map_err(failed)
    })?;
    open::checkpoint(store.connection()?)?;
    Ok(report)
}
