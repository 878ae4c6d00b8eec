//! Waiting until containers are well.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use jiff::Timestamp;

use super::letting_go::is_healthy;
use super::listing::{inspect, run_state};
use crate::engine::Cancel;
use crate::plan::Failure;
use crate::plan::docker::{RunState, StopEntry, Stopping};
use crate::spec::Reason;

/// A container that the engine has started again this often is in a crash loop.
const CRASH_LOOP: i64 = 3;
/// Downtime is told to two tenths of a second.
const LOOK: Duration = Duration::from_millis(100);
/// How long a container has to have run that has no health check: long enough to tell a service from
/// one that starts and falls over.
const STANDING: Duration = Duration::from_secs(2);

/// One container while it is waited for.
#[derive(Clone, Default)]
struct Standing {
    /// When this start of it was first seen, and which start it is.
    since: Option<(Instant, String)>,
    /// When it was first seen well after that start.
    well: Option<Timestamp>,
}

impl Standing {
    /// Takes a look into account. Whether it is well and has been up for long enough to be believed.
    fn is_well(&mut self, found: &ContainerInspectResponse) -> bool {
        let started = started_at(found);
        if self.since.as_ref().is_none_or(|(_, start)| *start != started) {
            *self = Self { since: Some((Instant::now(), started)), well: None };
        }
        if !is_healthy(found) {
            self.well = None;
            return false;
        }
        self.well.get_or_insert_with(|| well_at(found).unwrap_or_else(Timestamp::now));
        self.since.as_ref().is_some_and(|(at, _)| at.elapsed() >= STANDING)
    }
}

/// Waits until each of the containers runs, is well by its own check, and is not started again and
/// again. Returns when the last of them was well: what is waited for after that is to be sure of it.
///
/// # Errors
/// [`Reason::Unhealthy`] at once for one that has ended, or with the last state after `timeout`.
pub async fn until_healthy(
    docker: &Docker,
    entries: &[&StopEntry],
    timeout: Duration,
    cancel: &Cancel,
) -> Result<Timestamp, Failure> {
    let begun = Instant::now();
    let mut standings = vec![Standing::default(); entries.len()];
    loop {
        let mut waiting = Vec::new();
        for (entry, standing) in entries.iter().zip(&mut standings) {
            let found = inspect(docker.clone(), entry.id.clone()).await?;
            let Some(found) = found else {
                return Err(unhealthy(format!("container {} was removed", entry.name)));
            };
            if run_state(found.state.as_ref()) == RunState::Stopped {
                return Err(unhealthy(format!("{} {}", entry.name, ending(&found))));
            }
            let restarts = found.restart_count.unwrap_or_default();
            if restarts >= CRASH_LOOP {
                let message = format!("{} was started again {restarts} times", entry.name);
                return Err(unhealthy(message));
            }
            if !standing.is_well(&found) {
                waiting.push(format!("{} is {}", entry.name, condition(&found)));
            }
        }
        if waiting.is_empty() {
            let well = standings.iter().filter_map(|standing| standing.well).max();
            return Ok(well.unwrap_or_else(Timestamp::now));
        }
        if begun.elapsed() > timeout {
            let seconds = timeout.as_secs();
            return Err(unhealthy(format!("after {seconds} s {}", waiting.join(", "))));
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for health"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// When each container was started: what stays well is not started again.
pub async fn starts(docker: &Docker, entries: &[&StopEntry]) -> Result<Vec<String>, Failure> {
    let mut starts = Vec::new();
    for entry in entries {
        let found = inspect(docker.clone(), entry.id.clone()).await?;
        starts.push(found.as_ref().map(started_at).unwrap_or_default());
    }
    Ok(starts)
}

/// Whether each container is still well, and since `starts`; an error is a sentence for people.
pub async fn all_well(
    docker: &Docker,
    entries: &[&StopEntry],
    starts: &[String],
) -> Result<Result<(), String>, Failure> {
    for (entry, start) in entries.iter().zip(starts) {
        let Some(found) = inspect(docker.clone(), entry.id.clone()).await? else {
            return Ok(Err(format!("container {} was removed", entry.name)));
        };
        let name = &entry.name;
        if run_state(found.state.as_ref()) == RunState::Stopped {
            return Ok(Err(format!("{name} {}", ending(&found))));
        }
        if started_at(&found) != *start {
            return Ok(Err(format!("{name} was started again")));
        }
        if !is_healthy(&found) {
            return Ok(Err(format!("{name} is {}", condition(&found))));
        }
    }
    Ok(Ok(()))
}

/// The first container, in the order of starting, that has been started and has ended with an error.
pub async fn first_ended(docker: &Docker, stopping: &Stopping) -> Result<Option<String>, Failure> {
    for entry in stopping.order.iter().rev() {
        let Some(found) = inspect(docker.clone(), entry.id.clone()).await? else { continue };
        let code = found.state.as_ref().and_then(|state| state.exit_code).unwrap_or_default();
        // Year 1 is how the engine writes "never".
        let started = !started_at(&found).starts_with("0001-");
        if started && code != 0 && run_state(found.state.as_ref()) != RunState::Running {
            return Ok(Some(format!("{} {}", entry.name, ending(&found))));
        }
        // It runs, for the moment: the engine has started it again.
        if found.restart_count.is_some_and(|count| count > 0) {
            return Ok(Some(format!("{} has ended and was started again", entry.name)));
        }
    }
    Ok(None)
}

fn unhealthy(message: String) -> Failure {
    Failure::new(Reason::Unhealthy, message).hint("`docker logs` of the container says why")
}

/// Since when a container is well, by the engine's own word: its first good check, or its start if it has no
/// check. A look comes later, on a busy host by seconds.
fn well_at(found: &ContainerInspectResponse) -> Option<Timestamp> {
    let state = found.state.as_ref()?;
    let started: Timestamp = state.started_at.as_ref()?.parse().ok()?;
    let at = match &state.health {
        Some(health)
            if !matches!(
                health.status,
                None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY)
            ) =>
        {
            let good = health.log.iter().flatten().filter(|check| check.exit_code == Some(0));
            let ends = good.filter_map(|check| check.end.as_ref()?.parse::<Timestamp>().ok());
            ends.filter(|end| *end >= started).min()?
        }
        _ => started,
    };
    Some(at).filter(|at| *at <= Timestamp::now())
}

fn started_at(found: &ContainerInspectResponse) -> String {
    found.state.as_ref().and_then(|state| state.started_at.clone()).unwrap_or_default()
}

fn ending(found: &ContainerInspectResponse) -> String {
    let code = found.state.as_ref().and_then(|state| state.exit_code).unwrap_or_default();
    format!("has ended with code {code}")
}

fn condition(found: &ContainerInspectResponse) -> String {
    let state = found.state.as_ref();
    let health = state.and_then(|state| state.health.as_ref()?.status);
    match (run_state(state), health) {
        (RunState::Running, Some(health)) => health.to_string(),
        (RunState::Running, None) => "running, but not for long".to_owned(),
        (other, _) => format!("{other:?}").to_lowercase(),
    }
}
