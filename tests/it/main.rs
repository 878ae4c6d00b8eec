//! Eider's one integration binary: each further one would link DuckDB again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod again;
mod architecture;
mod catalog;
mod cli;
mod daemon;
mod damage;
mod disk_full;
mod docker;
mod examples;
mod host;
mod hostile;
mod incremental;
mod kubernetes;
mod memory;
mod messages;
mod packaging;
mod recovery;
mod scene;
mod support;
mod torture;
