//! `eider backup import`: an archive from elsewhere into a store.

use serde_json::json;

use crate::catalog::UserAction;
use crate::cli::arguments::BackupImportArguments;
use crate::cli::output::{CliError, ExitCode};
use crate::cli::session::Session;
use crate::operator::Imported;
use crate::spec::Reason;

pub(super) async fn import(
    session: &Session,
    arguments: &BackupImportArguments,
) -> Result<(), CliError> {
    let file = super::create::absolute(&arguments.file)?;
    if !file.is_file() {
        return Err(CliError::new(
            ExitCode::NotFound,
            Reason::ArchiveMissing,
            format!("{} is not a file", file.display()),
        ));
    }
    session.listen_for_interrupts();
    let (name, documents) =
        super::store_reference(session, &arguments.namespace, arguments.store.as_deref()).await?;
    for document in documents {
        session.operator.apply(document, "cli").await?;
    }
    let store = session.operator.store_or_only(&arguments.namespace, Some(&name)).await?;
    let started_at = jiff::Timestamp::now();
    let imported = session
        .operator
        .import(
            &file,
            &arguments.namespace,
            &store,
            arguments.service_version.as_deref(),
            session.progress(),
            session.interrupted().clone(),
        )
        .await;
    session.finish_progress();
    let Imported { record, foreign, ancestors } = imported?;
    session
        .operator
        .audit(&UserAction {
            action_type: "IMPORT".to_owned(),
            action_description: format!("{} imported as backup {}", file.display(), record.id),
            action_params: json!({"file": file, "store": store.name}),
            status: "SUCCESS".to_owned(),
            started_at,
            completed_at: Some(jiff::Timestamp::now()),
            ..UserAction::default()
        })
        .await?;
    if !ancestors.is_empty() {
        session.output.note(&format!("with it came what it builds on: {}", ancestors.join(", ")));
    }
    if foreign {
        session.output.note(
            "the archive had no manifest: its content was read completely, but nothing says what it should be",
        );
        if record.target_spec.is_none() {
            session.output.note(
                "a restore of it has to say where to (`--path`, or `spec.target`): the archive does not",
            );
        }
    }
    session.output.object(&record, &super::backup_fields(&record))
}
