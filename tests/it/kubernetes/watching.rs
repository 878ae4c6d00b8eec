//! The proxy's way of a watch: events are lines, and each is hidden, repeated, late or as it was. May
//! not call the library.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Bytes, Frame};
use serde_json::Value;

use super::forward::AnyError;
use super::proxy::State;

struct Watch {
    state: Arc<State>,
    path: String,
    body: UnsyncBoxBody<Bytes, AnyError>,
    /// What of a line has come.
    begun: Vec<u8>,
    /// Lines that have come and were not yet handed on.
    lines: VecDeque<Vec<u8>>,
}

/// The body of a watch with the faults of its events.
pub fn events(
    state: Arc<State>,
    path: String,
    body: UnsyncBoxBody<Bytes, AnyError>,
) -> impl Body<Data = Bytes, Error = AnyError> + Send {
    let watch = Watch { state, path, body, begun: Vec::new(), lines: VecDeque::new() };
    StreamBody::new(stream::unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next.map(|bytes| Frame::data(Bytes::from(bytes))), watch))
    }))
}

impl Watch {
    /// The next line as often as it is to be handed on; nothing at the end.
    async fn next(&mut self) -> Option<Result<Vec<u8>, AnyError>> {
        loop {
            while let Some(line) = self.lines.pop_front() {
                let copies = self.treat(&line).await;
                if copies > 0 {
                    return Some(Ok(line.repeat(copies)));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.begun.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref));
                    while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                        self.lines.push_back(self.begun.drain(..=end).collect());
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None if self.begun.is_empty() => return None,
                None => return Some(Ok(std::mem::take(&mut self.begun))),
            }
        }
    }

    /// How often a line is to be handed on, once it is time.
    async fn treat(&mut self, line: &[u8]) -> usize {
        let event: Value = serde_json::from_slice(line).unwrap_or(Value::Null);
        let kind = event["type"].as_str().unwrap_or_default();
        // A bookmark only says how far the stream is: it is no event that anyone could miss.
        if kind == "BOOKMARK" {
            return 1;
        }
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        let (copies, late) = self.state.event(&self.path, kind, name);
        tokio::time::sleep(late).await;
        copies
    }
}
