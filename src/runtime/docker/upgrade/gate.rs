//! Whether the new version is well, and stays so.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::Cancel;
use crate::plan::{Failure, Log, UpgradeJob};
use crate::runtime::docker::{DockerRuntime, health};
use crate::runtime::{Handles, probes};
use crate::spec::Reason;

/// How often health is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl DockerRuntime {
    pub(super) async fn upgrade_healthy(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let begun = Instant::now();
        let timeout = job.spec.health_gate.timeout.to_duration();
        let stopping = self.new_entries(&docker, log).await?;
        let entries = stopping.to_be_well(|_| false);
        let mut at = health::until_healthy(&docker, &entries, timeout, &handles.cancel).await?;
        while let Err(why) = probes::all_answer(&job.spec.health_gate.probes, false).await {
            if begun.elapsed() > timeout {
                return Err(Failure::new(
                    Reason::Unhealthy,
                    format!("not healthy within {} s: {why}", timeout.as_secs()),
                ));
            }
            pause(&handles.cancel).await?;
            at = Timestamp::now();
        }
        Ok(json!({"seconds": begun.elapsed().as_secs_f64(), "at": at}))
    }

    /// Watches that the new containers stay well.
    pub(super) async fn soak(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let docker = self.connection.docker().await?;
        let stopping = self.new_entries(&docker, log).await?;
        let entries = stopping.to_be_well(|_| false);
        let soak = job.spec.health_gate.soak.to_duration();
        let begun = Instant::now();
        let first = health::starts(&docker, &entries).await?;
        let mut unwell_since: Option<Instant> = None;
        loop {
            let well = match health::all_well(&docker, &entries, &first).await? {
                Ok(()) => probes::all_answer(&job.spec.health_gate.probes, false).await,
                Err(why) => Err(why),
            };
            match well {
                Ok(()) => unwell_since = None,
                Err(why) => {
                    // One missed look may be ours; two seconds of it are not.
                    let since = *unwell_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_secs(2) {
                        let seconds = soak.as_secs();
                        let message = format!("did not stay healthy for {seconds} s: {why}");
                        return Err(Failure::new(Reason::Unhealthy, message)
                            .hint("`docker logs` of the container says why"));
                    }
                }
            }
            if begun.elapsed() >= soak && unwell_since.is_none() {
                return Ok(Value::Null);
            }
            pause(&handles.cancel).await?;
        }
    }
}

async fn pause(cancel: &Cancel) -> Result<(), Failure> {
    if cancel.is_cancelled() {
        return Err(Failure::new(Reason::Cancelled, "cancelled while waiting for health"));
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}
