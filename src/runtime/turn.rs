//! One of the places for work at the same time, which is lent out while the work cannot begin.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// A place among those that work at the same time. The default is a place that nobody counts. Clones
/// are the same place.
#[derive(Debug, Clone, Default)]
pub struct Turn(Option<Arc<Counted>>);

#[derive(Debug)]
struct Counted {
    places: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Waits for one of `places`. Nothing when they are closed: the process is stopping.
    pub async fn wait(places: &Arc<Semaphore>) -> Option<Self> {
        let held = Arc::clone(places).acquire_owned().await.ok()?;
        let counted = Counted { places: Arc::clone(places), held: Mutex::new(Some(held)) };
        Some(Self(Some(Arc::new(counted))))
    }

    /// Lets somebody else have the place until [`Turn::take_back`].
    pub async fn lend(&self) {
        if let Some(counted) = &self.0 {
            counted.held.lock().await.take();
        }
    }

    /// Waits for a place again, if it was lent. Goes on without one when the process is stopping.
    pub async fn take_back(&self) {
        let Some(counted) = &self.0 else { return };
        let mut held = counted.held.lock().await;
        if held.is_none() {
            *held = Arc::clone(&counted.places).acquire_owned().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_that_is_lent_is_free_for_others_and_waited_for_again() {
        let places = Arc::new(Semaphore::new(1));
        let turn = Turn::wait(&places).await.unwrap();
        assert_eq!(places.available_permits(), 0);
        turn.lend().await;
        let other = Turn::wait(&places).await.unwrap();
        let back = tokio::spawn({
            let turn = turn.clone();
            async move { turn.take_back().await }
        });
        tokio::task::yield_now().await;
        assert!(!back.is_finished());
        drop(other);
        back.await.unwrap();
        assert_eq!(places.available_permits(), 0);
        drop(turn);
        assert_eq!(places.available_permits(), 1);
    }
}
