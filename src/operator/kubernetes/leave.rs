//! Objects that are being deleted: what is under way is undone, what is asked for is removed, and only
//! then the object may go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use serde_json::json;
use tracing::{info, warn};

use super::look;
use super::{ARCHIVE_FINALIZER, Context, LookError, OPERATION_FINALIZER, PARENT_ANNOTATION, WAIT};
use crate::catalog::{BackupRecord, RecordStatus};
use crate::operator::OperatorError;
use crate::plan::{Conclusion, Failure, Log, OperationId, StoreBinding, status};
use crate::runtime::kubernetes::{StoreErrand, StoreWork};
use crate::spec::{DeletionPolicy, Kind, Reason};

/// How often an object that waits for its operation to be undone is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How soon it is noticed that an object has gone which nothing held back.
const GONE: Duration = Duration::from_secs(5);

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
        if !journal.is_empty() && log.conclusion().is_none() && undo(operation, context) {
            return Ok(Action::requeue(LOOK));
        }
    }
    let to_be_removed = archive_to_remove(kind, object);
    let Some(archive) = to_be_removed else {
        let_go(kind, object, operation, context).await?;
        return Ok(Action::await_change());
    };
    // A mover takes seconds, and may wait for its turn: the next object need not.
    if context.enter(operation) {
        let (context, operation, object) = (Arc::clone(context), operation.clone(), object.clone());
        tokio::spawn(async move {
            let removed = remove_archive(&object, &operation, &archive, &context).await;
            let result = match removed {
                Ok(()) => let_go(kind, &object, &operation, &context).await,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                warn!(%operation, "{error}; looking again");
                let reason = error.reason();
                let note = error.to_string();
                context.link.event(&operation, true, reason.as_str(), "Delete", &note).await;
                tokio::time::sleep(WAIT).await;
            }
            context.leave(&operation);
        });
    }
    Ok(Action::requeue(LOOK))
}

/// Takes every finalizer of ours off and forgets the object.
async fn let_go(
    kind: Kind,
    object: &DynamicObject,
    operation: &OperationId,
    context: &Context,
) -> Result<(), LookError> {
    for finalizer in [ARCHIVE_FINALIZER, OPERATION_FINALIZER] {
        take_finalizer_off(kind, object, finalizer, context).await?;
    }
    forget(kind, operation, context).await?;
    info!(%operation, "let go");
    Ok(())
}

/// The archive that goes with its object.
fn archive_to_remove(kind: Kind, object: &DynamicObject) -> Option<String> {
    let archive = object.data["status"]["archive"]["name"].as_str()?;
    (kind == Kind::Backup && removes_archive(object)).then(|| archive.to_owned())
}

/// Whether an object's archive is to go when the object goes.
pub(super) fn removes_archive(object: &DynamicObject) -> bool {
    let policy = &object.data["spec"]["deletionPolicy"];
    let wanted = serde_json::from_value::<DeletionPolicy>(policy.clone()).unwrap_or_default();
    wanted == DeletionPolicy::Delete
}

/// Removes the archive of a Backup whose deletion policy says so.
async fn remove_archive(
    object: &DynamicObject,
    operation: &OperationId,
    archive: &str,
    context: &Context,
) -> Result<(), LookError> {
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
    if context.operator.archives_in_use().await?.iter().any(|name| name == archive) {
        let message = format!("an operation is reading {archive}: it is removed afterwards");
        return Err(Failure::new(Reason::TargetBusy, message).into());
    }
    let work = StoreWork::Delete(vec![archive.to_owned()]);
    let writer = context.operator.store_writer(&operation.namespace, store).await?;
    let errand = StoreErrand::new(work, writer, context.operator.take_turn().await);
    let done = context.link.runtime.work_on_store(operation, "delete", &binding, errand).await;
    match done {
        Ok(answer) => {
            if let Some((_, child)) = answer.stay.first() {
                let note = format!("the archive {archive} stays: {child} builds on it");
                let reason = Reason::ArchiveNeeded.as_str();
                context.link.event(operation, true, reason, "Delete", &note).await;
                return Ok(());
            }
        }
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

/// The finalizer that an object carries while it is carried out. A Backup whose archive goes with it
/// keeps it; every other object may go at once when its operation has ended, even when nobody is there
/// to let it go.
pub(super) fn finalizer(kind: Kind, object: &DynamicObject) -> &'static str {
    if kind == Kind::Backup && removes_archive(object) {
        ARCHIVE_FINALIZER
    } else {
        OPERATION_FINALIZER
    }
}

/// Takes what is not needed any more off an object whose operation has ended.
pub(super) async fn release(
    kind: Kind,
    object: &DynamicObject,
    context: &Context,
) -> Result<(), LookError> {
    let kept = archive_to_remove(kind, object).map(|_| ARCHIVE_FINALIZER);
    for finalizer in [ARCHIVE_FINALIZER, OPERATION_FINALIZER] {
        if kept != Some(finalizer) {
            take_finalizer_off(kind, object, finalizer, context).await?;
        }
    }
    Ok(())
}

/// Takes one of our finalizers off, if it is on.
async fn take_finalizer_off(
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

/// Marks the mirrored object as gone, and takes away what would go on speaking of it.
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
        context.operator.fall_silent(kind, namespace, name).await?;
    }
    Ok(())
}

/// Marks every mirrored object as gone that the cluster does not have any more, and undoes what was begun of it.
pub(super) async fn forget_the_gone(
    namespaces: &[String],
    context: &Arc<Context>,
) -> Result<(), LookError> {
    let catalog = context.operator.catalog();
    // Before the lists: what is made meanwhile is not taken for gone.
    let open = catalog.open_operations().await.map_err(OperatorError::from)?;
    let mut uids = HashSet::new();
    for kind in Kind::ALL {
        let mirrored = catalog.resources(Some(kind.as_str().to_owned())).await;
        let mirrored = mirrored.map_err(OperatorError::from)?;
        let mut present = HashSet::new();
        for object in context.link.list(*kind, namespaces).await? {
            present.insert((object.namespace().unwrap_or_default(), object.name_any()));
            uids.extend(object.uid());
        }
        for resource in mirrored {
            let watched = namespaces.is_empty() || namespaces.contains(&resource.namespace);
            let key = (resource.namespace.clone(), resource.name.clone());
            if resource.removed_at.is_none() && watched && !present.contains(&key) {
                let policy = resource.document["spec"]["deletionPolicy"].clone();
                let operation = OperationId {
                    kind: kind.as_str().to_owned(),
                    namespace: resource.namespace,
                    name: resource.name,
                    generation: resource.generation,
                    uid: resource.document["metadata"]["uid"].as_str().map(str::to_owned),
                };
                if *kind == Kind::Backup && policy == json!(DeletionPolicy::Delete) {
                    end_with_its_object(&operation, context).await?;
                }
                forget(*kind, &operation, context).await?;
            }
        }
    }
    let mut unknown = None;
    for operation in open {
        let watched = namespaces.is_empty() || namespaces.contains(&operation.namespace);
        let is_gone = operation.uid.as_ref().is_some_and(|uid| !uids.contains(uid));
        if !watched || !is_gone || is_child(&operation, context).await? {
            continue;
        }
        let is_certain = match is_certain(&operation, context).await {
            Ok(is_certain) => is_certain,
            // It is come by again; the others need not wait for that.
            Err(error) => {
                warn!(%operation, "its object is gone; whether it is to be undone: {error}");
                unknown = Some(error);
                continue;
            }
        };
        if !is_certain {
            let message =
                "its object is gone, and another replica has led since: nothing is undone";
            let failure = lost(message);
            // The record first: what is closed is not come by again.
            context.operator.end_record(&operation, &failure).await?;
            context.operator.close(&operation, &Conclusion::failed(failure)).await?;
            warn!(%operation, "{message}");
        } else if undo(&operation, context) {
            // Somebody has taken its finalizer off while no operator ran, and its service may still be held.
            warn!(%operation, "its object is gone, and it has not ended: it is undone");
        }
    }
    unknown.map_or(Ok(()), Err)
}

/// Ends the record of a Backup whose archive went with its object, while another replica led. Should the archive
/// have stayed after all, the next look into its store finds it.
async fn end_with_its_object(operation: &OperationId, context: &Context) -> Result<(), LookError> {
    let known = context.operator.record_of_object(operation).await?;
    let ended =
        |known: &BackupRecord| known.status != RecordStatus::Running && known.deleted_at.is_none();
    let Some(record) = known.filter(ended).filter(|_| !context.knows_what_was_done) else {
        return Ok(());
    };
    let catalog = context.operator.catalog();
    let marked = catalog.mark_backup_deleted(record.id, Timestamp::now()).await;
    Ok(marked.map_err(OperatorError::from)?)
}

fn lost(message: &str) -> Failure {
    Failure::new(Reason::Interrupted, message)
}

/// Whether an operation without an object has not ended for sure. The journal says so if nobody else has led since
/// it was written; otherwise it may have ended long ago, and undoing it would undo somebody's success. A workload
/// that is marked as held by it is still held.
async fn is_certain(operation: &OperationId, context: &Context) -> Result<bool, LookError> {
    if context.knows_what_was_done {
        return Ok(true);
    }
    let journal =
        context.operator.catalog().journal(operation).await.map_err(OperatorError::from)?;
    let session = context.operator.session();
    if journal.last().is_some_and(|entry| entry.session == session) {
        return Ok(true);
    }
    let Some(job) = Log::new(&journal).job() else { return Ok(false) };
    Ok(context.link.runtime.is_held(&job).await?)
}

/// Whether another operation has made it: that one drives it, and it holds nothing still itself.
pub(super) async fn is_child(
    operation: &OperationId,
    context: &Context,
) -> Result<bool, LookError> {
    let catalog = context.operator.catalog();
    let (kind, namespace) = (&operation.kind, &operation.namespace);
    let found =
        catalog.resource(kind, namespace, &operation.name).await.map_err(OperatorError::from)?;
    let annotations = found.map(|found| found.document["metadata"]["annotations"].clone());
    Ok(annotations.is_some_and(|annotations| annotations[PARENT_ANNOTATION].is_string()))
}

/// Undoes what was begun, in a task of its own; false if a task is at it already.
fn undo(operation: &OperationId, context: &Arc<Context>) -> bool {
    if !context.enter(operation) {
        return false;
    }
    context.operator.cancel_for_good(operation);
    let (context, operation) = (Arc::clone(context), operation.clone());
    tokio::spawn(async move {
        if let Err(error) = context.operator.drive_queued(&operation).await {
            warn!(%operation, "{error}");
        }
        context.leave(&operation);
    });
    true
}

/// Forgets what disappears from a watch: an object that nothing holds back leaves without a word to its
/// reconciler. Runs until it is dropped.
pub(super) async fn forget_as_they_go(
    kind: Kind,
    store: Store<DynamicObject>,
    context: Arc<Context>,
) {
    if store.wait_until_ready().await.is_err() {
        return;
    }
    let mut known: HashMap<Option<String>, OperationId> = HashMap::new();
    loop {
        let present: HashMap<_, _> = store
            .state()
            .iter()
            .map(|object| (object.uid(), look::identity(kind, object)))
            .collect();
        for (_, operation) in known.iter().filter(|(uid, _)| !present.contains_key(*uid)) {
            // Whoever comes by every half hour tries again.
            if let Err(error) = forget(kind, operation, &context).await {
                warn!(%operation, "it is gone, which could not be noted: {error}");
            }
        }
        known = present;
        tokio::time::sleep(GONE).await;
    }
}
