//! What the engine says of a container or an image, and what it is told of a new one, whole: the client
//! library's types leave out what they do not know, such as the hardware address in a configuration.
//!
//! The library sends and receives; only the path of a question and the body of a request are ours.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use bollard::{BollardRequest, Docker, body_full};
use futures_util::TryStreamExt;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Bytes;
use serde_json::Value;

use super::connection::{ANSWER, is_missing, limited};
use crate::plan::Failure;
use crate::spec::Reason;

/// Since this version a hardware address is one of an endpoint, and in a configuration is out of date.
const ADDRESS_OF_ENDPOINTS: (usize, usize) = (1, 44);
/// The path of a question whose answer the library hands over as it is.
const ASKED: &str = "/containers/any/export";

/// The description of a container; nothing if it is gone.
pub async fn container(docker: &Docker, id: &str) -> Result<Option<Value>, Failure> {
    ask(docker, &format!("look at container {id}"), &format!("/containers/{id}/json")).await
}

/// The description of an image; nothing if it is gone.
pub async fn image(docker: &Docker, id: &str) -> Result<Option<Value>, Failure> {
    ask(docker, &format!("look at image {id}"), &format!("/images/{id}/json")).await
}

async fn ask(docker: &Docker, what: &str, path: &str) -> Result<Option<Value>, Failure> {
    let path = path.to_owned();
    let asking = docker.clone().with_request_modifier(move |mut request| {
        if let Some(uri) = at(request.uri(), &path) {
            *request.uri_mut() = uri;
        }
        request
    });
    let call = async {
        let pieces = asking.export_container("any").try_collect::<Vec<Bytes>>().await;
        match pieces {
            Ok(pieces) => Ok(Some(pieces.concat())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(answer) = limited(what, ANSWER, call).await? else { return Ok(None) };
    let mut value: Value = serde_json::from_slice(&answer).map_err(|error| {
        Failure::new(Reason::InternalError, format!("cannot {what}: the answer: {error}"))
    })?;
    drop_nulls(&mut value);
    Ok(Some(value))
}

/// The address with another path behind the version.
fn at(uri: &Uri, path: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let before = uri.path().strip_suffix(ASKED)?;
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{before}{path}")).ok()?);
    Uri::from_parts(parts).ok()
}

/// What is not set is not there: so it is in what the library writes, and in what is kept with archives.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Makes a container of this description; returns its id.
pub async fn create(docker: &Docker, name: &str, mut body: Value) -> Result<String, Failure> {
    let version = docker.client_version();
    if (version.major_version, version.minor_version) >= ADDRESS_OF_ENDPOINTS
        && let Some(map) = body.as_object_mut()
    {
        map.remove("MacAddress");
    }
    let text = Bytes::from(body.to_string());
    let telling = docker.clone().with_request_modifier(move |mut request: BollardRequest| {
        *request.body_mut() = body_full(text.clone());
        request
    });
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let call = telling.create_container(Some(options), ContainerCreateBody::default());
    Ok(limited(&format!("make container {name}"), ANSWER, call).await?.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_path_of_a_question_is_another() {
        for (from, to) in [
            (
                "unix://2f7661722f72756e:0/v1.41/containers/any/export",
                "unix://2f7661722f72756e:0/v1.41/containers/a/json",
            ),
            (
                "https://db1:2376/v1.47/containers/any/export",
                "https://db1:2376/v1.47/containers/a/json",
            ),
        ] {
            let changed = at(&from.parse().unwrap(), "/containers/a/json").unwrap();
            assert_eq!(changed.to_string(), to);
        }
        assert_eq!(at(&"http://db1/v1.47/info".parse().unwrap(), "/x"), None);
    }

    #[test]
    fn what_is_not_set_is_not_there() {
        let mut value = json!({"a": null, "b": {"c": null, "d": 0}, "e": [{"f": null}, ""]});
        drop_nulls(&mut value);
        assert_eq!(value, json!({"b": {"d": 0}, "e": [{}, ""]}));
    }
}
