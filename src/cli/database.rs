//! `eider db …`.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::{DbCommand, GlobalArguments};
use super::output::{CliError, ExitCode, Output, OutputFormat};
use super::session::Session;
use crate::catalog::{ArchiveOnDisk, BackupFilter, QueryResult, Severity, UserAction};
use crate::spec::{Reason, counted};

/// A statement answers with at most this many rows.
const ROW_LIMIT: u32 = 100_000;

/// Carries one of them out.
pub async fn database(
    global: &GlobalArguments,
    command: &DbCommand,
    output: Output,
) -> Result<(), CliError> {
    let mut output = output;
    if let DbCommand::Query { json: true, .. } = command {
        output.format = OutputFormat::Json;
    }
    let session = match command {
        DbCommand::Rebuild { .. } | DbCommand::Restore { .. } => {
            Session::open_anyway(global, output).await?
        }
        _ => Session::open(global, output).await?,
    };
    let result = match command {
        DbCommand::Check => check(&session).await,
        DbCommand::Rebuild { store } => rebuild(&session, store).await,
        DbCommand::Query { sql, csv, .. } => query(&session, sql, *csv).await,
        DbCommand::Export { directory } => export(&session, directory).await,
        DbCommand::Backup { file } => {
            let file = super::backup::absolute(file)?;
            session.operator.catalog().back_up_to(&file).await?;
            session
                .output
                .done(&format!("catalog copied to {}", file.display()), &json!({"file": file}))
        }
        DbCommand::Restore { file } => restore(&session, file, global.yes).await,
    };
    session.finish(result).await
}

async fn check(session: &Session) -> Result<(), CliError> {
    let records = session.operator.catalog().backups(BackupFilter::default()).await?;
    let archives = records
        .iter()
        .filter(|record| record.deleted_at.is_none() && !record.backup_path.is_empty())
        .filter(|_| !session.cluster)
        .map(|record| ArchiveOnDisk {
            path: record.backup_path.clone(),
            size: std::fs::metadata(&record.backup_path)
                .ok()
                .and_then(|metadata| i64::try_from(metadata.len()).ok()),
        })
        .collect();
    let findings = session.operator.catalog().check(archives).await?;
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            vec![
                format!("{:?}", finding.severity),
                finding.table.clone(),
                finding.object.clone(),
                finding.message.clone(),
            ]
        })
        .collect();
    if findings.is_empty() {
        return session.output.done("the catalog is in order", &json!({"findings": []}));
    }
    session.output.table(&["SEVERITY", "TABLE", "OBJECT", "MESSAGE"], &rows, &findings)?;
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors > 0 {
        let plural = if errors == 1 { "" } else { "s" };
        return Err(CliError::new(
            ExitCode::Failed,
            Reason::CatalogFailed,
            format!("{errors} error{plural} in the catalog"),
        )
        .hint("`eider db rebuild` makes the records again from the archives' manifests"));
    }
    Ok(())
}

async fn rebuild(session: &Session, stores: &[PathBuf]) -> Result<(), CliError> {
    let directories: Vec<PathBuf> = stores
        .iter()
        .map(|path| {
            let path = super::backup::absolute(path)?;
            if path.is_dir() {
                return Ok(path);
            }
            Err(CliError::new(
                ExitCode::NotFound,
                Reason::StoreNotFound,
                format!("{} is not a directory", path.display()),
            ))
        })
        .collect::<Result<_, _>>()?;
    if directories.is_empty() && session.operator.stores().await?.is_empty() {
        return Err(CliError::new(
            ExitCode::Usage,
            Reason::StoreNotFound,
            "no store is known to make the records from",
        )
        .hint("name the directories of archives with --store DIR"));
    }
    let started_at = Timestamp::now();
    let report = session.operator.rebuild(directories).await?;
    let mut message = format!(
        "{} added, {} written again, {} left as they were",
        counted(report.added, "record"),
        report.rewritten,
        report.kept
    );
    let skipped = report.skipped.len();
    if skipped > 0 {
        message.push_str(&format!(", {skipped} skipped"));
    }
    session
        .operator
        .audit(&UserAction {
            action_type: "DB_REBUILD".to_owned(),
            action_description: "records made again from manifests".to_owned(),
            action_params: Value::Null,
            status: if skipped == 0 { "SUCCESS" } else { "FAILED" }.to_owned(),
            result_message: Some(message.clone()),
            started_at,
            completed_at: Some(Timestamp::now()),
            ..UserAction::default()
        })
        .await?;
    session.output.done(&message, &report)?;
    if skipped == 0 {
        return Ok(());
    }
    for manifest in &report.skipped {
        session.output.note(&format!("skipped {}: {}", manifest.archive, manifest.message));
    }
    let plural = if skipped == 1 { "" } else { "s" };
    Err(CliError::new(
        ExitCode::Failed,
        Reason::ArchiveDamaged,
        format!("{skipped} archive{plural} could not be recorded: the manifest cannot be used"),
    )
    .hint("`eider backup import FILE` makes a new manifest from an archive that is whole"))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn query(session: &Session, sql: &str, csv: bool) -> Result<(), CliError> {
    let result: QueryResult =
        session.operator.catalog().query(sql, ROW_LIMIT).await.map_err(|failure| {
            let error = CliError::from(failure);
            let failed =
                error.reason == Reason::CatalogFailed && error.exit_code == ExitCode::Failed;
            if failed || error.reason == Reason::InvalidSpec {
                let hint = "`SHOW TABLES` and `DESCRIBE backup_records` tell what can be asked; \
                            Eider's own verbs change it";
                return CliError {
                    exit_code: ExitCode::Usage,
                    reason: Reason::InvalidSpec,
                    ..error
                }
                .hint(hint);
            }
            error
        })?;
    if result.truncated {
        session.output.note(&format!("only the first {ROW_LIMIT} rows; add a LIMIT"));
    }
    let plan = ["explain_key", "explain_value"];
    if !csv && session.output.format == OutputFormat::Table && result.columns == plan {
        // A plan is a drawing of many lines: it is shown as it is.
        let mut text = String::new();
        for drawing in result.rows.iter().filter_map(|row| row.get(1)) {
            text.push_str(cell(drawing).trim_end());
            text.push('\n');
        }
        return session.output.raw(&text);
    }
    if csv {
        let mut text = String::new();
        let mut line = |cells: Vec<String>| {
            let cells: Vec<String> = cells
                .into_iter()
                .map(|cell| {
                    if cell.contains([',', '"', '\n', '\r']) {
                        format!("\"{}\"", cell.replace('"', "\"\""))
                    } else {
                        cell
                    }
                })
                .collect();
            text.push_str(&cells.join(","));
            text.push_str("\r\n");
        };
        line(result.columns.clone());
        for row in &result.rows {
            line(row.iter().map(cell).collect());
        }
        return session.output.raw(&text);
    }
    let items: Vec<Value> = result
        .rows
        .iter()
        .map(|row| Value::Object(result.columns.iter().cloned().zip(row.iter().cloned()).collect()))
        .collect();
    let headers: Vec<&str> = result.columns.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> =
        result.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    session.output.table(&headers, &rows, &items)
}

async fn export(session: &Session, directory: &std::path::Path) -> Result<(), CliError> {
    let directory = super::backup::absolute(directory)?;
    let files = session.operator.catalog().export(&directory).await?;
    session.output.done(
        &format!("{} tables written to {}", files.len(), directory.display()),
        &json!({"directory": directory, "files": files}),
    )
}

async fn restore(session: &Session, file: &std::path::Path, yes: bool) -> Result<(), CliError> {
    let file = super::backup::absolute(file)?;
    session.output.confirm(
        &format!("Replace the catalog by {}? The present one is kept beside it.", file.display()),
        yes,
    )?;
    let kept = session.operator.catalog().restore_from(&file, Timestamp::now()).await?;
    let kept: Vec<String> = kept.iter().map(|path| path.display().to_string()).collect();
    session.output.done(
        &format!(
            "the catalog is now that of {}; the one before is {}",
            file.display(),
            kept.join(", ")
        ),
        &json!({"file": file, "kept": kept}),
    )
}
