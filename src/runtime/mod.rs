//! Where it happens.

pub mod host;
