//! Eider keeps services safe while they change.

pub mod catalog;
pub mod failpoint;
pub mod plan;
pub mod spec;
