//! Named points at which the process can be made to die, for the crash tests, or to wait.
//!
//! `EIDER_FAILPOINT=<point>` or `<point>:<n>` ends the process with SIGKILL when the point is passed
//! for the n-th time (counted from 1); `<point>@<file>` waits there until the file exists, for a minute at
//! most. Release builds ignore the variable: the check is compiled out without debug assertions. The names
//! are listed in `docs/design/failpoints.md`.

/// Passes the point `name`; does not return if the environment asks for the process to die there.
#[cfg(debug_assertions)]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| Some(Wanted::read(&std::env::var("EIDER_FAILPOINT").ok()?)));
    let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.point == name) else { return };
    if let Some(file) = &wanted.until {
        for _ in 0..600 {
            if file.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    } else if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == wanted.count {
        // SIGKILL, not abort: nothing may run after it, as with a power cut or the OOM killer.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The first process of a container is spared by its own signals, but not by the fault that an
        // abort ends with. Nothing runs after that either, no destructor of any library.
        std::process::abort();
    }
}

/// What the environment asks for.
#[cfg(debug_assertions)]
struct Wanted {
    point: String,
    /// At which passing the process dies.
    count: u64,
    /// What is waited for instead.
    until: Option<std::path::PathBuf>,
}

#[cfg(debug_assertions)]
impl Wanted {
    fn read(text: &str) -> Self {
        let of = |point: &str, count, until| Self { point: point.to_owned(), count, until };
        if let Some((point, file)) = text.split_once('@') {
            return of(point, 1, Some(file.into()));
        }
        let counted = text.rsplit_once(':').and_then(|(point, n)| Some((point, n.parse().ok()?)));
        counted.map_or_else(|| of(text, 1, None), |(point, count)| of(point, count, None))
    }
}

/// Does nothing: release builds have no failpoints.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn hit(_: &str) {}
