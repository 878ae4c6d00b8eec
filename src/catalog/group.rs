//! Group commit: what waits in the queue together is written in one transaction.
//!
//! A commit waits for the disk, so that a queue of small writes would take as many waits as it has entries,
//! and whoever asks last would wait for all of them. The answers are sent after the commit they are part of,
//! as if each had been alone. Where one of a group fails, the group is undone and each is done by itself.
//! May not know what a request does, but which may be in a group.

use tokio::sync::mpsc;

use super::actor::{self, Message};
use super::error::CatalogError;
use super::request::{Reply, Request};
use super::store::Store;

/// The most requests in one transaction.
const MOST: usize = 64;

/// Whether a request reads or writes a few rows and nothing else.
const fn is_small(request: &Request) -> bool {
    matches!(
        request,
        Request::AppendJournal(_)
            | Request::Journal(_)
            | Request::PutResource(_)
            | Request::Resource { .. }
            | Request::Resources { .. }
            | Request::Labelled { .. }
            | Request::RemoveResource { .. }
            | Request::Backup(_)
            | Request::Backups(_)
            | Request::PutScheduledTask(_)
            | Request::ScheduledTasks
            | Request::AppendUserAction(_)
    )
}

/// What is to be done next: the small requests that wait, or another one by itself.
pub(super) struct Queue {
    requests: mpsc::Receiver<Message>,
    /// Taken out of the channel, and not part of the group before it.
    next: Option<Message>,
}

impl Queue {
    pub const fn new(requests: mpsc::Receiver<Message>) -> Self {
        Self { requests, next: None }
    }

    /// Waits for a request, and takes those that wait behind it as far as they make a group with it. Unset
    /// when all handles are gone.
    pub fn take(&mut self) -> Option<Vec<Message>> {
        let first = self.next.take().or_else(|| self.requests.blocking_recv())?;
        let alone = !is_small(&first.request);
        let mut group = vec![first];
        while !alone && group.len() < MOST {
            match self.requests.try_recv() {
                Ok(message) if is_small(&message.request) => group.push(message),
                Ok(message) => {
                    self.next = Some(message);
                    break;
                }
                Err(_) => break,
            }
        }
        Some(group)
    }
}

/// The answers to a group, all of them on disk; unset where one failed, and nothing of it was done.
pub(super) fn answers(store: &mut Store, group: &[Message]) -> Option<Vec<Reply>> {
    let done = store.grouped(|store| {
        group
            .iter()
            .map(|message| actor::answer(store, message.request.clone()))
            .collect::<Result<Vec<Reply>, CatalogError>>()
    });
    match done {
        Ok(replies) => Some(replies),
        Err(error) => {
            tracing::debug!(%error, requests = group.len(), "a group of requests is done one by one");
            None
        }
    }
}
