//! Workloads and claims of a cluster. Data is moved by a mover (ADR 11); what needs the API is done
//! here: scaling, images, hooks, and looking after the mover.
//!
//! Every action can be performed again after an interruption and picks up where it is, so that the
//! operator's death undoes nothing.

mod asked;
mod claims;
mod cluster;
mod conversation;
mod ending;
mod holding;
mod hooks;
mod images;
mod mover_job;
pub mod names;
mod nodes;
mod pod_state;
mod prefetch;
mod preflight;
mod revision;
mod settings;
mod starting;
mod stillness;
mod store_work;
mod translate;
mod trust;
mod upgrade;
mod upgrading;
mod warnings;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::mover::{Request, Work};
use super::{BoxFuture, Handles, Runtime, Turn, hook_phase, host};
use crate::plan::backup::step as backup_step;
use crate::plan::restore::step as restore_step;
use crate::plan::upgrade::step as upgrade_step;
use crate::plan::{
    Action, ArchiveFacts, BackupJob, Failure, Job, JournalEntry, Log, Mark, Observed,
    PreflightFacts, ReplacementState, safety,
};
use crate::spec::hooks::ExecHook;
use crate::spec::target::WorkloadKind;
use crate::spec::upgrade::HealthGate;
use crate::spec::{ConsistencyMode, Reason};

pub use cluster::{Cluster, FIELD_MANAGER, failure, is_missing, is_transient};
pub use holding::Held;
pub use settings::Settings;
pub use store_work::{StoreAnswer, StoreErrand, StoreFigures, StoreWork};
pub use workload::Workload;

use conversation::Conversation;
use mover_job::identity_of;
use upgrade::{ImagesBefore, Watch};

/// Acts on workloads and claims.
#[derive(Clone)]
pub struct KubernetesRuntime {
    cluster: Cluster,
}

impl KubernetesRuntime {
    /// A runtime on this cluster.
    pub fn new(client: kube::Client, settings: Settings) -> Self {
        Self { cluster: Cluster { client, settings: Arc::new(settings) } }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The claims that a job is about, as far as they can be known before it begins.
    pub async fn claims_of(&self, job: &Job) -> Vec<String> {
        let found = async {
            let workload = self.workload(job).await?;
            claims::names(&self.cluster, job, workload.as_ref()).await
        };
        // What is not there is for preflight to say.
        found.await.unwrap_or_default()
    }

    /// Whether the workload of a job is marked as held still by this very operation.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn is_held(&self, job: &Job) -> Result<bool, Failure> {
        let held = self.workload(job).await?.and_then(|workload| workload.held());
        Ok(held.is_some_and(|held| held.is_of(job.operation())))
    }

    /// Ends the movers of an operation that has ended.
    pub async fn dismiss(&self, job: &Job) -> Result<(), Failure> {
        let rehearsal = match job {
            Job::Upgrade(job) => safety::of_upgrade(job).map(Job::Backup),
            Job::Backup(_) | Job::Restore(_) => None,
        };
        let job = match (job, &rehearsal) {
            (Job::Upgrade(_), None) => return Ok(()),
            (job, rehearsal) => rehearsal.as_ref().unwrap_or(job),
        };
        let handles = Handles {
            progress: Arc::new(crate::engine::Silent),
            cancel: crate::engine::Cancel::new(),
            turn: Turn::default(),
        };
        let claims = Vec::new();
        self.conversation(job, claims, None, Log::new(&[]), &handles)?.let_go().await
    }

    fn conversation<'a>(
        &'a self,
        job: &'a Job,
        claims: Vec<String>,
        workload: Option<&Workload>,
        log: Log<'a>,
        handles: &'a Handles,
    ) -> Result<Conversation<'a>, Failure> {
        let (binding, writes) = match job {
            Job::Backup(job) => (&job.store, false),
            Job::Restore(job) => (&job.store, true),
            Job::Upgrade(_) => return Err(no_mover()),
        };
        let mission = translate::mission(job, &claims, log.entries())?;
        Ok(Conversation {
            cluster: &self.cluster,
            namespace: &job.operation().namespace,
            operation: job.operation(),
            key: names::key(job.operation()),
            mission,
            claims,
            writes,
            store_claim: translate::store(binding)?.0,
            identity: identity_of(workload.map(|workload| &workload.template)),
            tolerations: workload.map(Workload::tolerations).unwrap_or_default(),
            handles,
        })
    }

    /// The same with a mission that says which version runs: it is written into the manifest.
    async fn informed_conversation<'a>(
        &'a self,
        job: &'a Job,
        claims: Vec<String>,
        workload: Option<&Workload>,
        log: Log<'a>,
        handles: &'a Handles,
    ) -> Result<Conversation<'a>, Failure> {
        let mut conversation = self.conversation(job, claims, workload, log, handles)?;
        if let Some(Job::Backup(job)) = &mut conversation.mission.job
            && job.spec.service_version.is_none()
        {
            job.spec.service_version = self.version(workload).await?;
        }
        Ok(conversation)
    }

    /// The version of a workload, if it can be told.
    async fn version(&self, workload: Option<&Workload>) -> Result<Option<String>, Failure> {
        let Some(workload) = workload else { return Ok(None) };
        let pods = workload.pods(&self.cluster).await?;
        Ok(revision::version(workload, &pods))
    }

    /// Has the mover carry out an action.
    async fn ask(
        &self,
        job: &Job,
        action: &Action,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let workload = self.workload(job).await?;
        let claims = self.claims(job, workload.as_ref(), &log).await?;
        let conversation =
            self.informed_conversation(job, claims, workload.as_ref(), log, handles).await?;
        let step = current_step(&log);
        let id = Request::identity(step, log.failures(step));
        let journal = match action {
            Action::Seal => times_of(&log, &[backup_step::QUIESCE, backup_step::RESUME]),
            // Its intent names the archive: what a lost mover leaves is found under that name.
            Action::Archive => log.entries().last().cloned().into_iter().collect(),
            _ => Vec::new(),
        };
        let request = Request { id, work: Work::Perform(action.clone()), again: false, journal };
        conversation.ask(request, &mut |_| {}).await
    }

    async fn workload(&self, job: &Job) -> Result<Option<Workload>, Failure> {
        match &job.target().workload {
            Some(target) => Workload::find(&self.cluster, &job.operation().namespace, target).await,
            None => Ok(None),
        }
    }

    /// The claims that preflight has found; before it, those that there are.
    async fn claims(
        &self,
        job: &Job,
        workload: Option<&Workload>,
        log: &Log<'_>,
    ) -> Result<Vec<String>, Failure> {
        let known = log.facts::<PreflightFacts>(backup_step::PREFLIGHT).unwrap_or_default().claims;
        if !known.is_empty() {
            return Ok(known.into_iter().map(|claim| claim.name).collect());
        }
        claims::names(&self.cluster, job, workload).await
    }

    async fn perform_backup(
        &self,
        whole: &Job,
        job: &BackupJob,
        action: &Action,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        match action {
            Action::Preflight => self.preflight(whole, &job.store, log, handles).await,
            Action::Archive => {
                self.has_no_other_claims(whole, &log).await?;
                let mut facts = self.ask(whole, action, log, handles).await?;
                self.check_held(whole, &log, backup_step::QUIESCE).await?;
                self.tell_of_others(whole, &log, &mut facts).await?;
                Ok(facts)
            }
            Action::Seal => {
                let mut facts = self.ask(whole, action, log, handles).await?;
                let archive: ArchiveFacts = log.facts(backup_step::ARCHIVE).unwrap_or_default();
                facts["location"] = json!(translate::location(&job.store, &archive.name));
                Ok(facts)
            }
            _ => self.ask(whole, action, log, handles).await,
        }
    }
}

fn no_mover() -> Failure {
    Failure::new(Reason::UnsupportedTarget, "only workloads and claims have movers in a cluster")
}

/// The step that is being performed: its intent is the last line.
fn current_step<'a>(log: &Log<'a>) -> &'a str {
    log.entries().last().map_or("", |entry| entry.step.as_str())
}

/// The marks of some steps without their facts: when they happened.
fn times_of(log: &Log<'_>, steps: &[&str]) -> Vec<JournalEntry> {
    log.entries()
        .iter()
        .filter(|entry| steps.contains(&entry.step.as_str()) && entry.mark == Mark::Done)
        .map(|entry| JournalEntry { detail: Value::Null, ..entry.clone() })
        .collect()
}

impl Runtime for KubernetesRuntime {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn accepts(&self, job: &Job) -> Result<(), Failure> {
        let refuse = |message: &str, hint: &str| {
            Err(Failure::new(Reason::UnsupportedTarget, message).hint(hint))
        };
        if trust::asks_for_a_file(job) {
            return Err(Failure::new(
                Reason::InvalidSpec,
                "`authorizationFile` would be read where the operator runs, with its own secrets",
            )
            .hint(
                "in a cluster let the hook be a command in the pod, which has its own credentials",
            ));
        }
        let target = job.target();
        if target.workload.is_none() && target.volume_claims.is_none() {
            return Err(Failure::new(
                Reason::UnsupportedTarget,
                format!("the target {} is not one of this cluster", target.summary()),
            )
            .hint("use `target.workload` or `target.volumeClaims` in a cluster"));
        }
        let daemon_set =
            target.workload.as_ref().is_some_and(|target| target.kind == WorkloadKind::DaemonSet);
        let mode = match job {
            Job::Backup(job) => job.spec.consistency.mode,
            Job::Restore(job) => job.spec.consistency.mode,
            Job::Upgrade(_) => ConsistencyMode::Stop,
        };
        if mode == ConsistencyMode::Pause {
            return refuse("pods cannot be paused", "use `consistency.mode` Stop or Live");
        }
        if daemon_set && mode != ConsistencyMode::Live {
            return refuse("a DaemonSet cannot be stopped", "use `consistency.mode: Live`");
        }
        match job {
            Job::Backup(job) => {
                translate::store(&job.store)?;
            }
            Job::Restore(job) => {
                host::refuse_containers(job)?;
                translate::store(&job.store)?;
            }
            Job::Upgrade(job) => {
                if job.spec.target.workload.is_none() {
                    return refuse("claims have no version to upgrade", "name a workload");
                }
                if job.spec.data_from.is_some() {
                    return refuse(
                        "`dataFrom` is for Docker hosts",
                        "apply a Restore for the data",
                    );
                }
                if job.spec.image_archives.is_some() {
                    return refuse(
                        "`imageArchives` is for Docker hosts",
                        "push the images to a registry, or load them on every node",
                    );
                }
                if job.spec.package.is_some() {
                    return refuse("packages cannot be applied in a cluster", "use `spec.images`");
                }
            }
        }
        Ok(())
    }

    fn observe<'a>(&'a self, _: &'a Job, log: Log<'a>) -> BoxFuture<'a, Result<Observed, Failure>> {
        Box::pin(async move {
            // Nobody can look at a claim without a mover. A swap that was ever begun may have happened;
            // undoing one that has not happened changes nothing.
            let swapped = log.touched(restore_step::SWAP) && !log.done(restore_step::SWAP_BACK);
            let replacement = if swapped { ReplacementState::Mixed } else { ReplacementState::Old };
            Ok(Observed { replacement, resumable: true, ..Observed::default() })
        })
    }

    fn intend<'a>(
        &'a self,
        job: &'a Job,
        action: &'a Action,
        log: Log<'a>,
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(async move {
            match (job, action) {
                (_, Action::Quiesce { .. }) => self.held(job, &log).await,
                (Job::Backup(backup), Action::Archive) => {
                    // The same name again if this is picked up: what was begun under it is found.
                    if let Some(name) = host::archive_name(&log) {
                        return Ok(host::wanted(name));
                    }
                    let mut backup = backup.clone();
                    if backup.spec.service_version.is_none() {
                        let workload = self.workload(job).await?;
                        backup.spec.service_version = self.version(workload.as_ref()).await?;
                    }
                    Ok(host::wanted(host::wanted_name(&backup)))
                }
                (Job::Upgrade(job), Action::KeepOld) => {
                    let target = job.spec.target.workload.as_ref().ok_or_else(no_mover)?;
                    let earlier = log.intent::<ImagesBefore>(upgrade_step::KEEP_OLD);
                    let before =
                        upgrade::images_before(&self.cluster, job, target, earlier).await?;
                    Ok(json!(before))
                }
                (Job::Upgrade(job), Action::RemoveNew) => self.made_meanwhile(job, &log).await,
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
            let namespace = &job.operation().namespace;
            let target = job.target().workload.as_ref();
            match (action, target) {
                (Action::RunHooks(phase), _) => {
                    let command = |exec: ExecHook, timeout| -> BoxFuture<'_, _> {
                        Box::pin(async move {
                            hooks::in_pods(&self.cluster, namespace, target, &exec, timeout).await
                        })
                    };
                    hook_phase::run(job, *phase, &handles.cancel, &command).await
                }
                (Action::Quiesce { timeout, .. }, Some(target)) => {
                    self.quiesce(job, target, timeout, log, handles).await
                }
                (Action::Resume, Some(target)) => self.release(job, target, &log).await,
                // Claims without a workload: nobody to stop, start or wait for.
                (Action::Quiesce { .. } | Action::Resume | Action::AwaitHealthy, None) => {
                    Ok(Value::Null)
                }
                _ => match job {
                    Job::Backup(backup) => {
                        self.perform_backup(job, backup, action, log, handles).await
                    }
                    Job::Upgrade(upgrade) => {
                        self.perform_upgrade(upgrade, action, log, handles).await
                    }
                    Job::Restore(restore) => match (action, target) {
                        (Action::Preflight, _) => {
                            self.preflight(job, &restore.store, log, handles).await
                        }
                        (Action::AwaitHealthy, Some(target)) => {
                            let watch = Watch {
                                cluster: &self.cluster,
                                namespace,
                                target,
                                images: BTreeMap::new(),
                                gate: HealthGate {
                                    timeout: restore.spec.health_timeout.clone(),
                                    ..HealthGate::default()
                                },
                                before: log.intent(restore_step::QUIESCE),
                                cancel: &handles.cancel,
                            };
                            watch.until_healthy().await
                        }
                        (Action::Swap, _) => {
                            self.check_held(job, &log, restore_step::QUIESCE).await?;
                            let claims = self.claims(job, None, &log).await?;
                            let workload = self.workload(job).await?;
                            self.nobody_works_on(job, workload.as_ref(), &claims).await?;
                            self.ask(job, action, log, handles).await
                        }
                        (Action::DropOld, Some(_)) if !restore.spec.start => {
                            let facts = self.ask(job, action, log, handles).await?;
                            // It stays down because that was wanted: nobody is to take it for one that
                            // was left behind, and start it.
                            let workload = self.workload(job).await?;
                            let operation = &restore.operation;
                            holding::let_lie(&self.cluster, workload.as_ref(), operation).await?;
                            Ok(facts)
                        }
                        _ => self.ask(job, action, log, handles).await,
                    },
                },
            }
        })
    }
}
