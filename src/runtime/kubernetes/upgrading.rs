//! The actions of an Upgrade, each to whoever carries it out.

use serde_json::{Value, json};

use super::holding::{self, Held};
use super::upgrade::{self, ImagesBefore, Watch};
use super::workload::Workload;
use super::{KubernetesRuntime, claims, no_mover, prefetch};
use crate::plan::upgrade::step as upgrade_step;
use crate::plan::{Action, Failure, Job, Log, UpgradeJob};
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
        match action {
            Action::Preflight => {
                let mut facts = upgrade::preflight(cluster, job, target).await?;
                let warnings = self.can_be_backed_up(job, target).await?;
                facts.warnings.extend(warnings);
                Ok(json!(facts))
            }
            Action::Fetch => prefetch::fetch(cluster, job, target, handles).await,
            Action::KeepOld => {
                let before = upgrade::images_before(cluster, job, target, before).await?;
                upgrade::keep_old(cluster, namespace, target, &before).await
            }
            Action::Apply => upgrade::apply(cluster, job, target).await,
            Action::Start => self.release(&Job::Upgrade(job.clone()), target, &log).await,
            Action::AwaitHealthy => self.watch(job, target, handles).until_healthy().await,
            Action::Soak => self.watch(job, target, handles).soak().await,
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

    fn watch<'a>(
        &'a self,
        job: &'a UpgradeJob,
        target: &'a WorkloadTarget,
        handles: &'a Handles,
    ) -> Watch<'a> {
        Watch {
            cluster: &self.cluster,
            namespace: &job.operation.namespace,
            target,
            images: job.spec.images.clone().unwrap_or_default(),
            gate: job.spec.health_gate.clone(),
            cancel: &handles.cancel,
        }
    }

    /// Fails before anything is stopped if the backup of an Upgrade could not be taken, or its data not
    /// be put back beneath whoever else works on it; what people should know besides.
    async fn can_be_backed_up(
        &self,
        job: &UpgradeJob,
        target: &WorkloadTarget,
    ) -> Result<Option<String>, Failure> {
        let Some(store) = &job.store else { return Ok(None) };
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
        let missing: Vec<String> = found.into_iter().filter_map(Result::err).collect();
        if !missing.is_empty() {
            return Err(claims::missing(namespace, &missing));
        }
        self.has_store(namespace, store).await?;
        self.nobody_works_on(&whole, Some(&workload), &names).await
    }
}
