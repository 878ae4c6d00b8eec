//! Holding containers still.
//!
//! What is held is in the journal before the first call (ADR 15). The way can be gone again after an
//! interruption: what has been reached is found, not remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::StopContainerOptions;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;

use super::connection::{ANSWER, is_already, limited};
use super::listing::{inspect, run_state};
use super::making::MADE_AGAIN;
use super::stamps::first_event;
use crate::engine::Cancel;
use crate::failpoint;
use crate::plan::Failure;
use crate::plan::docker::{RunState, StopEntry, Stopping, Touch};
use crate::spec::{ConsistencyMode, Reason};

/// What a container may take beyond its own time to stop until the engine has noticed that it is gone.
const NOTICE: Duration = Duration::from_secs(3);
/// How long one is watched that may take for ever to stop.
pub const LONG_STOP: Duration = Duration::from_hours(1);
/// How long a container that is started again and again may take to run before it is stopped and not frozen.
const RESTART: Duration = Duration::from_secs(5);
/// How often a container is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Exit code of a process that was killed.
const KILLED: i64 = 137;

/// How containers are held still.
struct Holding<'a> {
    docker: &'a Docker,
    mode: ConsistencyMode,
    touch: Touch,
    begun: Instant,
    timeout: Duration,
}

/// What came of holding one.
struct Still {
    /// What people have to know.
    warnings: Vec<String>,
    /// When it was told to stop or was frozen; none if there was nothing to do.
    at: Option<Timestamp>,
}

/// Holds the containers still: who depends on others before those, and at the same time where nobody depends on
/// another. Returns what people have to know, and when the first of them was told to stop.
///
/// # Errors
/// [`Reason::QuiesceFailed`] if that takes longer than `timeout` or the engine refuses,
/// [`Reason::Cancelled`]; some may be held then.
pub async fn hold(
    docker: &Docker,
    stopping: &Stopping,
    mode: ConsistencyMode,
    touch: Touch,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<(Vec<String>, Option<Timestamp>), Failure> {
    let holding = Holding { docker, mode, touch, begun: Instant::now(), timeout };
    let (mut begun, mut stopped) = (BTreeSet::new(), BTreeSet::new());
    let mut under_way = FuturesUnordered::new();
    let (mut still, mut failure) = (BTreeMap::new(), None);
    loop {
        // Whatever fails, what is under way is seen to its end: it must not come after the way back.
        let ready = if failure.is_none() { stopping.ready(&begun, &stopped) } else { Vec::new() };
        for (place, entry) in ready {
            if cancel.is_cancelled() {
                let message = format!("cancelled before {} was stopped", entry.name);
                failure = Some(Failure::new(Reason::Cancelled, message));
                break;
            }
            failpoint::hit("docker.next-stop");
            begun.insert(place);
            let holding = &holding;
            under_way.push(async move { (place, holding.one(entry).await) });
        }
        let Some((place, result)) = under_way.next().await else { break };
        match result {
            Ok(one) => {
                stopped.insert(place);
                still.insert(place, one);
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let first = still.values().filter_map(|one: &Still| one.at).min();
    Ok((still.into_values().flat_map(|one| one.warnings).collect(), first))
}

impl Holding<'_> {
    async fn one(&self, entry: &StopEntry) -> Result<Still, Failure> {
        let left = self.timeout.saturating_sub(self.begun.elapsed());
        let found = must_be_there(self.docker, entry).await?;
        let state = run_state(found.state.as_ref());
        let mut warnings = Vec::new();
        let since = Timestamp::now();
        let action = match (self.mode, state) {
            (ConsistencyMode::Live, _)
            | (_, RunState::Stopped)
            | (ConsistencyMode::Pause, RunState::Paused) => None,
            (ConsistencyMode::Pause, _) => {
                Some(freeze(self.docker, entry, left, &mut warnings).await?)
            }
            // Frozen processes write nothing; they are in the way only of what replaces their files.
            (ConsistencyMode::Stop, RunState::Paused) if self.touch == Touch::Read => None,
            (ConsistencyMode::Stop, _) => {
                // One that was paused a moment ago was not to be stopped.
                if found.host_config.and_then(|host| host.auto_remove) == Some(true) {
                    let message = format!(
                        "{} was started with --rm and would be removed when it stops",
                        entry.name
                    );
                    return Err(Failure::new(Reason::QuiesceFailed, message));
                }
                if state == RunState::Paused {
                    let what = format!("unpause {}", entry.name);
                    quiet(&what, left, self.docker.unpause_container(&entry.id)).await?;
                }
                let told = Instant::now();
                stop(self.docker, entry, left, self.timeout).await?;
                if exit_code(&must_be_there(self.docker, entry).await?) == Some(KILLED) {
                    warnings.push(killed(entry, told.elapsed()));
                }
                Some("kill")
            }
        };
        let at = match action {
            Some(action) => {
                let told = first_event(self.docker, &entry.id, action, since).await;
                Some(told.unwrap_or(since))
            }
            None => None,
        };
        Ok(Still { warnings, at })
    }
}

/// What is said of one that has ended as one does that is killed: by its engine, or before that could be.
fn killed(entry: &StopEntry, after: Duration) -> String {
    let how = if after.as_secs() >= u64::from(entry.seconds_to_stop()) {
        "did not stop in its time and was killed"
    } else {
        "ended with code 137 before its time to stop was over, as one does that is killed"
    };
    format!("{} {how}: its data may need a recovery", entry.name)
}

/// Freezes a container; one that the engine starts again and again cannot be frozen, and is stopped. Returns
/// what the engine calls it.
async fn freeze(
    docker: &Docker,
    entry: &StopEntry,
    left: Duration,
    warnings: &mut Vec<String>,
) -> Result<&'static str, Failure> {
    let begun = Instant::now();
    loop {
        let found = must_be_there(docker, entry).await?;
        if run_state(found.state.as_ref()) != RunState::Restarting {
            break;
        }
        if begun.elapsed() >= RESTART.min(left) {
            warnings.push(format!(
                "{} is started again and again: it was stopped, because it cannot be paused",
                entry.name
            ));
            stop(docker, entry, left, left).await?;
            return Ok("kill");
        }
        tokio::time::sleep(LOOK).await;
    }
    quiet(&format!("pause {}", entry.name), left, docker.pause_container(&entry.id)).await?;
    Ok("pause")
}

/// What all of them may take to stop.
pub fn time_to_stop(stopping: &Stopping) -> Duration {
    stopping.longest(|entry| stop_time(entry).min(LONG_STOP))
}

/// What a container may take to stop, and its engine to notice.
pub fn stop_time(entry: &StopEntry) -> Duration {
    Duration::from_secs(u64::from(entry.seconds_to_stop())) + NOTICE
}

async fn stop(
    docker: &Docker,
    entry: &StopEntry,
    left: Duration,
    timeout: Duration,
) -> Result<(), Failure> {
    let what = format!("stop {}", entry.name);
    // Its own time to stop is known to the engine.
    let stopping = docker.stop_container(&entry.id, None::<StopContainerOptions>);
    match tokio::time::timeout(left, quiet(&what, left + ANSWER, stopping)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(
            Reason::QuiesceFailed,
            format!("{} did not stop within {} s", entry.name, timeout.as_secs()),
        )
        .hint("raise `spec.consistency.timeout`, or its `stop_grace_period` is longer than that")),
    }
}

/// A call whose answer says nothing; that it is so already is as good.
pub async fn quiet(
    what: &str,
    limit: Duration,
    call: impl Future<Output = Result<(), Error>>,
) -> Result<(), Failure> {
    let call = async {
        match call.await {
            Err(error) if is_already(&error) => Ok(()),
            other => other,
        }
    };
    limited(what, limit, call).await.map_err(|mut failure| {
        if failure.reason == Reason::InternalError {
            failure.reason = Reason::QuiesceFailed;
        }
        failure
    })
}

async fn must_be_there(
    docker: &Docker,
    entry: &StopEntry,
) -> Result<ContainerInspectResponse, Failure> {
    inspect(docker.clone(), entry.id.clone()).await?.ok_or_else(|| gone(entry))
}

pub fn gone(entry: &StopEntry) -> Failure {
    Failure::new(
        Reason::TargetNotFound,
        format!("container {} was removed in the middle of the operation", entry.name),
    )
    .hint(MADE_AGAIN)
}

fn exit_code(found: &ContainerInspectResponse) -> Option<i64> {
    found.state.as_ref()?.exit_code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_like_a_killed_one_at_once_was_not_killed_for_being_late() {
        let entry: StopEntry = serde_json::from_value(serde_json::json!({
            "id": "x", "name": "db", "timeout": 4, "paused": false, "selected": true,
        }))
        .unwrap();
        assert!(killed(&entry, Duration::from_millis(300)).contains("before its time"));
        assert!(killed(&entry, Duration::from_millis(4050)).contains("did not stop in its time"));
    }
}
