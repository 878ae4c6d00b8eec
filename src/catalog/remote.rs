//! The catalog over a Unix socket: HTTP/1.1 `POST /catalog`, a request and an answer in JSON.

use std::path::Path;

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

use super::Catalog;
use super::error::{CatalogError, ErrorBody};
use super::request::{Reply, Request};
use crate::spec::Reason;

/// Room for a rebuild of some ten thousand backups.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// The route `POST /catalog`, to be mounted on a socket that only the owner's users can reach: it
/// lets its callers do everything with the catalog.
pub fn serve_router(catalog: Catalog) -> axum::Router {
    axum::Router::new()
        .route("/catalog", post(answer))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(catalog)
}

async fn answer(State(catalog): State<Catalog>, Json(request): Json<Request>) -> Response {
    // Whoever connects may not end the owner.
    if matches!(request, Request::Close) {
        return Json(Reply::Done).into_response();
    }
    match catalog.call(request).await {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => {
            let status = match error.reason() {
                Reason::InvalidSpec => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, Json(error.body())).into_response()
        }
    }
}

pub(super) async fn call(socket: &Path, request: &Request) -> Result<Reply, CatalogError> {
    let unreachable =
        |message: String| CatalogError::Unreachable { socket: socket.to_owned(), message };
    let body = serde_json::to_vec(request).map_err(|error| unreachable(error.to_string()))?;
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let transport = tokio::spawn(connection);
    let message = hyper::Request::post("/catalog")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(message).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let answered = exchange.await;
    transport.abort();
    let (status, bytes) = answered.map_err(|error| unreachable(error.to_string()))?;
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|error| unreachable(error.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => Err(CatalogError::Remote(body)),
        Err(_) => Err(unreachable(format!("{status}: {}", String::from_utf8_lossy(&bytes)))),
    }
}
