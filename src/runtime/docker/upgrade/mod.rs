//! The actions of an Upgrade: the old containers are put aside and kept, new ones are made like them.
//!
//! What is kept is in the journal before the first rename. Every action finds what it has reached: by
//! the names, and by a label on what this upgrade has made.

mod exchange;
mod gate;
mod rehearsal;
mod starting;
mod supply;

use std::collections::{BTreeMap, HashMap, HashSet};

use bollard::Docker;
use bollard::models::{RestartPolicy, RestartPolicyNameEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::listing::{inspect, run_state};
use super::looking::Look;
use super::making::{mark, remove, there};
use super::{DockerRuntime, held, looking, stillness};
use crate::engine::Cancel;
use crate::plan::docker::{Replaced, RunState, Starting, StopEntry, Stopping, replaced, starting};
use crate::plan::upgrade::step;
use crate::plan::{Action, Failure, Job, Log, UpgradeJob};
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
    /// Who starts in the end, by the ids of the old ones.
    #[serde(default)]
    starting: Starting,
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

/// The containers to replace. What upgrades have kept is in nobody's place.
fn chosen(job: &UpgradeJob, look: &Look) -> Result<Vec<Replaced>, Failure> {
    let selection = look.selection.clone().in_place(&look.facts);
    replaced(&images(job), &selection, &look.facts, &mark(&job.operation))
}

/// The ids of the new containers by those of the old ones.
async fn successors(docker: &Docker, log: &Log<'_>) -> Result<HashMap<String, String>, Failure> {
    let mut ids = HashMap::new();
    for KeptContainer { replaced, .. } in kept(log) {
        let found = there(docker, &replaced.name, &replaced.name).await?;
        ids.insert(replaced.id, found.id.unwrap_or_default());
    }
    Ok(ids)
}

/// Puts the new containers in the place of the old ones, whose health says nothing about them.
fn renew(order: &mut [StopEntry], ids: &HashMap<String, String>) {
    let new = |id: &String| ids.get(id).unwrap_or(id).clone();
    for entry in order {
        entry.was_ill &= !ids.contains_key(&entry.id);
        entry.was_unproven &= !ids.contains_key(&entry.id);
        entry.id = new(&entry.id);
        entry.after_healthy = entry.after_healthy.iter().map(new).collect();
        entry.after = entry.after.as_ref().map(|ids| ids.iter().map(new).collect());
    }
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
            Action::Fetch => self.fetch(whole, job, &handles.cancel).await,
            Action::KeepOld => self.keep_old(whole, log).await,
            Action::Apply => self.apply(job, log).await,
            Action::Start => self.start_new(job, log, handles).await,
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
        let chosen = chosen(job, &look)?;
        let (stopping, _) = held(log).unwrap_or_default();
        let starting = starting(&chosen, &stopping, &look.facts);
        let mut containers = Vec::new();
        for replaced in chosen {
            let found = there(&docker, &replaced.id, &replaced.name).await?;
            let restart_policy = found.host_config.and_then(|host| host.restart_policy);
            containers.push(KeptContainer { replaced, restart_policy });
        }
        Ok(json!(Kept { containers, starting }))
    }

    async fn keep_old(&self, whole: &Job, log: &Log<'_>) -> Result<Value, Failure> {
        // What was backed up has to be what is changed. Once this has begun, names have changed by our doing.
        if log.attempts(step::KEEP_OLD) < 2 {
            self.check_unchanged(whole, log).await?;
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
        renew(&mut stopping.order, &successors(docker, log).await?);
        Ok(stopping)
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
