//! Removing backups: by retention, by age, by hand. The manifest goes first, then the archive, then
//! the record is marked; stopping in between leaves nothing that looks like a good backup.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;
use tracing::{info, warn};

use super::kubernetes::UNHEARD;
use super::presence::{StoreKey, stores_of};
use super::stores::blocking;
use super::{Operator, OperatorError};
use crate::catalog::{BackupFilter, BackupRecord, RecordStatus};
use crate::plan::backup::step::PREFLIGHT;
use crate::plan::chain::{self, Link};
use crate::plan::retention::{self, BackupFacts, BackupState};
use crate::plan::{
    ChildFacts, Failure, Job, Log, OperationId, PreflightFacts, UpgradeJob, upgrade,
};
use crate::runtime::host;
use crate::spec::{
    BackupScheduleSpec, BackupStoreStatus, BackupTrigger, Kind, MoverSecurityContext, Reason,
    Retention,
};

/// What retention makes of one backup.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunedBackup {
    /// Number of the record.
    pub id: i64,
    /// File name of the archive.
    pub name: String,
    /// Whether it stays.
    pub keep: bool,
    /// The rules that say so.
    pub rules: Vec<String>,
}

/// What retention makes of a schedule's backups.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// Each backup, newest first.
    pub backups: Vec<PrunedBackup>,
}

/// By what backups are judged, and when.
#[derive(Clone, Copy)]
struct Policy<'a> {
    rules: &'a Retention,
    time_zone: &'a str,
    now: Timestamp,
    /// Whether the backups of schedules stay here, as each is judged by its own.
    schedules_stay: bool,
}

/// The stores that were looked into by one turn of retention.
type Looked = BTreeMap<StoreKey, Result<(), Failure>>;

impl Operator {
    /// Applies a schedule's retention; with `dry_run` only says what it would do.
    pub async fn prune(
        &self,
        namespace: &str,
        schedule: &str,
        spec: &BackupScheduleSpec,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<PruneReport, OperatorError> {
        let filter = BackupFilter {
            namespace: Some(namespace.to_owned()),
            schedule: Some(schedule.to_owned()),
            ..BackupFilter::default()
        };
        let policy = Policy {
            rules: &spec.retention,
            time_zone: &spec.time_zone,
            now,
            schedules_stay: false,
        };
        self.retain_of_what_is_there(filter, policy, dry_run, &mut Looked::new()).await
    }

    /// Judges the backups that a filter lets through, and once more after a look at what of them is there if any
    /// would be removed: a record whose archive is gone keeps nobody's place.
    async fn retain_of_what_is_there(
        &self,
        filter: BackupFilter,
        policy: Policy<'_>,
        dry_run: bool,
        looked: &mut Looked,
    ) -> Result<PruneReport, OperatorError> {
        let records = self.present(filter.clone()).await?;
        let found = self.without_the_gone(records, true).await?;
        let stores = stores_of(&found.0);
        let report = self.retain(found, policy, true).await?;
        if dry_run || report.backups.iter().all(|backup| backup.keep) {
            return Ok(report);
        }
        if self.cluster.is_some() {
            for store in stores {
                let seen = match looked.get(&store) {
                    Some(seen) => seen.clone(),
                    None => self.look_before_removing(&store).await?,
                };
                looked.insert(store, seen.clone());
                seen?;
            }
        }
        let records = self.present(filter).await?;
        let found = self.without_the_gone(records, false).await?;
        self.retain(found, policy, false).await
    }

    /// Removes the backups of no schedule whose `expiresAfter` has passed: those taken by hand, and
    /// those that Eider took before it changed something. Never the last verified one of a target.
    pub async fn prune_expired(&self, now: Timestamp) -> Result<u64, OperatorError> {
        let all = self.present(BackupFilter::default()).await?;
        let expired = |record: &&BackupRecord| {
            record.schedule.is_none() && record.expires_at.is_some_and(|at| at <= now)
        };
        let mut targets: Vec<(String, String)> = all
            .iter()
            .filter(expired)
            .map(|record| (record.namespace.clone(), record.target.clone()))
            .collect();
        targets.sort();
        targets.dedup();
        let mut removed = 0;
        let mut looked = Looked::new();
        let rules = Retention::default();
        for (namespace, target) in targets {
            // All of the target's: which one is the last verified is judged over them together.
            let filter = BackupFilter {
                namespace: Some(namespace),
                target: Some(target.clone()),
                ..BackupFilter::default()
            };
            let policy = Policy { rules: &rules, time_zone: "UTC", now, schedules_stay: true };
            match self.retain_of_what_is_there(filter, policy, false, &mut looked).await {
                Ok(report) => {
                    removed += report.backups.iter().filter(|backup| !backup.keep).count() as u64;
                }
                // One store that cannot be looked into keeps no other from being kept in order.
                Err(OperatorError::Refused(failure)) if self.cluster.is_some() => {
                    warn!(target, "retention: {}", failure.message);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// The records whose archives have not been removed.
    async fn present(&self, filter: BackupFilter) -> Result<Vec<BackupRecord>, OperatorError> {
        let mut records = self.catalog.backups(filter).await?;
        records
            .retain(|record| record.deleted_at.is_none() && record.status != RecordStatus::Deleted);
        Ok(records)
    }

    /// Judges these backups together and removes what nothing keeps. What some lack to be restored comes with them.
    async fn retain(
        &self,
        (records, lacks): (Vec<BackupRecord>, HashMap<i64, Failure>),
        policy: Policy<'_>,
        dry_run: bool,
    ) -> Result<PruneReport, OperatorError> {
        let in_use = self.archives_in_use().await?;
        // A chain is all of one namespace, and so are the records that are judged together.
        let namespace = records.first().map(|record| record.namespace.clone());
        let links = self.links(namespace.unwrap_or_default()).await?;
        let judged: Vec<&str> = records.iter().map(|record| record.backup_name.as_str()).collect();
        let needed = chain::needed_by_others(&judged, &links);
        let facts: Vec<BackupFacts> = records
            .iter()
            .map(|record| BackupFacts {
                lacks: lacks.get(&record.id).map(|lack| lack.message.clone()),
                of_schedule: policy.schedules_stay && record.schedule.is_some(),
                ..facts_of(record, &in_use, needed.get(&record.backup_name))
            })
            .collect();
        let Policy { rules, time_zone, now, .. } = policy;
        let verdicts = retention::decide(&facts, rules, time_zone, now)
            .map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
        let mut report = PruneReport::default();
        let mut removed = Vec::new();
        for record in records {
            let Some(verdict) = verdicts.iter().find(|verdict| verdict.name == record.backup_name)
            else {
                continue;
            };
            report.backups.push(PrunedBackup {
                id: record.id,
                name: record.backup_name.clone(),
                keep: verdict.keep,
                rules: verdict.rules.iter().map(ToString::to_string).collect(),
            });
            if !verdict.keep && !dry_run {
                info!(backup = record.backup_name, "retention removes it");
                removed.push(record);
            }
        }
        if self.cluster.is_some() {
            self.remove_from_cluster(&removed).await?;
            return Ok(report);
        }
        // What rests on another goes before it, wherever this is interrupted.
        let names: Vec<String> = removed.iter().map(|record| record.backup_name.clone()).collect();
        for name in chain::removal(&names, &links).remove {
            for record in removed.iter().filter(|record| record.backup_name == name) {
                match self.delete_backup(record).await {
                    // Somebody who is in no record builds on it: it stays, and is judged again.
                    Err(error) if error.reason() == Reason::ArchiveNeeded => {
                        warn!(backup = record.backup_name, "retention: {error}");
                    }
                    result => result?,
                }
            }
        }
        Ok(report)
    }

    /// Every archive of a namespace that is recorded, with the one it continues.
    async fn links(&self, namespace: String) -> Result<Vec<Link>, OperatorError> {
        let filter = BackupFilter { namespace: Some(namespace), ..BackupFilter::default() };
        let records = self.present(filter).await?;
        let link = |record: BackupRecord| Link { name: record.backup_name, parent: record.parent };
        Ok(records.into_iter().map(link).collect())
    }

    /// Looks into a store of a cluster, so that what is judged next is what is there.
    async fn look_before_removing(
        &self,
        (namespace, store): &StoreKey,
    ) -> Result<Result<(), Failure>, OperatorError> {
        let binding = match self.store(namespace, store).await? {
            Ok(binding) => binding,
            Err(failure) => return Ok(Err(failure)),
        };
        let owner = self.store_identity(namespace, store).await?;
        match self.look_into_store(&owner, &binding, None).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(Failure::new(
                Reason::StoreUnavailable,
                format!(
                    "not all of what lies in store {store} was heard of: nothing is removed; {UNHEARD}"
                ),
            ))),
            Err(OperatorError::Refused(failure)) => Ok(Err(failure)),
            Err(error) => Err(error),
        }
    }

    /// As whom a store of a cluster was written last.
    pub(super) async fn store_writer(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<MoverSecurityContext>, OperatorError> {
        let kind = Kind::BackupStore.as_str();
        let found = self.catalog.resource(kind, namespace, name).await?;
        let status = found.map(|found| serde_json::from_value::<BackupStoreStatus>(found.status));
        Ok(status.and_then(Result::ok).and_then(|status| status.mover_security_context))
    }

    /// A store as the owner of movers.
    pub(super) async fn store_identity(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<OperationId, OperatorError> {
        let kind = Kind::BackupStore.as_str();
        let found = self.catalog.resource(kind, namespace, name).await?;
        Ok(OperationId {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            generation: found.as_ref().map_or(1, |found| found.generation),
            uid: found
                .and_then(|found| Some(found.document["metadata"]["uid"].as_str()?.to_owned())),
        })
    }

    /// Removes a backup's archive and marks its record. A missing file is no obstacle.
    pub async fn delete_backup(&self, record: &BackupRecord) -> Result<(), OperatorError> {
        if !record.backup_path.is_empty() {
            let store = self.store_of(record).await?;
            let name = record.backup_name.clone();
            blocking(move || {
                let path = host::local_path(&store)?;
                if path.is_dir() {
                    let opened = crate::engine::LocalStore::open(&path, &store.name, false)?;
                    // The manifests know of archives that no record is of.
                    if let Some(child) = chain::resting_on(&name, &host::links(&opened)?) {
                        return Err(needed(&name, child));
                    }
                    opened.delete(&name)?;
                }
                Ok(())
            })
            .await?;
        }
        crate::failpoint::hit("delete.archive-removed");
        self.catalog.mark_backup_deleted(record.id, Timestamp::now()).await?;
        Ok(())
    }

    /// Fails if other archives build on this one: then it is not deleted, whoever wants it.
    pub async fn check_not_needed(&self, record: &BackupRecord) -> Result<(), OperatorError> {
        let links = self.links(record.namespace.clone()).await?;
        match chain::resting_on(&record.backup_name, &links) {
            Some(child) => Err(needed(&record.backup_name, child).into()),
            None => Ok(()),
        }
    }

    /// Why a backup should not be deleted by hand, if there is a reason.
    pub async fn protection(&self, record: &BackupRecord) -> Result<Option<String>, OperatorError> {
        if self.archives_in_use().await?.contains(&record.backup_name) {
            return Ok(Some("an operation is reading it".to_owned()));
        }
        let filter = BackupFilter {
            target: Some(record.target.clone()),
            namespace: Some(record.namespace.clone()),
            status: Some(RecordStatus::Succeeded),
            ..BackupFilter::default()
        };
        let recorded = self.catalog.backups(filter).await?;
        let (others, lacks) = self.without_the_gone(recorded, true).await?;
        let can_be_restored = |one: &BackupRecord| {
            one.verified_at.is_some() && one.deleted_at.is_none() && !lacks.contains_key(&one.id)
        };
        let last = can_be_restored(record)
            && !others.iter().any(|other| other.id != record.id && can_be_restored(other));
        Ok(last.then(|| format!("it is the last verified backup of {}", record.target)))
    }

    /// Names of the archives that an operation reads.
    pub(super) async fn archives_in_use(&self) -> Result<Vec<String>, OperatorError> {
        let mut names = Vec::new();
        for operation in self.catalog.open_operations().await? {
            let journal = self.catalog.journal(&operation).await?;
            let log = Log::new(&journal);
            match log.job() {
                Some(Job::Restore(job)) => names.push(job.archive),
                Some(Job::Backup(_)) => {
                    let looked: PreflightFacts = log.facts(PREFLIGHT).unwrap_or_default();
                    names.extend(looked.parent.map(|parent| parent.name));
                }
                Some(Job::Upgrade(job)) => {
                    names.extend(self.archives_of_upgrade(&job, &log).await?);
                }
                None => {}
            }
        }
        Ok(names)
    }

    /// Names of the archives that an Upgrade under way may yet put back: the one that it has taken itself, and the
    /// one that its data is to come from.
    async fn archives_of_upgrade(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
    ) -> Result<Vec<String>, OperatorError> {
        let own: Option<ChildFacts> = log.facts(upgrade::step::BACKUP);
        let data = job.spec.data_from.as_ref().map(|backup| backup.name.clone());
        let named: Vec<String> = own.map(|own| own.name).into_iter().chain(data).collect();
        let filter = BackupFilter {
            namespace: Some(job.operation.namespace.clone()),
            ..BackupFilter::default()
        };
        let (target, began) = (job.spec.target.summary(), log.began_at());
        // The Backup may have ended, and its Upgrade not have heard of it yet.
        let taken = |record: &BackupRecord| {
            record.trigger.as_deref() == Some(BackupTrigger::PreUpgrade.as_str())
                && record.target == target
                && began.is_some_and(|began| record.created_at >= began)
        };
        let records = self.catalog.backups(filter).await?.into_iter();
        let used = records.filter(|record| named.contains(&record.object) || taken(record));
        Ok(used.map(|record| record.backup_name).collect())
    }
}

fn needed(name: &str, child: &str) -> Failure {
    Failure::new(Reason::ArchiveNeeded, format!("{name} is not deleted: {child} builds on it"))
        .hint("delete what builds on it first; `eider backup show` names what an archive continues")
}

fn facts_of(record: &BackupRecord, in_use: &[String], needed: Option<&String>) -> BackupFacts {
    BackupFacts {
        name: record.backup_name.clone(),
        created_at: record.created_at,
        state: match record.status {
            RecordStatus::Succeeded => BackupState::Succeeded,
            RecordStatus::Running => BackupState::Running,
            RecordStatus::Failed | RecordStatus::Deleted => BackupState::Failed,
        },
        verified: record.verified_at.is_some(),
        parent: record.parent.clone(),
        expires_at: record.expires_at,
        in_use: in_use.contains(&record.backup_name),
        lacks: None,
        of_schedule: false,
        needed_by: needed.cloned(),
    }
}
