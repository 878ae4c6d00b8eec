//! The steps that hold a target still and let it go, what is written down of it before, and what is looked at
//! again before anything relies on it.

use std::time::Instant;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::holding::{self, Held, Stopped, Template};
use super::workload::Workload;
use super::{KubernetesRuntime, claims, current_step, no_mover, revision};
use crate::engine::Cancel;
use crate::plan::backup::step as backup_step;
use crate::plan::restore::step as restore_step;
use crate::plan::upgrade::step as upgrade_step;
use crate::plan::{Failure, Job, Log, PreflightFacts};
use crate::runtime::Handles;
use crate::spec::target::WorkloadTarget;
use crate::spec::{DurationText, Reason};

impl KubernetesRuntime {
    /// What the workload is before it is held still: as an earlier turn has found it, or somebody who
    /// held it and never let it go, or as it is.
    pub(super) async fn held(&self, job: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        let earlier = [backup_step::QUIESCE, restore_step::UNDO_QUIESCE];
        if let Some(held) = earlier.iter().find_map(|step| log.intent::<Held>(step)) {
            return Ok(json!(held));
        }
        // Claims alone: nothing runs that could be held still.
        let Some(target) = &job.target().workload else { return Ok(json!({"replicas": 0})) };
        let namespace = &job.operation().namespace;
        let workload = Workload::get(&self.cluster, namespace, target).await?;
        let operation = job.operation().to_string();
        let replicas = workload.replicas_before();
        Ok(json!(Held { operation, replicas }))
    }

    /// Holds a workload still, and makes sure that it is still the one that preflight has looked at.
    pub(super) async fn quiesce(
        &self,
        job: &Job,
        target: &WorkloadTarget,
        timeout: &DurationText,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let namespace = &job.operation().namespace;
        let held: Held = log.entries().last().map_or_else(
            || Err(no_mover()),
            |entry| {
                serde_json::from_value(entry.detail.clone()).map_err(|error| {
                    Failure::new(Reason::InternalError, format!("the intent: {error}"))
                })
            },
        )?;
        let is_way_forward = current_step(&log) == backup_step::QUIESCE;
        if is_way_forward {
            revision::get_what_may_be_stopped(&self.cluster, namespace, target).await?;
        }
        let (limit, cancel) = (timeout.to_duration(), &handles.cancel);
        let stopped =
            match holding::hold(&self.cluster, namespace, target, &held, limit, cancel).await {
                // What is gone stands still as soon as nobody works on its data any more.
                Err(failure) if failure.reason == Reason::TargetNotFound && !is_way_forward => {
                    self.nobody_is_left(job, &log, timeout, cancel).await?;
                    Stopped::default()
                }
                stopped => stopped?,
            };
        if is_way_forward {
            self.has_no_other_claims(job, &log).await?;
        }
        let mut facts = json!(held);
        facts["generation"] = json!(stopped.generation);
        facts["managers"] = json!(stopped.managers);
        facts["replicaSets"] = json!(stopped.replica_sets);
        facts["uid"] = json!(stopped.uid);
        Ok(facts)
    }

    /// Waits until no pod mounts the claims: those of a workload that is gone may outlive it.
    async fn nobody_is_left(
        &self,
        job: &Job,
        log: &Log<'_>,
        timeout: &DurationText,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let namespace = &job.operation().namespace;
        let names = self.claims(job, None, log).await?;
        let (begun, limit) = (Instant::now(), timeout.to_duration());
        while let Some(pod) = claims::user_of(&self.cluster, namespace, &names, None).await? {
            if cancel.is_cancelled() {
                let message = "cancelled while the service was stopping";
                return Err(Failure::new(Reason::Cancelled, message));
            }
            if begun.elapsed() > limit {
                let message = format!(
                    "the workload is gone, and pod {namespace}/{} works on its data",
                    pod.name_any()
                );
                return Err(Failure::new(Reason::QuiesceFailed, message).hint("delete the pod"));
            }
            tokio::time::sleep(holding::LOOK).await;
        }
        Ok(())
    }

    /// Fails if the target has claims that preflight has not seen, as those of pods that were added since:
    /// nothing of them would be read or replaced.
    pub(super) async fn has_no_other_claims(
        &self,
        job: &Job,
        log: &Log<'_>,
    ) -> Result<(), Failure> {
        let facts = log.facts::<PreflightFacts>(backup_step::PREFLIGHT).unwrap_or_default();
        if facts.claims.is_empty() {
            return Ok(());
        }
        let Some(workload) = self.workload(job).await? else { return Ok(()) };
        let names = claims::names(&self.cluster, job, Some(&workload)).await?;
        let Some(name) = claims::first_unknown(&facts.claims, names) else { return Ok(()) };
        let message = format!(
            "{} has claim {name} since it was looked at: the operation would be without it",
            workload.title()
        );
        Err(Failure::new(Reason::ReplicasChanged, message)
            .hint("see who scales or changes it, and try again"))
    }

    /// Adds to the facts of an archive who works on its claims by now, as a CronJob that began since preflight;
    /// fails where that is more than a warning.
    pub(super) async fn tell_of_others(
        &self,
        job: &Job,
        log: &Log<'_>,
        facts: &mut Value,
    ) -> Result<(), Failure> {
        let claims = self.claims(job, None, log).await?;
        let workload = self.workload(job).await?;
        let beside = self.nobody_works_on(job, workload.as_ref(), &claims).await?;
        let known = log.facts::<PreflightFacts>(backup_step::PREFLIGHT).unwrap_or_default();
        // What preflight has seen is told already.
        if let Some(message) = beside.filter(|message| !known.warnings.contains(message)) {
            add_warning(facts, &message);
        }
        Ok(())
    }

    /// Fails if the workload that was held still runs by now.
    pub(super) async fn check_held(
        &self,
        job: &Job,
        log: &Log<'_>,
        step: &str,
    ) -> Result<(), Failure> {
        match &job.target().workload {
            Some(target) if log.done(step) => {
                let stopped = log.facts::<Stopped>(step).unwrap_or_default();
                let template =
                    if is_applied(job, log) { Template::Applied } else { Template::Before };
                let namespace = &job.operation().namespace;
                holding::still_held(&self.cluster, namespace, target, stopped, template).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn release(
        &self,
        job: &Job,
        target: &WorkloadTarget,
        log: &Log<'_>,
    ) -> Result<Value, Failure> {
        let operation = job.operation();
        let held = log.intent::<Held>(backup_step::QUIESCE);
        holding::release(&self.cluster, &operation.namespace, target, held, operation).await
    }
}

/// Whether an Upgrade has applied its images, or has tried to before this attempt.
fn is_applied(job: &Job, log: &Log<'_>) -> bool {
    let begun = log.entries().iter().filter(|entry| entry.step == upgrade_step::APPLY);
    // The attempt that asks has written its intent.
    matches!(job, Job::Upgrade(_)) && begun.count() > 1
}

/// Adds a warning to an archive's facts, and to their number.
fn add_warning(facts: &mut Value, message: &str) {
    let count = facts["warningCount"].as_u64().unwrap_or(0);
    facts["warningCount"] = json!(count + 1);
    match facts["warnings"].as_array_mut() {
        Some(warnings) => warnings.insert(0, json!(message)),
        None => facts["warnings"] = json!([message]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ArchiveFacts;

    #[test]
    fn who_works_on_the_data_is_counted_among_the_warnings() {
        let read = ArchiveFacts {
            warnings: vec!["a socket".to_owned()],
            warning_count: 200,
            ..ArchiveFacts::default()
        };
        let mut facts = json!(read);
        add_warning(&mut facts, "pod shop/report works on data");
        let facts: ArchiveFacts = serde_json::from_value(facts).unwrap();
        assert_eq!(facts.warning_count, 201);
        assert_eq!(facts.warnings, ["pod shop/report works on data", "a socket"]);
    }
}
