//! What a mover's pod has been told and asked for, and what another in its place would miss.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::plan::backup::step as backup;
use crate::plan::restore::step as restore;
use crate::plan::{Action, JournalEntry, Mark};
use crate::runtime::mover::{MISSION_VARIABLE, Mission, Request, STEPS_ANNOTATION, Work};

/// The request as this pod needs it. A pod that was made in another's place, by a Job controller that
/// does not ask us (those before Kubernetes 1.26 do so in spite of `backoffLimit: 0`), knows nothing of
/// what has been done since its Job was made: it is sent the journal.
pub fn with_what_it_missed(pod: &Pod, request: &Request, journal: &[JournalEntry]) -> Request {
    let mut request = request.clone();
    let told = told(pod);
    let asked = asked(pod);
    let knows = |step: &str| {
        let was_told = told.iter().any(|one| one.step == step && one.mark == Mark::Done);
        was_told || asked.iter().any(|one| one.step() == step)
    };
    let missed = journal
        .iter()
        .any(|entry| entry.mark == Mark::Done && is_of_mover(&entry.step) && !knows(&entry.step));
    if missed {
        request.journal = journal.iter().filter(|entry| !told.contains(entry)).cloned().collect();
    }
    request.again |= missed || was_begun(request.step(), journal);
    request
}

/// Whether a step was announced more than once since it last failed: an earlier mover may have been
/// asked for it.
pub fn was_begun(step: &str, journal: &[JournalEntry]) -> bool {
    let of_step = journal.iter().rev().filter(|entry| entry.step == step);
    of_step.take_while(|entry| entry.mark == Mark::Intent).count() > 1
}

/// Whether a cancellation cuts this short: what puts things back is never cut short.
pub fn is_interruptible(request: &Request) -> bool {
    !matches!(
        &request.work,
        Work::Perform(
            Action::DiscardArchive | Action::SwapBack | Action::DiscardStaging | Action::DropOld
        ) | Work::Delete(_)
    )
}

/// What the pod has been asked for.
pub fn asked(pod: &Pod) -> Vec<Request> {
    pod.annotations()
        .get(STEPS_ANNOTATION)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The journal that the pod was made with.
fn told(pod: &Pod) -> Vec<JournalEntry> {
    let variables = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.env.iter().flatten());
    let mission = variables
        .filter(|variable| variable.name == MISSION_VARIABLE)
        .find_map(|variable| serde_json::from_str::<Mission>(variable.value.as_deref()?).ok());
    mission.map(|mission| mission.journal).unwrap_or_default()
}

/// Whether a step is a mover's work and not the operator's own.
fn is_of_mover(step: &str) -> bool {
    [
        backup::PREFLIGHT,
        backup::ARCHIVE,
        backup::SEAL,
        backup::VERIFY,
        restore::VERIFY_SOURCE,
        restore::EXTRACT,
        restore::FIND_LIVE,
        restore::CARRY_OVER,
        restore::SWAP,
        restore::SWAP_BACK,
    ]
    .contains(&step)
}

/// Whether this request stands on the pod.
pub fn was_asked(pod: &Pod, id: &str) -> bool {
    asked(pod).iter().any(|request| request.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(step: &str, mark: Mark) -> JournalEntry {
        JournalEntry {
            operation: "Backup/shop/b/1/u".parse().unwrap(),
            step: step.to_owned(),
            mark,
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            session: "s".to_owned(),
            detail: Value::Null,
        }
    }

    fn request(step: &str) -> Request {
        let id = Request::identity(step, 0);
        Request { id, work: Work::Finish, again: false, journal: Vec::new() }
    }

    fn pod(asked: &[Request]) -> Pod {
        let steps = serde_json::to_string(asked).unwrap();
        let metadata = json!({"name": "m", "annotations": {STEPS_ANNOTATION: steps}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_pod_that_did_the_steps_is_told_nothing_more() {
        let pod = pod(&[request("preflight"), request("archive")]);
        let journal = [
            entry("preflight", Mark::Done),
            entry("quiesce", Mark::Done),
            entry("archive", Mark::Done),
            entry("seal", Mark::Intent),
        ];
        let sent = with_what_it_missed(&pod, &request("seal"), &journal);
        assert_eq!(sent, request("seal"));
    }

    #[test]
    fn a_pod_in_another_s_place_is_sent_the_journal_and_clears_away() {
        let pod = pod(&[request("preflight")]);
        let journal = [
            entry("preflight", Mark::Done),
            entry("archive", Mark::Done),
            entry("seal", Mark::Intent),
        ];
        let sent = with_what_it_missed(&pod, &request("seal"), &journal);
        assert!(sent.again);
        assert_eq!(sent.journal, journal);
    }

    #[test]
    fn a_step_that_was_announced_twice_may_have_been_begun() {
        let pod = pod(&[request("preflight")]);
        let twice = [entry("archive", Mark::Intent), entry("archive", Mark::Intent)];
        assert!(with_what_it_missed(&pod, &request("archive"), &twice).again);
        assert!(!with_what_it_missed(&pod, &request("archive"), &twice[..1]).again);
        let failed = [entry("archive", Mark::Failed), entry("archive", Mark::Intent)];
        assert!(!with_what_it_missed(&pod, &request("archive"), &failed).again);
    }
}
