//! Holding containers still, and letting them go again.
//!
//! What is held is in the journal before the first call (ADR 15). Both ways can be gone again after
//! an interruption: what has been reached is found, not remembered.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, HealthConfig, HealthStatusEnum};
use bollard::query_parameters::{StartContainerOptions, StopContainerOptions};
use jiff::Timestamp;

use super::connection::{ANSWER, is_already, limited};
use super::listing::{inspect, run_state};
use super::stamps::first_event;
use crate::engine::Cancel;
use crate::failpoint;
use crate::plan::Failure;
use crate::plan::docker::{FOREVER, RunState, StopEntry, Stopping, Touch};
use crate::spec::{ConsistencyMode, Reason};

/// What a container may take beyond its own time to stop until the engine has noticed that it is gone.
const NOTICE: Duration = Duration::from_secs(3);
/// How much later than its own time a container may still end: a busy engine kills late.
const LATE: Duration = Duration::from_secs(5);
/// How long others wait for one that may take for ever to stop.
const PATIENCE: Duration = Duration::from_secs(13);
/// How long one is watched that may take for ever to stop.
const LONG_STOP: Duration = Duration::from_hours(1);
/// How long such a one is watched of which the engine knows nothing: it remembers a few hundred events of all
/// its containers.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// How long a container that is started again and again may take to run before it is stopped and not frozen.
const RESTART: Duration = Duration::from_secs(5);
/// How long a container waits at least for those that have to be healthy before it starts.
const DEPENDENCY: Duration = Duration::from_mins(2);
/// And at most, whatever their health checks allow themselves.
const LONG_DEPENDENCY: Duration = Duration::from_mins(30);
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

/// When the last of these was started, by the engine's own clock and word, unless that was before `since`.
pub async fn last_start(
    docker: &Docker,
    stopping: &Stopping,
    since: Timestamp,
) -> Option<Timestamp> {
    let mut last = None;
    for entry in stopping.order.iter().filter(|entry| !entry.paused) {
        let found = inspect(docker.clone(), entry.id.clone()).await.ok()??;
        let started: Option<Timestamp> = found.state?.started_at?.parse().ok();
        last = last.max(started);
    }
    last.filter(|at| *at >= since && *at <= Timestamp::now())
}

fn exit_code(found: &ContainerInspectResponse) -> Option<i64> {
    found.state.as_ref()?.exit_code
}

/// Lets the containers go, those that others need first. Every one is tried, whatever became of
/// those before it.
///
/// With `unsettled` the stopping was cut short: the engine may still be about to end the first that
/// runs, and it must not be taken for one that goes on running.
///
/// # Errors
/// [`Reason::ResumeFailed`] with the first that could not be started.
pub async fn release(docker: &Docker, stopping: &Stopping, unsettled: bool) -> Result<(), Failure> {
    let begun = Instant::now();
    let told = if unsettled { perhaps_told(docker, stopping).await? } else { None };
    if let Some(entry) = told {
        // Others may need it: as long as its time is known, it comes first.
        ends_within(docker, entry, first_wait(entry), begun).await?;
    }
    let mut first_failure = None;
    for entry in stopping.order.iter().rev() {
        failpoint::hit("docker.next-start");
        await_dependencies(docker, stopping, entry).await;
        if let Err(failure) = let_go(docker, entry).await {
            first_failure.get_or_insert(failure);
        }
    }
    if let Some(entry) = told
        && let Err(failure) = see_through(docker, entry, begun).await
    {
        first_failure.get_or_insert(failure);
    }
    first_failure.map_or(Ok(()), Err)
}

/// How long others wait for a container that may have been told to stop: its own time, if it has one.
fn first_wait(entry: &StopEntry) -> Duration {
    if entry.timeout == Some(FOREVER) { PATIENCE } else { stop_time(entry) }
}

/// What a container may take to stop, and its engine to notice.
fn stop_time(entry: &StopEntry) -> Duration {
    Duration::from_secs(u64::from(entry.seconds_to_stop())) + NOTICE
}

async fn state_now(docker: &Docker, entry: &StopEntry) -> Result<RunState, Failure> {
    let found = inspect(docker.clone(), entry.id.clone()).await?;
    Ok(found.map_or(RunState::Stopped, |found| run_state(found.state.as_ref())))
}

/// The container that may have been told to stop. They are stopped one after the other: if one is being
/// stopped, it is the first that runs. One that is frozen has not been told: it is woken up for that.
async fn perhaps_told<'a>(
    docker: &Docker,
    stopping: &'a Stopping,
) -> Result<Option<&'a StopEntry>, Failure> {
    for entry in &stopping.order {
        if !matches!(state_now(docker, entry).await?, RunState::Stopped | RunState::Paused) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Whether a container ends within this time, counted from `begun`.
async fn ends_within(
    docker: &Docker,
    entry: &StopEntry,
    limit: Duration,
    begun: Instant,
) -> Result<bool, Failure> {
    loop {
        let state = state_now(docker, entry).await?;
        if state == RunState::Stopped {
            return Ok(true);
        }
        if state == RunState::Paused || begun.elapsed() >= limit {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Watches a container that runs and may have been told to stop until it cannot end of that any more, and
/// starts it again if it does.
async fn see_through(docker: &Docker, entry: &StopEntry, begun: Instant) -> Result<(), Failure> {
    let forever = entry.timeout == Some(FOREVER);
    let told = forever && was_told(docker, entry).await?;
    let limit = match (forever, told) {
        (false, _) => stop_time(entry) + LATE,
        (true, true) => LONG_STOP,
        (true, false) => FORGOTTEN,
    };
    if ends_within(docker, entry, limit, begun).await? {
        return let_go(docker, entry).await;
    }
    if !told {
        return Ok(());
    }
    let message = format!(
        "{} was told to stop, has no limit for it, and still runs: it may end at any time",
        entry.name
    );
    Err(Failure::new(Reason::ResumeFailed, message)
        .hint("start it again when it has ended, and give it a time to stop in that has an end"))
}

/// Whether the engine remembers that it sent a container a signal since it was started.
async fn was_told(docker: &Docker, entry: &StopEntry) -> Result<bool, Failure> {
    let found = inspect(docker.clone(), entry.id.clone()).await?;
    let started: Option<Timestamp> = found.and_then(|found| found.state?.started_at?.parse().ok());
    match started {
        Some(since) => Ok(first_event(docker, &entry.id, "kill", since).await.is_some()),
        None => Ok(false),
    }
}

/// Waits for those that have to be healthy first; a container is not left down because another is ill.
async fn await_dependencies(docker: &Docker, stopping: &Stopping, entry: &StopEntry) {
    let begun = Instant::now();
    let held = |id: &&String| stopping.order.iter().any(|other| other.id == **id);
    for id in entry.after_healthy.iter().filter(held) {
        while let Ok(Some(found)) = inspect(docker.clone(), id.clone()).await {
            // Its own check has given it up, or it does not run: waiting changes nothing.
            let is_lost = health_of(&found) == Some(HealthStatusEnum::UNHEALTHY)
                || run_state(found.state.as_ref()) == RunState::Stopped;
            let patience = found
                .config
                .as_ref()
                .and_then(|configuration| configuration.healthcheck.as_ref().map(allowance));
            if is_healthy(&found) || is_lost || begun.elapsed() > patience.unwrap_or(DEPENDENCY) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How long a health check may take until it has decided: a database that recovers takes its time, and
/// who needs it fails without it.
fn allowance(check: &HealthConfig) -> Duration {
    let nanoseconds = |value: Option<i64>, default: Duration| {
        let given = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
        given.map_or(default, Duration::from_nanos)
    };
    // The engine's own defaults.
    let interval = nanoseconds(check.interval, Duration::from_secs(30));
    let timeout = nanoseconds(check.timeout, Duration::from_secs(30));
    let retries =
        check.retries.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
    let tries = retries.unwrap_or(3).saturating_add(1);
    let all = nanoseconds(check.start_period, Duration::ZERO)
        .saturating_add(interval.saturating_add(timeout).saturating_mul(tries));
    all.clamp(DEPENDENCY, LONG_DEPENDENCY)
}

fn health_of(found: &ContainerInspectResponse) -> Option<HealthStatusEnum> {
    found.state.as_ref()?.health.as_ref()?.status
}

/// Whether a container runs and its health check, if it has one, says that it is well.
pub fn is_healthy(found: &ContainerInspectResponse) -> bool {
    run_state(found.state.as_ref()) == RunState::Running
        && matches!(
            health_of(found),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_check_is_given_the_time_that_it_allows_itself() {
        let seconds = |number: i64| Some(number * 1_000_000_000);
        let check = |start, interval, retries| HealthConfig {
            start_period: seconds(start),
            interval: seconds(interval),
            timeout: seconds(5),
            retries: Some(retries),
            ..HealthConfig::default()
        };
        assert_eq!(allowance(&check(0, 1, 3)), DEPENDENCY);
        assert_eq!(allowance(&check(600, 10, 5)), Duration::from_secs(600 + 6 * 15));
        assert_eq!(allowance(&check(7200, 10, 5)), LONG_DEPENDENCY);
        assert_eq!(allowance(&HealthConfig::default()), Duration::from_mins(4));
    }
}
