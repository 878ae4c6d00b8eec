//! A document of any of the five kinds, and the names by which objects are known.
//!
//! Holds and names what was read; reading and judging is done in `yaml`, `schema` and `checks`.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::did_you_mean;
use super::{Backup, BackupSchedule, BackupStore, Restore, Upgrade};

/// The group and version that documents carry as `apiVersion`.
pub const API_VERSION: &str = "eider.dev/v1alpha1";
/// The namespace of a document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// A changed value of this annotation asks for a reconcile now.
pub const RECONCILE_AT: &str = "eider.dev/reconcile-at";

/// One of the five kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// One archive of one target.
    Backup,
    /// An archive put back.
    Restore,
    /// A service moved to a new version, or back.
    Upgrade,
    /// Backups by cron, with retention.
    BackupSchedule,
    /// Where archives are kept.
    BackupStore,
}

impl Kind {
    /// Every kind, in the order of the reference pages.
    pub const ALL: &'static [Self] =
        &[Self::Backup, Self::Restore, Self::Upgrade, Self::BackupSchedule, Self::BackupStore];

    /// The kind as documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::Upgrade => "Upgrade",
            Self::BackupSchedule => "BackupSchedule",
            Self::BackupStore => "BackupStore",
        }
    }

    /// The plural, as in API paths: `backups`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Backup => "backups",
            Self::Restore => "restores",
            Self::Upgrade => "upgrades",
            Self::BackupSchedule => "backupschedules",
            Self::BackupStore => "backupstores",
        }
    }

    /// The short name on the command line: `ebk`.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Backup => "ebk",
            Self::Restore => "ers",
            Self::Upgrade => "eup",
            Self::BackupSchedule => "ebs",
            Self::BackupStore => "est",
        }
    }

    /// Whether objects of this kind run once and are immutable, as against living on.
    pub fn runs_once(self) -> bool {
        matches!(self, Self::Backup | Self::Restore | Self::Upgrade)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not a kind; write one of {}{}", kinds(), hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct UnknownKind {
    word: String,
    hint: Option<String>,
}

fn kinds() -> String {
    Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Accepts kind, singular, plural and short name in any case.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let matches = |kind: &&Kind| {
            [kind.as_str(), kind.plural(), kind.short_name()]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(word))
        };
        Self::ALL.iter().find(matches).copied().ok_or_else(|| UnknownKind {
            word: word.to_owned(),
            hint: did_you_mean(word, Self::ALL.iter().map(|kind| kind.as_str())),
        })
    }
}

/// What identifies an object: kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// The name; empty while `generateName` has not been carried out.
    pub name: String,
}

impl ObjectKey {
    /// The key of the object `name` of `kind` in `namespace`.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    /// `Backup shop/before-release`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A document of any kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Document {
    /// One archive of one target.
    Backup(Box<Backup>),
    /// An archive put back.
    Restore(Box<Restore>),
    /// A service moved to a new version, or back.
    Upgrade(Box<Upgrade>),
    /// Backups by cron, with retention.
    BackupSchedule(Box<BackupSchedule>),
    /// Where archives are kept.
    BackupStore(Box<BackupStore>),
}

/// Evaluates the same expression on whichever object the document holds.
macro_rules! with_object {
    ($document:expr, $object:ident => $expression:expr) => {
        match $document {
            Document::Backup($object) => $expression,
            Document::Restore($object) => $expression,
            Document::Upgrade($object) => $expression,
            Document::BackupSchedule($object) => $expression,
            Document::BackupStore($object) => $expression,
        }
    };
}

impl Document {
    /// The document of `kind` in `value`; no rule is checked beyond what the types demand.
    pub(super) fn from_value(kind: Kind, value: Value) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::Backup => Self::Backup(serde_json::from_value(value)?),
            Kind::Restore => Self::Restore(serde_json::from_value(value)?),
            Kind::Upgrade => Self::Upgrade(serde_json::from_value(value)?),
            Kind::BackupSchedule => Self::BackupSchedule(serde_json::from_value(value)?),
            Kind::BackupStore => Self::BackupStore(serde_json::from_value(value)?),
        })
    }

    /// Which of the five it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Backup(_) => Kind::Backup,
            Self::Restore(_) => Kind::Restore,
            Self::Upgrade(_) => Kind::Upgrade,
            Self::BackupSchedule(_) => Kind::BackupSchedule,
            Self::BackupStore(_) => Kind::BackupStore,
        }
    }

    /// Name, labels, annotations and the rest of `metadata`.
    pub fn metadata(&self) -> &ObjectMeta {
        with_object!(self, object => &object.metadata)
    }

    /// `metadata`, to be filled in.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        with_object!(self, object => &mut object.metadata)
    }

    /// The namespace; `default` when the document names none.
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// The name; `None` when one is to be generated.
    pub fn name(&self) -> Option<&str> {
        self.metadata().name.as_deref().filter(|name| !name.is_empty())
    }

    /// The beginning of the name to generate; `None` when the document has a name.
    pub fn generate_name(&self) -> Option<&str> {
        match self.name() {
            Some(_) => None,
            None => self.metadata().generate_name.as_deref(),
        }
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// The value of [`RECONCILE_AT`]: when it changes, a reconcile is asked for.
    pub fn reconcile_at(&self) -> Option<&str> {
        self.annotation(RECONCILE_AT)
    }

    /// The key; its name is empty while one is still to be generated.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind(), self.namespace(), self.name().unwrap_or_default())
    }

    /// The whole object as JSON, with `apiVersion` and `kind`.
    pub fn to_value(&self) -> Value {
        // The types hold nothing that JSON cannot express, so that this does not fail.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// `spec` as JSON: what is compared to tell whether a file asks for something new.
    pub fn spec_value(&self) -> Value {
        with_object!(self, object => serde_json::to_value(&object.spec).unwrap_or(Value::Null))
    }
}

/// Whether `name` may name an object: an RFC 1123 subdomain of at most 253 characters.
pub fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether `name` may name a namespace: an RFC 1123 label of at most 63 characters.
pub(super) fn is_namespace_name(name: &str) -> bool {
    name.len() <= 63 && is_label(name)
}

fn is_label(label: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !label.is_empty()
        && label.as_bytes().iter().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_all_their_names() {
        for kind in Kind::ALL {
            for word in [kind.as_str(), kind.plural(), kind.short_name()] {
                assert_eq!(word.parse::<Kind>().unwrap(), *kind);
                assert_eq!(word.to_uppercase().parse::<Kind>().unwrap(), *kind);
            }
        }
        let error = "backp".parse::<Kind>().unwrap_err().to_string();
        assert!(error.contains("did you mean `Backup`?"), "{error}");
        assert!("".parse::<Kind>().is_err());
    }

    #[test]
    fn object_names_are_dns_subdomains() {
        for name in ["a", "before-release", "v1.2.0", "0"] {
            assert!(is_object_name(name), "{name}");
        }
        let long = "a".repeat(254);
        for name in ["", "A", "-a", "a-", "a..b", "a_b", "ä", ".a", long.as_str()] {
            assert!(!is_object_name(name), "{name}");
        }
    }

    #[test]
    fn keys_read_as_people_say_them() {
        let key = ObjectKey::new(Kind::Backup, "shop", "before-release");
        assert_eq!(key.to_string(), "Backup shop/before-release");
    }
}
