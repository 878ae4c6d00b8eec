//! Containers that are gone, made again by a Restore from what the archive keeps of them.
//!
//! They are made after the data is in its place and carry the Restore's mark, so that a later turn
//! finds them, and the way back removes them.

use std::collections::{BTreeMap, HashSet};

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::ListNetworksOptions;

use super::DockerRuntime;
use super::connection::{ANSWER, limited};
use super::images::{image_id, pull, unavailable};
use super::listing::{host_facts, inspect};
use super::looking::{kept, read_manifest};
use super::making::{label, make, mark, stop_and_remove};
use crate::engine::Cancel;
use crate::plan::docker::{
    ContainerFacts, Definitions, HostFacts, Missing, StopEntry, Stopping, entries, making_order,
    missing, networks, revive, stranded,
};
use crate::plan::{Failure, RestoreJob};
use crate::spec::Reason;

/// Label on a container that a Restore has made: the Restore's mark.
const MADE_LABEL: &str = "eider.restore";

/// What a Restore would make again.
fn wanted(job: &RestoreJob, definitions: &Definitions, host: &HostFacts) -> Vec<Missing> {
    if !job.spec.recreate_containers {
        return Vec::new();
    }
    missing(definitions, host, (MADE_LABEL, &mark(&job.operation)))
}

/// What a plan says of the containers that a Restore would make again, and of those that it cannot.
pub fn foretold(job: &RestoreJob, host: &HostFacts) -> Result<Vec<String>, Failure> {
    if !job.spec.recreate_containers {
        return Ok(Vec::new());
    }
    let definitions = kept(&read_manifest(job)?);
    let found = wanted(job, &definitions, host);
    let made = found.iter().map(|one| format!("{} is made again", one.name));
    Ok(made.chain(stranded(&definitions, host)).collect())
}

/// What the host calls the image of a missing container, and its id: the very same one, by id or by
/// digest, or else what has its name.
async fn image_of(docker: &Docker, one: &Missing) -> Result<Option<(String, String)>, Failure> {
    let by_name = image_id(docker, &one.image).await?;
    if by_name.as_ref() == Some(&one.image_id) {
        return Ok(Some((one.image.clone(), one.image_id.clone())));
    }
    for reference in [&one.image_id].into_iter().chain(&one.image_digests) {
        if !reference.is_empty()
            && let Some(id) = image_id(docker, reference).await?
        {
            return Ok(Some((reference.clone(), id)));
        }
    }
    Ok(by_name.map(|id| (one.image.clone(), id)))
}

impl DockerRuntime {
    /// Has the images of missing containers on the host before anything changes. Returns what people
    /// have to know.
    ///
    /// # Errors
    /// [`Reason::InvalidSpec`] for a Restore into another project or other volumes, and
    /// [`Reason::ImageUnavailable`].
    pub(super) async fn prepare_revival(
        &self,
        job: &RestoreJob,
        host: &HostFacts,
        cancel: &Cancel,
    ) -> Result<Vec<String>, Failure> {
        let manifest = read_manifest(job)?;
        if !job.spec.recreate_containers {
            return Ok(Vec::new());
        }
        let definitions = kept(&manifest);
        let found = wanted(job, &definitions, host);
        let mut warnings = stranded(&definitions, host);
        if found.is_empty() {
            return Ok(warnings);
        }
        let target = job.target.docker.as_ref();
        let is_where_they_were = match &manifest.target.docker {
            Some(known) => Some(known) == target,
            // An archive without its manifest: the containers say it themselves.
            None => found.iter().all(|one| one.is_of(target)),
        };
        if !is_where_they_were {
            return Err(Failure::new(
                Reason::InvalidSpec,
                "containers can be made again only where they were, with their own volumes",
            )
            .hint("leave out `spec.target`, or `spec.recreateContainers`"));
        }
        let docker = self.connection.docker().await?;
        for one in &found {
            if image_of(&docker, one).await?.is_none() {
                // By digest first: a tag may be another image by now.
                let wanted = one.image_digests.first().unwrap_or(&one.image);
                if let Err(failure) = pull(&docker, wanted, cancel).await {
                    if wanted == &one.image || failure.reason == Reason::Cancelled {
                        return Err(failure);
                    }
                    pull(&docker, &one.image, cancel).await?;
                }
            }
            let id = image_of(&docker, one).await?.map(|(_, id)| id);
            if id.as_ref() != Some(&one.image_id) && one.image_digests.is_empty() {
                warnings.push(format!(
                    "{} is made again of {}, which is another image than it was",
                    one.name, one.image
                ));
            }
        }
        Ok(warnings)
    }

    /// Makes the containers that are missing, with their networks, and adds those that are to run to
    /// what is started.
    pub(super) async fn revive(
        &self,
        job: &RestoreJob,
        stopping: Stopping,
    ) -> Result<Stopping, Failure> {
        if !job.spec.recreate_containers {
            return Ok(stopping);
        }
        let docker = self.connection.docker().await?;
        let definitions = kept(&read_manifest(job)?);
        let host = host_facts(&self.connection).await?;
        let found = wanted(job, &definitions, &host);
        make_networks(&docker, &definitions, &found).await?;
        let mark = mark(&job.operation);
        let own = BTreeMap::from([(MADE_LABEL.to_owned(), mark.clone())]);
        for one in making_order(&found) {
            crate::failpoint::hit("docker.next-revived");
            if inspect(docker.clone(), one.name.clone()).await?.is_some() {
                continue;
            }
            let Some((image, id)) = image_of(&docker, one).await? else {
                return Err(unavailable(&one.image, "it is gone"));
            };
            make(&docker, &one.name, revive(one, &definitions, &image, &id, &own), None).await?;
        }
        let host = host_facts(&self.connection).await?;
        let ran = |container: &ContainerFacts| {
            found.iter().any(|one| one.name == container.name && one.ran)
        };
        let is_made = |container: &ContainerFacts| container.labels.get(MADE_LABEL) == Some(&mark);
        let is_held = |id: &str| stopping.order.iter().find(|entry| entry.id == id);
        let all: Vec<&ContainerFacts> = host
            .containers
            .iter()
            .filter(|one| is_held(&one.id).is_some() || (is_made(one) && ran(one)))
            .collect();
        let as_held = |entry: StopEntry| match is_held(&entry.id) {
            Some(earlier) => entry.as_before(earlier),
            // It was made a moment ago.
            None => {
                let was = found.iter().find(|one| one.name == entry.name);
                let paused = was.is_some_and(|one| one.paused);
                StopEntry { was_unproven: false, paused, ..entry }
            }
        };
        let order = entries(&all).into_iter().map(as_held).collect();
        Ok(Stopping { order, warnings: stopping.warnings })
    }

    /// Removes what a Restore has made, and takes it out of what is started.
    pub(super) async fn remove_revived(
        &self,
        job: &RestoreJob,
        mut stopping: Stopping,
    ) -> Result<Stopping, Failure> {
        if !job.spec.recreate_containers {
            return Ok(stopping);
        }
        let docker = self.connection.docker().await?;
        let definitions = kept(&read_manifest(job)?);
        let host = host_facts(&self.connection).await?;
        let mark = mark(&job.operation);
        let mut removed = HashSet::new();
        for one in making_order(&wanted(job, &definitions, &host)).into_iter().rev() {
            let Some(found) = inspect(docker.clone(), one.name.clone()).await? else { continue };
            if label(&found, MADE_LABEL).as_ref() == Some(&mark) {
                removed.extend(found.id.clone());
                stop_and_remove(&docker, &found, &one.name).await?;
            }
        }
        stopping.order.retain(|entry| !removed.contains(&entry.id));
        Ok(stopping)
    }
}

async fn make_networks(
    docker: &Docker,
    definitions: &Definitions,
    found: &[Missing],
) -> Result<(), Failure> {
    if found.is_empty() {
        return Ok(());
    }
    let listing = docker.list_networks(None::<ListNetworksOptions>);
    let listed = limited("list the networks", ANSWER, listing).await?;
    let there: Vec<String> = listed.into_iter().filter_map(|network| network.name).collect();
    for network in networks(definitions, found, &there) {
        let name = network["Name"].as_str().unwrap_or_default().to_owned();
        let request: NetworkCreateRequest = serde_json::from_value(network).map_err(|error| {
            Failure::new(Reason::InternalError, format!("the description of {name}: {error}"))
        })?;
        limited(&format!("make network {name}"), ANSWER, docker.create_network(request)).await?;
    }
    Ok(())
}
