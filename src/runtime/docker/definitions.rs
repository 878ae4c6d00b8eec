//! How containers and volumes were made, to be kept with an archive.

use std::collections::BTreeSet;

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectNetworkOptions, ListVolumesOptions};
use serde_json::{Value, json};

use super::connection::{ANSWER, Connection, failure, is_missing, limited};
use super::listing::{inspect, run_state};
use crate::plan::Failure;
use crate::plan::docker::{
    Definitions, HostFacts, RootSource, RunState, Selection, VolumeDefinition,
};

/// The definitions of everything that is selected. Who stands still for another operation counts as
/// running, as in `facts`: a backup before an upgrade is taken of services that are to run.
pub async fn of(
    connection: &Connection,
    selection: &Selection,
    facts: &HostFacts,
) -> Result<Definitions, Failure> {
    let docker = connection.docker().await?;
    let listed =
        limited("list the volumes", ANSWER, docker.list_volumes(None::<ListVolumesOptions>))
            .await?;
    let is_root = |name: &str| {
        let is = |source: &RootSource| matches!(source, RootSource::Volume(found) if found == name);
        selection.roots.iter().any(|root| is(&root.source))
    };
    let mut volumes: Vec<VolumeDefinition> = listed
        .volumes
        .unwrap_or_default()
        .into_iter()
        .filter(|volume| is_root(&volume.name))
        .map(|volume| VolumeDefinition {
            name: volume.name,
            driver: volume.driver,
            options: volume.options.into_iter().collect(),
            labels: volume.labels.into_iter().collect(),
        })
        .collect();
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    let mut containers = Vec::new();
    for id in &selection.containers {
        let Some(found) = inspect(docker.clone(), id.clone()).await? else { continue };
        let image = found.image.clone().unwrap_or_default();
        let image = limited("look at an image", ANSWER, docker.inspect_image(&image)).await.ok();
        let digests = image.and_then(|image| image.repo_digests).unwrap_or_default();
        let state = facts.container(id).map(|container| container.state);
        let ran = state.unwrap_or_else(|| run_state(found.state.as_ref())) != RunState::Stopped;
        containers.push(definition(found, &digests, ran));
    }
    let networks = networks(&docker, &containers).await?;
    Ok(Definitions { volumes, containers, networks })
}

/// The networks of these containers that somebody made, as they would be made again.
async fn networks(docker: &Docker, containers: &[Value]) -> Result<Vec<Value>, Failure> {
    let names: BTreeSet<&String> = containers
        .iter()
        .filter_map(|container| container["networks"].as_object())
        .flat_map(|networks| networks.keys())
        .filter(|name| !matches!(name.as_str(), "bridge" | "host" | "none"))
        .collect();
    let mut networks = Vec::new();
    for name in names {
        let call = docker.inspect_network(name, None::<InspectNetworkOptions>);
        match call.await {
            Ok(found) => {
                let found = json!(found);
                let fields = [
                    "Name",
                    "Driver",
                    "Options",
                    "Labels",
                    "Internal",
                    "Attachable",
                    "EnableIPv6",
                    "IPAM",
                ];
                let kept = fields.iter().filter(|field| !found[**field].is_null());
                let kept = kept.map(|field| ((*field).to_owned(), found[*field].clone()));
                networks.push(Value::Object(kept.collect()));
            }
            // It goes while we look: whoever is connected to it goes too.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failure(&format!("look at network {name}"), &error)),
        }
    }
    Ok(networks)
}

fn definition(found: ContainerInspectResponse, digests: &[String], ran: bool) -> Value {
    let networks = found.network_settings.and_then(|settings| settings.networks);
    json!({
        "id": found.id,
        "ran": ran,
        "name": found.name.as_deref().unwrap_or_default().trim_start_matches('/'),
        "imageId": found.image,
        "imageDigests": digests,
        "config": found.config,
        "hostConfig": found.host_config,
        "networks": networks,
    })
}
