//! What a person or a machine can see of Eider from outside: metrics, logs and health.
//!
//! This room imports `spec` only. It never asks another room for facts: the operator maps what it
//! knows to the plain structures here. It opens no socket; `web` serves what is rendered here.

pub mod catalogue;
pub mod health;
pub mod logging;
pub mod metrics;

pub use health::{Health, Readiness};
pub use metrics::{Metrics, MetricsError};

#[cfg(test)]
mod monitoring_tests;
#[cfg(test)]
mod promtool;
