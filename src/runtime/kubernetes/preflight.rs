//! Looking at a target and a store of the cluster before anything changes.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::mover_job::identity_of;
use super::names::RESTORE_FROM_ANNOTATION;
use super::workload::Workload;
use super::{KubernetesRuntime, claims, current_step, nodes, revision, translate};
use crate::plan::{Action, ClaimFacts, Failure, Job, Log, PreflightFacts, StoreBinding};
use crate::runtime::Handles;
use crate::runtime::mover::{Request, Work};
use crate::spec::{ConsistencyMode, Reason};

impl KubernetesRuntime {
    /// Looks at target and store; makes the claims that a Restore is to fill and that are not there.
    pub(super) async fn preflight(
        &self,
        job: &Job,
        binding: &StoreBinding,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let namespace = &job.operation().namespace;
        let stays =
            matches!(job, Job::Backup(job) if job.spec.consistency.mode == ConsistencyMode::Live);
        let workload = match &job.target().workload {
            Some(target) if stays => Some(Workload::get(&self.cluster, namespace, target).await?),
            Some(target) => {
                Some(revision::get_what_may_be_stopped(&self.cluster, namespace, target).await?)
            }
            None => None,
        };
        let names = claims::names(&self.cluster, job, workload.as_ref()).await?;
        let (store_claim, _) = translate::store(binding)?;
        if names.contains(&store_claim) {
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!("claim {namespace}/{store_claim} is the store and the target at once"),
            )
            .hint("keep archives on another claim than what is backed up"));
        }
        if let Job::Restore(restore) = job {
            // Before anything is made in the namespace, where it is known this early.
            self.accepts(namespace, restore.from_namespace.as_deref()).await?;
        }
        self.have_claims(job, namespace, &names).await?;
        let beside = self.nobody_works_on(job, workload.as_ref(), &names).await?;
        self.has_store(namespace, binding).await?;
        let found = claims::describe(&self.cluster, namespace, &names).await?;
        self.can_be_mounted(namespace, &found).await?;
        let facts: Vec<ClaimFacts> = found.iter().flatten().map(claims::facts).collect();
        let mut warnings: Vec<String> = beside.into_iter().collect();
        for claim in found.iter().flatten().filter(|claim| !claims::is_bound(claim)) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            warnings.push(format!("claim {namespace}/{name} is not bound yet"));
        }
        if let Some(workload) = &workload {
            if let (Job::Backup(_), Some(lost)) = (job, not_covered(workload)) {
                warnings.push(lost);
            }
            for scaler in workload.autoscalers(&self.cluster).await? {
                warnings
                    .push(format!("HorizontalPodAutoscaler {scaler} scales {}", workload.title()));
            }
            for manager in workload.managers_of("replicas") {
                if ["argocd", "kustomize", "helm", "flux"].iter().any(|tool| manager.contains(tool))
                {
                    warnings.push(format!(
                        "{manager} sets the replicas of {}: it may scale it back while it is held still",
                        workload.title()
                    ));
                }
            }
        }
        // The mover is asked with the claims that were found just now.
        let pods_go =
            matches!(job, Job::Backup(job) if job.spec.consistency.mode != ConsistencyMode::Live);
        let mut answer = self.look(job, &found, workload.as_ref(), pods_go, log, handles).await?;
        self.accepts(namespace, answer.from_namespace.as_deref()).await?;
        answer.claims = facts;
        answer.mover = Some(identity_of(workload.as_ref().map(|workload| &workload.template)));
        answer.warnings.extend(warnings);
        Ok(json!(answer))
    }

    /// Has a mover look at as many of the claims as it can reach, and at the store. One that reaches only
    /// some is of no use later. `pods_go` as for [`nodes::within_reach`].
    pub(super) async fn look(
        &self,
        job: &Job,
        found: &[Result<PersistentVolumeClaim, String>],
        workload: Option<&Workload>,
        pods_go: bool,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<PreflightFacts, Failure> {
        let found: Vec<PersistentVolumeClaim> = found.iter().flatten().cloned().collect();
        let names = nodes::within_reach(&self.cluster, job, &found, pods_go).await?;
        let unseen = found.len() - names.len();
        let conversation = self.informed_conversation(job, names, workload, log, handles).await?;
        let step = current_step(&log);
        let request = Request {
            id: Request::identity(step, log.failures(step)),
            work: Work::Perform(Action::Preflight),
            again: false,
            journal: Vec::new(),
        };
        let answer = conversation.ask(request, &mut |_| {}).await?;
        let mut facts: PreflightFacts = serde_json::from_value(answer).map_err(|error| {
            let message = format!("the mover's answer does not decode: {error}");
            Failure::new(Reason::InternalError, message)
        })?;
        if unseen > 0 {
            conversation.dismiss().await?;
            facts.warnings.push(format!(
                "{unseen} claims are on other nodes: nobody has looked at them before the stop"
            ));
        }
        Ok(facts)
    }

    /// Fails if the claim of a store is not there.
    pub(super) async fn has_store(
        &self,
        namespace: &str,
        binding: &StoreBinding,
    ) -> Result<(), Failure> {
        let (claim, _) = translate::store(binding)?;
        let found =
            claims::describe(&self.cluster, namespace, std::slice::from_ref(&claim)).await?;
        let goes = found.iter().flatten().any(|claim| claim.metadata.deletion_timestamp.is_some());
        if !goes && found.iter().all(Result::is_ok) {
            return Ok(());
        }
        let how = if goes { "is being deleted" } else { "is not there" };
        Err(Failure::new(
            Reason::StoreUnavailable,
            format!("store {} names claim {namespace}/{claim}, which {how}", binding.name),
        )
        .hint("make the claim; stores are claims of the namespace that uses them"))
    }

    /// Fails for claims that a mover could never mount.
    pub(super) async fn can_be_mounted(
        &self,
        namespace: &str,
        found: &[Result<PersistentVolumeClaim, String>],
    ) -> Result<(), Failure> {
        for claim in found.iter().flatten() {
            let names = [claim.name_any()];
            let title = format!("claim {namespace}/{}", names[0]);
            if claim.metadata.deletion_timestamp.is_some() {
                let message = format!("{title} is being deleted");
                return Err(Failure::new(Reason::TargetNotFound, message)
                    .hint("once it is gone, a Restore makes it again"));
            }
            if claims::is_a_device(claim) {
                let message =
                    format!("{title} is a block device (volumeMode: Block): it holds no files");
                return Err(Failure::new(Reason::UnsupportedTarget, message).hint(
                    "name the other claims in target.volumeClaims, and back this one up by a hook",
                ));
            }
            if claims::is_for_one_pod(claim)
                && let Some(pod) = claims::user_of(&self.cluster, namespace, &names, None).await?
            {
                let message = format!(
                    "{title} is ReadWriteOncePod and mounted by pod {}: no mover can look at it",
                    pod.name_any()
                );
                return Err(Failure::new(Reason::UnsupportedTarget, message)
                    .hint("scale its workload to zero first, or use a ReadWriteOnce claim"));
            }
        }
        Ok(())
    }

    /// Fails if a pod that is not held still mounts claims that are to stand still: anybody's where
    /// nothing is held, another workload's where one is. A Backup of a workload whose claims others read
    /// or write too gets a warning instead, as does an Upgrade that will not put data back.
    pub(super) async fn nobody_works_on(
        &self,
        job: &Job,
        workload: Option<&Workload>,
        names: &[String],
    ) -> Result<Option<String>, Failure> {
        let of_claims = job.target().workload.is_none();
        let live = |mode: ConsistencyMode| mode == ConsistencyMode::Live;
        // Whose pods are held still, and so are no matter; and whether others are more than a warning.
        let (held, refused) = match job {
            Job::Backup(job) if live(job.spec.consistency.mode) => return Ok(None),
            Job::Backup(_) => (workload, of_claims),
            Job::Restore(job) if live(job.spec.consistency.mode) => (None, true),
            Job::Restore(_) => (workload, true),
            Job::Upgrade(job) if job.store.is_none() => return Ok(None),
            Job::Upgrade(job) => (workload, job.spec.rollback.data),
        };
        let namespace = &job.operation().namespace;
        let Some(pod) = claims::user_of(&self.cluster, namespace, names, held).await? else {
            return Ok(None);
        };
        let message = format!("pod {namespace}/{} works on {}", pod.name_any(), names.join(", "));
        if !refused {
            return Ok(Some(format!("{message} too, and is not held still")));
        }
        let hint = match job {
            Job::Backup(_) => "name its workload as the target, or use `consistency.mode: Live`",
            Job::Upgrade(_) => {
                "a rollback would replace files that it has open: scale its workload to zero first, or \
                 use `rollback.data: false`"
            }
            Job::Restore(_) if of_claims => {
                "name its workload as the target, or scale it to zero first"
            }
            Job::Restore(_) => {
                "a Restore would replace files that it has open: use `consistency.mode: Stop` for the \
                 target's own pods, and scale other workloads to zero first"
            }
        };
        Err(Failure::new(Reason::TargetBusy, message).hint(hint))
    }

    /// Fails for a backup of another namespace, unless the namespace it would be put into allows that.
    async fn accepts(&self, namespace: &str, source: Option<&str>) -> Result<(), Failure> {
        let Some(source) = source.filter(|source| *source != namespace) else { return Ok(()) };
        let allowed = self.cluster.namespace_annotation(namespace, RESTORE_FROM_ANNOTATION).await?;
        if names_one(allowed.as_deref(), source) {
            return Ok(());
        }
        let message = format!(
            "the archive is of namespace {source}, which namespace {namespace} does not take data from"
        );
        Err(Failure::new(Reason::Forbidden, message).hint(format!(
            "allow it with `kubectl annotate namespace {namespace} {RESTORE_FROM_ANNOTATION}={source}`"
        )))
    }

    /// Fails for claims that are missing; a Restore makes them as they were when they were backed up.
    async fn have_claims(
        &self,
        job: &Job,
        namespace: &str,
        names: &[String],
    ) -> Result<(), Failure> {
        let found = claims::describe(&self.cluster, namespace, names).await?;
        let missing: Vec<String> = found.into_iter().filter_map(Result::err).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Job::Restore(restore) = job else {
            return Err(claims::missing(namespace, &missing));
        };
        for name in &missing {
            let number = names.iter().position(|known| known == name).unwrap_or(0);
            let like = restore.claims.iter().find(|known| known.name == *name);
            let like = like.or_else(|| restore.claims.get(number)).cloned().unwrap_or_default();
            claims::create(&self.cluster, namespace, name, &like).await?;
        }
        Ok(())
    }
}

/// What the pods keep elsewhere than on claims, if anything: it is in no backup.
fn not_covered(workload: &Workload) -> Option<String> {
    let volumes = workload.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named: Vec<String> = volumes
        .filter_map(|volume| {
            let kind = match volume {
                volume if volume.empty_dir.is_some() => "emptyDir",
                volume if volume.host_path.is_some() => "hostPath",
                volume if volume.ephemeral.is_some() => "ephemeral",
                volume if volume.nfs.is_some() => "nfs",
                volume if volume.csi.is_some() => "csi",
                _ => return None,
            };
            Some(format!("{} ({kind})", volume.name))
        })
        .collect();
    let list = named.join(", ");
    (!named.is_empty()).then(|| format!("volumes that are no claims are not in the backup: {list}"))
}

/// Whether a list of namespaces, as an annotation holds it, names this one.
fn names_one(list: Option<&str>, namespace: &str) -> bool {
    list.is_some_and(|list| {
        list.split(',').map(str::trim).any(|entry| entry == "*" || entry == namespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::target::WorkloadKind;

    #[test]
    fn volumes_that_are_no_claims_are_named() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {
                "containers": [], "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "web"}},
                    {"name": "settings", "configMap": {"name": "web"}},
                    {"name": "scratch", "emptyDir": {}}, {"name": "logs", "hostPath": {"path": "/x"}},
                ],
            }}},
        });
        let object = serde_json::from_value(object).unwrap();
        let workload = Workload::read(WorkloadKind::Deployment, object).unwrap();
        let said = not_covered(&workload).unwrap();
        assert!(said.ends_with("scratch (emptyDir), logs (hostPath)"), "{said}");
    }

    #[test]
    fn only_what_is_named_is_allowed() {
        let allowed = |list: Option<&str>| names_one(list, "shop");
        assert!(allowed(Some("shop")) && allowed(Some("a, shop ,b")) && allowed(Some("*")));
        assert!(!allowed(None) && !allowed(Some("")) && !allowed(Some("shop-2,sh*")));
    }
}
