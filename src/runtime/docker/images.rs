//! Images: whether they are here, and having them come.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::DockerRuntime;
use super::connection::{ANSWER, failure, is_missing, limited};
use super::credentials::{Lookup, look_up};
use crate::engine::Cancel;
use crate::plan::Failure;
use crate::plan::docker::ImageReference;
use crate::spec::Reason;

/// How long an image may take to come.
pub const COMING: Duration = Duration::from_hours(1);
/// How often somebody who wants no more is noticed.
pub const LOOK: Duration = Duration::from_secs(1);

/// The id of an image that is here.
pub async fn image_id(docker: &Docker, image: &str) -> Result<Option<String>, Failure> {
    let call = async {
        match docker.inspect_image(image).await {
            Ok(found) => Ok(found.id),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    limited(&format!("look at image {image}"), ANSWER, call).await
}

impl DockerRuntime {
    /// What to call the very image that had this name, id and digests once: by the name as long as that still
    /// means it, and otherwise by a digest or the id. One that is not here is called by a digest, by which it
    /// can be pulled.
    ///
    /// # Errors
    /// [`Reason::ImageUnavailable`] if it is not here and no registry was ever known to have it.
    pub async fn same_image(
        &self,
        name: &str,
        id: &str,
        digests: &[String],
    ) -> Result<String, Failure> {
        let docker = self.connection.docker().await?;
        let references = [name].into_iter().chain(digests.iter().map(String::as_str)).chain([id]);
        for reference in references.filter(|reference| !reference.is_empty()) {
            if image_id(&docker, reference).await?.as_deref() == Some(id) {
                return Ok(reference.to_owned());
            }
        }
        digests.first().cloned().ok_or_else(|| {
            unavailable(name, &format!("the one that ran then, {id}, is not there any more")).hint(
                "load it from a file again, or write an Upgrade with another image and `dataFrom`",
            )
        })
    }
}

/// Pulls an image, with the password that `docker login` has left for its registry. An error inside the
/// stream of a pull is a failure too.
///
/// # Errors
/// [`Reason::ImageUnavailable`] with what the engine or the registry said, [`Reason::Cancelled`].
pub async fn pull(docker: &Docker, image: &str, cancel: &Cancel) -> Result<(), Failure> {
    let mut lookup = look_up(image).await;
    let options = CreateImageOptionsBuilder::new().from_image(image).build();
    let mut pull = docker.create_image(Some(options), None, lookup.credentials.take());
    let limit = Instant::now() + COMING;
    let refused = |said: &str| not_pulled(image, said, &lookup);
    loop {
        match timeout_at((Instant::now() + LOOK).min(limit), pull.next()).await {
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(refused(&failure("pull it", &error).message)),
            Ok(Some(Ok(said))) => {
                if let Some(detail) = said.error_detail {
                    return Err(refused(&detail.message.unwrap_or_default()));
                }
            }
            Err(_) if Instant::now() >= limit => {
                return Err(unavailable(image, "the pull took longer than an hour"));
            }
            Err(_) => {}
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled while pulling images"));
        }
    }
    if image_id(docker, image).await?.is_none() {
        return Err(unavailable(image, "it is not there after the pull"));
    }
    Ok(())
}

/// That an image does not come, with what its registry has to do with it.
fn not_pulled(image: &str, said: &str, lookup: &Lookup) -> Failure {
    let lower = said.to_lowercase();
    let closed = ["no basic auth", "unauthorized", "denied", "authentication required"];
    if !closed.iter().any(|word| lower.contains(word)) {
        return unavailable(image, said);
    }
    let registry = ImageReference::parse(image).map(|reference| reference.registry);
    let registry = registry.unwrap_or_default();
    let place = &lookup.place;
    let why = match (&lookup.trouble, lookup.found) {
        (Some(trouble), _) => format!("its password was looked for in {place}, but {trouble}"),
        (None, true) => format!("the password from {place} is not accepted, or not for this image"),
        (None, false) => format!("there is no password for it in {place}"),
    };
    let message =
        format!("image {image}: {registry} does not give it to everybody, and {why} ({said})");
    Failure::new(Reason::ImageUnavailable, message).hint(format!(
        "is the name right? `docker login {registry}` as the user that Eider runs as, or set DOCKER_CONFIG \
         to the directory of a config.json"
    ))
}

/// That an image is not here and does not come.
pub fn unavailable(image: &str, why: &str) -> Failure {
    Failure::new(Reason::ImageUnavailable, format!("image {image}: {why}"))
        .hint("pull it, or `docker load` it, and start the operation again; an Upgrade may name its file in `spec.imageArchives`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_registry_is_told_from_a_missing_image() {
        let lookup = |found, trouble: Option<&str>| Lookup {
            found,
            place: "/x/config.json".to_owned(),
            trouble: trouble.map(str::to_owned),
            ..Lookup::default()
        };
        let said =
            "cannot pull it: the engine says: Head \"http://r:1/v2/\": no basic auth credentials";
        for (lookup, part) in [
            (lookup(false, None), "no password"),
            (lookup(true, None), "not accepted"),
            (lookup(false, Some("it is not in PATH")), "not in PATH"),
        ] {
            let failure = not_pulled("r:1/a:2", said, &lookup);
            assert!(failure.message.contains(part), "{}", failure.message);
            assert!(failure.message.contains("/x/config.json"), "{}", failure.message);
            assert!(failure.hint.unwrap().contains("docker login r:1"));
        }
        let failure = not_pulled("r:1/a:2", "manifest unknown", &lookup(true, None));
        assert_eq!(failure.message, "image r:1/a:2: manifest unknown");
    }
}
