//! How bytes move: walk, pack, list, verify, unpack, and the store that archives lie in.
//!
//! The engine knows files, tar and checksums. It knows no Docker, no Kubernetes and no database,
//! reads no calendar and starts no async work; callers run it on a blocking thread. What it writes is
//! specified in `docs/design/archive-format.md`.
//!
//! ```text
//! roots → walk → source → tar::writer → pack (member, index) → store      (write)
//! store → archive (index, member) | codec → tar::reader → listing | verify | extract
//! ```

mod archive;
mod attributes;
mod codec;
mod difference;
mod entry;
mod error;
mod extract;
mod index;
mod listing;
mod manifest;
mod member;
mod pack;
mod pick;
mod pieces;
mod progress;
pub mod replace;
mod roots;
mod select;
mod source;
mod space;
mod store;
mod summary;
mod survey;
mod table;
mod tar;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

pub use codec::detect_format;
pub use difference::{Change, Difference, differences};
pub use entry::{EntryInfo, EntryKind, Moment};
pub use error::EngineError;
pub use extract::{
    Ancestors, Limits, Salvaged, UnpackOptions, check_names, count_salvageable, extract_one,
    extract_tree, salvage, unpack,
};
pub use listing::{ancestors, definitions, indexed_roots, list_entries, read_through, root_kinds};
pub use manifest::{
    FORMAT_VERSION, MANIFEST_SUFFIX, Manifest, ManifestDigest, ManifestRoot, ParentArchive,
};
pub use pack::{PackOptions, ParentOptions, estimate, pack};
pub use pick::{open_tar, read_entries};
pub use progress::{Cancel, Progress, Silent};
pub use roots::{Root, name_roots};
pub use space::space_needed;
pub use store::{Cleaned, LocalStore, PendingArchive, Presence, StoreListing, StoredArchive};
pub use summary::{Counts, Estimate, PackSummary, UnpackSummary, Warning, WarningKind};
pub use survey::survey;
pub use verify::{verify, verify_newest};
