//! What can be typed after `eider backup`, `restore` and `rollback`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::spec::ByteSize;

/// What `--type` of `backup create` takes: how much is kept or, as older spellings have it, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackupTypeArgument {
    /// Everything, because somebody asked.
    Manual,
    /// Everything, before an upgrade.
    PreUpgrade,
    /// Everything.
    Full,
    /// What changed since the newest verified backup of the target, or `--parent`.
    Incremental,
    /// Volumes and directories without configuration.
    DataOnly,
}

/// `eider backup …`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Take a backup now.
    Create(Box<BackupCreateArguments>),
    /// List backups, newest first.
    #[command(visible_alias = "ls")]
    List(BackupListArguments),
    /// Everything about one backup.
    Show(BackupReference),
    /// List what is in a backup.
    Files(BackupFilesArguments),
    /// Take files out of a backup without restoring it.
    Extract(BackupExtractArguments),
    /// Read a backup back and compare it with its checksums.
    Verify(BackupVerifyArguments),
    /// Delete a backup and its archive; the record stays.
    #[command(visible_alias = "rm")]
    Delete(BackupDeleteArguments),
    /// Copy an archive into a store and record it.
    Import(BackupImportArguments),
}

/// `eider backup create`.
#[derive(Debug, Args)]
pub struct BackupCreateArguments {
    /// A directory or file to back up; may be repeated. Default: the target of the schedule `default`.
    #[arg(long = "path", short = 'p', value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What of a Docker host is backed up.
    #[command(flatten)]
    pub docker: DockerArguments,
    /// A store's name, or a directory. Default: the only store there is.
    #[arg(long, short, value_name = "STORE")]
    pub store: Option<String>,
    /// How much is kept, or why.
    #[arg(long = "type", short = 't', value_enum, default_value_t = BackupTypeArgument::Manual)]
    pub backup_type: BackupTypeArgument,
    /// With `--type incremental`: the Backup to continue. Default: the newest verified one of the target.
    #[arg(long, value_name = "NAME")]
    pub parent: Option<String>,
    /// Version of the service, for the archive's name.
    #[arg(long = "version", value_name = "VERSION")]
    pub service_version: Option<String>,
    /// Name of the Backup; default one made from the time.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Namespace of the Backup.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Free text kept with the record.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A pattern in gitignore syntax to leave out; may be repeated.
    #[arg(long, short, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Archive format.
    #[arg(long, value_parser = ["tar.gz", "tar.zst", "tar"], value_name = "FORMAT")]
    pub format: Option<String>,
    /// Compression level.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=19))]
    pub level: Option<u8>,
    /// Threads that compress; as many as there are cores if none is given.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Option<u8>,
    /// The most bytes of files to read in a second, such as `50Mi`.
    #[arg(long, value_name = "SIZE")]
    pub io_limit: Option<ByteSize>,
    /// Unreadable paths are warnings instead of a failure.
    #[arg(long)]
    pub allow_unreadable: bool,
    /// Print what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Containers and volumes of a Docker host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Docker host")]
pub struct DockerArguments {
    /// A Compose project.
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Only this service of the project; may be repeated.
    #[arg(long = "service", value_name = "SERVICE", requires = "project")]
    pub services: Vec<String>,
    /// A container by its name; may be repeated.
    #[arg(long = "container", value_name = "NAME")]
    pub containers: Vec<String>,
    /// Only this volume; may be repeated. Default: every named volume and path of the selection.
    #[arg(long = "volume", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// How the containers are held still; `Stop` by default.
    #[arg(long, value_parser = ["Stop", "Pause", "Live"], value_name = "MODE")]
    pub mode: Option<String>,
}

impl DockerArguments {
    /// As `spec.target.docker`; nothing where none of it was given.
    pub fn target(&self) -> Option<Value> {
        let mut target = Map::new();
        if let Some(project) = &self.project {
            target.insert("project".to_owned(), json!(project));
        }
        let lists = [
            ("services", &self.services),
            ("containers", &self.containers),
            ("volumes", &self.volumes),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            target.insert(name.to_owned(), json!(list));
        }
        (!target.is_empty()).then_some(Value::Object(target))
    }
}

/// `eider backup list`.
#[derive(Debug, Args)]
pub struct BackupListArguments {
    /// Only backups of this target, or of targets that contain this text.
    #[arg(long, value_name = "TEXT")]
    pub target: Option<String>,
    /// Only backups of this schedule.
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Only backups in this namespace.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Also deleted ones.
    #[arg(long, short)]
    pub all: bool,
    /// At most this many; 0 for all.
    #[arg(long, short = 'l', default_value_t = 0, value_name = "N")]
    pub limit: u64,
}

/// One backup.
#[derive(Debug, Clone, Args)]
pub struct BackupReference {
    /// Id, name of the Backup, or name of the archive.
    #[arg(value_name = "BACKUP", required_unless_present = "id")]
    pub backup: Option<String>,
    /// Id of the backup.
    #[arg(long, value_name = "ID", conflicts_with = "backup")]
    pub id: Option<i64>,
}

/// `eider backup files`.
#[derive(Debug, Args)]
pub struct BackupFilesArguments {
    /// The backup.
    #[command(flatten)]
    pub backup: BackupReference,
    /// Only names that match this pattern in gitignore syntax; may be repeated.
    #[arg(long, short, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// List what differs from this earlier backup instead, by the indexes of both.
    #[arg(long, value_name = "BACKUP")]
    pub diff: Option<String>,
}

/// `eider backup extract`.
#[derive(Debug, Args)]
pub struct BackupExtractArguments {
    /// The backup.
    #[command(flatten)]
    pub backup: BackupReference,
    /// Directory to write into; it has to be empty or not there.
    #[arg(long, value_name = "DIR", required_unless_present = "stdout")]
    pub to: Option<PathBuf>,
    /// Only names that match this pattern in gitignore syntax; may be repeated.
    #[arg(long, short, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Write this one file to standard output.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "include"])]
    pub stdout: Option<String>,
    /// Take out of a damaged archive what it still holds, and list what is lost.
    #[arg(long, conflicts_with = "stdout")]
    pub salvage: bool,
}

/// `eider backup verify`.
#[derive(Debug, Args)]
pub struct BackupVerifyArguments {
    /// Id, name of the Backup, or name of the archive; may be repeated.
    #[arg(value_name = "BACKUP", required_unless_present_any = ["all", "file"])]
    pub backups: Vec<String>,
    /// Every backup there is.
    #[arg(long, conflicts_with = "backups")]
    pub all: bool,
    /// An archive file anywhere, with its manifest beside it or, if it has none, as any tar.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["backups", "all"])]
    pub file: Option<PathBuf>,
    /// Manifest and size only.
    #[arg(long)]
    pub quick: bool,
}

/// `eider backup delete`.
#[derive(Debug, Args)]
pub struct BackupDeleteArguments {
    /// The backup.
    #[command(flatten)]
    pub backup: BackupReference,
    /// Delete it even if it is the last verified backup of its target. One that others build on stays.
    #[arg(long)]
    pub force: bool,
}

/// `eider backup import`.
#[derive(Debug, Args)]
pub struct BackupImportArguments {
    /// The archive: `.tar.gz`, `.tar.zst` or `.tar`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The store. Default: the only one there is.
    #[arg(long, short, value_name = "STORE")]
    pub store: Option<String>,
    /// Version of the service.
    #[arg(long = "version", value_name = "VERSION")]
    pub service_version: Option<String>,
    /// Namespace of the record.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
}

/// `eider restore …`.
#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// Put a backup back now.
    Create(RestoreCreateArguments),
}

/// `eider restore create`.
#[derive(Debug, Args)]
pub struct RestoreCreateArguments {
    /// Id, name of the Backup, or name of the archive.
    #[arg(value_name = "BACKUP", required_unless_present_any = ["latest"])]
    pub backup: Option<String>,
    /// The newest verified backup of this schedule.
    #[arg(long, value_name = "SCHEDULE", conflicts_with = "backup")]
    pub latest: Option<String>,
    /// Where to; as often as the backup has roots. Default: where it was taken.
    #[arg(long = "path", short = 'p', value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Only names in the archive that match this pattern in gitignore syntax; may be repeated.
    #[arg(long, short, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// A pattern of paths that stay as they are now; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub preserve: Vec<String>,
    /// Lay files over what is there instead of replacing it.
    #[arg(long)]
    pub merge: bool,
    /// Do not back up what is there first.
    #[arg(long)]
    pub no_safety_backup: bool,
    /// Make containers again that are gone (Docker hosts).
    #[arg(long)]
    pub recreate_containers: bool,
    /// How long services may take afterwards until they are healthy; past it the data is put back.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Name of the Restore; default one made from the time.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Namespace of the backup and of the Restore.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Print what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `eider rollback`.
#[derive(Debug, Args)]
pub struct RollbackArguments {
    /// Id or name of the backup; default the newest verified pre-upgrade backup.
    #[arg(value_name = "BACKUP")]
    pub backup: Option<String>,
    /// Namespace of the backup.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
}
