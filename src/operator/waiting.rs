//! Waiting for a target that is free and for a turn, and saying so meanwhile: who waits in silence
//! looks stuck.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::locks::{Claimed, Place};
use super::resolve::Resolved;
use super::{Operator, OperatorError};
use crate::plan::backup::step::PREFLIGHT;
use crate::plan::{Failure, Job, Log, OperationId, PreflightFacts, status};
use crate::runtime::Turn;
use crate::spec::Reason;

/// What is waited for longer than this is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an operation needs before it begins, and has for as long as this lives.
pub(super) struct Admission {
    /// Nobody else acts on the target.
    target: Place,
    /// A place among those that work at the same time.
    pub(super) turn: Turn,
}

impl Admission {
    /// Goes without giving the target away: the operation has begun, could not go on, and is taken up again.
    pub(super) fn stay(self) {
        self.target.keep();
    }
}

/// How waiting ended.
pub(super) enum Admitted {
    /// It may begin.
    Now(Admission),
    /// Nobody wants it any more, and nothing of it was begun.
    Unwanted,
    /// The process is stopping.
    Stopping,
}

impl Operator {
    /// Waits for the target, then for a turn: who waits for a busy target must not keep others from
    /// theirs. `fresh` says that nothing of the operation was begun yet.
    pub(super) async fn admit(
        &self,
        resolved: &Resolved,
        fresh: bool,
        permits: Option<&Arc<Semaphore>>,
    ) -> Result<Admitted, OperatorError> {
        let job = &resolved.job;
        let operation = job.operation();
        let volume_claims = self.claims_at_stake(job).await?;
        if let (true, Some(permits)) = (fresh, permits)
            && let Some(ended) = self.wait_for_date(job, permits).await?
        {
            return Ok(ended);
        }
        let place = self.locks.queue(Claimed {
            operation: operation.clone(),
            target: job.target().clone(),
            volume_claims,
        });
        let mut said: Option<String> = None;
        loop {
            tokio::select! {
                biased;
                () = place.turn() => break,
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if fresh && self.is_unwanted(operation) {
                return Ok(Admitted::Unwanted);
            }
            if permits.is_some_and(|permits| permits.is_closed()) {
                return Ok(Admitted::Stopping);
            }
            let Some(ahead) = place.ahead() else { continue };
            let (kind, name) = (&ahead.kind, &ahead.name);
            let message = format!("waits for {kind} {name}, which comes first at the same target");
            if said.as_ref() != Some(&message) {
                let busy = Failure::new(Reason::TargetBusy, message.clone());
                self.say_waiting(operation, fresh, &busy).await?;
                said = Some(message);
            }
        }
        let turn = match permits {
            None => Turn::default(),
            Some(permits) => {
                let mut waiting = std::pin::pin!(Turn::wait(permits));
                let mut told = false;
                loop {
                    tokio::select! {
                        biased;
                        turn = &mut waiting => match turn {
                            Some(turn) => break turn,
                            None => return Ok(Admitted::Stopping),
                        },
                        () = tokio::time::sleep(PATIENCE) => {}
                    }
                    if fresh && self.is_unwanted(operation) {
                        return Ok(Admitted::Unwanted);
                    }
                    if !told {
                        let message = "waits for its turn: as many operations as may work do so";
                        let pending = Failure::new(Reason::Pending, message);
                        self.say_waiting(operation, fresh, &pending).await?;
                        told = true;
                    }
                }
            }
        };
        if let Some(listener) = &self.listener {
            listener.waits(None);
        }
        Ok(Admitted::Now(Admission { target: place, turn }))
    }

    /// The claims of a cluster that an operation is about: those that it found when it was begun, and those that there
    /// are now.
    pub(super) async fn claims_at_stake(&self, job: &Job) -> Result<Vec<String>, OperatorError> {
        let Some(link) = &self.cluster else { return Ok(Vec::new()) };
        let mut claims = link.runtime.claims_of(job).await;
        let journal = self.journal(job.operation()).await?;
        let found: Option<PreflightFacts> = Log::new(&journal).facts(PREFLIGHT);
        claims.extend(found.unwrap_or_default().claims.into_iter().map(|claim| claim.name));
        claims.sort();
        claims.dedup();
        Ok(claims)
    }

    /// Waits for the date of an Upgrade that is to begin later, which holds nothing until then. Returns
    /// why it will not begin, if it will not.
    async fn wait_for_date(
        &self,
        job: &Job,
        permits: &Semaphore,
    ) -> Result<Option<Admitted>, OperatorError> {
        let Job::Upgrade(upgrade) = job else { return Ok(None) };
        let Some(at) = upgrade.spec.scheduled_at.as_ref().map(|at| at.0) else { return Ok(None) };
        let mut said = false;
        while Timestamp::now() < at {
            if self.is_unwanted(job.operation()) {
                return Ok(Some(Admitted::Unwanted));
            }
            if permits.is_closed() {
                return Ok(Some(Admitted::Stopping));
            }
            if !said {
                let pending = Failure::new(Reason::Pending, format!("scheduled for {at}"));
                self.say_waiting(job.operation(), true, &pending).await?;
                said = true;
            }
            let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::time::sleep(left.min(PATIENCE)).await;
        }
        Ok(None)
    }

    /// Says what an operation waits for. What has been begun has a status that says more.
    async fn say_waiting(
        &self,
        operation: &OperationId,
        fresh: bool,
        failure: &Failure,
    ) -> Result<(), OperatorError> {
        tracing::info!(%operation, "{}", failure.message);
        if let Some(listener) = &self.listener {
            listener.waits(Some((failure.reason, &failure.message)));
        }
        if !fresh || self.cluster.is_none() {
            return Ok(());
        }
        let value = status::waiting(operation.generation, failure, Timestamp::now());
        // What cannot be said now is said by the first step.
        if let Err(error) = self.put_status(operation, value).await {
            tracing::warn!(%operation, "{error}");
        }
        Ok(())
    }

    /// Whether the operation is to be undone as soon as it is taken up.
    pub(super) fn is_unwanted(&self, operation: &OperationId) -> bool {
        let unwanted = self.unwanted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        unwanted.contains(operation)
    }
}
