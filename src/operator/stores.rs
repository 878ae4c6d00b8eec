//! Stores as objects: their status, what they hold against what is recorded, moving one to another.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;
use std::collections::HashSet;
use std::path::Path;

use super::{Operator, OperatorError};
use crate::catalog::{BackupFilter, BackupRecord, RecordStatus, ResourceRecord};
use crate::engine::{
    self, Cancel, Cleaned, LocalStore, Manifest, Presence, Progress, StoreListing, StoredArchive,
};
use crate::plan::{Failure, StoreBinding, chain, conditions};
use crate::runtime::host;
use crate::spec::{
    BackupStoreSpec, BackupStoreStatus, ByteSize, Kind, Reason, VerifyMode, counted, did_you_mean,
    readable_size, there_are,
};
use crate::telemetry::metrics::StoreFacts;

/// What a look into a store found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreReport {
    /// Name of the store.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Where it lies.
    pub location: String,
    /// Archives that are there with their manifests.
    pub backups: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes free where they lie.
    pub free_bytes: u64,
    /// Whether it can be written to.
    pub ready: bool,
    /// What is wrong.
    pub problems: Vec<StoreProblem>,
}

/// Something that is wrong in a store.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreProblem {
    /// The archive, or the store itself.
    pub object: String,
    /// What is wrong with it.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
}

impl Operator {
    /// Every store that is known, by namespace and name.
    pub async fn stores(&self) -> Result<Vec<(String, StoreBinding)>, OperatorError> {
        let resources = self.catalog.resources(Some(Kind::BackupStore.as_str().to_owned())).await?;
        Ok(resources.iter().filter_map(binding_of).collect())
    }

    /// A store by name, or the only one there is.
    pub async fn store_or_only(
        &self,
        namespace: &str,
        name: Option<&str>,
    ) -> Result<StoreBinding, OperatorError> {
        if let Some(name) = name {
            return Ok(self.store(namespace, name).await??);
        }
        let mut stores: Vec<StoreBinding> = self
            .stores()
            .await?
            .into_iter()
            .filter(|(found, _)| found == namespace)
            .map(|(_, store)| store)
            .collect();
        let of = match namespace {
            "default" => String::new(),
            _ => format!(" in namespace {namespace}"),
        };
        let failure = match stores.len() {
            1 => return Ok(stores.remove(0)),
            0 => Failure::new(Reason::StoreNotFound, format!("no store is known{of}")).hint(
                "name a directory with `--store DIR`, or make a document of kind BackupStore known \
                 with `eider run -f FILE`",
            ),
            _ => Failure::new(Reason::StoreNotFound, format!("several stores are known{of}"))
                .hint("name one with `--store NAME`; `eider store list` shows them"),
        };
        Err(failure.into())
    }

    /// Looks into a store and publishes what it finds as its status.
    pub(super) async fn refresh_store(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(), OperatorError> {
        let found = self.catalog.resource(Kind::BackupStore.as_str(), namespace, name).await?;
        let Some(mut resource) = found else {
            return Ok(());
        };
        let Some((_, binding)) = binding_of(&resource) else {
            return Ok(());
        };
        let minimum_free_bytes = binding.spec.min_free.as_ref().map_or(0, ByteSize::bytes);
        let report = look(namespace.to_owned(), binding).await;
        self.metrics.store(&StoreFacts {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            backups: report.backups,
            bytes: report.bytes,
            free_bytes: report.ready.then_some(report.free_bytes),
            capacity_bytes: None,
            minimum_free_bytes,
        });
        let status = store_status(&resource, &report);
        if resource.status != status {
            resource.status = status;
            self.catalog.put_resource(resource).await?;
        }
        Ok(())
    }

    /// Looks into every store.
    pub async fn refresh_stores(&self) -> Result<(), OperatorError> {
        for (namespace, store) in self.stores().await? {
            self.refresh_store(&namespace, &store.name).await?;
        }
        Ok(())
    }

    /// Compares a store with its manifests and with the catalog; `full` reads back every byte.
    pub async fn check_store(
        &self,
        namespace: &str,
        store: &StoreBinding,
        full: bool,
        progress: std::sync::Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<StoreReport, OperatorError> {
        let mut report = look(namespace.to_owned(), store.clone()).await;
        if !report.ready {
            return Ok(report);
        }
        let path = host::local_path(store)?;
        let links = {
            let (store, path) = (store.clone(), path.clone());
            blocking(move || {
                if !path.exists() {
                    return Ok(Vec::new());
                }
                host::links(&LocalStore::open(&path, &store.name, false)?)
            })
            .await?
        };
        // Parents first: what builds on an archive that was read just now is read alone.
        let names: Vec<String> = chain::families(&links).into_iter().flatten().collect();
        let mut proved = HashSet::new();
        for name in &names {
            let parent = links.iter().find(|link| link.name == *name);
            let parent = parent.and_then(|link| link.parent.as_ref());
            let alone = parent.is_some_and(|parent| proved.contains(parent));
            let (name, store, progress, cancel) =
                (name.clone(), store.clone(), progress.clone(), cancel.clone());
            let mode = if full { VerifyMode::Full } else { VerifyMode::Quick };
            let result = {
                let name = name.clone();
                blocking(move || {
                    let opened = host::open_store(&store)?;
                    let verify = if alone { engine::verify_newest } else { engine::verify };
                    verify(&opened, &name, mode, progress.as_ref(), &cancel)?;
                    Ok(())
                })
                .await
            };
            if result.is_ok() {
                proved.insert(name.clone());
            }
            if let Err(failure) = result {
                if failure.reason == Reason::Cancelled {
                    return Err(failure.into());
                }
                let problem = StoreProblem {
                    object: name.clone(),
                    reason: failure.reason,
                    message: failure.message,
                };
                if !report.problems.iter().any(|known| known.object == problem.object) {
                    report.problems.push(problem);
                }
            }
        }
        let present: HashSet<&String> = names.iter().collect();
        for record in self.records_in(&path).await? {
            if !present.contains(&record.backup_name) {
                report.problems.push(StoreProblem {
                    object: record.backup_name,
                    reason: Reason::ArchiveMissing,
                    message: format!("recorded as backup {} and not there", record.id),
                });
            }
        }
        Ok(report)
    }

    /// Removes what uploads have left that nobody is working on any more.
    pub async fn clean_store(&self, store: &StoreBinding) -> Result<Vec<String>, OperatorError> {
        let minutes = self.catalog.settings().await?.unfinished_grace_minutes;
        self.clean_store_after(store, SignedDuration::from_mins(minutes)).await
    }

    async fn clean_store_after(
        &self,
        store: &StoreBinding,
        grace: SignedDuration,
    ) -> Result<Vec<String>, OperatorError> {
        let store = store.clone();
        let cleaned = blocking(move || {
            let path = host::local_path(&store)?;
            if !path.exists() {
                return Ok(Cleaned::default());
            }
            let opened = LocalStore::open(&path, &store.name, false)?;
            Ok(opened.clean_unfinished(grace, Timestamp::now())?)
        })
        .await?;
        Ok(cleaned.removed)
    }

    /// Undeleted records whose archive lies directly in this directory.
    pub(super) async fn records_in(
        &self,
        directory: &Path,
    ) -> Result<Vec<BackupRecord>, OperatorError> {
        let filter = BackupFilter::default();
        let records = self.catalog.backups(filter).await?;
        Ok(records
            .into_iter()
            .filter(|record| record.status != RecordStatus::Deleted && record.deleted_at.is_none())
            .filter(|record| Path::new(&record.backup_path).parent() == Some(directory))
            .collect())
    }
}

/// Which stores there are instead of one that is not, the nearest name first; none if there is none at all.
pub fn which_there_are(
    name: &str,
    namespace: Option<&str>,
    known: &[(String, StoreBinding)],
) -> Option<String> {
    let is_here = |found: &str| namespace.is_none_or(|namespace| namespace == found);
    let (here, elsewhere): (Vec<_>, Vec<_>) = known.iter().partition(|(found, _)| is_here(found));
    let mut names: Vec<String> = here.iter().map(|(_, store)| store.name.clone()).collect();
    let nearest = did_you_mean(name, names.iter().map(String::as_str));
    let same = elsewhere.iter().find(|(_, store)| store.name == name);
    let same = same.map(|(found, _)| format!("there is one of that name in namespace {found};"));
    if names.is_empty() {
        names = elsewhere.iter().map(|(found, store)| format!("{found}/{}", store.name)).collect();
    }
    let words: Vec<String> = nearest.or(same).into_iter().chain(there_are(names)).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn binding_of(resource: &ResourceRecord) -> Option<(String, StoreBinding)> {
    if resource.removed_at.is_some() {
        return None;
    }
    let spec: BackupStoreSpec = serde_json::from_value(resource.document["spec"].clone()).ok()?;
    Some((resource.namespace.clone(), StoreBinding { name: resource.name.clone(), spec }))
}

/// Every archive of a store that has a manifest, with what is there of it.
pub(super) fn stored(store: &StoreBinding) -> Result<Vec<(String, Presence)>, Failure> {
    let opened = LocalStore::open(&host::local_path(store)?, &store.name, false)?;
    let archives = opened.list()?.archives.into_iter();
    let present = |archive: StoredArchive| (archive.name.clone(), opened.presence_of(archive));
    Ok(archives.map(present).collect())
}

/// The manifest of every archive of a store that is all there.
pub(super) fn whole(store: &StoreBinding) -> Result<Vec<Manifest>, Failure> {
    Ok(stored(store)?.into_iter().filter_map(|(_, presence)| presence.whole()).collect())
}

/// Every readable manifest of a store, whether or not its archive is there.
pub(super) fn manifests(store: &StoreBinding) -> Result<Vec<Manifest>, Failure> {
    let opened = LocalStore::open(&host::local_path(store)?, &store.name, false)?;
    Ok(opened.list()?.archives.into_iter().filter_map(|archive| archive.manifest.ok()).collect())
}

/// A quick look: what is there, how much room is left, what is plainly wrong.
async fn look(namespace: String, store: StoreBinding) -> StoreReport {
    let mut report = StoreReport { name: store.name.clone(), namespace, ..StoreReport::default() };
    let name = store.name.clone();
    let result = blocking(move || {
        let path = host::local_path(&store)?;
        if !path.exists() {
            // Made for the first archive, which knows whether it would lie in the data.
            let free = LocalStore::foresee(&path)?;
            return Ok((path, free, Vec::new(), StoreListing::default()));
        }
        let opened = LocalStore::open(&path, &store.name, false)?;
        opened.check_writable()?;
        let mut listing = opened.list()?;
        let present = |archive: StoredArchive| (archive.name.clone(), opened.presence_of(archive));
        let archives = std::mem::take(&mut listing.archives).into_iter().map(present).collect();
        Ok((path, opened.free_bytes()?, archives, listing))
    })
    .await;
    match result {
        Ok((path, free, archives, listing)) => {
            report.location = path.to_string_lossy().into_owned();
            report.ready = true;
            report.free_bytes = free;
            for (object, presence) in archives {
                let (reason, message) = match presence {
                    Presence::Whole(manifest) => {
                        report.backups += 1;
                        report.bytes += manifest.size_bytes;
                        continue;
                    }
                    Presence::Broken(error) => (error.reason(), error.to_string()),
                    Presence::Gone => {
                        (Reason::ArchiveMissing, format!("{object} has left its manifest alone"))
                    }
                };
                report.problems.push(StoreProblem { object, reason, message });
            }
            let unfinished = listing.unfinished.into_iter().chain(listing.partial);
            report.problems.extend(unfinished.map(|name| StoreProblem {
                message: "an unfinished upload; `eider store check --clean` removes it".to_owned(),
                object: name,
                reason: Reason::NotVerified,
            }));
        }
        Err(failure) => report.problems.push(StoreProblem {
            object: name,
            reason: failure.reason,
            message: failure.message,
        }),
    }
    report
}

fn store_status(resource: &ResourceRecord, report: &StoreReport) -> serde_json::Value {
    let known: Option<BackupStoreStatus> = serde_json::from_value(resource.status.clone()).ok();
    let mut conditions = known.map(|status| status.conditions).unwrap_or_default();
    let now = Timestamp::now();
    let (reason, message) = match report.problems.first() {
        _ if report.ready => (Reason::Ready, counted(report.backups, "backup")),
        Some(problem) => (problem.reason, problem.message.clone()),
        None => (Reason::StoreUnavailable, "the store cannot be used".to_owned()),
    };
    conditions::ready(&mut conditions, report.ready, reason, &message, resource.generation, now);
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    json!(BackupStoreStatus {
        mover_security_context: None,
        last_inspected_at: None,
        last_handled_reconcile_at: None,
        size: Some(readable_size(signed(report.bytes))),
        free: report.ready.then(|| readable_size(signed(report.free_bytes))),
        observed_generation: resource.generation,
        backups: signed(report.backups),
        bytes: signed(report.bytes),
        free_bytes: signed(report.free_bytes),
        message: Some(message),
        conditions,
    })
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::new(
            Reason::InternalError,
            format!("a worker thread ended unexpectedly: {error}"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_a_store_that_is_not_there_is_told_which_are() {
        let store = |namespace: &str, name: &str| {
            let spec = serde_json::from_value(json!({"local": {"path": "/srv/x"}})).unwrap();
            (namespace.to_owned(), StoreBinding { name: name.to_owned(), spec })
        };
        let known = [store("default", "main"), store("default", "cold"), store("shop", "offsite")];
        let here = |name: &str| which_there_are(name, Some("default"), &known).unwrap();
        assert_eq!(here("mian"), "did you mean `main`? there are: cold, main");
        assert_eq!(here("nowhere"), "there are: cold, main");
        let same = "there is one of that name in namespace shop; there are: cold, main";
        assert_eq!(here("offsite"), same);
        let shop = |name: &str| which_there_are(name, Some("x"), &known).unwrap();
        assert_eq!(shop("mian"), "there are: default/cold, default/main, shop/offsite");
        assert_eq!(which_there_are("x", None, &known).unwrap(), "there are: cold, main, offsite");
        assert_eq!(which_there_are("x", Some("default"), &[]), None);
        let many: Vec<_> = (0..12).map(|number| store("default", &format!("s{number}"))).collect();
        assert!(which_there_are("x", None, &many).unwrap().ends_with(" and 2 more"));
    }
}
