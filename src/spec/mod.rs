//! What is wanted: the five kinds of `eider.dev/v1alpha1`, their rules and their text form.
//!
//! The types here are the single source of the CRDs in `crds/`, of the offline validation and of the
//! reference pages. This room imports none of the others; it does no I/O and reads no clock.

pub mod backup;
mod checks;
mod compose;
pub mod crd;
pub mod document;
pub mod hooks;
mod problem;
pub mod quantity;
pub mod reason;
pub mod reference;
pub mod reference_page;
pub mod restore;
pub mod schedule;
mod schema;
pub mod store;
pub mod target;
#[cfg(test)]
mod tests;
mod tree;
pub mod upgrade;
pub mod yaml;

pub use backup::{
    ArchiveFormat, ArchiveOptions, ArchiveStatus, Backup, BackupPhase, BackupSpec, BackupStatus,
    BackupTrigger, BackupType, ClaimFacts, DeletionPolicy, Guards, JournalLine, ProgressStatus,
    VerifyMode,
};
pub use compose::object_name;
pub use document::{
    API_VERSION, DEFAULT_NAMESPACE, Document, Kind, ObjectKey, RECONCILE_AT, UnknownKind,
    is_object_name,
};
pub use hooks::{ExecHook, Hook, Hooks, HttpHook, HttpMethod, OnError};
pub use problem::{Problem, did_you_mean};
pub use quantity::{ByteSize, DurationText, QuantityError, counted, readable_size, there_are};
pub use reason::Reason;
pub use reference::{NameReference, SecretReference};
pub use restore::{
    ArchiveReference, LatestReference, Restore, RestoreMode, RestorePhase, RestoreSource,
    RestoreSpec, RestoreStatus,
};
pub use schedule::{
    BackupSchedule, BackupScheduleSpec, BackupScheduleStatus, BackupTemplate, ConcurrencyPolicy,
    Retention,
};
pub use store::{
    BackupStore, BackupStoreSpec, BackupStoreStatus, LocalStore, MoverSecurityContext,
};
pub use target::{Consistency, ConsistencyMode, HostTarget, Target};
pub use upgrade::{Upgrade, UpgradePhase, UpgradeSpec, UpgradeStatus};
pub use yaml::{
    Foreign, Located, load, load_beside, print as value_to_yaml, to_json, to_yaml, validate_update,
};
