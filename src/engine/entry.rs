//! What an archive says of one entry; the same type is written, listed and extracted.

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// Whole seconds since 1970 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds above `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file earlier in the archive.
    HardLink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

impl EntryKind {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::HardLink => "hard link",
            Self::Fifo => "fifo",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }

    /// Whether the entry names a device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharacterDevice | Self::BlockDevice)
    }
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInfo {
    /// Name as it stands in the archive; any bytes but NUL, directories may end in a slash.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Size of the file in bytes, holes included; 0 for everything but files.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Time of the last modification.
    pub modified: Moment,
    /// Target of a symlink, or archive name that a hard link points to.
    pub link_target: Option<Vec<u8>>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, names as the kernel gives them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the archive keeps the file's holes as holes.
    pub sparse: bool,
}

impl EntryInfo {
    /// The name for people: bytes that are no UTF-8 or not printable are escaped.
    pub fn display_name(&self) -> String {
        display_bytes(&self.name)
    }
}

/// Text for people of bytes that need not be UTF-8.
pub(crate) fn display_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// As much of it as a message can show: names in records may have a megabyte.
pub(crate) fn display_start(bytes: &[u8]) -> String {
    const SHOWN: usize = 255;
    match bytes.get(..SHOWN) {
        // In the middle of a character it is no UTF-8, and escaped.
        Some(start) if bytes.len() > SHOWN => format!("{}…", display_bytes(start)),
        _ => display_bytes(bytes),
    }
}

/// Bytes of which some stand as their number: a mark, then so many digits of a radix. A mark without them is itself.
pub(crate) fn unescape_numbers(text: &[u8], mark: u8, digits: usize, radix: u32) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let number = tail.get(..digits).and_then(|number| std::str::from_utf8(number).ok());
        match number.and_then(|number| u8::from_str_radix(number, radix).ok()) {
            Some(byte) if first == mark => {
                plain.push(byte);
                rest = tail.get(digits..).unwrap_or_default();
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

/// A short stand-in for a name, so that a million names cost little memory.
pub(super) type Key = [u8; 16];

/// The stand-in of a name: half of its BLAKE3.
pub(super) fn key(name: &[u8]) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(name).as_bytes()[..16]);
    key
}

/// The name of a directory without its final slash; other names as they are.
pub(super) fn trimmed(name: &[u8]) -> &[u8] {
    name.strip_suffix(b"/").unwrap_or(name)
}
