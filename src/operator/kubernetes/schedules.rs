//! One look at a schedule: the planner decides, a due run becomes a Backup object.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;

use super::{Context, LookError};
use crate::plan::OperationId;

/// A schedule is looked at again at least this often.
const LATEST: Duration = Duration::from_mins(5);

/// Decides a schedule and says when to look again.
pub(super) async fn look(
    operation: &OperationId,
    context: &Arc<Context>,
) -> Result<Action, LookError> {
    let operator = &context.operator;
    let known = operator.schedule(&operation.namespace, &operation.name).await?;
    let pause = operator.turn_object(&known).await?;
    Ok(Action::requeue(pause.clamp(Duration::from_millis(100), LATEST)))
}
