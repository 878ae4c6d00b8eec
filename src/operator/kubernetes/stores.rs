//! One look at a store: its claim, and now and then what lies in it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use tracing::warn;

use super::{Context, LookError};
use crate::catalog::BackupFilter;
use crate::engine::{Manifest, Progress};
use crate::operator::progress::Meter;
use crate::operator::rebuild::record_of;
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
        return Ok(Action::await_change());
    }
    // Once for each generation, every few hours, and whenever somebody asks for it.
    let asked = object.annotations().get(crate::spec::RECONCILE_AT).cloned().unwrap_or_default();
    let hours = Timestamp::now().as_second() / INSPECT.as_secs().cast_signed();
    // One that was deleted and made again counts from one again, and is another.
    let look =
        format!("{}/{}/{hours}/{asked}", object.uid().unwrap_or_default(), operation.generation);
    let recent = context.known_stores.contains(&key) && is_recent(object, operation, &asked);
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
        if let Err(error) = inspect(&operation, &binding, asked, &context).await {
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

/// Has a mover look into the store, records what no record is of, and says what is there.
async fn inspect(
    operation: &OperationId,
    binding: &StoreBinding,
    asked: String,
    context: &Arc<Context>,
) -> Result<(), LookError> {
    let purpose = format!("inspect-{}", Timestamp::now().as_second());
    let writer = context.operator.store_writer(&operation.namespace, &operation.name).await?;
    let meter = Arc::new(Meter::new(None));
    let errand = StoreErrand {
        work: StoreWork::Inspect,
        writer,
        progress: Arc::clone(&meter) as Arc<dyn Progress>,
        turn: context.operator.take_turn().await,
    };
    let mut work =
        Box::pin(context.link.runtime.work_on_store(operation, &purpose, binding, errand));
    let mut said = None;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(SAY) => {}
        }
        let cause = meter.cause_of_waiting();
        if let Some((reason, message)) = cause.clone().filter(|_| cause != said) {
            let failure = Failure::new(reason, message);
            let news = StoreNews { waits: true, ..StoreNews::default() };
            context.operator.publish_store(operation, Err(&failure), news).await?;
            said = cause;
        }
    };
    match done {
        Ok(StoreAnswer { figures, manifests, .. }) => {
            context.operator.record_manifests(operation, binding, manifests).await?;
            let news = StoreNews { answers: Some(asked), ..StoreNews::default() };
            context.operator.publish_store(operation, Ok(figures), news).await?;
            Ok(())
        }
        Err(failure) => {
            context.operator.publish_store(operation, Err(&failure), StoreNews::default()).await?;
            Err(failure.into())
        }
    }
}

impl Operator {
    /// Adds records for archives that have none.
    async fn record_manifests(
        &self,
        store: &OperationId,
        binding: &StoreBinding,
        manifests: Vec<Value>,
    ) -> Result<(), OperatorError> {
        let filter = BackupFilter {
            namespace: Some(store.namespace.clone()),
            store: Some(binding.name.clone()),
            ..BackupFilter::default()
        };
        let known = self.catalog.backups(filter).await?;
        let mut open = Vec::new();
        for operation in self.catalog.open_operations().await? {
            open.push((operation.namespace, operation.name));
        }
        let claim = binding.spec.volume_claim.as_ref();
        let directory =
            claim.map(|claim| format!("{}/{}", claim.name, claim.path.trim_matches('/')));
        let directory = directory.unwrap_or_default();
        let directory = std::path::Path::new(directory.trim_end_matches('/'));
        let mut rows = Vec::new();
        for manifest in manifests {
            let Ok(manifest) = serde_json::from_value::<Manifest>(manifest) else { continue };
            let mut record = record_of(&manifest, directory);
            record.store.clone_from(&binding.name);
            let running = open.contains(&(record.namespace.clone(), record.object.clone()));
            let there = known.iter().any(|known| known.is_same_archive(&record));
            if !there && !running && record.namespace == store.namespace {
                rows.push(record);
            }
        }
        if !rows.is_empty() {
            self.catalog.rebuild(rows).await?;
        }
        Ok(())
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
