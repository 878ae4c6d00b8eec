//! What the pods of a workload are made of: which version, and whether a start would make them the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

use super::cluster::Cluster;
use super::holding::LOOK;
use super::workload::Workload;
use crate::plan::Failure;
use crate::plan::version::of_image;
use crate::spec::target::{WorkloadKind, WorkloadTarget};
use crate::spec::{Reason, counted};

/// How long a controller may take to see a change before the change is in the way.
const SEES: Duration = Duration::from_secs(10);

/// The workload, if it would be the same after it was held still.
pub async fn get_what_may_be_stopped(
    cluster: &Cluster,
    namespace: &str,
    target: &WorkloadTarget,
) -> Result<Workload, Failure> {
    let begun = Instant::now();
    let workload = loop {
        let found = Workload::get(cluster, namespace, target).await?;
        // Which pods are of an older template is known once its controller has seen the newest.
        if found.is_observed() || begun.elapsed() > SEES {
            break found;
        }
        tokio::time::sleep(LOOK).await;
    };
    workload.may_be_scaled_to_zero()?;
    // What stands still already comes back by what its template says, whoever starts it.
    if workload.replicas > 0 {
        comes_back_the_same(&workload, &workload.pods(cluster).await?)?;
    }
    Ok(workload)
}

/// Fails for a workload with pods of an older template than a start would make them of: stopped and let run
/// again, it would finish a rollout that somebody holds back, or that does not succeed. Whether they are ready
/// does not matter.
fn comes_back_the_same(workload: &Workload, pods: &[Pod]) -> Result<(), Failure> {
    let title = workload.title();
    let message = if workload.is_observed() {
        match older(workload, pods) {
            0 => return Ok(()),
            older => format!(
                "the rollout of {title} is not complete: {} of an older template would come back new",
                counted(older, "pod")
            ),
        }
    } else {
        format!("the controller of {title} has not seen its last change yet")
    };
    Err(Failure::new(Reason::UnsupportedTarget, message).hint(
        "finish or undo the rollout, or scale it to zero, first; a Backup may also use \
         `consistency.mode: Live`",
    ))
}

/// How many of its pods are of an older template than the newest.
fn older(workload: &Workload, pods: &[Pod]) -> u64 {
    let status = &workload.object.data["status"];
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    match workload.kind {
        // By the pods, not by `currentRevision`: that stays behind as long as a pod is not ready, and for ever
        // where pods are updated on delete.
        WorkloadKind::StatefulSet => {
            let newest = status["updateRevision"].as_str().filter(|name| !name.is_empty());
            let Some(newest) = newest else { return 0 };
            let revision = |pod: &Pod| pod.labels().get("controller-revision-hash").cloned();
            let older = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .filter(|pod| revision(pod).is_some_and(|revision| revision != newest));
            u64::try_from(older.count()).unwrap_or(u64::MAX)
        }
        WorkloadKind::Deployment => number("replicas").saturating_sub(number("updatedReplicas")),
        WorkloadKind::DaemonSet => 0,
    }
}

/// The version of a workload: that of the pods that run, where they agree on one, else that of its template.
pub fn version(workload: &Workload, pods: &[Pod]) -> Option<String> {
    let running: BTreeSet<Option<String>> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| version_in(pod.metadata.labels.as_ref(), pod.spec.as_ref()))
        .collect();
    let mut running = running.into_iter();
    match (running.next(), running.next()) {
        (Some(version), None) => version,
        _ => {
            let template = &workload.template;
            let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
            version_in(labels, template.spec.as_ref())
        }
    }
}

/// The version label, or the tag of the first container's image.
fn version_in(labels: Option<&BTreeMap<String, String>>, spec: Option<&PodSpec>) -> Option<String> {
    if let Some(version) = labels.and_then(|labels| labels.get("app.kubernetes.io/version")) {
        return Some(version.clone());
    }
    of_image(spec?.containers.first()?.image.as_deref()?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn workload(kind: WorkloadKind, status: &Value) -> Workload {
        let object = json!({
            "apiVersion": "apps/v1", "kind": format!("{kind:?}"),
            "metadata": {"name": "db", "namespace": "shop", "generation": 4},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "db"}},
                "template": {"spec": {"containers": [{"name": "db", "image": "shop/db:2.0.0"}]}},
            },
            "status": status,
        });
        Workload::read(kind, serde_json::from_value(object).unwrap()).unwrap()
    }

    fn pod(revision: &str, image: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"controller-revision-hash": revision}},
            "spec": {"containers": [{"name": "db", "image": image}]},
            "status": {"conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn versions_are_read_from_tags() {
        let version = |image: &str| of_image(image);
        assert_eq!(version("shop/web:1.2.0").as_deref(), Some("1.2.0"));
        assert_eq!(version("registry:5000/shop/web:1.2.0@sha256:00").as_deref(), Some("1.2.0"));
        assert_eq!(version("registry:5000/shop/web"), None);
        assert_eq!(version("web:latest"), None);
        assert_eq!(version("web@sha256:00"), None);
    }

    /// A Backup brought a service up on a template that nobody had rolled out, and it did not run.
    #[test]
    fn a_set_with_pods_of_an_older_template_is_not_stopped() {
        let status = |newest: &str| json!({"observedGeneration": 4, "updateRevision": newest});
        let set = |newest: &str| workload(WorkloadKind::StatefulSet, &status(newest));
        let (old, new) = (pod("a", "shop/db:1.0.0", true), pod("b", "shop/db:2.0.0", true));
        let refused = comes_back_the_same(&set("b"), &[old.clone(), new]).unwrap_err();
        assert_eq!(refused.reason, Reason::UnsupportedTarget);
        assert!(refused.message.contains("1 pod of an older"), "{}", refused.message);
        assert!(comes_back_the_same(&set("a"), std::slice::from_ref(&old)).is_ok());
        let mut going = old;
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-11-22T09:00:00Z")).unwrap();
        assert!(comes_back_the_same(&set("b"), &[going]).is_ok(), "it is replaced anyway");
    }

    #[test]
    fn a_service_that_is_not_ready_may_be_stopped_if_it_has_one_template() {
        let status =
            json!({"observedGeneration": 4, "currentRevision": "a", "updateRevision": "b"});
        let set = workload(WorkloadKind::StatefulSet, &status);
        assert!(comes_back_the_same(&set, &[pod("b", "shop/db:2.0.0", false)]).is_ok());
        assert!(comes_back_the_same(&set, &[]).is_ok());
        let status = json!({"observedGeneration": 4, "replicas": 1, "updatedReplicas": 1});
        assert!(comes_back_the_same(&workload(WorkloadKind::Deployment, &status), &[]).is_ok());
        let status = json!({"observedGeneration": 4});
        assert!(comes_back_the_same(&workload(WorkloadKind::Deployment, &status), &[]).is_ok());
    }

    #[test]
    fn a_deployment_whose_rollout_is_stuck_is_not_stopped() {
        let deployment = |observed: i64, updated: i64| {
            let status = json!({
                "observedGeneration": observed, "replicas": 3, "updatedReplicas": updated,
            });
            comes_back_the_same(&workload(WorkloadKind::Deployment, &status), &[])
        };
        assert!(deployment(4, 1).is_err());
        assert!(deployment(4, 3).is_ok());
        assert!(deployment(3, 3).is_err(), "its controller knows of an older template only");
    }

    #[test]
    fn the_version_is_that_of_the_pods_that_run() {
        let set = workload(WorkloadKind::StatefulSet, &Value::Null);
        let (old, new) = (pod("a", "shop/db:1.0.0", true), pod("b", "shop/db:2.1.0", true));
        let found = |pods: &[Pod]| version(&set, pods).unwrap();
        assert_eq!(found(std::slice::from_ref(&old)), "1.0.0");
        assert_eq!(found(&[]), "2.0.0");
        assert_eq!(found(&[old, new]), "2.0.0", "they do not agree");
    }
}
