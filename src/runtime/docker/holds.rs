//! Who holds which containers still: two operations may need the same one, and the last lets it go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::plan::OperationId;
use crate::plan::docker::Stopping;

/// The containers that operations of this process hold. Empty after a crash: then the journals tell,
/// and every operation lets go of its own.
#[derive(Clone, Default)]
pub struct Holds {
    by_operation: Arc<Mutex<HashMap<OperationId, HashSet<String>>>>,
}

impl Holds {
    /// Notes what an operation holds from now on.
    pub fn take(&self, operation: &OperationId, stopping: &Stopping) {
        let ids = stopping.order.iter().map(|entry| entry.id.clone()).collect();
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(operation.clone(), ids);
    }

    /// Ends the hold of an operation.
    pub fn drop(&self, operation: &OperationId) {
        let mut map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(operation);
    }

    /// Ids of the containers that other operations hold.
    pub fn of_others(&self, operation: &OperationId) -> HashSet<String> {
        let map = self.by_operation.lock().unwrap_or_else(PoisonError::into_inner);
        let others = map.iter().filter(|(other, _)| *other != operation);
        others.flat_map(|(_, ids)| ids.iter().cloned()).collect()
    }
}
