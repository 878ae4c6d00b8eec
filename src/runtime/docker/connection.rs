//! The Docker Engine: one connection a process, made when it is first needed, and its answers as
//! failures.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::HeaderValue;
use tokio::sync::OnceCell;

use super::address::{Address, certificates};
use crate::plan::Failure;
use crate::spec::Reason;

/// How long the engine may take to answer a question that needs no work.
pub const ANSWER: Duration = Duration::from_mins(1);
/// The first thing that is asked.
const REACH: &str = "reach the Docker Engine";
/// What the client itself allows for: every call has a limit of its own, which is shorter.
const CLIENT_LIMIT: Duration = Duration::from_hours(24);

/// The engine that `DOCKER_HOST` names, or the one on the default socket.
#[derive(Clone, Default)]
pub struct Connection {
    docker: Arc<OnceCell<Docker>>,
}

impl Connection {
    /// The client, with the API version that both sides know.
    pub async fn docker(&self) -> Result<Docker, Failure> {
        let connect = || async {
            let docker = client(&Address::of_this_process()?)?;
            limited(REACH, ANSWER, docker.negotiate_version()).await
        };
        self.docker.get_or_try_init(connect).await.cloned()
    }
}

fn client(address: &Address) -> Result<Docker, Failure> {
    let limit = CLIENT_LIMIT.as_secs();
    let docker = match address {
        Address::Socket(host) => Docker::connect_with_unix(host, limit, API_DEFAULT_VERSION),
        Address::Plain(host) => Docker::connect_with_http(host, limit, API_DEFAULT_VERSION),
        Address::Encrypted(host, directory) => {
            let [authority, own, key] = certificates(directory)?;
            Docker::connect_with_ssl(host, &key, &own, &authority, limit, API_DEFAULT_VERSION)
        }
    };
    let docker = docker.map_err(|error| failure(REACH, &error))?;
    Ok(docker.with_request_modifier(in_url_alphabet))
}

/// The engine reads the passwords of registries in base64's alphabet for URLs, and takes one that it cannot
/// read for none; the client library writes the other alphabet.
fn in_url_alphabet(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(text) = value.to_str()
        && let Ok(mut changed) = HeaderValue::from_str(&text.replace('+', "-").replace('/', "_"))
    {
        changed.set_sensitive(true);
        *value = changed;
    }
    request
}

/// What `DOCKER_HOST` says; empty for the default socket.
pub fn address() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_default()
}

/// Waits for the engine, for a while: a socket that hangs must not hang an operation.
pub async fn limited<T>(
    what: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, &error)),
        Err(_) => Err(Failure::new(
            Reason::EngineUnavailable,
            format!("cannot {what}: the Docker Engine did not answer within {} s", limit.as_secs()),
        )
        .hint("look at the engine's own log, `journalctl --unit docker`")),
    }
}

/// Whether the engine says that there is no such thing.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether the engine says that it is so already.
pub fn is_already(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 304, .. })
}

/// What the engine said, as a failure of `what` it was asked for.
pub fn failure(what: &str, error: &Error) -> Failure {
    match error {
        Error::DockerResponseServerError { status_code: 403, message } => {
            Failure::new(Reason::Forbidden, format!("cannot {what}: {message}"))
                .hint("a socket proxy refuses this call; docs/guides/docker.md lists those needed")
        }
        Error::DockerResponseServerError { status_code: 404, message } => {
            Failure::new(Reason::TargetNotFound, format!("cannot {what}: {message}"))
        }
        Error::DockerResponseServerError { message, .. } => Failure::new(
            Reason::InternalError,
            format!("cannot {what}: the engine says: {message}"),
        ),
        other => Failure::new(
            Reason::EngineUnavailable,
            format!("cannot {what}: {}", chain(other)),
        )
        .hint(
            "is the engine running, and may this user use its socket? DOCKER_HOST names another one, and \
             DOCKER_CERT_PATH the certificates for it",
        ),
    }
}

/// An error with everything that it came from: the outermost says only that a client failed.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;

    #[test]
    fn a_password_is_sent_in_the_alphabet_that_the_engine_reads() {
        let request = |name: &str| {
            let body = bollard::body_full(Bytes::new());
            http::Request::builder().header(name, "a+b/c==").body(body).unwrap()
        };
        let sent = in_url_alphabet(request("X-Registry-Auth"));
        assert_eq!(sent.headers()["X-Registry-Auth"], "a-b_c==");
        assert!(sent.headers()["X-Registry-Auth"].is_sensitive());
        let other = in_url_alphabet(request("X-Other"));
        assert_eq!(other.headers()["X-Other"], "a+b/c==");
    }
}
