//! Hooks in a cluster: commands in the workload's pods.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, ResourceExt};
use tokio::io::AsyncReadExt;

use super::cluster::{Cluster, failure};
use super::workload::Workload;
use crate::runtime::hook_phase::Tail;
use crate::spec::hooks::ExecHook;
use crate::spec::target::WorkloadTarget;

/// Runs a command in every ready pod of the workload, one after the other. Pods that have only just
/// been let go are waited for, as long as the hook may take.
pub async fn in_pods(
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
        if begun.elapsed() > timeout && wanted == 0 {
            let title = workload.title();
            return Err(format!("{title} is scaled to zero: a command has no pod to run in"));
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

/// The last of what a stream says.
async fn tail(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut tail = Tail::default();
    let mut buffer = vec![0_u8; 8192];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        tail.push(&buffer[..count]);
    }
    tail.text()
}
