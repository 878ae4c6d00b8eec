//! Opening and describing the files to back up, always relative to an open directory.
//!
//! Never follows a symlink and never blocks on a FIFO. Reads only.

use std::ffi::CStr;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::entry::{EntryInfo, EntryKind, Moment};
use super::tar::{SEGMENT_LIMIT, Segment};

/// Opens a file or directory for reading without touching its access time where that is allowed.
pub(super) fn open(parent: impl AsFd, name: &CStr, extra: OFlags) -> rustix::io::Result<OwnedFd> {
    #[cfg(test)]
    hook::run(hook::Stage::Open, name)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
    match rustix::fs::openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for this.
        Err(Errno::PERM) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
        result => result,
    }
}

/// What an entry is; nothing for sockets, which no archive can hold.
pub(super) fn kind_of(file_type: FileType) -> Option<EntryKind> {
    match file_type {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::Fifo => Some(EntryKind::Fifo),
        FileType::CharacterDevice => Some(EntryKind::CharacterDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        _ => None,
    }
}

/// The entry that stands for a file of these attributes.
pub(super) fn describe(name: Vec<u8>, kind: EntryKind, stat: &Stat) -> EntryInfo {
    let device = if kind.is_device() {
        (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
    } else {
        (0, 0)
    };
    EntryInfo {
        name,
        kind,
        size: if kind == EntryKind::File { size(stat) } else { 0 },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        modified: modified(stat),
        link_target: None,
        device,
        xattrs: Vec::new(),
        sparse: false,
    }
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub(super) fn modified(stat: &Stat) -> Moment {
    Moment { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Time of the last change of the inode.
pub(super) fn changed(stat: &Stat) -> Moment {
    Moment { seconds: stat.st_ctime, nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) }
}

/// When an inode was made, where the file system tells: nothing else tells it for sure from another that gets its
/// number later.
pub(super) fn born(source: &AttributeSource<'_>, stat: &Stat) -> Option<Moment> {
    let wanted = StatxFlags::BTIME | StatxFlags::INO;
    let found = match source {
        AttributeSource::Open(file) => rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted),
        AttributeSource::Named(parent, name) => {
            rustix::fs::statx(parent, *name, AtFlags::SYMLINK_NOFOLLOW, wanted)
        }
    };
    // Whoever asks by name may be told of another file than the one that was looked at.
    let found = found.ok().filter(|found| found.stx_ino == stat.st_ino)?;
    let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let time = found.stx_btime;
    let moment = Moment { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    (born && moment != Moment { seconds: 0, nanoseconds: 0 }).then_some(moment)
}

/// Reads files without pushing anything else out of the page cache, where the kernel can do that.
#[derive(Default)]
pub(super) struct Reader {
    /// A file system that has refused it.
    refused: Option<u64>,
}

impl Reader {
    /// `RWF_DONTCACHE` of Linux 6.14: pages that this read brought in are dropped after it, those
    /// that were cached before stay.
    const UNCACHED: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

    /// Reads until the buffer is full or the file ends.
    pub(super) fn read(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        buffer: &mut [u8],
        offset: u64,
    ) -> rustix::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let (rest, at) = (&mut buffer[filled..], offset + filled as u64);
            let read = if self.refused == Some(stat.st_dev) {
                rustix::io::pread(file, rest, at)
            } else {
                rustix::io::preadv2(file, &mut [IoSliceMut::new(rest)], at, Self::UNCACHED)
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
                    if self.refused != Some(stat.st_dev) =>
                {
                    self.refused = Some(stat.st_dev);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Bytes that the file takes up on disk.
pub(super) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// More parts than a sparse map may hold.
pub(super) struct TooManySegments;

/// The parts of a file that hold data, if it has holes and the file system tells where.
pub(super) fn data_segments(
    file: &OwnedFd,
    stat: &Stat,
) -> Result<Option<Vec<Segment>>, TooManySegments> {
    let size = size(stat);
    if allocated(stat) >= size {
        return Ok(None);
    }
    let mut segments = Vec::new();
    let mut position = 0;
    while position < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(_) => return Ok(None),
        };
        if data >= size {
            break;
        }
        let Ok(hole) = rustix::fs::seek(file, SeekFrom::Hole(data)) else { return Ok(None) };
        let hole = hole.min(size);
        if hole <= data {
            return Ok(None);
        }
        // One is left for a trailing hole.
        if segments.len() + 1 == SEGMENT_LIMIT {
            return Err(TooManySegments);
        }
        segments.push(Segment { offset: data, length: hole - data });
        position = hole;
    }
    let data: u64 = segments.iter().map(|segment| segment.length).sum();
    Ok((data < size).then(|| {
        // A map that ends before the file does would lose the trailing hole in GNU tar.
        if segments.last().is_none_or(|last| last.offset + last.length < size) {
            segments.push(Segment { offset: size, length: 0 });
        }
        segments
    }))
}

/// Where extended attributes are read from: an open file, or a name that cannot be opened.
pub(super) enum AttributeSource<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a CStr),
}

/// The extended attributes of a file. One that cannot be read, as a capability of another user namespace, costs none
/// of the others.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Names and values.
    pub read: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names, and why.
    pub unread: Vec<(Vec<u8>, Errno)>,
}

/// Every extended attribute, in the kernel's order; ACLs and capabilities are among them.
pub(super) fn attributes(source: &AttributeSource<'_>) -> rustix::io::Result<Attributes> {
    // No system call reads attributes relative to a directory before Linux 6.13; the magic link of
    // the open directory does the same.
    let path = match source {
        AttributeSource::Named(parent, name) => {
            let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            path
        }
        AttributeSource::Open(_) => Vec::new(),
    };
    let mut names = [0_u8; 1024];
    let listed = match source {
        AttributeSource::Open(file) => rustix::fs::flistxattr(file, &mut names[..]),
        AttributeSource::Named(..) => rustix::fs::llistxattr(&path[..], &mut names[..]),
    };
    let names = match listed {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Attributes::default()),
        Ok(count) => names[..count].to_vec(),
        Err(Errno::RANGE) => {
            let mut names = vec![0_u8; 64 << 10];
            let count = match source {
                AttributeSource::Open(file) => rustix::fs::flistxattr(file, &mut names[..])?,
                AttributeSource::Named(..) => rustix::fs::llistxattr(&path[..], &mut names[..])?,
            };
            names.truncate(count);
            names
        }
        Err(error) => return Err(error),
    };
    let mut attributes = Attributes::default();
    let mut value = vec![0_u8; 64 << 10];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let read = match source {
            AttributeSource::Open(file) => rustix::fs::fgetxattr(file, name, &mut value[..]),
            AttributeSource::Named(..) => rustix::fs::lgetxattr(&path[..], name, &mut value[..]),
        };
        match read {
            Ok(count) => attributes.read.push((name.to_vec(), value[..count].to_vec())),
            Err(Errno::NODATA) => {}
            Err(error) => attributes.unread.push((name.to_vec(), error)),
        }
    }
    Ok(attributes)
}

/// Lets tests change files between the steps of reading them.
#[cfg(test)]
pub(super) mod hook {
    use std::cell::RefCell;
    use std::ffi::CStr;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Stage {
        Open,
        Described,
    }

    type Hook = Box<dyn FnMut(Stage, &CStr) -> rustix::io::Result<()>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    pub(crate) fn set(hook: Hook) {
        HOOK.with(|slot| *slot.borrow_mut() = Some(hook));
    }

    pub(crate) fn clear() {
        HOOK.with(|slot| *slot.borrow_mut() = None);
    }

    pub(crate) fn run(stage: Stage, name: &CStr) -> rustix::io::Result<()> {
        HOOK.with(|slot| slot.borrow_mut().as_mut().map_or(Ok(()), |hook| hook(stage, name)))
    }
}
