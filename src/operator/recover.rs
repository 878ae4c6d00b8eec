//! After a crash: every operation that has begun and not ended is finished or undone.

use futures_util::future::join_all;
use tracing::{info, warn};

use super::{Operator, OperatorError};
use crate::plan::backup::step::QUIESCE;
use crate::plan::docker::Stopping;
use crate::plan::status::{left_down, stands_still};
use crate::plan::{Conclusion, Job, Log, OperationId};
use crate::spec::BackupTrigger;

/// When an operation's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// It keeps a service down, which one or two calls bring back.
    Urgent,
    /// Others ask for its outcome.
    Child,
    /// A Restore, which an Upgrade may ask for.
    Restore,
    Upgrade,
    /// Whatever it reads once more, nobody waits for it.
    Last,
}

pub(super) fn turn(job: Option<&Job>, log: &Log<'_>) -> Turn {
    match job {
        Some(Job::Backup(_)) if left_down(log) => Turn::Urgent,
        Some(Job::Backup(job)) => match job.spec.trigger {
            BackupTrigger::PreUpgrade | BackupTrigger::PreRestore => Turn::Child,
            _ => Turn::Last,
        },
        Some(Job::Restore(_)) => Turn::Restore,
        Some(Job::Upgrade(_)) => Turn::Upgrade,
        None => Turn::Last,
    }
}

/// Names of the containers that an operation holds still by its journal.
fn held_names(log: &Log<'_>) -> Vec<String> {
    let stopping: Stopping = log.intent(QUIESCE).filter(|_| stands_still(log)).unwrap_or_default();
    stopping.order.into_iter().map(|entry| entry.name).collect()
}

impl Operator {
    /// Operations of a process that is gone which have begun and not ended, each with the names of the
    /// containers that it holds still.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn interrupted(&self) -> Result<Vec<(OperationId, Vec<String>)>, OperatorError> {
        let mut found = Vec::new();
        for operation in self.catalog.open_operations().await? {
            let journal = self.catalog.journal(&operation).await?;
            found.push((operation, held_names(&Log::new(&journal))));
        }
        Ok(found)
    }

    /// Drives every open operation to its end: those first, and together, that keep a service down only
    /// to read it; children before their parents, which ask for their outcome. One that cannot be driven
    /// keeps no other from it.
    ///
    /// # Errors
    /// Those of the catalog, after everything has been tried.
    pub async fn recover(&self) -> Result<Vec<(OperationId, Conclusion)>, OperatorError> {
        let mut open = Vec::new();
        for operation in self.catalog.open_operations().await? {
            let journal = self.catalog.journal(&operation).await?;
            let log = Log::new(&journal);
            let job = log.job();
            // Two of them may hold the same container: the first one must not let it go under the second.
            if let Some(job) = &job {
                self.docker.remember(job, &log);
            }
            open.push((turn(job.as_ref(), &log), operation));
        }
        // The sort is stable: otherwise the order is that in which they began.
        open.sort_by_key(|(turn, _)| *turn);
        let urgent = open.iter().take_while(|(turn, _)| *turn == Turn::Urgent).count();
        let others = open.split_off(urgent);
        let mut ended = join_all(open.into_iter().map(|(_, one)| self.recover_one(one))).await;
        for (_, operation) in others {
            ended.push(self.recover_one(operation).await);
        }
        ended.into_iter().collect()
    }

    async fn recover_one(
        &self,
        operation: OperationId,
    ) -> Result<(OperationId, Conclusion), OperatorError> {
        warn!(%operation, "was interrupted; finishing or undoing it");
        let conclusion = self.drive(&operation).await?;
        info!(%operation, "{}", conclusion.message);
        Ok((operation, conclusion))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::{JournalEntry, Mark};

    fn backup() -> Job {
        serde_json::from_value(json!({
            "kind": "Backup",
            "operation": "Backup/shop/x/1",
            "spec": {"target": {"docker": {"project": "shop"}}, "storeRef": {"name": "main"}},
            "store": {"name": "main", "spec": {"local": {"path": "/srv"}}},
        }))
        .unwrap()
    }

    fn entry(step: &str, mark: Mark) -> JournalEntry {
        JournalEntry {
            operation: "Backup/shop/x/1".parse().unwrap(),
            step: step.to_owned(),
            mark,
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            session: "s".to_owned(),
            detail: Value::Null,
        }
    }

    #[test]
    fn whom_an_interrupted_operation_holds_is_read_off_its_journal() {
        let one =
            json!({"id": "x", "name": "db", "timeout": null, "paused": false, "selected": true});
        let mut journal = vec![entry("quiesce", Mark::Intent)];
        journal[0].detail = json!({"order": [one], "warnings": []});
        assert_eq!(held_names(&Log::new(&journal)), ["db"]);
        journal.push(entry("resume", Mark::Done));
        assert!(held_names(&Log::new(&journal)).is_empty());
    }

    #[test]
    fn whose_service_stands_still_comes_before_those_that_only_read_once_more() {
        let held = [entry("quiesce", Mark::Intent)];
        let verifying = [
            entry("quiesce", Mark::Intent),
            entry("quiesce", Mark::Done),
            entry("resume", Mark::Done),
            entry("verify", Mark::Intent),
        ];
        let backup = backup();
        assert_eq!(turn(Some(&backup), &Log::new(&held)), Turn::Urgent);
        assert_eq!(turn(Some(&backup), &Log::new(&verifying)), Turn::Last);
        let mut child = backup.clone();
        if let Job::Backup(job) = &mut child {
            job.spec.trigger = BackupTrigger::PreUpgrade;
        }
        assert_eq!(turn(Some(&child), &Log::new(&verifying)), Turn::Child);
        assert!(Turn::Child < Turn::Restore && Turn::Restore < Turn::Upgrade);
    }
}
