//! The mover's own loop: requests in by a file, the host runtime's work, answers out by lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Mission, Request, Saying, Work, termination_message};
use crate::engine::{Cancel, LocalStore, Presence, Progress};
use crate::plan::chain::Removal;
use crate::plan::{Action, Failure, Job, JournalEntry, Log, Mark};
use crate::runtime::host::{self, HostRuntime};
use crate::runtime::{Handles, Runtime, Turn};
use crate::spec::Reason;

/// How often the file of requests is looked at: it is a few bytes in memory.
const LOOK: Duration = Duration::from_millis(100);
/// How often progress is said.
const PROGRESS: Duration = Duration::from_secs(2);
/// A mover that nobody asks for anything ends after this long.
const IDLE: Duration = Duration::from_mins(10);

/// Where a mover hears and speaks; paths differ in tests only.
pub struct Surroundings {
    /// The file of requests.
    pub requests: PathBuf,
    /// Where Kubernetes reads the termination message.
    pub termination: PathBuf,
    /// Writes one line to standard output.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
    /// Raised when the pod is to end.
    pub stop: Cancel,
}

/// Carries out what is asked for until `Finish`, a stop, or ten idle minutes. Returns whether the
/// last request succeeded.
pub async fn run(mission: Mission, surroundings: Surroundings) -> bool {
    let mut mover = Mover {
        runtime: HostRuntime::default(),
        journal: mission.journal.iter().cloned().map(as_own).collect(),
        mission,
        outcomes: Vec::new(),
        surroundings,
    };
    mover.serve().await
}

pub(super) struct Mover {
    pub(super) mission: Mission,
    pub(super) runtime: HostRuntime,
    pub(super) journal: Vec<JournalEntry>,
    pub(super) outcomes: Vec<Saying>,
    pub(super) surroundings: Surroundings,
}

impl Mover {
    async fn serve(&mut self) -> bool {
        let mut idle_since = Instant::now();
        let mut succeeded = true;
        loop {
            if self.surroundings.stop.is_cancelled() || idle_since.elapsed() > IDLE {
                return succeeded;
            }
            let asked = read_requests(&self.surroundings.requests);
            let next = asked.into_iter().find(|request| !self.has_answered(&request.id));
            let Some(request) = next else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if request.work == Work::Finish {
                return succeeded;
            }
            let outcome = self.carry_out(&request).await;
            succeeded = outcome.is_ok();
            self.answer(&request, outcome);
            idle_since = Instant::now();
        }
    }

    fn has_answered(&self, id: &str) -> bool {
        self.outcomes.iter().any(|said| said.answers(id).is_some())
    }

    /// Says the outcome, and leaves it in the termination message in case nobody listened.
    fn answer(&mut self, request: &Request, outcome: Result<Value, Failure>) {
        let id = request.id.clone();
        let said = match outcome {
            Ok(facts) => Saying::Done { id, facts },
            Err(failure) => Saying::Failed { id, failure },
        };
        self.outcomes.push(said.clone());
        // Written before it is said: who hears the line may delete the pod at once.
        let message = termination_message(&self.outcomes);
        if let Err(error) = std::fs::write(&self.surroundings.termination, message) {
            tracing::warn!("the termination message cannot be written: {error}");
        }
        (self.surroundings.say)(&said.to_line());
    }

    pub(super) async fn carry_out(&mut self, request: &Request) -> Result<Value, Failure> {
        match &request.work {
            Work::Perform(action) => self.perform(request, action).await,
            Work::Look => {
                let observed = self.runtime.observe(self.job()?, Log::new(&self.journal)).await?;
                Ok(json!(observed))
            }
            Work::Intend(action) => {
                self.runtime.intend(self.job()?, action, Log::new(&self.journal)).await
            }
            Work::Carry(action) => {
                let (job, log) = (self.job()?, Log::new(&self.journal));
                self.runtime.perform(job, action, log, &self.handles()).await
            }
            Work::Inspect => self.inspect(),
            Work::Delete(names) => self.delete(names),
            Work::Finish => Ok(Value::Null),
        }
    }

    fn job(&self) -> Result<&Job, Failure> {
        let job = self.mission.job.as_ref();
        job.ok_or_else(|| Failure::new(Reason::InternalError, "this mover has no operation"))
    }

    fn handles(&self) -> Handles {
        let progress = Arc::new(Spoken::new(Arc::clone(&self.surroundings.say)));
        let cancel = self.surroundings.stop.clone();
        Handles { progress, cancel, turn: Turn::default() }
    }

    async fn perform(&mut self, request: &Request, action: &Action) -> Result<Value, Failure> {
        let (job, handles) = (self.job()?.clone(), self.handles());
        self.journal.extend(request.journal.iter().cloned());
        if request.again {
            self.clear_away(&job, action, &handles).await?;
        }
        let step = request.step().to_owned();
        let intent = self.runtime.intend(&job, action, Log::new(&self.journal)).await?;
        self.note(&job, &step, Mark::Intent, intent);
        let log = Log::new(&self.journal);
        let outcome = self.runtime.perform(&job, action, log, &handles).await;
        match &outcome {
            Ok(facts) => self.note(&job, &step, Mark::Done, facts.clone()),
            Err(failure) => self.note(&job, &step, Mark::Failed, json!(failure)),
        }
        let facts = outcome?;
        // Whoever seals knows the store best: what it holds now goes with the answer.
        if matches!(action, Action::Seal | Action::DiscardArchive) {
            return Ok(with_store(facts, &self.mission));
        }
        Ok(facts)
    }

    /// Another mover has begun with this and is gone.
    async fn clear_away(
        &self,
        job: &Job,
        action: &Action,
        handles: &Handles,
    ) -> Result<(), Failure> {
        let first: &[Action] = match action {
            Action::Archive => return host::discard_partial(job, &Log::new(&self.journal)),
            Action::Extract => &[Action::DiscardStaging],
            Action::CarryOver => &[Action::DiscardStaging, Action::Extract],
            _ => &[],
        };
        for action in first {
            self.runtime.perform(job, action, Log::new(&self.journal), handles).await?;
        }
        Ok(())
    }

    fn note(&mut self, job: &Job, step: &str, mark: Mark, detail: Value) {
        self.journal.push(JournalEntry {
            operation: job.operation().clone(),
            step: step.to_owned(),
            mark,
            at: Timestamp::now(),
            session: SESSION.to_owned(),
            detail,
        });
    }

    fn inspect(&self) -> Result<Value, Failure> {
        let store = host::open_store(&self.mission.store)?;
        let listing = store.list()?;
        // One that could be removed by half only is still to be removed.
        let halves = listing.unfinished.into_iter().map(|name| (store.presence(&name), name));
        let named = listing.archives.into_iter().map(|archive| {
            let name = archive.name.clone();
            (store.presence_of(archive), name)
        });
        let sayings = named.chain(halves).filter_map(|(presence, name)| match presence {
            Presence::Whole(manifest) => {
                let manifest = serde_json::to_value(*manifest).unwrap_or_default();
                Some(Saying::Archive { manifest })
            }
            Presence::Broken(error) => Some(Saying::Unreadable { name, why: error.into() }),
            // A manifest alone is no archive.
            Presence::Gone => None,
        });
        let mut told = 0_u64;
        for saying in sayings {
            (self.surroundings.say)(&saying.to_line());
            told += 1;
        }
        store.check_writable()?;
        // Lines of a log get lost: who has heard fewer does not know all that is there.
        Ok(with_store(json!({ "told": told }), &self.mission))
    }

    fn delete(&self, names: &[String]) -> Result<Value, Failure> {
        let store = host::open_store(&self.mission.store)?;
        let Removal { remove, stay } = host::removable(&store, names)?;
        for name in &remove {
            store.discard(name)?;
            store.delete(name)?;
        }
        Ok(with_store(json!({ "deleted": remove, "stay": stay }), &self.mission))
    }
}

/// What a mover calls its process in the journal.
const SESSION: &str = "mover";

/// A line of the operator's journal for the runtime of hosts, to which it matters whose process has run the hooks
/// before: in a cluster what they hold still goes on, whichever process asks for the next step.
fn as_own(entry: JournalEntry) -> JournalEntry {
    JournalEntry { session: SESSION.to_owned(), ..entry }
}

/// Adds what the store holds to the facts of an answer.
fn with_store(mut facts: Value, mission: &Mission) -> Value {
    let Ok(path) = host::local_path(&mission.store) else { return facts };
    let Ok(store) = LocalStore::open(&path, &mission.store.name, false) else { return facts };
    if !facts.is_object() {
        facts = json!({});
    }
    let (Ok(listing), Ok(free), Some(map)) =
        (store.list(), store.free_bytes(), facts.as_object_mut())
    else {
        return facts;
    };
    let archives = listing.archives.into_iter();
    let whole: Vec<u64> = archives
        .filter_map(|archive| store.presence_of(archive).whole())
        .map(|manifest| manifest.size_bytes)
        .collect();
    let bytes: u64 = whole.iter().sum();
    map.insert(
        "store".to_owned(),
        json!({"backups": whole.len(), "bytes": bytes, "freeBytes": free}),
    );
    facts
}

/// The requests as the file has them. A file that is just being replaced, or that somebody has
/// written nonsense into, holds none.
fn read_requests(path: &Path) -> Vec<Request> {
    let Ok(text) = std::fs::read_to_string(path) else { return Vec::new() };
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!("the requests in {} do not decode: {error}", path.display());
        Vec::new()
    })
}

/// Says progress now and then.
struct Spoken {
    say: Arc<dyn Fn(&str) + Send + Sync>,
    entries: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    begun: Instant,
    said_after: AtomicU64,
}

impl Spoken {
    fn new(say: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            say,
            entries: zero(),
            bytes: zero(),
            total: zero(),
            begun: Instant::now(),
            said_after: zero(),
        }
    }
}

impl Progress for Spoken {
    fn total(&self, _: u64, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn advance(&self, entries: u64, bytes: u64) {
        let entries = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let said = self.said_after.load(Ordering::Relaxed);
        let due = said.saturating_add(u64::try_from(PROGRESS.as_millis()).unwrap_or(u64::MAX));
        let first =
            |now| self.said_after.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed);
        if now >= due && first(now).is_ok() {
            let total = self.total.load(Ordering::Relaxed);
            (self.say)(&Saying::Progress { entries, bytes, total }.to_line());
        }
    }

    fn all_read(&self) {
        (self.say)(&Saying::Read.to_line());
    }

    fn phase(&self, _: &str) {
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::engine::{Manifest, PackSummary};
    use crate::plan::StoreBinding;
    use crate::plan::backup::step::{ARCHIVE, HOOKS_BEFORE};
    use crate::spec::ArchiveFormat;

    /// A Backup failed whose operator, and its mover, died after the hooks before.
    #[test]
    fn a_mover_goes_on_whichever_process_has_run_the_hooks_before() {
        let entry = |step: &str, session: &str| JournalEntry {
            operation: "Backup/shop/b/1/u".parse().unwrap(),
            step: step.to_owned(),
            mark: Mark::Done,
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            session: session.to_owned(),
            detail: Value::Null,
        };
        let journal = [as_own(entry(HOOKS_BEFORE, "operator")), entry(ARCHIVE, SESSION)];
        assert!(Log::new(&journal).is_one_session(HOOKS_BEFORE, ARCHIVE));
    }

    /// It counted as a backup, had a record made of it, and retention removed the last real archive for it.
    #[test]
    fn a_manifest_whose_archive_is_gone_or_cut_is_no_backup() {
        let directory = tempfile::tempdir().unwrap();
        let spec = json!({"local": {"path": directory.path()}});
        let spec = serde_json::from_value(spec).unwrap();
        let binding = StoreBinding { name: "main".to_owned(), spec };
        let store = host::open_store(&binding).unwrap();
        for (name, bytes) in [("whole", Some("bytes")), ("cut", Some("byt")), ("gone", None)] {
            let name = format!("backup_{name}.tar.gz");
            let (summary, at) = (PackSummary::default(), Timestamp::UNIX_EPOCH);
            let mut manifest = Manifest::new(&name, ArchiveFormat::TarGz, &summary, at);
            manifest.size_bytes = 5;
            store.write_manifest(&manifest).unwrap();
            if let Some(bytes) = bytes {
                std::fs::write(store.archive_path(&name), bytes).unwrap();
            }
        }
        std::fs::write(store.archive_path("backup_half.tar.gz"), "bytes").unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let surroundings = Surroundings {
            requests: PathBuf::new(),
            termination: PathBuf::new(),
            say: Arc::new(move |line| heard.lock().unwrap().extend(Saying::from_line(line))),
            stop: Cancel::new(),
        };
        let mover = Mover {
            mission: Mission { job: None, journal: Vec::new(), store: binding },
            runtime: HostRuntime::default(),
            journal: Vec::new(),
            outcomes: Vec::new(),
            surroundings,
        };
        let answer = mover.inspect().unwrap();
        assert_eq!((&answer["told"], &answer["store"]["backups"]), (&json!(3), &json!(1)));
        assert_eq!(answer["store"]["bytes"], 5);
        let said: Vec<String> = said.lock().unwrap().iter().map(summary).collect();
        assert_eq!(
            said,
            [
                "backup_cut.tar.gz: ArchiveDamaged",
                "backup_whole.tar.gz",
                "backup_half.tar.gz: ArchiveMissing",
            ]
        );
        // What was removed by half is removed all the same.
        let names = vec!["backup_half.tar.gz".to_owned()];
        assert_eq!(mover.delete(&names).unwrap()["deleted"], json!(names));
        assert!(!store.archive_path(&names[0]).exists());
    }

    fn summary(said: &Saying) -> String {
        match said {
            Saying::Archive { manifest } => manifest["name"].as_str().unwrap().to_owned(),
            Saying::Unreadable { name, why } => format!("{name}: {}", why.reason),
            other => panic!("{other:?}"),
        }
    }
}
