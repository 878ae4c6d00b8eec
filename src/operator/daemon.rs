//! The daemon: files in, schedules kept, operations carried out, until it is told to stop.
//!
//! One task owns the loop. It wakes when a file changes, when a run is due, when an operation ends,
//! when somebody asks, and otherwise hardly ever: an idle daemon sleeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Operator, OperatorError};
use crate::plan::cron::Cron;
use crate::plan::{Conclusion, Failure, OperationId};
use crate::spec::{Problem, Reason};
use crate::telemetry::Health;

/// The directory is read again at least this often: events get lost, mounts do not send any.
const RESYNC: Duration = Duration::from_mins(1);
/// Stores are looked into this often.
const STORE_REFRESH: Duration = Duration::from_mins(5);
/// Editors write in several steps: a change is looked at when it has settled.
const SETTLE: Duration = Duration::from_millis(200);

/// What ends with an operation.
type Ended = (OperationId, Result<Option<Conclusion>, OperatorError>);

/// A daemon in its loop.
pub struct Daemon {
    operator: Operator,
    directory: PathBuf,
    health: Arc<Health>,
    work: JoinSet<Ended>,
    problems: BTreeMap<String, Vec<Problem>>,
    maintained_at: jiff::Timestamp,
    /// The directory as it was when it was last read.
    seen: Option<Vec<super::FileMark>>,
}

impl Daemon {
    /// A daemon for the documents of `directory`.
    pub fn new(operator: Operator, directory: PathBuf, health: Arc<Health>) -> Self {
        Self {
            operator,
            directory,
            health,
            work: JoinSet::new(),
            problems: BTreeMap::new(),
            maintained_at: jiff::Timestamp::now(),
            seen: None,
        }
    }

    /// Runs until `stop` resolves; then cancels what is under way, waits until everything has been
    /// put back, and returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), OperatorError> {
        let now = jiff::Timestamp::now();
        let operator = self.operator.clone();
        operator.catalog().start_session(operator.session().to_owned(), now).await?;
        // The services of an interrupted operation may be down: they come before anything else.
        self.health.waiting("recovery", "interrupted operations are finished or undone");
        operator.recover().await?;
        self.health.ready("recovery");
        operator.refill_metrics().await?;
        expire(&operator).await?;
        operator.refresh_stores().await?;
        let (sender, mut changed) = mpsc::channel(1);
        let _watcher = watch(&self.directory, sender)?;
        let watching = operator.watch_services();
        tokio::pin!(stop);
        let mut last_sync: Option<Instant> = None;
        let mut last_refresh = Instant::now();
        loop {
            if last_sync.is_none_or(|at| at.elapsed() >= RESYNC) {
                self.sync().await?;
                last_sync = Some(Instant::now());
            }
            if last_refresh.elapsed() >= STORE_REFRESH {
                expire(&operator).await?;
                operator.refresh_stores().await?;
                last_refresh = Instant::now();
            }
            let pause = self.keep_schedules().await?.min(self.keep_catalog().await?).min(RESYNC);
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
                () = operator.waker.notified() => last_sync = None,
                Some(()) = changed.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    while changed.try_recv().is_ok() {}
                    last_sync = None;
                }
                Some(ended) = self.work.join_next(), if !self.work.is_empty() => {
                    self.ended(ended).await?;
                }
            }
        }
        watching.abort();
        self.shut_down().await
    }

    async fn shut_down(mut self) -> Result<(), OperatorError> {
        info!("stopping: what is under way is put back");
        self.health.stopping();
        self.operator.stop();
        while let Some(ended) = self.work.join_next().await {
            self.ended(ended).await?;
        }
        // Operations that the socket has begun are not in the set.
        while !self.operator.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.operator.catalog().stop_session(None, jiff::Timestamp::now()).await?;
        Ok(())
    }

    async fn ended(
        &mut self,
        ended: Result<Ended, tokio::task::JoinError>,
    ) -> Result<(), OperatorError> {
        match ended {
            Ok((operation, Ok(Some(_)))) => self.operator.after_operation(&operation).await,
            Ok((_, Ok(None))) => Ok(()),
            Ok((operation, Err(failure))) => {
                error!(%operation, "{failure}");
                Ok(())
            }
            Err(failure) => {
                error!("an operation's task ended unexpectedly: {failure}");
                Ok(())
            }
        }
    }

    fn start(&mut self, operation: OperationId) {
        let operator = self.operator.clone();
        self.work.spawn(async move {
            let result = operator.drive_queued(&operation).await;
            (operation, result)
        });
    }

    /// Reads the directory and starts what has not been carried out.
    async fn sync(&mut self) -> Result<(), OperatorError> {
        // Looking is cheap, reading and judging is not: an idle daemon only looks.
        let seen = super::fingerprint(std::slice::from_ref(&self.directory));
        if self.seen.as_ref() == Some(&seen) {
            return Ok(());
        }
        let (applied, problems) = match self.operator.sync_directory(&self.directory).await {
            Ok(result) => result,
            Err(OperatorError::Refused(failure)) => {
                self.health.waiting("specs", failure.message.clone());
                warn!(directory = %self.directory.display(), "{}", failure.message);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.seen = Some(seen);
        let invalid = problems.values().map(|found| found.len() as u64).sum();
        self.operator.metrics().invalid_documents(invalid);
        if problems != self.problems {
            for problem in problems.values().flatten() {
                error!("{problem}");
            }
            self.problems = problems;
        }
        if self.problems.is_empty() {
            self.health.ready("specs");
        } else {
            let files: Vec<&str> = self.problems.keys().map(String::as_str).collect();
            // A broken document must not take the others' readiness with it; it is said, loudly.
            self.health.ready("specs");
            warn!("documents with problems are left as they were: {}", files.join(", "));
        }
        for applied in applied {
            if applied.created || applied.changed {
                info!(object = %applied.key, generation = applied.generation, "{}", applied.verb());
            }
            if let Some(operation) = applied.operation()
                && !self.operator.has_ended(&operation).await?
            {
                self.start(operation);
            }
        }
        Ok(())
    }

    /// Maintains the catalog when its time has come; returns how long it will not.
    async fn keep_catalog(&mut self) -> Result<Duration, OperatorError> {
        let now = jiff::Timestamp::now();
        let schedule = self.operator.catalog().settings().await?.vacuum_schedule;
        let Ok(cron) = Cron::parse(&schedule, "UTC") else {
            return Ok(RESYNC);
        };
        let due = cron.next_after(self.maintained_at);
        if due.is_some_and(|due| due <= now) {
            self.operator.maintain().await?;
            self.maintained_at = now;
        }
        let next = cron.next_after(now).map(|next| next.duration_since(now));
        Ok(next.and_then(|next| Duration::try_from(next).ok()).unwrap_or(RESYNC))
    }

    /// Starts what is due; returns how long nothing will be.
    async fn keep_schedules(&mut self) -> Result<Duration, OperatorError> {
        let turn = self.operator.turn_schedules(jiff::Timestamp::now()).await?;
        for operation in turn.start {
            self.start(operation);
        }
        Ok(turn.pause)
    }
}

/// Removes what has expired and belongs to no schedule. What cannot be removed now stays for later.
async fn expire(operator: &Operator) -> Result<(), OperatorError> {
    match operator.prune_expired(jiff::Timestamp::now()).await {
        Ok(_) => Ok(()),
        Err(OperatorError::Refused(failure)) => {
            warn!("retention: {}", failure.message);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Watches a directory. Only that something changed is passed on, at most once until it is taken.
fn watch(
    directory: &Path,
    changes: mpsc::Sender<()>,
) -> Result<notify::RecommendedWatcher, OperatorError> {
    let refuse = |error: notify::Error| {
        OperatorError::Refused(
            Failure::new(
                Reason::InvalidSpec,
                format!("{} cannot be watched: {error}", directory.display()),
            )
            .hint("check that the directory exists and is readable"),
        )
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a directory is an event too; following it up would never end.
        let reading = matches!(&event, Ok(event) if event.kind.is_access());
        if !reading {
            let _ = changes.try_send(());
        }
    })
    .map_err(refuse)?;
    watcher.watch(directory, RecursiveMode::NonRecursive).map_err(refuse)?;
    Ok(watcher)
}

impl Operator {
    /// Whether an operation has come to its end.
    pub async fn has_ended(&self, operation: &OperationId) -> Result<bool, OperatorError> {
        Ok(self.recorded_conclusion(operation).await?.is_some())
    }
}
