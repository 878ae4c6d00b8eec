//! Documents become resources: names generated, generations counted.
//!
//! The digest of the specification decides. An unchanged document keeps its generation and so, its
//! operation being known by it, never runs twice; a changed one is a new generation and a new run.

use jiff::Timestamp;
use serde_json::Value;

use super::{Operator, OperatorError};
use crate::catalog::ResourceRecord;
use crate::plan::OperationId;
use crate::spec::{Document, Kind, ObjectKey};

/// What applying a document did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The object.
    pub key: ObjectKey,
    /// Its generation.
    pub generation: i64,
    /// Whether it was not there before.
    pub created: bool,
    /// Whether its specification differs from what was there.
    pub changed: bool,
    /// The UID that a cluster has given it.
    pub uid: Option<String>,
}

impl Applied {
    /// The operation to drive; nothing for kinds that live on.
    pub fn operation(&self) -> Option<OperationId> {
        self.key.kind.runs_once().then(|| OperationId {
            kind: self.key.kind.as_str().to_owned(),
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            generation: self.generation,
            uid: self.uid.clone(),
        })
    }

    /// `created`, `configured` or `unchanged`, as kubectl says it.
    pub fn verb(&self) -> &'static str {
        match (self.created, self.changed) {
            (true, _) => "created",
            (false, true) => "configured",
            (false, false) => "unchanged",
        }
    }
}

/// BLAKE3 of a specification as canonical JSON: objects sorted by key, no white space.
pub(super) fn digest(spec: &Value) -> String {
    fn canonical(value: &Value, text: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                text.push('{');
                for key in keys {
                    text.push_str(&Value::String(key.clone()).to_string());
                    text.push(':');
                    canonical(&map[key], text);
                    text.push(',');
                }
                text.push('}');
            }
            Value::Array(items) => {
                text.push('[');
                for item in items {
                    canonical(item, text);
                    text.push(',');
                }
                text.push(']');
            }
            other => text.push_str(&other.to_string()),
        }
    }
    let mut text = String::new();
    canonical(spec, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Five characters of a random name, from the alphabet Kubernetes uses: no vowels, nothing ambiguous.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    random.as_bytes()[..5]
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

impl Operator {
    /// Writes a document as a resource. Nothing is carried out yet.
    pub async fn apply(
        &self,
        mut document: Document,
        source: &str,
    ) -> Result<Applied, OperatorError> {
        if let Some(stem) = document.generate_name().map(str::to_owned) {
            document.metadata_mut().name = Some(format!("{stem}{}", suffix()));
            document.metadata_mut().generate_name = None;
        }
        let key = document.key();
        if document.metadata().namespace.is_none() {
            document.metadata_mut().namespace = Some(key.namespace.clone());
        }
        let spec_digest = digest(&document.spec_value());
        let known = self.catalog.resource(key.kind.as_str(), &key.namespace, &key.name).await?;
        let (generation, created, changed, status) = match &known {
            None => {
                let object = format!("{}/{}/{}", key.kind, key.namespace, key.name);
                let ledger = self.ledger.as_ref().filter(|_| key.kind.runs_once());
                let recalled = ledger.and_then(|ledger| ledger.recall(&object, &spec_digest));
                (1, true, recalled.is_none(), recalled.unwrap_or_default())
            }
            Some(known) if known.spec_digest == spec_digest => {
                (known.generation, false, false, known.status.clone())
            }
            // The old status stays until the new generation begins: it says which one it is of.
            Some(known) => (known.generation + 1, false, true, known.status.clone()),
        };
        let value = document.to_value();
        let unchanged = known.as_ref().is_some_and(|known| {
            !changed
                && known.document == value
                && known.source == source
                && known.removed_at.is_none()
        });
        if !unchanged {
            let record = ResourceRecord {
                kind: key.kind.as_str().to_owned(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                generation,
                spec_digest,
                document: value,
                status,
                source: source.to_owned(),
                observed_at: Timestamp::now(),
                removed_at: None,
            };
            self.catalog.put_resource(record).await?;
        }
        if key.kind == Kind::BackupStore {
            self.refresh_store(&key.namespace, &key.name).await?;
        }
        Ok(Applied { key, generation, created, changed, uid: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_keys() {
        let one = digest(&json!({"a": 1, "b": [1, {"x": 1, "y": 2}]}));
        let other = digest(&json!({"b": [1, {"y": 2, "x": 1}], "a": 1}));
        assert_eq!(one, other);
        assert_ne!(one, digest(&json!({"a": 1, "b": [{"x": 1, "y": 2}, 1]})));
        assert_ne!(digest(&json!({"a": "1"})), digest(&json!({"a": 1})));
    }

    #[test]
    fn generated_suffixes_are_valid_in_names() {
        for _ in 0..100 {
            let suffix = suffix();
            assert_eq!(suffix.len(), 5);
            assert!(suffix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        }
    }
}
