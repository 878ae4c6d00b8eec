//! `eider run`, `eider validate`: documents from files.

use std::path::PathBuf;
use std::time::Duration;

use super::arguments::{FileArguments, GlobalArguments, RunArguments};
use super::backup::{PlanLine, plan_lines};
use super::output::format::local_minute;
use super::output::{CliError, ExitCode, Output};
use super::session::{Done, Session, judge};
use crate::operator::{Loaded, fingerprint, load, load_beside};
use crate::plan::Failure;
use crate::spec::{Document, Reason};

/// Reads the files; problems are printed, all of them, and end the verb.
fn read(files: &[PathBuf], output: &Output) -> Result<Loaded, CliError> {
    check(load(files).map_err(unreadable)?, output)
}

fn unreadable(failure: Failure) -> CliError {
    let mut error = CliError::from(failure);
    error.exit_code = ExitCode::Usage;
    error
}

fn check(loaded: Loaded, output: &Output) -> Result<Loaded, CliError> {
    if loaded.documents.is_empty() && loaded.problems.is_empty() {
        // A check that has looked at nothing must not look like one that has passed.
        return Err(CliError::new(
            ExitCode::Usage,
            Reason::InvalidSpec,
            "there is no document in there",
        )
        .hint("directories are searched for *.yaml, *.yml and *.json, not their subdirectories"));
    }
    if loaded.problems.is_empty() {
        return Ok(loaded);
    }
    output.problems(&loaded.problems)?;
    let count = loaded.problems.len();
    let plural = if count == 1 { "" } else { "s" };
    Err(CliError::new(
        ExitCode::Usage,
        Reason::InvalidSpec,
        format!("{count} problem{plural} in the documents; nothing was done"),
    ))
}

/// `eider validate`.
pub fn validate(arguments: &FileArguments, output: &Output) -> Result<(), CliError> {
    // Manifests of a service lie beside its backups: what is for others is theirs to judge.
    let (loaded, foreign) = load_beside(&arguments.files).map_err(unreadable)?;
    for (other, file) in &foreign {
        output.note(&format!("{file}: {} {} is not Eider's: not judged", other.what, other.name));
    }
    let loaded = check(loaded, output)?;
    let rows: Vec<Vec<String>> = loaded
        .documents
        .iter()
        .map(|(document, file)| {
            let name = document.name().map(str::to_owned);
            let name = name
                .unwrap_or_else(|| format!("{}…", document.generate_name().unwrap_or_default()));
            vec![
                document.kind().to_string(),
                document.namespace().to_owned(),
                name,
                file.clone(),
                "valid".to_owned(),
            ]
        })
        .collect();
    let items: Vec<serde_json::Value> = loaded
        .documents
        .iter()
        .map(|(document, file)| {
            serde_json::json!({
                "kind": document.kind(), "namespace": document.namespace(),
                "name": document.name(), "file": file, "valid": true,
            })
        })
        .collect();
    output.table(&["KIND", "NAMESPACE", "NAME", "FILE", "RESULT"], &rows, &items)
}

/// `eider run`.
pub async fn run(
    global: &GlobalArguments,
    arguments: &RunArguments,
    output: Output,
) -> Result<(), CliError> {
    let loaded = read(&arguments.files.files, &output)?;
    let session = Session::open_to_act(global, output).await?;
    session.listen_for_interrupts();
    let result = if arguments.dry_run {
        dry_run(&session, loaded).await
    } else {
        carry_out(&session, arguments, loaded).await
    };
    session.finish(result).await
}

async fn carry_out(
    session: &Session,
    arguments: &RunArguments,
    loaded: Loaded,
) -> Result<(), CliError> {
    let schedules = loaded
        .documents
        .iter()
        .any(|(document, _)| matches!(document, Document::BackupSchedule(_)));
    let done = session.carry_out(loaded.documents).await?;
    report(&session.output, &done)?;
    if arguments.watch {
        watch(session, &arguments.files.files).await?;
    } else if schedules && session.daemon.is_none() {
        session.output.note("schedules are kept by `eider daemon`, or run by `eider schedule run`");
    }
    judge(&done)
}

/// How an operation ended, and when, if that was not now.
fn outcome(done: &Done) -> String {
    let word = if done.conclusion.is_success() { "Succeeded" } else { "Failed" };
    match done.at.filter(|_| done.repeated) {
        Some(at) => format!("{word} before, {}", local_minute(at)),
        None if done.repeated => format!("{word} before"),
        None => word.to_owned(),
    }
}

/// One line an operation.
fn report(output: &Output, done: &[Done]) -> Result<(), CliError> {
    if done.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = done
        .iter()
        .map(|done| {
            let operation = &done.operation;
            vec![
                operation.kind.clone(),
                operation.namespace.clone(),
                operation.name.clone(),
                outcome(done),
                done.conclusion.message.clone(),
            ]
        })
        .collect();
    let items: Vec<serde_json::Value> = done
        .iter()
        .map(|done| {
            serde_json::json!({
                "kind": done.operation.kind,
                "namespace": done.operation.namespace,
                "name": done.operation.name,
                "generation": done.operation.generation,
                "succeeded": done.conclusion.is_success(),
                "reason": done.conclusion.failure.as_ref().map_or(Reason::Succeeded, |failure| failure.reason),
                "message": done.conclusion.message,
                "repeated": done.repeated,
                "completedAt": done.at,
            })
        })
        .collect();
    output.table(&["KIND", "NAMESPACE", "NAME", "RESULT", "MESSAGE"], &rows, &items)
}

async fn dry_run(session: &Session, loaded: Loaded) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let mut items = Vec::new();
    let stores: Vec<Document> =
        loaded.documents.iter().map(|(document, _)| document.clone()).collect();
    for (document, _) in &loaded.documents {
        let Some(job) = session.operator.preview(document, &stores).await? else {
            continue;
        };
        match job {
            Ok(job) => {
                let object = document.key().to_string();
                for PlanLine { number, step, text } in plan_lines(session, &job).await? {
                    items.push(serde_json::json!({
                        "object": object, "number": number.parse::<u32>().ok(),
                        "step": step, "does": text,
                    }));
                    rows.push(vec![object.clone(), number, step.to_owned(), text]);
                }
            }
            Err(failure) => {
                let error: CliError = failure.into();
                return Err(error.object(document.key().to_string()));
            }
        }
    }
    session.output.note("nothing was done; this is the plan:");
    session.output.table(&["OBJECT", "NO", "STEP", "DOES"], &rows, &items)
}

/// Goes on with the files: what changes is carried out, until interrupted.
async fn watch(session: &Session, files: &[PathBuf]) -> Result<(), CliError> {
    session.output.note("watching the files; stop with Ctrl-C");
    let mut last = fingerprint(files);
    while !session.interrupted().is_cancelled() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = fingerprint(files);
        if now == last {
            continue;
        }
        last = now;
        match read(files, &session.output) {
            Ok(loaded) => {
                let done = match session.carry_out(changed(session, loaded).await?).await {
                    Ok(done) => done,
                    Err(error) if error.exit_code == ExitCode::Interrupted => break,
                    Err(error) => return Err(error),
                };
                report(&session.output, &done)?;
            }
            Err(error) => session.output.note(&error.message),
        }
    }
    Ok(())
}

/// The documents that say something new. One whose name is generated is new only at the start.
async fn changed(session: &Session, loaded: Loaded) -> Result<Vec<(Document, String)>, CliError> {
    let mut changed = Vec::new();
    for (document, file) in loaded.documents {
        if document.name().is_some() && session.operator.differs(&document).await? {
            changed.push((document, file));
        }
    }
    Ok(changed)
}
