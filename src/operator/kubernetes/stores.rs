//! One look at a store: its claim, and now and then what lies in it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde_json::json;
use tracing::warn;

use super::archives::decoded;
use super::{ClusterLink, Context, LookError};
use crate::engine::Progress;
use crate::operator::presence::{StoreLook, lacks, stored};
use crate::operator::progress::Meter;
use crate::operator::{Operator, OperatorError};
use crate::plan::{Failure, OperationId, StoreBinding, conditions};
use crate::runtime::kubernetes::{StoreAnswer, StoreErrand, StoreFigures, StoreWork};
use crate::spec::{
    BackupStoreStatus, ByteSize, Kind, MoverSecurityContext, Reason, counted, readable_size,
};
use crate::telemetry::metrics::StoreFacts;

/// A store that nobody writes to is looked into this often.
const INSPECT: Duration = Duration::from_hours(6);
/// What a look waits for is said this often.
const SAY: Duration = Duration::from_secs(5);
/// A store that could not be looked into is tried again after this long.
const AGAIN: Duration = Duration::from_mins(1);
/// Why a look into a store may hear of less than a mover has told.
pub(in crate::operator) const UNHEARD: &str = "the kubelet may have rotated the log of the mover: raise its \
     `containerLogMaxSize`, or keep fewer archives in one store";
/// Operations wait so long at most for the first look into a store.
const FIRST_LOOK: Duration = Duration::from_mins(2);

/// Sees that the store has been looked into by this process, and says how it is.
pub(super) async fn look(
    operation: &OperationId,
    object: &DynamicObject,
    context: &Arc<Context>,
) -> Result<Action, LookError> {
    let key = (operation.namespace.clone(), operation.name.clone());
    let binding = match context.operator.store(&key.0, &key.1).await? {
        Ok(binding) => binding,
        Err(failure) => return Err(failure.into()),
    };
    if binding.spec.volume_claim.is_none() {
        let failure = Failure::new(
            Reason::UnsupportedTarget,
            "a store in a cluster is a claim: use `spec.volumeClaim`",
        );
        context.operator.publish_store(operation, Err(&failure), StoreNews::default()).await?;
        context.link.looks.of(&key.0, &key.1).settle();
        return Ok(Action::await_change());
    }
    // Once for each generation, every few hours, and whenever somebody asks for it.
    let asked = object.annotations().get(crate::spec::RECONCILE_AT).cloned().unwrap_or_default();
    let hours = Timestamp::now().as_second() / INSPECT.as_secs().cast_signed();
    // One that was deleted and made again counts from one again, and is another.
    let look =
        format!("{}/{}/{hours}/{asked}", object.uid().unwrap_or_default(), operation.generation);
    // After another's term the catalog has missed what was removed meanwhile.
    let recent = context.knows_what_was_done
        && context.known_stores.contains(&key)
        && is_recent(object, operation, &asked);
    {
        let mut inspected = context.inspected.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = inspected.insert(key.clone(), look.clone());
        // A restart is no reason to look again: the catalog knows what was found then.
        if earlier.as_ref() == Some(&look) || (earlier.is_none() && recent) {
            return Ok(Action::requeue(INSPECT));
        }
    }
    // A mover takes seconds: the next object need not wait for it.
    let (context, operation) = (Arc::clone(context), operation.clone());
    tokio::spawn(async move {
        let looked = context.operator.look_into_store(&operation, &binding, Some(asked)).await;
        if let Err(error) = looked {
            warn!(%operation, "{error}");
            context
                .link
                .event(&operation, true, error.reason().as_str(), "Inspect", &error.to_string())
                .await;
            tokio::time::sleep(AGAIN).await;
            context.inspected.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            // A new look by whoever comes by: an annotation nobody reads would be a lie, a message is not.
            let failure = Failure::new(error.reason(), format!("{error}; looking again"));
            let _ = context
                .operator
                .publish_store(&operation, Err(&failure), StoreNews::default())
                .await;
        }
    });
    Ok(Action::requeue(INSPECT))
}

/// What is known of a store besides its figures.
#[derive(Default)]
pub(in crate::operator) struct StoreNews {
    /// As whom it has just been written.
    pub(in crate::operator) writer: Option<MoverSecurityContext>,
    /// The request that a look into it has just answered; empty if nobody asked.
    pub(in crate::operator) answers: Option<String>,
    /// Whether what is wrong is only waited for.
    pub(in crate::operator) waits: bool,
}

/// What an operation waits for that has not begun: after another's term the stores of its namespace that hold
/// something are looked into first, or nobody would know what its Backup is to be compared with. Not for long.
pub(super) async fn awaits_look(
    operation: &OperationId,
    context: &Context,
) -> Result<Option<Failure>, LookError> {
    // Counted from the first that waits: nothing begins before it is known what was under way.
    let first_wait = context.first_wait.get_or_init(Instant::now);
    if context.knows_what_was_done || first_wait.elapsed() > FIRST_LOOK {
        return Ok(None);
    }
    let operator = &context.operator;
    let catalog = operator.catalog();
    if !catalog.journal(operation).await.map_err(OperatorError::from)?.is_empty() {
        return Ok(None);
    }
    let stores = catalog.resources(Some(Kind::BackupStore.as_str().to_owned())).await;
    let awaited = stores.map_err(OperatorError::from)?.into_iter().find(|store| {
        store.namespace == operation.namespace
            && store.removed_at.is_none()
            && store.status["backups"].as_i64().is_some_and(|backups| backups > 0)
            && !context.link.looks.of(&store.namespace, &store.name).is_settled()
    });
    Ok(awaited.map(|store| {
        let message = format!("store {} is looked into first: another replica has led", store.name);
        Failure::new(Reason::Pending, message)
    }))
}

/// Whether the status is that of a look into the store which need not be repeated yet.
fn is_recent(object: &DynamicObject, operation: &OperationId, asked: &str) -> bool {
    let status = serde_json::from_value::<BackupStoreStatus>(object.data["status"].clone());
    status.is_ok_and(|status| {
        let ready =
            status.conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let age = status.last_inspected_at.map(|at| Timestamp::now().duration_since(at.0));
        let fresh =
            age.and_then(|age| Duration::try_from(age).ok()).is_some_and(|age| age < INSPECT);
        let handled = status.last_handled_reconcile_at.unwrap_or_default() == asked;
        ready && fresh && handled && status.observed_generation == operation.generation
    })
}

impl Operator {
    /// Has a mover look into the store, makes the records say what is there, and publishes the figures. `asked` is
    /// the request that it answers. Returns whether everything that lies there was heard of.
    pub(in crate::operator) async fn look_into_store(
        &self,
        operation: &OperationId,
        binding: &StoreBinding,
        asked: Option<String>,
    ) -> Result<bool, OperatorError> {
        let Some(link) = &self.cluster else { return Ok(false) };
        let look = link.looks.of(&operation.namespace, &operation.name);
        // A second look at the same time would dismiss the mover of the first.
        let _turn = look.turn.lock().await;
        let result = self.send_a_mover(link, operation, binding, asked, &look).await;
        look.settle();
        result
    }

    async fn send_a_mover(
        &self,
        link: &ClusterLink,
        operation: &OperationId,
        binding: &StoreBinding,
        asked: Option<String>,
        look: &StoreLook,
    ) -> Result<bool, OperatorError> {
        let before = self.records_of_store(operation).await?;
        let purpose = format!("inspect-{}", Timestamp::now().as_millisecond());
        let writer = self.store_writer(&operation.namespace, &operation.name).await?;
        let meter = Arc::new(Meter::new(None));
        let errand = StoreErrand {
            work: StoreWork::Inspect,
            writer,
            progress: Arc::clone(&meter) as Arc<dyn Progress>,
            turn: self.take_turn().await,
        };
        let mut work = Box::pin(link.runtime.work_on_store(operation, &purpose, binding, errand));
        let mut said = None;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(SAY) => {}
            }
            let cause = meter.cause_of_waiting();
            if let Some((reason, message)) = cause.clone().filter(|_| cause != said) {
                // Nobody knows how long.
                look.settle();
                let failure = Failure::new(reason, message);
                let news = StoreNews { waits: true, ..StoreNews::default() };
                self.publish_store(operation, Err(&failure), news).await?;
                said = cause;
            }
        };
        match done {
            Ok(StoreAnswer { figures, manifests, present, broken, .. }) => {
                let manifests = decoded(manifests);
                look.found(lacks(&manifests.iter().map(stored).collect(), broken));
                self.record_manifests(operation, binding, &before, &manifests).await?;
                match &present {
                    Some(present) => {
                        self.end_the_gone(binding, &before, present).await?;
                        self.tell_what_lacks(binding, &before, present, look).await?;
                        self.forget_unfinished_removals(operation, &before, present).await?;
                    }
                    None => {
                        let message = format!("not all that lies in it was heard of; {UNHEARD}");
                        warn!(store = binding.name, "{message}");
                        let reason = Reason::StoreUnavailable.as_str();
                        link.event(operation, true, reason, "Inspect", &message).await;
                    }
                }
                let news = StoreNews { answers: asked, ..StoreNews::default() };
                self.publish_store(operation, Ok(figures), news).await?;
                Ok(present.is_some())
            }
            Err(failure) => {
                self.publish_store(operation, Err(&failure), StoreNews::default()).await?;
                Err(failure.into())
            }
        }
    }

    /// Says how a store in a cluster is.
    pub(in crate::operator) async fn publish_store(
        &self,
        store: &OperationId,
        found: Result<StoreFigures, &Failure>,
        news: StoreNews,
    ) -> Result<(), OperatorError> {
        let kind = Kind::BackupStore;
        let resource = self.catalog.resource(kind.as_str(), &store.namespace, &store.name).await?;
        let (Some(resource), Some(link)) = (resource, &self.cluster) else { return Ok(()) };
        let known: Option<BackupStoreStatus> = serde_json::from_value(resource.status.clone()).ok();
        let mut status = known.unwrap_or_default();
        let generation = resource.generation;
        let now = Timestamp::now();
        let (ready, reason, message) = match &found {
            Ok(figures) => (true, Reason::Ready, counted(figures.backups, "backup")),
            Err(failure) => (false, failure.reason, failure.message.clone()),
        };
        if news.waits {
            conditions::waiting(&mut status.conditions, reason, &message, generation, now);
        } else {
            conditions::ready(&mut status.conditions, ready, reason, &message, generation, now);
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if let Ok(figures) = &found {
            status.backups = signed(figures.backups);
            status.bytes = signed(figures.bytes);
            status.free_bytes = signed(figures.free_bytes);
            status.size = Some(readable_size(status.bytes));
            status.free = Some(readable_size(status.free_bytes));
            let minimum = resource.document["spec"]["minFree"].clone();
            let minimum =
                serde_json::from_value::<ByteSize>(minimum).map_or(0, |size| size.bytes());
            self.metrics.store(&StoreFacts {
                namespace: store.namespace.clone(),
                name: store.name.clone(),
                backups: figures.backups,
                bytes: figures.bytes,
                free_bytes: Some(figures.free_bytes),
                capacity_bytes: None,
                minimum_free_bytes: minimum,
            });
        }
        status.mover_security_context = news.writer.or(status.mover_security_context);
        if let Some(asked) = news.answers {
            status.last_inspected_at = Some(Time(now));
            status.last_handled_reconcile_at = Some(asked).filter(|asked| !asked.is_empty());
        }
        status.observed_generation = generation;
        status.message = Some(message);
        let value = json!(status);
        if resource.status == value {
            return Ok(());
        }
        let uid = resource.document["metadata"]["uid"].as_str();
        link.put_status(kind, &store.namespace, &store.name, uid, &value).await?;
        let mut resource = resource.clone();
        resource.status = value;
        self.catalog.put_resource(resource).await?;
        Ok(())
    }
}
