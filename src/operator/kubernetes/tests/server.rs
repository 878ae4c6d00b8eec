//! An API server that is a function: objects by path, and every call written down.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};

use super::super::{GateLayer, Leadership};
use crate::spec::Kind;

/// Whether a collection is asked for as a whole.
fn is_collection(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let kinds = Kind::ALL.iter().any(|kind| kind.plural() == name);
    ["jobs", "pods", "persistentvolumeclaims", "events"].contains(&name)
        // A claim may be called `backups`.
        || (kinds && path.starts_with("/apis/eider.dev/"))
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Method and path, without the query.
    pub(super) line: String,
    pub(super) query: String,
    pub(super) body: Value,
}

/// Objects by path, and what was asked.
#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Value>,
    pub(super) calls: Vec<Call>,
    /// Answers that are given instead, once each, to the first call with that line.
    pub(super) instead: Vec<(String, u16, &'static str)>,
}

#[derive(Clone, Default)]
pub(super) struct Server(pub(super) Arc<Mutex<State>>);

fn status(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": reason,
    });
    (code, body)
}

impl State {
    pub(super) fn answer(&mut self, call: &Call) -> (u16, Value) {
        let found = self.instead.iter().position(|(line, ..)| *line == call.line);
        if let Some(index) = found {
            let (_, code, reason) = self.instead.remove(index);
            return status(code, reason);
        }
        let (method, path) = call.line.split_once(' ').unwrap();
        let path = path.strip_suffix("/status").unwrap_or(path);
        match method {
            "POST" if path.ends_with("/events") => (201, call.body.clone()),
            "POST" => {
                let name = call.body["metadata"]["name"].as_str().unwrap();
                let place = format!("{path}/{name}");
                if self.objects.contains_key(&place) {
                    return status(409, "AlreadyExists");
                }
                let mut made = call.body.clone();
                made["metadata"]["uid"] = json!(format!("uid-of-{name}"));
                self.objects.insert(place, made.clone());
                (201, made)
            }
            "GET" if is_collection(path) => {
                let beneath = format!("{path}/");
                let items: Vec<&Value> = self
                    .objects
                    .iter()
                    .filter(|(place, _)| place.starts_with(&beneath))
                    .map(|(_, object)| object)
                    .collect();
                (200, json!({"metadata": {}, "items": items}))
            }
            "GET" => match self.objects.get(path) {
                Some(found) => (200, found.clone()),
                None => status(404, "NotFound"),
            },
            "PATCH" => match self.objects.get_mut(path) {
                Some(found) => {
                    for member in ["status", "metadata"] {
                        for (name, value) in call.body[member].as_object().into_iter().flatten() {
                            found[member][name.as_str()] = value.clone();
                        }
                        // A null of a merge takes away.
                        let annotations =
                            found.get_mut(member).map(|one| one.get_mut("annotations"));
                        if let Some(Some(Value::Object(left))) = annotations {
                            left.retain(|_, value| !value.is_null());
                        }
                    }
                    (200, found.clone())
                }
                None => status(404, "NotFound"),
            },
            "PUT" => {
                self.objects.insert(path.to_owned(), call.body.clone());
                (200, call.body.clone())
            }
            "DELETE" => match self.objects.remove(path) {
                Some(found) => (200, found),
                None => status(404, "NotFound"),
            },
            other => panic!("nobody expects {other} {path}"),
        }
    }
}

impl Server {
    /// A client of this server; `layer` may gate it.
    pub(super) fn client(&self, leadership: Leadership) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let call = Call {
                    line: format!("{} {}", head.method, head.uri.path()),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                };
                let mut state = server.0.lock().unwrap();
                let (code, body) = state.answer(&call);
                state.calls.push(call);
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                let response = Response::builder().status(code).body(body).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        ClientBuilder::new(service, "default").with_layer(&GateLayer(leadership)).build()
    }

    /// What was asked since the last time, events left out.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls = std::mem::take(&mut self.0.lock().unwrap().calls);
        calls.retain(|call| !call.line.ends_with("/events"));
        calls
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.line).collect()
    }

    pub(super) fn put(&self, collection: &str, object: &Value) {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        self.0.lock().unwrap().objects.insert(path, object.clone());
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub(super) fn refuse_once(&self, line: &str, code: u16, reason: &'static str) {
        self.0.lock().unwrap().instead.push((line.to_owned(), code, reason));
    }
}
