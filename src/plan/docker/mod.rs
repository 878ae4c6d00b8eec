//! What a Docker target means: which containers and data it selects, who has to stand still meanwhile,
//! in which order, and what is not covered. Pure: from facts about containers to lists.

mod facts;
mod selection;
mod stopping;
#[cfg(test)]
mod tests;

pub use facts::{ContainerFacts, HostFacts, MountFacts, MountKind, RunState, VolumeFacts};
pub use selection::{Root, RootSource, Selection, Uncovered, select};
pub use stopping::{StopEntry, Stopping, Touch, stop_set};
