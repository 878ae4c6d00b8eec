//! `eider store …`.

use serde_json::{Value, json};

use super::arguments::{GlobalArguments, StoreCommand};
use super::output::format::size;
use super::output::{CliError, ExitCode, Output};
use super::session::Session;
use crate::catalog::UserAction;
use crate::operator::stores::which_there_are;
use crate::spec::{Reason, counted};

/// Carries one of them out.
pub async fn store(
    global: &GlobalArguments,
    command: &StoreCommand,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result = match command {
        StoreCommand::List => list(&session).await,
        StoreCommand::Check { name, full, clean } => {
            check(&session, name.as_deref(), *full, *clean).await
        }
        StoreCommand::Migrate { old, new, namespace } => {
            migrate(&session, namespace, old, new, global.yes).await
        }
    };
    session.finish(result).await
}

async fn list(session: &Session) -> Result<(), CliError> {
    // The operator of a cluster keeps their statuses itself.
    if !session.cluster {
        session.operator.refresh_stores().await?;
    }
    let resources = session.operator.catalog().resources(Some("BackupStore".to_owned())).await?;
    let mut rows = Vec::new();
    let mut items: Vec<Value> = Vec::new();
    for resource in resources.iter().filter(|resource| resource.removed_at.is_none()) {
        let status = &resource.status;
        let number = |name: &str| status[name].as_i64().unwrap_or(0);
        let ready = status["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        });
        let spec = &resource.document["spec"];
        let location = match (&spec["local"]["path"], &spec["volumeClaim"]["name"]) {
            (Value::String(path), _) => path.clone(),
            (_, Value::String(claim)) => {
                let path = spec["volumeClaim"]["path"].as_str().unwrap_or_default();
                format!("{claim}/{path}").trim_end_matches('/').to_owned()
            }
            _ => "-".to_owned(),
        };
        rows.push(vec![
            resource.namespace.clone(),
            resource.name.clone(),
            if ready { "yes" } else { "NO" }.to_owned(),
            number("backups").to_string(),
            size(number("bytes")),
            size(number("freeBytes")),
            location.clone(),
        ]);
        items.push(json!({
            "namespace": resource.namespace, "name": resource.name, "ready": ready,
            "backups": number("backups"), "bytes": number("bytes"), "freeBytes": number("freeBytes"),
            "location": location, "message": status["message"],
        }));
    }
    session.output.table(
        &["NAMESPACE", "NAME", "READY", "BACKUPS", "SIZE", "FREE", "LOCATION"],
        &rows,
        &items,
    )
}

async fn check(
    session: &Session,
    name: Option<&str>,
    full: bool,
    clean: bool,
) -> Result<(), CliError> {
    session.listen_for_interrupts();
    let stores: Vec<_> = session
        .operator
        .stores()
        .await?
        .into_iter()
        .filter(|(_, store)| name.is_none_or(|name| store.name == name))
        .collect();
    if stores.is_empty() {
        let which = name.map_or_else(
            || "no store is known".to_owned(),
            |name| format!("there is no store `{name}`"),
        );
        let known = session.operator.stores().await?;
        let hint = name.and_then(|name| which_there_are(name, None, &known));
        let hint = hint.unwrap_or_else(|| {
            "make a document of kind BackupStore known with `eider run -f FILE`".to_owned()
        });
        return Err(CliError::new(ExitCode::NotFound, Reason::StoreNotFound, which).hint(hint));
    }
    let mut problems = 0;
    let mut rows = Vec::new();
    let mut items: Vec<Value> = Vec::new();
    for (namespace, store) in stores {
        if clean {
            for name in session.operator.clean_store(&store).await? {
                session.output.note(&format!("{name}: an unfinished upload, removed"));
            }
        }
        let report = session
            .operator
            .check_store(
                &namespace,
                &store,
                full,
                session.progress(),
                session.interrupted().clone(),
            )
            .await;
        session.finish_progress();
        let report = report?;
        problems += report.problems.len();
        if report.problems.is_empty() {
            rows.push(vec![
                report.name.clone(),
                "-".to_owned(),
                "ok".to_owned(),
                format!(
                    "{}, {}",
                    counted(report.backups, "backup"),
                    size(i64::try_from(report.bytes).unwrap_or(i64::MAX))
                ),
            ]);
        }
        for problem in &report.problems {
            rows.push(vec![
                report.name.clone(),
                problem.object.clone(),
                problem.reason.to_string(),
                problem.message.clone(),
            ]);
        }
        items.push(json!(report));
    }
    session.output.table(&["STORE", "OBJECT", "RESULT", "MESSAGE"], &rows, &items)?;
    if problems > 0 {
        let plural = if problems == 1 { "" } else { "s" };
        return Err(CliError::new(
            ExitCode::Failed,
            Reason::ArchiveDamaged,
            format!("{problems} problem{plural} found"),
        ));
    }
    Ok(())
}

async fn migrate(
    session: &Session,
    namespace: &str,
    old: &str,
    new: &str,
    yes: bool,
) -> Result<(), CliError> {
    session.listen_for_interrupts();
    let from = session.operator.store_or_only(namespace, Some(old)).await?;
    let to = session.operator.store_or_only(namespace, Some(new)).await?;
    session.output.confirm(&format!("Move every archive of store {old} to store {new}?"), yes)?;
    let started_at = jiff::Timestamp::now();
    let report = session
        .operator
        .migrate_store(&from, &to, session.progress(), session.interrupted().clone())
        .await;
    session.finish_progress();
    let report = report?;
    let failed = report.failed.len();
    session
        .operator
        .audit(&UserAction {
            action_type: "STORE_MIGRATE".to_owned(),
            action_description: format!(
                "store {old} to {new}: {} moved, {failed} not",
                counted(report.moved.len(), "archive")
            ),
            action_params: json!({"old": old, "new": new, "namespace": namespace}),
            status: if failed == 0 { "SUCCESS" } else { "FAILED" }.to_owned(),
            started_at,
            completed_at: Some(jiff::Timestamp::now()),
            ..UserAction::default()
        })
        .await?;
    session.operator.refresh_stores().await?;
    for problem in &report.failed {
        session.output.note(&format!("{} stays in {old}: {}", problem.object, problem.message));
    }
    session
        .output
        .done(&format!("{} moved to {new}", counted(report.moved.len(), "archive")), &report)?;
    if failed > 0 {
        return Err(CliError::new(
            ExitCode::Failed,
            report.failed[0].reason,
            format!("{} could not be moved", counted(failed, "archive")),
        )
        .hint("run the same command again when the cause is gone; what was moved stays moved"));
    }
    Ok(())
}
