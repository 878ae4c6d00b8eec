//! Files that are their owner's alone from the first moment.

use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::UnshareFlags;

/// Has this thread make its files and directories for their owner alone, whatever the user's `umask`, and leaves
/// that of all other threads as it is: what is restored, and what hooks write, has the modes that it had. The
/// database makes its log again after every checkpoint, and asks nobody for a mode.
///
/// Returns whether that could be done. Engines of containers forbid it by default; there the directory has to
/// keep others away.
pub(super) fn is_private_from_now_on() -> bool {
    // It is deprecated for what it does to open files when it is asked to: this is about `umask` and the working
    // directory alone, and no path in here is relative to that.
    #[allow(deprecated)]
    let is_own = rustix::thread::unshare(UnshareFlags::FS).is_ok();
    if is_own {
        umask(Mode::RWXG | Mode::RWXO);
    }
    is_own
}
