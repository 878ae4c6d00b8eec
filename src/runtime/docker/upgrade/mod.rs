//! The actions of an Upgrade: the old containers are put aside and kept, new ones are made like them.
//!
//! What is kept is in the journal before the first rename. Every action finds what it has reached: by
//! the names, and by a label on what this upgrade has made.

mod exchange;
mod gate;
mod rehearsal;
mod supply;

use std::collections::{BTreeMap, HashMap, HashSet};

use bollard::Docker;
use bollard::models::{RestartPolicy, RestartPolicyNameEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::listing::{inspect, run_state};
use super::looking::Look;
use super::making::{mark, remove, there};
use super::{DockerRuntime, health, held, looking, stillness};
use crate::engine::Cancel;
use crate::plan::docker::{Replaced, RunState, Stopping, replaced};
use crate::plan::upgrade::step;
use crate::plan::version::refusal;
use crate::plan::{Action, Failure, Job, Log, PreflightFacts, UpgradeJob};
use crate::runtime::Handles;
use crate::spec::{ConsistencyMode, Reason};

use exchange::{remove_made, rename, set_restart_policy};

/// Label on a container that an upgrade has made: the upgrade's mark.
const MADE_LABEL: &str = "eider.upgrade";
/// What is kept, in the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    containers: Vec<KeptContainer>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptContainer {
    #[serde(flatten)]
    replaced: Replaced,
    /// Its restart policy: while it is kept the engine must not start it.
    restart_policy: Option<RestartPolicy>,
}

fn images(job: &UpgradeJob) -> BTreeMap<String, String> {
    job.spec.images.clone().unwrap_or_default()
}

fn kept(log: &Log<'_>) -> Vec<KeptContainer> {
    log.intent::<Kept>(step::KEEP_OLD).map(|kept| kept.containers).unwrap_or_default()
}

impl DockerRuntime {
    pub(super) async fn perform_upgrade(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        action: &Action,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        match action {
            Action::Preflight => self.upgrade_preflight(whole, job, log, handles).await,
            Action::Fetch => self.fetch(job, &handles.cancel).await,
            Action::KeepOld => self.keep_old(whole, log).await,
            Action::Apply => self.apply(job, log).await,
            Action::Start => self.start_new(whole, log).await,
            Action::AwaitHealthy => self.upgrade_healthy(job, log, handles).await,
            Action::Soak => self.soak(job, log, handles).await,
            Action::Commit => self.commit(log).await,
            Action::RemoveNew => self.remove_new(job, log, handles).await,
            Action::RestoreOld => self.restore_old(job, log).await,
            other => Err(Failure::new(
                Reason::UnsupportedTarget,
                format!("a Docker host cannot {}", other.describe()),
            )),
        }
    }

    /// Looks at everything that can be looked at before any downtime.
    async fn upgrade_preflight(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let look = self.look(whole).await?;
        let chosen = replaced(&images(job), &look.selection, &look.facts, &mark(&job.operation))?;
        let stopping = looking::foreseen(&look, whole)?;
        if chosen.iter().any(|one| look.facts.own_container.as_ref() == Some(&one.id)) {
            return Err(Failure::new(
                Reason::UnsupportedTarget,
                "Eider runs in one of the containers and cannot replace itself",
            )
            .hint("leave its service out of `spec.images`, and use `docker compose up` for it"));
        }
        for one in &chosen {
            let taken = look.facts.containers.iter().find(|found| found.name == one.aside);
            if let Some(found) = taken.filter(|found| found.id != one.id) {
                return Err(Failure::new(
                    Reason::TargetBusy,
                    format!("container {} is left of another upgrade", found.name),
                )
                .hint("remove it if it is not needed: `docker rm` it"));
            }
        }
        let from = version_before(&look, &chosen);
        let unchanged = chosen
            .iter()
            .all(|one| look.facts.container(&one.id).is_some_and(|found| found.image == one.image));
        if let Some(why) = refusal(from.as_deref(), &job.spec.to_version, unchanged)
            && !job.spec.force
        {
            let message = format!("{}: {why}", whole.target().summary());
            return Err(Failure::new(Reason::NotAnUpgrade, message)
                .hint("set `spec.force: true` to do it all the same"));
        }
        let sources = self.sources(job).await?;
        let backup = self.rehearse_backup(job, log, handles).await?;
        let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
        let mut checks = vec![("SERVICE".to_owned(), "PASS".to_owned(), names.join(", "))];
        checks.push(("IMAGES".to_owned(), "PASS".to_owned(), sources.join(", ")));
        checks.extend(backup.checks);
        let mut warnings = stopping.warnings;
        for warning in backup.warnings {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Ok(json!(PreflightFacts {
            estimated_bytes: backup.estimated_bytes,
            estimated_entries: backup.estimated_entries,
            live_data: true,
            from_version: from,
            warnings,
            checks,
            ..PreflightFacts::default()
        }))
    }

    /// What is to be kept; what an earlier intent says counts more.
    pub(super) async fn to_keep(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        log: &Log<'_>,
    ) -> Result<Value, Failure> {
        if let Some(earlier) = log.intent::<Kept>(step::KEEP_OLD) {
            return Ok(json!(earlier));
        }
        let docker = self.connection.docker().await?;
        let look = self.look(whole).await?;
        let mut containers = Vec::new();
        for replaced in replaced(&images(job), &look.selection, &look.facts, &mark(&job.operation))?
        {
            let found = there(&docker, &replaced.id, &replaced.name).await?;
            let restart_policy = found.host_config.and_then(|host| host.restart_policy);
            containers.push(KeptContainer { replaced, restart_policy });
        }
        Ok(json!(Kept { containers }))
    }

    async fn keep_old(&self, whole: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        // What was backed up has to be what is changed. Once this has begun, names have changed by our doing.
        if log.attempts(step::KEEP_OLD) < 2 {
            self.check_still(whole).await?;
        }
        let docker = self.connection.docker().await?;
        let never =
            RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None };
        for KeptContainer { replaced, .. } in kept(log) {
            crate::failpoint::hit("docker.next-aside");
            set_restart_policy(&docker, &replaced, Some(never.clone())).await?;
            rename(&docker, &replaced.id, &replaced.name, &replaced.aside).await?;
        }
        Ok(Value::Null)
    }

    /// Who is to run with the new version: what was held still, the replaced ones by the new ones.
    async fn new_entries(&self, docker: &Docker, log: &Log<'_>) -> Result<Stopping, Failure> {
        let Some((mut stopping, _)) = held(log) else { return Ok(Stopping::default()) };
        let mut ids = HashMap::new();
        for KeptContainer { replaced, .. } in kept(log) {
            let found = there(docker, &replaced.name, &replaced.name).await?;
            ids.insert(replaced.id, found.id.unwrap_or_default());
        }
        let new = |id: &String| ids.get(id).unwrap_or(id).clone();
        for entry in &mut stopping.order {
            entry.id = new(&entry.id);
            entry.after_healthy = entry.after_healthy.iter().map(new).collect();
        }
        Ok(stopping)
    }

    async fn start_new(&self, whole: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let stopping = self.new_entries(&docker, log).await?;
        if let Err(failure) = stillness::release(&docker, &stopping, false).await {
            // Who lives in the network of one that has ended cannot start: the first cause is told.
            let cause = health::first_ended(&docker, &stopping).await?;
            let message = match cause {
                Some(cause) => format!("{cause}; {}", failure.message),
                None => failure.message.clone(),
            };
            return Err(Failure { reason: Reason::Unhealthy, message, ..failure });
        }
        self.holds.drop(whole.operation());
        Ok(json!({ "at": jiff::Timestamp::now() }))
    }

    async fn commit(&self, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        for KeptContainer { replaced, .. } in kept(log) {
            remove(&docker, &replaced.id, &replaced.aside).await?;
        }
        Ok(Value::Null)
    }

    /// Ends and removes what this upgrade has made, and holds the others still again.
    async fn remove_new(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let kept = kept(log);
        // Dependents first, as always when stopping. One that is in the way keeps no other from it.
        let mut first_failure = None;
        for KeptContainer { replaced, .. } in kept.iter().rev() {
            if let Err(failure) = remove_made(&docker, replaced, job).await {
                first_failure.get_or_insert(failure);
            }
        }
        if let Some((mut stopping, _)) = held(log) {
            let is_kept = |id: &String| kept.iter().any(|one| one.replaced.id == *id);
            stopping.order.retain(|entry| !is_kept(&entry.id));
            // There is no way back from the way back: everybody has the time that it takes to stop.
            let timeout =
                job.spec.consistency.timeout.to_duration() + stillness::time_to_stop(&stopping);
            let uncut = Cancel::new();
            let mode = ConsistencyMode::Stop;
            let touch = looking::touch(&Job::Upgrade(job.clone()));
            stillness::hold(&docker, &stopping, mode, touch, timeout, &uncut).await?;
        }
        handles.progress.phase("rolling back");
        first_failure.map_or(Ok(Value::Null), Err)
    }

    /// Gives the old containers their names and restart policies again.
    async fn restore_old(&self, job: &UpgradeJob, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let mut first_failure = None;
        for KeptContainer { replaced, restart_policy } in kept(log) {
            crate::failpoint::hit("docker.next-back");
            let back = async {
                remove_made(&docker, &replaced, job).await?;
                rename(&docker, &replaced.id, &replaced.aside, &replaced.name).await?;
                set_restart_policy(&docker, &replaced, restart_policy).await
            };
            if let Err(failure) = back.await {
                first_failure.get_or_insert(failure);
            }
        }
        first_failure.map_or(Ok(Value::Null), Err)
    }

    /// Those that an upgrade has put aside and whose place is taken by a container that runs: two of one
    /// service must never work on the same data.
    pub(super) async fn displaced(&self, log: &Log<'_>) -> Result<HashSet<String>, Failure> {
        let docker = self.connection.docker().await?;
        let mut displaced = HashSet::new();
        for KeptContainer { replaced, .. } in kept(log) {
            let Some(found) = inspect(docker.clone(), replaced.name.clone()).await? else {
                continue;
            };
            let is_other = found.id.as_ref() != Some(&replaced.id);
            if is_other && run_state(found.state.as_ref()) != RunState::Stopped {
                tracing::warn!(
                    "{} is not started: another container {} runs in its place",
                    replaced.aside,
                    replaced.name
                );
                displaced.insert(replaced.id);
            }
        }
        Ok(displaced)
    }
}

fn version_before(look: &Look, chosen: &[Replaced]) -> Option<String> {
    let first = chosen.first()?;
    let selection = crate::plan::docker::Selection {
        containers: vec![first.id.clone()],
        ..crate::plan::docker::Selection::default()
    };
    looking::version(&selection, &look.facts)
}
