//! What is known of a stream where damage has ended reading.

use super::BLOCK;
use super::header::Header;
use super::pax::{parse_decimal, parse_records, value};

/// How far reading came, for whoever goes on behind damage. Places are those of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Halt {
    /// The end of what was read.
    pub position: u64,
    /// The block that was taken for a header last.
    pub header: u64,
    /// The size that an extended header before that block gives its entry.
    pub size: Option<u64>,
    /// Where the next header belongs by the one that was read rightly, if there was anything behind that.
    pub next: Option<u64>,
    /// Behind the end blocks.
    pub end: Option<u64>,
}

/// What a header says of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    /// Bytes of its data.
    pub size: u64,
    /// Whether that data describes the entry after it.
    pub describes_next: bool,
    /// The size that it gives that entry.
    pub next_size: Option<u64>,
}

/// What a header says of what follows it, also one whose checksum is wrong, if that is true. Nothing for a block of
/// zeros. `data` is what follows, as far as it is known.
pub(crate) fn announced(block: &[u8; BLOCK], data: &[u8]) -> Option<Announced> {
    let header = Header(block);
    let size = header.size().ok().filter(|_| *block != [0; BLOCK])?;
    let text = usize::try_from(size).ok().and_then(|size| data.get(..size)).unwrap_or_default();
    let is_extension = matches!(header.kind(), b'x' | b'X' | b'g' | b'L' | b'K');
    // What it says of its kind may be what is wrong.
    let may_be = is_extension || !header.checksum_is_right();
    let records = Some(text).filter(|_| may_be).and_then(parse_records).unwrap_or_default();
    Some(Announced {
        size,
        describes_next: is_extension || !records.is_empty(),
        next_size: value(&records, "size").and_then(parse_decimal),
    })
}
