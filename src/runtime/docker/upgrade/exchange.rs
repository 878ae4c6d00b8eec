//! The new containers in the place of the old ones, and the way back.

use std::collections::BTreeMap;

use bollard::Docker;
use bollard::models::{ContainerUpdateBody, RestartPolicy};
use bollard::query_parameters::RenameContainerOptionsBuilder;
use serde_json::{Value, json};

use super::{KeptContainer, MADE_LABEL, kept};
use crate::plan::docker::{Replaced, recreate};
use crate::plan::{Failure, Log, UpgradeJob};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::docker::connection::{ANSWER, limited};
use crate::runtime::docker::images::{image_id, unavailable};
use crate::runtime::docker::listing::inspect;
use crate::runtime::docker::making::{is_gone, label, make, mark, stop_and_remove, there};
use crate::runtime::docker::raw;
use crate::spec::Reason;

impl DockerRuntime {
    /// Makes the new containers, in the order in which they need each other.
    pub(super) async fn apply(&self, job: &UpgradeJob, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let all = kept(log);
        let names: BTreeMap<String, String> =
            all.iter().map(|one| (one.replaced.id.clone(), one.replaced.name.clone())).collect();
        let own = BTreeMap::from([(MADE_LABEL.to_owned(), mark(&job.operation))]);
        let mut made = BTreeMap::new();
        for KeptContainer { replaced, restart_policy } in &all {
            crate::failpoint::hit("docker.next-new");
            remove_made(&docker, replaced, job).await?;
            let old = raw::container(&docker, &replaced.id).await?;
            let old = old.ok_or_else(|| is_gone(&replaced.aside))?;
            // An image that has been removed meanwhile told the container nothing that is known now.
            let old_image = raw::image(&docker, old["Image"].as_str().unwrap_or_default()).await?;
            let old_image = old_image.map(|image| image["Config"].clone()).unwrap_or_default();
            let image = if replaced.keeps_image {
                let id = old["Image"].as_str().unwrap_or_default();
                self.same_image(&replaced.image, id, &[]).await?
            } else {
                replaced.image.clone()
            };
            let id = image_id(&docker, &image).await?;
            let id = id.ok_or_else(|| unavailable(&image, "it is gone"))?;
            let recreation = recreate(&old, &old_image, &image, &id, &own, &names);
            // The one that is kept must not start by itself; its successor is to.
            let policy = restart_policy.clone();
            let created = make(&docker, &replaced.name, recreation, policy).await?;
            made.insert(replaced.name.clone(), created);
        }
        Ok(json!({ "made": made }))
    }
}

pub(super) async fn set_restart_policy(
    docker: &Docker,
    replaced: &Replaced,
    policy: Option<RestartPolicy>,
) -> Result<(), Failure> {
    let what = format!("set the restart policy of {}", replaced.name);
    let body = ContainerUpdateBody { restart_policy: policy, ..ContainerUpdateBody::default() };
    limited(&what, ANSWER, docker.update_container(&replaced.id, body)).await
}

pub(super) async fn rename(docker: &Docker, id: &str, from: &str, to: &str) -> Result<(), Failure> {
    let found = there(docker, id, from).await?;
    if found.name.as_deref().map(|name| name.trim_start_matches('/')) == Some(to) {
        return Ok(());
    }
    let options = RenameContainerOptionsBuilder::new().name(to).build();
    limited(&format!("rename {from} to {to}"), ANSWER, docker.rename_container(id, options)).await
}

/// Stops and removes the container that this upgrade has made in the place of another.
///
/// # Errors
/// [`Reason::TargetBusy`] if somebody else has made one of that name.
pub(super) async fn remove_made(
    docker: &Docker,
    replaced: &Replaced,
    job: &UpgradeJob,
) -> Result<(), Failure> {
    let Some(found) = inspect(docker.clone(), replaced.name.clone()).await? else { return Ok(()) };
    if found.id.as_ref() == Some(&replaced.id) {
        return Ok(());
    }
    if label(&found, MADE_LABEL).as_ref() != Some(&mark(&job.operation)) {
        let message = format!("somebody else has made a container {} meanwhile", replaced.name);
        return Err(Failure::new(Reason::TargetBusy, message)
            .hint(format!("remove or rename it; the old one is kept as {}", replaced.aside)));
    }
    stop_and_remove(docker, &found, &replaced.name).await
}
