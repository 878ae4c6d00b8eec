//! Holding containers still.
//!
//! What is held is in the journal before the first call (ADR 15). The way can be gone again after an
//! interruption: what has been reached is found, not remembered.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::StopContainerOptions;
use jiff::Timestamp;

use super::connection::{ANSWER, is_already, limited};
use super::listing::{inspect, run_state};
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

/// Holds the containers still, in their order. Returns what people have to know, and when the first of them
/// was told to stop.
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
    let begun = Instant::now();
    let mut warnings = Vec::new();
    let mut first = None;
    for entry in &stopping.order {
        if cancel.is_cancelled() {
            return Err(Failure::new(
                Reason::Cancelled,
                format!("cancelled before {} was stopped", entry.name),
            ));
        }
        failpoint::hit("docker.next-stop");
        let left = timeout.saturating_sub(begun.elapsed());
        let found = must_be_there(docker, entry).await?;
        let state = run_state(found.state.as_ref());
        match (mode, state) {
            (ConsistencyMode::Live, _)
            | (_, RunState::Stopped)
            | (ConsistencyMode::Pause, RunState::Paused) => {}
            (ConsistencyMode::Pause, _) => {
                let since = Timestamp::now();
                let action = freeze(docker, entry, left, &mut warnings).await?;
                if first.is_none() {
                    first =
                        Some(first_event(docker, &entry.id, action, since).await.unwrap_or(since));
                }
            }
            // Frozen processes write nothing; they are in the way only of what replaces their files.
            (ConsistencyMode::Stop, RunState::Paused) if touch == Touch::Read => {}
            (ConsistencyMode::Stop, _) => {
                if state == RunState::Paused {
                    let what = format!("unpause {}", entry.name);
                    quiet(&what, left, docker.unpause_container(&entry.id)).await?;
                }
                let since = Timestamp::now();
                stop(docker, entry, left, timeout).await?;
                if first.is_none() {
                    first =
                        Some(first_event(docker, &entry.id, "kill", since).await.unwrap_or(since));
                }
                if exit_code(&must_be_there(docker, entry).await?) == Some(KILLED) {
                    warnings.push(format!(
                        "{} did not stop in its time and was killed: its data may need a recovery",
                        entry.name
                    ));
                }
            }
        }
    }
    Ok((warnings, first))
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

/// What all of them may take to stop, one after the other.
pub fn time_to_stop(stopping: &Stopping) -> Duration {
    let each = stopping.order.iter().map(|entry| stop_time(entry).min(LONG_STOP));
    each.fold(Duration::ZERO, Duration::saturating_add)
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
}

fn exit_code(found: &ContainerInspectResponse) -> Option<i64> {
    found.state.as_ref()?.exit_code
}
