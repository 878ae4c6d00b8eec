//! Who holds which containers still: two operations may need the same one, and the last lets it go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::plan::backup::step as backup;
use crate::plan::docker::{StopEntry, Stopping};
use crate::plan::restore::step as restore;
use crate::plan::upgrade::step as upgrade;
use crate::plan::{JournalEntry, Log, Mark, OperationId};

/// Steps that hold containers still, from their intent on.
const HOLDING: &[&str] = &[backup::QUIESCE, restore::UNDO_QUIESCE, upgrade::REMOVE_NEW];
/// Steps that let them go, once they are done.
const RELEASING: &[&str] =
    &[backup::RESUME, restore::UNDO_RESUME, upgrade::START, upgrade::ROLLBACK_RESUME];

/// The containers that operations of this process hold. After a crash the journals tell, and are read
/// before anything is let go.
#[derive(Clone, Default)]
pub struct Holds {
    by_operation: Arc<Mutex<HashMap<OperationId, Vec<StopEntry>>>>,
}

impl Holds {
    /// Notes what an operation holds from now on.
    pub fn take(&self, operation: &OperationId, stopping: &Stopping) {
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(operation.clone(), stopping.order.clone());
    }

    /// Ends the hold of an operation.
    pub fn drop(&self, operation: &OperationId) {
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(operation);
    }

    /// Ids of the containers that other operations hold.
    pub fn of_others(&self, operation: &OperationId) -> HashSet<String> {
        self.as_found_by_others(operation).into_iter().map(|entry| entry.id).collect()
    }

    /// The same containers, each as the operation that holds it has found it.
    pub fn as_found_by_others(&self, operation: &OperationId) -> Vec<StopEntry> {
        let map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        let others = map.iter().filter(|(other, _)| *other != operation);
        others.flat_map(|(_, entries)| entries.iter().cloned()).collect()
    }
}

/// What an operation holds still by its journal; nothing once it has let everybody go.
pub fn still_held(log: &Log<'_>) -> Option<Stopping> {
    let last = |steps: &[&str], mark: Mark| {
        log.entries()
            .iter()
            .rposition(|entry| steps.contains(&entry.step.as_str()) && entry.mark == mark)
    };
    let held = last(HOLDING, Mark::Intent)?;
    if last(RELEASING, Mark::Done).is_some_and(|released| released > held) {
        return None;
    }
    [restore::UNDO_QUIESCE, backup::QUIESCE].iter().find_map(|step| log.intent(step))
}

/// When what an operation holds still was first about to be told to stop.
pub fn held_since(log: &Log<'_>) -> Option<Timestamp> {
    [restore::UNDO_QUIESCE, backup::QUIESCE].iter().find_map(|step| log.started_at(step))
}

/// Whether another process held still what is let go by the latest one: its death has taken time already.
pub fn is_inherited(log: &Log<'_>) -> bool {
    let is_hold =
        |entry: &&JournalEntry| entry.mark == Mark::Intent && HOLDING.contains(&&*entry.step);
    let held = log.entries().iter().rfind(is_hold);
    let latest = log.entries().last();
    held.zip(latest).is_some_and(|(held, latest)| held.session != latest.session)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(step: &str, mark: Mark) -> JournalEntry {
        let entry =
            json!({"id": "x", "name": "db", "timeout": null, "paused": false, "selected": true});
        let intent = json!({"order": [entry], "warnings": []});
        JournalEntry {
            operation: "Restore/shop/r/1".parse().unwrap(),
            step: step.to_owned(),
            mark,
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            session: "s".to_owned(),
            detail: if mark == Mark::Intent { intent } else { Value::Null },
        }
    }

    #[test]
    fn what_is_held_is_read_off_the_journal() {
        use Mark::{Done, Intent};
        let held = |entries: &[JournalEntry]| still_held(&Log::new(entries)).is_some();
        let mut journal = vec![entry("preflight", Done)];
        assert!(!held(&journal));
        journal.push(entry("quiesce", Intent));
        assert!(held(&journal), "it was about to be stopped");
        journal.extend([entry("quiesce", Done), entry("resume", Intent)]);
        assert!(held(&journal), "it may not run yet");
        journal.push(entry("resume", Done));
        assert!(!held(&journal));
        journal.push(entry("undo-quiesce", Intent));
        assert!(held(&journal), "it is held again on the way back");
    }

    #[test]
    fn what_a_dead_process_held_is_known() {
        let mut journal = vec![entry("quiesce", Mark::Intent), entry("resume", Mark::Intent)];
        assert!(!is_inherited(&Log::new(&journal)));
        journal[1].session = "later".to_owned();
        assert!(is_inherited(&Log::new(&journal)));
    }

    #[test]
    fn only_others_count() {
        let holds = Holds::default();
        let (one, other): (OperationId, OperationId) =
            ("Backup/a/b/1".parse().unwrap(), "Restore/a/r/1".parse().unwrap());
        let intent = entry("quiesce", Mark::Intent);
        let stopping: Stopping = serde_json::from_value(intent.detail).unwrap();
        holds.take(&one, &stopping);
        assert!(holds.of_others(&one).is_empty());
        assert_eq!(holds.of_others(&other), HashSet::from(["x".to_owned()]));
        holds.drop(&one);
        assert!(holds.of_others(&other).is_empty());
    }
}
