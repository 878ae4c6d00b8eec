//! What can be typed. Parsing does nothing but parse: the verbs' own files give it meaning.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::output::OutputFormat;
use crate::telemetry::logging::LogFormat;

/// Keeps services safe while they change: backup, restore and upgrade from declarative documents.
#[derive(Debug, Parser)]
#[command(name = "eider", version = crate::VERSION, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Start with `eider validate -f FILE` and `eider run -f FILE`.")]
pub struct Arguments {
    /// Options of every verb.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
pub struct GlobalArguments {
    /// The catalog file.
    #[arg(
        long,
        global = true,
        env = "EIDER_CATALOG",
        default_value = "/var/lib/eider/eider.duckdb",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub catalog: PathBuf,
    /// Socket of a running daemon; used when the daemon holds the catalog.
    #[arg(
        long,
        global = true,
        env = "EIDER_SOCKET",
        default_value = "/run/eider/eider.sock",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub socket: PathBuf,
    /// How lists and records are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = OutputFormat::Table, help_heading = "Global options")]
    pub output: OutputFormat,
    /// Answer yes to every question.
    #[arg(long, short = 'y', global = true, help_heading = "Global options")]
    pub yes: bool,
    /// Print results only: no progress, no notes.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// No colour; the variable NO_COLOR does the same.
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_color: bool,
    /// Print the chain of causes of an error.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Form of the log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Auto, help_heading = "Global options")]
    pub log_format: LogFormat,
    /// What is logged, as in RUST_LOG; default `info` for the daemon, `warn` otherwise.
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Global options")]
    pub log_level: Option<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply documents, carry them out and wait for the end.
    Run(RunArguments),
    /// Watch a directory of documents, keep schedules and serve metrics.
    Daemon(DaemonArguments),
    /// Check documents against schema and rules, offline.
    Validate(FileArguments),
    /// Take, list, inspect, verify and delete backups.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Put backups back.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Restore the newest pre-upgrade backup, or a given one.
    Rollback(RollbackArguments),
    /// List and inspect upgrades.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// List, run, suspend and resume schedules.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// The schedule named `default`.
    #[command(subcommand)]
    AutoBackup(AutoBackupCommand),
    /// List, check and move stores.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print objects of a kind.
    Get(GetArguments),
    /// Print everything that is known of objects.
    Describe(GetArguments),
    /// Services that operations have held still.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// What was done, by whom, with what result.
    History(HistoryArguments),
    /// Settings kept in the catalog.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check, query, rebuild, export and copy the catalog.
    #[command(subcommand)]
    Db(DbCommand),
    /// Write generated files: CRDs, reference pages, completions, man pages.
    #[command(subcommand)]
    Generate(GenerateCommand),
    /// Opens a catalog and says whether that works.
    #[command(name = "__probe-catalog", hide = true)]
    ProbeCatalog {
        /// The file.
        path: PathBuf,
    },
}

/// Documents.
#[derive(Debug, Clone, Args)]
pub struct FileArguments {
    /// A YAML file, a directory of them, or `-` for standard input.
    #[arg(long = "file", short = 'f', required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `eider run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Documents.
    #[command(flatten)]
    pub files: FileArguments,
    /// Go on watching the files, and carry out what changes, until interrupted.
    #[arg(long, conflicts_with = "dry_run")]
    pub watch: bool,
    /// Print what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `eider daemon`.
#[derive(Debug, Args)]
pub struct DaemonArguments {
    /// Directory of documents.
    #[arg(long, value_name = "DIR")]
    pub specs: PathBuf,
    /// Where metrics, health and the read-only API are served; `off` for nowhere.
    #[arg(long, env = "EIDER_LISTEN", default_value = "127.0.0.1:9110", value_name = "ADDRESS", value_parser = parse_listen)]
    pub listen: Listen,
    /// Operations at the same time.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On an address.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    text.parse().map(Listen::At).map_err(|_| {
        format!("`{text}` is not an address such as 127.0.0.1:9110 or [::1]:9110, nor `off`")
    })
}

/// What `--type` of `backup create` takes: how much is kept or, as older spellings have it, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackupTypeArgument {
    /// Everything, because somebody asked.
    Manual,
    /// Everything, before an upgrade.
    PreUpgrade,
    /// Everything.
    Full,
    /// Volumes and directories without configuration.
    DataOnly,
}

/// `eider backup …`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Take a backup now.
    Create(BackupCreateArguments),
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
    /// A store's name, or a directory. Default: the only store there is.
    #[arg(long, short, value_name = "STORE")]
    pub store: Option<String>,
    /// How much is kept, or why.
    #[arg(long = "type", short = 't', value_enum, default_value_t = BackupTypeArgument::Manual)]
    pub backup_type: BackupTypeArgument,
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
    /// Unreadable paths are warnings instead of a failure.
    #[arg(long)]
    pub allow_unreadable: bool,
    /// Print what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
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
    /// Delete it even if it is the last verified backup of its target, or others build on it.
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

/// `eider upgrade …`.
#[derive(Debug, Subcommand)]
pub enum UpgradeCommand {
    /// List upgrades, newest first.
    List,
    /// Everything about one upgrade.
    Show {
        /// Name of the Upgrade.
        name: String,
    },
}

/// `eider schedule …`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their last and next runs.
    List,
    /// Run one now, whatever its time.
    Run(ScheduleName),
    /// Hold back the runs of one until it is resumed.
    Suspend(ScheduleName),
    /// Let the runs of one happen again.
    Resume(ScheduleName),
}

/// One schedule.
#[derive(Debug, Args)]
pub struct ScheduleName {
    /// Name of the BackupSchedule.
    pub name: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
}

/// `eider auto-backup …`.
#[derive(Debug, Subcommand)]
pub enum AutoBackupCommand {
    /// How the schedule named `default` is doing.
    Status,
    /// Run it now.
    Run,
    /// Turn it on or off.
    Enabled {
        /// On or off.
        #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
        enable: bool,
    },
}

/// `eider store …`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// List stores.
    List,
    /// Compare a store's archives with their manifests and with the catalog.
    Check {
        /// Name of the store; default all.
        name: Option<String>,
        /// Read back every byte.
        #[arg(long)]
        full: bool,
        /// Remove what unfinished uploads have left.
        #[arg(long)]
        clean: bool,
    },
    /// Move every archive of a store to another.
    Migrate {
        /// The store that is emptied.
        old: String,
        /// The store that is filled.
        new: String,
        /// Namespace of both.
        #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
        namespace: String,
    },
}

/// `eider get` and `eider describe`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// backups, restores, upgrades, backupschedules, backupstores, their short names, or `all`.
    pub kind: String,
    /// Name of one object.
    pub name: Option<String>,
    /// Namespace; default all.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// `eider service …`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// The latest state of each.
    Status,
    /// Every change of state, newest first.
    History {
        /// Only this one.
        name: Option<String>,
        /// At most this many.
        #[arg(long, short = 'l', default_value_t = 50, value_name = "N")]
        limit: u64,
    },
}

/// `eider history`.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// At most this many.
    #[arg(long, short = 'l', default_value_t = 50, value_name = "N")]
    pub limit: u64,
    /// Only actions of this type, such as BACKUP, RESTORE or CONFIG_CHANGE.
    #[arg(long = "type", value_name = "TYPE")]
    pub action_type: Option<String>,
}

/// `eider config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every setting.
    List,
    /// One setting.
    Get {
        /// Its key.
        key: String,
    },
    /// Change a setting.
    Set {
        /// Its key.
        key: String,
        /// The new value.
        value: String,
    },
    /// Put a setting back to its default.
    Reset {
        /// Its key.
        key: String,
    },
}

/// `eider db …`.
#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Look for damage, broken references and missing archives.
    Check,
    /// Make the records again from the manifests in the stores.
    Rebuild {
        /// A directory of archives; may be repeated. Default: every local store that is known.
        #[arg(long, value_name = "DIR")]
        store: Vec<PathBuf>,
    },
    /// Run a read-only SQL statement.
    Query {
        /// The statement.
        sql: String,
        /// As JSON.
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// As CSV.
        #[arg(long)]
        csv: bool,
    },
    /// Write every table as Parquet.
    Export {
        /// The directory; created when it is not there.
        directory: PathBuf,
    },
    /// Copy the catalog.
    Backup {
        /// The file to write; must not be there.
        file: PathBuf,
    },
    /// Put a copy back; the present catalog is kept beside it.
    Restore {
        /// A file written by `eider db backup`.
        file: PathBuf,
    },
}

/// `eider generate …`.
#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// The CustomResourceDefinitions.
    Crds(GenerateArguments),
    /// The reference pages.
    Docs(GenerateArguments),
    /// A shell's completions, to standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Man pages, one for each verb.
    Man {
        /// Where to.
        directory: PathBuf,
    },
}

/// Where generated files go.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// Where to; default the project's own place, seen from the current directory.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write nothing; fail when something would change.
    #[arg(long)]
    pub check: bool,
}
