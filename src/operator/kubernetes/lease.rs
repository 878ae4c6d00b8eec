//! One leader among the replicas, by a Lease, and a client that writes only while this process leads.
//!
//! A process that has lost the lease ends: what it had begun is picked up by its successor from the
//! statuses (ADR 12). Until it has ended, the gate keeps it from writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use tower::{BoxError, Layer, Service};
use tracing::{info, warn};

/// How long a lease holds without being renewed, if nothing else is wanted.
pub const DURATION: Duration = Duration::from_secs(15);
/// A lease is renewed so many times while it holds.
const RENEWALS: u32 = 3;
/// How often a follower looks whether it is free.
const LOOK: Duration = Duration::from_secs(2);
/// The part of a lease after which it counts as lost: clocks and answers take time.
const COUNTED: (u32, u32) = (4, 5);

/// Whether this process may write, for everybody who asks. Clones share it.
#[derive(Clone)]
pub struct Leadership {
    begun: Instant,
    duration: Duration,
    /// Milliseconds after `begun` until which writing is allowed; 0 for not at all.
    until: Arc<AtomicU64>,
}

impl Default for Leadership {
    fn default() -> Self {
        Self::of(DURATION)
    }
}

impl Leadership {
    /// Leadership by a lease that holds for so long without being renewed.
    pub fn of(duration: Duration) -> Self {
        Self { begun: Instant::now(), duration, until: Arc::default() }
    }

    /// Leadership without a lease, for those who run alone.
    pub fn unconditional() -> Self {
        let leadership = Self::default();
        leadership.until.store(u64::MAX, Ordering::SeqCst);
        leadership
    }

    fn held_since(&self, asked: Instant) {
        let until = asked.duration_since(self.begun) + self.duration * COUNTED.0 / COUNTED.1;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until.store(until, Ordering::SeqCst);
    }

    fn lost(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Whether writing is allowed now.
    pub fn holds(&self) -> bool {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.until.load(Ordering::SeqCst)
    }
}

/// Annotation of a lease: the session of the process that led last, as its catalog knows it.
const SESSION_ANNOTATION: &str = "eider.dev/session";

/// Why a lease was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Somebody else holds it by now.
    #[error("the lease is held by {0}")]
    Lost(String),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] kube::Error),
}

/// Writes on a lease whose session it leads for by now, if `identity` still holds it. Returns the session before
/// it: a catalog that does not know that one has missed what was done meanwhile.
///
/// # Errors
/// Those of the API server, and that the lease was lost: a process that stood still over the end of its term must
/// not write its session over that of whoever leads.
pub async fn sign(
    client: &Client,
    (namespace, name): (&str, &str),
    identity: &str,
    session: &str,
) -> Result<Option<String>, SignError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    loop {
        // Replaced on this very version: who holds it then, holds it still.
        let mut lease = api.get(name).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(identity) {
            return Err(SignError::Lost(holder.unwrap_or("nobody").to_owned()));
        }
        let annotations = lease.metadata.annotations.get_or_insert_default();
        let earlier = annotations.insert(SESSION_ANNOTATION.to_owned(), session.to_owned());
        match api.replace(name, &PostParams::default(), &lease).await {
            // It is renewed every few seconds.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(earlier),
        }
    }
}

/// A lease that replicas take turns at.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    leadership: Leadership,
    /// The last record of another holder, and when this process first saw it: its clock is not ours.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    /// An election for the lease `namespace`/`name`; `client` must not be gated.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        leadership: Leadership,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        let (name, identity) = (name.to_owned(), identity.to_owned());
        Self { api, name, identity, leadership, seen: None }
    }

    /// Waits until this process leads.
    pub async fn campaign(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => {
                    info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => warn!(lease = self.name, "the lease cannot be taken yet: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps the lease; returns when it is lost.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        let every = self.leadership.duration / RENEWALS;
        loop {
            tokio::time::sleep(every.min(Duration::from_secs(1))).await;
            if !self.leadership.holds() {
                return;
            }
            if renewed.elapsed() < every {
                continue;
            }
            // A server that accepts connections and says nothing must not hide that the lease is over.
            match tokio::time::timeout(every, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    self.leadership.lost();
                    return;
                }
                Ok(Err(error)) => warn!(lease = self.name, "the lease was not renewed: {error}"),
                Err(_) => warn!(lease = self.name, "the lease was not renewed: no answer"),
            }
        }
    }

    /// Gives the lease up, so that a successor need not wait for its end.
    pub async fn resign(&mut self) {
        self.leadership.lost();
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
                warn!(lease = self.name, "the lease was not given up: {error}");
            }
        }
    }

    /// Takes or renews the lease. Replacing it on the version that was read lets one win.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let asked = Instant::now();
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(now.clone(), now, 0)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => {
                    self.leadership.held_since(asked);
                    Ok(true)
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let found = lease.spec.clone().unwrap_or_default();
        let own = found.holder_identity.as_deref() == Some(&self.identity);
        if !own && !self.is_free(&found) {
            return Ok(false);
        }
        let acquired = match &found.acquire_time {
            Some(acquired) if own => acquired.clone(),
            _ => now.clone(),
        };
        let transitions = found.lease_transitions.unwrap_or(0) + i32::from(!own);
        lease.spec = Some(self.record(acquired, now, transitions));
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => {
                self.leadership.held_since(asked);
                Ok(true)
            }
            // Somebody was faster; the next look tells who.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(own && self.leadership.holds())
            }
            Err(error) => Err(error),
        }
    }

    fn record(&self, acquired: MicroTime, renewed: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.leadership.duration.as_secs()).ok(),
            acquire_time: Some(acquired),
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Whether nobody holds the lease: given up, or not renewed for as long as it holds, as measured
    /// here since the record was first seen.
    fn is_free(&mut self, found: &LeaseSpec) -> bool {
        if found.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == found => {
                let seconds =
                    u64::try_from(found.lease_duration_seconds.unwrap_or(15)).unwrap_or(15);
                since.elapsed() > Duration::from_secs(seconds)
            }
            _ => {
                self.seen = Some((found.clone(), Instant::now()));
                false
            }
        }
    }
}

/// Refuses every write while this process does not lead.
#[derive(Clone)]
pub struct GateLayer(pub Leadership);

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, leadership: self.0.clone() }
    }
}

/// See [`GateLayer`].
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    leadership: Leadership,
}

/// A write that was refused here, before it reached the API server.
#[derive(Debug, thiserror::Error)]
#[error("this process does not hold the lease; nothing was written")]
pub struct NotLeading;

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send + 'static>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Commands in pods are asked for by GET on older servers and change things all the same.
        let writes =
            request.method() != http::Method::GET || request.uri().path().ends_with("/exec");
        if writes && !self.leadership.holds() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    #[tokio::test]
    async fn the_gate_lets_reads_through_and_writes_only_while_leading() {
        let leadership = Leadership::default();
        let answering = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, BoxError>(http::Response::new(Body::empty()))
        });
        let mut gate = GateLayer(leadership.clone()).layer(answering);
        let request = |method: &str, path: &str| {
            http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
        };
        assert!(gate.call(request("GET", "/api/v1/pods")).await.is_ok());
        assert!(gate.call(request("PATCH", "/api/v1/pods/x")).await.is_err());
        assert!(gate.call(request("GET", "/api/v1/namespaces/a/pods/x/exec")).await.is_err());
        leadership.held_since(Instant::now());
        assert!(gate.call(request("PATCH", "/api/v1/pods/x")).await.is_ok());
        leadership.lost();
        assert!(gate.call(request("DELETE", "/api/v1/pods/x")).await.is_err());
        assert!(Leadership::unconditional().holds());
    }

    #[tokio::test]
    async fn a_lease_is_free_when_given_up_and_not_when_its_clock_looks_old() {
        let answering = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, BoxError>(http::Response::new(Body::empty()))
        });
        let client = Client::new(answering, "default");
        let mut election = Election::new(client, "eider", "lease", "me", Leadership::default());
        assert!(election.is_free(&LeaseSpec::default()));
        assert!(!election.is_free(&spec("other", 1)), "it was only just seen");
        assert!(!election.is_free(&spec("other", 1)));
        assert!(!election.is_free(&spec("other", 2)), "it was renewed");
    }
}
