//! What can be known of an Upgrade's backup while the service still runs: that everything can be read and
//! that the store takes it.

use crate::plan::{Failure, Job, Log, PreflightFacts, UpgradeJob, safety};
use crate::runtime::Handles;
use crate::runtime::docker::DockerRuntime;
use crate::spec::Reason;

impl DockerRuntime {
    /// Looks at data and store as the backup will once everybody stands still: what it would fail for
    /// would be downtime for nothing.
    pub(super) async fn rehearse_backup(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<PreflightFacts, Failure> {
        let Some(backup) = safety::of_upgrade(job) else { return Ok(PreflightFacts::default()) };
        let found = self.preflight(&Job::Backup(backup), *log, handles).await;
        // The backup itself is an operation of its own, with a worker of its own.
        self.workers.conclude(&self.connection, &job.operation).await;
        serde_json::from_value(found?).map_err(|error| undecoded(&error))
    }
}

fn undecoded(error: &serde_json::Error) -> Failure {
    Failure::new(Reason::InternalError, format!("the look at the upgrade's backup: {error}"))
}
