//! What can be typed. Parsing does nothing but parse: the verbs' own files give it meaning.

mod backup;
mod operator;
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use backup::{
    BackupCommand, BackupCreateArguments, BackupDeleteArguments, BackupExtractArguments,
    BackupFilesArguments, BackupImportArguments, BackupListArguments, BackupReference,
    BackupTypeArgument, BackupVerifyArguments, RestoreCommand, RestoreCreateArguments,
    RollbackArguments,
};

pub use operator::OperatorArguments;
pub use upgrade::UpgradeCreateArguments;

use super::output::OutputFormat;
use crate::telemetry::logging::LogFormat;

/// Keeps services safe while they change: backup, restore and upgrade from declarative documents.
#[derive(Debug, Parser)]
#[command(name = "eider", version = crate::VERSION, max_term_width = 100)]
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
        hide_env_values = true,
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
        hide_env_values = true,
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

/// Arguments of `eider mover`.
#[derive(Debug, Args)]
pub struct MoverArguments {
    /// Be asked by lines of standard input.
    #[arg(long)]
    pub pipe: bool,
    /// How far reading and writing of data gives way to other programs.
    #[arg(long, default_value_t = 0, value_name = "0-19", value_parser = clap::value_parser!(u8).range(0..=19))]
    pub nice: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply documents, carry them out and wait for the end.
    Run(RunArguments),
    /// Watch a directory of documents, keep schedules and serve metrics.
    Daemon(DaemonArguments),
    /// Carry out the objects of a Kubernetes cluster.
    Operator(Box<OperatorArguments>),
    /// What a mover's pod or container runs.
    #[command(hide = true)]
    Mover(MoverArguments),
    /// Ask the daemon whether it is ready: for the health check of a container.
    Health,
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
    /// Write generated files: CRDs, permissions, reference pages, completions, man pages.
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
    #[arg(long, env = "EIDER_LISTEN", hide_env_values = true, default_value = "127.0.0.1:9110", value_name = "ADDRESS", value_parser = parse_listen)]
    pub listen: Listen,
    /// Operations at the same time.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// How far reading and writing of data gives way to other programs, as with nice(1); 15 and more are the lowest priority on disks too.
    #[arg(long, default_value_t = crate::runtime::priority::DEFAULT_NICENESS, value_name = "0-19", value_parser = clap::value_parser!(u8).range(0..=19))]
    pub nice: u8,
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
    /// Move containers to new images now, with a verified backup and a way back.
    Create(UpgradeCreateArguments),
    /// Go back to the images and the data of before an upgrade, as long as its backup is there.
    Rollback {
        /// Name of the Upgrade.
        name: String,
        /// Namespace of the Upgrade.
        #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
        namespace: String,
        /// Print what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
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
    /// Remove the backups that its retention does not keep, and tell which rule keeps the others.
    Prune {
        /// Which one.
        #[command(flatten)]
        schedule: ScheduleName,
        /// Only tell; remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
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
    /// The operator's permissions, for kustomize and Helm.
    Rbac(GenerateArguments),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_older_spellings_are_understood() {
        for line in [
            "eider backup create --type manual --version v1.2.0",
            "eider backup list",
            "eider backup delete --id 123",
            "eider auto-backup enabled --enable true",
            "eider rollback 3",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
