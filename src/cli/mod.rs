//! The command line: what people type and what they see.
//!
//! May use every other room; no other room uses this one.

pub mod output;
