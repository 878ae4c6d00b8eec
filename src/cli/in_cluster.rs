//! Verbs in the pod of an operator: records are read there, but what changes something is asked of the
//! cluster, and archives lie on claims that this pod does not mount.
//!
//! Knows verbs only; whether a cluster's operator answers on the socket is asked by the session.

use std::path::Path;

use super::arguments::{
    AutoBackupCommand, BackupCommand, Command, DbCommand, GlobalArguments, ScheduleCommand,
    StoreCommand, UpgradeCommand,
};
use super::output::{CliError, ExitCode};
use crate::spec::Reason;
use crate::web::ControlClient;

/// Refuses a verb that makes no sense beside the operator of a cluster.
///
/// # Errors
/// With exit code 4 and what to type instead. Where no operator of a cluster answers, nothing is said.
pub async fn check(global: &GlobalArguments, command: &Command) -> Result<(), CliError> {
    let Some(hint) = instead(command) else { return Ok(()) };
    if !serves_cluster(&global.socket).await {
        return Ok(());
    }
    Err(CliError::new(
        ExitCode::Refused,
        Reason::UnsupportedTarget,
        "the operator of a cluster does not do this: its objects and claims are the cluster's",
    )
    .hint(hint))
}

/// Whether the operator of a cluster answers on this socket.
async fn serves_cluster(socket: &Path) -> bool {
    socket.exists() && ControlClient::new(socket).about().await.is_ok_and(|about| about.cluster)
}

/// What to do in a cluster instead of this verb; nothing for verbs that work there.
fn instead(command: &Command) -> Option<&'static str> {
    let hint = match command {
        Command::Run(_) => "use `kubectl apply -f FILE`",
        Command::Backup(command) => match command {
            BackupCommand::List(_) | BackupCommand::Show(_) => return None,
            BackupCommand::Create(_) => "apply a Backup: `kubectl create -f FILE`",
            BackupCommand::Delete(_) => {
                "use `kubectl delete backups.eider.dev NAME`; `deletionPolicy: Delete` in its \
                 specification removes the archive too"
            }
            BackupCommand::Import(_) => {
                "put the archive and its manifest on the store's claim, then annotate the \
                 BackupStore with a new value of `eider.dev/reconcile-at`"
            }
            BackupCommand::Files(_) | BackupCommand::Extract(_) | BackupCommand::Verify(_) => {
                "mount the store's claim in a pod of this image and name the archive there, or \
                 apply a Restore into new claims, which verifies it first"
            }
        },
        Command::Restore(_) | Command::Rollback(_) => "apply a Restore: `kubectl create -f FILE`",
        Command::Upgrade(UpgradeCommand::Create(_) | UpgradeCommand::Rollback { .. }) => {
            "apply an Upgrade: `kubectl create -f FILE`"
        }
        Command::Schedule(ScheduleCommand::Run(_))
        | Command::AutoBackup(AutoBackupCommand::Run) => "apply a Backup: `kubectl create -f FILE`",
        Command::Schedule(ScheduleCommand::Suspend(_) | ScheduleCommand::Resume(_))
        | Command::AutoBackup(AutoBackupCommand::Enabled { .. }) => {
            "use `kubectl patch backupschedules.eider.dev NAME --type=merge --patch \
             '{\"spec\":{\"suspend\":true}}'`, or false"
        }
        Command::Store(StoreCommand::Check { .. }) | Command::Db(DbCommand::Rebuild { .. }) => {
            "annotate the BackupStore with a new value of `eider.dev/reconcile-at`: a mover looks \
             into it again"
        }
        Command::Store(StoreCommand::Migrate { .. }) => {
            "copy the archives with their manifests to the new claim, and make a BackupStore for it"
        }
        Command::Db(DbCommand::Restore { .. }) => {
            "stop the operator first; without a catalog it fills one from the cluster"
        }
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::Arguments;

    #[test]
    fn what_only_reads_records_is_allowed() {
        let hint = |line: &str| {
            let words = std::iter::once("eider").chain(line.split_whitespace());
            instead(&Arguments::try_parse_from(words).unwrap().command)
        };
        for line in [
            "backup list",
            "backup show 1",
            "schedule list",
            "auto-backup status",
            "store list",
            "get backups",
            "history",
            "service status",
            "upgrade list",
            "config list",
            "db check",
        ] {
            assert_eq!(hint(line), None, "{line}");
        }
        for line in [
            "run -f a.yaml",
            "backup verify 1",
            "backup delete 1",
            "restore create 1",
            "rollback",
            "schedule run a",
            "schedule suspend a",
            "auto-backup enabled --enable true",
            "store check",
            "store migrate a b",
        ] {
            assert!(hint(line).is_some(), "{line}");
        }
    }
}
