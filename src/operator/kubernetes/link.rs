//! What the loop writes to a cluster: statuses, child objects, events, finalizers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams, Preconditions,
};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::warn;

use crate::operator::presence::Looks;
use crate::plan::{Failure, OperationId};
use crate::runtime::kubernetes::{FIELD_MANAGER, KubernetesRuntime, failure, is_missing};
use crate::spec::{API_VERSION, Kind, Reason};

/// Annotation on an object that another operation needs: `Kind/name` of that operation's object.
pub const PARENT_ANNOTATION: &str = "eider.dev/parent";
/// Finalizer on a Backup.
pub const ARCHIVE_FINALIZER: &str = "eider.dev/archive";
/// Finalizer on what is being carried out.
pub const OPERATION_FINALIZER: &str = "eider.dev/operation";

/// A connection to the cluster that objects live in.
pub struct ClusterLink {
    /// What carries jobs out.
    pub runtime: KubernetesRuntime,
    client: Client,
    recorder: Recorder,
    /// The last event of each object: the same one is not sent again for every look.
    said: Mutex<BTreeMap<String, String>>,
    /// What is under way with the stores.
    pub(in crate::operator) looks: Looks,
}

/// The API resource of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("eider.dev", "v1alpha1", kind.as_str()),
        kind.plural(),
    )
}

impl ClusterLink {
    /// A link that writes as this process.
    pub fn new(client: Client, runtime: KubernetesRuntime, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: "eider-operator".to_owned(), instance };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { runtime, client, recorder, said: Mutex::default(), looks: Looks::default() }
    }

    /// The objects of a kind in a namespace.
    pub fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }

    /// The metadata of every object of a kind in these namespaces, or in all of them.
    pub async fn list(
        &self,
        kind: Kind,
        namespaces: &[String],
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, kube::Error> {
        let mut found = Vec::new();
        for api in self.apis(kind, namespaces) {
            found.extend(api.list_metadata(&ListParams::default()).await?.items);
        }
        Ok(found)
    }

    /// One object, if it is there.
    pub async fn find(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, Failure> {
        let what = format!("look for {kind} {namespace}/{name}");
        self.api(kind, namespace).get_opt(name).await.map_err(|error| failure(&what, &error))
    }

    /// The objects of a kind in these namespaces, in all of them if none is named.
    pub async fn objects(
        &self,
        kind: Kind,
        namespaces: &[String],
    ) -> Result<Vec<DynamicObject>, kube::Error> {
        let mut found = Vec::new();
        for api in self.apis(kind, namespaces) {
            found.extend(api.list(&ListParams::default()).await?.items);
        }
        Ok(found)
    }

    fn apis(&self, kind: Kind, namespaces: &[String]) -> Vec<Api<DynamicObject>> {
        if namespaces.is_empty() {
            return vec![Api::all_with(self.client.clone(), &resource(kind))];
        }
        namespaces.iter().map(|namespace| self.api(kind, namespace)).collect()
    }

    /// Applies a status. An object that is gone, or another one by now, needs none.
    pub async fn put_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        status: &Value,
    ) -> Result<(), Failure> {
        let api = self.api(kind, namespace);
        let mut status = status.clone();
        drop_empty(&mut status);
        let patch = Patch::Apply(json!({
            "apiVersion": API_VERSION, "kind": kind.as_str(),
            // With its UID: an object made again under this name has a history of its own.
            "metadata": {"name": name, "uid": uid},
            "status": status,
        }));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let what = format!("write the status of {kind} {namespace}/{name}");
        let cluster = self.runtime.cluster();
        let call = || api.patch_status(name, &parameters, &patch);
        match cluster.patiently(&what, None, call).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) || is_other(&error) => Ok(()),
            Err(kube::Error::Api(refusal)) if refusal.code == 422 => {
                let merged = self.merge_status(&api, name, uid, &status).await;
                merged.map_err(|error| failure(&what, &error))
            }
            Err(error) => Err(failure(&what, &error)),
        }
    }

    /// Writes a status without server-side apply: API servers of Kubernetes 1.20 make a null of an
    /// object whose last member is not applied any more, and then refuse their own null.
    async fn merge_status(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        uid: Option<&str>,
        status: &Value,
    ) -> Result<(), kube::Error> {
        let cluster = self.runtime.cluster();
        let what = format!("merge the status of {name}");
        let found = cluster.patiently(&what, None, || api.get_opt(name)).await?;
        let Some(found) = found.filter(|found| found.metadata.uid.as_deref() == uid) else {
            return Ok(());
        };
        let mut merged = status.clone();
        let present = found.data["status"].as_object().into_iter().flatten();
        for (member, _) in present {
            if merged.get(member).is_none() {
                merged[member.as_str()] = Value::Null;
            }
        }
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": merged}));
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patched =
            cluster.patiently(&what, None, || api.patch_status(name, &parameters, &patch));
        match patched.await {
            Err(error) if is_missing(&error) || is_other(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Makes an object, or finds the one that an earlier turn has made; returns it as it is in the cluster.
    pub async fn ensure(&self, kind: Kind, document: &Value) -> Result<DynamicObject, Failure> {
        let metadata = &document["metadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let object: DynamicObject = serde_json::from_value(document.clone()).map_err(|error| {
            Failure::new(Reason::InternalError, format!("{kind} {name} is malformed: {error}"))
        })?;
        let api = self.api(kind, &namespace);
        let cluster = self.runtime.cluster();
        let what = format!("make {kind} {namespace}/{name}");
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let refuse = |error: kube::Error| {
            let mut failure = failure(&what, &error);
            if matches!(&error, kube::Error::Api(status) if status.code == 422) {
                failure.reason = Reason::InvalidSpec;
            }
            failure
        };
        match cluster.patiently(&what, None, || api.create(&parameters, &object)).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let found = cluster.patiently(&what, None, || api.get(&name)).await;
                let found = found.map_err(refuse)?;
                let wanted = metadata["annotations"][PARENT_ANNOTATION].as_str();
                check_parent(kind, &found, wanted)?;
                Ok(found)
            }
            Err(error) => Err(refuse(error)),
        }
    }

    /// Deletes an object; one that is gone already is fine.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), Failure> {
        let api = self.api(kind, namespace);
        let what = format!("delete {kind} {namespace}/{name}");
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let parameters = DeleteParams::background().preconditions(preconditions);
        let cluster = self.runtime.cluster();
        match cluster.patiently(&what, None, || api.delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            // Another object has the name by now.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => {
                Err(Failure::new(Reason::ClusterUnavailable, format!("cannot {what}: {error}")))
            }
        }
    }

    /// Puts finalizers on an object, or takes them off. The list is written whole, on the version that
    /// was read: somebody else's change in between is a conflict and a new look.
    pub async fn set_finalizers(
        &self,
        kind: Kind,
        object: &DynamicObject,
        finalizers: &[String],
    ) -> Result<(), kube::Error> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": object.metadata.resource_version,
            "finalizers": finalizers,
        }}));
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api(kind, &namespace).patch(&name, &parameters, &patch).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends an event about an object, unless it was the last one sent about it.
    pub async fn event(
        &self,
        operation: &OperationId,
        warning: bool,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let key = operation.to_string();
        let text = format!("{reason}/{action}/{note}");
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.insert(key, text.clone()).as_ref() == Some(&text) {
                return;
            }
            // Forgetting costs a repeated event, remembering for ever costs memory.
            if said.len() > 2_000 {
                said.clear();
            }
        }
        let reference = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(operation.kind.clone()),
            namespace: Some(operation.namespace.clone()),
            name: Some(operation.name.clone()),
            uid: operation.uid.clone(),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            warn!(%operation, "an event could not be sent: {error}");
        }
    }
}

/// Fails if an object of a name that is wanted for a child is not that of this parent (`Kind/name`).
pub fn check_parent(
    kind: Kind,
    found: &DynamicObject,
    wanted: Option<&str>,
) -> Result<(), Failure> {
    let annotations = found.metadata.annotations.as_ref();
    let present = annotations.and_then(|all| all.get(PARENT_ANNOTATION));
    if present.map(String::as_str) == wanted {
        return Ok(());
    }
    let (namespace, name) = (found.metadata.namespace.as_deref(), found.metadata.name.as_deref());
    Err(Failure::new(
        Reason::InvalidSpec,
        format!(
            "{kind} {}/{} is there already and is somebody else's",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        ),
    )
    .hint("delete or rename it: Eider needs that name"))
}

/// Drops members that say nothing: API servers of Kubernetes 1.20 take an applied empty text for a null.
fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null() && member.as_str() != Some(""));
            map.values_mut().for_each(drop_empty);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

/// A status for an object that was made again under the same name is a conflict of UIDs.
fn is_other(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 409 && (status.message.contains("uid") || status.message.contains("UID")))
}
