//! What the cluster itself says about an object that does not get on: its events.

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;

use super::cluster::{Cluster, failure};
use crate::plan::Failure;
use crate::spec::Reason;

/// The last warning about an object, as a reason that a mover does not start; none if nobody has warned.
pub async fn latest(
    cluster: &Cluster,
    namespace: &str,
    uid: &str,
) -> Result<Option<Failure>, Failure> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    let selector =
        ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(50);
    let what = format!("list the events in {namespace}");
    let list = cluster
        .patiently(&what, None, || events.list(&selector))
        .await
        .map_err(|error| failure(&what, &error))?;
    let newest = list.items.into_iter().max_by_key(|event| {
        let seen = event.last_timestamp.as_ref().map(|time| time.0);
        seen.or(event.event_time.as_ref().map(|time| time.0)).or(event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0))
    });
    Ok(newest.and_then(|event| judge(&event)))
}

/// An event as what keeps a mover from running; none for warnings about anything else.
fn judge(event: &Event) -> Option<Failure> {
    let message = event.message.clone().unwrap_or_default();
    let (reason, hint) = match event.reason.as_deref()? {
        "FailedCreate"
            if message.contains("exceeded quota") || message.contains("failed quota") =>
        {
            (
                Reason::QuotaExceeded,
                "raise the ResourceQuota of the namespace, or say what movers ask for by --mover-memory, --mover-cpu and --mover-cpu-limit",
            )
        }
        "FailedCreate" => (
            Reason::Forbidden,
            "the namespace's admission refuses the mover's pod: compare its policy with the guide",
        ),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => (
            Reason::VolumeUnavailable,
            "`kubectl describe pod` of the mover says more; a ReadWriteOnce volume can be on one node only",
        ),
        "FailedCreatePodSandBox" | "FailedCreatePodContainer" => {
            (Reason::MoverLost, "the node cannot start pods: look at its kubelet")
        }
        _ => return None,
    };
    let message = message.trim();
    Some(Failure::new(reason, format!("the mover cannot start: {message}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reason(reason: &str, message: &str) -> Option<Reason> {
        let event = json!({
            "metadata": {}, "involvedObject": {}, "reason": reason, "message": message,
        });
        judge(&serde_json::from_value(event).unwrap()).map(|failure| failure.reason)
    }

    #[test]
    fn warnings_are_told_apart() {
        let quota =
            "Error creating: pods \"m\" is forbidden: exceeded quota: small, requested: pods=1";
        assert_eq!(reason("FailedCreate", quota), Some(Reason::QuotaExceeded));
        // A quota on memory wants every pod to name its limit.
        let quota = "Error creating: pods \"m\" is forbidden: failed quota: mem: must specify limits.memory";
        assert_eq!(reason("FailedCreate", quota), Some(Reason::QuotaExceeded));
        let policy = "Error creating: pods \"m\" is forbidden: violates PodSecurity \"restricted\"";
        assert_eq!(reason("FailedCreate", policy), Some(Reason::Forbidden));
        let attached = "Multi-Attach error for volume \"pvc-1\"";
        assert_eq!(reason("FailedAttachVolume", attached), Some(Reason::VolumeUnavailable));
        assert_eq!(reason("BackOff", "Back-off pulling image"), None);
    }
}
