//! Eider in a container: the data is reached by a worker, a one-shot container of Eider's own image with
//! exactly the data and the store mounted (ADR 15).
//!
//! A worker is the mover of a cluster at the end of a pipe. It lives as long as the pipe, so that it
//! does not outlive this process; one that does all the same (an engine that is slow to notice) is
//! removed before another is made for the same operation.

mod body;
mod line;
mod own;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

use super::connection::{ANSWER, Connection, failure, is_missing, limited};
use super::listing::{inspect, volumes};
use crate::failpoint;
use crate::plan::docker::{HostFacts, Place};
use crate::plan::{Action, Failure, Job, Log, Observed, OperationId};
use crate::runtime::Handles;
use crate::runtime::host::{local_path, open_store};
use crate::runtime::mover::{Mission, Request, Work};
use crate::runtime::priority;
use crate::spec::Reason;

pub use body::{WORKER_LABEL, path_of};
pub use own::Own;

use body::{Order, body, name_of};
use line::Line;

/// How often a worker that was lost is replaced for a step that can be done again.
const ATTEMPTS: u32 = 3;
/// How long a worker may take to be gone once it is removed.
const GONE: Duration = Duration::from_mins(2);

type Slot = Arc<Mutex<Option<Line>>>;

/// The workers of this process.
#[derive(Clone, Default)]
pub struct Workers {
    own: Arc<OnceCell<Option<Own>>>,
    by_operation: Arc<StdMutex<HashMap<OperationId, Slot>>>,
}

impl Workers {
    /// Eider's own container; none on the host. It cannot change while this process lives.
    pub async fn own(&self, docker: &Docker) -> Result<Option<&Own>, Failure> {
        Ok(self.own.get_or_try_init(|| Own::find(docker)).await?.as_ref())
    }

    /// Looks at the data.
    pub async fn observe(
        &self,
        docker: &Docker,
        own: &Own,
        places: &[Place],
        (job, log): (&Job, Log<'_>),
    ) -> Result<Observed, Failure> {
        let handles = silent();
        let found = self.ask(docker, own, places, (job, log), Work::Look, &handles).await?;
        serde_json::from_value(found).map_err(|error| {
            Failure::new(Reason::InternalError, format!("the worker's look: {error}"))
        })
    }

    /// Makes ready for an action that has to hold its place before it is written down.
    pub async fn intend(
        &self,
        docker: &Docker,
        own: &Own,
        places: &[Place],
        (job, log): (&Job, Log<'_>),
        action: &Action,
    ) -> Result<Value, Failure> {
        let work = Work::Intend(action.clone());
        self.ask(docker, own, places, (job, log), work, &silent()).await
    }

    /// Has the worker carry out an action.
    pub async fn perform(
        &self,
        docker: &Docker,
        own: &Own,
        places: &[Place],
        (job, log): (&Job, Log<'_>),
        action: &Action,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let work = Work::Carry(action.clone());
        let outcome = self.ask(docker, own, places, (job, log), work, handles).await;
        let is_last = matches!(
            action,
            Action::Verify { .. }
                | Action::DiscardArchive
                | Action::DropOld
                | Action::DiscardStaging
        );
        // Nothing may be asked any more, or the planner has given up before anything was begun.
        if is_last || (*action == Action::Preflight && outcome.is_err()) {
            self.dismiss(docker, job.operation()).await;
        }
        outcome
    }

    fn slot(&self, operation: &OperationId) -> Slot {
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(map.entry(operation.clone()).or_default())
    }

    /// Ends the worker of an operation that has ended, if it still has one: not every way out of an
    /// operation leads by a last step on data.
    pub async fn conclude(&self, connection: &Connection, operation: &OperationId) {
        let has_one = {
            let map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
            map.contains_key(operation)
        };
        if has_one && let Ok(docker) = connection.docker().await {
            self.dismiss(&docker, operation).await;
        }
    }

    /// Ends the worker of an operation. One that cannot be removed ends with its pipe.
    async fn dismiss(&self, docker: &Docker, operation: &OperationId) {
        let slot = self.slot(operation);
        if let Some(line) = slot.lock().await.take()
            && let Err(failure) = remove(docker, line.id()).await
        {
            tracing::warn!(%operation, "the worker: {}", failure.message);
        }
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(operation);
    }

    async fn ask(
        &self,
        docker: &Docker,
        own: &Own,
        places: &[Place],
        (job, log): (&Job, Log<'_>),
        work: Work,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let operation = job.operation();
        let (binding, writes) = match job {
            Job::Backup(job) => (&job.store, false),
            Job::Restore(job) => (&job.store, true),
            Job::Upgrade(_) => {
                return Err(Failure::new(Reason::InternalError, "an upgrade has no worker"));
            }
        };
        let mission = Mission {
            job: Some(job.clone()),
            journal: log.entries().to_vec(),
            store: binding.clone(),
        };
        let (store, program) = (local_path(binding)?, own_program()?);
        let niceness = priority::niceness();
        let order =
            Order { own, operation, places, writes, store: &store, program: &program, niceness };
        let key = order.key()?;
        let slot = self.slot(operation);
        let mut slot = slot.lock().await;
        let mut attempt = 1;
        loop {
            let is_new = !slot.as_ref().is_some_and(Line::is_open);
            // Only the worker that made an archive's file can write it: nothing has been read yet.
            if is_new && matches!(work, Work::Carry(Action::Archive)) {
                return Err(Failure::new(
                    Reason::MoverLost,
                    "the worker that was to read the data is gone",
                ));
            }
            if is_new {
                *slot = None;
                remove_all(docker, &key).await?;
                let host = HostFacts { volumes: volumes(docker).await?, ..HostFacts::default() };
                own.check_apart(&store, places, &host)?;
                // On the host's side of the mount, with the mode that it would have there.
                open_store(binding)?;
                *slot = Some(make(docker, &order, &key).await?);
            }
            let Some(line) = slot.as_mut() else { continue };
            let request = Request {
                id: format!("{}.{attempt}", word(&work)),
                work: work.clone(),
                again: false,
                journal: Vec::new(),
            };
            let asked = line.ask(mission.clone(), request, is_interruptible(&work), handles);
            match asked.await {
                Ok(answer) => return answer,
                Err(loss) => {
                    *slot = None;
                    // It may go on for a moment: nothing else is done before it is gone.
                    remove_all(docker, &key).await?;
                    if attempt >= ATTEMPTS || !can_be_repeated(&work) {
                        return Err(loss);
                    }
                    tracing::warn!(%operation, "{}; another is made", loss.message);
                    attempt += 1;
                }
            }
        }
    }
}

fn silent() -> Handles {
    Handles {
        progress: Arc::new(crate::engine::Silent),
        cancel: crate::engine::Cancel::new(),
        turn: crate::runtime::Turn::default(),
    }
}

fn word(work: &Work) -> &'static str {
    match work {
        Work::Look => "look",
        Work::Intend(_) => "intend",
        _ => "carry",
    }
}

/// What has to begin with nothing there is not begun a second time: it fails and is undone.
fn can_be_repeated(work: &Work) -> bool {
    !matches!(work, Work::Carry(Action::Archive | Action::Extract | Action::CarryOver))
}

/// What puts things back is never cut short.
fn is_interruptible(work: &Work) -> bool {
    !matches!(
        work,
        Work::Carry(
            Action::DiscardArchive | Action::SwapBack | Action::DiscardStaging | Action::DropOld
        )
    )
}

async fn make(docker: &Docker, order: &Order<'_>, key: &str) -> Result<Line, Failure> {
    let body = body(order)?;
    let options = CreateContainerOptionsBuilder::new().name(&name_of(key)).build();
    let what = format!("make a worker for {}", order.operation);
    let call = docker.create_container(Some(options), body);
    let made = limited(&what, ANSWER, call).await.map_err(|mut found| {
        // "bind source path does not exist: /srv/x"
        if found.message.contains("does not exist") {
            found.reason = Reason::TargetNotFound;
        }
        found
    })?;
    failpoint::hit("docker.worker-made");
    match Line::begin(docker, made.id.clone()).await {
        Ok(line) => Ok(line),
        Err(found) => {
            let _ = remove(docker, &made.id).await;
            Err(found)
        }
    }
}

/// The path of this program, which is the same in its image.
fn own_program() -> Result<String, Failure> {
    let found = std::env::current_exe().ok();
    let program = found.as_deref().and_then(Path::to_str).map(str::to_owned);
    program.ok_or_else(|| {
        Failure::new(Reason::InternalError, "Eider cannot tell where its own program is")
    })
}

/// Removes every worker of an operation and waits until none is left: two must never be at work.
async fn remove_all(docker: &Docker, key: &str) -> Result<(), Failure> {
    let label = format!("{WORKER_LABEL}={key}");
    let filters = HashMap::from([("label", vec![label.as_str()])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listing = docker.list_containers(Some(options));
    let listed = limited("list the workers", ANSWER, listing).await?;
    for id in listed.into_iter().filter_map(|summary| summary.id) {
        remove(docker, &id).await?;
    }
    Ok(())
}

/// Kills and removes a container and waits until it is gone.
async fn remove(docker: &Docker, id: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let refused = match docker.remove_container(id, Some(options)).await {
            Ok(()) => None,
            Err(error) if is_missing(&error) => None,
            // It is being removed already.
            Err(error) => Some(error),
        };
        if inspect(docker.clone(), id.to_owned()).await?.is_none() {
            return Ok(());
        }
        if begun.elapsed() > GONE {
            return Err(refused.map_or_else(
                || Failure::new(Reason::InternalError, format!("worker {id} cannot be removed")),
                |error| failure("remove the worker", &error),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
