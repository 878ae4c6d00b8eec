//! How containers and volumes were made, to be kept with an archive.

use std::collections::BTreeSet;

use bollard::Docker;
use bollard::query_parameters::{InspectNetworkOptions, ListVolumesOptions};
use serde_json::{Value, json};

use super::connection::{ANSWER, Connection, failure, is_missing, limited};
use super::raw;
use crate::plan::Failure;
use crate::plan::docker::{Definitions, HostFacts, RunState, Selection, VolumeDefinition};

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
    let wanted = selection.volumes(facts);
    let mut volumes: Vec<VolumeDefinition> = listed
        .volumes
        .unwrap_or_default()
        .into_iter()
        .filter(|volume| wanted.contains(&volume.name))
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
        let Some(found) = raw::container(&docker, id).await? else { continue };
        let image = raw::image(&docker, found["Image"].as_str().unwrap_or_default()).await;
        let digests = image.ok().flatten().map(|image| image["RepoDigests"].clone());
        let state = facts.container(id).map(|container| container.state);
        let ran = match state {
            Some(state) => state != RunState::Stopped,
            None => ["Running", "Paused", "Restarting"].iter().any(|is| found["State"][is] == true),
        };
        let mut definition = definition(&found, &digests.unwrap_or_default(), ran);
        if state == Some(RunState::Paused) {
            definition["paused"] = json!(true);
        }
        containers.push(definition);
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

fn definition(found: &Value, digests: &Value, ran: bool) -> Value {
    json!({
        "id": found["Id"],
        "ran": ran,
        "name": found["Name"].as_str().unwrap_or_default().trim_start_matches('/'),
        "imageId": found["Image"],
        "imageDigests": digests.as_array().cloned().unwrap_or_default(),
        "config": found["Config"],
        "hostConfig": found["HostConfig"],
        "networks": found["NetworkSettings"]["Networks"],
    })
}
