//! Targets on this machine.

pub mod hooks;
mod web_hook;
