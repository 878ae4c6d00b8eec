//! Documents from files: a directory that is watched, or files named once.
//!
//! The directory is read whole each time. What changed is found by comparing with the records, not
//! by believing events: an event that never came, or came twice, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::{Applied, Operator, OperatorError};
use crate::catalog::BackupKey;
use crate::plan::Failure;
use crate::spec::{self, DeletionPolicy, Document, Foreign, Kind, Problem, Reason};

/// Documents read from files, with what is wrong in the others.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Document and file, stores and schedules first.
    pub documents: Vec<(Document, String)>,
    /// What is wrong, in the order of files and positions.
    pub problems: Vec<Problem>,
    /// Files that could be read and are valid.
    pub valid_files: BTreeSet<String>,
    /// Files that could be read, valid or not.
    pub seen_files: BTreeSet<String>,
}

/// A file or directory of documents that cannot be read.
fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    };
    let message = format!("the documents in {} cannot be read: {why}", path.display());
    Failure::new(Reason::InvalidSpec, message).hint("check the path, and that it is readable")
}

/// The YAML files that a path stands for: itself, or those directly in it. Hidden files are left
/// out: a mounted ConfigMap keeps its generations in hidden directories.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refuse = |error: std::io::Error| unreadable(path, &error);
    if !std::fs::metadata(path).map_err(refuse)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file as it was seen: what cannot stay the same when somebody has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMark {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Marks of the files that paths stand for; equal marks mean that nothing has changed.
pub fn fingerprint(paths: &[PathBuf]) -> Vec<FileMark> {
    use std::os::unix::fs::MetadataExt;
    let mark = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok();
        let known = metadata.map_or((0, 0, (0, 0)), |metadata| {
            (metadata.ino(), metadata.size(), (metadata.mtime(), metadata.mtime_nsec()))
        });
        FileMark { path, inode: known.0, size: known.1, modified: known.2 }
    };
    paths
        .iter()
        .flat_map(|path| files_of(path).unwrap_or_else(|_| vec![path.clone()]))
        .map(mark)
        .collect()
}

/// Reads every document of these paths; `-` is standard input.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Failure> {
    read_all(paths, spec::load)
}

/// The same where documents of others are no problem: what is not Eider's, each with its file.
pub fn load_beside(paths: &[PathBuf]) -> Result<(Loaded, Vec<(Foreign, String)>), Failure> {
    let mut foreign = Vec::new();
    let loaded = read_all(paths, |text, file| {
        let mut others = Vec::new();
        let documents = spec::load_beside(text, file, Some(&mut others));
        foreign.extend(others.into_iter().map(|other| (other, file.to_owned())));
        documents
    })?;
    Ok((loaded, foreign))
}

fn read_all(
    paths: &[PathBuf],
    mut parse: impl FnMut(&str, &str) -> Result<Vec<spec::Located<Document>>, Vec<Problem>>,
) -> Result<Loaded, Failure> {
    let mut loaded = Loaded::default();
    for path in paths {
        let files = if path == Path::new("-") { vec![path.clone()] } else { files_of(path)? };
        for file in files {
            let name = file.to_string_lossy().into_owned();
            let text = read(&file)?;
            loaded.seen_files.insert(name.clone());
            match parse(&text, &name) {
                Ok(documents) => {
                    loaded.valid_files.insert(name.clone());
                    loaded
                        .documents
                        .extend(documents.into_iter().map(|located| (located.value, name.clone())));
                }
                Err(problems) => loaded.problems.extend(problems),
            }
        }
    }
    refuse_duplicates(&mut loaded);
    // References are looked up when an operation begins: what is referred to comes first.
    let backups: BTreeSet<(String, String)> = loaded
        .documents
        .iter()
        .filter(|(document, _)| document.kind() == Kind::Backup)
        .map(|(document, _)| (document.namespace().to_owned(), document.key().name))
        .collect();
    loaded.documents.sort_by_key(|(document, _)| match document {
        Document::BackupStore(_) => 0,
        Document::BackupSchedule(_) => 1,
        Document::Restore(restore) => {
            let named = restore.spec.from.backup_ref.as_ref().is_some_and(|backup| {
                backups.contains(&(document.namespace().to_owned(), backup.name.clone()))
            });
            if named { 3 } else { 2 }
        }
        Document::Backup(_) | Document::Upgrade(_) => 2,
    });
    Ok(loaded)
}

/// An object that stands in two documents would be two specifications that take turns for ever, each
/// change a new run. None of them is applied.
fn refuse_duplicates(loaded: &mut Loaded) {
    let mut places: BTreeMap<spec::ObjectKey, Vec<String>> = BTreeMap::new();
    for (document, file) in &loaded.documents {
        if document.name().is_some() {
            places.entry(document.key()).or_default().push(file.clone());
        }
    }
    for (key, files) in places.into_iter().filter(|(_, files)| files.len() > 1) {
        loaded.documents.retain(|(document, _)| document.key() != key);
        for file in BTreeSet::from_iter(&files) {
            let others: Vec<&str> =
                files.iter().filter(|other| *other != file).map(String::as_str).collect();
            let elsewhere = if others.is_empty() {
                "more than once".to_owned()
            } else {
                format!("in {} too", others.join(", "))
            };
            loaded.valid_files.remove(file);
            loaded.problems.push(Problem {
                file: file.clone(),
                line: 0,
                column: 0,
                path: "metadata.name".to_owned(),
                reason: Reason::InvalidSpec,
                message: format!("{key} stands {elsewhere}"),
                hint: Some("keep one of them; none is applied until then".to_owned()),
            });
        }
    }
}

/// The longest file that is read.
const LIMIT: u64 = 4 << 20;

fn read(file: &Path) -> Result<String, Failure> {
    let refuse = |what: String| {
        Failure::new(Reason::InvalidSpec, format!("{}: {what}", file.display()))
            .hint("documents are UTF-8 text of at most 4 MiB")
    };
    let bytes = if file == Path::new("-") {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| refuse(error.to_string()))?;
        bytes
    } else {
        let unreadable = |error: std::io::Error| unreadable(file, &error);
        let size = std::fs::metadata(file).map_err(unreadable)?.len();
        if size > LIMIT {
            return Err(refuse(format!("{size} bytes are more than a document may have")));
        }
        std::fs::read(file).map_err(unreadable)?
    };
    if bytes.len() as u64 > LIMIT {
        return Err(refuse("it is larger than a document may be".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| refuse(format!("it is no UTF-8 text: {error}")))
}

impl Operator {
    /// Applies everything that was loaded.
    pub async fn apply_all(&self, loaded: Loaded) -> Result<Vec<Applied>, OperatorError> {
        let mut applied = Vec::new();
        for (document, file) in loaded.documents {
            applied.push(self.apply(document, &file).await?);
        }
        Ok(applied)
    }

    /// Applies only the stores of a directory: what a rebuild of the records needs to know first.
    pub async fn sync_stores_only(&self, directory: &Path) -> Result<(), OperatorError> {
        let path = directory.to_owned();
        let mut loaded = super::stores::blocking(move || load(&[path])).await?;
        loaded.documents.retain(|(document, _)| document.kind() == Kind::BackupStore);
        self.apply_all(loaded).await?;
        Ok(())
    }

    /// Brings the records in line with a directory: applies what is there, marks what is gone.
    /// Returns what was applied, and the problems by file.
    pub(super) async fn sync_directory(
        &self,
        directory: &Path,
    ) -> Result<(Vec<Applied>, BTreeMap<String, Vec<Problem>>), OperatorError> {
        let path = directory.to_owned();
        let loaded = super::stores::blocking(move || load(&[path])).await?;
        let mut problems: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
        for problem in &loaded.problems {
            problems.entry(problem.file.clone()).or_default().push(problem.clone());
        }
        let mut present = BTreeSet::new();
        for (document, _) in &loaded.documents {
            present.insert(document.key());
        }
        let seen = loaded.seen_files.clone();
        let valid = loaded.valid_files.clone();
        let applied = self.apply_all(loaded).await?;
        let prefix = format!("{}/", directory.to_string_lossy().trim_end_matches('/'));
        for resource in self.catalog.resources(None).await? {
            let from_here = resource.source.starts_with(&prefix);
            // A file that is broken now says nothing about what was in it before.
            let known_gone = !seen.contains(&resource.source) || valid.contains(&resource.source);
            if !from_here || !known_gone || resource.removed_at.is_some() {
                continue;
            }
            let Ok(kind) = resource.kind.parse::<Kind>() else {
                continue;
            };
            let key = spec::ObjectKey::new(kind, &resource.namespace, &resource.name);
            // Objects whose names were generated are not found under their file's name again.
            let generated = resource.document["metadata"]["generateName"].is_string();
            if present.contains(&key) || generated {
                continue;
            }
            info!(object = %key, file = resource.source, "its document is gone");
            self.remove(&key, &resource.document).await?;
        }
        Ok((applied, problems))
    }

    /// Takes away what would go on speaking of an object that is gone.
    pub(super) async fn fall_silent(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), OperatorError> {
        match kind {
            Kind::BackupSchedule => {
                self.metrics.forget_schedule(namespace, name);
                self.catalog.remove_scheduled_task(namespace, name).await?;
            }
            Kind::BackupStore => self.metrics.forget_store(namespace, name),
            Kind::Backup | Kind::Restore | Kind::Upgrade => {}
        }
        Ok(())
    }

    /// Takes note that an object's document is gone. A Backup's archive goes with it only where its
    /// `deletionPolicy` says so.
    pub(super) async fn remove(
        &self,
        key: &spec::ObjectKey,
        document: &serde_json::Value,
    ) -> Result<(), OperatorError> {
        let now = jiff::Timestamp::now();
        self.catalog.remove_resource(key.kind.as_str(), &key.namespace, &key.name, now).await?;
        self.fall_silent(key.kind, &key.namespace, &key.name).await?;
        if key.kind != Kind::Backup {
            return Ok(());
        }
        let policy: DeletionPolicy =
            serde_json::from_value(document["spec"]["deletionPolicy"].clone()).unwrap_or_default();
        let backup = BackupKey::Object { namespace: key.namespace.clone(), name: key.name.clone() };
        if policy == DeletionPolicy::Delete
            && let Some(record) = self.catalog.backup(backup).await?
        {
            warn!(backup = record.backup_name, "removed with its document");
            match self.delete_backup(&record).await {
                // It goes when retention, or somebody, removes what builds on it.
                Err(error) if error.reason() == Reason::ArchiveNeeded => warn!("{error}"),
                result => result?,
            }
        }
        Ok(())
    }
}
