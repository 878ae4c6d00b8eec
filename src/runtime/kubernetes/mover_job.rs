//! The Job of a mover, as data: what it mounts, as whom it runs, where it has to be.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Toleration};
use serde_json::{Value, json};

use super::names::MOVER_CONTAINER;
use super::settings::Settings;
use crate::plan::OperationId;
use crate::runtime::mover::{
    MISSION_VARIABLE, Mission, READING_CAPABILITIES, Request, STEPS_ANNOTATION, STEPS_DIRECTORY,
    STEPS_FILE, STORE_DIRECTORY, VOLUMES_DIRECTORY, WRITING_CAPABILITIES,
};
use crate::spec::MoverSecurityContext;

/// The user of movers whose workload names none: the conventional nobody of small images.
const NOBODY: i64 = 65_532;

/// As whom a mover runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Root, with the capabilities that any owner and mode needs.
    Root,
    /// The user, group and volume group of the workload.
    Workload(MoverSecurityContext),
}

/// The identity that fits a workload's pods; without one, nobody's.
pub fn identity_of(template: Option<&PodTemplateSpec>) -> MoverSecurityContext {
    let spec = template.and_then(|template| template.spec.as_ref());
    let pod = spec.and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let container =
        spec.and_then(|spec| spec.containers.first()?.security_context.clone()).unwrap_or_default();
    // Root is for namespaces that allow it: a workload that runs as root is read as nobody.
    let user = container.run_as_user.or(pod.run_as_user).filter(|user| *user != 0);
    MoverSecurityContext {
        run_as_user: user.unwrap_or(NOBODY),
        run_as_group: container.run_as_group.or(pod.run_as_group),
        fs_group: pod.fs_group,
    }
}

impl Identity {
    fn pod_context(&self) -> Value {
        match self {
            Self::Root => json!({
                "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
            }),
            Self::Workload(identity) => {
                let MoverSecurityContext { run_as_user: user, run_as_group: group, fs_group } =
                    identity;
                let mut context = json!({
                    "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group.unwrap_or(*user),
                    "seccompProfile": {"type": "RuntimeDefault"},
                });
                if let Some(fs_group) = fs_group {
                    context["fsGroup"] = json!(fs_group);
                    // Nothing is to be changed on a volume whose top is right already.
                    context["fsGroupChangePolicy"] = json!("OnRootMismatch");
                }
                context
            }
        }
    }

    fn container_context(&self, writes: bool) -> Value {
        let capabilities = match self {
            Self::Root if writes => json!({
                "drop": ["ALL"],
                "add": WRITING_CAPABILITIES,
            }),
            Self::Root => json!({"drop": ["ALL"], "add": READING_CAPABILITIES}),
            Self::Workload(_) => json!({"drop": ["ALL"]}),
        };
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": capabilities,
        })
    }
}

/// Everything that makes one mover different from another.
#[derive(Debug, Clone)]
pub struct MoverPlan<'a> {
    /// Name of the Job.
    pub name: String,
    /// Namespace of the Job.
    pub namespace: String,
    /// Labels of Job and pod.
    pub labels: BTreeMap<String, String>,
    /// The object that the Job belongs to and goes with: kind, name, UID.
    pub owner: Option<&'a OperationId>,
    /// What it is for.
    pub mission: &'a Mission,
    /// What it is asked for at once.
    pub requests: &'a [Request],
    /// Claims of the target.
    pub claims: &'a [String],
    /// Whether the claims of the target are written to.
    pub writes: bool,
    /// Claim of the store.
    pub store_claim: String,
    /// As whom it runs.
    pub identity: Identity,
    /// A pod that uses the claims: the mover goes to its node and tolerates what it tolerates.
    pub beside: Option<&'a Pod>,
    /// What it tolerates without such a pod.
    pub tolerations: &'a [Toleration],
}

/// The Job.
///
/// # Errors
/// If it does not fit its type: a mistake in this file.
pub fn build(plan: &MoverPlan<'_>, settings: &Settings) -> Result<Job, serde_json::Error> {
    let mut volumes = vec![
        json!({"name": "temporary", "emptyDir": {"sizeLimit": "64Mi"}}),
        json!({"name": "steps", "downwardAPI": {"items": [{
            "path": STEPS_FILE,
            "fieldRef": {"fieldPath": format!("metadata.annotations['{STEPS_ANNOTATION}']")},
        }]}}),
        json!({"name": "store", "persistentVolumeClaim": {"claimName": plan.store_claim}}),
    ];
    let mut mounts = vec![
        json!({"name": "temporary", "mountPath": "/tmp"}),
        json!({"name": "steps", "mountPath": STEPS_DIRECTORY, "readOnly": true}),
        json!({"name": "store", "mountPath": STORE_DIRECTORY}),
    ];
    for (number, claim) in plan.claims.iter().enumerate() {
        let name = format!("claim-{number}");
        volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": claim}}));
        mounts.push(json!({
            "name": name,
            "mountPath": format!("{VOLUMES_DIRECTORY}/{claim}"),
            "readOnly": !plan.writes,
        }));
    }
    let mut container = json!({
        "name": MOVER_CONTAINER,
        "image": settings.image,
        "args": ["mover"],
        "env": [
            {"name": MISSION_VARIABLE, "value": serde_json::to_string(plan.mission)?},
            {"name": "TMPDIR", "value": "/tmp"},
        ],
        "volumeMounts": mounts,
        "securityContext": plan.identity.container_context(plan.writes),
        "terminationMessagePolicy": "File",
        "resources": resources(settings),
    });
    if let Some(policy) = &settings.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let pull_secrets: Vec<Value> =
        settings.image_pull_secrets.iter().map(|name| json!({"name": name})).collect();
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": plan.identity.pod_context(),
        "containers": [container],
        "volumes": volumes,
    });
    if !pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(pull_secrets);
    }
    if let Some(account) = &settings.service_account {
        pod["serviceAccountName"] = json!(account);
    }
    if !plan.tolerations.is_empty() {
        pod["tolerations"] = json!(plan.tolerations);
    }
    if let Some(spec) = plan.beside.and_then(|pod| pod.spec.as_ref()) {
        if let Some(node) = &spec.node_name {
            // By affinity, not by name: the scheduler still checks that the node can take the pod.
            pod["affinity"] = json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                    "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
                }]},
            }});
        }
        pod["tolerations"] = json!(spec.tolerations);
    }
    let requests = serde_json::to_string(plan.requests)?;
    let owner = plan.owner.and_then(|operation| {
        Some(json!([{
            "apiVersion": crate::spec::API_VERSION,
            "kind": operation.kind,
            "name": operation.name,
            "uid": operation.uid.as_ref()?,
        }]))
    });
    serde_json::from_value(json!({
        "metadata": {
            "name": plan.name, "namespace": plan.namespace, "labels": plan.labels,
            "ownerReferences": owner.unwrap_or_else(|| json!([])),
        },
        "spec": {
            // Whether and where to try again is the operator's decision, not the Job controller's.
            "backoffLimit": 0,
            "activeDeadlineSeconds": settings.deadline.as_secs(),
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {
                    "labels": plan.labels,
                    "annotations": {STEPS_ANNOTATION: requests},
                },
                "spec": pod,
            },
        },
    }))
}

/// What a mover asks for.
pub(super) fn resources(settings: &Settings) -> Value {
    let mut limits = json!({});
    if let Some(memory) = &settings.memory {
        limits["memory"] = json!(memory);
    }
    let mut requests = limits.clone();
    if let Some(cpu) = &settings.cpu {
        requests["cpu"] = json!(cpu);
    }
    // Only where it is asked for: a mover that is throttled makes the outage longer.
    if let Some(cpu) = &settings.cpu_limit {
        limits["cpu"] = json!(cpu);
    }
    json!({"requests": requests, "limits": limits})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StoreBinding;

    fn mission() -> Mission {
        let spec = serde_json::from_value(json!({"local": {"path": STORE_DIRECTORY}})).unwrap();
        let store = StoreBinding { name: "main".to_owned(), spec };
        Mission { job: None, journal: Vec::new(), store }
    }

    fn job(identity: Identity, writes: bool, beside: Option<&Pod>) -> Value {
        let operation: OperationId = "Backup/shop/b/1/uid-1".parse().unwrap();
        let key = super::super::names::key(&operation);
        let plan = MoverPlan {
            name: super::super::names::mover(&operation, &key, 0),
            namespace: "shop".to_owned(),
            labels: super::super::names::labels(&operation, &key),
            owner: Some(&operation),
            mission: &mission(),
            requests: &[],
            claims: &["data-db-0".to_owned()],
            writes,
            store_claim: "backups".to_owned(),
            identity,
            beside,
            tolerations: &[],
        };
        serde_json::to_value(build(&plan, &Settings::new("eider:1")).unwrap()).unwrap()
    }

    #[test]
    fn a_mover_is_restricted_and_has_no_credentials() {
        let identity = Identity::Workload(identity_of(None));
        let job = job(identity, false, None);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], NOBODY);
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        let mounts = container["volumeMounts"].as_array().unwrap();
        let claim = mounts.iter().find(|mount| mount["name"] == "claim-0").unwrap();
        assert_eq!(claim["mountPath"], "/eider/volumes/data-db-0");
        assert_eq!(claim["readOnly"], true);
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        insta::assert_json_snapshot!(job);
    }

    #[test]
    fn root_only_with_the_capabilities_it_needs() {
        let reading = job(Identity::Root, false, None);
        let context = "/spec/template/spec/containers/0/securityContext/capabilities/add";
        assert_eq!(*reading.pointer(context).unwrap(), json!(["DAC_OVERRIDE", "FOWNER"]));
        let writing = job(Identity::Root, true, None);
        assert!(writing.pointer(context).unwrap().as_array().unwrap().contains(&json!("CHOWN")));
    }

    #[test]
    fn a_mover_runs_as_its_workload_and_beside_it() {
        let template: PodTemplateSpec = serde_json::from_value(json!({"spec": {
            "securityContext": {"fsGroup": 70, "runAsUser": 70},
            "containers": [{"name": "db"}],
        }}))
        .unwrap();
        let beside: Pod = serde_json::from_value(json!({"spec": {
            "nodeName": "node7", "containers": [],
            "tolerations": [{"key": "storage", "operator": "Exists"}],
        }}))
        .unwrap();
        let identity = Identity::Workload(identity_of(Some(&template)));
        let job = job(identity, true, Some(&beside));
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 70);
        assert_eq!(pod["securityContext"]["fsGroup"], 70);
        assert_eq!(pod["tolerations"][0]["key"], "storage");
        assert!(pod["affinity"].to_string().contains("node7"));
    }

    #[test]
    fn a_workload_that_runs_as_root_is_not_followed_there() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"spec": {"containers": [{"name": "db", "securityContext": {"runAsUser": 0}}]}}),
        )
        .unwrap();
        assert_eq!(identity_of(Some(&template)).run_as_user, NOBODY);
    }
}
