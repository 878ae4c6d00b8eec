//! The operations that other operations need: made once, with a name derived from the parent.

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::resolve::Resolved;
use super::{Operator, OperatorError, kubernetes};
use crate::catalog::{BackupKey, ResourceRecord};
use crate::plan::status::recorded;
use crate::plan::{
    BackupJob, Child, ChildFacts, Failure, Job, LiveFacts, Log, OperationId, PreflightFacts,
    RestoreJob, StoreBinding, UpgradeJob, safety, upgrade,
};
use crate::spec::upgrade::HealthGate;
use crate::spec::{
    BackupTrigger, Consistency, ConsistencyMode, Hooks, Kind, NameReference, Reason, RestoreMode,
    RestoreSource, RestoreSpec, Target,
};

impl Operator {
    /// The child's operation; its document and its journal's first line are written when missing.
    pub(super) async fn ensure_child(
        &self,
        parent: &Job,
        child: Child,
    ) -> Result<Result<OperationId, Failure>, OperatorError> {
        let parent_journal = self.journal(parent.operation()).await?;
        if self.cluster.is_some() {
            return self.ensure_child_object(parent, child, &Log::new(&parent_journal)).await;
        }
        let attempts = attempts(child, &Log::new(&parent_journal));
        let mut operation = child_operation(parent.operation(), child, 1);
        for number in (1..=attempts).rev() {
            let earlier = child_operation(parent.operation(), child, number);
            let journal = self.journal(&earlier).await?;
            let log = Log::new(&journal);
            if log.job().is_some() {
                let failed = log.conclusion().is_some_and(|(end, _)| !end.is_success());
                operation = if failed {
                    child_operation(parent.operation(), child, number + 1)
                } else {
                    earlier
                };
                break;
            }
        }
        let journal = self.journal(&operation).await?;
        if Log::new(&journal).job().is_some() {
            return Ok(Ok(operation));
        }
        let job =
            match self.child_job(parent, child, &operation, &Log::new(&parent_journal)).await? {
                Ok(job) => job,
                Err(failure) => return Ok(Err(failure)),
            };
        let spec = match &job {
            Job::Backup(job) => json!(job.spec),
            Job::Restore(job) => json!(job.spec),
            Job::Upgrade(job) => json!(job.spec),
        };
        let document = json!({
            "apiVersion": "eider.dev/v1alpha1",
            "kind": operation.kind,
            "metadata": {
                "name": operation.name,
                "namespace": operation.namespace,
                "labels": {"eider.dev/owner": parent.operation().name},
            },
            "spec": spec,
        });
        self.put_child(&operation, parent.operation(), document).await?;
        self.begin_journal(&operation, &job).await?;
        Ok(Ok(operation))
    }

    /// In a cluster the child is an object like any other, which its parent drives.
    async fn ensure_child_object(
        &self,
        parent: &Job,
        child: Child,
        log: &Log<'_>,
    ) -> Result<Result<OperationId, Failure>, OperatorError> {
        let Some(link) = &self.cluster else {
            return Ok(Err(Failure::new(Reason::InternalError, "there is no cluster")));
        };
        // A name that carries the parent's UID: a parent that is made again needs another child.
        let named = |number: u32| {
            let operation = child_operation(parent.operation(), child, number);
            let name = unique_child_name(&operation.name, parent.operation());
            OperationId { name, generation: 1, ..operation }
        };
        let mut operation = named(1);
        let owner = format!("{}/{}", parent.operation().kind, parent.operation().name);
        let kind: Kind = match operation.kind.parse() {
            Ok(kind) => kind,
            Err(error) => return Ok(Err(Failure::new(Reason::InternalError, format!("{error}")))),
        };
        for number in (1..=attempts(child, log)).rev() {
            let earlier = named(number);
            let found = match link.find(kind, &earlier.namespace, &earlier.name).await {
                Ok(found) => found,
                Err(failure) => return Ok(Err(failure)),
            };
            let Some(object) = found else { continue };
            // What somebody else has made under this name has put nothing back.
            if let Err(failure) = kubernetes::check_parent(kind, &object, Some(&owner)) {
                return Ok(Err(failure));
            }
            let end = recorded(&object.data["status"], earlier.generation);
            if end.is_some_and(|end| !end.is_success()) {
                operation = named(number + 1);
            } else if let Some(operation) = self.taken_up(parent, earlier, &object).await? {
                // Whatever it was made of may be gone by now, and its mover may be at work.
                return Ok(Ok(operation));
            } else {
                operation = named(number);
            }
            break;
        }
        let mut job = match self.child_job(parent, child, &operation, log).await? {
            Ok(job) => job,
            Err(failure) => return Ok(Err(failure)),
        };
        let spec = match &job {
            Job::Backup(job) => json!(job.spec),
            Job::Restore(job) => json!(job.spec),
            Job::Upgrade(job) => json!(job.spec),
        };
        let mut document = json!({
            "apiVersion": crate::spec::API_VERSION,
            "kind": operation.kind,
            "metadata": {
                "name": operation.name,
                "namespace": operation.namespace,
                "annotations": {
                    kubernetes::PARENT_ANNOTATION: owner,
                },
            },
            "spec": spec,
        });
        let object = match link.ensure(kind, &document).await {
            Ok(object) => object,
            Err(failure) => return Ok(Err(failure)),
        };
        let uid = object.metadata.uid.unwrap_or_default();
        operation.uid = Some(uid.clone());
        document["metadata"]["uid"] = json!(uid);
        job.set_operation(operation.clone());
        let journal = self.journal(&operation).await?;
        if Log::new(&journal).job().is_none() {
            self.put_child(&operation, parent.operation(), document).await?;
            self.adopt_lines(&operation, &object.data["status"]).await?;
            let journal = self.journal(&operation).await?;
            if Log::new(&journal).job().is_none() {
                self.begin_journal(&operation, &job).await?;
            }
        }
        // One that another replica has brought to its end is not done a second time.
        self.close_from_status(&operation, &object.data["status"]).await?;
        self.record_from_status(&operation, &object.data["status"]).await?;
        Ok(Ok(operation))
    }

    /// A child whose object is there, if it says itself what it is.
    async fn taken_up(
        &self,
        parent: &Job,
        mut operation: OperationId,
        object: &DynamicObject,
    ) -> Result<Option<OperationId>, OperatorError> {
        operation.uid.clone_from(&object.metadata.uid);
        let status = &object.data["status"];
        self.adopt_lines(&operation, status).await?;
        let journal = self.journal(&operation).await?;
        if Log::new(&journal).job().is_none() {
            return Ok(None);
        }
        let known =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        if known.is_none() {
            let document = json!({
                "apiVersion": crate::spec::API_VERSION,
                "kind": operation.kind,
                "metadata": {
                    "name": operation.name,
                    "namespace": operation.namespace,
                    "uid": operation.uid,
                    "annotations": object.metadata.annotations,
                },
                "spec": object.data["spec"],
            });
            self.put_child(&operation, parent.operation(), document).await?;
        }
        self.close_from_status(&operation, status).await?;
        self.record_from_status(&operation, status).await?;
        Ok(Some(operation))
    }

    /// Finishes what an operation has begun and left when the catalog failed: nobody else asks for it.
    pub(super) async fn finish_children(&self, parent: &OperationId) -> Result<(), OperatorError> {
        // In a cluster they are objects, which are looked at like all others.
        if self.cluster.is_some() {
            return Ok(());
        }
        let open = self.catalog.open_operations().await?;
        let journal = self.journal(parent).await?;
        let log = Log::new(&journal);
        for child in
            [Child::SafetyBackup, Child::UpgradeBackup, Child::UpgradeRollback, Child::UpgradeData]
        {
            for number in 1..=attempts(child, &log) + 1 {
                let operation = child_operation(parent, child, number);
                if open.contains(&operation) {
                    self.drive(&operation).await?;
                }
            }
        }
        Ok(())
    }

    async fn put_child(
        &self,
        operation: &OperationId,
        parent: &OperationId,
        document: Value,
    ) -> Result<(), OperatorError> {
        let record = ResourceRecord {
            kind: operation.kind.clone(),
            namespace: operation.namespace.clone(),
            name: operation.name.clone(),
            generation: operation.generation,
            spec_digest: super::apply::digest(&document["spec"]),
            document,
            status: Value::Null,
            source: format!("{} {}", parent.kind, parent.name),
            observed_at: jiff::Timestamp::now(),
            removed_at: None,
        };
        self.catalog.put_resource(record).await?;
        Ok(())
    }

    async fn child_job(
        &self,
        parent: &Job,
        child: Child,
        operation: &OperationId,
        log: &Log<'_>,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        Ok(match (parent, child) {
            (Job::Restore(parent), Child::SafetyBackup) => {
                let mut target = parent.target.clone();
                let facts: PreflightFacts =
                    log.facts(crate::plan::restore::step::PREFLIGHT).unwrap_or_default();
                let found: Option<LiveFacts> = log.facts(crate::plan::restore::step::FIND_LIVE);
                let live_paths = found.map_or(facts.live_paths, |found| found.live_paths);
                let mut places = facts.places;
                places.retain(|place| live_paths.contains(&place.path));
                if let Some(host) = &mut target.host {
                    host.paths = live_paths;
                }
                let child =
                    safety::backup(operation, target, &parent.store, BackupTrigger::PreRestore);
                Ok(Job::Backup(BackupJob { places, ..child }))
            }
            (Job::Upgrade(parent), Child::UpgradeBackup) => match &parent.store {
                Some(store) => {
                    let target = parent.spec.target.clone();
                    Ok(Job::Backup(safety::before_upgrade(operation, target, store)))
                }
                None => Err(Failure::new(Reason::StoreNotFound, "the upgrade names no store")),
            },
            (Job::Upgrade(parent), Child::UpgradeRollback) => {
                let backup: ChildFacts = log.facts(upgrade::step::BACKUP).unwrap_or_default();
                self.data_of(parent, operation, &backup.name).await?
            }
            (Job::Upgrade(parent), Child::UpgradeData) => {
                let name = parent.spec.data_from.as_ref().map(|backup| backup.name.as_str());
                self.data_of(parent, operation, name.unwrap_or_default()).await?
            }
            _ => Err(Failure::new(Reason::InternalError, "this operation has no such child")),
        })
    }

    /// The Restore of an Upgrade's data from a Backup in the Upgrade's own store.
    async fn data_of(
        &self,
        parent: &UpgradeJob,
        operation: &OperationId,
        backup: &str,
    ) -> Result<Result<Job, Failure>, OperatorError> {
        let key =
            BackupKey::Object { namespace: operation.namespace.clone(), name: backup.to_owned() };
        let record = self.catalog.backup(key).await?;
        let store = parent.store.as_ref();
        if let (None, Some(link), Some(store)) = (&record, &self.cluster, store) {
            // A catalog that was empty a moment ago may not have it yet.
            let found = match link.find(Kind::Backup, &operation.namespace, backup).await {
                Ok(found) => found,
                // Not the same as that it is not there, which is final.
                Err(failure) => return Ok(Err(failure)),
            };
            if let Some(object) = found
                && object.data["spec"]["storeRef"]["name"] == store.name
                && let Some(archive) = object.data["status"]["archive"]["name"].as_str()
            {
                let target = &parent.spec.target;
                return Ok(Ok(Job::Restore(restore(operation, target, store, archive, backup))));
            }
        }
        Ok(match (record, store) {
            (Some(record), Some(store)) if record.store == store.name => Ok(Job::Restore(restore(
                operation,
                &parent.spec.target,
                store,
                &record.backup_name,
                backup,
            ))),
            (Some(record), _) => Err(Failure::new(
                Reason::InvalidSpec,
                format!("the backup `{backup}` is in store {}", record.store),
            )
            .hint("name that store in `spec.backup.storeRef`")),
            (None, _) => Err(Failure::new(
                Reason::BackupNotFound,
                format!("the backup `{backup}` of the upgrade is not recorded"),
            )),
        })
    }

    /// Whether a Backup has left a verified archive on record.
    pub(super) async fn is_verified(&self, operation: &OperationId) -> Result<bool, OperatorError> {
        let key = BackupKey::Object {
            namespace: operation.namespace.clone(),
            name: operation.name.clone(),
        };
        let record = self.catalog.backup(key).await?;
        Ok(record.is_some_and(|record| {
            record.verified_at.is_some() && record.generation == Some(operation.generation)
        }))
    }

    /// Ends an operation that cannot even be resolved.
    pub(super) async fn conclude_unresolved(
        &self,
        operation: &OperationId,
        journal: &[crate::plan::JournalEntry],
        failure: Failure,
    ) -> Result<crate::plan::Conclusion, OperatorError> {
        let job = Log::new(journal).job();
        self.refuse(operation, job.map(|job| Resolved { job }), failure).await
    }
}

/// A child's name with five characters of its parent's UID.
fn unique_child_name(name: &str, parent: &OperationId) -> String {
    let Some(uid) = &parent.uid else { return name.to_owned() };
    let digest = blake3::hash(uid.as_bytes()).to_hex();
    let room = 253 - 6;
    let stem: String = name.chars().take(room).collect();
    format!("{}-{}", stem.trim_end_matches(['-', '.']), &digest[..5])
}

/// How many children of a kind an operation may have had: what has failed has come to its end, and the way back that is
/// tried again is another one. A step may also have failed before it reached its child, which goes on then.
fn attempts(child: Child, log: &Log<'_>) -> u32 {
    match child {
        Child::UpgradeRollback => log.failures(upgrade::step::RESTORE_DATA).saturating_add(1),
        Child::SafetyBackup | Child::UpgradeBackup | Child::UpgradeData => 1,
    }
}

/// The name of a child: the parent's with a suffix and, after the first one, a number, shortened to what a name may be.
fn child_operation(parent: &OperationId, child: Child, number: u32) -> OperationId {
    let (kind, mut suffix) = match child {
        Child::SafetyBackup => ("Backup", "-before".to_owned()),
        Child::UpgradeBackup => ("Backup", "-before-upgrade".to_owned()),
        Child::UpgradeRollback => ("Restore", "-rollback".to_owned()),
        Child::UpgradeData => ("Restore", "-data".to_owned()),
    };
    if child == Child::UpgradeRollback && number > 1 {
        suffix.push_str(&format!("-{number}"));
    }
    let room = 253 - suffix.len();
    let stem: String = parent.name.chars().take(room).collect();
    OperationId {
        kind: kind.to_owned(),
        namespace: parent.namespace.clone(),
        name: format!("{}{suffix}", stem.trim_end_matches(['-', '.'])),
        generation: parent.generation,
        uid: None,
    }
}

/// The restore that undoes an upgrade's changes to data. It takes no safety backup of its own: the
/// data of a version that failed its health gate is not worth a longer outage (ADR 0007).
fn restore(
    operation: &OperationId,
    target: &Target,
    store: &StoreBinding,
    archive: &str,
    backup: &str,
) -> RestoreJob {
    RestoreJob {
        operation: operation.clone(),
        spec: RestoreSpec {
            from: RestoreSource {
                backup_ref: Some(NameReference::new(backup)),
                ..RestoreSource::default()
            },
            target: Some(target.clone()),
            include: Vec::new(),
            preserve: Vec::new(),
            mode: RestoreMode::Replace,
            safety_backup: false,
            consistency: Consistency { mode: ConsistencyMode::Live, ..Consistency::default() },
            hooks: Hooks::default(),
            start: false,
            health_timeout: HealthGate::default().timeout,
            recreate_containers: false,
        },
        store: store.clone(),
        archive: archive.to_owned(),
        target: target.clone(),
        from_namespace: None,
        claims: Vec::new(),
        root_names: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{JournalEntry, Mark};

    #[test]
    fn a_way_back_that_is_tried_again_is_another_restore() {
        let parent: OperationId = "Upgrade/shop/up/3".parse().unwrap();
        let name = |number, child| child_operation(&parent, child, number).name;
        assert_eq!(name(1, Child::UpgradeRollback), "up-rollback");
        assert_eq!(name(3, Child::UpgradeRollback), "up-rollback-3");
        assert_eq!(name(3, Child::UpgradeBackup), "up-before-upgrade");
        let failed = JournalEntry {
            operation: parent.clone(),
            step: upgrade::step::RESTORE_DATA.to_owned(),
            mark: Mark::Failed,
            at: jiff::Timestamp::UNIX_EPOCH,
            session: "s".to_owned(),
            detail: Value::Null,
        };
        let journal = [failed.clone(), failed];
        assert_eq!(attempts(Child::UpgradeRollback, &Log::new(&journal)), 3);
        assert_eq!(attempts(Child::UpgradeBackup, &Log::new(&journal)), 1);
    }
}
