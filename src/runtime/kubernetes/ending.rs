//! Ending movers, so that no two are ever at work at once and none is left behind.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};

use super::cluster::{failure, is_missing};
use super::conversation::Conversation;
use super::names;
use super::pod_state::{PodState, has_ended, judge};
use crate::plan::Failure;
use crate::spec::Reason;

impl Conversation<'_> {
    /// Deletes a mover's Job and waits until its pod is gone: until then it may still write.
    pub(super) async fn end(&self, attempt: u32) -> Result<(), Failure> {
        let name = names::mover(self.operation, &self.key, attempt);
        let what = format!("end mover {}/{name}", self.namespace);
        self.delete(&name).await?;
        let pods = self.pods();
        let selector = ListParams::default().labels(&format!("job-name={name}"));
        let begun = Instant::now();
        loop {
            let list = self
                .cluster
                .patiently(&what, None, || pods.list(&selector))
                .await
                .map_err(|error| failure(&what, &error))?;
            let at_work = list.items.iter().any(is_at_work);
            if !at_work {
                return Ok(());
            }
            // Never two at once: a node that says nothing may still run it.
            if begun.elapsed() > Duration::from_mins(5) {
                return Err(Failure::new(
                    Reason::MoverLost,
                    format!("mover {}/{name} does not end: its pod is still there", self.namespace),
                )
                .hint(
                    "is its node away? delete the pod by force once the node is known to be off",
                ));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Failure> {
        let what = format!("end mover {}/{name}", self.namespace);
        let (jobs, parameters) = (self.jobs(), DeleteParams::background());
        match self.cluster.patiently(&what, None, || jobs.delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failure(&what, &error)),
        }
    }

    /// Ends every mover of the operation, without waiting for it: for when nothing is left to do.
    pub async fn let_go(&self) -> Result<(), Failure> {
        for name in self.names().await? {
            self.delete(&name).await?;
        }
        Ok(())
    }

    /// Ends every mover of the operation, and waits until none is at work.
    pub async fn dismiss(&self) -> Result<(), Failure> {
        for name in self.names().await? {
            if let Some(attempt) = name.rsplit('-').next().and_then(|n| n.parse().ok()) {
                self.end(attempt).await?;
            }
        }
        Ok(())
    }

    /// The names of the operation's movers.
    async fn names(&self) -> Result<Vec<String>, Failure> {
        let what = format!("list the movers of {}", self.operation);
        let (jobs, parameters) = (self.jobs(), self.selector());
        match self.cluster.patiently(&what, None, || jobs.list(&parameters)).await {
            Ok(list) => Ok(list.items.iter().map(ResourceExt::name_any).collect()),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(error) => Err(failure(&what, &error)),
        }
    }
}

/// Whether a process of the pod may still write.
pub(super) fn is_at_work(pod: &Pod) -> bool {
    matches!(judge(pod), PodState::Running)
        || (pod.metadata.deletion_timestamp.is_some() && !has_ended(pod))
}
