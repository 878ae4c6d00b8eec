//! How a mover's pod is doing, told from its status alone.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use super::names::MOVER_CONTAINER;
use crate::plan::Failure;
use crate::spec::Reason;

/// How a mover's pod is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum PodState {
    /// It does not run yet; with what keeps it from running, if something does.
    Starting(Option<Failure>),
    /// Its container runs.
    Running,
    /// It has ended by itself; the termination message.
    Ended(String),
    /// It was ended: evicted, out of memory, deleted, its node lost. Its last words, if any.
    Lost(Failure, String),
}

/// Judges a pod.
pub fn judge(pod: &Pod) -> PodState {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let state = status
        .container_statuses
        .unwrap_or_default()
        .into_iter()
        // Others may have been put beside it by an admission hook.
        .find(|container| container.name == MOVER_CONTAINER)
        .and_then(|container| container.state)
        .unwrap_or_default();
    let terminated = state.terminated.clone();
    let words = terminated.as_ref().and_then(|end| end.message.clone()).unwrap_or_default();
    let lost = |reason, why: &str| {
        PodState::Lost(Failure::new(reason, format!("mover {name} {why}")), words.clone())
    };
    let killed_for_memory =
        terminated.as_ref().and_then(|end| end.reason.as_deref()) == Some("OOMKilled");
    if killed_for_memory {
        let mut state = lost(Reason::OutOfMemory, "was ended because it used too much memory");
        if let PodState::Lost(failure, _) = &mut state {
            failure.hint = Some("raise the operator's --mover-memory".to_owned());
        }
        return state;
    }
    match (status.reason.as_deref(), status.phase.as_deref()) {
        (Some("Evicted"), _) => {
            let why = status.message.unwrap_or_default();
            return lost(
                Reason::Evicted,
                format!("was evicted: {why}").trim_end_matches([':', ' ']),
            );
        }
        (Some(reason @ ("NodeLost" | "Shutdown" | "Terminated" | "Preempting")), _) => {
            return lost(Reason::MoverLost, &format!("was lost: {reason}"));
        }
        (_, Some("Unknown")) => {
            return lost(Reason::MoverLost, "is on a node that does not answer");
        }
        _ => {}
    }
    if let Some(end) = &terminated {
        // 137 and 143 are the signals of whoever ends pods; the mover itself ends with 0 or 1.
        return if end.exit_code == 0 || (end.exit_code == 1 && !words.is_empty()) {
            PodState::Ended(words)
        } else {
            lost(Reason::MoverLost, &format!("ended with exit code {}", end.exit_code))
        };
    }
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return lost(Reason::MoverLost, "is gone from its node");
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return lost(Reason::MoverLost, "is being deleted");
    }
    if state.running.is_some() {
        return PodState::Running;
    }
    PodState::Starting(obstacle(&name, pod, &state))
}

/// Whether no process of a pod is left: it has ended, or it is being deleted and every container has
/// been ended. The object itself may stay for a while longer.
pub fn has_ended(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    // Sidecars among those that run first end last (Kubernetes 1.29).
    let mut first = status.init_container_statuses.iter().flatten();
    if first.any(|one| one.state.as_ref().is_some_and(|state| state.running.is_some())) {
        return false;
    }
    // A pod that has run and is being deleted is never started again. Its containers are `terminated`
    // and, on older kubelets, `waiting` as soon as they have been removed.
    let ran = status.phase.as_deref() == Some("Running");
    let over = |container: &ContainerStatus| {
        container.state.as_ref().is_some_and(|state| {
            state.terminated.is_some()
                || (ran && state.running.is_none() && state.waiting.is_some())
        })
    };
    pod.metadata.deletion_timestamp.is_some()
        && !containers.is_empty()
        && containers.iter().all(over)
}

/// What keeps a pod from running.
fn obstacle(name: &str, pod: &Pod, state: &ContainerState) -> Option<Failure> {
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or_default();
        let failure = |kind| Failure::new(kind, format!("mover {name}: {reason}: {message}"));
        match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
                return Some(
                    failure(Reason::ImageUnavailable)
                        .hint("check the operator's --mover-image and that the nodes can pull it"),
                );
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return Some(failure(Reason::MoverLost));
            }
            _ => {}
        }
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let unscheduled = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = unscheduled.message.clone().unwrap_or_default();
    let unbound = [
        "unbound immediate PersistentVolumeClaims",
        "persistentvolumeclaim",
        "persistent volumes to bind",
    ];
    let reason = if unbound.iter().any(|text| message.contains(text)) {
        Reason::ClaimPending
    } else {
        Reason::Unschedulable
    };
    Some(Failure::new(reason, format!("mover {name} waits for a node: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "m"}, "status": status})).unwrap()
    }

    fn container(state: &Value) -> Value {
        json!([{"name": "mover", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    fn reason(state: &PodState) -> Option<Reason> {
        match state {
            PodState::Starting(failure) => failure.as_ref().map(|failure| failure.reason),
            PodState::Lost(failure, _) => Some(failure.reason),
            _ => None,
        }
    }

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            (json!({"phase": "Pending"}), None),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: insufficient cpu"}]}),
                Some(Reason::Unschedulable),
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "pod has unbound immediate PersistentVolumeClaims"}]}),
                Some(Reason::ClaimPending),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": container(&json!({"waiting": {"reason": "ImagePullBackOff", "message": "no"}}))}),
                Some(Reason::ImageUnavailable),
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}),
                Some(Reason::Evicted),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": container(&json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))}),
                Some(Reason::OutOfMemory),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": container(&json!({"terminated": {"exitCode": 137, "reason": "Error"}}))}),
                Some(Reason::MoverLost),
            ),
            (json!({"phase": "Failed"}), Some(Reason::MoverLost)),
        ];
        for (status, wanted) in cases {
            let state = judge(&pod(&status));
            assert_eq!(reason(&state), wanted, "{status}: {state:?}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_has_ended_when_its_containers_have() {
        let with = |deleted: bool, state: &Value| -> Pod {
            let mut pod = pod(&json!({"phase": "Running", "containerStatuses": container(state)}));
            pod.metadata.deletion_timestamp =
                deleted.then(|| serde_json::from_value(json!("2026-11-21T00:00:00Z")).unwrap());
            pod
        };
        let ended = json!({"terminated": {"exitCode": 0}});
        assert!(has_ended(&with(true, &ended)));
        assert!(!has_ended(&with(false, &ended)), "it may be started again");
        assert!(!has_ended(&with(true, &json!({"running": {}}))));
        let removed = json!({"waiting": {"reason": "ContainerCreating"}});
        assert!(has_ended(&with(true, &removed)));
        assert!(!has_ended(&with(false, &removed)), "it is about to start");
    }

    #[test]
    fn a_container_that_somebody_put_beside_the_mover_says_nothing_about_it() {
        let beside = json!({"name": "istio-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let mover =
            container(&json!({"terminated": {"exitCode": 0, "message": "done"}}))[0].clone();
        let status = json!({"phase": "Running", "containerStatuses": [beside, mover]});
        assert_eq!(judge(&pod(&status)), PodState::Ended("done".to_owned()));
    }

    #[test]
    fn last_words_are_kept() {
        let status = json!({"phase": "Succeeded", "containerStatuses": container(&json!({"terminated": {"exitCode": 0, "message": "eider-mover {}"}}))});
        assert_eq!(judge(&pod(&status)), PodState::Ended("eider-mover {}".to_owned()));
        let running =
            json!({"phase": "Running", "containerStatuses": container(&json!({"running": {}}))});
        assert_eq!(judge(&pod(&running)), PodState::Running);
    }
}
