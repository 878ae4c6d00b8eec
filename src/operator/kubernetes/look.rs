//! One look at an object that runs once: is there something to begin, to go on with, to say?

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Context, FIRST_PAUSE, LONGEST_PAUSE, LookError, PARENT_ANNOTATION, WAIT};
use super::{leave, schedules, stores};
use crate::catalog::ResourceRecord;
use crate::operator::OperatorError;
use crate::plan::{Conclusion, Failure, Log, OperationId, conditions, status};
use crate::spec::{self, API_VERSION, Document, Kind, Reason};

/// The longest value that Kubernetes takes for a label.
const LABEL_LENGTH: usize = 63;

/// The operation that an object is, as it is now.
pub(super) fn identity(kind: Kind, object: &DynamicObject) -> OperationId {
    OperationId {
        kind: kind.as_str().to_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        generation: object.metadata.generation.unwrap_or(1),
        uid: object.metadata.uid.clone(),
    }
}

/// The generation that was carried out of an object that is being deleted: an API server counts the
/// deletion itself as a change of the specification.
pub(super) fn generation_before_deletion(object: &DynamicObject) -> i64 {
    let now = object.metadata.generation.unwrap_or(1);
    object.data["status"]["observedGeneration"].as_i64().unwrap_or_else(|| (now - 1).max(1))
}

/// Looks at an object of any kind.
pub(super) async fn look(
    kind: Kind,
    object: &DynamicObject,
    context: &Arc<Context>,
) -> Result<Action, LookError> {
    let mut operation = identity(kind, object);
    if object.metadata.deletion_timestamp.is_some() {
        operation.generation = generation_before_deletion(object);
        return leave::leave(kind, object, &operation, context).await;
    }
    let document = match read(kind, object) {
        Ok(document) => document,
        Err(failure) => {
            // What was begun before it became wrong is finished, or undone. That may not be said on it yet.
            if kind.runs_once() {
                let seen = object.data["status"]["observedGeneration"].as_i64();
                let seen = seen.unwrap_or(operation.generation);
                if let Some(action) = go_on_with(kind, seen, &operation, object, context).await? {
                    return Ok(action);
                }
                if context.is_active_as_before(&operation) {
                    return Ok(Action::requeue(WAIT));
                }
            }
            return refuse(kind, &operation, object, failure, context).await;
        }
    };
    if kind == Kind::BackupSchedule && object.name_any().len() > LABEL_LENGTH {
        let message = format!(
            "the name of a BackupSchedule has {LABEL_LENGTH} characters at most: its Backups carry it \
             in a label"
        );
        let failure = Failure::new(Reason::InvalidSpec, message);
        return refuse(kind, &operation, object, failure, context).await;
    }
    mirror(kind, object, &document, context).await?;
    match kind {
        Kind::BackupSchedule => schedules::look(&operation, context).await,
        Kind::BackupStore => stores::look(&operation, object, context).await,
        Kind::Backup | Kind::Restore | Kind::Upgrade => {
            look_once(kind, object, &operation, context).await
        }
    }
}

/// The document of an object: its metadata, as far as it is ours, and its specification, judged by the
/// same schema and rules as a file. Servers before 1.25 do not enforce the rules.
fn read(kind: Kind, object: &DynamicObject) -> Result<Document, Failure> {
    let text = json!({
        "apiVersion": API_VERSION,
        "kind": kind.as_str(),
        "metadata": {"name": object.name_any(), "namespace": object.namespace()},
        "spec": object.data["spec"],
    })
    .to_string();
    match spec::load(&text, "object") {
        Ok(mut documents) if documents.len() == 1 => {
            let mut document = documents.remove(0).value;
            let metadata = document.metadata_mut();
            metadata.labels.clone_from(&object.metadata.labels);
            metadata.uid.clone_from(&object.metadata.uid);
            metadata.generation = object.metadata.generation;
            metadata.creation_timestamp.clone_from(&object.metadata.creation_timestamp);
            metadata.owner_references.clone_from(&object.metadata.owner_references);
            let parent = object.annotations().get(PARENT_ANNOTATION);
            metadata.annotations =
                parent.map(|parent| [(PARENT_ANNOTATION.to_owned(), parent.clone())].into());
            Ok(document)
        }
        Ok(_) => Err(Failure::new(Reason::InvalidSpec, "the object has no specification")),
        Err(problems) => {
            let messages: Vec<String> = problems
                .iter()
                .take(5)
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .collect();
            Err(Failure::new(Reason::InvalidSpec, messages.join("; ")).hint(
                "`eider validate -f FILE` says where; a run-once object has to be made again",
            ))
        }
    }
}

/// Says that an object cannot be carried out as it is.
async fn refuse(
    kind: Kind,
    operation: &OperationId,
    object: &DynamicObject,
    failure: Failure,
    context: &Context,
) -> Result<Action, LookError> {
    let generation = operation.generation;
    let said = &object.data["status"];
    let known = said["observedGeneration"].as_i64() == Some(generation)
        && said["message"].as_str() == Some(failure.message.as_str());
    // A terminal state never regresses: rules of a newer Eider do not unmake what an older one has done.
    if known || status::recorded(said, generation).is_some() {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let value = if kind.runs_once() {
        status::refused(generation, &Conclusion::failed(failure.clone()), now)
    } else {
        let mut list = Vec::new();
        conditions::ready(&mut list, false, failure.reason, &failure.message, generation, now);
        json!({"observedGeneration": generation, "message": failure.message, "conditions": list})
    };
    let uid = operation.uid.as_deref();
    context.link.put_status(kind, &operation.namespace, &operation.name, uid, &value).await?;
    context.operator.metrics().reconcile_failed(kind, failure.reason);
    let reason = failure.reason.as_str();
    context.link.event(operation, true, reason, "Validate", &failure.message).await;
    Ok(Action::await_change())
}

/// Writes an object down where the rest of Eider looks for documents.
async fn mirror(
    kind: Kind,
    object: &DynamicObject,
    document: &Document,
    context: &Context,
) -> Result<(), LookError> {
    let catalog = context.operator.catalog();
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let known =
        catalog.resource(kind.as_str(), &namespace, &name).await.map_err(OperatorError::from)?;
    let value = document.to_value();
    let generation = object.metadata.generation.unwrap_or(1);
    let mut status = object.data["status"].clone();
    if let Some(map) = status.as_object_mut() {
        map.remove("journal");
    }
    let same = known.as_ref().is_some_and(|known| {
        known.document == value
            && known.generation == generation
            && known.removed_at.is_none()
            && known.status == status
    });
    if same {
        return Ok(());
    }
    let record = ResourceRecord {
        kind: kind.as_str().to_owned(),
        namespace,
        name,
        generation,
        spec_digest: crate::operator::apply::digest(&document.spec_value()),
        document: value,
        status,
        source: "kubernetes".to_owned(),
        observed_at: Timestamp::now(),
        removed_at: None,
    };
    catalog.put_resource(record).await.map_err(OperatorError::from)?;
    Ok(())
}

async fn look_once(
    kind: Kind,
    object: &DynamicObject,
    operation: &OperationId,
    context: &Arc<Context>,
) -> Result<Action, LookError> {
    let said = &object.data["status"];
    if status::recorded(said, operation.generation).is_some() {
        if !context.is_active(operation) {
            context.operator.close_from_status(operation, said).await?;
        }
        context.operator.record_from_status(operation, said).await?;
        if !context.is_active(operation) {
            leave::release(kind, object, context).await?;
        }
        return Ok(Action::await_change());
    }
    if context.is_active(operation) {
        return Ok(Action::await_change());
    }
    // Servers before 1.25 let the specification of what runs or has run be changed.
    if context.is_active_as_before(operation) {
        return Ok(Action::requeue(WAIT));
    }
    let earlier = said["observedGeneration"].as_i64().filter(|seen| *seen < operation.generation);
    if let Some(earlier) = earlier
        && let Some(action) = go_on_with(kind, earlier, operation, object, context).await?
    {
        return Ok(action);
    }
    if let Some(parent) = object.annotations().get(PARENT_ANNOTATION)
        && is_carried_by(parent, operation, context).await?
    {
        // Its parent drives it; the parent may also be about to be taken up again.
        return Ok(Action::requeue(WAIT));
    }
    let finalizer = leave::finalizer(kind, object);
    if !object.finalizers().iter().any(|known| known == finalizer) {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(finalizer.to_owned());
        context.link.set_finalizers(kind, object, &finalizers).await?;
    }
    let operator = &context.operator;
    operator.adopt_lines(operation, said).await?;
    if let Some(conclusion) = operator.concluded(operation).await? {
        // It has ended, and whoever ended it died before it could say so here.
        operator.publish_end(operation).await?;
        info!(%operation, "{}", conclusion.message);
        return Ok(Action::await_change());
    }
    if let Some(failure) = stores::awaits_look(operation, context).await? {
        return wait(kind, operation, said, failure, context).await;
    }
    if let Some(failure) = operator.waits_for(operation).await? {
        return wait(kind, operation, said, failure, context).await;
    }
    begin(kind, operation.clone(), context);
    Ok(Action::await_change())
}

/// Goes on with a generation of an object that was begun before it was changed, or tells how it ended: what was begun is
/// finished or undone as it was meant then, and what was carried out does not run again. Nothing if it was not begun, or
/// only refused: then it may be mended.
async fn go_on_with(
    kind: Kind,
    generation: i64,
    operation: &OperationId,
    object: &DynamicObject,
    context: &Arc<Context>,
) -> Result<Option<Action>, LookError> {
    let said = &object.data["status"];
    let refused = |failure: &Failure| failure.reason == Reason::InvalidSpec;
    if let Some(ended) = status::recorded(said, generation) {
        if ended.failure.as_ref().is_some_and(refused) {
            return Ok(None);
        }
        if generation < operation.generation {
            let message = "what has been carried out does not run again; make a new object";
            let reason = Reason::InvalidSpec.as_str();
            context.link.event(operation, true, reason, "Validate", message).await;
        }
        return Ok(Some(Action::await_change()));
    }
    let earlier = OperationId { generation, ..operation.clone() };
    if context.is_active(&earlier) {
        return Ok(Some(Action::requeue(WAIT)));
    }
    context.operator.adopt_lines(&earlier, said).await?;
    let journal =
        context.operator.catalog().journal(&earlier).await.map_err(OperatorError::from)?;
    let log = Log::new(&journal);
    if log.conclusion().is_some() {
        context.operator.publish_end(&earlier).await?;
    } else if log.job().is_some() && log.latest_step().is_some() {
        begin(kind, earlier, context);
    } else {
        return Ok(None);
    }
    Ok(Some(Action::requeue(WAIT)))
}

/// Has a task carry an operation out, unless one does.
pub(super) fn begin(kind: Kind, operation: OperationId, context: &Arc<Context>) {
    if context.enter(&operation) {
        let context = Arc::clone(context);
        tokio::spawn(async move { carry_out(kind, &operation, &context).await });
    }
}

/// Whether the object that made this one is there and has not ended.
async fn is_carried_by(
    parent: &str,
    operation: &OperationId,
    context: &Context,
) -> Result<bool, LookError> {
    let Some((kind, name)) = parent.split_once('/') else { return Ok(false) };
    let Ok(kind @ (Kind::Restore | Kind::Upgrade)) = kind.parse::<Kind>() else {
        return Ok(false);
    };
    let found = context.link.api(kind, &operation.namespace).get_opt(name).await?;
    Ok(found.is_some_and(|parent| {
        let generation = parent.metadata.generation.unwrap_or(1);
        status::recorded(&parent.data["status"], generation).is_none()
    }))
}

/// Says what an object waits for.
async fn wait(
    kind: Kind,
    operation: &OperationId,
    said: &Value,
    failure: Failure,
    context: &Context,
) -> Result<Action, LookError> {
    if said["message"].as_str() != Some(failure.message.as_str()) {
        let mut value = status::waiting(operation.generation, &failure, Timestamp::now());
        // Another catalog may have nothing else to go on from.
        if !said["journal"].is_null() && said["observedGeneration"] == operation.generation {
            value["journal"] = said["journal"].clone();
        }
        let uid = operation.uid.as_deref();
        context.link.put_status(kind, &operation.namespace, &operation.name, uid, &value).await?;
        let reason = failure.reason.as_str();
        context.link.event(operation, true, reason, "Wait", &failure.message).await;
    }
    Ok(Action::requeue(WAIT))
}

/// Drives an operation until its end is told, as long as that takes: nobody else looks at it again. Nothing if
/// the process is stopping.
async fn drive_to_its_end(operation: &OperationId, context: &Context) -> Option<Conclusion> {
    let operator = &context.operator;
    let mut pause = FIRST_PAUSE;
    loop {
        // It may have ended, and only not been told.
        let result = match operator.concluded(operation).await {
            Ok(Some(conclusion)) => {
                operator.publish_end(operation).await.map(|()| Some(conclusion))
            }
            _ => operator.drive_queued(operation).await,
        };
        match result {
            Ok(conclusion) => return conclusion,
            Err(error) => {
                warn!(%operation, "{error}; going on in {} s", pause.as_secs());
                let reason = error.reason().as_str();
                context.link.event(operation, true, reason, "Reconcile", &error.to_string()).await;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Carries an operation out, in a task of its own.
async fn carry_out(kind: Kind, operation: &OperationId, context: &Arc<Context>) {
    let conclusion = drive_to_its_end(operation, context).await;
    if let Some(conclusion) = &conclusion {
        let (warning, reason) = match &conclusion.failure {
            None => (false, Reason::Succeeded),
            Some(failure) => (true, failure.reason),
        };
        let note = &conclusion.message;
        context.link.event(operation, warning, reason.as_str(), "Conclude", note).await;
    }
    context.leave(operation);
    let api = context.link.api(kind, &operation.namespace);
    if let Ok(Some(object)) = api.get_opt(&operation.name).await
        && object.metadata.uid == operation.uid
        && status::recorded(&object.data["status"], operation.generation).is_some()
        && let Err(error) = leave::release(kind, &object, context).await
    {
        warn!(%operation, "its finalizer stays for now: {error}");
    }
    // Last: retention waits for looks into stores, and nobody who deletes the object is to wait for those.
    if conclusion.is_some()
        && let Err(error) = context.operator.after_operation(operation).await
    {
        warn!(%operation, "{error}");
    }
}

impl crate::operator::Operator {
    /// How an operation has ended, if its journal says so.
    async fn concluded(
        &self,
        operation: &OperationId,
    ) -> Result<Option<Conclusion>, OperatorError> {
        let journal = self.catalog.journal(operation).await?;
        Ok(Log::new(&journal).conclusion().map(|(conclusion, _)| conclusion))
    }

    /// Publishes the end of an operation once more.
    async fn publish_end(&self, operation: &OperationId) -> Result<(), OperatorError> {
        let journal = self.catalog.journal(operation).await?;
        let log = Log::new(&journal);
        let value = match (log.job(), log.conclusion()) {
            (Some(job), _) => status::of(&job, &log, None),
            (None, Some((conclusion, at))) => {
                status::refused(operation.generation, &conclusion, at)
            }
            (None, None) => return Ok(()),
        };
        self.put_status(operation, value).await
    }

    /// What an operation that has not begun waits for, if it waits: objects are applied in any order,
    /// and what is not there yet is no failure.
    async fn waits_for(&self, operation: &OperationId) -> Result<Option<Failure>, OperatorError> {
        let journal = self.catalog.journal(operation).await?;
        if Log::new(&journal).job().is_some() {
            return Ok(None);
        }
        Ok(match self.look_up(operation).await? {
            Ok(_) => None,
            Err(failure) => matches!(
                failure.reason,
                Reason::StoreNotFound | Reason::BackupNotReady | Reason::BackupNotFound
            )
            .then_some(failure),
        })
    }
}
