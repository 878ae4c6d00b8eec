//! What keeps the catalog small and the stores tidy, off the path of any operation.

use jiff::Timestamp;
use tracing::{info, warn};

use super::{Operator, OperatorError};
use crate::catalog::RecordStatus;
use crate::telemetry::metrics::{KeptFacts, TargetFacts};

impl Operator {
    /// Removes old history, and what unfinished uploads have left in the stores. Those of a cluster are claims,
    /// which only movers reach.
    pub async fn maintain(&self) -> Result<(), OperatorError> {
        let report = self.catalog.maintain(Timestamp::now()).await?;
        for (table, rows) in report.removed.iter().filter(|(_, rows)| *rows > 0) {
            info!(table, rows, "old rows removed");
        }
        let stores = if self.serves_cluster() { Vec::new() } else { self.stores().await? };
        for (_, store) in stores {
            match self.clean_store(&store).await {
                Ok(names) if !names.is_empty() => {
                    info!(store = store.name, ?names, "unfinished uploads removed");
                }
                Ok(_) => {}
                Err(error) => warn!(store = store.name, "cannot be cleaned: {error}"),
            }
        }
        Ok(())
    }

    /// Fills the gauges from the records: a restart must not look like a loss.
    pub async fn refill_metrics(&self) -> Result<(), OperatorError> {
        let mut targets: Vec<TargetFacts> = Vec::new();
        // Newest first: the first record of a target is its last attempt.
        for record in self.catalog.backups(crate::catalog::BackupFilter::default()).await? {
            if record.status == RecordStatus::Running {
                continue;
            }
            let known = targets.iter().position(|facts| {
                facts.namespace == record.namespace && facts.target == record.target
            });
            let index = known.unwrap_or_else(|| {
                targets.push(TargetFacts {
                    namespace: record.namespace.clone(),
                    target: record.target.clone(),
                    last_backup_attempt: Some(record.created_at),
                    last_backup_succeeded: record.status == RecordStatus::Succeeded,
                    ..TargetFacts::default()
                });
                targets.len() - 1
            });
            let facts = &mut targets[index];
            let succeeded =
                matches!(record.status, RecordStatus::Succeeded | RecordStatus::Deleted);
            if succeeded && facts.last_success.is_none() {
                let unsigned =
                    |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
                facts.last_success = Some(record.created_at);
                facts.archive_bytes = unsigned(record.backup_size);
                facts.source_bytes = unsigned(record.source_bytes);
                facts.files = unsigned(record.file_count);
            }
            if facts.last_verified.is_none() {
                facts.last_verified = record.verified_at;
            }
        }
        self.metrics.restore_from(&KeptFacts { targets, ..KeptFacts::default() });
        Ok(())
    }
}
