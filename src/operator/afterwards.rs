//! What follows a finished operation: retention of its schedule, and what its store holds now.

use jiff::Timestamp;
use serde_json::json;
use tracing::warn;

use super::kubernetes::StoreNews;
use super::schedules::{KnownSchedule, conditions_of};
use super::{Operator, OperatorError};
use crate::plan::{Failure, Log, OperationId, PreflightFacts, backup, conditions};
use crate::spec::Kind;

impl Operator {
    /// Says how a schedule's retention went: archives that pile up fill the store one day.
    async fn publish_retention(
        &self,
        known: &KnownSchedule,
        failure: Option<&Failure>,
        now: Timestamp,
    ) -> Result<(), OperatorError> {
        let name = &known.resource.name;
        if let Some(failure) = failure {
            warn!(schedule = name, "retention: {}", failure.message);
        }
        // As it is by now: the schedule may have said something meanwhile.
        let mut known = self.schedule(&known.resource.namespace, name).await?;
        let generation = known.resource.generation;
        let mut conditions = conditions_of(&known.resource);
        conditions::retention(&mut conditions, failure, generation, now);
        let mut status = known.resource.status.clone();
        if !status.is_object() {
            // Its first turn has not said anything yet; it will, and the next run prunes again.
            return Ok(());
        }
        status["conditions"] = json!(conditions);
        let changed = known.resource.status != status;
        if let (true, Some(link)) = (changed, &self.cluster) {
            let (kind, namespace) = (Kind::BackupSchedule, &known.resource.namespace);
            let uid = known.resource.document["metadata"]["uid"].as_str();
            link.put_status(kind, namespace, name, uid, &status).await?;
            if let Some(failure) = failure {
                let schedule = OperationId {
                    kind: kind.as_str().to_owned(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    generation,
                    uid: uid.map(str::to_owned),
                };
                let reason = failure.reason.as_str();
                link.event(&schedule, true, reason, "Prune", &failure.message).await;
            }
        }
        if changed {
            known.resource.status = status;
            self.catalog.put_resource(known.resource).await?;
        }
        Ok(())
    }

    /// What follows a finished operation: retention of its schedule, and a look at its store.
    pub(super) async fn after_operation(
        &self,
        operation: &OperationId,
    ) -> Result<(), OperatorError> {
        let journal = self.catalog.journal(operation).await?;
        let Some(crate::plan::Job::Backup(job)) = Log::new(&journal).job() else {
            return Ok(());
        };
        if let Some(name) = &job.schedule
            && let Ok(known) = self.schedule(&operation.namespace, name).await
        {
            let now = Timestamp::now();
            let pruned = self.prune(&operation.namespace, name, &known.spec, now, false);
            // Boxed: it may look into stores, and every future around it would carry that.
            let pruned = Box::pin(pruned).await;
            let failure = match pruned {
                Ok(_) => None,
                Err(OperatorError::Refused(failure)) => Some(failure),
                Err(error) => return Err(error),
            };
            self.publish_retention(&known, failure.as_ref(), now).await?;
        }
        if self.cluster.is_some() {
            return self.tell_store(operation, &job.store.name).await;
        }
        self.refresh_store(&operation.namespace, &job.store.name).await
    }

    /// Whoever sealed or removed an archive has looked into the store: what it saw is the store's status.
    async fn tell_store(&self, operation: &OperationId, name: &str) -> Result<(), OperatorError> {
        let journal = self.catalog.journal(operation).await?;
        let seen = journal.iter().rev().find(|entry| entry.detail["store"]["freeBytes"].is_u64());
        let Some(seen) = seen else { return Ok(()) };
        let Ok(figures) = serde_json::from_value(seen.detail["store"].clone()) else {
            return Ok(());
        };
        let store = OperationId {
            kind: Kind::BackupStore.as_str().to_owned(),
            namespace: operation.namespace.clone(),
            name: name.to_owned(),
            generation: 1,
            uid: None,
        };
        let written: PreflightFacts =
            Log::new(&journal).facts(backup::step::PREFLIGHT).unwrap_or_default();
        let news = StoreNews { writer: written.mover, ..StoreNews::default() };
        self.publish_store(&store, Ok(figures), news).await
    }
}
