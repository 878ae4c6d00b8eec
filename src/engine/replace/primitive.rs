//! The file-system operations that a replacement is made of, one function each.
//!
//! Every one passes [`step`] first, so that the tests can end a replacement before any of them and
//! look at what is left. Nothing here follows a symlink in the last part of a name.

use std::ffi::{CString, OsStr, OsString};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, Result};

/// The unit tests judge order and state; they cannot see durability and would wait for it.
const WITHOUT_WAITING: bool = cfg!(test);

/// A point where the tests may let the replacement end.
#[cfg(not(test))]
#[inline]
#[allow(clippy::unnecessary_wraps)]
pub(super) fn step() -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use injection::step;

/// Opens a directory by name without following a symlink.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens a directory by name without following a symlink, with every right of its owner: a mode
/// without them is widened, and the caller puts it back or deletes the directory.
pub(super) fn open_writable(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    widen(&handle)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&handle, ".", flags, Mode::empty())
}

/// Gives the owner of a directory all rights on it, if they are missing and the caller needs them.
pub(super) fn widen(directory: &OwnedFd) -> Result<()> {
    let mode = rustix::fs::fstat(directory)?.st_mode & 0o7777;
    if mode & 0o700 == 0o700 || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    step()?;
    // A descriptor opened with O_PATH takes no fchmod; its name in /proc does.
    let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
    rustix::fs::chmod(name, Mode::from_raw_mode(mode | 0o700))
}

/// The status of an entry, or `None` if there is none.
pub(super) fn status(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory without `.` and `..`, in byte order.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push(entry.file_name().to_owned());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A name of [`names`] as the other functions take it.
pub(super) fn as_name(name: &CString) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

/// Makes a directory.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<()> {
    step()?;
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))
}

/// Swaps two names in one operation; `INVAL`, `NOSYS` and the like where that is not supported.
pub(super) fn exchange(parent: BorrowedFd<'_>, one: &OsStr, other: &OsStr) -> Result<()> {
    step()?;
    #[cfg(test)]
    injection::exchange_supported()?;
    rustix::fs::renameat_with(parent, one, parent, other, RenameFlags::EXCHANGE)
}

/// Whether an error of [`exchange`] means that the file system or the kernel does not know it.
pub(super) fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Renames to a name that must be free.
pub(super) fn rename_to_free(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    free: &OsStr,
) -> Result<()> {
    step()?;
    match rustix::fs::renameat_with(from, name, to, free, RenameFlags::NOREPLACE) {
        Err(errno) if is_unsupported(errno) => {
            if status(to, free)?.is_some() {
                return Err(Errno::EXIST);
            }
            rustix::fs::renameat(from, name, to, free)
        }
        other => other,
    }
}

/// Makes a second name for an entry, which may be a symlink.
pub(super) fn link(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> Result<()> {
    step()?;
    rustix::fs::linkat(from, name, to, new, AtFlags::empty())
}

/// Removes a name that is not a directory; one that is gone already counts as removed.
pub(super) fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    step()?;
    absent_is_fine(parent, name, rustix::fs::unlinkat(parent, name, AtFlags::empty()))
}

/// Removes an empty directory; one that is gone already counts as removed.
pub(super) fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    step()?;
    absent_is_fine(parent, name, rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

/// A read-only file system says so before it looks whether the name is there at all: where claims are
/// mounted in a container, the place beside them is one.
fn absent_is_fine(parent: BorrowedFd<'_>, name: &OsStr, result: Result<()>) -> Result<()> {
    match result {
        Err(Errno::ROFS) if status(parent, name)?.is_none() => Ok(()),
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Makes what was done in a directory survive a power cut.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<()> {
    step()?;
    if WITHOUT_WAITING {
        return Ok(());
    }
    match rustix::fs::fsync(directory) {
        // Some network and FUSE file systems refuse it for directories.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Writes everything of the file system that holds `directory` to the disk: the staged files have
/// to be there before names lead to them.
pub(super) fn sync_file_system(directory: BorrowedFd<'_>) -> Result<()> {
    step()?;
    if WITHOUT_WAITING { Ok(()) } else { rustix::fs::syncfs(directory) }
}

/// The name of a record while it is written.
pub(super) fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    temporary
}

/// Writes a small file so that its name appears only with its whole content.
pub(super) fn write_record(directory: BorrowedFd<'_>, name: &OsStr, content: &[u8]) -> Result<()> {
    let temporary = temporary_name(name);
    unlink(directory, &temporary)?;
    step()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, &temporary, flags, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)
        .and_then(|()| if WITHOUT_WAITING { Ok(()) } else { file.sync_all() })
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    step()?;
    rustix::fs::renameat(directory, &temporary, directory, name)?;
    sync_directory(directory)
}

/// Reads a small file written by [`write_record`], or `None` if there is none.
pub(super) fn read_record(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;

    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(1 << 20)
        .read_to_end(&mut content)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(Some(content))
}

/// Lets the tests end a replacement before its k-th operation.
#[cfg(test)]
pub(super) mod injection {
    use std::cell::Cell;

    use rustix::io::{Errno, Result};

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static NO_EXCHANGE: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on `count` operations succeed and all later ones fail; `None` ends that.
    pub(in super::super) fn allow(count: Option<u64>) {
        LEFT.set(count);
    }

    /// Acts as a file system without RENAME_EXCHANGE.
    pub(in super::super) fn without_exchange(without: bool) {
        NO_EXCHANGE.set(without);
    }

    pub(in super::super) fn exchange_supported() -> Result<()> {
        if NO_EXCHANGE.get() { Err(Errno::INVAL) } else { Ok(()) }
    }

    pub(in super::super) fn step() -> Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(Errno::IO),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
