//! What to do next: pure, synchronous planners over (specification, observation, journal, now).
//!
//! This room does no I/O, reads no clock and imports only `spec`. What it returns is data; a runtime
//! performs it. Because of that every decision can be tested with plain values, printed by
//! `--dry-run`, and taken again after a crash with the same result.

pub mod cron;
pub mod guard;
pub mod journal;
pub mod names;
pub mod schedule;
pub mod version;

pub use journal::{JournalEntry, Mark, OperationId};
