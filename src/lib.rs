//! Eider keeps services safe while they change.
//!
//! Data goes one way round: document → `spec` → `plan` → action → `runtime` and `engine` → outcome →
//! `catalog` → status. The only way back is the next observation.
//!
//! ```text
//! spec ← plan, engine          what is wanted · what to do next · how bytes move
//! spec, plan, engine ← runtime where it happens
//! spec, plan ← catalog         what happened
//! all five ← operator          the loop
//! everything ← web, cli        surfaces, with telemetry
//! ```

pub mod catalog;
pub mod cli;
pub mod engine;
pub mod failpoint;
pub mod operator;
pub mod plan;
pub mod runtime;
pub mod spec;
pub mod telemetry;
pub mod web;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit this program was built from; empty where it was built without one.
pub const COMMIT: &str = env!("EIDER_COMMIT");
