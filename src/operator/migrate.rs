//! Moving what one store holds to another, chain by chain.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::stores::{StoreProblem, blocking, manifests};
use super::{Operator, OperatorError};
use crate::catalog::BackupRecord;
use crate::engine::{self, Cancel, Manifest, Progress};
use crate::plan::chain::{self, Link};
use crate::plan::{Failure, StoreBinding};
use crate::runtime::host;
use crate::spec::{Reason, VerifyMode};

/// What a migration did.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationReport {
    /// Archives copied, verified, re-pointed and removed from the old store.
    pub moved: Vec<String>,
    /// Archives that stay in the old store, each with the reason.
    pub failed: Vec<StoreProblem>,
}

impl Operator {
    /// Moves every archive: copy, verify the copy, re-point the record, remove the original. What builds
    /// on one another is copied parents first and removed children first, so that at no time an archive
    /// lies where its parent does not. An interrupted migration is continued by running it again.
    pub async fn migrate_store(
        &self,
        old: &StoreBinding,
        new: &StoreBinding,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<MigrationReport, OperatorError> {
        let (old_path, new_path) = (host::local_path(old)?, host::local_path(new)?);
        let same = old_path == new_path
            || matches!((old_path.canonicalize(), new_path.canonicalize()), (Ok(one), Ok(other)) if one == other);
        if same {
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!("{} and {} are the same directory", old.name, new.name),
            )
            .into());
        }
        let mut records: HashMap<String, BackupRecord> = HashMap::new();
        for record in self.records_in(&old_path).await? {
            records.insert(record.backup_name.clone(), record);
        }
        let (all, links) = {
            let old = old.clone();
            blocking(move || {
                let links = host::links(&host::open_store(&old)?)?;
                Ok((manifests(&old)?, links))
            })
            .await?
        };
        let mut report = MigrationReport::default();
        progress.phase("migrating");
        progress.total(all.len() as u64, all.iter().map(|manifest| manifest.size_bytes).sum());
        let sizes: HashMap<&str, &Manifest> =
            all.iter().map(|manifest| (manifest.name.as_str(), manifest)).collect();
        for family in chain::families(&links) {
            let mut copied = Vec::new();
            for name in family {
                if cancel.is_cancelled() {
                    return Err(Failure::new(
                        Reason::Cancelled,
                        format!(
                            "cancelled after {} archives; run it again to go on",
                            report.moved.len()
                        ),
                    )
                    .into());
                }
                match self.copy_one(old, new, &name, records.remove(&name), &cancel).await {
                    Ok(()) => copied.push(name),
                    Err(OperatorError::Refused(failure)) => report.failed.push(StoreProblem {
                        object: name,
                        reason: failure.reason,
                        message: failure.message,
                    }),
                    Err(error) => return Err(error),
                }
            }
            self.remove_copied(old, &copied, &links, &mut report).await?;
            for name in &copied {
                let size = sizes.get(name.as_str()).map_or(0, |manifest| manifest.size_bytes);
                progress.advance(1, size);
            }
        }
        self.catalog.checkpoint().await?;
        Ok(report)
    }

    /// Copies an archive, proves the copy, and points its record there.
    async fn copy_one(
        &self,
        old: &StoreBinding,
        new: &StoreBinding,
        name: &str,
        record: Option<BackupRecord>,
        cancel: &Cancel,
    ) -> Result<(), OperatorError> {
        let location = {
            let (old, new, name, cancel) =
                (old.clone(), new.clone(), name.to_owned(), cancel.clone());
            blocking(move || {
                let from = host::open_store(&old)?;
                let to = host::open_store(&new)?;
                from.copy_archive(&name, &to, &engine::Silent, &cancel)?;
                // What it builds on has been copied and verified before.
                let (mode, silent) = (VerifyMode::Full, &engine::Silent);
                engine::verify_newest(&to, &name, mode, silent, &cancel)?;
                Ok(to.archive_path(&name))
            })
            .await?
        };
        if let Some(mut record) = record {
            record.backup_path = location.to_string_lossy().into_owned();
            record.store.clone_from(&new.name);
            self.catalog.update_backup(record).await?;
        }
        crate::failpoint::hit("migrate.recorded");
        Ok(())
    }

    /// Removes originals, but for those that something builds on which could not be copied.
    async fn remove_copied(
        &self,
        old: &StoreBinding,
        copied: &[String],
        links: &[Link],
        report: &mut MigrationReport,
    ) -> Result<(), OperatorError> {
        let removal = chain::removal(copied, links);
        for name in removal.remove {
            let (old, gone) = (old.clone(), name.clone());
            blocking(move || Ok(host::open_store(&old)?.delete(&gone)?)).await?;
            report.moved.push(name);
        }
        for (name, child) in removal.stay {
            report.failed.push(StoreProblem {
                message: format!("copied, and kept in {} because {child} builds on it", old.name),
                object: name,
                reason: Reason::ArchiveNeeded,
            });
        }
        Ok(())
    }
}
