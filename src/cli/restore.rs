//! `eider restore …`, `eider rollback`: a Restore document made from flags.

use serde_json::{Map, Value, json};

use super::arguments::{
    GlobalArguments, RestoreCommand, RestoreCreateArguments, RollbackArguments,
};
use super::backup::{checked, find, print_plan, stamped};
use super::output::{CliError, ExitCode, Output};
use super::session::{Session, judge};
use crate::catalog::{BackupFilter, BackupRecord, RecordStatus};
use crate::spec::{self, Document, Reason};

/// Carries one of them out.
pub async fn restore(
    global: &GlobalArguments,
    command: &RestoreCommand,
    output: Output,
) -> Result<(), CliError> {
    let RestoreCommand::Create(arguments) = command;
    let session = if arguments.dry_run {
        Session::open(global, output).await?
    } else {
        Session::open_to_act(global, output).await?
    };
    let result = create(&session, arguments, global.yes).await;
    session.finish(result).await
}

async fn create(
    session: &Session,
    arguments: &RestoreCreateArguments,
    yes: bool,
) -> Result<(), CliError> {
    let mut options = Map::new();
    let what;
    if let Some(schedule) = &arguments.latest {
        options.insert("from".to_owned(), json!({"latest": {"scheduleRef": {"name": schedule}}}));
        what = format!("the newest verified backup of schedule {schedule}");
    } else {
        let record = find(session, arguments.backup.as_deref().unwrap_or_default()).await?;
        what = format!("backup {} ({})", record.id, record.backup_name);
        options.insert("from".to_owned(), source(session, &record, &arguments.namespace).await?);
    }
    if !arguments.paths.is_empty() {
        let paths: Vec<String> = arguments
            .paths
            .iter()
            .map(|path| Ok(super::backup::absolute(path)?.to_string_lossy().into_owned()))
            .collect::<Result<_, CliError>>()?;
        options.insert("target".to_owned(), json!({"host": {"paths": paths}}));
    }
    if !arguments.include.is_empty() {
        options.insert("include".to_owned(), json!(arguments.include));
    }
    if !arguments.preserve.is_empty() {
        options.insert("preserve".to_owned(), json!(arguments.preserve));
    }
    options.insert("mode".to_owned(), json!(if arguments.merge { "Merge" } else { "Replace" }));
    options.insert("safetyBackup".to_owned(), json!(!arguments.no_safety_backup));
    if arguments.recreate_containers {
        options.insert("recreateContainers".to_owned(), json!(true));
    }
    if let Some(timeout) = &arguments.timeout {
        options.insert("healthTimeout".to_owned(), json!(timeout));
    }
    let name = arguments.name.clone().unwrap_or_else(|| stamped("restore"));
    carry_out(session, &arguments.namespace, &name, options, &what, arguments.dry_run, yes).await
}

/// How a Restore names this record: by its Backup where that is unambiguous, by its archive else.
async fn source(
    session: &Session,
    record: &BackupRecord,
    namespace: &str,
) -> Result<Value, CliError> {
    let word = format!("{}/{}", record.namespace, record.object);
    let same = find(session, &word).await.is_ok_and(|found| found.id == record.id);
    if same && record.namespace == namespace && spec::is_object_name(&record.object) {
        return Ok(json!({"backupRef": {"name": record.object}}));
    }
    let store = session.operator.store_or_only(namespace, Some(&record.store)).await?;
    Ok(json!({"archive": {"storeRef": {"name": store.name}, "name": record.backup_name}}))
}

async fn carry_out(
    session: &Session,
    namespace: &str,
    name: &str,
    specification: Map<String, Value>,
    what: &str,
    dry_run: bool,
    yes: bool,
) -> Result<(), CliError> {
    let documents = checked(&json!({
        "apiVersion": spec::API_VERSION,
        "kind": "Restore",
        "metadata": {"name": name, "namespace": namespace},
        "spec": specification,
    }))?;
    let mut target = String::new();
    for document in &documents {
        if let Some(job) = session.operator.preview(document, &documents).await? {
            let job = job.map_err(CliError::from)?;
            target = job.target().summary();
            if dry_run {
                session
                    .output
                    .note(&format!("{what} would be restored to {target}; nothing was done:"));
                print_plan(session, &job).await?;
            }
        }
    }
    if dry_run {
        return Ok(());
    }
    session.output.confirm(&format!("Restore {what} to {target}?"), yes)?;
    session.listen_for_interrupts();
    let documents: Vec<(Document, String)> =
        documents.into_iter().map(|document| (document, "cli".to_owned())).collect();
    let done = session.carry_out(documents).await?;
    judge(&done)?;
    let Some(last) = done.last() else { return Ok(()) };
    session.output.done(
        &format!("{what} restored to {target}: {}", last.conclusion.message),
        &json!({
            "name": name, "namespace": namespace, "target": target,
            "message": last.conclusion.message, "succeeded": true,
        }),
    )
}

/// `eider rollback`.
pub async fn rollback(
    global: &GlobalArguments,
    arguments: &RollbackArguments,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open_to_act(global, output).await?;
    let result = roll_back(&session, arguments, global.yes).await;
    session.finish(result).await
}

async fn roll_back(
    session: &Session,
    arguments: &RollbackArguments,
    yes: bool,
) -> Result<(), CliError> {
    let record = match &arguments.backup {
        Some(word) => find(session, word).await?,
        None => newest_before_upgrade(session, &arguments.namespace).await?,
    };
    let mut options = Map::new();
    options.insert("from".to_owned(), source(session, &record, &arguments.namespace).await?);
    let what = format!("backup {} ({})", record.id, record.backup_name);
    let name = stamped("rollback");
    carry_out(session, &arguments.namespace, &name, options, &what, false, yes).await
}

async fn newest_before_upgrade(
    session: &Session,
    namespace: &str,
) -> Result<BackupRecord, CliError> {
    let filter = BackupFilter {
        namespace: Some(namespace.to_owned()),
        status: Some(RecordStatus::Succeeded),
        verified: true,
        ..BackupFilter::default()
    };
    let records = session.operator.catalog().backups(filter).await?;
    records.into_iter().find(|record| record.trigger.as_deref() == Some("pre-upgrade")).ok_or_else(
        || {
            CliError::new(
                ExitCode::NotFound,
                Reason::BackupNotFound,
                "there is no verified pre-upgrade backup",
            )
            .hint("name a backup; `eider backup list` shows what there is")
        },
    )
}
