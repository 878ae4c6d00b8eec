//! `eider backup create`: a Backup document made from flags.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::cli::arguments::{BackupCreateArguments, BackupTypeArgument};
use crate::cli::output::{CliError, ExitCode};
use crate::cli::session::{Session, judge};
use crate::operator::Operator;
use crate::plan;
use crate::spec::reference::NameReference;
use crate::spec::{self, ArchiveFormat, BackupSpec, BackupTrigger, BackupType, Document, Reason};

pub(super) async fn create(
    session: &Session,
    arguments: &BackupCreateArguments,
) -> Result<(), CliError> {
    session.listen_for_interrupts();
    let documents = documents(session, arguments).await?;
    if arguments.dry_run {
        for document in &documents {
            if let Some(job) = session.operator.preview(document, &documents).await? {
                session.output.note("nothing was done; this is the plan:");
                print_plan(session, &job.map_err(CliError::from)?).await?;
            }
        }
        return Ok(());
    }
    let documents = documents.into_iter().map(|document| (document, "cli".to_owned())).collect();
    let done = session.carry_out(documents).await?;
    if let Some(last) = done.last() {
        let word = format!("{}/{}", last.operation.namespace, last.operation.name);
        if let Ok(record) = super::find(session, &word).await {
            session.output.object(&record, &super::backup_fields(&record))?;
        }
    }
    judge(&done)
}

/// What a job is about, and its steps, numbered.
pub(in crate::cli) async fn print_plan(session: &Session, job: &plan::Job) -> Result<(), CliError> {
    let lines = plan_lines(session, job).await?;
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| vec![line.number.clone(), line.step.to_owned(), line.text.clone()])
        .collect();
    let items: Vec<Value> =
        lines.iter().map(|line| json!({"step": line.step, "does": line.text})).collect();
    session.output.table(&["NO", "STEP", "DOES"], &rows, &items)
}

/// One line of a plan.
pub(in crate::cli) struct PlanLine {
    /// The number of a step; a dash for what the target is.
    pub number: String,
    /// The step, or `target`.
    pub step: &'static str,
    /// What it does.
    pub text: String,
}

/// What a job is about, then its steps.
pub(in crate::cli) async fn plan_lines(
    session: &Session,
    job: &plan::Job,
) -> Result<Vec<PlanLine>, CliError> {
    let about = session.operator.explain(job).await?;
    let about =
        about.into_iter().map(|text| PlanLine { number: "-".to_owned(), step: "target", text });
    let steps = plan::outline(job).into_iter().enumerate().map(|(number, (step, action))| {
        PlanLine { number: (number + 1).to_string(), step, text: action.describe() }
    });
    Ok(about.chain(steps).collect())
}

async fn documents(
    session: &Session,
    arguments: &BackupCreateArguments,
) -> Result<Vec<Document>, CliError> {
    let name = arguments.name.clone().unwrap_or_else(|| stamped("backup"));
    let (backup_type, trigger) = match arguments.backup_type {
        BackupTypeArgument::Manual | BackupTypeArgument::Full => ("Full", BackupTrigger::Manual),
        BackupTypeArgument::PreUpgrade => ("Full", BackupTrigger::PreUpgrade),
        BackupTypeArgument::Incremental => ("Incremental", BackupTrigger::Manual),
        BackupTypeArgument::DataOnly => ("DataOnly", BackupTrigger::Manual),
    };
    if arguments.paths.is_empty() && arguments.docker.target().is_none() {
        let known = session.operator.schedule(&arguments.namespace, "default").await.map_err(|_| {
            CliError::new(ExitCode::Usage, Reason::InvalidSpec, "what is to be backed up?").hint(
                "name it with `--path PATH` or `--project NAME`, or make a BackupSchedule named `default` known \
                 with `eider run -f FILE` and have its target taken",
            )
        })?;
        let mut document = Operator::scheduled_backup(&known, name, trigger);
        if let Document::Backup(backup) = &mut document {
            lay_over(&mut backup.spec, arguments);
        }
        return Ok(vec![document]);
    }
    let mut options = Map::new();
    options.insert("type".to_owned(), json!(backup_type));
    if let Some(parent) = &arguments.parent {
        options.insert("parentRef".to_owned(), json!({"name": parent}));
    }
    if let Some(version) = &arguments.service_version {
        options.insert("serviceVersion".to_owned(), json!(version));
    }
    if let Some(description) = &arguments.description {
        options.insert("description".to_owned(), json!(description));
    }
    if !arguments.exclude.is_empty() {
        options.insert("exclude".to_owned(), json!(arguments.exclude));
    }
    let mut archive = Map::new();
    if let Some(format) = &arguments.format {
        archive.insert("format".to_owned(), json!(format));
    }
    if let Some(level) = arguments.level {
        archive.insert("level".to_owned(), json!(level));
    }
    if let Some(threads) = arguments.threads {
        archive.insert("threads".to_owned(), json!(threads));
    }
    if let Some(limit) = &arguments.io_limit {
        archive.insert("ioLimit".to_owned(), json!(limit));
    }
    options.insert("archive".to_owned(), Value::Object(archive));
    options.insert("allowUnreadable".to_owned(), json!(arguments.allow_unreadable));
    options.insert("trigger".to_owned(), json!(trigger));
    let (store, mut documents) =
        store_reference(session, &arguments.namespace, arguments.store.as_deref()).await?;
    if let Some(mode) = &arguments.docker.mode {
        options.insert("consistency".to_owned(), json!({"mode": mode}));
    }
    let mut target = Map::new();
    if !arguments.paths.is_empty() {
        target.insert("host".to_owned(), host_target(&arguments.paths)?);
    }
    if let Some(docker) = arguments.docker.target() {
        target.insert("docker".to_owned(), docker);
    }
    options.insert("target".to_owned(), Value::Object(target));
    documents.extend(backup(&arguments.namespace, &name, &store, options)?);
    Ok(documents)
}

/// What was typed counts more than the schedule's template.
fn lay_over(spec: &mut BackupSpec, arguments: &BackupCreateArguments) {
    if arguments.service_version.is_some() {
        spec.service_version.clone_from(&arguments.service_version);
    }
    if arguments.description.is_some() {
        spec.description.clone_from(&arguments.description);
    }
    match arguments.backup_type {
        BackupTypeArgument::Full => spec.backup_type = BackupType::Full,
        BackupTypeArgument::Incremental => spec.backup_type = BackupType::Incremental,
        BackupTypeArgument::DataOnly => spec.backup_type = BackupType::DataOnly,
        BackupTypeArgument::Manual | BackupTypeArgument::PreUpgrade => {}
    }
    spec.parent_ref = arguments.parent.as_deref().map(NameReference::new);
    spec.max_chain = spec.max_chain.filter(|_| spec.backup_type == BackupType::Incremental);
    spec.exclude.extend(arguments.exclude.iter().cloned());
    spec.allow_unreadable |= arguments.allow_unreadable;
    match arguments.format.as_deref() {
        Some("tar.gz") => spec.archive.format = ArchiveFormat::TarGz,
        Some("tar.zst") => spec.archive.format = ArchiveFormat::TarZst,
        Some("tar") => spec.archive.format = ArchiveFormat::Tar,
        _ => {}
    }
    spec.archive.level = arguments.level.or(spec.archive.level);
    spec.archive.threads = arguments.threads.or(spec.archive.threads);
    if arguments.io_limit.is_some() {
        spec.archive.io_limit.clone_from(&arguments.io_limit);
    }
}

/// A name that says when: `backup-20261121-041500`.
pub(in crate::cli) fn stamped(stem: &str) -> String {
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    // Milliseconds too: the same name a second time would be the same object, which has run already.
    format!("{stem}-{}", now.strftime("%Y%m%d-%H%M%S-%3f"))
}

/// The store that is meant: a name, a directory (whose BackupStore document is returned too), or the
/// only one there is.
pub(in crate::cli) async fn store_reference(
    session: &Session,
    namespace: &str,
    word: Option<&str>,
) -> Result<(String, Vec<Document>), CliError> {
    let known = session.operator.stores().await?;
    let path = match word {
        Some(word) if word.contains('/') => absolute(Path::new(word))?,
        // Nothing named and nothing known: the place that the settings name.
        None if !known.iter().any(|(found, _)| found == namespace) => {
            let directory = session.operator.catalog().settings().await?.default_directory;
            session.output.note(&format!("no store is known: using {directory}"));
            absolute(Path::new(&directory))?
        }
        word => {
            let found = session.operator.store_or_only(namespace, word).await;
            return match (found.map_err(CliError::from), word) {
                (Ok(store), _) => Ok((store.name, Vec::new())),
                (Err(error), Some(word))
                    if error.reason == Reason::StoreNotFound && Path::new(word).is_dir() =>
                {
                    Err(error
                        .hint(format!("a directory is named with a slash: `--store ./{word}`")))
                }
                (Err(error), _) => Err(error),
            };
        }
    };
    for (found, store) in known {
        let same = store.spec.local.as_ref().is_some_and(|local| Path::new(&local.path) == path);
        if found == namespace && same {
            return Ok((store.name, Vec::new()));
        }
    }
    let text = path.to_string_lossy();
    let name = format!("directory-{}", &blake3::hash(text.as_bytes()).to_hex()[..8]);
    let document = json!({
        "apiVersion": spec::API_VERSION,
        "kind": "BackupStore",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"local": {"path": text}},
    });
    Ok((name, checked(&document)?))
}

/// Paths as `spec.target.host`.
fn host_target(paths: &[PathBuf]) -> Result<Value, CliError> {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| Ok(absolute(path)?.to_string_lossy().into_owned()))
        .collect::<Result<_, CliError>>()?;
    Ok(json!({ "paths": paths }))
}

/// A Backup document with this specification, its target included.
fn backup(
    namespace: &str,
    name: &str,
    store: &str,
    mut specification: Map<String, Value>,
) -> Result<Vec<Document>, CliError> {
    specification.insert("storeRef".to_owned(), json!({"name": store}));
    checked(&json!({
        "apiVersion": spec::API_VERSION,
        "kind": "Backup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": specification,
    }))
}

/// What is typed is judged by the same rules as what is written in a file.
pub(in crate::cli) fn checked(document: &Value) -> Result<Vec<Document>, CliError> {
    spec::load(&document.to_string(), "command line")
        .map(|documents| documents.into_iter().map(|located| located.value).collect())
        .map_err(|problems| {
            let words: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .collect();
            let error = CliError::new(ExitCode::Usage, Reason::InvalidSpec, words.join("; "));
            match problems.into_iter().find_map(|problem| problem.hint) {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
}

/// The path seen from the root, without `.` and `..`.
pub(in crate::cli) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    let path = std::path::absolute(path).map_err(|error| {
        CliError::new(ExitCode::Usage, Reason::InvalidSpec, format!("{}: {error}", path.display()))
    })?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}
