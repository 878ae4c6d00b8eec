//! The status of objects, made from the journal and written beside the document.

use serde_json::Value;

use super::drive::Running;
use super::{Operator, OperatorError};
use crate::plan::{Job, Log, OperationId, status};

impl Operator {
    /// Publishes where an operation stands.
    pub(super) async fn publish(
        &self,
        job: &Job,
        log: &Log<'_>,
        running: &Running,
    ) -> Result<(), OperatorError> {
        let status = status::of(job, log, Some(running.meter.status()));
        self.put_status(job.operation(), status).await
    }

    /// Writes a status. A status of a generation that is no longer the document's is not written:
    /// what the object shows is about what it says now.
    pub(super) async fn put_status(
        &self,
        operation: &OperationId,
        status: Value,
    ) -> Result<(), OperatorError> {
        let found =
            self.catalog.resource(&operation.kind, &operation.namespace, &operation.name).await?;
        let Some(mut resource) = found else {
            return Ok(());
        };
        if resource.generation != operation.generation || resource.status == status {
            return Ok(());
        }
        resource.status = status;
        self.catalog.put_resource(resource).await?;
        Ok(())
    }
}
