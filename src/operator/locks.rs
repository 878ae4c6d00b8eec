//! One operation at a time on any target: overlapping targets wait for each other, in the order in
//! which they came. What was under way when the process began has come before everybody.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::plan::OperationId;
use crate::spec::Target;

/// What an operation needs for itself.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    /// Who needs it.
    pub(super) operation: OperationId,
    /// The target as its document has it.
    pub(super) target: Target,
    /// The volume claims behind a workload, where somebody could look them up.
    pub(super) volume_claims: Vec<String>,
}

/// The targets that operations hold or wait for, oldest first.
#[derive(Clone, Default)]
pub(super) struct TargetLocks {
    queue: Arc<Mutex<Queue>>,
    left: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    places: Vec<(u64, Claimed)>,
    /// Places that are kept for operations which nobody has taken up yet.
    kept: HashSet<u64>,
}

/// A place in the queue; its target is held once nobody is ahead. Left when dropped.
pub(super) struct Place {
    locks: TargetLocks,
    number: u64,
    is_kept: bool,
}

impl TargetLocks {
    /// Takes a place behind everybody who is there, or the one that is kept for this operation.
    pub(super) fn queue(&self, claimed: Claimed) -> Place {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match queue.kept_for(&claimed.operation) {
            Some(number) => {
                queue.kept.remove(&number);
                queue.add_claims(number, &claimed.volume_claims);
                number
            }
            None => queue.push(claimed),
        };
        drop(queue);
        Place { locks: self.clone(), number, is_kept: false }
    }

    /// Keeps a place for an operation that was under way when the process began: who begins now does not get ahead
    /// of it, whenever it is taken up.
    pub(super) fn keep(&self, claimed: Claimed) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.places.iter().any(|(_, known)| known.operation == claimed.operation) {
            let number = queue.push(claimed);
            queue.kept.insert(number);
        }
    }

    /// Gives up the place that is kept for an operation, which has ended without having been taken up.
    pub(super) fn give_up(&self, operation: &OperationId) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = queue.kept_for(operation) else { return };
        queue.leave(number);
        drop(queue);
        self.left.notify_waiters();
    }
}

impl Queue {
    fn push(&mut self, claimed: Claimed) -> u64 {
        self.next += 1;
        self.places.push((self.next, claimed));
        self.next
    }

    fn kept_for(&self, operation: &OperationId) -> Option<u64> {
        let place = self.places.iter().find(|(_, known)| known.operation == *operation)?;
        self.kept.contains(&place.0).then_some(place.0)
    }

    /// Who is gone on with needs what it needed when it was begun, and what it needs now.
    fn add_claims(&mut self, number: u64, claims: &[String]) {
        let place = self.places.iter_mut().find(|(other, _)| *other == number);
        let Some((_, known)) = place else { return };
        let new = claims.iter().filter(|claim| !known.volume_claims.contains(claim));
        let new: Vec<String> = new.cloned().collect();
        known.volume_claims.extend(new);
    }

    fn leave(&mut self, number: u64) {
        self.kept.remove(&number);
        self.places.retain(|(other, _)| *other != number);
    }
}

impl Place {
    /// The last of the operations that have to leave first. Those before it change while one waits, it does
    /// not: a queue of a hundred would else have a hundred things to say of each of its operations.
    pub(super) fn ahead(&self) -> Option<OperationId> {
        let queue = self.locks.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, own) = queue.places.iter().find(|(number, _)| *number == self.number)?;
        let earlier = queue.places.iter().take_while(|(number, _)| *number < self.number);
        let conflicting = earlier.filter(|(_, other)| meet(own, other));
        conflicting.last().map(|(_, other)| other.operation.clone())
    }

    /// Keeps it for whoever goes on with the operation, which has not ended.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }

    /// Waits until nobody is ahead.
    pub(super) async fn turn(&self) {
        loop {
            let left = self.locks.left.notified();
            tokio::pin!(left);
            // Registered before looking, so that a leave in between is not missed.
            left.as_mut().enable();
            if self.ahead().is_none() {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.locks.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_kept {
            queue.kept.insert(self.number);
            return;
        }
        queue.leave(self.number);
        drop(queue);
        self.locks.left.notify_waiters();
    }
}

/// Whether two operations could meet.
fn meet(one: &Claimed, other: &Claimed) -> bool {
    let (first, second) = (&one.target, &other.target);
    match (&first.host, &second.host) {
        (Some(first), Some(second)) => first.paths.iter().any(|path| {
            second.paths.iter().any(|other| {
                let (path, other) = (Path::new(path), Path::new(other));
                path.starts_with(other) || other.starts_with(path)
            })
        }),
        (None, None) => match (&first.docker, &second.docker) {
            // Projects share volumes and networks: one operation a project is the safe unit.
            (Some(first), Some(second)) => {
                first.project.is_none()
                    || second.project.is_none()
                    || first.project == second.project
            }
            // Namespaces part workloads and claims; they mean nothing elsewhere.
            (None, None) => {
                one.operation.namespace == other.operation.namespace && share_claims(one, other)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether two targets in one namespace are the same workload or share a claim.
fn share_claims(one: &Claimed, other: &Claimed) -> bool {
    if let (Some(first), Some(second)) = (&one.target.workload, &other.target.workload)
        && first.kind == second.kind
        && first.name == second.name
    {
        return true;
    }
    let named = |claimed: &Claimed| -> Vec<String> {
        let workload = claimed.target.workload.iter();
        let of_workload = workload.filter_map(|workload| workload.volume_claims.as_ref());
        let named = claimed.target.volume_claims.iter().chain(of_workload).flatten();
        named.chain(&claimed.volume_claims).cloned().collect()
    };
    let second = named(other);
    named(one).iter().any(|claim| second.contains(claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(namespace: &str, target: serde_json::Value, volume_claims: &[&str]) -> Claimed {
        Claimed {
            operation: format!("Backup/{namespace}/b/1/u").parse().unwrap(),
            target: serde_json::from_value(target).unwrap(),
            volume_claims: volume_claims.iter().map(ToString::to_string).collect(),
        }
    }

    fn host(paths: &[&str]) -> Claimed {
        claimed("default", serde_json::json!({"host": {"paths": paths}}), &[])
    }

    fn workload(namespace: &str, name: &str, claims: &[&str]) -> Claimed {
        let target = serde_json::json!({"workload": {"kind": "StatefulSet", "name": name}});
        claimed(namespace, target, claims)
    }

    #[test]
    fn nested_paths_meet_and_neighbours_do_not() {
        assert!(meet(&host(&["/srv/a"]), &host(&["/srv/a/b"])));
        assert!(meet(&host(&["/x", "/srv"]), &host(&["/srv/a"])));
        assert!(!meet(&host(&["/srv/a"]), &host(&["/srv/ab"])));
    }

    #[test]
    fn workloads_meet_by_name_and_by_the_claims_that_they_mount() {
        let db = workload("shop", "db", &["data-db-0"]);
        assert!(meet(&db, &db));
        assert!(!meet(&db, &workload("blog", "db", &["data-db-0"])), "another namespace");
        assert!(!meet(&db, &workload("shop", "web", &["uploads"])));
        assert!(meet(&db, &workload("shop", "reader", &["data-db-0"])), "they share a claim");
        let claims =
            |names: &[&str]| claimed("shop", serde_json::json!({"volumeClaims": names}), &[]);
        assert!(meet(&db, &claims(&["data-db-0"])));
        assert!(!meet(&db, &claims(&["mail"])), "a claim that is stuck blocks nobody else");
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let locks = TargetLocks::default();
        let first = locks.queue(host(&["/srv/a"]));
        assert_eq!(first.ahead(), None);
        let second = locks.queue(host(&["/srv/a/b"]));
        assert!(second.ahead().is_some());
        assert_eq!(locks.queue(host(&["/srv/c"])).ahead(), None);
        let waiting = tokio::spawn(async move {
            second.turn().await;
            second.number
        });
        drop(first);
        assert!(waiting.await.is_ok());
    }

    /// After a restart a Backup that had waited came before the Restore that it had waited for, and read what was
    /// half put back.
    #[test]
    fn what_was_under_way_comes_before_whoever_begins() {
        let locks = TargetLocks::default();
        let named = |name: &str| {
            let mut claimed = host(&["/srv/a"]);
            claimed.operation = format!("Restore/default/{name}/1/u").parse().unwrap();
            claimed
        };
        locks.keep(named("half-done"));
        locks.keep(named("half-done"));
        locks.keep(named("ended"));
        let fresh = locks.queue(host(&["/srv/a"]));
        let resumed = locks.queue(named("half-done"));
        assert_eq!(resumed.ahead(), None);
        assert!(fresh.ahead().is_some());
        drop(resumed);
        assert_eq!(fresh.ahead(), Some(named("ended").operation));
        locks.give_up(&named("ended").operation);
        assert_eq!(fresh.ahead(), None);
        // What could not go on for now is still ahead.
        fresh.keep();
        assert_eq!(locks.queue(named("later")).ahead(), Some(host(&["/srv/a"]).operation));
        // Who gives up what is not kept for him takes nobody's place.
        locks.give_up(&named("half-done").operation);
        assert_eq!(locks.queue(named("later")).ahead(), Some(host(&["/srv/a"]).operation));
        assert_eq!(locks.queue(host(&["/srv/a"])).ahead(), None);
        assert_eq!(locks.queue(named("later")).ahead(), None);
    }

    #[test]
    fn who_came_first_goes_first() {
        let locks = TargetLocks::default();
        let holder = locks.queue(host(&["/srv/a"]));
        let wide = locks.queue(host(&["/srv"]));
        // It does not meet the holder, but somebody who has waited longer.
        let late = locks.queue(host(&["/srv/b"]));
        assert!(late.ahead().is_some(), "a wide target would wait for ever");
        drop(holder);
        assert_eq!(wide.ahead(), None);
        drop(wide);
        assert_eq!(late.ahead(), None);
    }
}
