//! The actions of an Upgrade: the old containers are put aside and kept, new ones are made like them.
//!
//! What is kept is in the journal before the first rename. Every action finds what it has reached: by
//! the names, and by a label on what this upgrade has made.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, EndpointSettings,
    NetworkConnectRequest, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StopContainerOptions,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::{ANSWER, failure, is_already, is_missing, limited};
use super::listing::{inspect, run_state};
use super::looking::Look;
use super::{DockerRuntime, held, looking};
use crate::engine::Cancel;
use crate::plan::docker::{Replaced, RunState, StopEntry, Stopping, recreate, replaced, stop_set};
use crate::plan::upgrade::step;
use crate::plan::version::refusal;
use crate::plan::{Action, Failure, Job, Log, PreflightFacts, UpgradeJob};
use crate::runtime::docker::{health, stillness};
use crate::runtime::{Handles, probes};
use crate::spec::{ConsistencyMode, Reason};

/// Label on a container that an upgrade has made: the upgrade's mark.
const MADE_LABEL: &str = "eider.upgrade";
/// How long an image may take to come.
const PULL: Duration = Duration::from_hours(1);
/// How long a failed new container may take to stop before it is removed.
const END: Duration = Duration::from_mins(2);
/// How often health is looked at.
const LOOK: Duration = Duration::from_millis(500);

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

/// Tells an upgrade from others: the same whenever it is asked.
fn mark(job: &UpgradeJob) -> String {
    blake3::hash(job.operation.to_string().as_bytes()).to_hex()[..8].to_owned()
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
            Action::Preflight => self.upgrade_preflight(whole, job).await,
            Action::Fetch => self.fetch(job, &handles.cancel).await,
            Action::KeepOld => self.keep_old(log).await,
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
    async fn upgrade_preflight(&self, whole: &Job, job: &UpgradeJob) -> Result<Value, Failure> {
        let look = self.look(whole).await?;
        let chosen = replaced(&images(job), &look.selection, &look.facts, &mark(job))?;
        let stopping =
            stop_set(&look.selection, &look.facts, looking::touch(whole), ConsistencyMode::Stop)?;
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
        let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
        Ok(json!(PreflightFacts {
            live_data: true,
            from_version: from,
            warnings: stopping.warnings,
            checks: vec![("SERVICE".to_owned(), "PASS".to_owned(), names.join(", "))],
            ..PreflightFacts::default()
        }))
    }

    /// Has the new images on the host. An error inside the stream of a pull is a failure too.
    async fn fetch(&self, job: &UpgradeJob, cancel: &Cancel) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let mut fetched = Vec::new();
        for image in images(job).values() {
            if image_id(&docker, image).await?.is_some() {
                continue;
            }
            let options = CreateImageOptionsBuilder::new().from_image(image).build();
            let mut pull = docker.create_image(Some(options), None, None);
            let begun = Instant::now();
            while let Some(said) = pull.next().await {
                let said =
                    said.map_err(|error| unavailable(image, &failure("pull it", &error).message))?;
                if let Some(detail) = said.error_detail {
                    return Err(unavailable(image, &detail.message.unwrap_or_default()));
                }
                if cancel.is_cancelled() {
                    return Err(Failure::new(Reason::Cancelled, "cancelled while pulling images"));
                }
                if begun.elapsed() > PULL {
                    return Err(unavailable(image, "the pull took longer than an hour"));
                }
            }
            if image_id(&docker, image).await?.is_none() {
                return Err(unavailable(image, "it is not there after the pull"));
            }
            fetched.push(image.clone());
        }
        Ok(json!({ "fetched": fetched }))
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
        for replaced in replaced(&images(job), &look.selection, &look.facts, &mark(job))? {
            let found = there(&docker, &replaced.id, &replaced.name).await?;
            let restart_policy = found.host_config.and_then(|host| host.restart_policy);
            containers.push(KeptContainer { replaced, restart_policy });
        }
        Ok(json!(Kept { containers }))
    }

    async fn keep_old(&self, log: &Log<'_>) -> Result<Value, Failure> {
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

    /// Makes the new containers, in the order in which they need each other.
    async fn apply(&self, job: &UpgradeJob, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let all = kept(log);
        let names: BTreeMap<String, String> =
            all.iter().map(|one| (one.replaced.id.clone(), one.replaced.name.clone())).collect();
        let own = BTreeMap::from([(MADE_LABEL.to_owned(), mark(job))]);
        let mut made = BTreeMap::new();
        for KeptContainer { replaced, restart_policy } in &all {
            crate::failpoint::hit("docker.next-new");
            remove_made(&docker, replaced, job).await?;
            let old = there(&docker, &replaced.id, &replaced.aside).await?;
            let old_image = old.image.clone().unwrap_or_default();
            // An image that has been removed meanwhile told the container nothing that is known now.
            let old_image = match docker.inspect_image(&old_image).await {
                Ok(found) => json!(found.config),
                Err(error) if is_missing(&error) => Value::Null,
                Err(error) => return Err(failure("look at the old image", &error)),
            };
            let image = &replaced.image;
            let id = image_id(&docker, image).await?;
            let id = id.ok_or_else(|| unavailable(image, "it is gone"))?;
            let recreation = recreate(&json!(old), &old_image, image, &id, &own, &names);
            let mut body: ContainerCreateBody = decode(&recreation.body)?;
            if let Some(host) = &mut body.host_config {
                // The one that is kept must not start by itself; its successor is to.
                host.restart_policy.clone_from(restart_policy);
            }
            let options = CreateContainerOptionsBuilder::new().name(&replaced.name).build();
            let what = format!("make container {}", replaced.name);
            let call = docker.create_container(Some(options), body);
            let created = limited(&what, ANSWER, call).await?;
            for (network, settings) in recreation.networks {
                let settings: EndpointSettings = decode(&settings)?;
                let request = NetworkConnectRequest {
                    container: created.id.clone(),
                    endpoint_config: Some(settings),
                };
                let what = format!("connect {} to {network}", replaced.name);
                limited(&what, ANSWER, docker.connect_network(&network, request)).await?;
            }
            made.insert(replaced.name.clone(), created.id);
        }
        Ok(json!({ "made": made }))
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

    async fn upgrade_healthy(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let begun = Instant::now();
        let timeout = job.spec.health_gate.timeout.to_duration();
        let stopping = self.new_entries(&docker, log).await?;
        let entries: Vec<&StopEntry> = stopping.order.iter().filter(|one| !one.paused).collect();
        health::until_healthy(&docker, &entries, timeout, &handles.cancel).await?;
        while let Err(why) = probes::all_answer(&job.spec.health_gate.probes, false).await {
            if begun.elapsed() > timeout {
                return Err(Failure::new(
                    Reason::Unhealthy,
                    format!("not healthy within {} s: {why}", timeout.as_secs()),
                ));
            }
            pause(&handles.cancel).await?;
        }
        Ok(json!({"seconds": begun.elapsed().as_secs_f64()}))
    }

    /// Watches that the new containers stay well.
    async fn soak(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let stopping = self.new_entries(&docker, log).await?;
        let entries: Vec<&StopEntry> = stopping.order.iter().filter(|one| !one.paused).collect();
        let soak = job.spec.health_gate.soak.to_duration();
        let begun = Instant::now();
        let first = health::starts(&docker, &entries).await?;
        let mut unwell_since: Option<Instant> = None;
        loop {
            let well = match health::all_well(&docker, &entries, &first).await? {
                Ok(()) => probes::all_answer(&job.spec.health_gate.probes, false).await,
                Err(why) => Err(why),
            };
            match well {
                Ok(()) => unwell_since = None,
                Err(why) => {
                    // One missed look may be ours; two seconds of it are not.
                    let since = *unwell_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(2) {
                        let seconds = soak.as_secs();
                        let message = format!("did not stay healthy for {seconds} s: {why}");
                        return Err(Failure::new(Reason::Unhealthy, message)
                            .hint("`docker logs` of the container says why"));
                    }
                }
            }
            if begun.elapsed() >= soak && unwell_since.is_none() {
                return Ok(Value::Null);
            }
            pause(&handles.cancel).await?;
        }
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
        // Dependents first, as always when stopping.
        for KeptContainer { replaced, .. } in kept.iter().rev() {
            remove_made(&docker, replaced, job).await?;
        }
        if let Some((mut stopping, _)) = held(log) {
            let is_kept = |id: &String| kept.iter().any(|one| one.replaced.id == *id);
            stopping.order.retain(|entry| !is_kept(&entry.id));
            let timeout = job.spec.consistency.timeout.to_duration();
            let uncut = Cancel::new();
            let mode = ConsistencyMode::Stop;
            let touch = looking::touch(&Job::Upgrade(job.clone()));
            stillness::hold(&docker, &stopping, mode, touch, timeout, &uncut).await?;
        }
        handles.progress.phase("rolling back");
        Ok(Value::Null)
    }

    /// Gives the old containers their names and restart policies again.
    async fn restore_old(&self, job: &UpgradeJob, log: &Log<'_>) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        for KeptContainer { replaced, restart_policy } in kept(log) {
            crate::failpoint::hit("docker.next-back");
            remove_made(&docker, &replaced, job).await?;
            rename(&docker, &replaced.id, &replaced.aside, &replaced.name).await?;
            set_restart_policy(&docker, &replaced, restart_policy).await?;
        }
        Ok(Value::Null)
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

fn decode<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    serde_json::from_value(value.clone()).map_err(|error| {
        Failure::new(Reason::InternalError, format!("the new container's description: {error}"))
    })
}

fn unavailable(image: &str, why: &str) -> Failure {
    Failure::new(Reason::ImageUnavailable, format!("image {image}: {why}"))
        .hint("pull it, or `docker load` it, and start the upgrade again")
}

async fn image_id(docker: &Docker, image: &str) -> Result<Option<String>, Failure> {
    let call = async {
        match docker.inspect_image(image).await {
            Ok(found) => Ok(found.id),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    limited(&format!("look at image {image}"), ANSWER, call).await
}

async fn there(docker: &Docker, id: &str, name: &str) -> Result<ContainerInspectResponse, Failure> {
    inspect(docker.clone(), id.to_owned()).await?.ok_or_else(|| {
        Failure::new(Reason::TargetNotFound, format!("container {name} is not there any more"))
    })
}

async fn set_restart_policy(
    docker: &Docker,
    replaced: &Replaced,
    policy: Option<RestartPolicy>,
) -> Result<(), Failure> {
    let what = format!("set the restart policy of {}", replaced.name);
    let body = ContainerUpdateBody { restart_policy: policy, ..ContainerUpdateBody::default() };
    limited(&what, ANSWER, docker.update_container(&replaced.id, body)).await
}

async fn rename(docker: &Docker, id: &str, from: &str, to: &str) -> Result<(), Failure> {
    let found = there(docker, id, from).await?;
    if found.name.as_deref().map(|name| name.trim_start_matches('/')) == Some(to) {
        return Ok(());
    }
    let options = RenameContainerOptionsBuilder::new().name(to).build();
    limited(&format!("rename {from} to {to}"), ANSWER, docker.rename_container(id, options)).await
}

/// Removes a container, without the data of anonymous volumes: its successor mounts them.
async fn remove(docker: &Docker, id: &str, name: &str) -> Result<(), Failure> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(false).build();
    let call = async {
        match docker.remove_container(id, Some(options)).await {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    };
    limited(&format!("remove container {name}"), END, call).await
}

/// Stops and removes the container that this upgrade has made in the place of another.
///
/// # Errors
/// [`Reason::TargetBusy`] if somebody else has made one of that name.
async fn remove_made(
    docker: &Docker,
    replaced: &Replaced,
    job: &UpgradeJob,
) -> Result<(), Failure> {
    let Some(found) = inspect(docker.clone(), replaced.name.clone()).await? else { return Ok(()) };
    if found.id.as_ref() == Some(&replaced.id) {
        return Ok(());
    }
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    if labels.get(MADE_LABEL) != Some(&mark(job)) {
        let message = format!("somebody else has made a container {} meanwhile", replaced.name);
        return Err(Failure::new(Reason::TargetBusy, message)
            .hint(format!("remove or rename it; the old one is kept as {}", replaced.aside)));
    }
    let id = found.id.unwrap_or_default();
    if run_state(found.state.as_ref()) != RunState::Stopped {
        let call = async {
            match docker.stop_container(&id, None::<StopContainerOptions>).await {
                Err(error) if is_already(&error) || is_missing(&error) => Ok(()),
                other => other,
            }
        };
        limited(&format!("stop {}", replaced.name), END, call).await?;
    }
    remove(docker, &id, &replaced.name).await
}

async fn pause(cancel: &Cancel) -> Result<(), Failure> {
    if cancel.is_cancelled() {
        return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for health"));
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}
