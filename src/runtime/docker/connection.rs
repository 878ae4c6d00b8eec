//! The Docker Engine: one connection a process, made when it is first needed, and its answers as
//! failures.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::OnceCell;

use crate::plan::Failure;
use crate::spec::Reason;

/// How long the engine may take to answer a question that needs no work.
pub const ANSWER: Duration = Duration::from_mins(1);
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
            let what = "reach the Docker Engine";
            let docker = Docker::connect_with_defaults().map_err(|error| failure(what, &error))?;
            let docker = docker.with_timeout(CLIENT_LIMIT);
            limited(what, ANSWER, docker.negotiate_version()).await
        };
        self.docker.get_or_try_init(connect).await.cloned()
    }
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
        .hint("is the engine running, and may this user use its socket? DOCKER_HOST names another"),
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
