//! Settings of the C library's allocator for the verbs that stay.
//!
//! glibc gives each thread an arena of its own and raises the size from which it maps memory by
//! itself each time such a piece is freed, up to 32 MiB. Both are fast and keep what was freed: a
//! daemon that has worked once would hold several mebibytes for as long as it is idle. Both can only
//! be set in the environment, before a process starts, hence a second start of the same process.
//! May not do anything else.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::runtime::host::hooks::{ALLOCATOR_MARK, ALLOCATOR_SETTINGS};

/// Starts the program again in the same process with the settings in its environment, unless they are
/// there or somebody has chosen some. Returns only if there is nothing to do or it cannot be done,
/// which costs memory and nothing else.
pub fn settle() {
    if !cfg!(target_env = "gnu") || std::env::var_os(ALLOCATOR_MARK).is_some() {
        return;
    }
    let chosen = |name: &str| std::env::var_os(name).is_some();
    if chosen("GLIBC_TUNABLES") || ALLOCATOR_SETTINGS.iter().any(|(name, _)| chosen(name)) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| program.clone().into());
    let error = Command::new(program)
        .arg0(name)
        .args(words)
        .envs(ALLOCATOR_SETTINGS)
        .env(ALLOCATOR_MARK, "1")
        .exec();
    tracing::debug!(%error, "the allocator's settings could not be applied");
}
