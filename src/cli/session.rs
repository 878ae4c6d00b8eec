//! How a verb reaches the catalog: through a running daemon, or by opening the file itself.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::arguments::GlobalArguments;
use super::output::{CliError, ExitCode, Output};
use super::progress_adapter::Bar;
use crate::catalog::{BackupFilter, Catalog, CatalogError, OpenOptions, Opened};
use crate::engine::{Cancel, Progress};
use crate::operator::Operator;
use crate::plan::{Conclusion, Failure, Log, OperationId, status};
use crate::spec::{Document, Reason, counted};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::BuildInformation;
use crate::web::{About, ControlClient};

/// An open catalog, and who carries things out.
pub struct Session {
    /// The operator; with a daemon running its catalog is the daemon's.
    pub operator: Operator,
    /// The running daemon, if there is one.
    pub daemon: Option<ControlClient>,
    /// The running process is the operator of a cluster: archives lie on claims, out of sight.
    pub cluster: bool,
    /// Where results go.
    pub output: Output,
    bar: Arc<Bar>,
    interrupted: Cancel,
}

/// How often the daemon is asked how far it has come.
const LOOK: Duration = Duration::from_millis(150);
/// After how many looks in vain people are told that they wait: two seconds.
const LONG_WAIT: u32 = 13;

/// What became of one operation.
pub struct Done {
    /// Its identity.
    pub operation: OperationId,
    /// How it ended.
    pub conclusion: Conclusion,
    /// It had been carried out before, and nothing was done now.
    pub repeated: bool,
    /// When it ended, where that is known.
    pub at: Option<jiff::Timestamp>,
}

/// New metrics for this process.
pub fn metrics() -> Result<Arc<Metrics>, CliError> {
    let build = BuildInformation {
        version: crate::VERSION,
        commit: crate::COMMIT,
        duckdb: crate::catalog::DUCKDB_VERSION,
    };
    Metrics::new(&build, jiff::Timestamp::now())
        .map(Arc::new)
        .map_err(|error| CliError::internal(error.to_string()))
}

/// Opens the catalog file, makes it again from the manifests where it was damaged, and says so.
pub async fn open_catalog(path: &Path, output: &Output) -> Result<(Catalog, bool), CliError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        private_directory(directory).map_err(|error| {
            CliError::new(
                ExitCode::Failed,
                Reason::CatalogFailed,
                format!("the catalog's directory {} cannot be made: {error}", directory.display()),
            )
            .object(path.display().to_string())
            .hint("name another file with --catalog or EIDER_CATALOG")
        })?;
    }
    let options = OpenOptions { probe: std::env::current_exe().ok(), now: jiff::Timestamp::now() };
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || open_in_turn(&path, &options))
        .await
        .map_err(|error| CliError::internal(error.to_string()))??;
    for file in &opened.report.set_aside {
        output.note(&format!("the catalog was damaged; kept as {}", file.display()));
    }
    if let Some(version) = opened.report.migrated_from {
        output.note(&format!("the catalog was migrated from schema version {version}"));
    }
    let lost = opened.report.needs_rebuild || opened.report.unclean;
    Ok((opened.catalog, lost))
}

/// How long another command is given to finish with the catalog.
const TURN: Duration = Duration::from_secs(5);

/// Opens the catalog once a command that has it open for a moment has ended: a daemon that starts while
/// somebody asks for a list is not to fail for that. A daemon holds it for good and is not waited for.
fn open_in_turn(path: &Path, options: &OpenOptions) -> Result<Opened, CatalogError> {
    let until = Instant::now() + TURN;
    loop {
        match Catalog::open(path, options) {
            Err(CatalogError::Held { holder: Some(holder), .. })
                if !holder.serves && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(200));
            }
            result => return result,
        }
    }
}

/// A damaged catalog that was kept beside this one; the newest if there are several.
fn set_aside(catalog: &Path) -> Option<std::path::PathBuf> {
    let prefix = format!("{}.damaged-", catalog.file_name()?.to_str()?);
    let directory = catalog.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::read_dir(directory.unwrap_or(Path::new(".")))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
        .max()
}

/// Makes a directory that only its owner can look into, unless it is there already.
pub fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Session {
    /// A session for verbs that read or change records.
    ///
    /// Refused where a damaged catalog was set aside and nothing is known yet: "nothing to show" would
    /// be taken for the truth.
    pub async fn open(global: &GlobalArguments, output: Output) -> Result<Self, CliError> {
        let session = Self::open_anyway(global, output).await?;
        session.say_what_was_interrupted().await?;
        if session.daemon.is_some() || !session.operator.stores().await?.is_empty() {
            return Ok(session);
        }
        let Some(aside) = set_aside(&global.catalog) else { return Ok(session) };
        if !session.operator.catalog().backups(BackupFilter::default()).await?.is_empty() {
            return Ok(session);
        }
        session.operator.catalog().close().await?;
        Err(CliError::new(
            ExitCode::Failed,
            Reason::CatalogFailed,
            format!("the catalog was damaged and is empty now; the old one is {}", aside.display()),
        )
        .object(global.catalog.display().to_string())
        .hint("`eider db rebuild --store DIR` makes its records again from the archives in DIR"))
    }

    /// A session for verbs that may begin with an empty catalog, and for those that fill one.
    pub async fn open_anyway(global: &GlobalArguments, output: Output) -> Result<Self, CliError> {
        let bar = Arc::new(Bar::new(&output));
        let listener = Some(Arc::clone(&bar) as Arc<dyn Progress>);
        let (mut lost, mut cluster) = (false, false);
        // The default socket belongs to the default catalog: with another file it is another daemon's.
        let (catalog, daemon) = match reach(&global.socket, &global.catalog).await {
            Some((catalog, about)) => {
                cluster = about.cluster;
                (catalog, Some(ControlClient::new(&global.socket)))
            }
            None => {
                let (catalog, needs_rebuild) = open_catalog(&global.catalog, &output).await?;
                lost = needs_rebuild;
                (catalog, None)
            }
        };
        let mut operator = Operator::new(catalog, metrics()?, listener, 1);
        if daemon.is_none() {
            operator = operator.with_ledger(&global.catalog)?;
        }
        let session = Self { operator, daemon, cluster, output, bar, interrupted: Cancel::new() };
        if lost {
            let added = session.operator.add_missing_records().await?;
            if added > 0 {
                session
                    .output
                    .note(&format!("made again from manifests: {}", counted(added, "record")));
            }
            if session.operator.stores().await?.is_empty() {
                session
                    .output
                    .note("run `eider db rebuild --store DIR` to make records again from archives");
            }
        }
        Ok(session)
    }

    /// Whoever only reads records puts nothing right, and is not to think that all is well. A daemon does it
    /// by itself.
    async fn say_what_was_interrupted(&self) -> Result<(), CliError> {
        if self.daemon.is_some() {
            return Ok(());
        }
        for (operation, held) in self.operator.interrupted().await? {
            let holds = match held.as_slice() {
                [] => String::new(),
                names => format!(" and holds {} still", names.join(", ")),
            };
            self.output.note(&format!(
                "warning: {} {}/{} was interrupted{holds}: the next command that acts, such as \
                 `eider run -f FILE`, or `eider daemon` finishes or undoes it first",
                operation.kind, operation.namespace, operation.name
            ));
        }
        Ok(())
    }

    /// A session for verbs that carry operations out: what an earlier process left is put right first.
    pub async fn open_to_act(global: &GlobalArguments, output: Output) -> Result<Self, CliError> {
        let session = Self::open_anyway(global, output).await?;
        if session.daemon.is_none() {
            let recovered = session.operator.recover().await.map_err(CliError::from)?;
            session.bar.finish();
            for (operation, conclusion) in recovered {
                session.output.note(&format!(
                    "{} {}/{} had been interrupted: {}",
                    operation.kind, operation.namespace, operation.name, conclusion.message
                ));
            }
        }
        Ok(session)
    }

    /// A flag that is raised by the first Ctrl-C, SIGTERM or SIGHUP.
    pub fn interrupted(&self) -> &Cancel {
        &self.interrupted
    }

    /// The progress of work that is no operation.
    pub fn progress(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.bar) as Arc<dyn Progress>
    }

    /// Takes the progress bar away.
    pub fn finish_progress(&self) {
        self.bar.finish();
    }

    /// Raises the flag on Ctrl-C, SIGTERM or SIGHUP, for as long as the process lives.
    pub fn listen_for_interrupts(&self) {
        let (operator, cancel, output) =
            (self.operator.clone(), self.interrupted.clone(), self.output.clone());
        let stop = stop_signal();
        tokio::spawn(async move {
            stop.await;
            output.note("stopping; everything is put back first");
            cancel.cancel();
            operator.stop();
        });
    }

    /// Applies documents and carries them out, here or in the daemon, one after the other.
    pub async fn carry_out(
        &self,
        documents: Vec<(Document, String)>,
    ) -> Result<Vec<Done>, CliError> {
        let mut done = Vec::new();
        for (document, source) in documents {
            let asked = jiff::Timestamp::now();
            let mut repeated = false;
            let operation = match &self.daemon {
                Some(daemon) => {
                    let text = document.to_value().to_string();
                    let answer = daemon.apply(text).await.map_err(CliError::from)?;
                    for line in &answer.lines {
                        self.output.note(line);
                    }
                    answer.operations.into_iter().next()
                }
                None => {
                    let applied = self.operator.apply(document, &source).await?;
                    self.output.note(&format!("{} {}", applied.key, applied.verb()));
                    let operation = applied.operation();
                    if let Some(operation) = &operation {
                        repeated = self.operator.has_ended(operation).await?;
                    }
                    operation
                }
            };
            let Some(operation) = operation else { continue };
            let conclusion = match &self.daemon {
                Some(daemon) => self.follow(daemon, &operation).await?,
                None => self.operator.drive(&operation).await?,
            };
            self.bar.finish();
            let (warnings, at) = self.told(&operation).await?;
            repeated |= at.is_some_and(|at| at < asked);
            if repeated {
                self.output.note(&format!(
                    "{} {}/{} has been carried out before and is unchanged; it does not run again",
                    operation.kind, operation.namespace, operation.name
                ));
            }
            for warning in warnings.iter().filter(|_| !repeated) {
                self.output.note(&format!("warning: {warning}"));
            }
            done.push(Done { operation, conclusion, repeated, at });
            if self.interrupted.is_cancelled() {
                return Err(CliError::interrupted());
            }
        }
        Ok(done)
    }

    /// What people have to know of an operation, by its journal, and when it ended.
    async fn told(
        &self,
        operation: &OperationId,
    ) -> Result<(Vec<String>, Option<jiff::Timestamp>), CliError> {
        let journal = self.operator.catalog().journal(operation).await?;
        let log = Log::new(&journal);
        let of_data = log.job().map(|job| status::warnings_of_data(&job, &log)).unwrap_or_default();
        Ok((status::warnings(&log, of_data), log.conclusion().map(|(_, at)| at)))
    }

    /// Watches an operation that the daemon carries out.
    async fn follow(
        &self,
        daemon: &ControlClient,
        operation: &OperationId,
    ) -> Result<Conclusion, CliError> {
        let mut drawn = 0;
        let mut phase = String::new();
        let mut cancelled = false;
        let mut waited = 0_u32;
        loop {
            let state = daemon.state(operation).await.map_err(CliError::from)?;
            if let Some(conclusion) = state.conclusion {
                return Ok(conclusion);
            }
            waited += u32::from(state.waits);
            if waited == LONG_WAIT {
                self.output.note(&format!(
                    "{} {}/{} waits until the daemon is done with what it has begun before",
                    operation.kind, operation.namespace, operation.name
                ));
            }
            if state.phase != phase {
                self.bar.phase(&state.phase);
                phase = state.phase;
                drawn = 0;
            }
            if let Some(progress) = state.progress {
                let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
                self.bar.total(0, unsigned(progress.total_bytes));
                let bytes = unsigned(progress.bytes);
                self.bar.advance(0, bytes.saturating_sub(drawn));
                drawn = bytes;
            }
            if self.interrupted.is_cancelled() && !cancelled {
                daemon.cancel(operation).await.map_err(CliError::from)?;
                cancelled = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Closes the catalog cleanly, whatever came of the verb, and passes that on.
    pub async fn finish(self, result: Result<(), CliError>) -> Result<(), CliError> {
        self.bar.finish();
        if self.daemon.is_none() {
            let closed = self.operator.catalog().close().await;
            return result.and(closed.map_err(CliError::from));
        }
        result
    }
}

/// The catalog of the daemon on this socket, if one answers and it is the one that is meant.
async fn reach(socket: &Path, catalog: &Path) -> Option<(Catalog, About)> {
    if !socket.exists() {
        return None;
    }
    let about = ControlClient::new(socket).about().await.ok()?;
    let same = match (catalog.canonicalize(), Path::new(&about.catalog).canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        // In another mount namespace paths say nothing; the socket was named on purpose.
        _ => true,
    };
    same.then(|| (Catalog::remote(socket), about))
}

/// Resolves at the first SIGINT, SIGTERM or SIGHUP from now on: the signals are caught when this is called,
/// not when its result is first waited for, or one that comes in between would kill the process.
pub fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    // A terminal that is lost ends what was begun in it, unless `nohup` says otherwise.
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores_hangups(&own) {
        kinds.push(SignalKind::hangup());
    }
    let signals: std::io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
    async move {
        let Ok(mut signals) = signals else {
            // Without handlers the signals end the process by themselves.
            return std::future::pending().await;
        };
        std::future::poll_fn(|context| {
            let came = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Whether a process was told to ignore SIGHUP, by what `proc(5)` calls its status: the lowest bit of a mask.
fn ignores_hangups(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// The first failure among operations, as the end of the process.
pub fn judge(done: &[Done]) -> Result<(), CliError> {
    let Some(failed) = done.iter().find(|done| !done.conclusion.is_success()) else {
        return Ok(());
    };
    let operation = &failed.operation;
    let failure =
        failed.conclusion.failure.clone().unwrap_or_else(|| {
            Failure::new(Reason::InternalError, failed.conclusion.message.clone())
        });
    let before = failure.reason == Reason::Cancelled;
    let error = CliError::from(failure)
        .object(format!("{} {}/{}", operation.kind, operation.namespace, operation.name));
    // This process was not interrupted, or it would have said so: the operation was, at another time.
    Err(if before {
        CliError { exit_code: ExitCode::Failed, ..error }
            .hint("change the document, or give it another name, to have it carried out")
    } else {
        error
    })
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let error = Self::for_reason(failure.reason, failure.message);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<CatalogError> for CliError {
    fn from(failure: CatalogError) -> Self {
        let code = match &failure {
            CatalogError::Held { .. } | CatalogError::Unreachable { .. } => ExitCode::Unreachable,
            CatalogError::Newer { .. } => ExitCode::Refused,
            CatalogError::Invalid { .. } => ExitCode::Usage,
            CatalogError::Remote(body) if body.reason == Reason::InvalidSpec => ExitCode::Usage,
            _ => ExitCode::Failed,
        };
        Self::new(code, failure.reason(), failure.to_string())
            .object(failure.object())
            .hint(failure.hint())
    }
}

impl From<crate::operator::OperatorError> for CliError {
    fn from(failure: crate::operator::OperatorError) -> Self {
        match failure {
            crate::operator::OperatorError::Catalog(error) => error.into(),
            crate::operator::OperatorError::Refused(failure) => failure.into(),
        }
    }
}

impl From<crate::engine::EngineError> for CliError {
    fn from(failure: crate::engine::EngineError) -> Self {
        let mut error =
            Self::for_reason(failure.reason(), failure.to_string()).hint(failure.hint());
        if matches!(failure, crate::engine::EngineError::EntryMissing { .. }) {
            error.exit_code = ExitCode::NotFound;
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::ignores_hangups;

    #[test]
    fn a_hangup_is_ignored_where_nohup_says_so() {
        assert!(ignores_hangups("Name:\teider\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangups("Name:\teider\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangups(""));
    }
}
