//! The API server, asked patiently: it may be away for minutes while an upgrade of the cluster goes on,
//! and no operation is to fail for that.

use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use super::settings::Settings;
use crate::engine::Cancel;
use crate::plan::Failure;
use crate::spec::Reason;

/// How long an unreachable API server is waited for.
const PATIENCE: Duration = Duration::from_mins(15);

/// The field manager of everything that Eider writes.
pub const FIELD_MANAGER: &str = "eider";

/// A connection with its settings.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// What movers are made of.
    pub settings: std::sync::Arc<Settings>,
}

/// Whether the same call may well succeed a little later.
pub fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) if status.code == 409 => {
            // Two writers at once; but another object under the same name stays another object.
            !status.is_already_exists() && !status.message.to_lowercase().contains("uid")
        }
        kube::Error::Api(status) => matches!(status.code, 408 | 429 | 500 | 502 | 503 | 504),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Whether the object, or its namespace, is not there.
pub fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether nothing can be made any more because the namespace is going.
pub fn is_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 403 && status.message.contains("because it is being terminated"))
}

/// Whether the API server refuses for want of permission.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403) && !is_terminating(error)
}

/// The error as a failure; `what` completes "cannot …".
pub fn failure(what: &str, error: &kube::Error) -> Failure {
    let message = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    let failure = |reason| Failure::new(reason, format!("cannot {what}: {message}"));
    if is_terminating(error) {
        return failure(Reason::NamespaceTerminating);
    }
    if is_forbidden(error) {
        return failure(Reason::Forbidden)
            .hint("`eider generate rbac` prints the permissions that the operator needs");
    }
    if is_missing(error) {
        return failure(Reason::TargetNotFound);
    }
    if matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 422)) {
        return failure(Reason::InvalidSpec);
    }
    failure(Reason::ClusterUnavailable)
}

impl Cluster {
    /// An annotation of a namespace: what its owners allow Eider to do in it.
    pub async fn namespace_annotation(
        &self,
        namespace: &str,
        annotation: &str,
    ) -> Result<Option<String>, Failure> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let what = format!("read namespace {namespace}");
        let found = self
            .patiently(&what, None, || namespaces.get(namespace))
            .await
            .map_err(|error| failure(&what, &error))?;
        Ok(found.annotations().get(annotation).cloned())
    }

    /// Calls until it succeeds, fails for good, is cancelled, or patience ends.
    pub async fn patiently<T, Call>(
        &self,
        what: &str,
        cancel: Option<&Cancel>,
        mut call: impl FnMut() -> Call,
    ) -> Result<T, kube::Error>
    where
        Call: Future<Output = Result<T, kube::Error>>,
    {
        let begun = Instant::now();
        let mut delay = Duration::from_millis(200);
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let cancelled = cancel.is_some_and(Cancel::is_cancelled);
            if !is_transient(&error) || cancelled || begun.elapsed() > PATIENCE {
                return Err(error);
            }
            warn!("cannot {what} yet: {error}");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }
}
