//! Looking at how services fare, without touching them.

use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, HealthStatusEnum, RestartPolicyNameEnum};
use bollard::query_parameters::{
    EventsOptionsBuilder, ListContainersOptionsBuilder, StatsOptionsBuilder,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::DockerRuntime;
use super::connection::{ANSWER, failure, limited};
use super::listing::{container_facts, facts_of, host_facts, inspected, volumes};
use crate::plan::Failure;
use crate::plan::docker::{Health, HostFacts, RunState, Sighting, Usage};

/// Containers whose use is asked for at once.
const AT_ONCE: usize = 8;
/// How long the engine may take to measure one container.
const MEASURE: Duration = Duration::from_secs(10);

impl DockerRuntime {
    /// Whether there may be an engine at all: `DOCKER_HOST` is set, or the default socket is there.
    pub fn is_configured(&self) -> bool {
        std::env::var_os("DOCKER_HOST").is_some_and(|value| !value.is_empty())
            || std::path::Path::new("/var/run/docker.sock").exists()
    }

    /// Everything that targets are resolved with.
    pub async fn facts(&self) -> Result<HostFacts, Failure> {
        host_facts(&self.connection).await
    }

    /// Whether any container has this label.
    pub async fn has_label(&self, label: &str) -> Result<bool, Failure> {
        let docker = self.connection.docker().await?;
        let filters = std::collections::HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listing = docker.list_containers(Some(options));
        Ok(!limited("list the containers", ANSWER, listing).await?.is_empty())
    }

    /// Every container as it is now, and the facts that targets are resolved with. `measured` asks for
    /// what they use too, which costs the engine a call for each.
    pub async fn survey(&self, measured: bool) -> Result<(HostFacts, Vec<Sighting>), Failure> {
        let docker = self.connection.docker().await?;
        let found = inspected(&docker).await?;
        let facts = facts_of(&found, volumes(&docker).await?)?;
        let seen: Vec<Sighting> = found.iter().map(sighting).collect();
        let measuring = seen.into_iter().map(|seen| measure(docker.clone(), seen, measured));
        let sightings = futures_util::stream::iter(measuring).buffered(AT_ONCE).collect().await;
        Ok((facts, sightings))
    }

    /// Says when a container starts, ends or changes its health, until the engine ends the stream or
    /// nobody listens.
    pub async fn changes(&self, changed: &mpsc::Sender<()>) -> Result<(), Failure> {
        let docker = self.connection.docker().await?;
        let filters = std::collections::HashMap::from([("type", vec!["container"])]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = docker.events(Some(options));
        // What happened before this is told by nobody.
        let _ = changed.try_send(());
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| failure("follow the engine's events", &error))?;
            // Commands in containers have events too: health checks are hundreds of them.
            let action = event.action.unwrap_or_default();
            if !action.starts_with("exec_") && changed.try_send(()).is_err() && changed.is_closed()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn sighting(found: &ContainerInspectResponse) -> Sighting {
    let state = found.state.clone().unwrap_or_default();
    let health = state.health.as_ref().and_then(|health| match health.status {
        Some(HealthStatusEnum::STARTING) => Some(Health::Starting),
        Some(HealthStatusEnum::HEALTHY) => Some(Health::Healthy),
        Some(HealthStatusEnum::UNHEALTHY) => Some(Health::Unhealthy),
        _ => None,
    });
    let policy = found.host_config.as_ref().and_then(|host| host.restart_policy.as_ref()?.name);
    Sighting {
        container: container_facts(found),
        health,
        exit_code: state.exit_code.unwrap_or_default(),
        out_of_memory: state.oom_killed == Some(true),
        restarts: found.restart_count.unwrap_or_default(),
        // Year 1 is how the engine writes "never".
        started_at: state
            .started_at
            .filter(|at| !at.starts_with("0001-"))
            .and_then(|at| at.parse().ok()),
        is_to_run: matches!(
            policy,
            Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED)
        ),
        usage: None,
    }
}

async fn measure(docker: Docker, mut sighting: Sighting, measured: bool) -> Sighting {
    if measured && sighting.container.state == RunState::Running {
        sighting.usage = usage(&docker, &sighting.container.id).await;
    }
    sighting
}

/// What a container uses; none if it ends meanwhile, or the engine does not say in time.
async fn usage(docker: &Docker, id: &str) -> Option<Usage> {
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let mut stream = std::pin::pin!(docker.stats(id, Some(options)));
    let found = tokio::time::timeout(MEASURE, stream.next()).await.ok()??.ok()?;
    let memory = found.memory_stats.unwrap_or_default();
    let details = memory.stats.unwrap_or_default();
    // Version 1 and version 2 of control groups call it differently.
    let droppable =
        ["total_inactive_file", "inactive_file"].iter().find_map(|key| details.get(*key));
    let networks = found.networks.unwrap_or_default();
    let sum = |each: &dyn Fn(&bollard::models::ContainerNetworkStats) -> Option<u64>| {
        networks.values().filter_map(each).fold(0_u64, u64::saturating_add)
    };
    Some(Usage {
        processor_nanoseconds: found.cpu_stats?.cpu_usage?.total_usage?,
        at: Timestamp::now(),
        memory_bytes: memory.usage?.saturating_sub(droppable.copied().unwrap_or_default()),
        received_bytes: sum(&|one| one.rx_bytes),
        sent_bytes: sum(&|one| one.tx_bytes),
    })
}
