//! Eider keeps services safe while they change.

pub mod engine;
pub mod failpoint;
pub mod plan;
pub mod runtime;
pub mod spec;
