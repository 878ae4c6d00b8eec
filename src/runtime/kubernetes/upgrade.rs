//! The actions of an Upgrade in a cluster: other images, watched until they have proved themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::{Cluster, failure};
use super::holding::Held;
use super::names::IMAGES_ANNOTATION;
use super::workload::Workload;
use super::{holding, revision};
use crate::engine::Cancel;
use crate::plan::version::refusal;
use crate::plan::{Failure, PreflightFacts, UpgradeJob};
use crate::runtime::probes;
use crate::spec::Reason;
use crate::spec::target::{WorkloadKind, WorkloadTarget};
use crate::spec::upgrade::HealthGate;

/// How often a rollout is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A container that has been restarted this often is in a crash loop.
const CRASH_LOOP: i32 = 3;
/// How long an image may fail to be pulled.
const PULL_AGAIN: Duration = Duration::from_secs(20);

/// The images before an upgrade, on the workload and in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagesBefore {
    /// The operation that changes them.
    pub operation: String,
    /// Container to image.
    pub images: BTreeMap<String, String>,
}

fn wanted(job: &UpgradeJob) -> BTreeMap<String, String> {
    job.spec.images.clone().unwrap_or_default()
}

/// Looks at everything that can be looked at before any downtime.
pub async fn preflight(
    cluster: &Cluster,
    job: &UpgradeJob,
    target: &WorkloadTarget,
) -> Result<PreflightFacts, Failure> {
    let namespace = &job.operation.namespace;
    let workload = Workload::get(cluster, namespace, target).await?;
    if workload.kind == WorkloadKind::DaemonSet {
        return Err(Failure::new(
            Reason::UnsupportedTarget,
            format!("{} cannot be stopped for its backup", workload.title()),
        ));
    }
    workload.may_be_rolled_out()?;
    let workload = revision::get_what_may_be_stopped(cluster, namespace, target).await?;
    let present = workload.images();
    if let Some(name) = wanted(job).keys().find(|name| !present.contains_key(*name)) {
        let known: Vec<&str> = present.keys().map(String::as_str).collect();
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!("{} has no container `{name}`", workload.title()),
        )
        .hint(format!("its containers are {}", known.join(", "))));
    }
    let from = revision::version(&workload, &[]);
    let unchanged = wanted(job).iter().all(|(name, image)| present.get(name) == Some(image));
    let refused = refusal(from.as_deref(), &job.spec.to_version, unchanged);
    if let (Some(why), false) = (refused, job.spec.force) {
        return Err(Failure::new(Reason::NotAnUpgrade, format!("{}: {why}", workload.title()))
            .hint("set `spec.force: true` to do it all the same"));
    }
    // Whatever admission has against it is found while the service runs.
    workload.set_images(cluster, &wanted(job), true).await?;
    let mut warnings = Vec::new();
    if workload.replicas_before() == 0 {
        warnings.push(format!(
            "{} runs no replica: nothing has tried the new version",
            workload.title()
        ));
    }
    for scaler in workload.autoscalers(cluster).await? {
        warnings.push(format!("HorizontalPodAutoscaler {scaler} scales {}", workload.title()));
    }
    let managers = workload.managers_of("template");
    let gitops = ["argocd", "kustomize-controller", "helm-controller", "fleet", "flux"];
    for manager in managers.iter().filter(|name| gitops.iter().any(|known| name.contains(known))) {
        warnings.push(format!(
            "{manager} manages the template of {}: set the new image there too, or it is set back",
            workload.title()
        ));
    }
    Ok(PreflightFacts {
        live_data: true,
        from_version: from,
        warnings,
        checks: vec![(
            "SERVICE".to_owned(),
            "PASS".to_owned(),
            format!("{} with {} replicas", workload.title(), workload.replicas),
        )],
        ..PreflightFacts::default()
    })
}

/// What the workload's containers run before it is changed; what an earlier intent says counts more.
pub async fn images_before(
    cluster: &Cluster,
    job: &UpgradeJob,
    target: &WorkloadTarget,
    earlier: Option<ImagesBefore>,
) -> Result<ImagesBefore, Failure> {
    if let Some(earlier) = earlier {
        return Ok(earlier);
    }
    let workload = Workload::get(cluster, &job.operation.namespace, target).await?;
    let operation = job.operation.to_string();
    let marked = workload.annotation(IMAGES_ANNOTATION);
    let marked: Option<ImagesBefore> = marked.and_then(|text| serde_json::from_str(text).ok());
    if let Some(marked) = marked.filter(|marked| marked.operation == operation) {
        return Ok(marked);
    }
    let wanted = wanted(job);
    let images = workload.images().into_iter().filter(|(name, _)| wanted.contains_key(name));
    Ok(ImagesBefore { operation, images: images.collect() })
}

/// Writes the images before on the workload.
pub async fn keep_old(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
    before: &ImagesBefore,
) -> Result<Value, Failure> {
    let workload = Workload::get(cluster, namespace, target).await?;
    let text = serde_json::to_string(before).unwrap_or_default();
    workload
        .annotate(cluster, IMAGES_ANNOTATION, Some(text))
        .await
        .map_err(|error| failure(&format!("mark {}", workload.title()), &error))?;
    Ok(json!(before))
}

/// Sets the new images.
pub async fn apply(
    cluster: &Cluster,
    job: &UpgradeJob,
    target: &WorkloadTarget,
) -> Result<Value, Failure> {
    let workload = Workload::get(cluster, &job.operation.namespace, target).await?;
    workload.set_images(cluster, &wanted(job), false).await?;
    Ok(json!({"images": wanted(job)}))
}

/// Sets the old images.
pub async fn restore_old(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
    before: Option<ImagesBefore>,
) -> Result<Value, Failure> {
    let Some(workload) = Workload::find(cluster, namespace, target).await? else {
        return Ok(json!({"gone": true}));
    };
    if let Some(before) = before {
        workload.set_images(cluster, &before.images, false).await?;
    }
    forget(cluster, &workload).await
}

/// Takes the mark of the upgrade away.
pub async fn commit(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
) -> Result<Value, Failure> {
    match Workload::find(cluster, namespace, target).await? {
        Some(workload) => forget(cluster, &workload).await,
        None => Ok(json!({"gone": true})),
    }
}

async fn forget(cluster: &Cluster, workload: &Workload) -> Result<Value, Failure> {
    if workload.annotation(IMAGES_ANNOTATION).is_some() {
        workload
            .annotate(cluster, IMAGES_ANNOTATION, None)
            .await
            .map_err(|error| failure(&format!("clear the mark of {}", workload.title()), &error))?;
    }
    let namespace = &workload.namespace;
    let target =
        WorkloadTarget { kind: workload.kind, name: workload.name.clone(), volume_claims: None };
    // As it is by now: with the images, and without the mark.
    if let Some(workload) = Workload::find(cluster, namespace, &target).await? {
        workload.disown_images(cluster).await?;
    }
    Ok(Value::Null)
}

/// What a workload's health is judged by.
pub struct Watch<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Where the workload is.
    pub namespace: &'a str,
    /// The workload.
    pub target: &'a WorkloadTarget,
    /// Images that have to stay; empty for a restore.
    pub images: BTreeMap<String, String>,
    /// Times and probes.
    pub gate: HealthGate,
    /// What it was before it was held still, if it was.
    pub before: Option<Held>,
    /// Ends the waiting.
    pub cancel: &'a Cancel,
}

impl Watch<'_> {
    /// Waits until everything is rolled out, ready, and answers.
    pub async fn until_healthy(&self) -> Result<Value, Failure> {
        let begun = Instant::now();
        let timeout = self.gate.timeout.to_duration();
        let mut unavailable_since: Option<Instant> = None;
        loop {
            let found = self.look(self.ran()).await?;
            match found.unavailable {
                // A registry may stumble once; what is missing for a while is missing.
                Some(failure) => {
                    let since = *unavailable_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PULL_AGAIN {
                        return Err(failure);
                    }
                }
                None => unavailable_since = None,
            }
            let waiting = match found.rolled_out {
                Ok(()) => match probes::all_answer(&self.gate.probes, true).await {
                    Ok(()) => return Ok(json!({"seconds": begun.elapsed().as_secs_f64()})),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            if begun.elapsed() > timeout {
                return Err(Failure::new(
                    Reason::Unhealthy,
                    format!("not healthy within {} s: {waiting}", timeout.as_secs()),
                )
                .hint("look at the pods' events and logs; `healthGate.timeout` sets the limit"));
            }
            self.pause().await?;
        }
    }

    /// Watches that it stays healthy.
    pub async fn soak(&self) -> Result<Value, Failure> {
        let begun = Instant::now();
        let soak = self.gate.soak.to_duration();
        // Whether all is well or not: what has been restarted before is no news.
        let first = self.look(None).await?;
        let (mut known, replicas) = (first.restarts, self.ran().unwrap_or(first.replicas));
        let mut unwell_since: Option<Instant> = None;
        let unhealthy = |why: &str| {
            let seconds = soak.as_secs();
            Failure::new(Reason::Unhealthy, format!("did not stay healthy for {seconds} s: {why}"))
        };
        while begun.elapsed() < soak {
            // Whoever adds replicas meanwhile has those that were there watched; the others may take their time.
            let found = self.look(Some(replicas)).await?;
            if let Some(container) = restarted(&mut known, found.restarts) {
                return Err(unhealthy(&format!("container {container} was restarted")));
            }
            let found = match found.rolled_out {
                Ok(()) => probes::all_answer(&self.gate.probes, true).await,
                Err(why) => Err(why),
            };
            match found {
                Ok(()) => unwell_since = None,
                Err(why) => {
                    // One missed look may be ours; two seconds of it are not.
                    let since = *unwell_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(2) {
                        return Err(unhealthy(&why));
                    }
                }
            }
            self.pause().await?;
        }
        Ok(Value::Null)
    }

    async fn pause(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for health"));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    /// The replicas that ran before it was held still, if any did.
    fn ran(&self) -> Option<i32> {
        self.before.as_ref().map(|before| before.replicas).filter(|replicas| *replicas > 0)
    }

    /// How it is now, of so many replicas if more are wanted. What cannot become well is a failure at once.
    async fn look(&self, at_most: Option<i32>) -> Result<Found, Failure> {
        let workload = Workload::get(self.cluster, self.namespace, self.target).await?;
        let present = workload.images();
        let set_back = self.images.iter().find(|(name, image)| present.get(*name) != Some(image));
        if let Some((name, image)) = set_back {
            let managers = workload.managers_of("template");
            return Err(Failure::new(
                Reason::FieldManagerConflict,
                format!(
                    "the image of container `{name}` was set from {image} to {} by {}",
                    present.get(name).map_or("nothing", String::as_str),
                    if managers.is_empty() {
                        "somebody else".to_owned()
                    } else {
                        managers.join(", ")
                    }
                ),
            )
            .hint("set the new image where the workload is managed, in git or in its chart"));
        }
        holding::still_wanted(&workload, self.ran())?;
        let pods = workload.pods(self.cluster).await?;
        for pod in &pods {
            doomed(pod)?;
        }
        Ok(Found {
            rolled_out: workload.rollout_of(at_most.unwrap_or(workload.replicas)),
            replicas: workload.replicas,
            restarts: pods.iter().flat_map(restarts).collect(),
            unavailable: pods.iter().find_map(unavailable),
        })
    }
}

/// A workload while it is watched.
struct Found {
    /// Whether everything is rolled out and ready, or what is waited for.
    rolled_out: Result<(), String>,
    /// How many are wanted.
    replicas: i32,
    /// The restarts of each container.
    restarts: Restarts,
    /// An image that a node does not have.
    unavailable: Option<Failure>,
}

/// Pod and container to the restarts. A pod that is replaced has another name or, of a StatefulSet, UID.
type Restarts = BTreeMap<(String, String, String), i32>;

fn restarts(pod: &Pod) -> impl Iterator<Item = ((String, String, String), i32)> {
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    statuses(pod).map(move |one| ((name.clone(), uid.clone(), one.name.clone()), one.restart_count))
}

/// A container that was restarted since the last look, if any; remembers this one. Of a pod that was not
/// there then, every restart counts.
fn restarted(known: &mut Restarts, found: Restarts) -> Option<String> {
    let news = found
        .iter()
        .find(|(container, count)| **count > known.get(*container).copied().unwrap_or_default());
    let news = news.map(|((pod, _, container), _)| format!("{container} of pod {pod}"));
    *known = found;
    news
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let first = status.init_container_statuses.iter().flatten();
        first.chain(status.container_statuses.iter().flatten())
    })
}

/// The image that a pod waits for and that its node could not pull, if any.
fn unavailable(pod: &Pod) -> Option<Failure> {
    statuses(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        if !matches!(
            reason,
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
        ) {
            return None;
        }
        let what = format!("container {} of pod {}", container.name, pod.name_any());
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(Failure::new(Reason::ImageUnavailable, format!("{what}: {reason}: {message}")))
    })
}

/// Fails for a pod that waiting does not help: a crash loop.
fn doomed(pod: &Pod) -> Result<(), Failure> {
    for container in statuses(pod) {
        if container.restart_count >= CRASH_LOOP {
            let what = format!("container {} of pod {}", container.name, pod.name_any());
            return Err(Failure::new(
                Reason::Unhealthy,
                format!("{what} was restarted {} times", container.restart_count),
            )
            .hint("`kubectl logs --previous` shows why it ends"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_cannot_become_well_are_not_waited_for() {
        let pod = |state: Value, restarts: i32| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "web", "image": "", "imageID": "", "ready": false, "restartCount": restarts,
                "state": state,
            }]}}))
            .unwrap()
        };
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let pulled = pod(waiting("ImagePullBackOff"), 0);
        assert_eq!(unavailable(&pulled).unwrap().reason, Reason::ImageUnavailable);
        assert!(doomed(&pulled).is_ok(), "a registry that stumbled once is no crash loop");
        assert_eq!(
            doomed(&pod(waiting("CrashLoopBackOff"), 3)).unwrap_err().reason,
            Reason::Unhealthy
        );
        let creating = pod(waiting("ContainerCreating"), 1);
        assert!(doomed(&creating).is_ok() && unavailable(&creating).is_none());
    }

    /// A pod that was replaced began to count from nothing, and hid the restarts of the others.
    #[test]
    fn a_restart_is_seen_although_another_pod_is_replaced() {
        let container = |pod: &str, uid: &str| (pod.to_owned(), uid.to_owned(), "web".to_owned());
        let mut known = Restarts::from([(container("a", "1"), 2), (container("b", "2"), 0)]);
        let replaced = Restarts::from([(container("a", "9"), 0), (container("b", "2"), 0)]);
        assert_eq!(restarted(&mut known, replaced), None);
        let again = Restarts::from([(container("a", "9"), 0), (container("b", "2"), 1)]);
        assert_eq!(restarted(&mut known, again.clone()).unwrap(), "web of pod b");
        assert_eq!(restarted(&mut known, again), None, "told once");
    }
}
