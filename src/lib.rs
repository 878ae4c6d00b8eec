//! Eider keeps services safe while they change.

pub mod cli;
pub mod failpoint;
pub mod plan;
pub mod spec;
pub mod telemetry;
