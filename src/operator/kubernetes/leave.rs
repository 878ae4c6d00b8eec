//! Objects that are being deleted: what is under way is undone, what is asked for is removed, and only
//! then the object may go.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use tracing::{info, warn};

use super::{ARCHIVE_FINALIZER, Context, LookError, OPERATION_FINALIZER};
use crate::operator::OperatorError;
use crate::plan::{Failure, Log, OperationId, StoreBinding, status};
use crate::runtime::kubernetes::StoreWork;
use crate::spec::{DeletionPolicy, Kind, Reason};

/// How often an object that waits for its operation to be undone is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// One look at an object that is being deleted.
pub(super) async fn leave(
    kind: Kind,
    object: &DynamicObject,
    operation: &OperationId,
    context: &Arc<Context>,
) -> Result<Action, LookError> {
    let own = [ARCHIVE_FINALIZER, OPERATION_FINALIZER];
    if !object.finalizers().iter().any(|finalizer| own.contains(&finalizer.as_str())) {
        forget(kind, operation, context).await?;
        return Ok(Action::await_change());
    }
    let operator = &context.operator;
    let ended = status::recorded(&object.data["status"], operation.generation).is_some();
    if context.is_active(operation) {
        operator.cancel_for_good(operation);
        return Ok(Action::requeue(LOOK));
    }
    if !ended {
        operator.adopt_lines(operation, &object.data["status"]).await?;
        let journal = operator.catalog().journal(operation).await.map_err(OperatorError::from)?;
        let log = Log::new(&journal);
        // Something of it was begun, by this process or an earlier one: it is undone like any other.
        if !journal.is_empty() && log.conclusion().is_none() && context.enter(operation) {
            operator.cancel_for_good(operation);
            let (context, operation) = (Arc::clone(context), operation.clone());
            tokio::spawn(async move {
                if let Err(error) = context.operator.drive_queued(&operation).await {
                    warn!(%operation, "{error}");
                }
                context.leave(&operation);
            });
            return Ok(Action::requeue(LOOK));
        }
    }
    if kind == Kind::Backup {
        remove_archive(object, operation, context).await?;
    }
    for finalizer in own {
        take_finalizer_off(kind, object, finalizer, context).await?;
    }
    forget(kind, operation, context).await?;
    info!(%operation, "let go");
    Ok(Action::await_change())
}

/// Removes the archive of a Backup whose deletion policy says so.
async fn remove_archive(
    object: &DynamicObject,
    operation: &OperationId,
    context: &Arc<Context>,
) -> Result<(), LookError> {
    let policy = &object.data["spec"]["deletionPolicy"];
    let wanted = serde_json::from_value::<DeletionPolicy>(policy.clone()).unwrap_or_default();
    let archive = object.data["status"]["archive"]["name"].as_str();
    let (DeletionPolicy::Delete, Some(archive)) = (wanted, archive) else { return Ok(()) };
    let store = object.data["spec"]["storeRef"]["name"].as_str().unwrap_or_default();
    let binding: StoreBinding = match context.operator.store(&operation.namespace, store).await? {
        Ok(binding) => binding,
        Err(failure) => {
            // The store's object is gone: nobody can say where the archive is. It stays.
            let note = format!("the archive {archive} stays: {}", failure.message);
            context.link.event(operation, true, failure.reason.as_str(), "Delete", &note).await;
            return Ok(());
        }
    };
    let work = StoreWork::Delete(vec![archive.to_owned()]);
    let done = context.link.runtime.work_on_store(operation, "delete", &binding, work).await;
    match done {
        Ok(_) => {}
        Err(failure) if hopeless(&failure) => {
            let note = format!("the archive {archive} stays: {}", failure.message);
            context.link.event(operation, true, failure.reason.as_str(), "Delete", &note).await;
            return Ok(());
        }
        Err(failure) => return Err(failure.into()),
    }
    let catalog = context.operator.catalog();
    let record = context.operator.record_of_object(operation).await?;
    if let Some(record) = record {
        let at = Timestamp::now();
        catalog.mark_backup_deleted(record.id, at).await.map_err(OperatorError::from)?;
    }
    context.link.event(operation, false, "Deleted", "Delete", &format!("removed {archive}")).await;
    Ok(())
}

/// Whether trying again cannot help: no mover can be made in a namespace that is going.
fn hopeless(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::NamespaceTerminating | Reason::StoreUnavailable)
}

/// Takes one of our finalizers off, if it is on.
pub(super) async fn take_finalizer_off(
    kind: Kind,
    object: &DynamicObject,
    finalizer: &str,
    context: &Context,
) -> Result<(), LookError> {
    // The object may have changed since it was seen; what is written is checked against its version.
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    if !object.finalizers().iter().any(|known| known == finalizer) {
        return Ok(());
    }
    let Some(fresh) = context.link.api(kind, &namespace).get_opt(&name).await? else {
        return Ok(());
    };
    if fresh.metadata.uid != object.metadata.uid {
        return Ok(());
    }
    let left: Vec<String> =
        fresh.finalizers().iter().filter(|known| *known != finalizer).cloned().collect();
    if left.len() != fresh.finalizers().len() {
        context.link.set_finalizers(kind, &fresh, &left).await?;
    }
    Ok(())
}

/// Marks the mirrored object as gone.
async fn forget(kind: Kind, operation: &OperationId, context: &Context) -> Result<(), LookError> {
    let catalog = context.operator.catalog();
    let (namespace, name) = (&operation.namespace, &operation.name);
    let found =
        catalog.resource(kind.as_str(), namespace, name).await.map_err(OperatorError::from)?;
    let Some(mut resource) = found else { return Ok(()) };
    let same = resource.document["metadata"]["uid"].as_str() == operation.uid.as_deref();
    if same && resource.removed_at.is_none() {
        resource.removed_at = Some(Timestamp::now());
        catalog.put_resource(resource).await.map_err(OperatorError::from)?;
    }
    Ok(())
}
