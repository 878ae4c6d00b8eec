//! Letting containers go that were held still, those that others need first.
//!
//! What has been reached is found, not remembered: after an interruption it begins again. Nobody waits for
//! what it does not need, and nobody for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, HealthConfig, HealthStatusEnum};
use bollard::query_parameters::StartContainerOptions;
use jiff::Timestamp;

use super::connection::ANSWER;
use super::listing::{inspect, run_state};
use super::stamps::first_event;
use super::stillness::{LONG_STOP, gone, quiet, stop_time};
use crate::failpoint;
use crate::plan::Failure;
use crate::plan::docker::{FOREVER, RunState, StopEntry, Stopping};
use crate::spec::Reason;

/// How much later than its own time a container may still end: a busy engine kills late.
const LATE: Duration = Duration::from_secs(5);
/// How long others wait for one that may take for ever to stop.
const PATIENCE: Duration = Duration::from_secs(13);
/// How long such a one is watched of which the engine knows nothing: it remembers a few hundred events of all
/// its containers.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// How long a container waits at least for those that have to be healthy before it starts.
const DEPENDENCY: Duration = Duration::from_mins(2);
/// And at most, whatever their health checks allow themselves.
const LONG_DEPENDENCY: Duration = Duration::from_mins(30);
/// And all of them together where they have been down since another process died.
const LATE_DEPENDENCY: Duration = Duration::from_secs(20);
/// How often a container is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What came before the letting go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ending {
    /// The stopping was cut short: the engine may still be about to end one that runs, and it must not be taken
    /// for one that goes on running.
    pub unsettled: bool,
    /// Who held them died, and they have been down for nothing since.
    pub is_late: bool,
}

/// The containers that are let go, and what has been reached.
struct LettingGo<'a> {
    docker: &'a Docker,
    stopping: &'a Stopping,
    begun: Instant,
    is_late: bool,
    /// One that may have been told to stop.
    told: Option<&'a StopEntry>,
    /// When those were let go that have been, by their places.
    done: HashMap<usize, Instant>,
}

/// Lets the containers go. Every one is tried, whatever became of those before it.
///
/// # Errors
/// [`Reason::ResumeFailed`] with the first that could not be started.
pub async fn release(docker: &Docker, stopping: &Stopping, ending: Ending) -> Result<(), Failure> {
    let told = if ending.unsettled { perhaps_told(docker, stopping).await? } else { None };
    let is_late = ending.is_late;
    let (begun, done) = (Instant::now(), HashMap::new());
    let mut letting_go = LettingGo { docker, stopping, begun, is_late, told, done };
    let mut first_failure = None;
    while letting_go.done.len() < stopping.order.len() {
        for (place, entry) in stopping.order.iter().enumerate().rev() {
            if letting_go.done.contains_key(&place) || !letting_go.may_go(place, entry).await? {
                continue;
            }
            failpoint::hit("docker.next-start");
            if let Err(failure) = let_go(docker, entry).await {
                first_failure.get_or_insert(failure);
            }
            letting_go.done.insert(place, Instant::now());
        }
        if letting_go.done.len() < stopping.order.len() {
            tokio::time::sleep(LOOK).await;
        }
    }
    if let Some(entry) = told
        && let Err(failure) = see_through(docker, entry, begun).await
    {
        first_failure.get_or_insert(failure);
    }
    first_failure.map_or(Ok(()), Err)
}

impl LettingGo<'_> {
    /// Whether a container waits for nothing any more.
    async fn may_go(&self, place: usize, entry: &StopEntry) -> Result<bool, Failure> {
        if self.stopping.needed_at(place).any(|(needed, _)| !self.done.contains_key(&needed)) {
            return Ok(false);
        }
        if self.may_be_ending(entry).await? {
            return Ok(false);
        }
        for (needed, other) in self.stopping.needed_at(place) {
            if entry.after_healthy.contains(&other.id)
                && other.is_to_be_awaited()
                && self.gets_healthy(needed, other).await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a container still runs that may have been told to stop. Others that need it wait as long as its
    /// time is known.
    async fn may_be_ending(&self, entry: &StopEntry) -> Result<bool, Failure> {
        if self.told.is_none_or(|told| told.id != entry.id)
            || self.begun.elapsed() >= first_wait(entry)
        {
            return Ok(false);
        }
        let state = state_now(self.docker, entry).await?;
        Ok(!matches!(state, RunState::Stopped | RunState::Paused))
    }

    /// Whether one that others wait for is not healthy, and may still become so: a container is not left down
    /// because another is ill.
    async fn gets_healthy(&self, place: usize, entry: &StopEntry) -> bool {
        let Ok(Some(found)) = inspect(self.docker.clone(), entry.id.clone()).await else {
            return false;
        };
        // Its own check has given it up, or it does not run: waiting changes nothing.
        let is_lost = health_of(&found) == Some(HealthStatusEnum::UNHEALTHY)
            || run_state(found.state.as_ref()) == RunState::Stopped;
        let check =
            found.config.as_ref().and_then(|configuration| configuration.healthcheck.as_ref());
        let patience = check.map_or(DEPENDENCY, allowance);
        let waited = self.done.get(&place).map(Instant::elapsed).unwrap_or_default();
        let is_too_late = self.is_late && self.begun.elapsed() > LATE_DEPENDENCY;
        !is_healthy(&found) && !is_lost && waited <= patience && !is_too_late
    }
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

/// How long others wait for a container that may have been told to stop: its own time, if it has one.
fn first_wait(entry: &StopEntry) -> Duration {
    if entry.timeout == Some(FOREVER) { PATIENCE } else { stop_time(entry) }
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
