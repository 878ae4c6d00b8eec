//! Archives from elsewhere: copied into a store, read completely, recorded.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::rebuild::record_of;
use super::stores::blocking;
use super::{Operator, OperatorError};
use crate::catalog::{BackupKey, BackupRecord};
use crate::engine::{self, Cancel, LocalStore, Manifest, ManifestRoot, Progress};
use crate::plan::docker::{RootNames, is_root_name};
use crate::plan::{Failure, StoreBinding};
use crate::runtime::host;
use crate::spec::target::DockerTarget;
use crate::spec::{ArchiveFormat, Reason, Target, VerifyMode, object_name};

/// What an import left.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its record.
    pub record: BackupRecord,
    /// Whether the archive came without a manifest.
    pub foreign: bool,
    /// The archives that it builds on and that were copied with it.
    pub ancestors: Vec<String>,
}

impl Operator {
    /// Copies an archive, with its manifest if it has one, into a store and records it; with it every
    /// archive that it builds on, which has to lie beside it or in the store already.
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
        let (mut manifests, foreign) = blocking(move || {
            copy_in(&work, &binding, version, namespace, progress.as_ref(), &cancel)
        })
        .await?;
        let last = manifests
            .pop()
            .ok_or_else(|| Failure::new(Reason::InternalError, "an import has left no manifest"))?;
        let mut ancestors = Vec::new();
        for manifest in manifests {
            ancestors.push(self.record_imported(&manifest, &directory, store).await?.backup_name);
        }
        let record = self.record_imported(&last, &directory, store).await?;
        self.catalog.checkpoint().await?;
        Ok(Imported { record, foreign, ancestors })
    }

    async fn record_imported(
        &self,
        manifest: &Manifest,
        directory: &Path,
        store: &StoreBinding,
    ) -> Result<BackupRecord, OperatorError> {
        let mut record = record_of(manifest, directory);
        record.store.clone_from(&store.name);
        if let Some(known) =
            self.catalog.backup(BackupKey::Name(record.backup_name.clone())).await?
        {
            record.id = known.id;
            self.catalog.update_backup(record.clone()).await?;
        } else {
            record.id = self.catalog.insert_backup(record.clone()).await?;
        }
        Ok(record)
    }
}

fn copy_in(
    file: &Path,
    store: &StoreBinding,
    version: Option<String>,
    namespace: String,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Vec<Manifest>, bool), Failure> {
    let target = host::open_store(store)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = file.parent().unwrap_or(Path::new("/"));
    progress.phase("importing");
    let source = LocalStore::open(directory, "import", false)?;
    if source.has_manifest(&name) {
        let mut copied = Vec::new();
        // Parents first: no archive lies in the store without what it builds on.
        for name in chain_of(&source, &target, &name)? {
            let format = source.read_manifest(&name)?.format;
            // A backup that can never be restored must not be counted as one.
            engine::check_names(&source.archive_path(&name), format, cancel)?;
            source.copy_archive(&name, &target, progress, cancel)?;
            let mode = VerifyMode::Full;
            copied.push(engine::verify_newest(&target, &name, mode, progress, cancel)?);
        }
        return Ok((copied, false));
    }
    let format = engine::detect_format(file)?;
    if let Some(parent) = engine::ancestors(file, format)?.first() {
        return Err(Failure::new(
            Reason::ArchiveMissing,
            format!("{name} builds on {}, and its own manifest is missing", parent.name),
        )
        .hint("copy the manifests and the archives it builds on to the same directory"));
    }
    engine::check_names(file, format, cancel)?;
    let summary = engine::survey(file, format, progress, cancel)?;
    progress.total(0, summary.archive_bytes);
    let mut pending = target.begin(&name)?;
    pending.fill_from(file, cancel, progress)?;
    let mut manifest = Manifest::new(pending.name(), format, &summary, Timestamp::now());
    manifest.namespace = namespace;
    manifest.backup = object_name(name.trim_end_matches(&format!(".{}", format.extension())));
    manifest.roots = docker_roots(file, format)?;
    manifest.target = volumes_among(&manifest.roots);
    manifest.definitions = engine::definitions(file, format)?;
    manifest.service_version = version;
    manifest.store.clone_from(&store.name);
    manifest.host = host::host_name();
    manifest.target_summary = format!("import:{name}");
    manifest.description = Some(format!("imported from {}", file.display()));
    pending.seal(&manifest)?;
    let manifest = engine::verify(&target, &manifest.name, VerifyMode::Full, progress, cancel)?;
    let at = Timestamp::now();
    target.mark_verified(&manifest.name, at)?;
    Ok((vec![Manifest { verified_at: Some(at), ..manifest }], true))
}

/// The roots of an archive of a Docker target, as its index or its entries name them; none of any other,
/// which is unpacked as a whole.
fn docker_roots(file: &Path, format: ArchiveFormat) -> Result<Vec<ManifestRoot>, Failure> {
    let mut roots = engine::indexed_roots(file, format)?;
    if roots.is_empty() {
        let mut names = RootNames::default();
        engine::list_entries(file, format, &mut |entry| {
            names.see(&entry.display_name());
            Ok(())
        })?;
        let root = |name: String| ManifestRoot { path: name.clone(), name };
        roots = names.found().into_iter().map(root).collect();
    }
    if !roots.iter().all(|root| is_root_name(&root.name)) {
        roots.clear();
    }
    Ok(roots)
}

/// Where these roots go if nobody says otherwise: into their volumes. Whose paths of the host are among them
/// nobody knows, so that somebody has to say it.
fn volumes_among(roots: &[ManifestRoot]) -> Target {
    let volume = |root: &ManifestRoot| root.name.strip_prefix("volumes/").map(str::to_owned);
    match roots.iter().map(volume).collect::<Option<Vec<String>>>() {
        Some(names) if !names.is_empty() => {
            let docker = DockerTarget { volumes: Some(names), ..DockerTarget::default() };
            Target { docker: Some(docker), ..Target::default() }
        }
        _ => Target::default(),
    }
}

/// An archive after those that it builds on, but for those that the target has already.
fn chain_of(source: &LocalStore, target: &LocalStore, name: &str) -> Result<Vec<String>, Failure> {
    let mut chain = vec![name.to_owned()];
    let mut manifest = source.read_manifest(name)?;
    while let Some(parent) = manifest.parent.clone() {
        let is_meant = |store: &LocalStore| {
            store.read_manifest(&parent.name).ok().filter(|found| found.sha256 == parent.sha256)
        };
        if is_meant(target).is_some() {
            break;
        }
        manifest = is_meant(source).ok_or_else(|| {
            Failure::new(
                Reason::ArchiveMissing,
                format!(
                    "{} builds on {}, which lies neither beside it nor in the store",
                    manifest.name, parent.name
                ),
            )
            .hint("copy the archives it builds on, with their manifests, to the same directory")
        })?;
        chain.push(parent.name);
    }
    chain.reverse();
    Ok(chain)
}
