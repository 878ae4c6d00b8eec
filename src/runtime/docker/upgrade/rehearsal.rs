//! What can be known of an Upgrade's backup while the service still runs: that everything can be read and
//! that the store takes it.

use serde_json::json;

use crate::plan::{BackupJob, Failure, Job, Log, PreflightFacts, UpgradeJob};
use crate::runtime::Handles;
use crate::runtime::docker::DockerRuntime;
use crate::spec::upgrade::UpgradeBackupMode;
use crate::spec::{BackupSpec, ConsistencyMode, Reason};

impl DockerRuntime {
    /// Looks at data and store as the backup will once everybody stands still: what it would fail for
    /// would be downtime for nothing.
    pub(super) async fn rehearse_backup(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<PreflightFacts, Failure> {
        let Some(backup) = backup_of(job)? else { return Ok(PreflightFacts::default()) };
        let found = self.preflight(&Job::Backup(backup), *log, handles).await;
        // The backup itself is an operation of its own, with a worker of its own.
        self.workers.conclude(&self.connection, &job.operation).await;
        serde_json::from_value(found?).map_err(|error| undecoded(&error))
    }
}

/// The backup that the upgrade will take, as far as looking at it goes.
fn backup_of(job: &UpgradeJob) -> Result<Option<BackupJob>, Failure> {
    let (Some(store), UpgradeBackupMode::Required) = (&job.store, job.spec.backup.mode) else {
        return Ok(None);
    };
    let spec = json!({
        "target": job.spec.target,
        "storeRef": {"name": store.name},
        "consistency": {"mode": ConsistencyMode::Live},
    });
    let spec: BackupSpec = serde_json::from_value(spec).map_err(|error| undecoded(&error))?;
    Ok(Some(BackupJob::new(job.operation.clone(), spec, store.clone())))
}

fn undecoded(error: &serde_json::Error) -> Failure {
    Failure::new(Reason::InternalError, format!("the look at the upgrade's backup: {error}"))
}
