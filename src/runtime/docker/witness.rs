//! What the engine tells of the time in which containers are held still: it keeps its last few hundred events
//! only, so that they are listened to while they happen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::looking::{mode, touch};
use super::stamps::{TELL, written};
use super::worker::WORKER_LABEL;
use super::{DockerRuntime, held, listing, looking};
use crate::plan::backup::step::QUIESCE;
use crate::plan::docker::{Did, Disturbers, Happening, Held, disturbers, flag};
use crate::plan::{Failure, Job, Log};
use crate::spec::ConsistencyMode;

/// What the engine calls it when files are copied into a container (`docker cp`), whether it runs or not.
const COPIED: &str = "extract-to-dir";

/// Listens to what containers do from a moment on.
pub(super) struct Witness {
    held: Held,
    heard: Arc<Mutex<Vec<Happening>>>,
    listening: JoinHandle<()>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl DockerRuntime {
    /// Begins to listen; nothing where nobody is held still.
    pub(super) async fn witness(
        &self,
        job: &Job,
        log: &Log<'_>,
    ) -> Result<Option<Witness>, Failure> {
        let Some(held) = standing(job, log) else { return Ok(None) };
        let docker = self.connection.docker().await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (noted, since) = (Arc::clone(&heard), held.since);
        let listening = tokio::spawn(async move {
            let mut events = docker.events(Some(asked(since, None)));
            while let Some(Ok(event)) = events.next().await {
                let mut heard = noted.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(happening(&event));
            }
        });
        Ok(Some(Witness { held, heard, listening }))
    }

    /// Fails if anybody runs who was to stand still, or has run since. Returns what people have to know.
    pub(super) async fn check_undisturbed(
        &self,
        job: &Job,
        witness: Option<&Witness>,
    ) -> Result<Vec<String>, Failure> {
        self.check_still(job).await?;
        let Some(witness) = witness else { return Ok(Vec::new()) };
        let is_deaf = witness.listening.is_finished();
        let heard = witness.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut warnings = self.check_meanwhile(job, &witness.held, heard).await?;
        if is_deaf {
            warnings.push(
                "the engine broke off telling its events: that nobody came and went is known only as far back \
                 as it remembers"
                    .to_owned(),
            );
        }
        Ok(warnings)
    }

    /// The same, without having listened.
    pub(super) async fn check_unchanged(&self, job: &Job, log: &Log<'_>) -> Result<(), Failure> {
        self.check_still(job).await?;
        if let Some(held) = standing(job, log) {
            self.check_meanwhile(job, &held, Vec::new()).await?;
        }
        Ok(())
    }

    async fn check_meanwhile(
        &self,
        job: &Job,
        held: &Held,
        mut happenings: Vec<Happening>,
    ) -> Result<Vec<String>, Failure> {
        let docker = self.connection.docker().await?;
        let mut warnings = Vec::new();
        // What has been heard may lack the last moments.
        match recent(&docker, held.since).await {
            Some(more) => happenings.extend(more),
            None => warnings.push(
                "the engine does not tell its events: whether somebody came and went is not known"
                    .to_owned(),
            ),
        }
        for entry in &held.stopping.order {
            let found = listing::inspect(docker.clone(), entry.id.clone()).await?;
            let started = found.and_then(|found| found.state?.started_at?.parse().ok());
            let what = Did::Run(entry.name.clone());
            let container = entry.id.clone();
            happenings.extend(started.map(|at| Happening { at, container, what }));
        }
        let others = self.holds.of_others(job.operation());
        happenings.retain(|happening| !others.contains(&happening.container));
        let look = self.look(job).await?;
        let found = disturbers(&happenings, held, &look.selection, &look.facts, touch(job))?;
        if found == Disturbers::default() { Ok(warnings) } else { Err(looking::disturbed(found)) }
    }
}

/// Who is held still by now; nobody in mode Live.
fn standing(job: &Job, log: &Log<'_>) -> Option<Held> {
    let (stopping, _) = held(log).filter(|_| mode(job) != ConsistencyMode::Live)?;
    Some(Held { stopping, since: log.done_at(QUIESCE)? })
}

/// The question for what containers do; with an end that has passed the engine answers and ends the stream.
fn asked(since: Timestamp, until: Option<Timestamp>) -> EventsOptions {
    let filters = HashMap::from([
        ("type", vec!["container", "volume"]),
        ("event", vec!["start", "unpause", "mount", COPIED]),
    ]);
    let options = EventsOptionsBuilder::new().since(&written(since)).filters(&filters);
    match until {
        Some(until) => options.until(&written(until)).build(),
        None => options.build(),
    }
}

/// What the engine remembers; nothing if it does not tell.
async fn recent(docker: &Docker, since: Timestamp) -> Option<Vec<Happening>> {
    let asking = async {
        let mut events = docker.events(Some(asked(since, Some(Timestamp::now()))));
        let mut found = Vec::new();
        while let Some(event) = events.next().await {
            found.extend(happening(&event.ok()?));
        }
        Some(found)
    };
    tokio::time::timeout(TELL, asking).await.ok().flatten()
}

/// An event as far as it matters. Workers touch data on behalf of an operation, and who has the label is to go
/// on whatever happens.
fn happening(event: &EventMessage) -> Option<Happening> {
    let at = Timestamp::from_nanosecond(event.time_nano?.into()).ok()?;
    let actor = event.actor.as_ref()?;
    let (id, attributes) = (actor.id.clone()?, actor.attributes.clone().unwrap_or_default());
    if event.typ == Some(EventMessageTypeEnum::VOLUME) {
        let writable = attributes.get("read/write").is_none_or(|value| value == "true");
        let what = Did::Mount { volume: id, writable };
        return Some(Happening { at, container: attributes.get("container")?.clone(), what });
    }
    let goes_on = attributes.get("eider.stop").and_then(|value| flag(value)) == Some(false);
    if goes_on || attributes.contains_key(WORKER_LABEL) {
        return None;
    }
    let name = attributes.get("name").cloned().unwrap_or_else(|| id.clone());
    let is_copy = event.action.as_deref() == Some(COPIED);
    let what = if is_copy { Did::Copied(name) } else { Did::Run(name) };
    Some(Happening { at, container: id, what })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(kind: &str, id: &str, attributes: &Value) -> Option<Did> {
        read_as("start", kind, id, attributes)
    }

    fn read_as(action: &str, kind: &str, id: &str, attributes: &Value) -> Option<Did> {
        let event = json!({
            "Type": kind, "Action": action, "timeNano": 1_795_305_601_000_000_000_i64,
            "Actor": {"ID": id, "Attributes": attributes},
        });
        happening(&serde_json::from_value(event).unwrap()).map(|found| found.what)
    }

    #[test]
    fn events_are_read_but_those_of_workers_and_of_who_goes_on() {
        let web = read("container", "a1", &json!({"name": "web", "image": "x"}));
        assert_eq!(web, Some(Did::Run("web".to_owned())));
        let copied = read_as("extract-to-dir", "container", "a1", &json!({"name": "web"}));
        assert_eq!(copied, Some(Did::Copied("web".to_owned())));
        assert_eq!(read("container", "a1", &json!({"name": "w", "eider.worker": "y"})), None);
        for word in ["false", "no", " OFF", "0"] {
            assert_eq!(read("container", "a1", &json!({"name": "w", "eider.stop": word})), None);
        }
        let mount =
            |mode: &str| read("volume", "data", &json!({"container": "a1", "read/write": mode}));
        let volume = || "data".to_owned();
        assert_eq!(mount("true"), Some(Did::Mount { volume: volume(), writable: true }));
        assert_eq!(mount("false"), Some(Did::Mount { volume: volume(), writable: false }));
    }
}
