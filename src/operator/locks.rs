//! One operation at a time on any target: overlapping targets wait for each other.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::spec::Target;

/// The targets that operations hold.
#[derive(Clone, Default)]
pub(super) struct TargetLocks {
    held: Arc<Mutex<Vec<(u64, Target)>>>,
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
    pub(super) async fn lock(&self, target: &Target) -> TargetGuard {
        loop {
            // Registered before looking, so that a release in between is not missed.
            let freed = self.freed.notified();
            if let Some(guard) = self.try_lock(target) {
                return guard;
            }
            freed.await;
        }
    }

    fn try_lock(&self, target: &Target) -> Option<TargetGuard> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.iter().any(|(_, other)| overlap(other, target)) {
            return None;
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        held.push((*next, target.clone()));
        Some(TargetGuard { locks: self.clone(), number: *next })
    }
}

impl Drop for TargetGuard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(number, _)| *number != self.number);
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
            (None, None) => one == other,
            _ => false,
        },
        _ => false,
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
        let first = locks.lock(&host(&["/srv/a"])).await;
        assert!(locks.try_lock(&host(&["/srv/a/b"])).is_none());
        assert!(locks.try_lock(&host(&["/srv/c"])).is_some());
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(&host(&["/srv/a"])).await.number }
        });
        drop(first);
        assert!(waiting.await.is_ok());
    }
}
