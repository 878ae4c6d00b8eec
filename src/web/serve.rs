//! Serving connections with bounds: a peer that says nothing holds nothing for long.
//!
//! Knows no route; `axum::serve` would do if it had these bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

/// What connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How many are served at one time; further ones wait to be accepted.
    pub connections: usize,
    /// How long a peer may take to send the head of a request, the first one and each after it.
    pub head: Duration,
}

impl Default for ConnectionLimits {
    /// More than a monitoring system and a few people need: 128, and ten seconds.
    fn default() -> Self {
        Self { connections: 128, head: Duration::from_secs(10) }
    }
}

/// Answers requests on every connection of `listener`, for as long as it is polled.
pub async fn serve(mut listener: impl Listener, router: Router, limits: ConnectionLimits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that goes away or breaks the protocol is its own affair.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn idle_connections_are_closed_and_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits { connections: 2, head: Duration::from_millis(100) };
        let router = Router::new().route("/", get(|| async { "here" }));
        let server = tokio::spawn(serve(listener, router, limits));
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Behind five that say nothing, two places: it is answered once they have been sent away.
        let mut asking = TcpStream::connect(address).await.unwrap();
        assert!(answer(&mut asking).await.ends_with("here"));
        for stream in &mut silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        server.abort();
    }
}
