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
use crate::plan::{Log, OperationId, status};
use crate::spec::Kind;

/// Keeps a place at its target for every operation that was begun and has not ended, by this catalog or by what is
/// written on the objects. Tries until the cluster answers: nothing may begin before.
pub(super) async fn keep_places(namespaces: &[String], context: &Arc<Context>) {
    while let Err(error) = try_to_keep_places(namespaces, context).await {
        warn!("what was under way is not known yet: {error}");
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

async fn try_to_keep_places(
    namespaces: &[String],
    context: &Arc<Context>,
) -> Result<(), LookError> {
    let operator = &context.operator;
    let mut candidates = Vec::new();
    let mut ended = HashSet::new();
    for kind in Kind::ALL.iter().filter(|kind| kind.runs_once()) {
        for object in context.link.objects(*kind, namespaces).await? {
            let mut operation = look::identity(*kind, &object);
            let said = &object.data["status"];
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
        info!(%operation, "was under way: nobody gets ahead of it");
        operator.locks.keep(Claimed {
            operation,
            target: job.target().clone(),
            volume_claims: context.link.runtime.claims_of(&job).await,
        });
    }
    Ok(())
}
