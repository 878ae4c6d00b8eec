//! Having the new images on the host: they are there, a file holds them, or a registry has them. All of it
//! happens before anybody stops.

use bollard::Docker;
use serde_json::{Value, json};

use super::{chosen, images};
use crate::engine::Cancel;
use crate::plan::{Failure, Job, UpgradeJob};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::docker::archives::{ImageArchive, archives, is_loaded, load};
use crate::runtime::docker::images::{image_id, pull, unavailable};
use crate::spec::Reason;

impl DockerRuntime {
    /// Where each image comes from, in one line each. Files are looked into; registries are not asked.
    ///
    /// # Errors
    /// See [`archives`].
    pub(in crate::runtime::docker) async fn sources(
        &self,
        job: &UpgradeJob,
    ) -> Result<Vec<String>, Failure> {
        let docker = self.connection.docker().await?;
        let files = archives(job).await?;
        let mut lines = Vec::new();
        for image in distinct(job) {
            let file = files.iter().find_map(|file| Some((file, file.find(&image)?)));
            lines.push(match file {
                Some((_, saved)) if is_loaded(&docker, saved, &image).await? => {
                    format!("image {image} is there")
                }
                Some((file, _)) => format!("image {image} is loaded from {}", file.path()),
                None if image_id(&docker, &image).await?.is_some() => {
                    format!("image {image} is there")
                }
                None => format!("image {image} is pulled"),
            });
        }
        Ok(lines)
    }

    /// Has the new images on the host.
    ///
    /// # Errors
    /// [`Reason::ImageUnavailable`], [`Reason::Cancelled`].
    pub(super) async fn fetch(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        cancel: &Cancel,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let files = archives(job).await?;
        let loaded = load_needed(&docker, &files, job, cancel).await?;
        let mut fetched = Vec::new();
        for image in distinct(job) {
            if image_id(&docker, &image).await?.is_some() {
                continue;
            }
            if files.iter().any(|file| file.find(&image).is_some()) {
                return Err(unavailable(&image, "it is not there although its file was loaded"));
            }
            pull(&docker, &image, cancel).await.map_err(|failure| {
                if files.is_empty() || failure.reason != Reason::ImageUnavailable {
                    return failure;
                }
                let message = format!("{}; no file of imageArchives holds it", failure.message);
                Failure { message, ..failure }
            })?;
            fetched.push(image);
        }
        // What preflight could not know of images that were not here.
        let mut warnings = Vec::new();
        if !fetched.is_empty() || !loaded.is_empty() {
            warnings = self.inherited(&chosen(job, &self.look(whole).await?)?).await?;
        }
        Ok(json!({ "fetched": fetched, "loaded": loaded, "warnings": warnings }))
    }
}

/// Loads the files of which the host has something in another state or not at all.
async fn load_needed(
    docker: &Docker,
    files: &[ImageArchive],
    job: &UpgradeJob,
    cancel: &Cancel,
) -> Result<Vec<String>, Failure> {
    let mut loaded = Vec::new();
    for file in files {
        let mut is_needed = false;
        for image in distinct(job) {
            if let Some(saved) = file.find(&image) {
                is_needed |= !is_loaded(docker, saved, &image).await?;
            }
        }
        if is_needed {
            load(docker, file, cancel).await?;
            loaded.push(file.path());
        }
    }
    Ok(loaded)
}

/// The images of an upgrade, each once.
fn distinct(job: &UpgradeJob) -> Vec<String> {
    let mut all: Vec<String> = images(job).into_values().collect();
    all.sort();
    all.dedup();
    all
}
