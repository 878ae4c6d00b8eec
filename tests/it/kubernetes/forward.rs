//! The proxy's way of a request: from a connection of the operator to the API server and back, with
//! the faults on the way. May not call the library.

use std::error::Error;
use std::sync::Arc;

use futures_util::future::try_join;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::proxy::{Exchange, Fault, Gone, State, object};
use super::watching;

/// Of a body that is on its way.
pub type AnyError = Box<dyn Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, AnyError>>;

/// Serves connections until the runtime ends.
pub async fn serve(state: Arc<State>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(state.clone(), stream));
    }
}

async fn connection(state: Arc<State>, stream: TcpStream) {
    let mut away = state.away.subscribe();
    let service = service_fn(|request| answer(state.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A service that fails breaks its connection: that is what a lost answer looks like.
    tokio::select! {
        biased;
        _ = away.wait_for(|away| *away) => {}
        _ = connection => {}
    }
}

/// Answers a request, or breaks the connection by failing.
async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Answer, AnyError> {
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path().to_owned();
    let content = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let exchange = Exchange {
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        object: object(parts.method.as_str(), &path, &content),
        number: None,
        content,
        server: None,
        told: None,
    };
    let (identity, faults) = state.begin(exchange, &path);

    for fault in &faults {
        match fault {
            Fault::Delay(_, duration) => tokio::time::sleep(*duration).await,
            Fault::Away(_, duration) => {
                state.leave(*duration);
                return Err("the server is away".into());
            }
            Fault::FailWrite(_) => {
                return Ok(refuse(&state, identity, 500, "InternalError", "a fault of the test"));
            }
            Fault::ForbidStatuses => {
                return Ok(refuse(&state, identity, 403, "Forbidden", "a fault of the test"));
            }
            Fault::ConflictWrite(_) => {
                let message = "the object has been modified; apply your changes to the latest \
                               version and try again";
                return Ok(refuse(&state, identity, 409, "Conflict", message));
            }
            _ => {}
        }
    }
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let watches = parts.method == Method::GET && asks_to_watch(parts.uri.query());
    if watches && let Some(gone) = state.watch(&path) {
        return Ok(refuse_watch(&state, identity, gone));
    }

    let mut forwarded = Request::builder().method(parts.method).uri(parts.uri);
    if let Some(headers) = forwarded.headers_mut() {
        *headers = handed_on(parts.headers, upgrades);
    }
    let forwarded = forwarded.body(kube::client::Body::from(Vec::from(body)))?;
    let mut response = state.client.send(forwarded).await?;
    let status = response.status();
    state.note(identity, |exchange| exchange.server = Some(status.as_u16()));

    for fault in faults {
        match fault {
            Fault::KillAt(_, kill) => tokio::task::spawn_blocking(move || kill()).await?,
            Fault::DropAnswer(_) => {
                response.into_body().collect().await?;
                return Err("the answer is lost".into());
            }
            Fault::Silence(_) => std::future::pending::<()>().await,
            _ => {}
        }
    }
    state.note(identity, |exchange| exchange.told = Some(status.as_u16()));

    let mut answer = Response::builder().status(status);
    if let Some(headers) = answer.headers_mut() {
        *headers = handed_on(response.headers().clone(), upgrades);
    }
    if let Some(upgrade) = upgrade
        && status == StatusCode::SWITCHING_PROTOCOLS
    {
        tokio::spawn(tunnel(state, upgrade, hyper::upgrade::on(&mut response)));
        return Ok(answer.body(Full::default().map_err(AnyError::from).boxed_unsync())?);
    }
    let follows = path.ends_with("/log") && query.contains("follow=true");
    if follows && state.log() {
        let nothing = futures_util::stream::pending::<Result<Frame<Bytes>, AnyError>>();
        return Ok(answer.body(StreamBody::new(nothing).boxed_unsync())?);
    }
    let body = response.into_body().map_err(AnyError::from);
    Ok(answer.body(if watches && status.is_success() {
        watching::events(state, path, body.boxed_unsync()).boxed_unsync()
    } else {
        body.boxed_unsync()
    })?)
}

/// Carries a stream into a pod both ways.
async fn tunnel(
    state: Arc<State>,
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
) {
    let mut away = state.away.subscribe();
    let carry = async {
        let (client, server) = try_join(client, server).await?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok::<_, AnyError>(())
    };
    tokio::select! {
        _ = away.wait_for(|away| *away) => {}
        // Either side may break off; the other one learns of it by the end of its stream.
        _ = carry => {}
    }
}

fn asks_to_watch(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| pair == "watch=true" || pair == "watch=1")
}

/// The headers without those that are about one connection, or about who is asking.
fn handed_on(mut headers: HeaderMap, upgrades: bool) -> HeaderMap {
    for name in [header::HOST, header::AUTHORIZATION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    // Events are told apart by their lines, which a compressed stream does not show.
    headers.remove(header::ACCEPT_ENCODING);
    if !upgrades {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    headers
}

/// What the API server says when something failed, as an object.
fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn refuse(state: &State, identity: u64, code: u16, reason: &str, message: &str) -> Answer {
    tell(state, identity, code, failure(code, reason, message).to_string())
}

fn refuse_watch(state: &State, identity: u64, gone: Gone) -> Answer {
    let failure = failure(410, "Expired", "too old resource version: 1 (2)");
    match gone {
        Gone::Status => tell(state, identity, 410, failure.to_string()),
        Gone::Event => {
            let event = json!({"type": "ERROR", "object": failure});
            tell(state, identity, 200, format!("{event}\n"))
        }
    }
}

fn tell(state: &State, identity: u64, code: u16, body: String) -> Answer {
    state.note(identity, |exchange| exchange.told = Some(code));
    let body = Full::from(body).map_err(AnyError::from).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    answer
}
