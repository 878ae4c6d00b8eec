//! Having the new images on the node before the service stops: a pod that needs them and does nothing.

use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{Cluster, failure, is_missing};
use super::pod_state::{PodState, judge};
use super::warnings;
use super::workload::Workload;
use super::{mover_job, names, settings::Settings};
use crate::plan::{Failure, UpgradeJob};
use crate::runtime::Handles;
use crate::spec::Reason;
use crate::spec::target::WorkloadTarget;

/// How often the events are asked why there is no pod.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Makes the node of the workload's first pod pull every new image, and fails if it cannot.
///
/// The command of the pod does not exist in the image: whether it is found does not matter, only that
/// the image was there to look in.
pub async fn fetch(
    cluster: &Cluster,
    job: &UpgradeJob,
    target: &WorkloadTarget,
    handles: &Handles,
) -> Result<Value, Failure> {
    let namespace = &job.operation.namespace;
    let workload = Workload::get(cluster, namespace, target).await?;
    let pods = workload.pods(cluster).await?;
    let node = pods.iter().find_map(|pod| pod.spec.as_ref()?.node_name.clone());
    let key = names::key(&job.operation);
    let name = format!("eider-upgrade-{key}-images");
    let pod_template = workload.template.spec.clone().unwrap_or_default();
    let images = job.spec.images.clone().unwrap_or_default();
    let containers: Vec<Value> = images
        .iter()
        .map(|(container, image)| {
            let policy = workload
                .containers()
                .find(|known| known.name == *container)
                .and_then(|known| known.image_pull_policy.clone());
            json!({
                "name": container,
                "image": image,
                "imagePullPolicy": policy.unwrap_or_else(|| "IfNotPresent".to_owned()),
                "command": ["/eider-looks-whether-the-image-is-here"],
                "resources": next_to_nothing(&cluster.settings),
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                },
            })
        })
        .collect();
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": containers,
        // What the workload pulls with: its own secrets, and those of its account.
        "imagePullSecrets": pod_template.image_pull_secrets,
        "serviceAccountName": pod_template.service_account_name,
        "tolerations": pod_template.tolerations,
        "nodeSelector": pod_template.node_selector,
    });
    if let Some(node) = node {
        spec["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
            }]},
        }});
    }
    let labels = names::labels(&job.operation, &key);
    let owner = job.operation.uid.as_ref().map(|uid| {
        json!([{
            "apiVersion": crate::spec::API_VERSION, "kind": job.operation.kind,
            "name": job.operation.name, "uid": uid,
        }])
    });
    let made: Job = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owner},
        "spec": {
            "backoffLimit": 0, "ttlSecondsAfterFinished": 600,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }))
    .map_err(|error| Failure::new(Reason::InternalError, format!("the image pod: {error}")))?;
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), namespace);
    let what = format!("look for the images of {}", workload.title());
    let parameters = PostParams::default();
    let uid = match cluster.patiently(&what, None, || jobs.create(&parameters, &made)).await {
        Ok(made) => made.uid(),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let own = ListParams::default().fields(&format!("metadata.name={name}"));
            let list = cluster
                .patiently(&what, None, || jobs.list(&own))
                .await
                .map_err(|error| failure(&what, &error))?;
            list.items.first().and_then(ResourceExt::uid)
        }
        Err(error) => return Err(failure(&what, &error)),
    };
    let awaited = Awaited { cluster, namespace, job: &name, uid, images: images.len() };
    let found = awaited.wait(handles).await;
    handles.progress.waits(None);
    let parameters = DeleteParams::background();
    match cluster.patiently(&what, None, || jobs.delete(&name, &parameters)).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(failure(&what, &error)),
    }
    found.map(|()| json!({"images": images}))
}

/// What a container of the image pod asks for: next to nothing, of whatever movers have to name here. A
/// namespace with a quota takes no pod that does not.
fn next_to_nothing(settings: &Settings) -> Value {
    mover_job::resources(&Settings {
        memory: settings.memory.as_ref().map(|_| "16Mi".to_owned()),
        cpu: settings.cpu.as_ref().map(|_| "10m".to_owned()),
        cpu_limit: settings.cpu_limit.as_ref().map(|_| "100m".to_owned()),
        ..settings.clone()
    })
}

/// The image pod.
struct Awaited<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    job: &'a str,
    uid: Option<String>,
    images: usize,
}

impl Awaited<'_> {
    async fn wait(&self, handles: &Handles) -> Result<(), Failure> {
        let Self { cluster, namespace, job, .. } = *self;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        let selector = ListParams::default().labels(&format!("job-name={job}"));
        let begun = Instant::now();
        let mut unavailable_since: Option<Instant> = None;
        let mut obstacle: Option<Failure> = None;
        let mut asked = Instant::now();
        loop {
            let what = "look at the image pod";
            let list = cluster
                .patiently(what, None, || pods.list(&selector))
                .await
                .map_err(|error| failure(what, &error))?;
            let mut here = 0;
            let mut missing = None;
            for pod in &list.items {
                let statuses =
                    pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
                for container in statuses {
                    let state = container.state.clone().unwrap_or_default();
                    let reason =
                        state.waiting.as_ref().and_then(|w| w.reason.clone()).unwrap_or_default();
                    let message = state.waiting.as_ref().and_then(|w| w.message.clone());
                    match reason.as_str() {
                        "ErrImagePull"
                        | "ImagePullBackOff"
                        | "ErrImageNeverPull"
                        | "InvalidImageName"
                        | "RegistryUnavailable" => {
                            missing = Some(format!(
                                "image {} of container {}: {reason}: {}",
                                container.image,
                                container.name,
                                message.unwrap_or_default()
                            ));
                        }
                        "CreateContainerError"
                        | "RunContainerError"
                        | "CreateContainerConfigError" => {
                            here += 1;
                        }
                        _ if state.terminated.is_some() || state.running.is_some() => here += 1,
                        _ => {}
                    }
                }
                let unschedulable = judge(pod);
                if let PodState::Starting(Some(obstacle)) = unschedulable
                    && obstacle.reason != Reason::ImageUnavailable
                    && begun.elapsed() > Duration::from_mins(2)
                {
                    let name = pod.name_any();
                    return Err(Failure {
                        message: format!("{name}: {}", obstacle.message),
                        ..obstacle
                    });
                }
            }
            if here >= self.images {
                return Ok(());
            }
            // A pod that a quota keeps away is nowhere; the events of its Job say so.
            if let Some(uid) = self.uid.as_deref().filter(|_| list.items.is_empty())
                && asked.elapsed() > ASK_AGAIN
            {
                obstacle = warnings::latest(cluster, namespace, uid).await?;
                handles
                    .progress
                    .waits(obstacle.as_ref().map(|why| (why.reason, why.message.as_str())));
                asked = Instant::now();
            }
            match missing {
                // A registry may stumble once; what is missing for twenty seconds is missing.
                Some(why) => {
                    let since = *unavailable_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(20) {
                        return Err(Failure::new(Reason::ImageUnavailable, why).hint(
                            "nothing was stopped; check the image's name and the pull secrets",
                        ));
                    }
                }
                None => unavailable_since = None,
            }
            if handles.cancel.is_cancelled() {
                return Err(Failure::new(Reason::Cancelled, "cancelled while images were fetched"));
            }
            if begun.elapsed() > cluster.settings.start_timeout {
                return Err(obstacle.unwrap_or_else(|| {
                    let seconds = begun.elapsed().as_secs();
                    let message = format!("the new images were not there after {seconds} s");
                    Failure::new(Reason::ImageUnavailable, message)
                }));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
