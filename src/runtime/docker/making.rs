//! Making and removing containers, and finding those that an operation has made: by a label.

use std::time::Duration;

use bollard::Docker;
use bollard::models::{
    ContainerInspectResponse, EndpointSettings, NetworkConnectRequest, RestartPolicy,
};
use bollard::query_parameters::{RemoveContainerOptionsBuilder, StopContainerOptions};
use serde_json::{Value, json};

use super::connection::{ANSWER, is_already, is_missing, limited};
use super::listing::{inspect, run_state};
use super::raw;
use crate::plan::docker::{Recreation, RunState};
use crate::plan::{Failure, OperationId};
use crate::spec::Reason;

/// How long a failed container may take to stop before it is removed.
const END: Duration = Duration::from_mins(2);

/// Tells an operation from others, on labels and in names: the same whenever it is asked.
pub fn mark(operation: &OperationId) -> String {
    blake3::hash(operation.to_string().as_bytes()).to_hex()[..8].to_owned()
}

/// Makes a container and connects it to its networks; it is not started.
pub async fn make(
    docker: &Docker,
    name: &str,
    recreation: Recreation,
    restart_policy: Option<RestartPolicy>,
) -> Result<String, Failure> {
    let mut body = recreation.body;
    if let Some(policy) = restart_policy {
        body["HostConfig"]["RestartPolicy"] = json!(policy);
    }
    let id = raw::create(docker, name, body).await?;
    for (network, settings) in recreation.networks {
        let settings: EndpointSettings = decode(&settings)?;
        let request =
            NetworkConnectRequest { container: id.clone(), endpoint_config: Some(settings) };
        let what = format!("connect {name} to {network}");
        limited(&what, ANSWER, docker.connect_network(&network, request)).await?;
    }
    Ok(id)
}

fn decode<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    serde_json::from_value(value.clone()).map_err(|error| {
        Failure::new(Reason::InternalError, format!("the new container's description: {error}"))
    })
}

/// Removes a container, without the data of anonymous volumes: its successor mounts them.
pub async fn remove(docker: &Docker, id: &str, name: &str) -> Result<(), Failure> {
    remove_with(docker, id, name, false).await
}

/// `fresh_volumes` removes the anonymous volumes, too, that were made with it; those that it was given by name
/// stay, whoever made them.
async fn remove_with(
    docker: &Docker,
    id: &str,
    name: &str,
    fresh_volumes: bool,
) -> Result<(), Failure> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(fresh_volumes).build();
    let call = async {
        match docker.remove_container(id, Some(options)).await {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    };
    limited(&format!("remove container {name}"), END, call).await
}

/// Stops a container that an operation has made in its own time, and removes it with what was made for it.
pub async fn stop_and_remove(
    docker: &Docker,
    found: &ContainerInspectResponse,
    name: &str,
) -> Result<(), Failure> {
    let id = found.id.clone().unwrap_or_default();
    if run_state(found.state.as_ref()) != RunState::Stopped {
        let call = async {
            match docker.stop_container(&id, None::<StopContainerOptions>).await {
                Err(error) if is_already(&error) || is_missing(&error) => Ok(()),
                other => other,
            }
        };
        limited(&format!("stop {name}"), END, call).await?;
    }
    remove_with(docker, &id, name, true).await
}

/// The label of this name on a container.
pub fn label(found: &ContainerInspectResponse, name: &str) -> Option<String> {
    found.config.as_ref()?.labels.as_ref()?.get(name).cloned()
}

/// A container that has to be there.
pub async fn there(
    docker: &Docker,
    id: &str,
    name: &str,
) -> Result<ContainerInspectResponse, Failure> {
    inspect(docker.clone(), id.to_owned()).await?.ok_or_else(|| is_gone(name))
}

/// What helps where somebody has removed a container that stood still on behalf of an operation.
pub const MADE_AGAIN: &str = "`docker container prune` removes what is stopped, an operation's containers too; \
     `eider restore create BACKUP --recreate-containers` makes them again, with their data";

/// That a container is not there that has to be.
pub fn is_gone(name: &str) -> Failure {
    Failure::new(Reason::TargetNotFound, format!("container {name} is not there any more"))
        .hint(MADE_AGAIN)
}
