//! Archives from elsewhere: copied into a store, read completely, recorded.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::rebuild::record_of;
use super::stores::blocking;
use super::{Operator, OperatorError};
use crate::catalog::{BackupKey, BackupRecord};
use crate::engine::{self, Cancel, LocalStore, Manifest, Progress};
use crate::plan::{Failure, StoreBinding};
use crate::runtime::host;
use crate::spec::VerifyMode;

/// What an import left.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its record.
    pub record: BackupRecord,
    /// Whether the archive came without a manifest.
    pub foreign: bool,
}

impl Operator {
    /// Copies an archive, with its manifest if it has one, into a store and records it.
    pub async fn import(
        &self,
        file: &Path,
        namespace: &str,
        store: &StoreBinding,
        version: Option<&str>,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<Imported, OperatorError> {
        let directory = host::local_path(store)?;
        let (work, binding) = (file.to_owned(), store.clone());
        let version = version.map(str::to_owned);
        let namespace = namespace.to_owned();
        let (manifest, foreign) = blocking(move || {
            copy_in(&work, &binding, version, namespace, progress.as_ref(), &cancel)
        })
        .await?;
        let mut record = record_of(&manifest, &directory);
        record.store.clone_from(&store.name);
        if let Some(known) =
            self.catalog.backup(BackupKey::Name(record.backup_name.clone())).await?
        {
            record.id = known.id;
            self.catalog.update_backup(record.clone()).await?;
        } else {
            record.id = self.catalog.insert_backup(record.clone()).await?;
        }
        self.catalog.checkpoint().await?;
        Ok(Imported { record, foreign })
    }
}

fn copy_in(
    file: &Path,
    store: &StoreBinding,
    version: Option<String>,
    namespace: String,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Manifest, bool), Failure> {
    let target = host::open_store(store)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = file.parent().unwrap_or(Path::new("/"));
    progress.phase("importing");
    let source = LocalStore::open(directory, "import", false)?;
    if source.has_manifest(&name) {
        let format = source.read_manifest(&name)?.format;
        // A backup that can never be restored must not be counted as one.
        engine::check_names(file, format, cancel)?;
        source.copy_archive(&name, &target, progress, cancel)?;
        let manifest = engine::verify(&target, &name, VerifyMode::Full, progress, cancel)?;
        return Ok((manifest, false));
    }
    let format = engine::detect_format(file)?;
    engine::check_names(file, format, cancel)?;
    let summary = engine::survey(file, format, progress, cancel)?;
    progress.total(0, summary.archive_bytes);
    let mut pending = target.begin(&name)?;
    pending.fill_from(file, cancel, progress)?;
    let mut manifest = Manifest::new(pending.name(), format, &summary, Timestamp::now());
    manifest.namespace = namespace;
    manifest.backup = name.trim_end_matches(&format!(".{}", format.extension())).to_lowercase();
    manifest.service_version = version;
    manifest.store.clone_from(&store.name);
    manifest.host = host::host_name();
    manifest.target_summary = format!("import:{name}");
    manifest.description = Some(format!("imported from {}", file.display()));
    pending.seal(&manifest)?;
    let manifest = engine::verify(&target, &manifest.name, VerifyMode::Full, progress, cancel)?;
    let at = Timestamp::now();
    target.mark_verified(&manifest.name, at)?;
    Ok((Manifest { verified_at: Some(at), ..manifest }, true))
}
