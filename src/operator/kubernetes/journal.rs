//! The journal in the status of an object (ADR 12): written before each effect, read by a process
//! whose catalog does not know the operation.

use std::collections::HashMap;

use serde_json::Value;

use crate::plan::{Job, JournalEntry, Mark, OPERATION, OperationId};
use crate::spec::JournalLine;

/// Lines up to which all are kept: more than any operation has, unless something is tried again and again.
const LIMIT: usize = 60;
/// The longest fact that is kept, in bytes of JSON; a longer one loses what people read. What decides anything, as
/// the claims and the paths that were found, stays.
const LONGEST: usize = 8 << 10;
/// The most lines that one is believed to stand for: a status may be written by others, too.
const MOST_LEFT_OUT: u32 = 1000;
/// The lists that only people read.
const READ_BY_PEOPLE: [&str; 2] = ["warnings", "checks"];

/// The lines of a journal for the status, the job itself among them: what it refers to may be gone by the time that
/// somebody else goes on with it, and its service stands still.
///
/// Of a long one repeated attempts are left out, the oldest first, and counted on the next that stays. The first and
/// the last line of each step with each mark, and each reason of a failure, stay, whatever their number: a process
/// that reads nothing else has to know of every step that it was done, what was found when it was begun, and how
/// often it has failed.
pub fn to_lines(journal: &[JournalEntry]) -> Vec<JournalLine> {
    let mut surplus = journal.len().saturating_sub(LIMIT);
    let mut still: HashMap<Alike<'_>, u32> = HashMap::new();
    for entry in journal {
        *still.entry(alike(entry)).or_default() += 1;
    }
    // Of each: how many were left out since the last that stayed, once one stays.
    let mut left_out: HashMap<Alike<'_>, u32> = HashMap::new();
    let mut lines = Vec::new();
    for entry in journal {
        let key = alike(entry);
        let later = still.entry(key).and_modify(|count| *count -= 1).or_default();
        if surplus > 0
            && *later > 0
            && let Some(count) = left_out.get_mut(&key)
        {
            *count += 1;
            surplus -= 1;
            continue;
        }
        let count = left_out.insert(key, 0).unwrap_or_default();
        lines.push(JournalLine {
            step: entry.step.clone(),
            mark: entry.mark.as_str().to_owned(),
            at: entry.at.to_string(),
            session: entry.session.clone(),
            detail: detail(entry),
            left_out: (count > 0).then_some(count),
        });
    }
    lines
}

/// What lines have in common that stand for one another: step, mark and reason of the failure.
type Alike<'a> = (&'a str, &'static str, Option<&'a str>);

fn alike(entry: &JournalEntry) -> Alike<'_> {
    let reason = if entry.mark == Mark::Failed { entry.detail["reason"].as_str() } else { None };
    (&entry.step, entry.mark.as_str(), reason)
}

fn detail(entry: &JournalEntry) -> Option<String> {
    if entry.detail.is_null() {
        return None;
    }
    let text = entry.detail.to_string();
    if text.len() <= LONGEST {
        return Some(text);
    }
    let mut shorter = entry.detail.clone();
    drop_lists(&mut shorter);
    Some(shorter.to_string())
}

fn drop_lists(value: &mut Value) {
    let Value::Object(map) = value else { return };
    for (name, value) in map {
        match value {
            Value::Array(items) if READ_BY_PEOPLE.contains(&name.as_str()) => items.clear(),
            other => drop_lists(other),
        }
    }
}

/// The entries that lines stand for; unreadable ones are left out. Those that a line only counts are told as that line
/// is, and no more of them than an operation is ever tried.
pub fn from_lines(operation: &OperationId, lines: &[JournalLine]) -> Vec<JournalEntry> {
    let entries = lines
        .iter()
        .filter_map(|line| {
            let entry = JournalEntry {
                operation: operation.clone(),
                step: line.step.clone(),
                mark: line.mark.parse().ok()?,
                at: line.at.parse().ok()?,
                session: line.session.clone(),
                detail: match &line.detail {
                    Some(text) => serde_json::from_str(text).ok()?,
                    None => Value::Null,
                },
            };
            let count = line.left_out.unwrap_or_default().min(MOST_LEFT_OUT) as usize;
            Some(std::iter::repeat_n(entry, count + 1))
        })
        .flatten();
    entries.collect()
}

/// What of the cluster's journal a local one lacks. A job is told by one line: the local one, unless it was only waited
/// with here, and somebody else has carried out another; and it is believed only of this very operation.
pub fn missing_from(local: &[JournalEntry], cluster: Vec<JournalEntry>) -> Vec<JournalEntry> {
    let is_begun = |journal: &[JournalEntry]| journal.iter().any(|entry| entry.step != OPERATION);
    let has_job = local.iter().any(|known| known.step == OPERATION)
        && (is_begun(local) || !is_begun(&cluster));
    let is_of_use = |entry: &JournalEntry| {
        let job = || serde_json::from_value::<Job>(entry.detail.clone());
        entry.step != OPERATION
            || (!has_job
                && entry.mark == Mark::Intent
                && job().is_ok_and(|job| *job.operation() == entry.operation))
    };
    cluster
        .into_iter()
        .filter(|entry| {
            is_of_use(entry)
                && !local.iter().any(|known| {
                    known.step == entry.step
                        && known.mark == entry.mark
                        && known.session == entry.session
                        // As exact as a catalog keeps it.
                        && known.at.as_microsecond() == entry.at.as_microsecond()
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Log;
    use serde_json::json;

    fn entry(step: &str, mark: Mark, detail: Value) -> JournalEntry {
        JournalEntry {
            operation: "Backup/shop/b/1/u".parse().unwrap(),
            step: step.to_owned(),
            mark,
            at: "2026-11-21T02:00:00.123456789Z".parse().unwrap(),
            session: "s".to_owned(),
            detail,
        }
    }

    #[test]
    fn lines_read_back_as_the_journal() {
        let journal = [
            entry(OPERATION, Mark::Intent, job("Backup/shop/b/1/u", "main")),
            entry("quiesce", Mark::Intent, json!({"replicas": 3})),
            entry("quiesce", Mark::Done, Value::Null),
        ];
        let lines = to_lines(&journal);
        let read = from_lines(&journal[0].operation, &lines);
        assert_eq!(read, journal);
        assert_eq!(missing_from(&journal, read.clone()), []);
        assert_eq!(missing_from(&journal[..2], read.clone()), journal[2..]);
        assert_eq!(missing_from(&[], read.clone()), journal);
        // That of an older operator has no job: it is looked up again.
        let mut older = lines;
        older[0].detail = None;
        let older = from_lines(&journal[0].operation, &older);
        assert_eq!(missing_from(&[], older), journal[1..]);
        // A catalog keeps microseconds: a line that has been there and back is the same line.
        let stored = journal.clone().map(|entry| JournalEntry {
            at: jiff::Timestamp::from_microsecond(entry.at.as_microsecond()).unwrap(),
            ..entry
        });
        assert_eq!(missing_from(&stored, read), []);
    }

    fn job(operation: &str, store: &str) -> Value {
        json!({
            "kind": "Backup", "operation": operation,
            "spec": {"target": {"volumeClaims": ["data"]}, "storeRef": {"name": store}},
            "store": {"name": store, "spec": {"volumeClaim": {"name": "backups"}}},
        })
    }

    /// Whoever may write a status could have had another namespace's data read and replaced.
    #[test]
    fn a_job_of_another_operation_is_nobodys() {
        let foreign = [entry(OPERATION, Mark::Intent, job("Backup/another/b/1/u", "main"))];
        assert_eq!(missing_from(&[], foreign.to_vec()), []);
    }

    /// The steps of one job were gone on with under another, with which a replica had only waited.
    #[test]
    fn the_job_is_that_of_the_steps() {
        let waited = [entry(OPERATION, Mark::Intent, job("Backup/shop/b/1/u", "one"))];
        let mut carried = vec![entry(OPERATION, Mark::Intent, job("Backup/shop/b/1/u", "other"))];
        carried[0].session = "t".to_owned();
        carried.push(entry("archive", Mark::Done, Value::Null));
        let mut journal = waited.to_vec();
        journal.extend(missing_from(&waited, carried.clone()));
        let store = |journal: &[JournalEntry]| match Log::new(journal).job().unwrap() {
            Job::Backup(job) => job.store.name,
            _ => unreachable!("it is a Backup"),
        };
        assert_eq!(store(&journal), "other");
        // What was begun here is gone on with as it was begun.
        let mut begun = waited.to_vec();
        begun.push(entry("archive", Mark::Intent, Value::Null));
        let mut journal = begun.clone();
        journal.extend(missing_from(&begun, carried));
        assert_eq!(store(&journal), "one");
    }

    #[test]
    fn a_status_stays_small() {
        let warnings: Vec<String> = (0..1000).map(|number| format!("path {number}")).collect();
        let facts = json!({"files": 7, "claims": ["data"], "warnings": warnings});
        let mut journal = vec![entry(OPERATION, Mark::Intent, Value::Null)];
        journal.extend((0..200).map(|_| entry("resume", Mark::Intent, facts.clone())));
        let lines = to_lines(&journal);
        assert_eq!(lines.len(), LIMIT);
        assert_eq!(lines[0].step, OPERATION);
        assert_eq!(
            lines[1].detail.as_deref(),
            Some(r#"{"files":7,"claims":["data"],"warnings":[]}"#)
        );
    }

    /// After thirty attempts to start a service again nobody knew any more that it had been upgraded: the replica
    /// that took over began from the first step, found no replicas, and left it at none on the new version.
    #[test]
    fn what_was_done_before_many_attempts_was_forgotten() {
        let mut journal = vec![entry(OPERATION, Mark::Intent, Value::Null)];
        for step in ["preflight", "quiesce", "backup", "keep-old", "apply", "start"] {
            journal.push(entry(step, Mark::Intent, json!({"of": step})));
            journal.push(entry(step, Mark::Done, json!({"by": step})));
        }
        journal.push(entry("health", Mark::Intent, Value::Null));
        journal.push(entry("health", Mark::Failed, json!("ill")));
        for number in 0..120 {
            journal.push(entry("rollback-resume", Mark::Intent, json!(number)));
            journal.push(entry("rollback-resume", Mark::Failed, json!("not yet")));
        }
        let lines = to_lines(&journal);
        assert_eq!(lines.len(), LIMIT);
        let read = from_lines(&journal[0].operation, &lines);
        let (whole, short) = (Log::new(&journal), Log::new(&read));
        for step in ["preflight", "quiesce", "backup", "keep-old", "apply", "start", "health"] {
            assert_eq!(short.state(step), whole.state(step));
            assert_eq!(short.intent::<Value>(step), whole.intent::<Value>(step));
            assert_eq!(short.facts::<Value>(step), whole.facts::<Value>(step));
        }
        assert_eq!(short.intent::<Value>("rollback-resume"), Some(json!(119)));
        assert_eq!(short.began_at(), whole.began_at());
        // What was left out was not counted either: whoever read this tried again as often once more.
        for step in ["health", "rollback-resume"] {
            assert_eq!(short.failures(step), whole.failures(step));
            assert_eq!(short.attempts(step), whole.attempts(step));
        }
        // Written and read once more, by somebody else, it is the same.
        assert_eq!(to_lines(&read).len(), LIMIT);
        assert_eq!(from_lines(&journal[0].operation, &to_lines(&read)).len(), journal.len());
        assert_eq!(missing_from(&journal, read), []);
    }

    /// A server that was away says nothing about a step: what it failed by otherwise has to stay known beside that.
    #[test]
    fn failures_by_different_reasons_do_not_stand_for_one_another() {
        let failed = |reason: &str| json!({"reason": reason, "message": "no"});
        let mut journal = vec![entry(OPERATION, Mark::Intent, Value::Null)];
        for number in 0..100 {
            let reason = if number % 10 == 5 { "HealthCheckFailed" } else { "ClusterUnavailable" };
            journal.push(entry("health", Mark::Failed, failed(reason)));
        }
        let read = from_lines(&journal[0].operation, &to_lines(&journal));
        let of = |entries: &[JournalEntry], reason: &str| {
            entries.iter().filter(|entry| entry.detail["reason"] == reason).count()
        };
        assert_eq!(of(&read, "HealthCheckFailed"), 10);
        assert_eq!(of(&read, "ClusterUnavailable"), 90);
    }
}
