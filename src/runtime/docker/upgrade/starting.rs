//! Starting the new containers. Those that do their work once have to have done it before anybody starts
//! who depends on that.

use std::time::{Duration, Instant};

use bollard::Docker;
use serde_json::{Value, json};

use super::{Kept, renew, successors};
use crate::engine::Cancel;
use crate::plan::docker::{RunState, Starting, StopEntry, Stopping};
use crate::plan::upgrade::step;
use crate::plan::{Failure, Log, UpgradeJob};
use crate::runtime::Handles;
use crate::runtime::docker::letting_go::{Ending, release};
use crate::runtime::docker::listing::{inspect, run_state};
use crate::runtime::docker::{DockerRuntime, health, held};
use crate::spec::Reason;

/// How often one that does its work once is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl DockerRuntime {
    pub(super) async fn start_new(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let starting = new_order(&docker, log).await?;
        let timeout = job.spec.health_gate.timeout.to_duration();
        if let Err(failure) = start(&docker, &starting, timeout, &handles.cancel).await {
            // Who lives in the network of one that has ended cannot start: the first cause is told.
            let stopping = Stopping { order: starting.order, warnings: Vec::new() };
            let cause = health::first_ended(&docker, &stopping).await?;
            let message = match cause {
                Some(cause) if !failure.message.starts_with(&cause) => {
                    format!("{cause}; {}", failure.message)
                }
                _ => failure.message.clone(),
            };
            let reason = match failure.reason {
                Reason::Cancelled => Reason::Cancelled,
                _ => Reason::Unhealthy,
            };
            return Err(Failure { reason, message, ..failure });
        }
        self.holds.drop(&job.operation);
        Ok(json!({ "at": jiff::Timestamp::now() }))
    }
}

/// Who starts, the replaced ones by the new ones. A journal of before there was such an order has only who
/// was held still.
async fn new_order(docker: &Docker, log: &Log<'_>) -> Result<Starting, Failure> {
    let kept: Option<Kept> = log.intent(step::KEEP_OLD);
    let mut starting = kept.map(|kept| kept.starting).unwrap_or_default();
    if starting.order.is_empty() {
        starting.order = held(log).map(|(stopping, _)| stopping.order).unwrap_or_default();
    }
    let ids = successors(docker, log).await?;
    renew(&mut starting.order, &ids);
    for id in &mut starting.one_shots {
        if let Some(new) = ids.get(id) {
            id.clone_from(new);
        }
    }
    Ok(starting)
}

async fn start(
    docker: &Docker,
    starting: &Starting,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let is_one_shot = |entry: &StopEntry| starting.one_shots.contains(&entry.id);
    let all = &starting.order;
    for (place, one) in all.iter().enumerate().rev().filter(|(_, entry)| is_one_shot(entry)) {
        // With everybody who starts before it: it may wait for their health. What runs already goes on.
        let before = all.iter().skip(place);
        let order =
            before.filter(|entry| entry.id == one.id || !is_one_shot(entry)).cloned().collect();
        release(docker, &Stopping { order, warnings: Vec::new() }, Ending::default()).await?;
        until_done(docker, one, timeout, cancel).await?;
    }
    let order = all.iter().filter(|entry| !is_one_shot(entry)).cloned().collect();
    release(docker, &Stopping { order, warnings: Vec::new() }, Ending::default()).await
}

/// Waits until a container has done its work.
///
/// # Errors
/// [`Reason::Unhealthy`] if it ends with anything but 0, is removed or takes longer than `timeout`;
/// [`Reason::Cancelled`].
async fn until_done(
    docker: &Docker,
    entry: &StopEntry,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let name = &entry.name;
    let unhealthy = |message: String| {
        Failure::new(Reason::Unhealthy, message)
            .hint(format!("others wait for it to end with 0; `docker logs {name}` says why"))
    };
    let begun = Instant::now();
    loop {
        let Some(found) = inspect(docker.clone(), entry.id.clone()).await? else {
            return Err(unhealthy(format!("container {name} was removed")));
        };
        if run_state(found.state.as_ref()) == RunState::Stopped {
            let code = found.state.and_then(|state| state.exit_code).unwrap_or_default();
            return match code {
                0 => Ok(()),
                code => Err(unhealthy(format!("{name} has ended with code {code}"))),
            };
        }
        if begun.elapsed() > timeout {
            let seconds = timeout.as_secs();
            return Err(unhealthy(format!("{name} has not ended within {seconds} s"))
                .hint("others wait for it to end: raise `spec.healthGate.timeout`"));
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, format!("cancelled while {name} ran")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
