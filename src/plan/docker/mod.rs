//! What a Docker target means: which containers and data it selects, who has to stand still meanwhile,
//! in which order, what is not covered, and where an archive goes. Pure: from facts to lists.

mod aside;
mod before;
mod company;
mod disturbance;
mod facts;
mod image;
mod inheritance;
mod labels;
mod placement;
#[cfg(test)]
mod placement_tests;
mod recreation;
mod replacing;
mod returning;
mod revival;
mod rollback;
mod selection;
#[cfg(test)]
mod selection_tests;
mod starting;
mod stopping;
#[cfg(test)]
mod stopping_tests;
#[cfg(test)]
mod tests;
mod watching;

pub use aside::{is_put_aside, left_aside};
pub use company::Company;
pub use disturbance::{Did, Disturbers, Happening, Held, disturbers};
pub use facts::{
    ContainerFacts, FOREVER, HostFacts, MountFacts, MountKind, RunState, VolumeFacts, flag,
};
pub use image::{HUB, ImageReference, SavedImage, indexed_images, saved_images};
pub use inheritance::changes;
pub use labels::{Labelled, labelled};
pub use placement::{
    Definitions, Placement, Placements, RootNames, VolumeDefinition, is_root_name, place,
};
pub use recreation::{Recreation, chosen_address, recreate};
pub use replacing::{Replaced, replaced};
pub use returning::check_company;
pub use revival::{Missing, making_order, missing, networks, revive, stranded};
pub use selection::{Place, Root, RootSource, Selection, Uncovered, directory, is_beneath, select};
pub use starting::{Resting, Starting, resting, starting};
pub use stopping::{StopEntry, Stopping, Touch, entries, stop_set};
pub use watching::{Health, Sighting, Usage, is_up};
