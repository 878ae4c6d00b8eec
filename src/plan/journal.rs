//! The operation journal: what was intended and what came of it, in order.
//!
//! The journal is append-only. A step's intent is written before the step touches the world and its
//! outcome after it; an intent without an outcome, left by a session that has ended, is what crash
//! recovery works from.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Identifies one run of one object: `kind/namespace/name/generation`, in a cluster with the UID of the
/// object behind it.
///
/// The identity is derived, not drawn: the same document at the same generation is the same
/// operation, which is why an unchanged document never runs twice. An object of a cluster that is
/// deleted and made again begins at generation 1 again and is another operation; its UID says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId {
    /// `Backup`, `Restore` or `Upgrade`.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Generation that is carried out, from 1.
    pub generation: i64,
    /// The UID that the cluster has given the object; none for documents in files.
    pub uid: Option<String>,
}

impl fmt::Display for OperationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}/{}", self.kind, self.namespace, self.name, self.generation)?;
        match &self.uid {
            Some(uid) => write!(formatter, "/{uid}"),
            None => Ok(()),
        }
    }
}

impl FromStr for OperationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let (parts, uid) = match parts[..] {
            [kind, namespace, name, generation] => ([kind, namespace, name, generation], None),
            [kind, namespace, name, generation, uid] if !uid.is_empty() => {
                ([kind, namespace, name, generation], Some(uid.to_owned()))
            }
            _ => return Err(format!("`{text}` is not of the form kind/namespace/name/generation")),
        };
        let [kind, namespace, name, generation] = parts;
        if let Ok(generation) = generation.parse() {
            return Ok(Self {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                generation,
                uid,
            });
        }
        Err(format!("`{text}` is not of the form kind/namespace/name/generation"))
    }
}

impl TryFrom<String> for OperationId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

/// Whether a journal entry announces, completes or fails a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// The step is about to touch the world.
    Intent,
    /// The step did what it was to do; `detail` has its result.
    Done,
    /// The step failed; `detail` has `reason` and `message`.
    Failed,
}

impl Mark {
    /// The word in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "Intent",
            Self::Done => "Done",
            Self::Failed => "Failed",
        }
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Intent" => Ok(Self::Intent),
            "Done" => Ok(Self::Done),
            "Failed" => Ok(Self::Failed),
            other => Err(format!("`{other}` is not a journal mark")),
        }
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The operation.
    pub operation: OperationId,
    /// Name of the step.
    pub step: String,
    /// What the line says of the step.
    pub mark: Mark,
    /// When it was written, UTC.
    pub at: Timestamp,
    /// The process that wrote it; another session's open intent was interrupted.
    pub session: String,
    /// Facts that later steps, or recovery, need.
    #[serde(default)]
    pub detail: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_ids_read_back_as_themselves() {
        let id: OperationId = "Backup/shop/nightly/3".parse().unwrap();
        assert_eq!(id.generation, 3);
        assert_eq!(id.to_string(), "Backup/shop/nightly/3");
        let id: OperationId = "Backup/shop/nightly/3/0a1b".parse().unwrap();
        assert_eq!(id.uid.as_deref(), Some("0a1b"));
        assert_eq!(id.to_string(), "Backup/shop/nightly/3/0a1b");
        assert!("Backup/shop/nightly/3/".parse::<OperationId>().is_err());
        assert!("Backup/shop/nightly".parse::<OperationId>().is_err());
        assert!("Backup/shop/nightly/x".parse::<OperationId>().is_err());
    }
}
