//! Named points at which the process can be made to die, for the crash tests.
//!
//! `EIDER_FAILPOINT=<point>` or `<point>:<n>` ends the process with SIGKILL when the point is passed
//! for the n-th time (counted from 1). Release builds ignore the variable: the check is compiled out
//! without debug assertions. The names are listed in `docs/design/failpoints.md`.

/// Passes the point `name`; does not return if the environment asks for the process to die there.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| {
        let value = std::env::var("EIDER_FAILPOINT").ok()?;
        Some(match value.rsplit_once(':') {
            Some((point, count)) if count.parse::<u64>().is_ok() => {
                (point.to_owned(), count.parse().unwrap_or(1))
            }
            _ => (value, 1),
        })
    });
    if let Some((point, count)) = wanted
        && point == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        // SIGKILL, not abort: nothing may run after it, as with a power cut or the OOM killer.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The first process of a container is spared by its own signals, but not by the fault that an
        // abort ends with. Nothing runs after that either, no destructor of any library.
        std::process::abort();
    }
}

/// Does nothing: release builds have no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn hit(_: &str) {}
