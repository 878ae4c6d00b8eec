//! When the engine did something, by the engine's own word: a call is answered later than it is carried out,
//! and on a busy host carried out later than it is made.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use jiff::Timestamp;

/// How long the engine may take to tell: it is only about a number.
pub const TELL: Duration = Duration::from_secs(2);

/// When the engine first did this to a container, not before `since`. Nothing if it does not tell: it keeps
/// the last few hundred events only, so that it has to be asked soon.
pub async fn first_event(
    docker: &Docker,
    id: &str,
    action: &str,
    since: Timestamp,
) -> Option<Timestamp> {
    let filters = HashMap::from([
        ("type", vec!["container"]),
        ("container", vec![id]),
        ("event", vec![action]),
    ]);
    // With an end that has passed the engine tells what there was and ends the stream.
    let options = EventsOptionsBuilder::new()
        .since(&written(since))
        .until(&written(Timestamp::now()))
        .filters(&filters)
        .build();
    let mut events = docker.events(Some(options));
    let asking = async {
        while let Some(Ok(event)) = events.next().await {
            if let Some(at) = time_of(&event).filter(|at| *at >= since) {
                return Some(at);
            }
        }
        None
    };
    tokio::time::timeout(TELL, asking).await.ok().flatten()
}

/// What the engine knows of a signal that it may have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It sent one.
    Sent,
    /// It sent none.
    NotSent,
    /// It has forgotten so much, or does not tell.
    Forgotten,
}

/// Whether the engine has sent a container a signal since then.
pub async fn signal(docker: &Docker, id: &str, since: Timestamp) -> Signal {
    // Everything that it remembers: only that tells how far back it remembers.
    let now = Timestamp::now();
    let options = EventsOptionsBuilder::new().since("1").until(&written(now)).build();
    let mut events = docker.events(Some(options));
    let asking = async {
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push(event.ok()?);
        }
        Some(told)
    };
    let told = tokio::time::timeout(TELL, asking).await.ok().flatten();
    told.map_or(Signal::Forgotten, |told| signal_among(&told, id, since))
}

fn signal_among(events: &[EventMessage], id: &str, since: Timestamp) -> Signal {
    let is_signal = |event: &EventMessage| {
        event.typ == Some(EventMessageTypeEnum::CONTAINER)
            && event.action.as_deref() == Some("kill")
            && event.actor.as_ref().is_some_and(|actor| actor.id.as_deref() == Some(id))
    };
    let is_before = |event: &EventMessage| time_of(event).is_some_and(|at| at < since);
    if events.iter().any(|event| is_signal(event) && !is_before(event)) {
        Signal::Sent
    } else if events.iter().any(is_before) {
        Signal::NotSent
    } else {
        Signal::Forgotten
    }
}

fn time_of(event: &EventMessage) -> Option<Timestamp> {
    Timestamp::from_nanosecond(event.time_nano?.into()).ok()
}

/// Seconds and nanoseconds since 1970, as the engine reads a time.
pub fn written(at: Timestamp) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Others waited for the whole time to stop of one that nobody had told to.
    #[test]
    fn that_no_signal_was_sent_is_known_only_as_far_back_as_the_engine_remembers() {
        let event = |action: &str, id: &str, second: i64| -> EventMessage {
            let nanoseconds = second * 1_000_000_000;
            let actor = json!({"ID": id, "Attributes": {}});
            let event = json!({"Type": "container", "Action": action, "Actor": actor, "timeNano": nanoseconds});
            serde_json::from_value(event).unwrap()
        };
        let since = Timestamp::from_second(100).unwrap();
        let found = |events: &[EventMessage]| signal_among(events, "db", since);
        assert_eq!(found(&[]), Signal::Forgotten);
        assert_eq!(found(&[event("kill", "web", 101)]), Signal::Forgotten);
        assert_eq!(found(&[event("start", "x", 99), event("kill", "web", 101)]), Signal::NotSent);
        assert_eq!(found(&[event("kill", "db", 99), event("die", "db", 101)]), Signal::NotSent);
        assert_eq!(found(&[event("kill", "db", 101)]), Signal::Sent);
    }

    #[test]
    fn a_time_is_written_with_all_its_digits() {
        let at: jiff::Timestamp = "2026-11-22T00:00:01.000000203Z".parse().unwrap();
        assert_eq!(super::written(at), "1795305601.000000203");
    }
}
