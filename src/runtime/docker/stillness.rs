//! Holding containers still, and letting them go again.
//!
//! What is held is in the journal before the first call (ADR 15). Both ways can be gone again after
//! an interruption: what has been reached is found, not remembered.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use bollard::query_parameters::{StartContainerOptions, StopContainerOptions};

use super::connection::{ANSWER, is_already, limited};
use super::listing::{inspect, run_state};
use crate::engine::Cancel;
use crate::failpoint;
use crate::plan::Failure;
use crate::plan::docker::{RunState, StopEntry, Stopping, Touch};
use crate::spec::{ConsistencyMode, Reason};

/// How long the engine waits after SIGTERM where nobody said otherwise.
const DEFAULT_STOP: u32 = 10;
/// What a container may take beyond its own time to stop until the engine has noticed that it is gone.
const NOTICE: Duration = Duration::from_secs(3);
/// How long a container waits for those that have to be healthy before it starts.
const DEPENDENCY: Duration = Duration::from_mins(2);
/// How often a container is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Exit code of a process that was killed.
const KILLED: i64 = 137;

/// Holds the containers still, in their order. Returns what people have to know.
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
) -> Result<Vec<String>, Failure> {
    let begun = Instant::now();
    let mut warnings = Vec::new();
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
                let what = format!("pause {}", entry.name);
                quiet(&what, left, docker.pause_container(&entry.id)).await?;
            }
            // Frozen processes write nothing; they are in the way only of what replaces their files.
            (ConsistencyMode::Stop, RunState::Paused) if touch == Touch::Read => {}
            (ConsistencyMode::Stop, _) => {
                if state == RunState::Paused {
                    let what = format!("unpause {}", entry.name);
                    quiet(&what, left, docker.unpause_container(&entry.id)).await?;
                }
                stop(docker, entry, left, timeout).await?;
                if exit_code(&must_be_there(docker, entry).await?) == Some(KILLED) {
                    warnings.push(format!(
                        "{} did not stop in its time and was killed: its data may need a recovery",
                        entry.name
                    ));
                }
            }
        }
    }
    Ok(warnings)
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
async fn quiet(
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

fn gone(entry: &StopEntry) -> Failure {
    Failure::new(
        Reason::TargetNotFound,
        format!("container {} was removed in the middle of the operation", entry.name),
    )
}

fn exit_code(found: &ContainerInspectResponse) -> Option<i64> {
    found.state.as_ref()?.exit_code
}

/// Lets the containers go, those that others need first. Every one is tried, whatever became of
/// those before it.
///
/// With `unsettled` the holding was cut short: the engine may still be about to end the first that
/// runs, and it must not be taken for one that goes on running.
///
/// # Errors
/// [`Reason::ResumeFailed`] with the first that could not be started.
pub async fn release(docker: &Docker, stopping: &Stopping, unsettled: bool) -> Result<(), Failure> {
    if unsettled {
        await_pending_stop(docker, stopping).await?;
    }
    let mut first_failure = None;
    for entry in stopping.order.iter().rev() {
        failpoint::hit("docker.next-start");
        await_dependencies(docker, stopping, entry).await;
        if let Err(failure) = let_go(docker, entry).await {
            first_failure.get_or_insert(failure);
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Containers are stopped one after the other: if one is being stopped, it is the first that runs.
async fn await_pending_stop(docker: &Docker, stopping: &Stopping) -> Result<(), Failure> {
    for entry in &stopping.order {
        let state = |found: Option<ContainerInspectResponse>| {
            found.map_or(RunState::Stopped, |found| run_state(found.state.as_ref()))
        };
        if state(inspect(docker.clone(), entry.id.clone()).await?) == RunState::Stopped {
            continue;
        }
        let seconds = u64::from(entry.timeout.unwrap_or(DEFAULT_STOP));
        let limit = Duration::from_secs(seconds) + NOTICE;
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if state(inspect(docker.clone(), entry.id.clone()).await?) == RunState::Stopped {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        return Ok(());
    }
    Ok(())
}

/// Waits for those that have to be healthy first; a container is not left down because another is ill.
async fn await_dependencies(docker: &Docker, stopping: &Stopping, entry: &StopEntry) {
    let begun = Instant::now();
    let held = |id: &&String| stopping.order.iter().any(|other| other.id == **id);
    for id in entry.after_healthy.iter().filter(held) {
        while begun.elapsed() < DEPENDENCY {
            match inspect(docker.clone(), id.clone()).await {
                Ok(Some(found)) if !is_healthy(&found) => tokio::time::sleep(LOOK).await,
                _ => break,
            }
        }
    }
}

/// Whether a container runs and its health check, if it has one, says that it is well.
pub fn is_healthy(found: &ContainerInspectResponse) -> bool {
    let health = found.state.as_ref().and_then(|state| state.health.as_ref()?.status);
    run_state(found.state.as_ref()) == RunState::Running
        && matches!(
            health,
            None | Some(
                HealthStatusEnum::HEALTHY | HealthStatusEnum::NONE | HealthStatusEnum::EMPTY
            )
        )
}

async fn let_go(docker: &Docker, entry: &StopEntry) -> Result<(), Failure> {
    let found = inspect(docker.clone(), entry.id.clone()).await?;
    let Some(found) = found else { return Err(resume_failed(gone(entry))) };
    let state = run_state(found.state.as_ref());
    if state == RunState::Stopped {
        let what = format!("start {}", entry.name);
        let starting = docker.start_container(&entry.id, None::<StartContainerOptions>);
        quiet(&what, ANSWER, starting).await.map_err(resume_failed)?;
    }
    match (entry.paused, state) {
        (true, RunState::Paused)
        | (false, RunState::Running | RunState::Restarting | RunState::Stopped) => Ok(()),
        (true, _) => {
            let what = format!("pause {} again", entry.name);
            quiet(&what, ANSWER, docker.pause_container(&entry.id)).await.map_err(resume_failed)
        }
        (false, RunState::Paused) => {
            let what = format!("unpause {}", entry.name);
            quiet(&what, ANSWER, docker.unpause_container(&entry.id)).await.map_err(resume_failed)
        }
    }
}

fn resume_failed(failure: Failure) -> Failure {
    match failure.reason {
        Reason::EngineUnavailable => failure,
        _ => Failure { reason: Reason::ResumeFailed, ..failure },
    }
}
