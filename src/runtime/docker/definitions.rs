//! How containers and volumes were made, to be kept with an archive.

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ListVolumesOptions;
use serde_json::{Value, json};

use super::connection::{ANSWER, Connection, limited};
use super::listing::inspect;
use crate::plan::Failure;
use crate::plan::docker::{Definitions, RootSource, Selection, VolumeDefinition};

/// The definitions of everything that is selected.
pub async fn of(connection: &Connection, selection: &Selection) -> Result<Definitions, Failure> {
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
        containers.push(definition(found, &digests));
    }
    Ok(Definitions { volumes, containers })
}

fn definition(found: ContainerInspectResponse, digests: &[String]) -> Value {
    let networks = found.network_settings.and_then(|settings| settings.networks);
    json!({
        "name": found.name.as_deref().unwrap_or_default().trim_start_matches('/'),
        "imageId": found.image,
        "imageDigests": digests,
        "config": found.config,
        "hostConfig": found.host_config,
        "networks": networks,
    })
}
