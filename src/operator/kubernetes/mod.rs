//! The objects of a cluster as a source of work, and the place of their statuses.
//!
//! A controller for each kind looks at objects, mirrors them into the catalog and hands operations to
//! the same `drive` as everywhere. It decides nothing about an operation's steps.

mod adopt;
mod archives;
mod before;
pub(super) mod journal;
mod lease;
mod leave;
mod link;
mod look;
mod removal;
mod schedules;
mod stores;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use kube::api::DynamicObject;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Api, Client};
use tracing::{error, info, warn};

use super::Operator;
use crate::plan::{Failure, OperationId};
use crate::spec::{Kind, Reason};
use crate::telemetry::Health;

pub use lease::{Election, GateLayer, Leadership, SignError, sign};
pub(super) use stores::{StoreNews, UNHEARD};

pub use link::{
    ARCHIVE_FINALIZER, ClusterLink, OPERATION_FINALIZER, PARENT_ANNOTATION, check_parent, resource,
};

/// How often an object that waits for something is looked at again.
const WAIT: Duration = Duration::from_secs(10);
/// After a first failed look; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause between failed looks.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// Reconciles at the same time, for each kind.
const CONCURRENCY: u16 = 8;

/// What a look at an object failed with.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    /// The catalog or an operation's preconditions.
    #[error(transparent)]
    Operator(#[from] super::OperatorError),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] kube::Error),
    /// Anything that has a reason already.
    #[error("{}", .0.message)]
    Failure(Failure),
}

impl LookError {
    fn reason(&self) -> Reason {
        match self {
            Self::Operator(error) => error.reason(),
            Self::Cluster(_) => Reason::ClusterUnavailable,
            Self::Failure(failure) => failure.reason,
        }
    }
}

impl From<Failure> for LookError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// What the controllers share.
pub(super) struct Context {
    operator: Operator,
    link: Arc<ClusterLink>,
    /// Operations that a task of this process carries out or waits to.
    active: Mutex<HashSet<OperationId>>,
    /// How often in a row a look at an object has failed.
    failures: Mutex<HashMap<String, u32>>,
    /// Whether the catalog is that of whoever led last.
    knows_what_was_done: bool,
    /// When something first waited for what the stores hold.
    first_wait: OnceLock<Instant>,
    /// Stores that the catalog knew before this process began.
    known_stores: HashSet<(String, String)>,
    /// Stores that were looked into, with the generation and the request it was for.
    inspected: Mutex<BTreeMap<(String, String), String>>,
}

impl Context {
    fn is_active(&self, operation: &OperationId) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).contains(operation)
    }

    /// Whether the same object is being carried out as it was before it was edited.
    fn is_active_as_before(&self, operation: &OperationId) -> bool {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.iter().any(|one| {
            let same = (&one.kind, &one.namespace, &one.name, &one.uid)
                == (&operation.kind, &operation.namespace, &operation.name, &operation.uid);
            same && one.generation != operation.generation
        })
    }

    fn enter(&self, operation: &OperationId) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).insert(operation.clone())
    }

    /// How long to wait before an object is looked at again whose look has failed once more.
    fn backoff(&self, key: String) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        (FIRST_PAUSE * 2_u32.saturating_pow(*count - 1)).min(LONGEST_PAUSE)
    }

    fn succeeded(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn leave(&self, operation: &OperationId) {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).remove(operation);
    }
}

/// Waits until the API server serves every kind.
pub async fn await_definitions(client: &Client, health: &Health) {
    loop {
        let missing = match client.list_api_group_resources("eider.dev/v1alpha1").await {
            Ok(served) => {
                let served: Vec<&str> =
                    served.resources.iter().map(|resource| resource.name.as_str()).collect();
                let missing: Vec<&str> = Kind::ALL
                    .iter()
                    .map(|kind| kind.plural())
                    .filter(|plural| !served.contains(plural))
                    .collect();
                missing.join(", ")
            }
            Err(kube::Error::Api(status)) if status.code == 404 => "all five".to_owned(),
            Err(error) => {
                health.waiting("definitions", format!("the API server: {error}"));
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
        };
        if missing.is_empty() {
            health.ready("definitions");
            return;
        }
        let message =
            format!("the CustomResourceDefinitions of eider.dev ({missing}); apply crds/");
        warn!("waiting for {message}");
        health.waiting("definitions", message);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Runs the controllers until `stop` resolves, then lets what is under way reach a place where it can be
/// picked up. `namespaces` empty means all of them; `knows_what_was_done` says that the catalog is that of whoever
/// led last; `health` says it while what was under way is not known.
pub async fn run(
    operator: Operator,
    client: Client,
    namespaces: &[String],
    knows_what_was_done: bool,
    health: &Health,
    stop: impl Future<Output = ()>,
) -> Result<(), super::OperatorError> {
    let Some(link) = operator.cluster.clone() else {
        let failure = Failure::new(Reason::InternalError, "the operator has no cluster");
        return Err(super::OperatorError::Refused(failure));
    };
    let now = jiff::Timestamp::now();
    operator.catalog().start_session(operator.session().to_owned(), now).await?;
    operator.refill_metrics().await?;
    let stores = operator.stores().await?;
    let known_stores = stores.into_iter().map(|(namespace, store)| (namespace, store.name));
    let context = Arc::new(Context {
        knows_what_was_done,
        first_wait: OnceLock::new(),
        known_stores: known_stores.collect(),
        operator: operator.clone(),
        link,
        active: Mutex::default(),
        failures: Mutex::default(),
        inspected: Mutex::default(),
    });
    let mut controllers = Vec::new();
    // Stores and schedules first: what refers to them finds them.
    for kind in
        [Kind::BackupStore, Kind::BackupSchedule, Kind::Backup, Kind::Restore, Kind::Upgrade]
    {
        let resource = resource(kind);
        let apis: Vec<Api<DynamicObject>> = if namespaces.is_empty() {
            vec![Api::all_with(client.clone(), &resource)]
        } else {
            namespaces
                .iter()
                .map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource))
                .collect()
        };
        for api in apis {
            controllers.push(control(kind, api, &context));
        }
    }
    info!(
        "watching {}",
        if namespaces.is_empty() { "every namespace".to_owned() } else { namespaces.join(", ") }
    );
    let work = async {
        Box::pin(before::keep_places(namespaces, &context, health)).await;
        tokio::select! {
            _ = join_all(controllers) => error!("every controller has ended"),
            () = maintain(Arc::clone(&context), namespaces) => {}
        }
    };
    tokio::select! {
        () = stop => info!("stopping: operations are picked up by the next start"),
        () = work => {}
    }
    operator.catalog().stop_session(None, jiff::Timestamp::now()).await?;
    Ok(())
}

/// Keeps the catalog in order.
async fn maintain(context: Arc<Context>, namespaces: &[String]) {
    let operator = &context.operator;
    // Soon after the start: an operator that is moved about every few minutes keeps house as well.
    let mut pause = Duration::from_mins(1);
    loop {
        let due = Instant::now() + pause;
        // Objects that were deleted while nobody watched, and those that nothing held back. Others may wait for what
        // was begun of them.
        while let Err(error) = leave::forget_the_gone(namespaces, &context).await {
            warn!("what is gone from the cluster is not known yet: {error}");
            if Instant::now() >= due {
                break;
            }
            tokio::time::sleep(WAIT).await;
        }
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        pause = Duration::from_mins(30);
        let pruned = Box::pin(operator.prune_expired(jiff::Timestamp::now()));
        if let Err(error) = pruned.await {
            warn!("retention: {error}");
        }
        if let Err(error) = operator.maintain().await {
            warn!("the catalog was not maintained: {error}");
        }
    }
}

/// An object among all of all kinds, for as long as it lives.
fn key(kind: Kind, object: &DynamicObject) -> String {
    format!("{kind}/{}", object.metadata.uid.as_deref().unwrap_or_default())
}

fn control(
    kind: Kind,
    api: Api<DynamicObject>,
    context: &Arc<Context>,
) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    let reconcile = move |object: Arc<DynamicObject>, context: Arc<Context>| async move {
        let begun = Instant::now();
        let result = look::look(kind, &object, &context).await;
        let failed = result.as_ref().err().map(LookError::reason);
        if failed.is_none() {
            context.succeeded(&key(kind, &object));
        }
        context.operator.metrics().reconcile(kind, begun.elapsed(), failed);
        result
    };
    let on_error = move |object: Arc<DynamicObject>, error: &LookError, context: Arc<Context>| {
        let name = object.metadata.name.clone().unwrap_or_default();
        warn!(%kind, name, reason = %error.reason(), "{error}");
        let (operation, note, reason) =
            (look::identity(kind, &object), error.to_string(), error.reason());
        let pause = context.backoff(key(kind, &object));
        let failed = match error {
            LookError::Operator(super::OperatorError::Catalog(failed)) => Some(failed.clone()),
            _ => None,
        };
        tokio::spawn(async move {
            match failed {
                Some(failed) => context.operator.say_catalog_failed(&operation, &failed).await,
                None => {
                    let (link, reason) = (&context.link, reason.as_str());
                    link.event(&operation, true, reason, "Reconcile", &note).await;
                }
            }
        });
        Action::requeue(pause)
    };
    // Metadata and a JSON value: an object that no type can hold never stalls the watch.
    let controller = Controller::new_with(api, watcher::Config::default(), resource(kind))
        .with_config(Config::default().concurrency(CONCURRENCY));
    let gone = leave::forget_as_they_go(kind, controller.store(), Arc::clone(context));
    let controller = controller.run(reconcile, on_error, Arc::clone(context));
    Box::pin(async move {
        let controlled = controller.for_each(move |result| async move {
            if let Err(error) = result {
                tracing::debug!(%kind, "{error}");
            }
        });
        let forgotten = async {
            gone.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = controlled => {}
            () = forgotten => {}
        }
    })
}

#[cfg(test)]
mod tests;
