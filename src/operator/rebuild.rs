//! Records made again from manifests: the archive is the truth, and the catalog a record of it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::resolve::directory_store;
use super::stores::{blocking, stored, whole};
use super::{Operator, OperatorError};
use crate::catalog::{BackupFilter, BackupRecord, RebuildReport, RecordStatus, SkippedManifest};
use crate::engine::{Manifest, Presence};
use crate::runtime::host;
use crate::spec::Target;

impl Operator {
    /// Makes the records again from the manifests in these directories.
    pub async fn rebuild(&self, directories: Vec<PathBuf>) -> Result<RebuildReport, OperatorError> {
        let mut directories = directories;
        if directories.is_empty() {
            for (_, store) in self.stores().await? {
                if let Ok(path) = host::local_path(&store) {
                    directories.push(path);
                }
            }
        }
        let mut rows = Vec::new();
        let mut skipped = Vec::new();
        for directory in directories {
            let store = directory_store("store", &directory);
            for (name, presence) in blocking(move || stored(&store)).await? {
                let message = match presence {
                    Presence::Whole(manifest) => {
                        rows.push(record_of(&manifest, &directory));
                        continue;
                    }
                    Presence::Broken(error) => error.to_string(),
                    Presence::Gone => format!("{name} has left its manifest alone"),
                };
                let archive = directory.join(&name).to_string_lossy().into_owned();
                skipped.push(SkippedManifest { archive, message });
            }
        }
        let report = self.catalog.rebuild(rows).await?;
        Ok(RebuildReport { skipped, ..report })
    }

    /// Adds a record for every archive in a known store that has none: what a log that was cut off
    /// by a crash may have lost. Records that are there are left alone.
    pub async fn add_missing_records(&self) -> Result<u64, OperatorError> {
        let known = self.catalog.backups(BackupFilter::default()).await?;
        let mut by_name: HashMap<&str, Vec<&BackupRecord>> = HashMap::new();
        for record in &known {
            by_name.entry(&record.backup_name).or_default().push(record);
        }
        // What an open operation is about to record is not for us to record.
        let mut open = HashSet::new();
        for operation in self.catalog.open_operations().await? {
            open.insert((operation.namespace, operation.name));
        }
        let mut rows = Vec::new();
        for (_, store) in self.stores().await? {
            let Ok(directory) = host::local_path(&store) else { continue };
            if !directory.is_dir() {
                continue;
            }
            for manifest in blocking(move || whole(&store)).await? {
                let record = record_of(&manifest, &directory);
                let running = open.contains(&(record.namespace.clone(), record.object.clone()));
                let named = by_name.get(record.backup_name.as_str());
                let there =
                    named.is_some_and(|all| all.iter().any(|one| one.is_same_archive(&record)));
                if !there && !running {
                    rows.push(record);
                }
            }
        }
        if rows.is_empty() {
            return Ok(0);
        }
        Ok(self.catalog.rebuild(rows).await?.added)
    }
}

/// The record that a manifest stands for: everything restore, verification and retention need.
pub(super) fn record_of(manifest: &Manifest, directory: &Path) -> BackupRecord {
    let signed = |number: u64| Some(i64::try_from(number).unwrap_or(i64::MAX));
    BackupRecord {
        backup_name: manifest.name.clone(),
        backup_type: format!("{:?}", manifest.backup_type),
        source_version: manifest.service_version.clone(),
        backup_path: directory.join(&manifest.name).to_string_lossy().into_owned(),
        backup_size: signed(manifest.size_bytes),
        file_count: signed(manifest.counts.files),
        compression_type: manifest.format.extension().to_owned(),
        backup_hash: Some(manifest.sha256.clone()),
        description: manifest.description.clone(),
        created_at: manifest.created_at,
        expires_at: manifest.expires_at,
        status: RecordStatus::Succeeded,
        duration_seconds: Some(manifest.duration_seconds),
        target: manifest.target_summary.clone(),
        verified_at: manifest.verified_at,
        namespace: manifest.namespace.clone(),
        object: manifest.backup.clone(),
        generation: manifest.generation,
        store: manifest.store.clone(),
        schedule: manifest.schedule.clone(),
        trigger: Some(manifest.trigger.as_str().to_owned()),
        parent: manifest.parent.as_ref().map(|parent| parent.name.clone()),
        source_bytes: signed(manifest.source_bytes),
        downtime_seconds: manifest.downtime_seconds,
        content_digest: Some(manifest.content_digest.clone()),
        host: Some(manifest.host.clone()),
        target_spec: (manifest.target != Target::default()).then(|| json!(manifest.target)),
        ..BackupRecord::default()
    }
}
