//! Eider keeps services safe while they change.

pub mod failpoint;
pub mod plan;
pub mod runtime;
pub mod spec;
