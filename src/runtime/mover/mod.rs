//! The words between the operator and a mover (ADR 11), and the mover itself.
//!
//! A mover is the host runtime in a pod, or in a one-shot container beside Eider's own (ADR 15). In a
//! pod it is given a [`Mission`] when it is created, is asked for steps by an annotation of its pod,
//! and answers with lines of JSON and a termination message. In a container it is asked by lines of its
//! standard input, each with its mission, and answers on its standard output. It knows no API of
//! Kubernetes or Docker: everything it has is mounted.

mod piped;
mod process;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{Action, Failure, Job, JournalEntry, StoreBinding};

pub use piped::run_piped;
pub use process::{Surroundings, run};

/// The environment variable that holds the mission.
pub const MISSION_VARIABLE: &str = "EIDER_MISSION";
/// The annotation on a mover's pod that lists what it may do.
pub const STEPS_ANNOTATION: &str = "eider.dev/steps";
/// Where the downward API puts that annotation.
pub const STEPS_DIRECTORY: &str = "/eider/steps";
/// Name of the file in it.
pub const STEPS_FILE: &str = "requests";
/// Where each claim of the target is mounted, under its own name.
pub const VOLUMES_DIRECTORY: &str = "/eider/volumes";
/// Where the store's claim is mounted.
pub const STORE_DIRECTORY: &str = "/eider/store";
/// What a mover that runs as root may do to read files of any owner and mode.
pub const READING_CAPABILITIES: &[&str] = &["DAC_OVERRIDE", "FOWNER"];
/// What it may do to write them as they were.
pub const WRITING_CAPABILITIES: &[&str] =
    &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];
/// How often either end of a pipe says that it is there: proxies cut connections that are silent.
pub const SIGN_OF_LIFE: std::time::Duration = std::time::Duration::from_secs(10);
/// The longest termination message that Kubernetes keeps, in bytes.
pub const TERMINATION_LIMIT: usize = 4096;

/// What a mover is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mission {
    /// The operation, on mounted directories; none for work on a store alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// What was done of it before this mover was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalEntry>,
    /// The store, as a mounted directory.
    pub store: StoreBinding,
}

/// One thing that a mover is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Names the request: the step, a dot, and how often the step has failed before. Asking twice for
    /// the same is asking once.
    pub id: String,
    /// What to do.
    pub work: Work,
    /// Whether another mover has begun with it and is gone: what it left is in the way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// What the operator did meanwhile that the work depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<JournalEntry>,
}

impl Request {
    /// The identity of a step's request.
    pub fn identity(step: &str, failures: u32) -> String {
        format!("{step}.{failures}")
    }

    /// The step that the request is for.
    pub fn step(&self) -> &str {
        self.id.rsplit_once('.').map_or(self.id.as_str(), |(step, _)| step)
    }
}

/// What a mover can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// One action of the mission's job, with the intent that goes before it.
    Perform(Action),
    /// Look at the data and the store; changes nothing.
    Look,
    /// What has to be in the journal before an action; nothing is done yet but what holds its place.
    Intend(Action),
    /// One action whose intent this mover was asked for before, or that needs none.
    Carry(Action),
    /// Look into the store: free space and every manifest.
    Inspect,
    /// Remove these archives from the store, but for those that others build on.
    Delete(Vec<String>),
    /// End.
    Finish,
}

/// One line that a mover is told on its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// To carry out a request. The mission comes with it, with the journal as it is now.
    Ask {
        /// What for.
        mission: Box<Mission>,
        /// What.
        request: Request,
    },
    /// To end the current request early, if it can be.
    Cancel,
    /// That somebody is there.
    Alive,
}

/// One line that a mover says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Saying {
    /// A request has been carried out.
    Done {
        /// Which.
        id: String,
        /// The facts for the journal.
        facts: Value,
    },
    /// A request has failed.
    Failed {
        /// Which.
        id: String,
        /// Why.
        failure: Failure,
    },
    /// How far the current request has come.
    Progress {
        /// Entries.
        entries: u64,
        /// Bytes.
        bytes: u64,
        /// Bytes expected; 0 when unknown.
        total: u64,
    },
    /// The current request has read all that it reads; what is written of it is not complete yet.
    Read,
    /// One archive of the store that is all there, while looking into it.
    Archive {
        /// Its manifest.
        manifest: Value,
    },
    /// One archive of the store that is no backup as it is.
    Unreadable {
        /// Its name.
        name: String,
        /// Why. An earlier version's mover does not say it, and tells of archives that are not there: what it says is
        /// not heard, and nothing is removed by it.
        why: Failure,
    },
    /// That it is there.
    Alive,
}

/// How lines of the mover are told from a log that shares the stream.
const MARK: &str = "eider-mover ";

impl Saying {
    /// The line.
    pub fn to_line(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a line; nothing for lines of another kind.
    pub fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim_end().strip_prefix(MARK)?).ok()
    }

    /// The outcome that answers the request `id`.
    pub fn answers(&self, id: &str) -> Option<Result<Value, Failure>> {
        match self {
            Self::Done { id: own, facts } if own == id => Some(Ok(facts.clone())),
            Self::Failed { id: own, failure } if own == id => Some(Err(failure.clone())),
            _ => None,
        }
    }
}

/// What fits of these outcomes into a termination message: the newest first, whole ones only.
pub fn termination_message(outcomes: &[Saying]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut length = 0;
    for outcome in outcomes.iter().rev() {
        let mut line = outcome.to_line();
        if length + line.len() + 1 > TERMINATION_LIMIT
            && let Saying::Done { id, facts } = outcome
        {
            let mut facts = facts.clone();
            shorten(&mut facts);
            line = Saying::Done { id: id.clone(), facts }.to_line();
        }
        if length + line.len() + 1 > TERMINATION_LIMIT {
            break;
        }
        length += line.len() + 1;
        lines.push(line);
    }
    lines.reverse();
    lines.join("\n")
}

/// Drops the lists of a fact that can be long; their counts stay.
fn shorten(facts: &mut Value) {
    if let Some(map) = facts.as_object_mut() {
        if let Some(warnings) = map.get_mut("warnings").and_then(Value::as_array_mut) {
            warnings.truncate(3);
        }
        if let Some(inner) = map.get_mut("runtime") {
            shorten(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Reason;
    use serde_json::json;

    #[test]
    fn lines_read_back_and_other_lines_are_left_alone() {
        let said = Saying::Done { id: "archive.0".to_owned(), facts: json!({"files": 3}) };
        assert_eq!(Saying::from_line(&format!("{}\n", said.to_line())), Some(said.clone()));
        assert_eq!(Saying::from_line("2026-11-21 INFO reading"), None);
        assert_eq!(said.answers("archive.0"), Some(Ok(json!({"files": 3}))));
        assert_eq!(said.answers("archive.1"), None);
        let older = Saying::from_line(r#"eider-mover {"unreadable":{"name":"a.tar.gz"}}"#);
        assert_eq!(older, None);
    }

    #[test]
    fn a_termination_message_fits_and_keeps_the_newest() {
        let warnings: Vec<String> = (0..100).map(|number| format!("path {number}: gone")).collect();
        let archive = Saying::Done {
            id: "archive.0".to_owned(),
            facts: json!({"files": 1, "warnings": warnings, "runtime": {"warnings": warnings}}),
        };
        let failure = Failure::new(Reason::ArchiveDamaged, "x".repeat(500));
        let verify = Saying::Failed { id: "verify.0".to_owned(), failure: failure.clone() };
        let message = termination_message(&[archive, verify]);
        assert!(message.len() <= TERMINATION_LIMIT, "{}", message.len());
        let said: Vec<Saying> = message.lines().filter_map(Saying::from_line).collect();
        assert_eq!(said.len(), 2, "{message}");
        assert_eq!(said[1].answers("verify.0"), Some(Err(failure)));
        let huge = Saying::Done { id: "a.0".to_owned(), facts: json!("x".repeat(9000)) };
        assert_eq!(termination_message(&[huge]), "");
    }

    #[test]
    fn an_identity_names_its_step() {
        let id = Request::identity("safety-backup", 2);
        let request = Request { id, work: Work::Finish, again: false, journal: Vec::new() };
        assert_eq!(request.step(), "safety-backup");
    }
}
