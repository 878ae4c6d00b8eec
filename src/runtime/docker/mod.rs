//! Containers and volumes of a Docker host.
//!
//! What a target means is decided by `plan/docker` from what the engine lists; who is held still is
//! in the journal before the first stop; the data itself is read and replaced by the host runtime:
//! where the engine keeps it, or in a worker if Eider runs in a container itself (ADR 15).

mod address;
mod archives;
mod connection;
mod credentials;
mod definitions;
mod health;
mod holds;
mod hooks;
mod identity;
mod images;
mod layers;
mod letting_go;
mod listing;
mod looking;
mod making;
mod raw;
mod reach;
mod reading;
mod reviving;
mod stamps;
mod stillness;
mod survey;
mod translate;
mod upgrade;
mod witness;
mod worker;

use std::time::Duration;

use bollard::Docker;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::host::{HostRuntime, local_path};
use super::{BoxFuture, Handles, Runtime, hook_phase};
use crate::plan::backup::step as backup_step;
use crate::plan::docker::{Place, RootSource, StopEntry, Stopping, Touch};
use crate::plan::restore::step as restore_step;
use crate::plan::{Action, BackupJob, Failure, Job, Log, Observed, OperationId, PreflightFacts};
use crate::spec::hooks::ExecHook;
use crate::spec::target::DockerTarget;
use crate::spec::upgrade::HealthGate;
use crate::spec::{ConsistencyMode, Reason};

use connection::Connection;
use holds::Holds;
use letting_go::{Ending, release};
use worker::{Own, Workers};

/// Acts on the containers and volumes of one engine.
#[derive(Clone, Default)]
pub struct DockerRuntime {
    connection: Connection,
    host: HostRuntime,
    holds: Holds,
    workers: Workers,
}

fn docker_target(job: &Job) -> Result<&DockerTarget, Failure> {
    job.target().docker.as_ref().ok_or_else(|| {
        Failure::new(
            Reason::UnsupportedTarget,
            format!("the target {} is not one of a Docker host", job.target().summary()),
        )
    })
}

/// The job on directories, by what preflight has found.
fn on_host(job: &Job, log: &Log<'_>) -> Job {
    let facts: PreflightFacts = log.facts(backup_step::PREFLIGHT).unwrap_or_default();
    let mut job = translate::onto(&facts.places, facts.definitions.as_ref(), job);
    if let Job::Backup(BackupJob { spec, .. }) = &mut job
        && spec.service_version.is_none()
    {
        spec.service_version = facts.from_version;
    }
    job
}

/// Where the job's data is, by what preflight has found.
fn places(log: &Log<'_>) -> Vec<Place> {
    log.facts::<PreflightFacts>(backup_step::PREFLIGHT).unwrap_or_default().places
}

/// Whether a Restore is being undone, or has not got to its new data.
fn goes_back(log: &Log<'_>) -> bool {
    !log.done(restore_step::SWAP) || log.touched(restore_step::SWAP_BACK)
}

/// Who the job holds still, by the latest intent that says so.
fn held(log: &Log<'_>) -> Option<(Stopping, bool)> {
    [restore_step::UNDO_QUIESCE, backup_step::QUIESCE].into_iter().find_map(|step| {
        let stopping = log.intent::<Stopping>(step)?;
        Some((stopping, !log.done(step)))
    })
}

impl DockerRuntime {
    /// Learns from the journal of an earlier process what an operation holds still: others that let
    /// their containers go are to leave those alone.
    pub fn remember(&self, job: &Job, log: &Log<'_>) {
        if job.target().docker.is_some()
            && let Some(stopping) = holds::still_held(log)
        {
            self.holds.take(job.operation(), &stopping);
        }
    }

    /// An operation has come to its end: whatever came of it, it holds nobody and needs no worker.
    pub async fn conclude(&self, operation: &OperationId) {
        self.holds.drop(operation);
        self.workers.conclude(&self.connection, operation).await;
    }

    /// Who is to be held still: as an earlier turn has found it, with those that have come up since.
    async fn intended(&self, job: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        let mut stopping = self.stopping(job).await?;
        if let Some((earlier, _)) = held(log) {
            stopping = stopping.with_earlier(earlier);
        }
        self.holds.take(job.operation(), &stopping);
        Ok(json!(stopping))
    }

    async fn hold(
        &self,
        job: &Job,
        mode: ConsistencyMode,
        timeout: Duration,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let intent = log.entries().last().map(|entry| entry.detail.clone()).unwrap_or_default();
        let stopping: Stopping = serde_json::from_value(intent).map_err(|error| {
            Failure::new(Reason::InternalError, format!("the intent does not decode: {error}"))
        })?;
        let docker = self.connection.docker().await?;
        let touch = looking::touch(job);
        let (cancel, stopping) = (&handles.cancel, &stopping);
        let now = Timestamp::now();
        let held = stillness::hold(&docker, stopping, mode, touch, timeout, cancel).await?;
        let (warnings, first) = held;
        Ok(json!({ "warnings": warnings, "at": first.unwrap_or(now) }))
    }

    async fn release(&self, job: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        let Some((mut stopping, unsettled)) = held(log) else { return Ok(Value::Null) };
        let mut failed = None;
        if let Job::Restore(restore) = job {
            if goes_back(log) {
                // Whoever ran before runs again all the same, though the archive may be gone by now.
                match self.remove_revived(restore, stopping.clone()).await {
                    Ok(left) => stopping = left,
                    Err(failure) => failed = Some(failure),
                }
            } else {
                stopping = self.revive(restore, stopping).await?;
            }
        }
        let mut others = self.holds.of_others(job.operation());
        if matches!(job, Job::Upgrade(_)) {
            others.extend(self.displaced(log).await?);
        }
        stopping.order.retain(|entry| !others.contains(&entry.id));
        let mut at = Timestamp::now();
        if !stopping.order.is_empty() {
            let docker = self.connection.docker().await?;
            // Freezing is done when it is told; only a stop goes on without whoever asked for it.
            let unsettled = unsettled && looking::mode(job) == ConsistencyMode::Stop;
            let since = || holds::held_since(log).unwrap_or(Timestamp::UNIX_EPOCH);
            let ending =
                Ending { unsettled: unsettled.then(since), is_late: holds::is_inherited(log) };
            release(&docker, &stopping, ending).await?;
            at = Timestamp::now();
            if let Some(since) = log.started_at(backup_step::QUIESCE) {
                at = letting_go::last_start(&docker, &stopping, since).await.unwrap_or(at);
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        self.holds.drop(job.operation());
        Ok(json!({ "at": at }))
    }

    async fn healthy(&self, job: &Job, log: &Log<'_>, handles: &Handles) -> Result<Value, Failure> {
        let Some((mut stopping, _)) = held(log) else { return Ok(Value::Null) };
        if let Job::Restore(restore) = job {
            stopping = self.revive(restore, stopping).await?;
        }
        // What was ill for its data may be healed by other data.
        let entries = stopping.to_be_well(|entry| entry.holds_data);
        let docker = self.connection.docker().await?;
        let timeout = match job {
            Job::Restore(restore) => restore.spec.health_timeout.to_duration(),
            _ => HealthGate::default().timeout.to_duration(),
        };
        let at = health::until_healthy(&docker, &entries, timeout, &handles.cancel).await?;
        Ok(json!({ "at": at }))
    }
}

impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn accepts(&self, job: &Job) -> Result<(), Failure> {
        docker_target(job)?;
        match job {
            Job::Backup(job) => {
                local_path(&job.store)?;
            }
            Job::Restore(job) => {
                local_path(&job.store)?;
                if job.spec.consistency.mode == ConsistencyMode::Pause {
                    return Err(Failure::new(
                        Reason::UnsupportedTarget,
                        "the files of a frozen container cannot be replaced: it holds them open",
                    )
                    .hint("use `consistency.mode: Stop`"));
                }
            }
            Job::Upgrade(job) => {
                if job.spec.package.is_some() || job.spec.images.is_none() {
                    return Err(Failure::new(
                        Reason::UnsupportedTarget,
                        "packages cannot be applied to containers",
                    )
                    .hint("use `spec.images`"));
                }
                if let Some(store) = &job.store {
                    local_path(store)?;
                }
            }
        }
        Ok(())
    }

    fn observe<'a>(
        &'a self,
        job: &'a Job,
        log: Log<'a>,
    ) -> BoxFuture<'a, Result<Observed, Failure>> {
        Box::pin(async move {
            let translated = on_host(job, &log);
            let places = places(&log);
            match job {
                // Its Backup and its Restore look for themselves.
                Job::Upgrade(_) => Ok(Observed::default()),
                // What a store holds is seen from here, engine or no engine.
                Job::Backup(_) => self.host.observe(&translated, log).await,
                Job::Restore(_) if places.is_empty() => Ok(Observed::default()),
                Job::Restore(_) => match self.connected().await? {
                    (_, None) => self.host.observe(&translated, log).await,
                    (docker, Some(own)) => {
                        self.workers.observe(&docker, own, &places, (&translated, log)).await
                    }
                },
            }
        })
    }

    fn explain<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let look = self.look(job).await?;
            if self.connected().await?.1.is_none() {
                look.facts.check_paths()?;
            }
            let mode = looking::mode(job);
            let stopping = looking::foreseen(&look, job)?;
            let mut lines = Vec::new();
            for root in &look.selection.roots {
                let what = match &root.source {
                    RootSource::Volume(name) => format!("volume {name}"),
                    RootSource::Bind(path) => format!("path {path}"),
                };
                let of = root.containers.iter().cloned().collect::<Vec<_>>().join(", ");
                lines.push(if of.is_empty() { what } else { format!("{what} (of {of})") });
            }
            if mode != ConsistencyMode::Live {
                let word = if mode == ConsistencyMode::Pause { "paused" } else { "stopped" };
                let stays = |entry: &StopEntry| {
                    entry.paused
                        && (mode == ConsistencyMode::Pause || looking::touch(job) == Touch::Read)
                };
                for entry in &stopping.order {
                    if stays(entry) {
                        lines.push(format!("{} is paused and stays so", entry.name));
                        continue;
                    }
                    let why = match &entry.lives_with {
                        Some(other) => format!(", because it lives in {other}"),
                        None if entry.selected => String::new(),
                        None => ", because it works on the same data".to_owned(),
                    };
                    lines.push(format!("{} is {word}{why}", entry.name));
                }
            }
            if let Job::Restore(restore) = job {
                lines.extend(reviving::foretold(restore, &look.facts)?);
            }
            // In a container the store is the worker's to see.
            if self.connected().await?.1.is_none() {
                lines.extend(super::host::explain_parent(job));
            }
            if let Job::Upgrade(upgrade) = job {
                lines.extend(self.explain_upgrade(job, upgrade, &look, &stopping).await?);
            }
            lines.extend(stopping.warnings);
            lines.extend(look.placements.warnings);
            let uncovered = &look.selection.uncovered;
            if !uncovered.is_empty() {
                let selected = &look.selection.containers;
                let selected = selected.iter().filter_map(|id| look.facts.container(id));
                let written = layers::written(&self.connection.docker().await?, selected).await;
                lines.extend(uncovered.iter().map(|left| layers::line(left, &written)));
            }
            Ok(lines)
        })
    }

    fn intend<'a>(
        &'a self,
        job: &'a Job,
        action: &'a Action,
        log: Log<'a>,
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(async move {
            match (action, job) {
                (Action::Quiesce { .. }, _) => self.intended(job, &log).await,
                (Action::KeepOld, Job::Upgrade(upgrade)) => self.to_keep(job, upgrade, &log).await,
                (_, Job::Upgrade(_)) => Ok(Value::Null),
                (Action::Archive, _) => {
                    let translated = on_host(job, &log);
                    match self.connected().await? {
                        (_, None) => self.host.intend(&translated, action, log).await,
                        (docker, Some(own)) => {
                            let (places, what) = (places(&log), (&translated, log));
                            self.workers.intend(&docker, own, &places, what, action).await
                        }
                    }
                }
                _ => Ok(Value::Null),
            }
        })
    }

    fn perform<'a>(
        &'a self,
        job: &'a Job,
        action: &'a Action,
        log: Log<'a>,
        handles: &'a Handles,
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(async move {
            match action {
                Action::RunHooks(phase) => {
                    let target = docker_target(job)?;
                    let command = |exec: ExecHook, timeout| -> BoxFuture<'_, _> {
                        Box::pin(async move {
                            hooks::in_containers(&self.connection, target, &exec, timeout).await
                        })
                    };
                    hook_phase::run(job, *phase, &handles.cancel, &command).await
                }
                Action::Quiesce { mode, timeout } => {
                    self.hold(job, *mode, timeout.to_duration(), &log, handles).await
                }
                Action::Resume => self.release(job, &log).await,
                _ => self.perform_own(job, action, log, handles).await,
            }
        })
    }
}

impl DockerRuntime {
    /// The actions of one kind of operation alone.
    async fn perform_own(
        &self,
        job: &Job,
        action: &Action,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        if let Job::Upgrade(upgrade) = job {
            return self.perform_upgrade(job, upgrade, action, &log, handles).await;
        }
        match action {
            Action::Preflight => self.preflight(job, log, handles).await,
            Action::AwaitHealthy => self.healthy(job, &log, handles).await,
            Action::Swap => {
                self.check_unchanged(job, &log).await?;
                self.on_data(&on_host(job, &log), &places(&log), action, log, handles).await
            }
            Action::Archive => self.archive(job, log, handles).await,
            _ => self.on_data(&on_host(job, &log), &places(&log), action, log, handles).await,
        }
    }

    /// The engine, and the container that Eider itself runs in.
    async fn connected(&self) -> Result<(Docker, Option<&Own>), Failure> {
        let docker = self.connection.docker().await?;
        let own = self.workers.own(&docker).await?;
        Ok((docker, own))
    }

    /// Has a job on directories done where they are: here, or in a worker.
    async fn on_data(
        &self,
        translated: &Job,
        places: &[Place],
        action: &Action,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        match self.connected().await? {
            (_, None) => self.host.perform(translated, action, log, handles).await,
            (docker, Some(own)) => {
                let what = (translated, log);
                self.workers.perform(&docker, own, places, what, action, handles).await
            }
        }
    }
}
