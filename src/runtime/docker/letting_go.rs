//! Letting containers go that were held still, those that others need first.
//!
//! What has been reached is found, not remembered: after an interruption it begins again. Nobody waits for
//! what it does not need, and nobody for ever.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, HealthConfig, HealthStatusEnum};
use bollard::query_parameters::StartContainerOptions;
use jiff::Timestamp;

use super::connection::ANSWER;
use super::listing::{inspect, run_state};
use super::stamps::{Signal, signal};
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
    /// The stopping was cut short, and had begun then: the engine may still be about to end some that run, and
    /// they must not be taken for such that go on running.
    pub unsettled: Option<Timestamp>,
    /// Who held them died, and they have been down for nothing since.
    pub is_late: bool,
}

/// One that runs and may have been told to stop.
struct Suspect<'a> {
    entry: &'a StopEntry,
    place: usize,
    /// What the engine knows of that; it is asked once it has had the time to carry out what it was asked for.
    signal: Option<Signal>,
    /// It has ended, or nothing is to end it.
    is_settled: bool,
}

impl Suspect<'_> {
    /// How long it is watched.
    fn limit(&self) -> Duration {
        match (self.entry.timeout, self.signal) {
            (Some(FOREVER), Some(Signal::Sent)) => LONG_STOP,
            (Some(FOREVER), _) => FORGOTTEN,
            _ => stop_time(self.entry) + LATE,
        }
    }

    /// What is to be said of one that still runs after that.
    fn failure(&self) -> Option<Failure> {
        let may_end = self.entry.timeout == Some(FOREVER) && self.signal == Some(Signal::Sent);
        let message = format!(
            "{} was told to stop, has no limit for it, and still runs: it may end at any time",
            self.entry.name
        );
        let hint =
            "start it again when it has ended, and give it a time to stop in that has an end";
        let failure = || Failure::new(Reason::ResumeFailed, message).hint(hint);
        (may_end && !self.is_settled).then(failure)
    }
}

/// The containers that are let go, and what has been reached.
struct LettingGo<'a> {
    docker: &'a Docker,
    stopping: &'a Stopping,
    ending: Ending,
    begun: Instant,
    suspects: Vec<Suspect<'a>>,
    /// When those were let go that have been, by their places.
    done: HashMap<usize, Instant>,
}

/// Lets the containers go. Every one is tried, whatever became of those before it.
///
/// # Errors
/// [`Reason::ResumeFailed`] with the first that could not be started.
pub async fn release(docker: &Docker, stopping: &Stopping, ending: Ending) -> Result<(), Failure> {
    let suspects = match ending.unsettled {
        Some(_) => suspects(docker, stopping).await?,
        None => Vec::new(),
    };
    let (begun, done) = (Instant::now(), HashMap::new());
    let mut letting_go = LettingGo { docker, stopping, ending, begun, suspects, done };
    let mut first_failure = None;
    loop {
        letting_go.look_at_suspects().await?;
        for (place, entry) in stopping.order.iter().enumerate().rev() {
            if letting_go.done.contains_key(&place) || !letting_go.may_go(place, entry).await {
                continue;
            }
            failpoint::hit("docker.next-start");
            if let Err(failure) = let_go(docker, entry).await {
                first_failure.get_or_insert(failure);
            }
            letting_go.done.insert(place, Instant::now());
        }
        if letting_go.is_over() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let failure = first_failure.or_else(|| letting_go.suspects.iter().find_map(Suspect::failure));
    failure.map_or(Ok(()), Err)
}

impl LettingGo<'_> {
    /// Whether everybody has been let go, and nobody is watched any more.
    fn is_over(&self) -> bool {
        let is_watched =
            |suspect: &Suspect<'_>| !suspect.is_settled && self.begun.elapsed() < suspect.limit();
        self.done.len() == self.stopping.order.len() && !self.suspects.iter().any(is_watched)
    }

    /// Settles what can be known by now of those that may be about to end. One that has ended is let go again.
    async fn look_at_suspects(&mut self) -> Result<(), Failure> {
        let Some(since) = self.ending.unsettled else { return Ok(()) };
        for suspect in self.suspects.iter_mut().filter(|suspect| !suspect.is_settled) {
            match state_now(self.docker, suspect.entry).await? {
                RunState::Stopped => {
                    self.done.remove(&suspect.place);
                    suspect.is_settled = true;
                }
                RunState::Paused => suspect.is_settled = true,
                RunState::Running | RunState::Restarting => {}
            }
            if suspect.signal.is_none() && self.begun.elapsed() >= LATE {
                let found = signal(self.docker, &suspect.entry.id, since).await;
                suspect.signal = Some(found);
                suspect.is_settled |= found == Signal::NotSent;
            }
        }
        Ok(())
    }

    /// Whether a container waits for nothing any more.
    async fn may_go(&self, place: usize, entry: &StopEntry) -> bool {
        let mut needed = self.stopping.needed_at(place);
        if needed.any(|(needed, _)| !self.done.contains_key(&needed)) || self.may_be_ending(place) {
            return false;
        }
        for (needed, other) in self.stopping.needed_at(place) {
            if entry.after_healthy.contains(&other.id)
                && other.is_to_be_awaited()
                && self.gets_healthy(needed, other).await
            {
                return false;
            }
        }
        true
    }

    /// Whether a container still runs that may have been told to stop. Others that need it wait as long as its
    /// time is known.
    fn may_be_ending(&self, place: usize) -> bool {
        let is_waited_for = |suspect: &Suspect<'_>| {
            suspect.place == place
                && !suspect.is_settled
                && self.begun.elapsed() < first_wait(suspect.entry)
        };
        self.suspects.iter().any(is_waited_for)
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
        let is_too_late = self.ending.is_late && self.begun.elapsed() > LATE_DEPENDENCY;
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

/// The containers that may have been told to stop: those that run, unless somebody runs who needs them and so
/// stops before them. One that is frozen has not been told: it is woken up for that.
async fn suspects<'a>(
    docker: &Docker,
    stopping: &'a Stopping,
) -> Result<Vec<Suspect<'a>>, Failure> {
    let mut running = Vec::new();
    for (place, entry) in stopping.order.iter().enumerate() {
        if !matches!(state_now(docker, entry).await?, RunState::Stopped | RunState::Paused) {
            running.push((place, entry));
        }
    }
    let needed: HashSet<usize> = running
        .iter()
        .flat_map(|(place, _)| stopping.needed_at(*place).map(|(needed, _)| needed))
        .collect();
    let suspects = running.into_iter().filter(|(place, _)| !needed.contains(place));
    let suspect = |(place, entry)| Suspect { entry, place, signal: None, is_settled: false };
    Ok(suspects.map(suspect).collect())
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
