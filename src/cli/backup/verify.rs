//! `eider backup verify`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalog::{BackupFilter, BackupRecord, RecordStatus};
use crate::cli::arguments::BackupVerifyArguments;
use crate::cli::output::{CliError, ExitCode};
use crate::cli::session::Session;
use crate::engine::{self, Cancel, EngineError, LocalStore, MANIFEST_SUFFIX, Progress};
use crate::spec::{Reason, VerifyMode, counted};

pub(super) async fn verify(
    session: &Session,
    arguments: &BackupVerifyArguments,
) -> Result<(), CliError> {
    let mode = if arguments.quick { VerifyMode::Quick } else { VerifyMode::Full };
    session.listen_for_interrupts();
    if let Some(file) = &arguments.file {
        return verify_file(session, file, mode).await;
    }
    let mut records = Vec::new();
    if arguments.all {
        let filter =
            BackupFilter { status: Some(RecordStatus::Succeeded), ..BackupFilter::default() };
        let found = session.operator.catalog().backups(filter).await?;
        records.extend(found.into_iter().filter(|record| record.deleted_at.is_none()));
    }
    for word in &arguments.backups {
        records.push(super::find(session, word).await?);
    }
    // In full: a table has no room for the names of what is damaged.
    let mut failures: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    let mut items: Vec<Value> = Vec::new();
    // Oldest first: what builds on an archive that was read just now is read alone.
    records.sort_by_key(|record| record.created_at);
    let mut proved: HashSet<PathBuf> = HashSet::new();
    for record in records {
        let path = PathBuf::from(&record.backup_path);
        let alone = record
            .parent
            .as_ref()
            .is_some_and(|parent| proved.contains(&path.with_file_name(parent)));
        let result = verify_one(session, &record, (mode, alone)).await;
        session.finish_progress();
        if result.is_ok() {
            proved.insert(path);
        }
        let (word, message) = match &result {
            Ok(()) if mode == VerifyMode::Full => {
                ("verified", "every byte was read back".to_owned())
            }
            Ok(()) => ("plausible", "manifest and size agree".to_owned()),
            Err(error) if error.reason == Reason::Cancelled => return Err(CliError::interrupted()),
            Err(error) => {
                failures.push(error.message.clone());
                ("FAILED", error.message.clone())
            }
        };
        let reason = result.err().map_or(Reason::Verified, |error| error.reason);
        rows.push(vec![
            record.id.to_string(),
            record.backup_name.clone(),
            word.to_owned(),
            // The archive's name stands in the row already, and the room is for the reason.
            message
                .trim_start_matches(&record.backup_name)
                .trim_start_matches([':', ' '])
                .to_owned(),
        ]);
        items.push(json!({
            "id": record.id, "name": record.backup_name, "result": word.to_lowercase(),
            "reason": reason, "message": message,
        }));
    }
    session.output.table(&["ID", "ARCHIVE", "RESULT", "MESSAGE"], &rows, &items)?;
    if !failures.is_empty() {
        let failed = counted(failures.len(), "backup");
        return Err(CliError::new(
            ExitCode::Failed,
            Reason::ArchiveDamaged,
            format!("{failed} failed verification: {}", failures.join("; ")),
        )
        .hint("take a new backup now; a damaged archive cannot be restored"));
    }
    Ok(())
}

async fn verify_one(
    session: &Session,
    record: &BackupRecord,
    (mode, alone): (VerifyMode, bool),
) -> Result<(), CliError> {
    let (progress, cancel) = (session.progress(), session.interrupted().clone());
    let work = record.clone();
    let result = tokio::task::spawn_blocking(move || {
        check(&work, (mode, alone), progress.as_ref(), &cancel)
    })
    .await
    .map_err(|error| CliError::internal(error.to_string()))?;
    if mode == VerifyMode::Quick {
        return result;
    }
    // The record follows what was found: a backup that is damaged now is no verified backup.
    let at = Timestamp::now();
    let verified_at = match &result {
        Ok(()) => Some(at),
        Err(error) if error.reason == Reason::Cancelled => return result,
        Err(_) => None,
    };
    let mut record = record.clone();
    record.verified_at = verified_at;
    if verified_at.is_some() {
        session.operator.metrics().backup_verified(&record.namespace, &record.target, at);
    }
    session.operator.catalog().update_backup(record).await?;
    result
}

fn check(
    record: &BackupRecord,
    (mode, alone): (VerifyMode, bool),
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), CliError> {
    let missing = |what: &str| {
        CliError::new(
            ExitCode::NotFound,
            Reason::ArchiveMissing,
            format!("backup {} {what}", record.id),
        )
    };
    if record.backup_path.is_empty() {
        return Err(missing("has no archive"));
    }
    let path = Path::new(&record.backup_path);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(missing("has no place"));
    };
    let store = LocalStore::open(directory, &record.store, false)?;
    let name = name.to_string_lossy();
    progress.phase("verifying");
    let verify = if alone { engine::verify_newest } else { engine::verify };
    let manifest = match verify(&store, &name, mode, progress, cancel) {
        Ok(manifest) => manifest,
        Err(error) => {
            let error = CliError::from(error);
            // No incremental may continue it any more.
            if error.reason == Reason::ArchiveDamaged
                && let Err(also) = store.mark_unverified(&name)
            {
                tracing::warn!(archive = %name, "its manifest cannot be told that it is damaged: {also}");
            }
            return Err(error);
        }
    };
    // The manifest agrees with the archive; both could have been replaced together.
    if record.backup_hash.as_ref().is_some_and(|hash| *hash != manifest.sha256) {
        return Err(CliError::new(
            ExitCode::Failed,
            Reason::ArchiveDamaged,
            format!("the archive of backup {} is not the one that was recorded", record.id),
        )
        .hint("archive and manifest have been replaced; take a new backup"));
    }
    if mode == VerifyMode::Full {
        // The archive is whole whether or not its manifest can be told so: a full disk is no damage.
        if let Err(error) = store.mark_verified(&name, Timestamp::now()) {
            tracing::warn!(archive = %name, "the manifest keeps its old time of verification: {error}");
        }
    }
    Ok(())
}

/// An archive anywhere: with a manifest it is held against it, without one it is read as any tar.
async fn verify_file(session: &Session, file: &Path, mode: VerifyMode) -> Result<(), CliError> {
    let (file, progress, cancel) =
        (file.to_owned(), session.progress(), session.interrupted().clone());
    let shown = file.display().to_string();
    let work = tokio::task::spawn_blocking(move || -> Result<(bool, u64), EngineError> {
        let manifest = file.with_file_name(format!(
            "{}{MANIFEST_SUFFIX}",
            file.file_name().unwrap_or_default().to_string_lossy()
        ));
        if manifest.is_file() {
            let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            let store = LocalStore::open(directory.unwrap_or(Path::new(".")), "file", false)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let manifest = engine::verify(&store, &name, mode, progress.as_ref(), &cancel)?;
            return Ok((true, manifest.counts.entries));
        }
        let format = engine::detect_format(&file)?;
        Ok((false, engine::read_through(&file, format, &cancel)?))
    });
    let result = work.await.map_err(|error| CliError::internal(error.to_string()))?;
    session.finish_progress();
    let (manifest, entries) = result?;
    let message = if manifest {
        format!("{shown}: {entries} entries, as its manifest says")
    } else {
        format!("{shown}: {entries} entries can be read; there is no manifest to compare with")
    };
    session.output.done(&message, &json!({"file": shown, "entries": entries, "manifest": manifest}))
}
