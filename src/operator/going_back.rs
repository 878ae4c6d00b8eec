//! The way back from an Upgrade that has succeeded, as an Upgrade of its own: to the images that ran
//! before it, with the data of the backup that it took.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Operator, OperatorError};
use crate::catalog::{BackupKey, ResourceRecord};
use crate::engine::LocalStore;
use crate::plan::docker::{Definitions, is_put_aside};
use crate::plan::{Failure, Job};
use crate::runtime::host::open_store;
use crate::spec::{API_VERSION, Kind, Reason, UpgradeSpec};

/// Label of Compose with the service of a container.
const SERVICE: &str = "com.docker.compose.service";

impl Operator {
    /// The document of an Upgrade that goes back to where `name` started from.
    ///
    /// # Errors
    /// [`Reason::TargetNotFound`] without such an Upgrade, [`Reason::NotAnUpgrade`] if it was undone or taken
    /// back already, [`Reason::BackupNotFound`] or [`Reason::ArchiveMissing`] when its backup is gone,
    /// [`Reason::UnsupportedTarget`] when the archive does not say which images ran, and
    /// [`Reason::ImageUnavailable`] when one of them is gone.
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
        let all = self.catalog.resources(Some(kind.to_owned())).await?;
        if let Some(way_back) = all.iter().find(|other| takes_back(other, &resource, backup)) {
            let message =
                format!("the upgrade `{name}` has been taken back already, by `{}`", way_back.name);
            return Err(Failure::new(Reason::NotAnUpgrade, message)
                .hint(
                    "what was written since would be replaced: if that is meant, `eider restore create` does it",
                )
                .into());
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
        let mut images = Map::new();
        for before in images_before(&spec, &definitions)? {
            let ImageBefore { named, name, id, digests } = before;
            // A tag may well be another image by now, which must not run on the data of before.
            let image = self.docker.same_image(&name, &id, &digests).await?;
            images.insert(named, json!(image));
        }
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

/// Whether an Upgrade is the way back from another one, and has got there since that one ended.
fn takes_back(other: &ResourceRecord, upgrade: &ResourceRecord, backup: &str) -> bool {
    let ended = |one: &ResourceRecord| {
        one.status["completedAt"].as_str().and_then(|at| at.parse::<Timestamp>().ok())
    };
    other.namespace == upgrade.namespace
        && other.name.starts_with(&format!("{}-back-", upgrade.name))
        && other.document["spec"]["dataFrom"]["name"] == backup
        && other.status["phase"] == "Succeeded"
        && ended(other) > ended(upgrade)
}

/// The image that a container or service had before an Upgrade.
#[derive(Debug, PartialEq, Eq)]
struct ImageBefore {
    /// What the Upgrade calls the container or service.
    named: String,
    /// What the image was called.
    name: String,
    /// Its id.
    id: String,
    /// Its names in registries, with digests.
    digests: Vec<String>,
}

/// The image of each container or service that the Upgrade named, as it was before.
fn images_before(
    spec: &UpgradeSpec,
    definitions: &Definitions,
) -> Result<Vec<ImageBefore>, Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut images = Vec::new();
    for named in spec.images.iter().flatten().map(|(named, _)| named) {
        let is_meant = |one: &&Value| {
            let is_of_service = one["config"]["Labels"][SERVICE] == named.as_str();
            let is_put_aside = is_put_aside(one["name"].as_str().unwrap_or_default());
            one["name"] == named.as_str() || (is_of_service && !is_put_aside)
        };
        let old = definitions.containers.iter().find(is_meant).ok_or_else(|| {
            Failure::new(
                Reason::UnsupportedTarget,
                format!("the backup does not say which image `{named}` had"),
            )
            .hint("write an Upgrade with the old image, and `dataFrom` with the backup")
        })?;
        images.push(ImageBefore {
            named: named.clone(),
            name: text(&old["config"]["Image"]),
            id: text(&old["imageId"]),
            digests: old["imageDigests"].as_array().into_iter().flatten().map(text).collect(),
        });
    }
    Ok(images)
}

/// What a Restore failed with that was to put an Upgrade's data back: an archive that is missed in a directory without
/// any archive is not gone, its disk is not mounted.
pub(super) async fn or_unmounted(upgrade: &Job, failure: Failure) -> Failure {
    let Job::Upgrade(job) = upgrade else { return failure };
    let local = job.store.as_ref().and_then(|store| store.spec.local.as_ref());
    let Some(local) = local.filter(|_| failure.reason == Reason::ArchiveMissing) else {
        return failure;
    };
    let path = PathBuf::from(&local.path);
    let list = move || LocalStore::open(&path, "store", false)?.list();
    let listed = tokio::task::spawn_blocking(list).await;
    let is_bare = matches!(listed, Ok(Ok(listing)) if listing.archives.is_empty());
    if !is_bare {
        return failure;
    }
    let message = format!("{}, and no archive at all is in {}", failure.message, local.path);
    Failure::new(Reason::StoreUnavailable, message)
        .hint("mount the store's disk: the data is put back as soon as its archive is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_before_is_the_very_one_that_ran_and_not_what_is_kept_of_others() {
        let spec: UpgradeSpec = serde_json::from_value(json!({
            "target": {"docker": {"project": "shop"}}, "toVersion": "2",
            "images": {"web": "shop/web:2"}, "backup": {"storeRef": {"name": "main"}},
        }))
        .unwrap();
        let container = |name: &str, id: &str| {
            json!({
                "name": name, "imageId": id, "imageDigests": ["shop/web@sha256:1"],
                "config": {"Image": "shop/web:stable", "Labels": {SERVICE: "web"}},
            })
        };
        let definitions = Definitions {
            containers: vec![
                container("shop-web-1.before-0a1b2c3d", "sha256:older"),
                container("shop-web-1", "sha256:old"),
            ],
            ..Definitions::default()
        };
        let before = ImageBefore {
            named: "web".to_owned(),
            name: "shop/web:stable".to_owned(),
            id: "sha256:old".to_owned(),
            digests: vec!["shop/web@sha256:1".to_owned()],
        };
        assert_eq!(images_before(&spec, &definitions).unwrap(), [before]);
    }

    #[test]
    fn only_a_way_back_that_has_succeeded_since_takes_an_upgrade_back() {
        let record = |name: &str, phase: &str, at: &str| ResourceRecord {
            kind: "Upgrade".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            generation: 1,
            spec_digest: String::new(),
            document: json!({"spec": {"dataFrom": {"name": "up-before-upgrade"}}}),
            status: json!({"phase": phase, "completedAt": at}),
            source: "cli".to_owned(),
            observed_at: Timestamp::UNIX_EPOCH,
            removed_at: None,
        };
        let upgrade = record("up", "Succeeded", "2026-11-21T02:00:00Z");
        let taken_back =
            |name, phase, at| takes_back(&record(name, phase, at), &upgrade, "up-before-upgrade");
        assert!(taken_back("up-back-1", "Succeeded", "2026-11-21T03:00:00Z"));
        assert!(!taken_back("up-back-1", "RolledBack", "2026-11-21T03:00:00Z"));
        assert!(!taken_back("up-back-1", "Succeeded", "2026-11-21T01:00:00Z"), "the one before");
        assert!(!taken_back("other-back-1", "Succeeded", "2026-11-21T03:00:00Z"));
    }
}
