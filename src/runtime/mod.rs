//! Where it happens: the one trait behind which the world lies.
//!
//! A runtime observes and performs; it decides nothing and records nothing. `host` acts on the
//! directories of this machine, `docker` on containers and volumes, `kubernetes` on workloads and claims by way of a `mover`, `memory` on
//! a simulated world with faults.

pub mod docker;
mod hook_phase;
pub mod host;
pub mod kubernetes;
pub mod memory;
pub mod mover;
pub mod priority;
mod probes;
mod turn;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::engine::{Cancel, Progress};
use crate::plan::{Action, Failure, Job, Log, Observed};

pub use turn::Turn;

/// A boxed future, so that runtimes can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an action reports to and listens to while it works.
#[derive(Clone)]
pub struct Handles {
    /// Told how far the work has come.
    pub progress: Arc<dyn Progress>,
    /// Asked whether to stop.
    pub cancel: Cancel,
    /// The place among those that work at the same time.
    pub turn: Turn,
}

/// The world behind the planner.
pub trait Runtime: Send + Sync {
    /// `host`, `docker`, `kubernetes` or `memory`.
    fn name(&self) -> &'static str;

    /// Whether this runtime can act on the job's target and store at all.
    fn accepts(&self, job: &Job) -> Result<(), Failure>;

    /// Looks; changes nothing.
    fn observe<'a>(
        &'a self,
        job: &'a Job,
        log: Log<'a>,
    ) -> BoxFuture<'a, Result<Observed, Failure>>;

    /// What people should know of a job before it is carried out, one line each: what it is about,
    /// who stands still, what is not covered. Changes nothing.
    fn explain<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// What has to be in the journal before the action touches the world: the set of services that
    /// will be stopped, the name of the archive that will be written.
    fn intend<'a>(
        &'a self,
        job: &'a Job,
        action: &'a Action,
        log: Log<'a>,
    ) -> BoxFuture<'a, Result<Value, Failure>>;

    /// Carries out one action and returns the facts for the journal. Performing an action again
    /// after an interruption either repeats it harmlessly or finds it done.
    fn perform<'a>(
        &'a self,
        job: &'a Job,
        action: &'a Action,
        log: Log<'a>,
        handles: &'a Handles,
    ) -> BoxFuture<'a, Result<Value, Failure>>;
}
