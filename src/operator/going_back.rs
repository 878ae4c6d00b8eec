//! The way back from an Upgrade that has succeeded, as an Upgrade of its own: to the images that ran
//! before it, with the data of the backup that it took.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Operator, OperatorError};
use crate::catalog::BackupKey;
use crate::plan::Failure;
use crate::plan::docker::Definitions;
use crate::runtime::host::open_store;
use crate::spec::{API_VERSION, Kind, Reason, UpgradeSpec};

/// Label of Compose with the service of a container.
const SERVICE: &str = "com.docker.compose.service";

impl Operator {
    /// The document of an Upgrade that goes back to where `name` started from.
    ///
    /// # Errors
    /// [`Reason::TargetNotFound`] without such an Upgrade, [`Reason::NotAnUpgrade`] if it was undone, [`Reason::BackupNotFound`] or
    /// [`Reason::ArchiveMissing`] when its backup is gone, [`Reason::UnsupportedTarget`] when the
    /// archive does not say which images ran.
    pub async fn way_back(&self, namespace: &str, name: &str) -> Result<Value, OperatorError> {
        let kind = Kind::Upgrade.as_str();
        let resource = self.catalog.resource(kind, namespace, name).await?.ok_or_else(|| {
            Failure::new(Reason::TargetNotFound, format!("there is no upgrade `{name}`"))
                .hint("`eider upgrade list` shows what there is")
        })?;
        let spec: UpgradeSpec =
            serde_json::from_value(resource.document["spec"].clone()).map_err(|error| {
                Failure::new(Reason::InvalidSpec, format!("the Upgrade {name}: {error}"))
            })?;
        if resource.status["phase"] == "RolledBack" {
            let message = format!("the upgrade `{name}` has been undone already");
            return Err(Failure::new(Reason::NotAnUpgrade, message)
                .hint("what ran before it runs now; `eider restore create` puts older data back")
                .into());
        }
        let backup = resource.status["backupName"].as_str().ok_or_else(|| {
            Failure::new(
                Reason::BackupNotFound,
                format!("the upgrade `{name}` has taken no backup, so nothing leads back from it"),
            )
        })?;
        let key = BackupKey::Object { namespace: namespace.to_owned(), name: backup.to_owned() };
        let gone = || {
            Failure::new(
                Reason::BackupNotFound,
                format!("the backup `{backup}` of the upgrade `{name}` is not there any more"),
            )
        };
        let record = self.catalog.backup(key).await?.ok_or_else(gone)?;
        if record.deleted_at.is_some() {
            return Err(gone().into());
        }
        let store = self.store_or_only(namespace, Some(&record.store)).await?;
        let archive = record.backup_name.clone();
        let manifest =
            super::stores::blocking(move || Ok(open_store(&store)?.read_manifest(&archive)?))
                .await?;
        let definitions: Definitions = manifest
            .definitions
            .and_then(|value| serde_json::from_value(value).ok())
            .unwrap_or_default();
        let images = images_before(&spec, &definitions)?;
        let version = resource.status["fromVersion"].as_str().or(record.source_version.as_deref());
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
        Ok(json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": format!("{name}-back-{stamp}"), "namespace": namespace},
            "spec": {
                "target": spec.target,
                "toVersion": version.unwrap_or("0"),
                "images": images,
                "backup": {"storeRef": {"name": record.store}, "mode": "Required"},
                "dataFrom": {"name": backup},
                "consistency": spec.consistency,
                "hooks": spec.hooks,
                "healthGate": spec.health_gate,
                "force": true,
            },
        }))
    }
}

/// The image of each container or service that the Upgrade named, as it was before.
fn images_before(
    spec: &UpgradeSpec,
    definitions: &Definitions,
) -> Result<Map<String, Value>, Failure> {
    let mut images = Map::new();
    for (named, new) in spec.images.iter().flatten() {
        let is_meant = |one: &&Value| {
            one["name"] == named.as_str() || one["config"]["Labels"][SERVICE] == named.as_str()
        };
        let old = definitions.containers.iter().find(is_meant).ok_or_else(|| {
            Failure::new(
                Reason::UnsupportedTarget,
                format!("the backup does not say which image `{named}` had"),
            )
            .hint("write an Upgrade with the old image, and `dataFrom` with the backup")
        })?;
        let name = old["config"]["Image"].as_str().unwrap_or_default();
        let exact = old["imageDigests"][0].as_str().or(old["imageId"].as_str());
        // A tag that the new one has too is another image by now.
        let image = if name == new { exact.unwrap_or(name) } else { name };
        images.insert(named.clone(), json!(image));
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(new: &str) -> Value {
        let spec: UpgradeSpec = serde_json::from_value(json!({
            "target": {"docker": {"project": "shop"}}, "toVersion": "2",
            "images": {"web": new}, "backup": {"storeRef": {"name": "main"}},
        }))
        .unwrap();
        let definitions = Definitions {
            containers: vec![json!({
                "name": "shop-web-1", "imageId": "sha256:old", "imageDigests": ["shop/web@sha256:1"],
                "config": {"Image": "shop/web:1", "Labels": {SERVICE: "web"}},
            })],
            ..Definitions::default()
        };
        Value::Object(images_before(&spec, &definitions).unwrap())
    }

    #[test]
    fn the_image_of_before_is_named_exactly_where_its_tag_has_moved() {
        assert_eq!(images("shop/web:2"), json!({"web": "shop/web:1"}));
        assert_eq!(images("shop/web:1"), json!({"web": "shop/web@sha256:1"}));
    }
}
