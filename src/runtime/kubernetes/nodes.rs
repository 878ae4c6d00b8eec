//! Targets whose pods run on several nodes, each with claims that only its node can mount.
//!
//! One mover reads all claims of a target, and it is on one node. As long as the pods run, it can look at the
//! claims of one node only; once they are gone, all claims can come to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::claims::{self, is_exclusive, is_mover, is_placed, mounts};
use super::cluster::Cluster;
use crate::plan::{Failure, Job};
use crate::spec::Reason;

/// Those of the claims that a mover can mount while the pods of the target run: all, unless they are
/// spread over nodes. `pods_go` says that the pods are gone before anything is read or written.
///
/// # Errors
/// `UnsupportedTarget` if they are, and the operation reads or writes them while pods run.
pub async fn within_reach(
    cluster: &Cluster,
    job: &Job,
    claims: &[PersistentVolumeClaim],
    pods_go: bool,
) -> Result<Vec<String>, Failure> {
    let namespace = &job.operation().namespace;
    let names: Vec<String> = claims.iter().map(ResourceExt::name_any).collect();
    let exclusive: Vec<String> =
        claims.iter().filter(|claim| is_exclusive(claim)).map(ResourceExt::name_any).collect();
    if exclusive.len() < 2 {
        return Ok(names);
    }
    let spread = spread(&claims::pods(cluster, namespace).await?, &exclusive);
    if spread.len() < 2 {
        return Ok(names);
    }
    let nodes: Vec<&str> = spread.keys().map(String::as_str).collect();
    let refuse = |hint: &str| {
        let message = format!(
            "its pods keep claims on {} nodes ({}), and a mover is on one of them",
            nodes.len(),
            nodes.join(", ")
        );
        Err(Failure::new(Reason::UnsupportedTarget, message).hint(hint))
    };
    match job {
        _ if pods_go => {
            let far: Vec<&String> = spread.values().skip(1).flatten().collect();
            Ok(names.into_iter().filter(|name| !far.contains(&name)).collect())
        }
        // It is unpacked beside what is live, so that the outage is short.
        Job::Restore(_) => refuse("scale the workload to zero, then apply the Restore again"),
        Job::Backup(_) | Job::Upgrade(_) => refuse(
            "use `consistency.mode: Stop`, or one Backup for each claim with `target.workload.volumeClaims`",
        ),
    }
}

/// Node to the claims that pods on it mount; movers are on the node of others.
fn spread(pods: &[Pod], claims: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_placed(pod) && !is_mover(pod)) {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        let own = claims.iter().filter(|claim| mounts(pod, std::slice::from_ref(*claim)));
        for claim in own.cloned() {
            let known = found.entry(node.clone()).or_default();
            if !known.contains(&claim) {
                known.push(claim);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::names::OPERATION_LABEL;
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_counted_on_the_nodes_of_the_pods_that_mount_them() {
        let pod = |node: &str, claim: &str, phase: &str, mover: bool| -> Pod {
            let labels = if mover { json!({OPERATION_LABEL: "x"}) } else { json!({}) };
            serde_json::from_value(json!({
                "metadata": {"labels": labels}, "status": {"phase": phase},
                "spec": {"nodeName": node, "containers": [], "volumes": [
                    {"name": "v", "persistentVolumeClaim": {"claimName": claim}},
                    {"name": "w", "persistentVolumeClaim": {"claimName": "shared"}},
                ]},
            }))
            .unwrap()
        };
        let claims = ["data-0".to_owned(), "data-1".to_owned()];
        let pods = [
            pod("n2", "data-1", "Running", false),
            pod("n1", "data-0", "Running", false),
            pod("n1", "data-0", "Running", false),
            pod("n3", "data-0", "Running", true),
            pod("n4", "data-1", "Succeeded", false),
        ];
        let found = spread(&pods, &claims);
        let wanted = [("n1", "data-0"), ("n2", "data-1")]
            .map(|(node, claim)| (node.to_owned(), vec![claim.to_owned()]));
        assert_eq!(found, BTreeMap::from(wanted));
    }
}
