//! After a crash: every operation that has begun and not ended is finished or undone.

use tracing::{info, warn};

use super::{Operator, OperatorError};
use crate::plan::{Conclusion, Log, OperationId};

impl Operator {
    /// Drives every open operation to its end, children before their parents: a parent asks for the
    /// outcome of its child, and finds it.
    pub async fn recover(&self) -> Result<Vec<(OperationId, Conclusion)>, OperatorError> {
        let mut open = self.catalog.open_operations().await?;
        open.sort_by_key(|operation| match operation.kind.as_str() {
            "Backup" => 0,
            "Restore" => 1,
            _ => 2,
        });
        // Two of them may hold the same container: the first one must not let it go under the second.
        for operation in &open {
            let journal = self.catalog.journal(operation).await?;
            let log = Log::new(&journal);
            if let Some(job) = log.job() {
                self.docker.remember(&job, &log);
            }
        }
        let mut recovered = Vec::new();
        for operation in open {
            warn!(%operation, "was interrupted; finishing or undoing it");
            let conclusion = self.drive(&operation).await?;
            info!(%operation, "{}", conclusion.message);
            recovered.push((operation, conclusion));
        }
        Ok(recovered)
    }
}
