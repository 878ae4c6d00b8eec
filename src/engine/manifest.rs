//! The manifest beside an archive: what it is, where it came from, and how to tell it is whole.
//!
//! It is written last and is therefore the commit point. Its last line is a BLAKE3 digest over all
//! of its own text, so that any changed byte is noticed. Text only; files are the store's business.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::summary::{Counts, PackSummary, Warning};
use crate::spec::{ArchiveFormat, BackupTrigger, BackupType, DeletionPolicy, Target};

/// The version of archive and manifest that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 2;

/// What is appended to an archive's name to get its manifest's.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";

/// Warnings that a manifest lists; the others are only counted.
const WARNINGS_LISTED: usize = 100;

/// A root of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRoot {
    /// Its name in the archive.
    pub name: String,
    /// Where it was on the host.
    pub path: String,
}

/// The archive that an incremental one continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentArchive {
    /// Name of the archive.
    pub name: String,
    /// SHA-256 of the archive file, in hex.
    pub sha256: String,
}

/// The digest of a manifest's text; kept out of the other fields because it is about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestDigest(String);

impl ManifestDigest {
    /// The digest in hex; empty before the manifest was written for the first time.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Everything known of one archive. Times are UTC, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// See [`FORMAT_VERSION`].
    pub format_version: u64,
    /// Name and version of the program that wrote the archive.
    pub tool: String,
    /// Name of the archive file.
    pub name: String,
    /// Format of the archive file.
    pub format: ArchiveFormat,
    /// Namespace of the Backup object.
    pub namespace: String,
    /// Name of the Backup object.
    pub backup: String,
    /// Generation of the Backup object that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Why the backup was taken.
    pub trigger: BackupTrigger,
    /// What it contains.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What was backed up.
    pub target: Target,
    /// The target in a few words.
    pub target_summary: String,
    /// Version of the service at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_version: Option<String>,
    /// What somebody wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The archive that this one continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentArchive>,
    /// What was left out, as the specification says; nothing in archives of before it was noted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether what was mounted under a root was read too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cross_file_systems: bool,
    /// Name of the BackupSchedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Name of the BackupStore.
    pub store: String,
    /// What becomes of the archive when the Backup object goes.
    pub deletion_policy: DeletionPolicy,
    /// The host that the data was read on.
    pub host: String,
    /// When the backup began.
    pub created_at: Timestamp,
    /// When the data had been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// When retention may drop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last read back completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// How long archiving took, in seconds.
    pub duration_seconds: f64,
    /// How long the service was held still, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_seconds: Option<f64>,
    /// How the containers and volumes were made that the data is of, as their runtime describes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definitions: Option<serde_json::Value>,
    /// What was archived.
    pub roots: Vec<ManifestRoot>,
    /// Entries by kind.
    pub counts: Counts,
    /// Sizes of all files, holes included, hard links once.
    pub source_bytes: u64,
    /// Size of the archive file.
    pub size_bytes: u64,
    /// SHA-256 of the archive file, in hex.
    pub sha256: String,
    /// BLAKE3 of the index or, in version 1, of the uncompressed tar stream; in hex.
    pub content_digest: String,
    /// The first hundred warnings.
    pub warnings: Vec<Warning>,
    /// How many warnings there were.
    pub warning_count: u64,
    /// Fields that a later program of the same format version added; kept as they are.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
    /// The digest that the text was read with.
    #[serde(skip)]
    pub digest: ManifestDigest,
}

impl Manifest {
    /// The manifest of an archive that has just been written; what it is of is left to be filled in.
    pub fn new(
        name: &str,
        format: ArchiveFormat,
        summary: &PackSummary,
        created_at: Timestamp,
    ) -> Self {
        let mut manifest = Self {
            format_version: FORMAT_VERSION,
            tool: format!("eider {}", env!("CARGO_PKG_VERSION")),
            name: name.to_owned(),
            format,
            namespace: String::new(),
            backup: String::new(),
            generation: None,
            trigger: BackupTrigger::default(),
            backup_type: BackupType::default(),
            target: Target::default(),
            target_summary: String::new(),
            service_version: None,
            description: None,
            parent: None,
            exclude: Vec::new(),
            cross_file_systems: false,
            schedule: None,
            store: String::new(),
            deletion_policy: DeletionPolicy::default(),
            host: String::new(),
            created_at,
            completed_at: None,
            expires_at: None,
            verified_at: None,
            duration_seconds: 0.0,
            downtime_seconds: None,
            definitions: None,
            roots: Vec::new(),
            counts: Counts::default(),
            source_bytes: 0,
            size_bytes: 0,
            sha256: String::new(),
            content_digest: String::new(),
            warnings: Vec::new(),
            warning_count: 0,
            other: serde_json::Map::new(),
            digest: ManifestDigest::default(),
        };
        manifest.record(summary);
        manifest
    }

    /// Takes over what packing found out.
    pub fn record(&mut self, summary: &PackSummary) {
        self.format_version = summary.format_version.max(1);
        self.counts = summary.counts;
        self.source_bytes = summary.source_bytes;
        self.size_bytes = summary.archive_bytes;
        self.sha256.clone_from(&summary.sha256);
        self.content_digest.clone_from(&summary.content_digest);
        self.warnings = summary.warnings.iter().take(WARNINGS_LISTED).cloned().collect();
        self.warning_count = summary.warning_count;
    }

    /// Notes that the archive was read back completely; write the manifest to keep it.
    pub fn mark_verified(&mut self, at: Timestamp) {
        self.verified_at = Some(at);
    }

    /// The text of the manifest, its digest on the last line.
    pub fn to_text(&self) -> String {
        // Serialising plain data with string keys does not fail.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        let body = json.strip_suffix("\n}").unwrap_or(&json);
        let digest = blake3::hash(with_digest(body, "").as_bytes()).to_hex();
        with_digest(body, &digest)
    }

    /// Reads a manifest and checks its digest.
    ///
    /// [`EngineError::NewerFormat`] for a later version, [`EngineError::Damaged`] for anything that
    /// is not exactly the text that was written.
    pub fn from_text(name: &str, text: &[u8]) -> Result<Self, EngineError> {
        let damaged = |detail: String| EngineError::Damaged {
            name: name.to_owned(),
            detail: format!("its manifest {detail}"),
            hint: "fetch the manifest from another copy of the store; without it the archive can \
                   still be listed and extracted, but not verified"
                .to_owned(),
        };
        let text = std::str::from_utf8(text).map_err(|error| damaged(error.to_string()))?;
        // The version comes first: another version may have another digest.
        let version: Version =
            serde_json::from_str(text).map_err(|error| damaged(format!("is no JSON: {error}")))?;
        if version.format_version > FORMAT_VERSION {
            return Err(EngineError::NewerFormat {
                name: name.to_owned(),
                found: version.format_version,
                supported: FORMAT_VERSION,
            });
        }
        let (body, digest) =
            split_digest(text).ok_or_else(|| damaged("does not end with its digest".to_owned()))?;
        let expected = blake3::hash(with_digest(body, "").as_bytes()).to_hex();
        if digest != expected.as_str() {
            return Err(damaged("does not match its digest".to_owned()));
        }
        let mut manifest: Self =
            serde_json::from_str(text).map_err(|error| damaged(format!("is invalid: {error}")))?;
        manifest.other.remove("digest");
        manifest.digest = ManifestDigest(digest.to_owned());
        if manifest.name != name {
            return Err(damaged(format!("is that of {}", manifest.name)));
        }
        Ok(manifest)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u64,
}

fn with_digest(body: &str, digest: &str) -> String {
    format!("{body},\n  \"digest\": \"{digest}\"\n}}\n")
}

/// The text before the digest line, and the digest.
fn split_digest(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_suffix("\"\n}\n")?;
    let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
    Some((rest.strip_suffix(",\n  \"digest\": \"")?, digest))
}
