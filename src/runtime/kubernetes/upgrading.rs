//! The actions of an Upgrade, each to whoever carries it out.

use serde_json::{Value, json};

use super::holding::{self, Held};
use super::upgrade::{self, ImagesBefore, Watch};
use super::workload::Workload;
use super::{KubernetesRuntime, claims, no_mover, prefetch};
use crate::plan::upgrade::{RemovedFacts, step as upgrade_step};
use crate::plan::{Action, Failure, Job, Log, PreflightFacts, UpgradeJob, safety};
use crate::runtime::Handles;
use crate::spec::Reason;
use crate::spec::target::WorkloadTarget;

impl KubernetesRuntime {
    pub(super) async fn perform_upgrade(
        &self,
        job: &UpgradeJob,
        action: &Action,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let namespace = &job.operation.namespace;
        let target = job.spec.target.workload.as_ref().ok_or_else(no_mover)?;
        let cluster = &self.cluster;
        let before = log.intent::<ImagesBefore>(upgrade_step::KEEP_OLD);
        let whole = Job::Upgrade(job.clone());
        match action {
            Action::Preflight => {
                let facts = upgrade::preflight(cluster, job, target).await?;
                Ok(json!(self.can_be_backed_up(job, target, facts, log, handles).await?))
            }
            Action::Fetch => prefetch::fetch(cluster, job, target, handles).await,
            Action::KeepOld => {
                self.check_held(&whole, &log, upgrade_step::QUIESCE).await?;
                let before = upgrade::images_before(cluster, job, target, before).await?;
                upgrade::keep_old(cluster, namespace, target, &before).await
            }
            Action::Apply => {
                // What the old version writes after its backup would be lost if the new one failed. An attempt of
                // ours before this one has changed the specification once, which proves nothing.
                self.check_held(&whole, &log, upgrade_step::QUIESCE).await?;
                upgrade::apply(cluster, job, target).await
            }
            Action::Start => self.release(&whole, target, &log).await,
            Action::AwaitHealthy => self.watch(job, target, &log, handles).until_healthy().await,
            Action::Soak => self.watch(job, target, &log, handles).soak().await,
            Action::Commit => Box::pin(upgrade::commit(cluster, namespace, target)).await,
            Action::RemoveNew => {
                let Some(held) = log.intent::<Held>(upgrade_step::QUIESCE) else {
                    return Ok(Value::Null);
                };
                let timeout = job.spec.consistency.timeout.to_duration();
                let uncut = crate::engine::Cancel::new();
                holding::hold(cluster, namespace, target, &held, timeout, &uncut).await?;
                Ok(Value::Null)
            }
            Action::RestoreOld => {
                Box::pin(upgrade::restore_old(cluster, namespace, target, before)).await
            }
            other => Err(Failure::new(
                Reason::UnsupportedTarget,
                format!("a cluster cannot {}", other.describe()),
            )),
        }
    }

    /// What has come while the new version ran, which no backup has; as it was seen first, before it was stopped.
    pub(super) async fn made_meanwhile(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
    ) -> Result<Value, Failure> {
        if let Some(earlier) = log.intent::<RemovedFacts>(upgrade_step::REMOVE_NEW) {
            return Ok(json!(earlier));
        }
        let target = job.spec.target.workload.as_ref().ok_or_else(no_mover)?;
        let namespace = &job.operation.namespace;
        let found = Workload::find(&self.cluster, namespace, target).await?;
        let held = log.intent::<Held>(upgrade_step::QUIESCE);
        let (Some(workload), Some(held)) = (found, held) else { return Ok(Value::Null) };
        let replicas = Some(workload.replicas).filter(|replicas| *replicas > held.replicas);
        let known: PreflightFacts = log.facts(upgrade_step::PREFLIGHT).unwrap_or_default();
        let mut facts = RemovedFacts { replicas, ..RemovedFacts::default() };
        if !known.claims.is_empty() {
            let whole = Job::Upgrade(job.clone());
            let names = claims::names(&self.cluster, &whole, Some(&workload)).await?;
            let is_new = |name: &String| known.claims.iter().all(|claim| claim.name != *name);
            let new = names.into_iter().filter(is_new);
            facts.not_put_back = new.map(|name| format!("claim {name}")).collect();
        }
        Ok(json!(facts))
    }

    fn watch<'a>(
        &'a self,
        job: &'a UpgradeJob,
        target: &'a WorkloadTarget,
        log: &Log<'_>,
        handles: &'a Handles,
    ) -> Watch<'a> {
        Watch {
            cluster: &self.cluster,
            namespace: &job.operation.namespace,
            target,
            images: job.spec.images.clone().unwrap_or_default(),
            gate: job.spec.health_gate.clone(),
            before: log.intent(upgrade_step::QUIESCE),
            cancel: &handles.cancel,
        }
    }

    /// Fails before anything is stopped if the backup of an Upgrade could not be taken, or its data not
    /// be put back beneath whoever else works on it; adds what was found to the facts.
    ///
    /// A mover like that of the backup looks at the data and the store. It ends before the stop: the
    /// backup is an operation of its own, with its own mover.
    async fn can_be_backed_up(
        &self,
        job: &UpgradeJob,
        target: &WorkloadTarget,
        mut facts: PreflightFacts,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<PreflightFacts, Failure> {
        let Some(backup) = safety::of_upgrade(job) else { return Ok(facts) };
        let store = backup.store.clone();
        let backup = Job::Backup(backup);
        let namespace = &job.operation.namespace;
        let workload = Workload::get(&self.cluster, namespace, target).await?;
        let whole = Job::Upgrade(job.clone());
        let names =
            claims::names(&self.cluster, &whole, Some(&workload)).await.map_err(|error| {
                if error.reason != Reason::TargetNotFound {
                    return error;
                }
                error.hint("an upgrade of what keeps no data needs no backup: `backup.mode: Skip`")
            })?;
        let found = claims::describe(&self.cluster, namespace, &names).await?;
        let missing: Vec<String> =
            found.iter().filter_map(|claim| claim.as_ref().err().cloned()).collect();
        if !missing.is_empty() {
            return Err(claims::missing(namespace, &missing));
        }
        self.can_be_mounted(namespace, &found).await?;
        self.has_store(namespace, &store).await?;
        facts.warnings.extend(self.nobody_works_on(&whole, Some(&workload), &names).await?);
        let looked = self.look(&backup, &found, Some(&workload), true, log, handles).await;
        let ended = self.conversation(&backup, names, None, log, handles)?.let_go().await;
        let looked = looked.map_err(|failure| Failure {
            message: format!("the backup before it could not be taken: {}", failure.message),
            ..failure
        })?;
        ended?;
        facts.claims = found.iter().flatten().map(claims::facts).collect();
        facts.estimated_bytes = looked.estimated_bytes;
        facts.estimated_entries = looked.estimated_entries;
        facts.warnings.extend(looked.warnings);
        facts.checks.extend(looked.checks);
        Ok(facts)
    }
}
