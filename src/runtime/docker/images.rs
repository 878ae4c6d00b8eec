//! Images: whether they are here, and having them come.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::connection::{ANSWER, failure, is_missing, limited};
use crate::engine::Cancel;
use crate::plan::Failure;
use crate::spec::Reason;

/// How long an image may take to come.
const PULL: Duration = Duration::from_hours(1);

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

/// Pulls an image. An error inside the stream of a pull is a failure too.
///
/// # Errors
/// [`Reason::ImageUnavailable`] with what the engine or the registry said, [`Reason::Cancelled`].
pub async fn pull(docker: &Docker, image: &str, cancel: &Cancel) -> Result<(), Failure> {
    let options = CreateImageOptionsBuilder::new().from_image(image).build();
    let mut pull = docker.create_image(Some(options), None, None);
    let begun = Instant::now();
    while let Some(said) = pull.next().await {
        let said = said.map_err(|error| unavailable(image, &failure("pull it", &error).message))?;
        if let Some(detail) = said.error_detail {
            return Err(unavailable(image, &detail.message.unwrap_or_default()));
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled while pulling images"));
        }
        if begun.elapsed() > PULL {
            return Err(unavailable(image, "the pull took longer than an hour"));
        }
    }
    if image_id(docker, image).await?.is_none() {
        return Err(unavailable(image, "it is not there after the pull"));
    }
    Ok(())
}

/// That an image is not here and does not come.
pub fn unavailable(image: &str, why: &str) -> Failure {
    Failure::new(Reason::ImageUnavailable, format!("image {image}: {why}"))
        .hint("pull it, or `docker load` it, and start the operation again")
}
