//! How the services of Docker targets fare: seen every half minute and whenever the engine says that
//! something changed, recorded, and put into the metrics.
//!
//! It looks and writes down; it starts and stops nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::{Operator, OperatorError};
use crate::catalog::ServiceStatus;
use crate::plan::docker::{Sighting, Usage, is_up, select};
use crate::spec::Target;

/// How often services are looked at.
const EVERY: Duration = Duration::from_secs(30);
/// How soon again while there is nothing to look at, and how often so soon.
const SOON: Duration = Duration::from_secs(3);
const IMPATIENT: u32 = 4;
/// Events come in flocks: a start is several.
const SETTLE: Duration = Duration::from_millis(300);

impl Operator {
    /// Watches services until the task is aborted. An engine that cannot be reached is tried again.
    pub fn watch_services(&self) -> JoinHandle<()> {
        let operator = self.clone();
        tokio::spawn(async move {
            let (sender, mut changed) = mpsc::channel(1);
            let following = tokio::spawn(operator.clone().follow_events(sender));
            let mut watch = Watch::new(operator);
            let mut impatient = IMPATIENT;
            loop {
                let seen = watch.turn(true).await;
                // Documents are read after the start, and engines come late; but an idle daemon sleeps.
                let soon = !seen && impatient > 0 && watch.operator.docker.is_configured();
                impatient = impatient.saturating_sub(1);
                let pause = if soon { SOON } else { EVERY };
                let next = tokio::time::sleep(pause);
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        () = &mut next => break,
                        told = changed.recv() => {
                            if told.is_none() {
                                following.abort();
                                return;
                            }
                            tokio::time::sleep(SETTLE).await;
                            while changed.try_recv().is_ok() {}
                            watch.turn(false).await;
                        }
                    }
                }
            }
        })
    }

    async fn follow_events(self, changed: mpsc::Sender<()>) {
        let mut impatient = IMPATIENT;
        loop {
            // A host without a Docker target may be one without an engine, or one whose engine is busy with
            // what is none of ours: its events would keep an idle daemon awake.
            let wanted = self.docker.is_configured()
                && self.docker_targets().await.is_ok_and(|targets| !targets.is_empty());
            if wanted && let Err(failure) = self.docker.changes(&changed).await {
                debug!("{}", failure.message);
            }
            if changed.is_closed() {
                return;
            }
            let soon = wanted || (impatient > 0 && self.docker.is_configured());
            impatient = impatient.saturating_sub(1);
            tokio::time::sleep(if soon { SOON } else { EVERY }).await;
        }
    }

    /// The Docker targets of all documents, each with its namespace.
    async fn docker_targets(&self) -> Result<Vec<(String, Target)>, OperatorError> {
        let mut targets = BTreeMap::new();
        for resource in self.catalog.resources(None).await? {
            if resource.removed_at.is_some() {
                continue;
            }
            let spec = &resource.document["spec"];
            for found in [&spec["target"], &spec["template"]["spec"]["target"]] {
                if let Ok(target) = serde_json::from_value::<Target>(found.clone())
                    && target.docker.is_some()
                {
                    targets.insert((resource.namespace.clone(), target.summary()), target);
                }
            }
        }
        Ok(targets.into_iter().map(|((namespace, _), target)| (namespace, target)).collect())
    }

    /// Whether an operation holds or may hold the target's service still.
    fn works_on(&self, target: &str) -> bool {
        self.running().iter().any(|running| running.target == target)
    }
}

/// What was seen last.
struct Watch {
    operator: Operator,
    /// What containers used when they were last measured, by id.
    usages: HashMap<String, Usage>,
    /// The last row of each service.
    last: BTreeMap<String, ServiceStatus>,
    /// Problems with labels that have been said.
    problems: BTreeSet<String>,
    /// Whether the last look failed: said once.
    failed: bool,
}

impl Watch {
    fn new(operator: Operator) -> Self {
        Self {
            operator,
            usages: HashMap::new(),
            last: BTreeMap::new(),
            problems: BTreeSet::new(),
            failed: false,
        }
    }

    /// Looks once and says whether there was anything to be seen.
    async fn turn(&mut self, whole: bool) -> bool {
        match self.look(whole).await {
            Ok(seen) => {
                self.failed = false;
                seen
            }
            Err(error) => {
                if !self.failed {
                    warn!("services cannot be watched: {error}");
                }
                self.failed = true;
                false
            }
        }
    }

    /// Between the whole looks only what has changed is written.
    async fn look(&mut self, whole: bool) -> Result<bool, OperatorError> {
        // New schedules are the daemon's to keep.
        if self.operator.sync_labels(&mut self.problems).await? {
            self.operator.wake();
        }
        let targets = self.operator.docker_targets().await?;
        if targets.is_empty() {
            return Ok(false);
        }
        let (facts, sightings) = self.operator.docker.survey(whole).await?;
        let mut rows = BTreeMap::new();
        for (namespace, target) in targets {
            let Some(docker) = &target.docker else { continue };
            let summary = target.summary();
            let Ok(selection) = select(docker, &facts) else {
                // Why it is not there is told by the operations on it.
                self.operator.metrics().service_up(&namespace, &summary, false);
                continue;
            };
            let of_target: Vec<&Sighting> = sightings
                .iter()
                .filter(|sighting| selection.containers.contains(&sighting.container.id))
                .collect();
            if let Some(up) = is_up(&of_target)
                && !self.operator.works_on(&summary)
            {
                self.operator.metrics().service_up(&namespace, &summary, up);
            }
            for sighting in of_target {
                rows.insert(sighting.container.name.clone(), self.row(sighting));
            }
        }
        for (name, row) in gone(&self.last, &rows) {
            rows.insert(name, row);
        }
        for sighting in &sightings {
            if let Some(usage) = sighting.usage {
                self.usages.insert(sighting.container.id.clone(), usage);
            }
        }
        self.usages.retain(|id, _| facts.container(id).is_some());
        let is_new = |row: &ServiceStatus| {
            self.last.get(&row.service_name).is_none_or(|last| !is_same(last, row))
        };
        let written: Vec<ServiceStatus> =
            rows.values().filter(|row| whole || is_new(row)).cloned().collect();
        if !written.is_empty() {
            self.operator.catalog.append_service_statuses(written).await?;
        }
        // Who is gone has been written down as such, and is no more looked for.
        rows.retain(|_, row| row.container_id.is_some());
        self.last = rows;
        Ok(true)
    }

    fn row(&self, sighting: &Sighting) -> ServiceStatus {
        let (status, error_message) = sighting.status();
        let container = &sighting.container;
        let earlier = self.usages.get(&container.id);
        let usage = sighting.usage;
        let now = Timestamp::now();
        let uptime = sighting.started_at.filter(|_| container.is_up());
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        ServiceStatus {
            id: 0,
            service_name: container.name.clone(),
            container_id: Some(container.id.clone()),
            status: status.to_owned(),
            cpu_usage: usage.and_then(|usage| usage.processor_percent(earlier?)),
            memory_usage: usage.map(|usage| bytes(usage.memory_bytes)),
            network_io: usage.map_or(serde_json::Value::Null, |usage| {
                json!({"receivedBytes": usage.received_bytes, "sentBytes": usage.sent_bytes})
            }),
            health_status: sighting.health_word().to_owned(),
            error_message,
            uptime_seconds: uptime.map(|at| now.duration_since(at).as_secs().max(0)),
            restart_count: Some(sighting.restarts),
            recorded_at: now,
        }
    }
}

/// Whether two rows tell the same of a service, but for the time and what it uses.
fn is_same(one: &ServiceStatus, other: &ServiceStatus) -> bool {
    one.container_id == other.container_id
        && one.status == other.status
        && one.health_status == other.health_status
        && one.restart_count == other.restart_count
        && one.error_message == other.error_message
}

/// Rows for those that are not there any more.
fn gone(
    last: &BTreeMap<String, ServiceStatus>,
    rows: &BTreeMap<String, ServiceStatus>,
) -> Vec<(String, ServiceStatus)> {
    let missing = last.keys().filter(|name| !rows.contains_key(*name));
    missing
        .map(|name| {
            let row = ServiceStatus {
                service_name: name.clone(),
                status: "stopped".to_owned(),
                health_status: "unknown".to_owned(),
                error_message: Some("the container was removed".to_owned()),
                recorded_at: Timestamp::now(),
                ..ServiceStatus::default()
            };
            (name.clone(), row)
        })
        .collect()
}
