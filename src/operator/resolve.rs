//! From an object's name to a job: references looked up, defaults filled in.
//!
//! An operation that has begun is resolved from its own journal. A document may have changed since,
//! a store may have been renamed: what was begun is finished or undone as it was meant then.

use std::path::Path;

use serde_json::{Value, json};

use super::stores::which_there_are;
use super::{Operator, OperatorError};
use crate::catalog::{BackupFilter, BackupKey, BackupRecord, RecordStatus, ResourceRecord};
use crate::engine::{LocalStore, Manifest};
use crate::plan::docker::is_root_name;
use crate::plan::{
    BackupJob, ClaimFacts, Failure, Job, Log, OPERATION, OperationId, RestoreJob, SourceSize,
    StoreBinding, UpgradeJob,
};
use crate::runtime::host;
use crate::spec::{
    BackupSpec, BackupStoreSpec, HostTarget, Kind, LocalStore as LocalStoreSpec, Reason,
    RestoreSpec, Target, UpgradeSpec,
};

/// Label that names the schedule which made a Backup.
pub(super) const SCHEDULE_LABEL: &str = "eider.dev/schedule";

/// A job with what recording needs besides.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The job.
    pub job: Job,
}

impl Operator {
    /// The job of an operation; writes it to the journal when the operation has not begun.
    pub(super) async fn resolve(
        &self,
        operation: &OperationId,
    ) -> Result<Result<Resolved, Failure>, OperatorError> {
        let journal = self.journal(operation).await?;
        if let Some(job) = Log::new(&journal).job() {
            return Ok(Ok(Resolved { job }));
        }
        let job = match self.look_up(operation).await? {
            Ok(job) => job,
            Err(failure) => return Ok(Err(failure)),
        };
        self.begin_journal(operation, &job).await?;
        Ok(Ok(Resolved { job }))
    }

    /// Writes the operation's first line.
    pub(super) async fn begin_journal(
        &self,
        operation: &OperationId,
        job: &Job,
    ) -> Result<(), OperatorError> {
        self.note(operation, None).await?;
        self.write(operation, OPERATION, crate::plan::Mark::Intent, json!(job)).await
    }

    /// The job of a document that has not begun, for `--dry-run` too.
    pub async fn look_up(
        &self,
        operation: &OperationId,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let kind: Kind = match operation.kind.parse() {
            Ok(kind) => kind,
            Err(error) => {
                return Ok(Err(Failure::new(Reason::InvalidSpec, format!("{error}"))));
            }
        };
        let resource =
            self.catalog.resource(kind.as_str(), &operation.namespace, &operation.name).await?;
        let is_meant = |found: &ResourceRecord| {
            let uid = found.document["metadata"]["uid"].as_str();
            found.generation == operation.generation
                && (operation.uid.is_none() || operation.uid.as_deref() == uid)
        };
        let Some(resource) = resource.filter(is_meant) else {
            return Ok(Err(Failure::new(
                Reason::InvalidSpec,
                format!("{} {} is gone", operation.kind, operation.name),
            )));
        };
        self.job_of(operation, kind, &resource.document).await
    }

    pub(super) async fn job_of(
        &self,
        operation: &OperationId,
        kind: Kind,
        document: &Value,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let spec = document["spec"].clone();
        let undecodable = |error: serde_json::Error| {
            Failure::new(
                Reason::InvalidSpec,
                format!("the recorded document does not decode: {error}"),
            )
        };
        match kind {
            Kind::Backup => match serde_json::from_value::<BackupSpec>(spec) {
                Ok(spec) => self.backup_job(operation, spec, document).await,
                Err(error) => Ok(Err(undecodable(error))),
            },
            Kind::Restore => match serde_json::from_value::<RestoreSpec>(spec) {
                Ok(spec) => self.restore_job(operation, spec).await,
                Err(error) => Ok(Err(undecodable(error))),
            },
            Kind::Upgrade => match serde_json::from_value::<UpgradeSpec>(spec) {
                Ok(spec) => self.upgrade_job(operation, spec).await,
                Err(error) => Ok(Err(undecodable(error))),
            },
            Kind::BackupSchedule | Kind::BackupStore => Ok(Err(Failure::new(
                Reason::InvalidSpec,
                format!("{kind} is not carried out once"),
            ))),
        }
    }

    async fn backup_job(
        &self,
        operation: &OperationId,
        spec: BackupSpec,
        document: &Value,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let store = match self.store(&operation.namespace, &spec.store_ref.name).await? {
            Ok(store) => store,
            Err(failure) => return Ok(Err(failure)),
        };
        let filter = BackupFilter {
            target: Some(spec.target.summary()),
            namespace: Some(operation.namespace.clone()),
            verified: true,
            status: Some(RecordStatus::Succeeded),
            limit: Some(1),
            ..BackupFilter::default()
        };
        let previous = self.catalog.backups(filter).await?.into_iter().next().map(|record| {
            let unsigned = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
            SourceSize { files: unsigned(record.file_count), bytes: unsigned(record.source_bytes) }
        });
        let schedule = document["metadata"]["labels"][SCHEDULE_LABEL].as_str().map(str::to_owned);
        Ok(Ok(Job::Backup(BackupJob {
            operation: operation.clone(),
            spec,
            store,
            schedule,
            previous,
            origin: None,
            root_names: Vec::new(),
            anonymous_volumes: false,
            places: Vec::new(),
            definitions: None,
        })))
    }

    async fn upgrade_job(
        &self,
        operation: &OperationId,
        spec: UpgradeSpec,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let store = match &spec.backup.store_ref {
            Some(reference) => match self.store(&operation.namespace, &reference.name).await? {
                Ok(store) => Some(store),
                Err(failure) => return Ok(Err(failure)),
            },
            None => None,
        };
        Ok(Ok(Job::Upgrade(UpgradeJob { operation: operation.clone(), spec, store })))
    }

    async fn restore_job(
        &self,
        operation: &OperationId,
        spec: RestoreSpec,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let namespace = &operation.namespace;
        let (store, archive, record) = if let Some(reference) = &spec.from.archive {
            let store = match self.store(namespace, &reference.store_ref.name).await? {
                Ok(store) => store,
                Err(failure) => return Ok(Err(failure)),
            };
            let record = self.record_of_archive(namespace, &store.name, &reference.name).await?;
            (store, reference.name.clone(), record)
        } else {
            let record = match self.source_record(namespace, &spec).await? {
                Ok(record) => record,
                Err(failure) => return Ok(Err(failure)),
            };
            (self.store_of(&record).await?, record.backup_name.clone(), Some(record))
        };
        let from_namespace = record.as_ref().map(|record| record.namespace.clone());
        let claims = match &record {
            Some(record) => self.claims_of(record).await?,
            None => Vec::new(),
        };
        let target = match &spec.target {
            Some(target) => target.clone(),
            None => match self.default_target(record.as_ref(), &store, &archive) {
                Ok(target) => target,
                Err(failure) => return Ok(Err(failure)),
            },
        };
        Ok(Ok(Job::Restore(RestoreJob {
            operation: operation.clone(),
            spec,
            store,
            archive,
            target,
            from_namespace,
            claims,
            root_names: Vec::new(),
        })))
    }

    /// The record of an archive by its name. In a cluster several namespaces may have archives of one
    /// name: it is the one of this namespace and store, or the only one there is.
    async fn record_of_archive(
        &self,
        namespace: &str,
        store: &str,
        archive: &str,
    ) -> Result<Option<BackupRecord>, OperatorError> {
        if self.cluster.is_none() {
            return Ok(self.catalog.backup(BackupKey::Name(archive.to_owned())).await?);
        }
        let mut records = self.catalog.backups(BackupFilter::default()).await?;
        records.retain(|record| record.backup_name == archive);
        let own = records.iter().position(|one| one.namespace == namespace && one.store == store);
        Ok(match own {
            Some(index) => Some(records.swap_remove(index)),
            None if records.len() == 1 => records.pop(),
            None => None,
        })
    }

    /// The claims that a recorded backup was taken of, as its object says.
    async fn claims_of(&self, record: &BackupRecord) -> Result<Vec<ClaimFacts>, OperatorError> {
        let kind = Kind::Backup.as_str();
        let found = self.catalog.resource(kind, &record.namespace, &record.object).await?;
        let claims = found.map(|resource| resource.status["archive"]["claims"].clone());
        Ok(claims.and_then(|claims| serde_json::from_value(claims).ok()).unwrap_or_default())
    }

    /// The record that `backupRef` or `latest` means.
    async fn source_record(
        &self,
        namespace: &str,
        spec: &RestoreSpec,
    ) -> Result<Result<BackupRecord, Failure>, OperatorError> {
        if let Some(reference) = &spec.from.backup_ref {
            let key =
                BackupKey::Object { namespace: namespace.to_owned(), name: reference.name.clone() };
            let Some(record) = self.catalog.backup(key).await? else {
                return Ok(Err(Failure::new(
                    Reason::BackupNotFound,
                    format!("there is no Backup {namespace}/{}", reference.name),
                )
                .hint("`eider backup list` shows what there is")));
            };
            return Ok(match record.status {
                RecordStatus::Succeeded => Ok(record),
                RecordStatus::Running => Err(Failure::new(
                    Reason::BackupNotReady,
                    format!("Backup {namespace}/{} has not finished", reference.name),
                )
                .hint("try the Restore again when it has")),
                RecordStatus::Failed if !record.backup_path.is_empty() => Err(Failure::new(
                    Reason::ArchiveUnverified,
                    format!(
                        "Backup {namespace}/{} failed and its archive was kept unverified: {}",
                        reference.name,
                        record.error_message.as_deref().unwrap_or("no reason is recorded")
                    ),
                )
                .hint(format!(
                    "to restore it all the same, name the archive: `from.archive.name: {}`",
                    record.backup_name
                ))),
                // A Backup runs once: there is nothing to wait for.
                RecordStatus::Failed | RecordStatus::Deleted => Err(Failure::new(
                    Reason::ArchiveMissing,
                    format!(
                        "Backup {namespace}/{} has no archive: {}",
                        reference.name,
                        record.error_message.as_deref().unwrap_or("it was deleted")
                    ),
                )
                .hint("`eider backup list` shows what there is")),
            });
        }
        let Some(latest) = &spec.from.latest else {
            return Ok(Err(Failure::new(Reason::InvalidSpec, "spec.from names no archive")));
        };
        let filter = BackupFilter {
            namespace: Some(namespace.to_owned()),
            schedule: Some(latest.schedule_ref.name.clone()),
            status: Some(RecordStatus::Succeeded),
            verified: true,
            ..BackupFilter::default()
        };
        let before = latest.before.as_ref().map(|time| time.0);
        let found = self
            .catalog
            .backups(filter)
            .await?
            .into_iter()
            .find(|record| before.is_none_or(|before| record.created_at < before));
        Ok(found.ok_or_else(|| {
            Failure::new(
                Reason::BackupNotFound,
                format!(
                    "schedule {namespace}/{} has no verified backup{}",
                    latest.schedule_ref.name,
                    if before.is_some() { " before that time" } else { "" }
                ),
            )
            .hint("`eider backup list --schedule NAME` shows what there is")
        }))
    }

    /// A BackupStore by name.
    pub(super) async fn store(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Result<StoreBinding, Failure>, OperatorError> {
        let overlay =
            self.overlay.iter().find(|(found, store)| found == namespace && store.name == name);
        if let Some((_, store)) = overlay {
            return Ok(Ok(store.clone()));
        }
        let resource = self.catalog.resource(Kind::BackupStore.as_str(), namespace, name).await?;
        let Some(resource) = resource.filter(|found| found.removed_at.is_none()) else {
            let mut known = self.stores().await?;
            known.extend(self.overlay.iter().cloned());
            let there_are = which_there_are(name, Some(namespace), &known);
            let how = match self.cluster {
                Some(_) => "apply a BackupStore with that name, in the same namespace",
                None => {
                    "a document of kind BackupStore with that name is missing: put it beside the \
                     others, or name its file too with `-f`"
                }
            };
            let message = format!("there is no BackupStore {namespace}/{name}");
            let hint =
                there_are.into_iter().chain([how.to_owned()]).collect::<Vec<_>>().join("; or ");
            return Ok(Err(Failure::new(Reason::StoreNotFound, message).hint(hint)));
        };
        match serde_json::from_value::<BackupStoreSpec>(resource.document["spec"].clone()) {
            Ok(spec) => Ok(Ok(StoreBinding { name: name.to_owned(), spec })),
            Err(error) => Ok(Err(Failure::new(
                Reason::InvalidSpec,
                format!("the recorded BackupStore {namespace}/{name} does not decode: {error}"),
            ))),
        }
    }

    /// Where a recorded archive is now: the directory it was recorded in. That follows a
    /// migration, which re-points records, and survives a store document that has been removed.
    pub(super) async fn store_of(
        &self,
        record: &BackupRecord,
    ) -> Result<StoreBinding, OperatorError> {
        if self.cluster.is_some() {
            return Ok(self.store(&record.namespace, &record.store).await??);
        }
        let directory = Path::new(&record.backup_path).parent().unwrap_or(Path::new("/"));
        if let Ok(binding) = self.store(&record.namespace, &record.store).await?
            && binding.spec.local.as_ref().is_some_and(|local| Path::new(&local.path) == directory)
        {
            return Ok(binding);
        }
        Ok(directory_store(&record.store, directory))
    }

    /// Where the backup was taken: from its record, or from the archive's manifest.
    fn default_target(
        &self,
        record: Option<&BackupRecord>,
        store: &StoreBinding,
        archive: &str,
    ) -> Result<Target, Failure> {
        if let Some(value) = record.and_then(|record| record.target_spec.clone())
            && let Ok(target) = serde_json::from_value(value)
        {
            return Ok(target);
        }
        let unknown = || {
            let message = format!("no record says where {archive} was taken");
            Failure::new(Reason::InvalidSpec, message).hint("set `spec.target`")
        };
        if self.cluster.is_some() {
            // The store is a claim, which this process cannot look into.
            return Err(unknown());
        }
        let opened = LocalStore::open(&host::local_path(store)?, &store.name, false)?;
        let manifest: Manifest = opened.read_manifest(archive)?;
        if manifest.target != Target::default() {
            return Ok(manifest.target);
        }
        // Of containers' data the paths alone say nothing of who works on it.
        if manifest.roots.iter().all(|root| is_root_name(&root.name)) {
            return Err(unknown());
        }
        let paths = manifest.roots.into_iter().map(|root| root.path).collect();
        Ok(Target { host: Some(HostTarget { paths }), ..Target::default() })
    }
}

/// A store that is just a directory.
pub(super) fn directory_store(name: &str, directory: &Path) -> StoreBinding {
    let local = LocalStoreSpec { path: directory.to_string_lossy().into_owned() };
    StoreBinding {
        name: name.to_owned(),
        spec: BackupStoreSpec {
            local: Some(local),
            volume_claim: None,
            s3: None,
            encryption: None,
            min_free: None,
        },
    }
}
