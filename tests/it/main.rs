//! Eider's one integration binary: each further one would link DuckDB again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod architecture;
mod examples;
mod recovery;
mod support;
