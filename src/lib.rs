//! Eider keeps services safe while they change.

pub mod failpoint;
pub mod spec;
