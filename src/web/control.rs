//! The verbs that a command line hands to a running daemon, over its socket, and their client.

use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Server;
use super::api::Refusal;
use crate::plan::{Conclusion, Failure, Log, OperationId};
use crate::spec::{self, ProgressStatus, Reason};

/// Documents to apply and carry out.
#[derive(Debug, Serialize, Deserialize)]
struct ApplyRequest {
    /// YAML, any number of documents.
    text: String,
}

/// What applying did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// One line for each object: `Backup shop/a created`.
    pub lines: Vec<String>,
    /// What is being carried out, in order.
    pub operations: Vec<OperationId>,
}

/// Whose socket it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// The file of the catalog that the process holds.
    pub catalog: String,
    /// Its version.
    pub version: String,
    /// It is the operator of a cluster: documents are the cluster's objects, archives lie on claims.
    #[serde(default)]
    pub cluster: bool,
}

/// One operation by its identity.
#[derive(Debug, Serialize, Deserialize)]
struct OperationRequest {
    operation: OperationId,
}

/// How an operation stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationState {
    /// How it ended, once it has.
    pub conclusion: Option<Conclusion>,
    /// It has not begun: its target is busy, or all workers are.
    #[serde(default)]
    pub waits: bool,
    /// What is being done.
    pub phase: String,
    /// How far it has come.
    pub progress: Option<ProgressStatus>,
}

pub(super) fn router() -> Router<Server> {
    Router::new()
        .route("/control/apply", post(apply))
        .route("/control/state", post(state))
        .route("/control/cancel", post(cancel))
        .route("/control/sync", post(sync))
        .route("/control/about", post(about))
}

fn refuse(error: &crate::operator::OperatorError) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, error.reason().as_str(), error.to_string())
}

async fn apply(
    State(server): State<Server>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<ApplyAnswer>, Refusal> {
    if server.operator.serves_cluster() {
        let message = "documents of a cluster are its objects: use `kubectl apply`";
        let reason = Reason::UnsupportedTarget.as_str();
        return Err(Refusal::new(StatusCode::CONFLICT, reason, message.to_owned()));
    }
    let documents = spec::load(&request.text, "cli").map_err(|problems| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "InvalidSpec", text.join("\n"))
    })?;
    let mut answer = ApplyAnswer { lines: Vec::new(), operations: Vec::new() };
    for located in documents {
        let applied =
            server.operator.apply(located.value, "cli").await.map_err(|error| refuse(&error))?;
        answer.lines.push(format!("{} {}", applied.key, applied.verb()));
        answer.operations.extend(applied.operation());
    }
    let (operator, operations) = (server.operator.clone(), answer.operations.clone());
    tokio::spawn(async move {
        for operation in operations {
            if let Err(error) = operator.drive_queued(&operation).await {
                tracing::error!(%operation, "{error}");
            }
        }
    });
    Ok(Json(answer))
}

async fn state(
    State(server): State<Server>,
    Json(request): Json<OperationRequest>,
) -> Result<Json<OperationState>, Refusal> {
    let journal = server.operator.catalog().journal(&request.operation).await?;
    let running = server
        .operator
        .running()
        .into_iter()
        .find(|running| running.operation == request.operation);
    Ok(Json(OperationState {
        conclusion: Log::new(&journal).conclusion().map(|(conclusion, _)| conclusion),
        waits: running.is_none(),
        phase: running.as_ref().map(|running| running.meter.current_phase()).unwrap_or_default(),
        progress: running.map(|running| running.meter.status()),
    }))
}

async fn cancel(
    State(server): State<Server>,
    Json(request): Json<OperationRequest>,
) -> Json<Value> {
    Json(json!({"cancelled": server.operator.cancel(&request.operation)}))
}

/// Asks for an immediate look at schedules, stores and files.
async fn sync(State(server): State<Server>) -> Json<Value> {
    server.operator.wake();
    Json(json!({"woken": true}))
}

/// Which catalog this process holds, and for whom.
async fn about(State(server): State<Server>) -> Json<About> {
    Json(About {
        catalog: server.catalog.display().to_string(),
        version: crate::VERSION.to_owned(),
        cluster: server.operator.serves_cluster(),
    })
}

/// Talks to a running daemon.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
}

impl ControlClient {
    /// A client for the daemon at this socket; nothing is sent yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Applies documents and has them carried out.
    pub async fn apply(&self, text: String) -> Result<ApplyAnswer, Failure> {
        self.post("/control/apply", &ApplyRequest { text }).await
    }

    /// How an operation stands.
    pub async fn state(&self, operation: &OperationId) -> Result<OperationState, Failure> {
        self.post("/control/state", &OperationRequest { operation: operation.clone() }).await
    }

    /// Stops an operation; it puts everything back.
    pub async fn cancel(&self, operation: &OperationId) -> Result<Value, Failure> {
        self.post("/control/cancel", &OperationRequest { operation: operation.clone() }).await
    }

    /// Has the daemon look at its schedules, stores and files at once.
    pub async fn sync(&self) -> Result<Value, Failure> {
        self.post("/control/sync", &json!({})).await
    }

    /// Whose socket it is.
    pub async fn about(&self) -> Result<About, Failure> {
        self.post("/control/about", &json!({})).await
    }

    /// Whether it is ready, and what it says of its parts.
    pub async fn readiness(&self) -> Result<(bool, String), Failure> {
        let request = hyper::Request::get("/readyz").header("host", "eider");
        let request = request.body(Full::default()).map_err(|error| self.silent(&error))?;
        let (status, bytes) = self.send(request).await?;
        Ok((status.is_success(), String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn silent(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(
            Reason::CatalogFailed,
            format!("the daemon at {} did not answer: {error}", self.socket.display()),
        )
        .hint("check that `eider daemon` runs and that you may use its socket")
    }

    async fn send(
        &self,
        request: hyper::Request<Full<Bytes>>,
    ) -> Result<(hyper::StatusCode, Bytes), Failure> {
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.silent(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.silent(&error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.silent(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.silent(&error))?;
        Ok((status, body.to_bytes()))
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, Failure> {
        let body = serde_json::to_vec(question).map_err(|error| self.silent(&error))?;
        let request = hyper::Request::post(path)
            .header("host", "eider")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.silent(&error))?;
        let (status, bytes) = self.send(request).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.silent(&error));
        }
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let reason = answer["reason"]
            .as_str()
            .and_then(|reason| reason.parse().ok())
            .unwrap_or(Reason::InternalError);
        let message = answer["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        Err(Failure { reason, message, hint: answer["hint"].as_str().map(str::to_owned) })
    }
}
