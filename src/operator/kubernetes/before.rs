//! What was under way when this process began, before it looks at anything else.
//!
//! Controllers come by objects in any order. Somebody who waited for a Restore would get ahead of it, and read or
//! replace what is half done.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::{info, warn};

use super::{Context, FIRST_PAUSE, LookError, PARENT_ANNOTATION, leave, look};
use crate::operator::OperatorError;
use crate::operator::locks::Claimed;
use crate::operator::recover::turn;
use crate::plan::{Conclusion, Failure, Log, OperationId, status};
use crate::spec::{Kind, Reason};
use crate::telemetry::Health;

/// What `/readyz` calls it.
const COMPONENT: &str = "operations";

/// Keeps a place at its target for every operation that was begun and has not ended, by this catalog or by what is
/// written on the objects. Tries until the cluster answers: nothing may begin before.
pub(super) async fn keep_places(namespaces: &[String], context: &Arc<Context>, health: &Health) {
    while let Err(error) = try_to_keep_places(namespaces, context).await {
        warn!("what was under way is not known yet: {error}");
        health.waiting(COMPONENT, format!("what was under way: {error}"));
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    health.forget(COMPONENT);
}

async fn try_to_keep_places(
    namespaces: &[String],
    context: &Arc<Context>,
) -> Result<(), LookError> {
    let operator = &context.operator;
    let mut candidates = Vec::new();
    let mut ended = HashSet::new();
    // What a look at its object goes on with, and the objects that are there.
    let (mut looked_at, mut present) = (HashSet::new(), HashSet::new());
    for kind in Kind::ALL.iter().filter(|kind| kind.runs_once()) {
        for object in context.link.objects(*kind, namespaces).await? {
            let mut operation = look::identity(*kind, &object);
            let said = &object.data["status"];
            present.insert(operation.uid.clone());
            looked_at.insert(operation.clone());
            // An edit or a deletion counts as a change of what runs as it was.
            operation.generation = look::generation_before_deletion(&object);
            let is_child = object
                .metadata
                .annotations
                .is_some_and(|annotations| annotations.contains_key(PARENT_ANNOTATION));
            if is_child || status::recorded(said, operation.generation).is_some() {
                ended.insert(operation);
                continue;
            }
            // What cannot be written down here is asked for again when the object is looked at.
            if let Err(error) = operator.adopt_lines(&operation, said).await {
                warn!(%operation, "{error}");
            }
            if said["observedGeneration"].is_i64() {
                looked_at.insert(operation.clone());
            }
            candidates.push(operation);
        }
    }
    // Those of objects that are gone are undone.
    for operation in operator.catalog().open_operations().await.map_err(OperatorError::from)? {
        let watched = namespaces.is_empty() || namespaces.contains(&operation.namespace);
        if watched
            && !ended.contains(&operation)
            && !candidates.contains(&operation)
            && !leave::is_child(&operation, context).await?
        {
            candidates.push(operation);
        }
    }
    let mut under_way = Vec::new();
    for operation in candidates {
        let journal = operator.journal(&operation).await?;
        let log = Log::new(&journal);
        if let Some(job) = log.job()
            && log.latest_step().is_some()
            && log.conclusion().is_none()
        {
            under_way.push((turn(Some(&job), &log), job));
        }
    }
    // The sort is stable.
    under_way.sort_by_key(|(turn, _)| *turn);
    for (_, job) in under_way {
        let operation: OperationId = job.operation().clone();
        let is_overlooked = present.contains(&operation.uid) && !looked_at.contains(&operation);
        if is_overlooked && !context.knows_what_was_done {
            let message =
                "its object was edited, and another replica has led since: nothing is undone";
            let failure = Failure::new(Reason::Interrupted, message);
            operator.end_record(&operation, &failure).await?;
            operator.close(&operation, &Conclusion::failed(failure)).await?;
            continue;
        }
        info!(%operation, "was under way: nobody gets ahead of it");
        operator.locks.keep(Claimed {
            operation,
            target: job.target().clone(),
            volume_claims: operator.claims_at_stake(&job).await?,
        });
        // Its object is another generation by now, of which nobody has said anything.
        if is_overlooked && let Ok(kind) = job.operation().kind.parse() {
            look::begin(kind, job.operation().clone(), context);
        }
    }
    Ok(())
}
