//! The directories of this machine. Services are held still by hooks; everything else is the engine's.
//!
//! This room turns actions into engine calls on blocking threads and the engine's results into facts
//! for the journal. It decides nothing: which action comes next is the planner's.

mod backup;
mod failure;
pub mod hooks;
mod parent;
mod place;
mod restore;
mod store;
mod web_hook;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::{BoxFuture, Handles, Runtime};
use crate::engine::PendingArchive;
use crate::plan::backup::step::{ARCHIVE, HOOKS_BEFORE};
use crate::plan::{
    Action, ArchivePresence, Failure, HookFacts, HookPhase, Job, Log, Observed, OperationId,
    RestoreJob,
};
use crate::spec::{OnError, Reason};

pub use backup::{archive_name, discard_partial, host_name, wanted, wanted_name};
pub use parent::explain_parent;
pub use store::{links, local_path, open_store, removable};

/// Acts on host targets.
#[derive(Clone, Default)]
pub struct HostRuntime {
    /// Archives that are being written, from the intent of the archive step to the seal. After a
    /// crash it is empty, and the names in the journal are what is left of it.
    pending: Arc<Mutex<HashMap<OperationId, PendingArchive>>>,
}

impl HostRuntime {
    fn keep(&self, operation: &OperationId, pending: PendingArchive) {
        let mut map = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(operation.clone(), pending);
    }

    fn take(&self, operation: &OperationId) -> Option<PendingArchive> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(operation)
    }
}

/// Fails if another process has run the hooks before: what they hold still may have been started since, by them
/// that come after or by the machine.
fn is_still_held(log: &Log<'_>) -> Result<(), Failure> {
    if log.is_one_session(HOOKS_BEFORE, ARCHIVE) {
        return Ok(());
    }
    let message =
        "the process ended after the hooks before: what they hold still may have run since";
    Err(Failure::new(Reason::Interrupted, message)
        .hint("start it again; nothing of it was left behind"))
}

impl Runtime for HostRuntime {
    fn name(&self) -> &'static str {
        "host"
    }

    fn accepts(&self, job: &Job) -> Result<(), Failure> {
        if job.target().host.is_none() {
            return Err(Failure::new(
                Reason::UnsupportedTarget,
                format!(
                    "the target {} is not one of directories on this host",
                    job.target().summary()
                ),
            )
            .hint("use `target.host.paths`, or run Eider where that target is"));
        }
        match job {
            Job::Backup(job) => {
                local_path(&job.store)?;
            }
            Job::Restore(job) => {
                refuse_containers(job)?;
                local_path(&job.store)?;
            }
            Job::Upgrade(_) => {
                return Err(Failure::new(
                    Reason::UnsupportedTarget,
                    "directories on a host have no version to upgrade",
                ));
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
            Ok(match job {
                Job::Backup(job) => {
                    let archive = match backup::archive_name(&log) {
                        Some(name) => {
                            let store = job.store.clone();
                            blocking(move || backup::presence(&store, &name)).await?
                        }
                        None => ArchivePresence::Absent,
                    };
                    Observed { archive, ..Observed::default() }
                }
                Job::Restore(job) => {
                    let job = job.clone();
                    let replacement = blocking(move || restore::observe(&job)).await?;
                    Observed { replacement, ..Observed::default() }
                }
                Job::Upgrade(_) => Observed::default(),
            })
        })
    }

    fn explain<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let job = job.clone();
            blocking(move || Ok(explain_parent(&job).into_iter().collect())).await
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
                (Job::Backup(job), Action::Archive) => {
                    let work = job.clone();
                    let wanted = backup::archive_name(&log);
                    let (pending, detail) =
                        blocking(move || backup::reserve(&work, wanted)).await?;
                    self.keep(&job.operation, pending);
                    Ok(detail)
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
        let handles = handles.clone();
        Box::pin(async move {
            if let Action::RunHooks(phase) = action {
                return run_hooks(job, *phase, handles).await;
            }
            if *action == Action::Archive {
                is_still_held(&log)?;
            }
            match job {
                Job::Backup(job) => backup::perform(self, job, action, log, handles).await,
                Job::Restore(job) => restore::perform(job, action, log, handles).await,
                Job::Upgrade(_) => Err(unsupported(action)),
            }
        })
    }
}

/// Runs engine work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(
            Reason::InternalError,
            format!("a worker thread ended unexpectedly: {error}"),
        )),
    }
}

/// A Restore that is to make containers again has its place on a Docker host only.
pub fn refuse_containers(job: &RestoreJob) -> Result<(), Failure> {
    if !job.spec.recreate_containers {
        return Ok(());
    }
    Err(Failure::new(
        Reason::UnsupportedTarget,
        "only containers of a Docker host can be made again",
    )
    .hint("leave out `spec.recreateContainers`"))
}

fn unsupported(action: &Action) -> Failure {
    Failure::new(Reason::UnsupportedTarget, format!("a plain host cannot {}", action.describe()))
}

async fn run_hooks(job: &Job, phase: HookPhase, handles: Handles) -> Result<Value, Failure> {
    let hooks = match job {
        Job::Backup(job) => &job.spec.hooks,
        Job::Restore(job) => &job.spec.hooks,
        Job::Upgrade(job) => &job.spec.hooks,
    };
    let (hooks, word) = match phase {
        HookPhase::Before => (hooks.before.clone(), "before"),
        HookPhase::After => (hooks.after.clone(), "after"),
    };
    let operation = job.operation().clone();
    let environment = BTreeMap::from([
        ("EIDER_OPERATION".to_owned(), operation.to_string()),
        ("EIDER_KIND".to_owned(), operation.kind.clone()),
        ("EIDER_NAMESPACE".to_owned(), operation.namespace.clone()),
        ("EIDER_NAME".to_owned(), operation.name.clone()),
        ("EIDER_PHASE".to_owned(), word.to_owned()),
    ]);
    blocking(move || {
        let mut facts = HookFacts::default();
        let mut first_failure = None;
        for (index, hook) in hooks.iter().enumerate() {
            // What lets the service run again is never cut short by a cancellation.
            let cancelled = || phase == HookPhase::Before && handles.cancel.is_cancelled();
            let Err(error) = hooks::run_hook(hook, &environment, &cancelled) else {
                continue;
            };
            let number = index + 1;
            let message = format!("hook {word} {number}: {error}");
            if hook.on_error == OnError::Continue {
                facts.warnings.push(message);
                continue;
            }
            let failure = Failure::new(error.reason(), message);
            if phase == HookPhase::Before {
                return Err(failure);
            }
            // Every hook `after` runs, whatever became of those before it.
            first_failure.get_or_insert(failure);
        }
        match first_failure {
            Some(failure) => Err(failure),
            None => Ok(serde_json::json!(facts)),
        }
    })
    .await
}
