//! Schedules from labels on containers: read from the engine, applied like documents of a file.

use std::collections::BTreeSet;

use serde_json::Value;
use tracing::{debug, info, warn};

use super::{Operator, OperatorError};
use crate::plan::docker::{HostFacts, labelled};
use crate::spec::{self, Document, Kind, ObjectKey};

/// What stands in the place of a file's name in the records of these documents.
const SOURCE: &str = "labels of containers";

impl Operator {
    /// Brings the records in line with the labels. Returns whether anything has changed; `told` are the
    /// problems that have been said already.
    pub(super) async fn sync_labels(
        &self,
        told: &mut BTreeSet<String>,
    ) -> Result<bool, OperatorError> {
        if !self.docker.is_configured() {
            return Ok(false);
        }
        let known = self.catalog.resources(None).await?;
        let ours: Vec<_> =
            known.iter().filter(|one| one.source == SOURCE && one.removed_at.is_none()).collect();
        let labelled_ones = match self.docker.has_label("eider.enable").await {
            Ok(found) => found,
            // Whoever uses no Docker need not be allowed to.
            Err(failure) if ours.is_empty() => {
                debug!("labels are not read: {}", failure.message);
                return Ok(false);
            }
            Err(failure) => return Err(failure.into()),
        };
        let facts = if labelled_ones {
            self.docker.facts().await?
        } else if ours.is_empty() {
            return Ok(false);
        } else {
            HostFacts::default()
        };
        let stores = known.iter().filter(|one| {
            let is_store = one.kind == Kind::BackupStore.as_str() && one.removed_at.is_none();
            is_store && one.namespace == spec::DEFAULT_NAMESPACE && one.source != SOURCE
        });
        let stores: Vec<&str> = stores.map(|store| store.name.as_str()).collect();
        let found = labelled(&facts, &stores);
        let mut problems: BTreeSet<String> = found.problems.into_iter().collect();
        let mut documents = Vec::new();
        for value in found.documents {
            match read(&value) {
                Ok(document) => documents.push(document),
                Err(why) => {
                    let name = value["metadata"]["name"].as_str().unwrap_or_default();
                    problems.insert(format!("{name}: {why}"));
                }
            }
        }
        for problem in problems.difference(told) {
            warn!("labels of containers are not followed: {problem}");
        }
        *told = problems;
        let mut changed = false;
        let mut present = BTreeSet::new();
        for document in documents {
            let key = document.key();
            let elsewhere = known.iter().find(|one| {
                one.kind == key.kind.as_str() && one.name == key.name && one.removed_at.is_none()
            });
            // A file of the same name counts more: somebody has written it down.
            if elsewhere.is_some_and(|one| one.source != SOURCE) {
                continue;
            }
            present.insert(key);
            let applied = self.apply(document, SOURCE).await?;
            if applied.created || applied.changed {
                info!(object = %applied.key, "{} from labels", applied.verb());
                changed = true;
            }
        }
        for resource in ours {
            let Ok(kind) = resource.kind.parse::<Kind>() else { continue };
            let key = ObjectKey::new(kind, &resource.namespace, &resource.name);
            if !present.contains(&key) {
                info!(object = %key, "its labels are gone");
                self.remove(&key, &resource.document).await?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn read(value: &Value) -> Result<Document, String> {
    let mut loaded = spec::load(&value.to_string(), SOURCE).map_err(|problems| {
        problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    })?;
    loaded.pop().map(|located| located.value).ok_or_else(|| "nothing was read".to_owned())
}
