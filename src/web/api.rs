//! `/api/v1`: what the catalog knows, as JSON, read-only. The shapes are those of `--output json`.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use crate::catalog::{BackupFilter, BackupKey, CatalogError};
use crate::spec::Kind;

pub(super) fn router() -> Router<Server> {
    Router::new()
        .route("/backups", get(backups))
        .route("/backups/{id}", get(backup))
        .route("/schedules", get(schedules))
        .route("/stores", get(stores))
        .route("/operations", get(operations))
        .route("/resources/{kind}", get(resources))
        .route("/resources/{kind}/{namespace}/{name}", get(resource))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "InvalidSpec", "there is nothing at this address")
        })
        .method_not_allowed_fallback(async || {
            let message = "this API only reads: use GET";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "InvalidSpec", message)
        })
}

/// An error as an answer.
pub(super) struct Refusal(StatusCode, Value);

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, json!(error.body()))
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "InvalidSpec", rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "InvalidSpec", rejection.body_text())
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self(
            status,
            json!({"reason": reason, "message": message.into(), "object": null, "hint": null}),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

#[derive(Deserialize)]
struct BackupQuery {
    target: Option<String>,
    namespace: Option<String>,
    schedule: Option<String>,
    limit: Option<u32>,
}

async fn backups(
    State(server): State<Server>,
    query: Result<Query<BackupQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let filter = BackupFilter {
        target: query.target,
        namespace: query.namespace,
        schedule: query.schedule,
        limit: query.limit,
        ..BackupFilter::default()
    };
    Ok(Json(json!({"items": server.operator.catalog().backups(filter).await?})))
}

async fn backup(State(server): State<Server>, id: Result<Path<i64>, PathRejection>) -> Answer {
    let Path(id) = id?;
    match server.operator.catalog().backup(BackupKey::Id(id)).await? {
        Some(record) => Ok(Json(json!(record))),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "BackupNotFound",
            format!("there is no backup {id}"),
        )),
    }
}

async fn schedules(State(server): State<Server>) -> Answer {
    Ok(Json(json!({"items": server.operator.catalog().scheduled_tasks().await?})))
}

async fn stores(State(server): State<Server>) -> Answer {
    list(&server, Kind::BackupStore).await
}

async fn operations(State(server): State<Server>) -> Answer {
    let items: Vec<Value> = server
        .operator
        .running()
        .iter()
        .map(|running| {
            json!({
                "operation": running.operation,
                "target": running.target,
                "phase": running.meter.current_phase(),
                "progress": running.meter.status(),
            })
        })
        .collect();
    Ok(Json(json!({"items": items})))
}

fn kind_of(word: &str) -> Result<Kind, Refusal> {
    word.parse().map_err(|error: crate::spec::UnknownKind| {
        Refusal::new(StatusCode::NOT_FOUND, "InvalidSpec", error.to_string())
    })
}

/// An object as kubectl would print it: document and status together.
pub(crate) fn object(record: &crate::catalog::ResourceRecord) -> Value {
    let mut object = record.document.clone();
    if let Value::Object(map) = &mut object {
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.insert("generation".to_owned(), json!(record.generation));
        }
        let status = match &record.status {
            Value::Null => json!({"observedGeneration": -1}),
            status => status.clone(),
        };
        map.insert("status".to_owned(), status);
    }
    object
}

async fn list(server: &Server, kind: Kind) -> Answer {
    let records = server.operator.catalog().resources(Some(kind.as_str().to_owned())).await?;
    let items: Vec<Value> =
        records.iter().filter(|record| record.removed_at.is_none()).map(object).collect();
    Ok(Json(json!({"items": items})))
}

async fn resources(
    State(server): State<Server>,
    kind: Result<Path<String>, PathRejection>,
) -> Answer {
    let Path(kind) = kind?;
    let kind = kind_of(&kind)?;
    list(&server, kind).await
}

async fn resource(
    State(server): State<Server>,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Answer {
    let Path((kind, namespace, name)) = path?;
    let kind = kind_of(&kind)?;
    match server.operator.catalog().resource(kind.as_str(), &namespace, &name).await? {
        Some(record) => Ok(Json(object(&record))),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "InvalidSpec",
            format!("there is no {kind} {namespace}/{name}"),
        )),
    }
}
