//! The status of objects, made from the journal and written beside the document.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::drive::Running;
use super::kubernetes::journal;
use super::{Operator, OperatorError};
use crate::plan::{Failure, Job, Log, OperationId, conditions, status};
use crate::spec::{Kind, Reason};

impl Operator {
    /// Publishes where an operation stands.
    pub(super) async fn publish(
        &self,
        job: &Job,
        log: &Log<'_>,
        running: &Running,
    ) -> Result<(), OperatorError> {
        if self.cluster.is_some() {
            // What cannot be written now is written with the next step.
            let _ = self.announce(job, log, running).await?;
            return Ok(());
        }
        let status = status::of(job, log, Some(running.meter.status()));
        self.put_mirrored_status(job.operation(), &status).await;
        Ok(())
    }

    /// Writes status and journal to the cluster; the step that is announced may begin only after it.
    pub(super) async fn announce(
        &self,
        job: &Job,
        log: &Log<'_>,
        running: &Running,
    ) -> Result<Result<(), Failure>, OperatorError> {
        let mut status = status::of(job, log, Some(running.meter.status()));
        status["journal"] = json!(journal::to_lines(log.entries()));
        let operation = job.operation();
        let cause = running.meter.cause_of_waiting();
        if let Some((reason, message)) = &cause {
            waiting(&mut status, *reason, message, operation.generation);
        }
        self.put_mirrored_status(operation, &status).await;
        let written = self.put_cluster_status(operation, &status).await;
        if let (Some(link), Some(step), Ok(())) = (&self.cluster, log.latest_step(), &written) {
            match &cause {
                Some((reason, message)) => {
                    link.event(operation, true, reason.as_str(), &action(step), message).await;
                }
                None => {
                    let (reason, note) = (Reason::Running.as_str(), format!("step {step}"));
                    link.event(operation, false, reason, &action(step), &note).await;
                }
            }
        }
        Ok(written)
    }

    /// Writes a status. A status of a generation that is no longer the document's is not written:
    /// what the object shows is about what it says now.
    pub(super) async fn put_status(
        &self,
        operation: &OperationId,
        status: Value,
    ) -> Result<(), OperatorError> {
        self.put_local_status(operation, &status).await?;
        self.put_cluster_status(operation, &status).await?;
        Ok(())
    }

    /// The status of what is under way, for those who ask here: the journal is what counts.
    async fn put_mirrored_status(&self, operation: &OperationId, status: &Value) {
        if let Err(error) = self.put_local_status(operation, status).await {
            tracing::warn!(%operation, "its status is out of date: {error}");
        }
    }

    async fn put_local_status(
        &self,
        operation: &OperationId,
        status: &Value,
    ) -> Result<(), OperatorError> {
        let found =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        let Some(mut resource) = found else {
            return Ok(());
        };
        let other = operation.uid.is_some()
            && resource.document["metadata"]["uid"].as_str() != operation.uid.as_deref();
        if other || resource.generation != operation.generation || resource.status == *status {
            return Ok(());
        }
        resource.status = status.clone();
        self.catalog.put_resource(resource).await?;
        Ok(())
    }

    async fn put_cluster_status(
        &self,
        operation: &OperationId,
        status: &Value,
    ) -> Result<(), Failure> {
        let (Some(link), Ok(kind)) = (&self.cluster, operation.kind.parse::<Kind>()) else {
            return Ok(());
        };
        let uid = operation.uid.as_deref();
        link.put_status(kind, &operation.namespace, &operation.name, uid, status).await
    }
}

/// The step as an event's action: `hooks-before` is `HooksBefore`.
fn action(step: &str) -> String {
    step.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_uppercase().collect::<String>() + letters.as_str()
            })
        })
        .collect()
}

/// Says in a running status what the work waits for.
pub(super) fn waiting(status: &mut Value, reason: Reason, message: &str, generation: i64) {
    let mut list: Vec<Condition> =
        serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    conditions::running(&mut list, reason, message, generation, Timestamp::now());
    status["conditions"] = json!(list);
    status["message"] = json!(message);
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_action_is_written_as_kubernetes_writes_it() {
        assert_eq!(super::action("hooks-before"), "HooksBefore");
        assert_eq!(super::action("archive"), "Archive");
    }
}
