//! Waiting for a mover to start, and finding out what keeps it.

use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::warnings;
use crate::plan::Failure;
use crate::plan::backup::step::PREFLIGHT;
use crate::runtime::mover::Request;
use crate::spec::Reason;

/// The warnings about a mover that does not start, asked for now and then.
#[derive(Default)]
pub(super) struct Warnings {
    asked: Option<Instant>,
    last: Option<Failure>,
}

/// What the scheduler says of volumes that are on different nodes.
const ELSEWHERE: &str = "volume node affinity conflict";
/// The scheduler may be wrong about them for this long: it hears late of volumes, too.
const HOPE: Duration = Duration::from_secs(20);
/// A mover may take this long to start before anybody asks why.
const QUIETLY: Duration = Duration::from_secs(4);
/// How often it is asked why a mover does not start.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Conversation<'_> {
    /// What the cluster warns of about an object that has not come to life for a while.
    pub(super) async fn warned(
        &self,
        warnings: &mut Warnings,
        uid: &str,
        since: &Instant,
    ) -> Result<Option<Failure>, Failure> {
        let due = warnings.asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN);
        if since.elapsed() > QUIETLY && due {
            warnings.last = warnings::latest(self.cluster, self.namespace, uid).await?;
            warnings.asked = Some(Instant::now());
        }
        Ok(warnings.last.clone())
    }

    /// Waits a moment for a mover to start, and says what keeps it; fails when it has taken too long.
    pub(super) async fn wait_for_start(
        &self,
        obstacle: Option<Failure>,
        since: &Instant,
        request: &Request,
    ) -> Result<(), Failure> {
        // Nothing stands still yet: whoever can work may do so in this one's place.
        let harmless = request.step() == PREFLIGHT || self.mission.job.is_none();
        // Volumes do not move to other nodes by themselves, and a service is down meanwhile.
        let hopeless = !harmless
            && since.elapsed() > HOPE
            && obstacle.as_ref().is_some_and(|found| found.message.contains(ELSEWHERE));
        if hopeless || since.elapsed() > self.cluster.settings.start_timeout {
            self.dismiss().await?;
            return Err(obstacle.unwrap_or_else(|| {
                let seconds = self.cluster.settings.start_timeout.as_secs();
                Failure::new(
                    Reason::MoverLost,
                    format!("the mover did not start within {seconds} s"),
                )
            }));
        }
        if obstacle.is_some() && harmless {
            self.handles.turn.lend().await;
        }
        let waits = obstacle.as_ref().map(|found| (found.reason, found.message.as_str()));
        self.handles.progress.waits(waits);
        tokio::time::sleep(Duration::from_millis(250)).await;
        Ok(())
    }
}
