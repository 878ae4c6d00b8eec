//! What is done while an archive is still being completed: its data has been read, so that the service that
//! was held still for it may run again.

use super::drive::Running;
use super::resolve::Resolved;
use super::{Operator, OperatorError};
use crate::plan::{Action, Job, Log, backup};
use crate::runtime::{Handles, Runtime};

impl Operator {
    /// Archives, and takes the steps that need no more than that all of the data was read as soon as it was.
    /// Each writes its own intent and outcome: the journal says in which order they came about, and what
    /// became of the archive if the process ends in between.
    ///
    /// Not in a cluster: a mover that is lost there is followed by another one, which reads again.
    pub(super) async fn archive(
        &self,
        resolved: &Resolved,
        runtime: &dyn Runtime,
        log: Log<'_>,
        running: &Running,
        handles: &Handles,
    ) -> Result<(), OperatorError> {
        let step = backup::step::ARCHIVE;
        let mut archived = Box::pin(self.execute(
            resolved,
            runtime,
            step,
            &Action::Archive,
            log,
            running,
            handles,
        ));
        let Job::Backup(job) = &resolved.job else { return archived.await };
        if self.cluster.is_some() {
            return archived.await;
        }
        tokio::select! {
            biased;
            done = &mut archived => return done,
            () = running.meter.until_all_read() => {}
        }
        let meanwhile = async {
            loop {
                let journal = self.journal(&job.operation).await?;
                let log = Log::new(&journal);
                let Some((step, action)) = backup::once_read(job, &log) else {
                    return Ok::<(), OperatorError>(());
                };
                self.execute(resolved, runtime, step, &action, log, running, handles).await?;
            }
        };
        let (archived, meanwhile) = tokio::join!(archived, meanwhile);
        archived.and(meanwhile)
    }
}
