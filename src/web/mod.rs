//! What is served over HTTP: health, metrics and a read-only API; on the daemon's own socket the
//! catalog and the verbs of the command line too.
//!
//! It decides nothing: every answer is a question passed on to the operator or the catalog.

mod api;
mod control;
mod serve;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower::ServiceExt;

use crate::operator::Operator;
use crate::telemetry::Health;

pub(crate) use api::object;
pub use control::{About, ApplyAnswer, ControlClient, OperationState};
pub use serve::{ConnectionLimits, serve};

/// What the handlers share.
#[derive(Clone)]
pub struct Server {
    /// The operator.
    pub operator: Operator,
    /// The state of the parts.
    pub health: Arc<Health>,
    /// The catalog's file.
    pub catalog: Arc<std::path::Path>,
}

/// What is served on the network: nothing that changes anything.
pub fn public_router(server: Server) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(|| async { Health::liveness() }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::router())
        .with_state(server)
}

/// What is served while a process waits for its turn: health, until the full router is there.
pub fn waiting_router(health: Arc<Health>, full: Arc<OnceLock<Router>>) -> Router {
    let waiting = Router::new()
        .route("/livez", get(|| async { Health::liveness() }))
        .route("/readyz", get(readyz_of))
        .with_state(health);
    Router::new().fallback(move |request: axum::extract::Request| {
        let router = full.get().unwrap_or(&waiting).clone();
        async move { router.oneshot(request).await }
    })
}

async fn readyz_of(State(health): State<Arc<Health>>) -> Response {
    answer_readiness(&health)
}

/// What is served on the daemon's own socket, which only its owner can open.
pub fn control_router(server: Server) -> Router {
    let catalog = crate::catalog::serve_router(server.operator.catalog().clone());
    public_router(server.clone()).merge(catalog).merge(control::router().with_state(server))
}

async fn index() -> &'static str {
    "eider\n\n/metrics  /livez  /readyz  /api/v1/{backups,schedules,stores,operations,resources}\n"
}

async fn readyz(State(server): State<Server>) -> Response {
    answer_readiness(&server.health)
}

fn answer_readiness(health: &Health) -> Response {
    let readiness = health.readiness();
    let status =
        StatusCode::from_u16(readiness.status_code()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, readiness.text()).into_response()
}

async fn metrics(State(server): State<Server>) -> Response {
    for running in server.operator.running() {
        let progress = running.meter.status();
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        server.operator.report_progress(
            &running.operation,
            unsigned(progress.bytes),
            unsigned(progress.total_bytes),
        );
    }
    match server.operator.metrics().render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
