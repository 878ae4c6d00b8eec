//! Work on a store alone: looking into it, removing archives. A mover of its own does it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::conversation::Conversation;
use super::mover_job::identity_of;
use super::{KubernetesRuntime, names, translate};
use crate::engine::{Cancel, Progress, Silent};
use crate::plan::{Failure, OperationId, StoreBinding};
use crate::runtime::mover::{Mission, Request, Saying, Work};
use crate::runtime::{Handles, Turn};
use crate::spec::MoverSecurityContext;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreFigures {
    /// Archives that are there with their manifests.
    pub backups: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes free where they lie.
    pub free_bytes: u64,
}

/// What work on a store has found and done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreAnswer {
    /// What the store holds now.
    pub figures: StoreFigures,
    /// The manifest of every archive that is all there, where it was inspected.
    pub manifests: Vec<Value>,
    /// The names of all archives that are there; nothing if not all of them were heard of.
    pub present: Option<HashSet<String>>,
    /// Those of them that are no backups as they are, and why.
    pub broken: HashMap<String, Failure>,
    /// Archives that were to be removed and stay, each with one that builds on it.
    pub stay: Vec<(String, String)>,
}

/// One piece of work on a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWork {
    /// Free space, and every manifest.
    Inspect,
    /// Remove these archives, but for those that others build on.
    Delete(Vec<String>),
}

impl StoreWork {
    fn name(&self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Delete(_) => "delete",
        }
    }
}

/// A piece of work with what it needs.
pub struct StoreErrand {
    /// What is to be done.
    pub work: StoreWork,
    /// As whom the store was written last.
    pub writer: Option<MoverSecurityContext>,
    /// Told what the work waits for.
    pub progress: Arc<dyn Progress>,
    /// The place among those that work at the same time; lent while the mover cannot start.
    pub turn: Turn,
}

impl StoreErrand {
    /// Work that nobody follows.
    pub fn new(work: StoreWork, writer: Option<MoverSecurityContext>, turn: Turn) -> Self {
        Self { work, writer, progress: Arc::new(Silent), turn }
    }
}

impl KubernetesRuntime {
    /// Has a mover work on a store. `object` is what the mover belongs to and goes with: the store, a
    /// schedule, a Backup. `purpose` tells pieces of work on the same object apart.
    pub async fn work_on_store(
        &self,
        object: &OperationId,
        purpose: &str,
        binding: &StoreBinding,
        errand: StoreErrand,
    ) -> Result<StoreAnswer, Failure> {
        let (store_claim, mounted) = translate::store(binding)?;
        self.has_store(&object.namespace, binding).await?;
        let StoreErrand { writer, work, progress, turn } = errand;
        let handles = Handles { progress, cancel: Cancel::new(), turn };
        let conversation = Conversation {
            cluster: &self.cluster,
            namespace: &object.namespace,
            operation: object,
            // A look and a removal may be under way at once, and whoever is done lets its movers go.
            key: names::key_of_work(object, work.name()),
            mission: Mission { job: None, journal: Vec::new(), store: mounted },
            claims: Vec::new(),
            writes: false,
            store_claim,
            identity: writer.unwrap_or_else(|| identity_of(None)),
            tolerations: Vec::new(),
            handles: &handles,
        };
        let work = match work {
            StoreWork::Inspect => Work::Inspect,
            StoreWork::Delete(names) => Work::Delete(names),
        };
        let request =
            Request { id: Request::identity(purpose, 0), work, again: false, journal: Vec::new() };
        let mut manifests: Vec<Value> = Vec::new();
        let mut present = HashSet::new();
        // A log that is read again says everything again.
        let mut known = HashSet::new();
        let mut broken = HashMap::new();
        let answer = conversation
            .ask(request, &mut |said| match said {
                Saying::Archive { manifest } => {
                    present.extend(manifest["name"].as_str().map(str::to_owned));
                    if known.insert(manifest.to_string()) {
                        manifests.push(manifest);
                    }
                }
                Saying::Unreadable { name, why } => {
                    present.insert(name.clone());
                    broken.insert(name, why);
                }
                _ => {}
            })
            .await;
        conversation.let_go().await?;
        let answer = answer?;
        let stay = serde_json::from_value(answer["stay"].clone()).unwrap_or_default();
        let present = all_of(present, &answer);
        Ok(StoreAnswer { figures: figures(&answer), manifests, present, broken, stay })
    }
}

/// What was heard of, if it is as much as was told.
fn all_of(heard: HashSet<String>, answer: &Value) -> Option<HashSet<String>> {
    let told = answer["told"].as_u64().and_then(|told| usize::try_from(told).ok());
    (told == Some(heard.len())).then_some(heard)
}

/// The figures of the store in the facts of an answer.
pub fn figures(facts: &Value) -> StoreFigures {
    serde_json::from_value(facts["store"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_that_was_not_heard_to_its_end_is_none() {
        let heard = || HashSet::from(["a.tar.gz".to_owned(), "b.tar.gz".to_owned()]);
        assert_eq!(all_of(heard(), &json!({"told": 2})), Some(heard()));
        assert_eq!(all_of(heard(), &json!({"told": 3})), None);
        assert_eq!(all_of(heard(), &json!({})), None, "a removal tells nothing");
        assert_eq!(all_of(HashSet::new(), &json!({"told": 0})), Some(HashSet::new()));
    }
}
