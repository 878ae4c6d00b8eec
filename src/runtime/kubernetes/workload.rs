//! Workloads as Eider sees them: one view for all kinds, and the two things done to them: another
//! number of replicas, other images.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, Pod, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::core::{NamespaceResourceScope, Selector};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cluster::{Cluster, FIELD_MANAGER, failure};
use super::holding::Held;
use super::names::HELD_ANNOTATION;
use super::pod_state::has_ended;
use crate::plan::Failure;
use crate::spec::Reason;
use crate::spec::target::{WorkloadKind, WorkloadTarget};

/// A workload as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Wanted replicas; for a DaemonSet the pods it has.
    pub replicas: i32,
    /// What its pods are made of.
    pub template: PodTemplateSpec,
    /// Names of the claim templates of a StatefulSet.
    pub claim_templates: Vec<String>,
    /// The number of its first pod: 0 unless `spec.ordinals.start` says otherwise (from 1.26 on).
    pub first_ordinal: u32,
    selector: Selector,
    pub(super) object: DynamicObject,
}

pub(super) fn resource(kind: WorkloadKind) -> ApiResource {
    let kind = match kind {
        WorkloadKind::Deployment => "Deployment",
        WorkloadKind::StatefulSet => "StatefulSet",
        WorkloadKind::DaemonSet => "DaemonSet",
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind))
}

pub(super) fn api(cluster: &Cluster, kind: WorkloadKind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), namespace, &resource(kind))
}

impl Workload {
    /// Looks at a workload; nothing if it is not there.
    pub async fn find(
        cluster: &Cluster,
        namespace: &str,
        target: &WorkloadTarget,
    ) -> Result<Option<Self>, Failure> {
        let api = api(cluster, target.kind, namespace);
        let what = format!("read {:?} {namespace}/{}", target.kind, target.name);
        let object = cluster
            .patiently(&what, None, || api.get_opt(&target.name))
            .await
            .map_err(|error| failure(&what, &error))?;
        object.map(|object| Self::read(target.kind, object)).transpose()
    }

    /// Looks at a workload that has to be there.
    pub async fn get(
        cluster: &Cluster,
        namespace: &str,
        target: &WorkloadTarget,
    ) -> Result<Self, Failure> {
        Self::find(cluster, namespace, target).await?.ok_or_else(|| {
            Failure::new(
                Reason::TargetNotFound,
                format!("there is no {:?} {namespace}/{}", target.kind, target.name),
            )
            .hint("check `spec.target.workload`; it is looked for in the namespace of the object")
        })
    }

    pub(super) fn read(kind: WorkloadKind, object: DynamicObject) -> Result<Self, Failure> {
        let odd = |what: &str, error: String| {
            Failure::new(
                Reason::InternalError,
                format!("{kind:?} has an unreadable {what}: {error}"),
            )
        };
        let spec = &object.data["spec"];
        let template = serde_json::from_value(spec["template"].clone())
            .map_err(|error| odd("template", error.to_string()))?;
        let selector: LabelSelector = serde_json::from_value(spec["selector"].clone())
            .map_err(|error| odd("selector", error.to_string()))?;
        let selector =
            Selector::try_from(selector).map_err(|error| odd("selector", error.to_string()))?;
        let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
        let replicas = match kind {
            WorkloadKind::DaemonSet => {
                number(&object.data["status"]["currentNumberScheduled"]).unwrap_or(0)
            }
            _ => number(&spec["replicas"]).unwrap_or(1),
        };
        let claim_templates = spec["volumeClaimTemplates"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|claim| claim["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        Ok(Self {
            kind,
            name: object.name_any(),
            namespace: object.namespace().unwrap_or_default(),
            replicas,
            template,
            claim_templates,
            first_ordinal: spec["ordinals"]["start"]
                .as_u64()
                .and_then(|start| u32::try_from(start).ok())
                .unwrap_or(0),
            selector,
            object,
        })
    }

    /// Fails for a workload that would not be the same after it was held still.
    pub fn may_be_scaled_to_zero(&self) -> Result<(), Failure> {
        if self.is_held_part_of_the_way() {
            return Err(Failure::new(
                Reason::UnsupportedTarget,
                format!(
                    "the rollout of {} is held at partition {}: scaled to zero and back, every pod would be new",
                    self.title(),
                    self.partition()
                ),
            )
            .hint("finish or undo the rollout first; a Backup may also use `consistency.mode: Live`"));
        }
        self.keeps_its_claims()
    }

    /// Fails for a StatefulSet that removes its claims when it is scaled down: to hold it still would
    /// delete its data.
    pub fn keeps_its_claims(&self) -> Result<(), Failure> {
        let policy = &self.object.data["spec"]["persistentVolumeClaimRetentionPolicy"];
        if policy["whenScaled"] != "Delete" {
            return Ok(());
        }
        Err(Failure::new(
            Reason::UnsupportedTarget,
            format!("{} deletes its claims when it is scaled to zero", self.title()),
        )
        .hint(
            "set `persistentVolumeClaimRetentionPolicy.whenScaled: Retain`; a Backup may also use \
             `consistency.mode: Live`",
        ))
    }

    /// One line for messages.
    pub fn title(&self) -> String {
        format!("{:?} {}/{}", self.kind, self.namespace, self.name)
    }

    /// An annotation on the workload.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.object.annotations().get(name).map(String::as_str)
    }

    /// What it was before somebody of us held it still, if it is held.
    pub fn held(&self) -> Option<Held> {
        serde_json::from_str(self.annotation(HELD_ANNOTATION)?).ok()
    }

    /// The replicas to go back to: what a mark says that was left while it stands still, else what it
    /// has. A mark on one that runs is of long ago.
    pub fn replicas_before(&self) -> i32 {
        let left = self.held().filter(|_| self.replicas == 0);
        left.map_or(self.replicas, |held| held.replicas)
    }

    /// The image of each container.
    pub fn images(&self) -> BTreeMap<String, String> {
        self.containers()
            .map(|container| (container.name.clone(), container.image.clone().unwrap_or_default()))
            .collect()
    }

    /// What its pods tolerate.
    pub fn tolerations(&self) -> Vec<Toleration> {
        let spec = self.template.spec.as_ref();
        spec.and_then(|spec| spec.tolerations.clone()).unwrap_or_default()
    }

    /// Its containers, those that run first and end among them: names are unique over both.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let spec = self.template.spec.iter();
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
    }

    /// The pods that exist of it and have not ended.
    pub async fn pods(&self, cluster: &Cluster) -> Result<Vec<Pod>, Failure> {
        let pods: Vec<Pod> = self.selected(cluster, "pods").await?;
        Ok(pods.into_iter().filter(|pod| self.owns(pod) && !has_ended(pod)).collect())
    }

    /// What its selector selects; `what` says of which kind that is.
    async fn selected<K>(&self, cluster: &Cluster, what: &str) -> Result<Vec<K>, Failure>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(cluster.client.clone(), &self.namespace);
        let parameters = ListParams::default().labels_from(&self.selector);
        let what = format!("list the {what} of {}", self.title());
        let list = cluster.patiently(&what, None, || api.list(&parameters)).await;
        Ok(list.map_err(|error| failure(&what, &error))?.items)
    }

    /// Of a Deployment, the generations of its ReplicaSets by their UIDs.
    pub async fn replica_sets(
        &self,
        cluster: &Cluster,
    ) -> Result<Option<BTreeMap<String, i64>>, Failure> {
        if self.kind != WorkloadKind::Deployment {
            return Ok(None);
        }
        let sets: Vec<ReplicaSet> = self.selected(cluster, "ReplicaSets").await?;
        let uid = self.object.metadata.uid.as_deref();
        let own = |set: &ReplicaSet| {
            set.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid)
        };
        let found = sets.into_iter().filter(own).map(|set| set.metadata);
        Ok(Some(found.filter_map(|found| Some((found.uid?, found.generation?))).collect()))
    }

    /// Selectors of two workloads may overlap by mistake; owners do not.
    pub(super) fn owns(&self, pod: &Pod) -> bool {
        let kind = format!("{:?}", self.kind);
        // Not by the beginning of the name alone: the ReplicaSets of `web-api` begin with `web-`, too.
        let hash = pod.labels().get("pod-template-hash");
        let replica_set = hash.map(|hash| format!("{}-{hash}", self.name));
        pod.owner_references().iter().any(|owner| match self.kind {
            WorkloadKind::Deployment => {
                owner.kind == "ReplicaSet" && Some(&owner.name) == replica_set.as_ref()
            }
            _ => owner.kind == kind && owner.name == self.name,
        })
    }

    /// Writes or, with nothing, removes an annotation.
    pub async fn annotate(
        &self,
        cluster: &Cluster,
        name: &str,
        value: Option<String>,
    ) -> Result<(), kube::Error> {
        let api = api(cluster, self.kind, &self.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {name: value}}}));
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("annotate {}", self.title());
        cluster.patiently(&what, None, || api.patch(&self.name, &parameters, &patch)).await?;
        Ok(())
    }

    /// Asks for a number of replicas by the scale subresource.
    pub async fn scale(&self, cluster: &Cluster, replicas: i32) -> Result<(), kube::Error> {
        let api = api(cluster, self.kind, &self.namespace);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("scale {} to {replicas}", self.title());
        cluster.patiently(&what, None, || api.patch_scale(&self.name, &parameters, &patch)).await?;
        Ok(())
    }

    /// Whether its controller has brought about what its specification says, and how far it is if not.
    pub fn rollout(&self) -> Result<(), String> {
        self.rollout_of(self.replicas)
    }

    /// The same of this many replicas: of a workload that is scaled up meanwhile, those that were there.
    pub fn rollout_of(&self, replicas: i32) -> Result<(), String> {
        let status = &self.object.data["status"];
        let number = |name: &str| status[name].as_i64().unwrap_or(0);
        let generation = self.object.metadata.generation.unwrap_or(0);
        if number("observedGeneration") < generation {
            return Err("its controller has not seen the change yet".to_owned());
        }
        let most = i64::from(self.replicas);
        let wanted = i64::from(replicas).min(most);
        let (updated, ready) = match self.kind {
            WorkloadKind::DaemonSet => (number("updatedNumberScheduled"), number("numberReady")),
            _ => (number("updatedReplicas"), number("readyReplicas")),
        };
        // A StatefulSet that updates on delete never counts as updated by itself.
        let on_delete = self.object.data["spec"]["updateStrategy"]["type"] == "OnDelete";
        let total = number("replicas");
        // Those below the partition are to stay as they are.
        let new = if on_delete { 0 } else { wanted - self.partition().min(wanted) };
        if updated < new || ready < wanted {
            return Err(format!(
                "{} of {wanted} pods are new, {ready} are ready",
                updated.min(wanted)
            ));
        }
        if total > most {
            return Err(format!("{total} pods are there, and {most} are wanted"));
        }
        let (current, update) = (&status["currentRevision"], &status["updateRevision"]);
        if self.kind == WorkloadKind::StatefulSet
            && current != update
            && new == wanted
            && wanted > 0
        {
            return Err("its revision is still rolling out".to_owned());
        }
        Ok(())
    }

    /// Fails for a workload of which a rollout would bring only a part, or nothing: what an Upgrade said of it
    /// would not be true, and its way back would not be one.
    pub fn may_be_rolled_out(&self) -> Result<(), Failure> {
        let spec = &self.object.data["spec"];
        let (why, hint) = if spec["paused"] == true {
            ("is paused: no pod would get the new image", "resume its rollouts first")
        } else if self.partition() > 0 {
            (
                "has a partition: some of its pods would keep the old image",
                "set `updateStrategy.rollingUpdate.partition` to 0 first",
            )
        } else {
            return Ok(());
        };
        let message = format!("{} {why}", self.title());
        Err(Failure::new(Reason::UnsupportedTarget, message).hint(hint))
    }

    /// How many of its first pods a rollout leaves as they are.
    fn partition(&self) -> i64 {
        let strategy = &self.object.data["spec"]["updateStrategy"];
        strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0)
    }

    /// Whether a rollout of it is held part of the way.
    fn is_held_part_of_the_way(&self) -> bool {
        let status = &self.object.data["status"];
        self.kind == WorkloadKind::StatefulSet
            && self.partition() > 0
            && status["currentRevision"] != status["updateRevision"]
    }

    /// Whether its controller has seen its specification as it is.
    pub(super) fn is_observed(&self) -> bool {
        let observed = self.object.data["status"]["observedGeneration"].as_i64().unwrap_or(0);
        observed >= self.object.metadata.generation.unwrap_or(0)
    }

    /// The HorizontalPodAutoscalers that aim at it.
    pub async fn autoscalers(&self, cluster: &Cluster) -> Result<Vec<String>, Failure> {
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(cluster.client.clone(), &self.namespace);
        let what = "list HorizontalPodAutoscalers";
        let list = cluster
            .patiently(what, None, || async { api.list(&ListParams::default()).await })
            .await
            .map_err(|error| failure(what, &error))?;
        let kind = format!("{:?}", self.kind);
        Ok(list
            .items
            .iter()
            .filter(|scaler| {
                let aim = &scaler.spec.scale_target_ref;
                aim.kind == kind && aim.name == self.name
            })
            .map(ResourceExt::name_any)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(replicas: i32, mark: Option<i32>, policy: &Value) -> Workload {
        let mark = mark.map(|replicas| json!({"operation": "Backup/a/b/1", "replicas": replicas}));
        let annotations = mark.map(|mark| json!({HELD_ANNOTATION: mark.to_string()}));
        let object = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "db", "namespace": "shop", "annotations": annotations},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}},
                "persistentVolumeClaimRetentionPolicy": policy,
            },
        });
        Workload::read(WorkloadKind::StatefulSet, serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn a_mark_that_was_left_on_a_running_workload_does_not_change_its_replicas() {
        let before = |replicas, mark| workload(replicas, mark, &Value::Null).replicas_before();
        assert_eq!(before(2, Some(1)), 2);
        assert_eq!(before(0, Some(3)), 3);
        assert_eq!(before(0, None), 0);
    }

    /// A Restore of `web` replaced files that `web-api` had open.
    #[test]
    fn a_deployment_does_not_own_the_pods_of_one_whose_name_begins_like_its_own() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {}},
        });
        let object = serde_json::from_value(object).unwrap();
        let web = Workload::read(WorkloadKind::Deployment, object).unwrap();
        let owns = |replica_set: &str, hash: &str| {
            let pod = json!({"metadata": {
                "name": "p", "labels": {"pod-template-hash": hash},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": "u",
                }],
            }});
            web.owns(&serde_json::from_value(pod).unwrap())
        };
        assert!(owns("web-6cd7b4466c", "6cd7b4466c"));
        assert!(!owns("web-api-7f98d7f844", "7f98d7f844"));
    }

    /// A Backup finished a rollout that was held at its partition, and a rollout held there was never well.
    #[test]
    fn a_rollout_that_is_held_part_of_the_way_is_left_there() {
        let set = |partition: i64, updated: i64, update: &str| {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "db", "namespace": "shop", "generation": 2},
                "spec": {
                    "replicas": 3, "selector": {"matchLabels": {"app": "db"}}, "template": {},
                    "updateStrategy": {"rollingUpdate": {"partition": partition}},
                },
                "status": {
                    "observedGeneration": 2, "replicas": 3, "readyReplicas": 3,
                    "updatedReplicas": updated, "currentRevision": "a", "updateRevision": update,
                },
            });
            let object = serde_json::from_value(object).unwrap();
            Workload::read(WorkloadKind::StatefulSet, object).unwrap()
        };
        let held = set(2, 1, "b");
        assert!(held.may_be_scaled_to_zero().is_err() && held.rollout().is_ok());
        assert!(set(1, 1, "b").rollout().is_err(), "two are to be new");
        assert!(set(2, 3, "a").may_be_scaled_to_zero().is_ok());
        assert!(set(0, 3, "b").rollout().is_err(), "its revision is still rolling out");
        assert!(set(2, 3, "a").may_be_rolled_out().is_err(), "two would keep their image");
        assert!(set(0, 3, "a").may_be_rolled_out().is_ok());
    }

    #[test]
    fn a_workload_that_is_scaled_up_meanwhile_is_judged_by_what_was_there() {
        let scaled = |ready: i64, total: i64| {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "shop", "generation": 3},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {}},
                "status": {
                    "observedGeneration": 3, "replicas": total, "readyReplicas": ready,
                    "updatedReplicas": 2,
                },
            });
            let object = serde_json::from_value(object).unwrap();
            Workload::read(WorkloadKind::Deployment, object).unwrap()
        };
        assert!(scaled(1, 2).rollout().is_err());
        assert!(scaled(1, 2).rollout_of(1).is_ok());
        assert!(scaled(0, 2).rollout_of(1).is_err());
        assert!(scaled(2, 3).rollout_of(1).is_err(), "an old pod is still there");
        let mut paused = scaled(2, 2);
        paused.object.data["spec"]["paused"] = json!(true);
        assert!(paused.may_be_rolled_out().is_err());
    }

    #[test]
    fn a_workload_whose_claims_go_with_its_replicas_is_not_scaled_down() {
        let check = |policy: Value| workload(1, None, &policy).may_be_scaled_to_zero();
        let refused = check(json!({"whenScaled": "Delete", "whenDeleted": "Retain"})).unwrap_err();
        assert_eq!(refused.reason, Reason::UnsupportedTarget);
        assert!(check(json!({"whenScaled": "Retain", "whenDeleted": "Delete"})).is_ok());
        assert!(check(Value::Null).is_ok());
    }
}
