//! Hooks in a cluster: commands in the workload's pods, requests from the operator.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::cluster::{Cluster, failure};
use super::workload::Workload;
use crate::engine::Cancel;
use crate::plan::{Failure, HookFacts, HookPhase};
use crate::runtime::host::hooks::send_request;
use crate::spec::hooks::{ExecHook, Hook};
use crate::spec::target::WorkloadTarget;
use crate::spec::{OnError, Reason};

/// How much of the end of a command's output is kept, in bytes.
const KEPT_OUTPUT: usize = 4096;

/// Runs the hooks of a phase in order. Before: the first failure ends it. After: all of them run.
pub async fn run(
    cluster: &Cluster,
    namespace: &str,
    target: Option<&WorkloadTarget>,
    hooks: &[Hook],
    phase: HookPhase,
    cancel: &Cancel,
) -> Result<Value, Failure> {
    let word = if phase == HookPhase::Before { "before" } else { "after" };
    let mut facts = HookFacts::default();
    let mut first_failure = None;
    for (index, hook) in hooks.iter().enumerate() {
        if phase == HookPhase::Before && cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled before a hook"));
        }
        let result = match (&hook.exec, &hook.http) {
            (Some(command), None) => {
                in_pods(cluster, namespace, target, command, hook.timeout.to_duration()).await
            }
            (None, Some(_)) => request(hook).await,
            _ => Err("the hook needs exactly one of exec and http".to_owned()),
        };
        let Err(why) = result else { continue };
        let message = format!("hook {word} {}: {why}", index + 1);
        if hook.on_error == OnError::Continue {
            facts.warnings.push(message);
            continue;
        }
        let failure = Failure::new(Reason::HookFailed, message);
        if phase == HookPhase::Before {
            return Err(failure);
        }
        first_failure.get_or_insert(failure);
    }
    first_failure.map_or_else(|| Ok(json!(facts)), Err)
}

async fn request(hook: &Hook) -> Result<(), String> {
    let hook = hook.clone();
    let sent = tokio::task::spawn_blocking(move || send_request(&hook).map_err(|e| e.to_string()));
    sent.await.map_err(|error| error.to_string())?.map(|_| ())
}

/// Runs a command in every ready pod of the workload, one after the other. Pods that have only just
/// been let go are waited for, as long as the hook may take.
async fn in_pods(
    cluster: &Cluster,
    namespace: &str,
    target: Option<&WorkloadTarget>,
    command: &ExecHook,
    timeout: Duration,
) -> Result<(), String> {
    let Some(target) = target else {
        return Err("a command needs pods to run in, and the target names no workload".to_owned());
    };
    let begun = Instant::now();
    let pods = loop {
        let workload = Workload::get(cluster, namespace, target).await.map_err(|f| f.message)?;
        let mut pods = workload.pods(cluster).await.map_err(|f| f.message)?;
        pods.retain(is_ready);
        let wanted = usize::try_from(workload.replicas).unwrap_or(0);
        if wanted > 0 && pods.len() >= wanted {
            break pods;
        }
        if begun.elapsed() > timeout {
            return Err(format!(
                "{} of {wanted} pods of {} were ready within {} s",
                pods.len(),
                workload.title(),
                timeout.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let mut names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    names.sort();
    for name in names {
        let left = timeout.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, in_pod(cluster, namespace, &name, command)).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(format!(
                    "the command in pod {name} took longer than {} s",
                    timeout.as_secs()
                ));
            }
        }
    }
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

async fn in_pod(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    command: &ExecHook,
) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let parameters = AttachParams {
        container: command.container.clone(),
        stdin: false,
        stdout: true,
        stderr: true,
        tty: false,
        ..AttachParams::default()
    };
    let mut process = pods
        .exec(pod, command.command.iter(), &parameters)
        .await
        .map_err(|error| failure(&format!("run a command in pod {pod}"), &error).message)?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let (output, errors) = tokio::join!(tail(stdout), tail(stderr));
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let Some(status) = status else {
        return Err(format!("the command in pod {pod} ended without a status"));
    };
    if matches!(status.status.as_deref(), Some("Success")) {
        return Ok(());
    }
    let written = if errors.trim().is_empty() { output } else { errors };
    let why = status.message.unwrap_or_default();
    Err(format!("the command in pod {pod} failed: {why}; it wrote: {}", written.trim()))
}

/// The last of what a stream says; all of it is read, so that the command is not held up.
async fn tail(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = vec![0_u8; 8192];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 4 * KEPT_OUTPUT {
            kept.drain(..kept.len() - KEPT_OUTPUT);
        }
    }
    let start = kept.len().saturating_sub(KEPT_OUTPUT);
    String::from_utf8_lossy(&kept[start..]).into_owned()
}
