//! Holding a workload still and letting it go: by its number of replicas, with a mark on it that says what
//! it was before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::{Cluster, failure, is_missing};
use super::names::HELD_ANNOTATION;
use super::workload::Workload;
use crate::engine::Cancel;
use crate::plan::{Failure, OperationId};
use crate::spec::Reason;
use crate::spec::target::{WorkloadKind, WorkloadTarget};

/// How often it is looked whether a service has stopped.
pub(super) const LOOK: Duration = Duration::from_millis(300);

/// What a workload was before it was held still; kept on it as an annotation and in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The operation that holds it.
    pub operation: String,
    /// Wanted replicas before.
    pub replicas: i32,
}

impl Held {
    /// Whether it is this operation that holds it.
    pub fn is_of(&self, operation: &OperationId) -> bool {
        self.operation == operation.to_string()
    }
}

/// Scales to zero and waits until no pod is left. What it was before has been written to the journal;
/// it is written on the workload first, too. On the way back, where an operation has begun a rollout itself,
/// its being held part of the way is no reason to leave it there.
pub async fn hold(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
    held: &Held,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<Stopped, Failure> {
    let workload = Workload::get(cluster, namespace, target).await?;
    if target.kind == WorkloadKind::DaemonSet {
        return Err(Failure::new(
            Reason::UnsupportedTarget,
            format!("{} cannot be scaled to zero", workload.title()),
        )
        .hint("use `consistency.mode: Live`"));
    }
    workload.keeps_its_claims()?;
    let stop = |error: &kube::Error| failure(&format!("stop {}", workload.title()), error);
    if workload.held().as_ref() != Some(held) {
        let value = serde_json::to_string(held).unwrap_or_default();
        let marked = workload.annotate(cluster, HELD_ANNOTATION, Some(value)).await;
        marked.map_err(|error| stop(&error))?;
    }
    if workload.replicas != 0 {
        workload.scale(cluster, 0).await.map_err(|error| stop(&error))?;
    }
    let begun = Instant::now();
    loop {
        // Its controller has to have seen the new number: until then it may still make a pod.
        let now = Workload::find(cluster, namespace, target).await?;
        // Its pods may outlive it, and nobody looks after them any more.
        let now = now.ok_or_else(|| gone(namespace, target))?;
        if now.replicas != 0 {
            return Err(scaled_up(&now));
        }
        let pods = workload.pods(cluster).await?;
        if pods.is_empty() && now.is_observed() {
            let generation = now.object.metadata.generation;
            let managers = Some(now.managers_of("replicas"));
            let replica_sets = now.replica_sets(cluster).await?;
            return Ok(Stopped {
                generation,
                managers,
                replica_sets,
                uid: now.object.metadata.uid,
            });
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(
                Reason::Cancelled,
                "cancelled while the service was stopping",
            ));
        }
        if begun.elapsed() > timeout {
            let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
            return Err(Failure::new(
                Reason::QuiesceFailed,
                format!(
                    "{} did not stop within {} s: {} still there",
                    workload.title(),
                    timeout.as_secs(),
                    names.join(", ")
                ),
            )
            .hint("raise `consistency.timeout`, or look why the pods do not end"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A workload that stands still.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stopped {
    /// Its generation then: every change of its specification counts it up, and, for a Deployment, every
    /// change of its annotations.
    pub generation: Option<i64>,
    /// Who else managed its number of replicas then.
    pub managers: Option<Vec<String>>,
    /// Of a Deployment, the generations of its ReplicaSets then, by their UIDs: annotations do not count there.
    pub replica_sets: Option<BTreeMap<String, i64>>,
    /// Its UID: another under its name did not stand still.
    pub uid: Option<String>,
}

fn gone(namespace: &str, target: &WorkloadTarget) -> Failure {
    Failure::new(
        Reason::TargetNotFound,
        format!(
            "{:?} {namespace}/{} was deleted while it was held still",
            target.kind, target.name
        ),
    )
    .hint("see who deletes it; with `--cascade=orphan` its pods run on")
}

/// Fails if a workload that ran, with so many replicas, is to run no more: nothing can prove that it would.
pub fn still_wanted(workload: &Workload, ran: Option<i32>) -> Result<(), Failure> {
    let Some(ran) = ran.filter(|_| workload.replicas == 0) else { return Ok(()) };
    let managers = workload.managers_of("replicas");
    let message = format!(
        "{} was scaled from {ran} to 0 before it had proved itself{}",
        workload.title(),
        named(&managers)
    );
    Err(Failure::new(Reason::ReplicasChanged, message)
        .hint("let it run until the operation has ended, whoever scales it"))
}

/// The managers of a field in brackets, if there are any.
fn named(managers: &[String]) -> String {
    match managers {
        [] => String::new(),
        some => format!(" (managers of the field: {})", some.join(", ")),
    }
}

/// Fails if somebody has scaled a held workload up again, or deleted it: that is reported, not fought.
pub async fn still_held(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
    stopped: Stopped,
    template: Template,
) -> Result<(), Failure> {
    let found = Workload::find(cluster, namespace, target).await?;
    let workload = found.ok_or_else(|| gone(namespace, target))?;
    let replica_sets = match &stopped.replica_sets {
        Some(_) => workload.replica_sets(cluster).await?,
        None => None,
    };
    stands_still(&workload, stopped, replica_sets, template)
}

/// Whose template a held workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// That with which it was stopped.
    Before,
    /// Another one, which an Upgrade has applied itself, or may have: its controller removes ReplicaSets that have
    /// become too old for `revisionHistoryLimit`.
    Applied,
}

/// `replica_sets` are those of now, where those of then are known.
fn stands_still(
    workload: &Workload,
    stopped: Stopped,
    replica_sets: Option<BTreeMap<String, i64>>,
    template: Template,
) -> Result<(), Failure> {
    if stopped.uid.is_some() && workload.object.metadata.uid != stopped.uid {
        let message = format!(
            "{} was deleted and made again while it was held still: it may have run meanwhile",
            workload.title()
        );
        return Err(Failure::new(Reason::ReplicasChanged, message)
            .hint("see who deletes it, and try again"));
    }
    if workload.replicas == 0 {
        // Up and down again is two changes. One is of something else, as long as nothing runs.
        let changes = workload.object.metadata.generation.zip(stopped.generation);
        let changes = changes.map_or(0, |(now, then)| now - then);
        let is_same = stopped.managers.is_some_and(|then| then == workload.managers_of("replicas"));
        // Servers before 1.22 do not tell who has scaled.
        let is_scaled = match stopped.replica_sets.zip(replica_sets) {
            Some((then, now)) => changes >= 2 && are_scaled(&then, &now, template),
            None => changes >= 2 && !(workload.kind == WorkloadKind::Deployment && is_same),
        };
        if !is_scaled {
            return Ok(());
        }
        return Err(Failure::new(
            Reason::ReplicasChanged,
            format!(
                "the specification of {} was changed {changes} times while it was held still: it may \
                 have run meanwhile",
                workload.title()
            ),
        )
        .hint("see who scales it, and try again"));
    }
    Err(scaled_up(workload))
}

/// Whether any of these ReplicaSets was scaled up and down again: two changes of its specification. One that a new
/// template has made begins with as many replicas as are wanted then, so that one more change is enough; of one that is
/// gone nobody knows, unless a template that was applied has made it superfluous.
fn are_scaled(
    then: &BTreeMap<String, i64>,
    now: &BTreeMap<String, i64>,
    template: Template,
) -> bool {
    now.iter().any(|(uid, generation)| generation - then.get(uid).copied().unwrap_or(0) >= 2)
        || (template == Template::Before && then.keys().any(|uid| !now.contains_key(uid)))
}

/// Somebody else wants it to run.
fn scaled_up(workload: &Workload) -> Failure {
    let managers = workload.managers_of("replicas");
    Failure::new(
        Reason::ReplicasChanged,
        format!(
            "{} was scaled to {} while it was held still{}",
            workload.title(),
            workload.replicas,
            named(&managers)
        ),
    )
    .hint("leave `replicas` out of what the GitOps tool or autoscaler sets, or use `consistency.mode: Live`")
}

/// Lets a held workload run as it ran before. One that somebody else has scaled meanwhile stays as it
/// is; one that is gone has nothing to run.
pub async fn release(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
    journalled: Option<Held>,
    operation: &OperationId,
) -> Result<Value, Failure> {
    let Some(workload) = Workload::find(cluster, namespace, target).await? else {
        return Ok(json!({"gone": true}));
    };
    let own = |held: &Held| held.is_of(operation);
    let marked = workload.held();
    let Some(held) = marked.clone().filter(own).or(journalled) else {
        return Ok(Value::Null);
    };
    let start = |error: &kube::Error| {
        if is_missing(error) {
            return None;
        }
        Some(not_started(&workload.title(), error))
    };
    if workload.replicas == 0
        && held.replicas > 0
        && let Err(error) = workload.scale(cluster, held.replicas).await
    {
        return start(&error).map_or(Ok(json!({"gone": true})), Err);
    }
    if marked.as_ref().is_some_and(own)
        && let Err(error) = workload.annotate(cluster, HELD_ANNOTATION, None).await
    {
        return start(&error).map_or(Ok(json!({"gone": true})), Err);
    }
    Ok(json!({"replicas": held.replicas}))
}

/// Why a workload was not let run. A server that does not answer, or does not allow it yet, says nothing about
/// the workload: that is tried for as long as the server could be away.
fn not_started(title: &str, error: &kube::Error) -> Failure {
    let mut failure = failure(&format!("start {title} again"), error);
    failure.reason = match failure.reason {
        Reason::ClusterUnavailable | Reason::Forbidden => Reason::ClusterUnavailable,
        _ => Reason::ResumeFailed,
    };
    failure
}

/// Takes the mark of an operation off a workload that is to stay as it is. That of another one, as of an Upgrade whose
/// data is put back, is not its own to take.
pub async fn let_lie(
    cluster: &Cluster,
    workload: Option<&Workload>,
    operation: &OperationId,
) -> Result<(), Failure> {
    let is_own = |workload: &&Workload| workload.held().is_some_and(|held| held.is_of(operation));
    let Some(workload) = workload.filter(is_own) else { return Ok(()) };
    match workload.annotate(cluster, HELD_ANNOTATION, None).await {
        Err(error) if !is_missing(&error) => {
            Err(failure(&format!("clear the mark of {}", workload.title()), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(replicas: i32, generation: i64) -> Workload {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "db", "namespace": "shop", "generation": generation},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}},
            },
        });
        Workload::read(WorkloadKind::StatefulSet, serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn a_workload_that_was_scaled_up_and_down_again_did_not_stand_still() {
        let stopped =
            Stopped { generation: Some(7), managers: Some(Vec::new()), ..Stopped::default() };
        let reason = |replicas, generation| {
            let found = stands_still(
                &workload(replicas, generation),
                stopped.clone(),
                None,
                Template::Before,
            );
            found.err().map(|found| found.reason)
        };
        assert_eq!(reason(0, 7), None);
        assert_eq!(reason(0, 8), None, "its image may have been changed");
        assert_eq!(reason(0, 9), Some(Reason::ReplicasChanged));
        assert_eq!(reason(2, 8), Some(Reason::ReplicasChanged));
        // Annotations of a Deployment count, too: it is somebody else at its replicas that tells.
        let mut deployment = workload(0, 9);
        deployment.kind = WorkloadKind::Deployment;
        assert!(stands_still(&deployment, stopped.clone(), None, Template::Before).is_ok());
        let others = Stopped { managers: Some(vec!["kubectl".to_owned()]), ..stopped.clone() };
        assert!(stands_still(&deployment, others, None, Template::Before).is_err());
        // The journal of an older operator does not know it.
        assert!(stands_still(&workload(0, 9), Stopped::default(), None, Template::Before).is_ok());
    }

    /// A Backup of a Deployment that ran meanwhile succeeded: its server did not tell who had scaled it.
    #[test]
    fn a_deployment_that_was_scaled_up_and_down_again_did_not_stand_still() {
        let sets = |generations: &[(&str, i64)]| {
            Some(generations.iter().map(|(uid, number)| ((*uid).to_owned(), *number)).collect())
        };
        let stopped = Stopped {
            generation: Some(7),
            managers: Some(Vec::new()),
            replica_sets: sets(&[("one", 4), ("old", 9)]),
            uid: None,
        };
        let mut deployment = workload(0, 9);
        deployment.kind = WorkloadKind::Deployment;
        let of = |now: &[(&str, i64)], template| {
            stands_still(&deployment, stopped.clone(), sets(now), template).is_ok()
        };
        let is_still = |now: &[(&str, i64)]| of(now, Template::Before);
        assert!(!is_still(&[("one", 6), ("old", 9)]));
        assert!(is_still(&[("one", 4), ("old", 9)]), "its annotations have changed");
        assert!(is_still(&[("one", 5), ("old", 9)]));
        assert!(
            is_still(&[("one", 4), ("old", 9), ("new", 1)]),
            "it has a new template, and no pod of it"
        );
        assert!(!is_still(&[("one", 4), ("old", 9), ("new", 2)]), "it came with replicas");
        assert!(!is_still(&[("one", 4), ("new", 1)]), "what the old one did is not known");
        // With `revisionHistoryLimit: 0` an Upgrade that had applied its image went back for that.
        assert!(of(&[("new", 1)], Template::Applied));
        assert!(!of(&[("new", 2)], Template::Applied));
    }

    /// A StatefulSet that was deleted with its pods left, and applied anew, counted as the one that stood still.
    #[test]
    fn a_workload_that_was_made_again_did_not_stand_still() {
        let stopped = Stopped { uid: Some("first".to_owned()), ..Stopped::default() };
        let mut found = workload(0, 1);
        found.object.metadata.uid = Some("first".to_owned());
        assert!(stands_still(&found, stopped.clone(), None, Template::Before).is_ok());
        found.object.metadata.uid = Some("second".to_owned());
        let failure = stands_still(&found, stopped, None, Template::Before).unwrap_err();
        assert_eq!(failure.reason, Reason::ReplicasChanged);
    }

    /// After six refusals within a minute the service was left down, and nobody started it when it was allowed.
    #[test]
    fn a_start_that_is_not_allowed_yet_is_no_failure_of_the_workload() {
        let reason = |code: u16| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            not_started("StatefulSet shop/db", &kube::Error::Api(status.boxed())).reason
        };
        assert_eq!(reason(403), Reason::ClusterUnavailable);
        assert_eq!(reason(500), Reason::ClusterUnavailable);
        assert_eq!(reason(422), Reason::ResumeFailed);
    }

    /// An Upgrade succeeded because nobody ran who could have failed.
    #[test]
    fn a_workload_that_is_scaled_to_zero_has_not_proved_itself() {
        let failure = still_wanted(&workload(0, 8), Some(2)).unwrap_err();
        assert_eq!(failure.reason, Reason::ReplicasChanged);
        assert!(failure.message.contains("from 2 to 0"), "{}", failure.message);
        assert!(still_wanted(&workload(1, 8), Some(2)).is_ok());
        assert!(still_wanted(&workload(0, 8), None).is_ok(), "it did not run before either");
    }
}
