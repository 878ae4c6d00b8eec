//! The rooms that the archive engine needs, and nothing else of the program.

#[path = "../../src/engine/mod.rs"]
pub mod engine;
#[path = "../../src/failpoint.rs"]
pub mod failpoint;
#[path = "../../src/spec/mod.rs"]
pub mod spec;
