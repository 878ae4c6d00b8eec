//! Which claims an operation is about, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};

use super::cluster::{Cluster, failure};
use super::names::OPERATION_LABEL;
use super::pod_state::has_ended;
use super::workload::Workload;
use crate::plan::{ClaimFacts, Failure, Job};
use crate::spec::Reason;

fn api(cluster: &Cluster, namespace: &str) -> Api<PersistentVolumeClaim> {
    Api::namespaced(cluster.client.clone(), namespace)
}

/// The names of the claims of a job's target, in a stable order. `workload` is the target's, if it has
/// one. A Restore is about those as well that its backup had and that are lost.
pub async fn names(
    cluster: &Cluster,
    job: &Job,
    workload: Option<&Workload>,
) -> Result<Vec<String>, Failure> {
    let (namespace, target) = (&job.operation().namespace, job.target());
    let recorded = match job {
        Job::Restore(job) => job.claims.as_slice(),
        Job::Backup(_) | Job::Upgrade(_) => &[],
    };
    let chosen = target.workload.as_ref().and_then(|workload| workload.volume_claims.clone());
    let named = target.volume_claims.clone().or(chosen);
    let mut names = match (named, workload) {
        (Some(claims), _) => return Ok(once_each(claims)),
        (None, None) => return Ok(Vec::new()),
        (None, Some(workload)) => mounted_by(workload),
    };
    let Some(workload) = workload else { return Ok(names) };
    if !workload.claim_templates.is_empty() {
        let what = format!("list the claims in {namespace}");
        let claims = api(cluster, namespace);
        let list = cluster
            .patiently(&what, None, || async { claims.list(&ListParams::default()).await })
            .await
            .map_err(|error| failure(&what, &error))?;
        let mut known: BTreeSet<String> = list.items.iter().map(ResourceExt::name_any).collect();
        known.extend(recorded.iter().map(|claim| claim.name.clone()));
        names.extend(of_templates(workload, known.into_iter()));
    }
    if names.is_empty() {
        return Err(Failure::new(
            Reason::TargetNotFound,
            format!("{} mounts no claim, so it has no data to read", workload.title()),
        )
        .hint("name claims in `spec.target.workload.volumeClaims`, or back up something else"));
    }
    Ok(once_each(names))
}

/// Two volumes of a pod may be of one claim, and a list may name one twice.
fn once_each(mut names: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The first of the claims that is not among those that are known.
pub fn first_unknown(known: &[ClaimFacts], present: Vec<String>) -> Option<String> {
    present.into_iter().find(|name| known.iter().all(|claim| claim.name != *name))
}

/// The claims that the pod template names itself.
fn mounted_by(workload: &Workload) -> Vec<String> {
    let volumes = workload.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
        .collect()
}

/// The claims that a StatefulSet has made for its pods: those of its present ordinals, or of every
/// ordinal if it is stopped.
fn of_templates(workload: &Workload, present: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<(usize, u32, String)> = present
        .filter_map(|name| {
            // Not the first that the name begins with: `data-db-db-0` is of the template `data-db`.
            let templates = workload.claim_templates.iter().enumerate();
            let (index, ordinal) = templates.into_iter().find_map(|(index, template)| {
                let rest = name.strip_prefix(&format!("{template}-{}-", workload.name))?;
                Some((index, rest.parse().ok()?))
            })?;
            Some((index, ordinal, name))
        })
        .collect();
    if let Ok(wanted) = u32::try_from(workload.replicas_before())
        && wanted > 0
    {
        let first = workload.first_ordinal;
        let present = first..first.saturating_add(wanted);
        found.retain(|(_, ordinal, _)| present.contains(ordinal));
    }
    found.sort_by_key(|(index, ordinal, _)| (*ordinal, *index));
    found.into_iter().map(|(_, _, name)| name).collect()
}

/// What is known of each claim; a missing one is an error unless `may_be_missing`.
pub async fn describe(
    cluster: &Cluster,
    namespace: &str,
    names: &[String],
) -> Result<Vec<Result<PersistentVolumeClaim, String>>, Failure> {
    let claims = api(cluster, namespace);
    let mut found = Vec::new();
    for name in names {
        let what = format!("read claim {namespace}/{name}");
        let claim = cluster
            .patiently(&what, None, || claims.get_opt(name))
            .await
            .map_err(|error| failure(&what, &error))?;
        found.push(claim.ok_or_else(|| name.clone()));
    }
    Ok(found)
}

/// The failure for claims that are not there.
pub fn missing(namespace: &str, names: &[String]) -> Failure {
    Failure::new(Reason::TargetNotFound, format!("there is no claim {}", join(namespace, names)))
        .hint("`kubectl get persistentvolumeclaims` lists those of the namespace")
}

fn join(namespace: &str, names: &[String]) -> String {
    names.iter().map(|name| format!("{namespace}/{name}")).collect::<Vec<_>>().join(", ")
}

/// A claim as facts for the journal.
pub fn facts(claim: &PersistentVolumeClaim) -> ClaimFacts {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    ClaimFacts {
        name: claim.name_any(),
        storage_class: spec.storage_class_name,
        size: requests.get("storage").map(|size| size.0.clone()),
        access_modes: spec.access_modes.unwrap_or_default(),
    }
}

/// Whether a claim is bound to a volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether the claim is a device without a file system.
pub fn is_a_device(claim: &PersistentVolumeClaim) -> bool {
    let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    mode == Some("Block")
}

/// Whether one pod at a time can mount the claim.
pub fn is_for_one_pod(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    modes.clone().any(|mode| mode == "ReadWriteOncePod")
}

/// Whether only one node, or one pod, can mount the claim.
pub fn is_exclusive(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    !modes.clone().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// Makes a claim like the one that was backed up.
pub async fn create(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    like: &ClaimFacts,
) -> Result<(), Failure> {
    let size = like.size.clone().ok_or_else(|| {
        Failure::new(
            Reason::TargetNotFound,
            format!("there is no claim {namespace}/{name}, and the size it had is not recorded"),
        )
        .hint("make the claim, then apply the Restore again")
    })?;
    let access_modes = if like.access_modes.is_empty() {
        vec!["ReadWriteOnce".to_owned()]
    } else {
        like.access_modes.clone()
    };
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/created-by".to_owned(),
                "eider".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes),
            storage_class_name: like.storage_class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    let claims = api(cluster, namespace);
    let what = format!("make claim {namespace}/{name}");
    let parameters = PostParams::default();
    match cluster.patiently(&what, None, || claims.create(&parameters, &claim)).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(failure(&what, &error)),
        Ok(_) => Ok(()),
    }
}

/// A running pod that mounts one of these claims, movers and the workload's own pods excepted.
pub async fn user_of(
    cluster: &Cluster,
    namespace: &str,
    claims: &[String],
    workload: Option<&Workload>,
) -> Result<Option<Pod>, Failure> {
    let own = |pod: &Pod| workload.is_some_and(|workload| workload.owns(pod));
    let pods = pods(cluster, namespace).await?;
    // A pod whose containers have ended writes no more, however late its kubelet says the rest.
    let works = |pod: &Pod| is_placed(pod) && !has_ended(pod);
    let mut users = pods.into_iter().filter(|pod| works(pod) && mounts(pod, claims));
    Ok(users.find(|pod| !is_mover(pod) && !own(pod)))
}

/// The pod beside which a mover has to run, if any: on the node of whoever uses an exclusive claim of
/// the target; else, for a store that only one node can mount, where another mover writes to it.
pub async fn neighbour(
    cluster: &Cluster,
    namespace: &str,
    target: &[String],
    store: &str,
) -> Result<Option<Pod>, Failure> {
    let exclusive = async |names: &[String]| -> Result<Vec<String>, Failure> {
        let found = describe(cluster, namespace, names).await?;
        let exclusive = found.into_iter().flatten().filter(is_exclusive);
        Ok(exclusive.map(|claim| claim.name_any()).collect())
    };
    let target = exclusive(target).await?;
    let store = exclusive(&[store.to_owned()]).await?;
    if target.is_empty() && store.is_empty() {
        return Ok(None);
    }
    Ok(choose_neighbour(pods(cluster, namespace).await?, &target, &store))
}

fn choose_neighbour(pods: Vec<Pod>, target: &[String], store: &[String]) -> Option<Pod> {
    let mut of_store = None;
    for pod in pods.into_iter().filter(is_placed) {
        if !is_mover(&pod) && mounts(&pod, target) {
            return Some(pod);
        }
        if of_store.is_none() && mounts(&pod, store) {
            of_store = Some(pod);
        }
    }
    of_store
}

pub(super) fn is_mover(pod: &Pod) -> bool {
    pod.labels().contains_key(OPERATION_LABEL)
}

/// Whether the pod is on a node and has not ended there.
pub(super) fn is_placed(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let on_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    on_node && !matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn mounts(pod: &Pod, claims: &[String]) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .any(|claim| claims.contains(&claim.claim_name))
}

/// The pods of the namespace.
pub(super) async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>, Failure> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let what = format!("list the pods in {namespace}");
    let list = cluster
        .patiently(&what, None, || async { pods.list(&ListParams::default()).await })
        .await
        .map_err(|error| failure(&what, &error))?;
    Ok(list.items)
}

#[cfg(test)]
mod tests {
    use super::super::names::HELD_ANNOTATION;
    use super::*;
    use crate::spec::target::WorkloadKind;
    use serde_json::json;

    fn pod(name: &str, node: Option<&str>, claim: &str, mover: bool) -> Pod {
        let labels = if mover { json!({OPERATION_LABEL: "x"}) } else { json!({}) };
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": [], "volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": claim}},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn the_claims_of_a_stateful_set_are_those_of_its_pods_wherever_their_numbers_begin() {
        let marked = |replicas: i32, mark: i32, ordinals: serde_json::Value| {
            let mark = json!({"operation": "Restore/shop/r/1", "replicas": mark}).to_string();
            let object = json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "db", "annotations": {HELD_ANNOTATION: mark}},
                "spec": {
                    "replicas": replicas, "ordinals": ordinals,
                    "selector": {"matchLabels": {"app": "db"}}, "template": {},
                    "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                },
            });
            let object = serde_json::from_value(object).unwrap();
            let workload = Workload::read(WorkloadKind::StatefulSet, object).unwrap();
            of_templates(&workload, (0..5).map(|number| format!("data-db-{number}")))
        };
        let claims = |replicas: i32, ordinals| marked(replicas, 0, ordinals);
        assert_eq!(claims(2, json!(null)), ["data-db-0", "data-db-1"]);
        assert_eq!(claims(3, json!({"start": 1})), ["data-db-1", "data-db-2", "data-db-3"]);
        assert_eq!(claims(0, json!({"start": 1})).len(), 5, "what is stopped is all of it");
        // A mark that a Restore left when the set had one replica is of then: a Backup lacked the second.
        assert_eq!(marked(2, 1, json!(null)), ["data-db-0", "data-db-1"]);
        assert_eq!(marked(0, 1, json!(null)), ["data-db-0"]);
    }

    /// A pod was added between preflight and the stop: a Backup that succeeded lacked its claim.
    #[test]
    fn a_claim_that_came_after_preflight_is_noticed() {
        let known = ["data-db-0", "data-db-1"]
            .map(|name| ClaimFacts { name: name.to_owned(), ..ClaimFacts::default() });
        let first = |names: &[&str]| {
            first_unknown(&known, names.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(first(&["data-db-0", "data-db-1", "data-db-2"]).unwrap(), "data-db-2");
        assert_eq!(first(&["data-db-0"]), None, "one that is left over is read all the same");
    }

    /// A Backup that succeeded lacked the second claim.
    #[test]
    fn a_template_whose_name_begins_like_another_has_its_claims_too() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": {},
                "volumeClaimTemplates": [
                    {"metadata": {"name": "data"}}, {"metadata": {"name": "data-db"}},
                ],
            },
        });
        let object = serde_json::from_value(object).unwrap();
        let workload = Workload::read(WorkloadKind::StatefulSet, object).unwrap();
        let present = ["data-db-0", "data-db-db-0", "data-db-db-1", "data-db-x"];
        let found = of_templates(&workload, present.map(str::to_owned).into_iter());
        assert_eq!(found, ["data-db-0", "data-db-db-0"]);
    }

    #[test]
    fn a_mover_goes_to_its_data_first_and_to_its_store_next() {
        let (data, store) = (["data-db-0".to_owned()], ["backups".to_owned()]);
        let chosen = |pods: &[Pod], data: &[String], store: &[String]| {
            choose_neighbour(pods.to_vec(), data, store).map(|pod| pod.name_any())
        };
        let pods = [
            pod("unscheduled", None, "data-db-0", false),
            pod("writer", Some("n1"), "backups", true),
            pod("db-0", Some("n2"), "data-db-0", false),
        ];
        assert_eq!(chosen(&pods, &data, &store).as_deref(), Some("db-0"));
        assert_eq!(chosen(&pods[..2], &data, &store).as_deref(), Some("writer"));
        assert_eq!(chosen(&pods[..2], &data, &[]), None, "a store that many nodes mount");
        // A mover of an operation that is over is no reason to go anywhere.
        let mover = [pod("mover", Some("n3"), "data-db-0", true)];
        assert_eq!(chosen(&mover, &data, &store), None);
    }
}
