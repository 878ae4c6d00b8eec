//! `eider backup files` and `extract`: what is in an archive, without restoring it.

use std::io::Write;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde_json::{Value, json};

use crate::catalog::BackupRecord;
use crate::cli::arguments::{BackupExtractArguments, BackupFilesArguments};
use crate::cli::output::format::{local_time, size};
use crate::cli::output::stream::{Column, Line};
use crate::cli::output::{CliError, ExitCode};
use crate::cli::session::Session;
use crate::engine::{self, Ancestors, Cancel, Difference, EntryInfo, EntryKind, Salvaged};
use crate::spec::{ArchiveFormat, Reason, VerifyMode, counted};

/// The archive's file, if it is there.
fn archive(record: &BackupRecord) -> Result<(PathBuf, ArchiveFormat), CliError> {
    let path = PathBuf::from(&record.backup_path);
    if !path.is_file() {
        let message = if record.backup_path.is_empty() {
            format!("backup {} has no archive: it came to no end, or failed", record.id)
        } else {
            format!("the archive of backup {} is not there: {}", record.id, path.display())
        };
        return Err(CliError::new(ExitCode::NotFound, Reason::ArchiveMissing, message)
            .object(record.backup_name.clone())
            .hint("`eider store check` compares a store with its records"));
    }
    let format = engine::detect_format(&path)?;
    Ok((path, format))
}

fn patterns(include: &[String]) -> Result<Option<Gitignore>, CliError> {
    if include.is_empty() {
        return Ok(None);
    }
    let invalid = |error: ignore::Error| {
        CliError::new(ExitCode::Usage, Reason::InvalidSpec, error.to_string())
            .hint("patterns follow the rules of .gitignore")
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in include {
        builder.add_line(None, pattern).map_err(invalid)?;
    }
    Ok(Some(builder.build().map_err(invalid)?))
}

pub(super) async fn files(
    session: &Session,
    arguments: &BackupFilesArguments,
) -> Result<(), CliError> {
    let record = super::resolve(session, &arguments.backup).await?;
    let (path, format) = archive(&record)?;
    let patterns = patterns(&arguments.include)?;
    if let Some(earlier) = &arguments.diff {
        let earlier = archive(&super::find(session, earlier).await?)?;
        return differences(session, earlier, (path, format), patterns).await;
    }
    let output = session.output.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut lines = output.lines(&ENTRIES);
        engine::list_entries(&path, format, &mut |entry| {
            let directory = entry.kind == EntryKind::Directory;
            if is_wanted(patterns.as_ref(), &entry.display_name(), directory) {
                lines.add(entry);
            }
            Ok(())
        })?;
        lines.finish()
    });
    work.await.map_err(|error| CliError::internal(error.to_string()))?
}

fn is_wanted(patterns: Option<&Gitignore>, name: &str, directory: bool) -> bool {
    patterns.is_none_or(|patterns| {
        patterns.matched_path_or_any_parents(Path::new(name), directory).is_ignore()
    })
}

const ENTRIES: [Column; 5] =
    [("MODE", 10), ("OWNER", 11), ("SIZE", 9), ("MODIFIED", 19), ("NAME", 0)];

impl Line for EntryInfo {
    fn cells(&self) -> Vec<String> {
        let mut name = self.display_name();
        if let Some(target) = &self.link_target {
            name.push_str(" -> ");
            name.push_str(&String::from_utf8_lossy(target));
        }
        vec![
            format!("{}{}", letter(self.kind), rights(self.mode)),
            format!("{}:{}", self.uid, self.gid),
            size(i64::try_from(self.size).unwrap_or(i64::MAX)),
            jiff::Timestamp::from_second(self.modified.seconds)
                .map_or_else(|_| "-".to_owned(), local_time),
            name,
        ]
    }

    fn item(&self) -> Value {
        let target = self.link_target.as_ref();
        json!({
            "name": self.display_name(), "kind": self.kind.as_str(), "sizeBytes": self.size,
            "mode": format!("{:04o}", self.mode), "uid": self.uid, "gid": self.gid,
            "modifiedSeconds": self.modified.seconds,
            "linkTarget": target.map(|target| String::from_utf8_lossy(target).into_owned()),
        })
    }
}

/// What changed between two backups.
async fn differences(
    session: &Session,
    earlier: (PathBuf, ArchiveFormat),
    later: (PathBuf, ArchiveFormat),
    patterns: Option<Gitignore>,
) -> Result<(), CliError> {
    let output = session.output.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut lines = output.lines(&CHANGES);
        let (earlier, later) = ((earlier.0.as_path(), earlier.1), (later.0.as_path(), later.1));
        engine::differences(earlier, later, &mut |difference| {
            if is_wanted(patterns.as_ref(), &difference.display_name(), false) {
                lines.add(&difference);
            }
            Ok(())
        })?;
        lines.finish()
    });
    work.await.map_err(|error| CliError::internal(error.to_string()))?
}

const CHANGES: [Column; 2] = [("CHANGE", 10), ("NAME", 0)];

impl Line for Difference {
    fn cells(&self) -> Vec<String> {
        vec![self.change.as_str().to_owned(), self.display_name()]
    }

    fn item(&self) -> Value {
        json!({"name": self.display_name(), "change": self.change.as_str()})
    }
}

fn letter(kind: EntryKind) -> char {
    match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::HardLink => 'h',
        EntryKind::Fifo => 'p',
        EntryKind::CharacterDevice => 'c',
        EntryKind::BlockDevice => 'b',
    }
}

/// `rwxr-xr-x`, with setuid, setgid and sticky as `ls` shows them.
fn rights(mode: u32) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (index, (bit, with, without)) in special.into_iter().enumerate() {
        let shift = 6 - 3 * u32::try_from(index).unwrap_or(0);
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub(super) async fn extract(
    session: &Session,
    arguments: &BackupExtractArguments,
) -> Result<(), CliError> {
    let record = super::resolve(session, &arguments.backup).await?;
    let (path, format) = archive(&record)?;
    let failed = |error: tokio::task::JoinError| CliError::internal(error.to_string());
    if !arguments.salvage {
        let (path, cancel) = (path.clone(), session.interrupted().clone());
        let work = tokio::task::spawn_blocking(move || is_what_was_written(&path, &cancel));
        work.await.map_err(failed)??;
    }
    if let Some(name) = arguments.stdout.clone() {
        let work = tokio::task::spawn_blocking(move || {
            let mut output = std::io::BufWriter::new(std::io::stdout().lock());
            let bytes = engine::extract_one(&path, format, &name, &mut output)?;
            output.flush().map_err(|source| engine::EngineError::WriteArchive { source })?;
            Ok::<u64, engine::EngineError>(bytes)
        });
        work.await.map_err(failed)??;
        return Ok(());
    }
    let directory = arguments.to.clone().unwrap_or_default();
    let occupied = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(CliError::new(
            ExitCode::Refused,
            Reason::TargetBusy,
            format!("{} is not empty", directory.display()),
        )
        .hint("name an empty or a new directory; nothing is overwritten by extract"));
    }
    std::fs::create_dir_all(&directory).map_err(|error| {
        CliError::new(
            ExitCode::Failed,
            Reason::ExtractFailed,
            format!("{}: {error}", directory.display()),
        )
    })?;
    session.listen_for_interrupts();
    let (include, progress, cancel) =
        (arguments.include.clone(), session.progress(), session.interrupted().clone());
    let to = directory.clone();
    if arguments.salvage {
        let work = tokio::task::spawn_blocking(move || {
            engine::salvage(&path, format, &include, &to, progress.as_ref(), &cancel)
        });
        let salvaged = work.await.map_err(failed)?;
        session.finish_progress();
        return report_salvaged(session, &salvaged?, &directory);
    }
    let work = tokio::task::spawn_blocking(move || {
        progress.phase("extracting");
        engine::extract_tree(&path, format, &include, &to, progress.as_ref(), &cancel)
    });
    let summary = work.await.map_err(failed)?;
    session.finish_progress();
    let summary = summary?;
    tell_warnings(session, &summary);
    session.output.done(
        &format!(
            "{}, {} in {}",
            counted(summary.files, "file"),
            counted(summary.bytes, "byte"),
            directory.display()
        ),
        &json!({"files": summary.files, "bytes": summary.bytes, "directory": directory}),
    )
}

fn tell_warnings(session: &Session, summary: &engine::UnpackSummary) {
    for warning in summary.warnings.iter().take(10) {
        session.output.note(&format!("{}: {}", warning.path, warning.message));
    }
    if summary.warning_count > 10 {
        session.output.note(&format!("{} warnings in all", summary.warning_count));
    }
}

/// Fails if an archive is not the one that its manifest tells of, as far as size and index say. Without a manifest
/// nothing tells what it should be.
fn is_what_was_written(path: &Path, cancel: &Cancel) -> Result<(), engine::EngineError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let name = name.to_string_lossy();
    let store = engine::LocalStore::open(directory, "extract", false)?;
    if store.has_manifest(&name) {
        engine::verify(&store, &name, VerifyMode::Quick, &engine::Silent, cancel)?;
    }
    Ok(())
}

/// What was saved and what was not. That something is lost is a failure, as for whoever scripts it.
fn report_salvaged(
    session: &Session,
    salvaged: &Salvaged,
    directory: &Path,
) -> Result<(), CliError> {
    let (files, summary) = (salvaged.summary.files, &salvaged.summary);
    tell_warnings(session, summary);
    let (left_out, ancestors) = match &salvaged.ancestors {
        Ancestors::None => (Value::Null, String::new()),
        Ancestors::LeftOut(parent) => (
            json!(parent),
            format!("; it builds on {parent}, and nothing of what lies there is among what was saved"),
        ),
        Ancestors::Unknown => (
            json!("unknown"),
            "; without index and manifest nothing tells whether it builds on another archive, of which nothing is \
             among what was saved"
                .to_owned(),
        ),
    };
    let saved = format!("{} in {}", counted(files, "file"), directory.display());
    let value = json!({
        "files": files, "bytes": salvaged.summary.bytes, "directory": directory,
        "lost": salvaged.lost, "lostCount": salvaged.lost_count, "indexed": salvaged.indexed,
        "gaps": salvaged.gaps,
        "uncertain": salvaged.uncertain, "uncertainCount": salvaged.uncertain_count,
        "leftOut": left_out, "warnings": summary.warnings, "warningCount": summary.warning_count,
        "proved": salvaged.proved,
    });
    if !salvaged.proved {
        session.output.note(
            "the index, which has the checksums of this archive, is lost: nothing proves what is in the files",
        );
    }
    session.output.done(&saved, &value)?;
    let unknown = !salvaged.indexed && salvaged.gaps > 0;
    if salvaged.lost_count == 0 && !unknown && ancestors.is_empty() {
        return Ok(());
    }
    let first =
        |names: &[String]| names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
    let lost = match salvaged.lost_count {
        0 => "nothing known is lost".to_owned(),
        1 => format!("1 entry not saved whole: {}", first(&salvaged.lost)),
        count => format!("{count} entries not saved whole: {}", first(&salvaged.lost)),
    };
    let more = if unknown { "; the index is lost too, so there may be more" } else { "" };
    let uncertain = match salvaged.uncertain_count {
        0 => String::new(),
        count => format!(
            "; saved, but found by a search behind the damage and perhaps of an archive that is a file in the \
             backup: {} ({count} in all)",
            first(&salvaged.uncertain),
        ),
    };
    Err(CliError::new(
        ExitCode::Failed,
        Reason::ArchiveDamaged,
        format!("{lost}{more}{uncertain}{ancestors}"),
    )
    .hint("take these from another backup or another copy of the archive; `-o json` lists all"))
}
