//! How bytes move.

pub mod replace;
