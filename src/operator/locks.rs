//! One operation at a time on any target: overlapping targets wait for each other.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::spec::Target;

/// The targets that operations hold.
#[derive(Clone, Default)]
pub(super) struct TargetLocks {
    held: Arc<Mutex<Vec<(u64, String, Target)>>>,
    freed: Arc<Notify>,
    next: Arc<Mutex<u64>>,
}

/// A held target; freed when dropped.
pub(super) struct TargetGuard {
    locks: TargetLocks,
    number: u64,
}

impl TargetLocks {
    /// Waits until nobody holds anything of the target, then holds it.
    pub(super) async fn lock(&self, namespace: &str, target: &Target) -> TargetGuard {
        loop {
            // Registered before looking, so that a release in between is not missed.
            let freed = self.freed.notified();
            if let Some(guard) = self.try_lock(namespace, target) {
                return guard;
            }
            freed.await;
        }
    }

    fn try_lock(&self, namespace: &str, target: &Target) -> Option<TargetGuard> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let meets = |(_, other, held): &(u64, String, Target)| {
            // Namespaces part workloads and claims; they mean nothing to a host's directories.
            (target.in_cluster() && other != namespace) || !overlap(held, target)
        };
        if !held.iter().all(meets) {
            return None;
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        held.push((*next, namespace.to_owned(), target.clone()));
        Some(TargetGuard { locks: self.clone(), number: *next })
    }
}

impl Drop for TargetGuard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(number, _, _)| *number != self.number);
        drop(held);
        self.locks.freed.notify_waiters();
    }
}

/// Whether two operations on these targets could meet.
fn overlap(one: &Target, other: &Target) -> bool {
    match (&one.host, &other.host) {
        (Some(one), Some(other)) => one.paths.iter().any(|one| {
            other.paths.iter().any(|other| {
                let (one, other) = (Path::new(one), Path::new(other));
                one.starts_with(other) || other.starts_with(one)
            })
        }),
        (None, None) => match (&one.docker, &other.docker) {
            // Projects share volumes and networks: one operation a project is the safe unit.
            (Some(one), Some(other)) => {
                one.project.is_none() || other.project.is_none() || one.project == other.project
            }
            (None, None) => claims_overlap(one, other),
            _ => false,
        },
        _ => false,
    }
}

/// Whether two targets in one namespace could meet: by workload, or by claim where both name theirs.
fn claims_overlap(one: &Target, other: &Target) -> bool {
    let named = |target: &Target| -> Option<Vec<String>> {
        let of_workload = target.workload.as_ref().and_then(|found| found.volume_claims.clone());
        target.volume_claims.clone().or(of_workload)
    };
    if let (Some(one), Some(other)) = (&one.workload, &other.workload) {
        return one.kind == other.kind && one.name == other.name;
    }
    match (named(one), named(other)) {
        (Some(one), Some(other)) => one.iter().any(|claim| other.contains(claim)),
        // A workload's claims are not known here: caution costs a wait.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(paths: &[&str]) -> Target {
        serde_json::from_value(serde_json::json!({"host": {"paths": paths}})).unwrap()
    }

    #[test]
    fn nested_paths_overlap_and_neighbours_do_not() {
        assert!(overlap(&host(&["/srv/a"]), &host(&["/srv/a/b"])));
        assert!(overlap(&host(&["/x", "/srv"]), &host(&["/srv/a"])));
        assert!(!overlap(&host(&["/srv/a"]), &host(&["/srv/ab"])));
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let locks = TargetLocks::default();
        let first = locks.lock("a", &host(&["/srv/a"])).await;
        assert!(locks.try_lock("b", &host(&["/srv/a/b"])).is_none());
        assert!(locks.try_lock("a", &host(&["/srv/c"])).is_some());
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock("a", &host(&["/srv/a"])).await.number }
        });
        drop(first);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn workloads_meet_within_a_namespace_only() {
        let target = |value| serde_json::from_value::<Target>(value).unwrap();
        let db = target(serde_json::json!({"workload": {"kind": "StatefulSet", "name": "db"}}));
        let web = target(serde_json::json!({"workload": {"kind": "Deployment", "name": "web"}}));
        let claim = target(serde_json::json!({"volumeClaims": ["uploads"]}));
        let other = target(serde_json::json!({"volumeClaims": ["mail"]}));
        let locks = TargetLocks::default();
        let _held = locks.lock("shop", &db).await;
        assert!(locks.try_lock("shop", &db).is_none());
        assert!(locks.try_lock("blog", &db).is_some());
        assert!(locks.try_lock("shop", &web).is_some());
        assert!(locks.try_lock("shop", &claim).is_none(), "it may be one of db's");
        let _claim = locks.lock("blog", &claim).await;
        assert!(locks.try_lock("blog", &claim).is_none());
        assert!(locks.try_lock("blog", &other).is_some());
    }
}
