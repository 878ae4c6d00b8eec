//! What is known of a stream where damage has ended reading.

use super::BLOCK;
use super::header::Header;
use super::pax::parse_records;

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

/// What a header may still say though its checksum is wrong: how much data follows it, and whether that describes
/// the entry after it. Nothing for a block of zeros.
pub(crate) fn announced(block: &[u8; BLOCK], data: &[u8]) -> Option<(u64, bool)> {
    let header = Header(block);
    let size = header.size().ok().filter(|_| *block != [0; BLOCK])?;
    // What it says of its kind may be what is wrong.
    let text = usize::try_from(size).ok().and_then(|size| data.get(..size)).unwrap_or_default();
    let is_records = parse_records(text).is_some_and(|records| !records.is_empty());
    Some((size, is_records || matches!(header.kind(), b'x' | b'X' | b'g' | b'L' | b'K')))
}
