//! The images of a workload: the only fields of another's specification that Eider ever sets, by a field
//! manager of its own, which it gives up afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, FIELD_MANAGER, failure, is_transient};
use super::workload::{Workload, api, resource};
use crate::plan::Failure;
use crate::spec::target::WorkloadTarget;

/// The field manager of images that an Upgrade sets.
const IMAGE_MANAGER: &str = "eider-upgrade";
/// How often a write is tried that others' writes come before.
const DISOWN_ATTEMPTS: u64 = 20;

impl Workload {
    /// Sets images by server-side apply: the only fields of another's specification that Eider ever
    /// writes. It takes them over, so that a version can be set that was set by somebody else before.
    /// `dry_run` has the server judge it, admission included, and changes nothing.
    pub async fn set_images(
        &self,
        cluster: &Cluster,
        images: &BTreeMap<String, String>,
        dry_run: bool,
    ) -> Result<(), Failure> {
        let mut all = self.owned_images();
        all.extend(images.clone());
        let spec = self.template.spec.iter();
        let first: Vec<&String> = spec
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .map(|container| &container.name)
            .collect();
        let mut pod = json!({});
        for (name, image) in &all {
            let list = if first.contains(&name) { "initContainers" } else { "containers" };
            let container = json!({"name": name, "image": image});
            match pod[list].as_array_mut() {
                Some(containers) => containers.push(container),
                None => pod[list] = json!([container]),
            }
        }
        let resource = resource(self.kind);
        let patch = Patch::Apply(json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": self.name},
            "spec": {"template": {"spec": pod}},
        }));
        let api = api(cluster, self.kind, &self.namespace);
        let parameters = PatchParams { dry_run, ..PatchParams::apply(IMAGE_MANAGER).force() };
        let what = format!("set the images of {}", self.title());
        cluster
            .patiently(&what, None, || api.patch(&self.name, &parameters, &patch))
            .await
            .map_err(|error| failure(&what, &error))?;
        Ok(())
    }

    /// Gives up the images that were set: what they are stays, and their owner may change them without a
    /// conflict.
    pub async fn disown_images(self, cluster: &Cluster) -> Result<(), Failure> {
        let api = api(cluster, self.kind, &self.namespace);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let what = format!("give up the images of {}", self.title());
        let mut present = self;
        for attempt in 1u64.. {
            let fields = present.object.managed_fields();
            let is_ours =
                |entry: &&ManagedFieldsEntry| entry.manager.as_deref() == Some(IMAGE_MANAGER);
            let others: Vec<_> = fields.iter().filter(|entry| !is_ours(entry)).collect();
            if others.len() == fields.len() {
                break;
            }
            let patch = Patch::Merge(json!({"metadata": {
                "managedFields": others,
                // Somebody who writes meanwhile is not to lose what is his.
                "resourceVersion": present.object.metadata.resource_version,
            }}));
            match api.patch(&present.name, &parameters, &patch).await {
                Ok(_) => break,
                // Its controller writes just now, since it was changed just now.
                Err(error) if is_transient(&error) && attempt <= DISOWN_ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(100 * attempt)).await;
                }
                Err(error) => return Err(failure(&what, &error)),
            }
            let target = WorkloadTarget {
                kind: present.kind,
                name: present.name.clone(),
                volume_claims: None,
            };
            match Self::find(cluster, &present.namespace, &target).await? {
                Some(found) => present = found,
                None => break,
            }
        }
        Ok(())
    }

    /// The containers whose images an apply of ours still owns: one that does not name them takes the
    /// images away.
    fn owned_images(&self) -> BTreeMap<String, String> {
        let mut names = BTreeSet::new();
        for entry in self.object.managed_fields() {
            if entry.manager.as_deref() != Some(IMAGE_MANAGER) {
                continue;
            }
            let Some(fields) = &entry.fields_v1 else { continue };
            let pod = &fields.0["f:spec"]["f:template"]["f:spec"];
            for list in ["f:containers", "f:initContainers"] {
                let keys = pod[list].as_object().into_iter().flat_map(|map| map.keys());
                names.extend(keys.filter_map(|key| {
                    let key: Value = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
                    Some(key["name"].as_str()?.to_owned())
                }));
            }
        }
        self.images().into_iter().filter(|(name, _)| names.contains(name)).collect()
    }

    /// Who manages a field below `spec`, besides Eider: `replicas`, or `template` for images.
    pub fn managers_of(&self, field: &str) -> Vec<String> {
        let mut managers: Vec<String> =
            self.object
                .managed_fields()
                .iter()
                .filter(|entry| {
                    entry.fields_v1.as_ref().is_some_and(|fields| {
                        fields.0["f:spec"].get(format!("f:{field}")).is_some()
                    })
                })
                .filter_map(|entry| entry.manager.clone())
                .filter(|manager| !manager.starts_with(FIELD_MANAGER))
                .collect();
        managers.sort();
        managers.dedup();
        managers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::target::WorkloadKind;

    /// An apply that did not name the container of the Upgrade before took its image away.
    #[test]
    fn images_that_an_upgrade_before_still_owns_are_named_again() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "managedFields": [
                {"manager": "eider-upgrade", "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {
                    "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {"f:image": {}}}},
                }}}},
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {
                    "f:spec": {"f:containers": {"k:{\"name\":\"side\"}": {"f:image": {}}}},
                }}}},
            ]},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": [
                {"name": "web", "image": "web:2"}, {"name": "side", "image": "side:1"},
            ]}}},
        });
        let object = serde_json::from_value(object).unwrap();
        let web = Workload::read(WorkloadKind::Deployment, object).unwrap();
        let owned = BTreeMap::from([("web".to_owned(), "web:2".to_owned())]);
        assert_eq!(web.owned_images(), owned);
    }
}
