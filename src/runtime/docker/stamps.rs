//! When the engine did something, by the engine's own word: a call is answered later than it is carried out,
//! and on a busy host carried out later than it is made.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
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
            let at = event.time_nano.and_then(|at| Timestamp::from_nanosecond(at.into()).ok());
            if let Some(at) = at.filter(|at| *at >= since) {
                return Some(at);
            }
        }
        None
    };
    tokio::time::timeout(TELL, asking).await.ok().flatten()
}

/// Seconds and nanoseconds since 1970, as the engine reads a time.
pub fn written(at: Timestamp) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_time_is_written_with_all_its_digits() {
        let at: jiff::Timestamp = "2026-11-22T00:00:01.000000203Z".parse().unwrap();
        assert_eq!(super::written(at), "1795305601.000000203");
    }
}
