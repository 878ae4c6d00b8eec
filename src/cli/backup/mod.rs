//! `eider backup …`.

mod content;
mod create;
mod import;
mod list;
mod verify;

use super::arguments::{BackupCommand, BackupDeleteArguments, BackupReference, GlobalArguments};
use super::output::{CliError, ExitCode, Output};
use super::session::Session;
use crate::catalog::{BackupKey, BackupRecord, UserAction};
use crate::spec::Reason;

pub(super) use create::{
    PlanLine, absolute, checked, plan_lines, print_plan, stamped, store_reference,
};
pub(super) use list::backup_fields;

/// Carries one of them out.
pub async fn backup(
    global: &GlobalArguments,
    command: &BackupCommand,
    output: Output,
) -> Result<(), CliError> {
    let acts = match command {
        BackupCommand::Create(arguments) => !arguments.dry_run,
        BackupCommand::Delete(_) | BackupCommand::Import(_) => true,
        _ => false,
    };
    let session = if acts {
        Session::open_to_act(global, output).await?
    } else {
        Session::open(global, output).await?
    };
    let result = match command {
        BackupCommand::Create(arguments) => create::create(&session, arguments).await,
        BackupCommand::List(arguments) => list::list(&session, arguments).await,
        BackupCommand::Show(reference) => list::show(&session, reference).await,
        BackupCommand::Files(arguments) => content::files(&session, arguments).await,
        BackupCommand::Extract(arguments) => content::extract(&session, arguments).await,
        BackupCommand::Verify(arguments) => verify::verify(&session, arguments).await,
        BackupCommand::Delete(arguments) => delete(&session, arguments, global.yes).await,
        BackupCommand::Import(arguments) => import::import(&session, arguments).await,
    };
    session.finish(result).await
}

/// The record that somebody means by an id, the name of a Backup or the name of an archive.
pub(super) async fn find(session: &Session, word: &str) -> Result<BackupRecord, CliError> {
    let catalog = session.operator.catalog();
    if let Ok(id) = word.parse()
        && let Some(record) = catalog.backup(BackupKey::Id(id)).await?
    {
        return Ok(record);
    }
    if let Some(record) = catalog.backup(BackupKey::Name(word.to_owned())).await? {
        return Ok(record);
    }
    let (namespace, name) = word.split_once('/').unwrap_or(("default", word));
    let key = BackupKey::Object { namespace: namespace.to_owned(), name: name.to_owned() };
    if let Some(record) = catalog.backup(key).await? {
        return Ok(record);
    }
    Err(not_found(word))
}

fn not_found(word: &str) -> CliError {
    CliError::new(
        ExitCode::NotFound,
        Reason::BackupNotFound,
        format!("there is no backup `{word}`"),
    )
    .object(format!("backup {word}"))
    .hint("`eider backup list` shows what there is; a Backup outside the namespace `default` is named NAMESPACE/NAME")
}

pub(super) async fn resolve(
    session: &Session,
    reference: &BackupReference,
) -> Result<BackupRecord, CliError> {
    if let Some(id) = reference.id {
        let found = session.operator.catalog().backup(BackupKey::Id(id)).await?;
        return found.ok_or_else(|| not_found(&id.to_string()));
    }
    find(session, reference.backup.as_deref().unwrap_or_default()).await
}

async fn delete(
    session: &Session,
    arguments: &BackupDeleteArguments,
    yes: bool,
) -> Result<(), CliError> {
    let record = resolve(session, &arguments.backup).await?;
    if record.deleted_at.is_some() {
        session.output.note(&format!("backup {} had been deleted before", record.id));
        return Ok(());
    }
    session.operator.check_not_needed(&record).await?;
    if let Some(why) = session.operator.protection(&record).await?
        && !arguments.force
    {
        return Err(CliError::new(
            ExitCode::Refused,
            Reason::BackupNotReady,
            format!("backup {} is not deleted: {why}", record.id),
        )
        .object(record.backup_name.clone())
        .hint("take and verify another one first, or say --force"));
    }
    session.output.confirm(
        &format!("Delete backup {} ({}) and its archive?", record.id, record.backup_name),
        yes,
    )?;
    let started_at = jiff::Timestamp::now();
    session.operator.delete_backup(&record).await?;
    session
        .operator
        .audit(&UserAction {
            action_type: "DELETE".to_owned(),
            action_description: format!("backup {} deleted", record.id),
            action_params: serde_json::json!({"id": record.id, "name": record.backup_name, "force": arguments.force}),
            status: "SUCCESS".to_owned(),
            started_at,
            completed_at: Some(jiff::Timestamp::now()),
            ..UserAction::default()
        })
        .await?;
    session.output.done(
        &format!("backup {} deleted", record.id),
        &serde_json::json!({"id": record.id, "name": record.backup_name, "deleted": true}),
    )
}
