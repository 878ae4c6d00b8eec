//! What has been carried out, in a plain file beside the catalog: the one thing that must not be
//! forgotten when the catalog is lost.
//!
//! Records of backups can be made again from the manifests. That a Restore has run cannot be, and a
//! daemon that found its old document would run it again, over live data, unasked. So every operation
//! of a document leaves a line here before it begins and another when it has ended. The file is read
//! only for documents that the catalog does not know (ADR 13).

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::{Conclusion, Failure, status};
use crate::spec::Reason;

/// What is appended to the catalog's name to get the ledger's.
pub const LEDGER_SUFFIX: &str = ".operations";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// `kind/namespace/name`.
    object: String,
    /// Digest of the specification that was carried out.
    digest: String,
    /// When the line was written.
    at: Timestamp,
    /// How it ended; nothing when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Reason>,
}

/// The file, and what it says.
pub(super) struct Ledger {
    path: PathBuf,
    lines: Mutex<HashMap<String, Line>>,
}

impl Ledger {
    /// Reads the ledger beside a catalog; a line that was cut off by a crash is passed over. A ledger
    /// that has grown by repetition is written anew.
    pub(super) fn open(catalog: &Path) -> std::io::Result<Self> {
        let mut name = catalog.as_os_str().to_owned();
        name.push(LEDGER_SUFFIX);
        let path = PathBuf::from(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut lines = HashMap::new();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            lines.insert(line.object.clone(), line);
        }
        let ledger = Self { path, lines: Mutex::new(lines) };
        if text.lines().count() > 1000 + 4 * ledger.lines().len() {
            ledger.rewrite()?;
        } else if !text.is_empty() && !text.ends_with('\n') {
            ledger.append("\n")?;
        }
        Ok(ledger)
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, text: &str) -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }

    fn rewrite(&self) -> std::io::Result<()> {
        let mut text = String::new();
        for line in self.lines().values() {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)
    }

    /// Writes that a specification is about to be carried out, or how it ended. It is on disk when
    /// this returns.
    pub(super) fn note(
        &self,
        object: &str,
        digest: &str,
        outcome: Option<Reason>,
    ) -> std::io::Result<()> {
        let line = Line {
            object: object.to_owned(),
            digest: digest.to_owned(),
            at: Timestamp::now(),
            outcome,
        };
        self.append(&format!("{}\n", serde_json::to_string(&line)?))?;
        self.lines().insert(object.to_owned(), line);
        Ok(())
    }

    /// The status of an object whose document was carried out before, as far as is still known.
    pub(super) fn recall(&self, object: &str, digest: &str) -> Option<serde_json::Value> {
        let line = self.lines().get(object).filter(|line| line.digest == digest)?.clone();
        let lost = "its records were lost with the catalog";
        let conclusion = match line.outcome {
            Some(Reason::Succeeded) => {
                Conclusion::succeeded(format!("carried out before {}; {lost}", line.at))
            }
            Some(reason) => Conclusion::failed(Failure::new(
                reason,
                format!("failed before {}; {lost}", line.at),
            )),
            None => Conclusion::failed(
                Failure::new(
                    Reason::Interrupted,
                    format!("begun {} and not known to have ended; {lost}", line.at),
                )
                .hint("look at the target; change the document to carry it out again"),
            ),
        };
        let mut value = status::refused(1, &conclusion, line.at);
        if conclusion.is_success() {
            value["phase"] = "Succeeded".into();
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_out_is_remembered_across_the_loss_of_the_catalog() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = directory.path().join("eider.duckdb");
        let ledger = Ledger::open(&catalog).unwrap();
        assert!(ledger.recall("Restore/default/r", "a").is_none());
        ledger.note("Restore/default/r", "a", None).unwrap();
        ledger.note("Backup/default/b", "x", None).unwrap();
        ledger.note("Backup/default/b", "x", Some(Reason::Succeeded)).unwrap();

        let ledger = Ledger::open(&catalog).unwrap();
        let begun = ledger.recall("Restore/default/r", "a").unwrap();
        assert_eq!(begun["phase"], "Failed");
        assert_eq!(begun["conditions"][0]["reason"], "Interrupted");
        assert!(ledger.recall("Restore/default/r", "b").is_none(), "another specification");
        assert_eq!(ledger.recall("Backup/default/b", "x").unwrap()["phase"], "Succeeded");
        assert!(status::recorded(&begun, 1).is_some());
    }

    #[test]
    fn a_line_that_was_cut_off_costs_itself_alone() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = directory.path().join("c");
        let ledger = Ledger::open(&catalog).unwrap();
        ledger.note("Backup/default/a", "1", Some(Reason::Succeeded)).unwrap();
        let path = directory.path().join(format!("c{LEDGER_SUFFIX}"));
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"object\":\"Backup/de");
        std::fs::write(&path, text).unwrap();
        let ledger = Ledger::open(&catalog).unwrap();
        ledger.note("Backup/default/b", "2", None).unwrap();
        let ledger = Ledger::open(&catalog).unwrap();
        assert!(ledger.recall("Backup/default/a", "1").is_some());
        assert!(ledger.recall("Backup/default/b", "2").is_some());
    }

    #[test]
    fn a_ledger_that_repeats_itself_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = directory.path().join("c");
        let path = directory.path().join(format!("c{LEDGER_SUFFIX}"));
        let line = serde_json::to_string(&Line {
            object: "Backup/default/a".to_owned(),
            digest: "1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            outcome: None,
        });
        std::fs::write(&path, format!("{}\n", line.unwrap()).repeat(1100)).unwrap();
        let ledger = Ledger::open(&catalog).unwrap();
        assert!(ledger.recall("Backup/default/a", "1").is_some());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
