//! The tar dialect: ustar headers, PAX records and sparse maps, to and from [`super::EntryInfo`].
//!
//! Written is POSIX ustar with PAX records only where ustar does not reach; read is also v7, GNU
//! (long names, old sparse), star prefixes and every GNU sparse variant. Formats are from POSIX.1
//! `pax`, and from the GNU tar manual's "Tar Internals". Does no file I/O of its own.

mod attributes;
mod halt;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(crate) use halt::{Announced, Halt, announced};
pub(crate) use header::is_header;
pub(crate) use reader::{TarEntry, TarReader};
pub(crate) use sparse::{Segment, encode_map};
#[cfg(test)]
pub(crate) use writer::entry_blocks;
pub(crate) use writer::{END_OF_ARCHIVE, entry_header, padding};

/// Length of a tar block in bytes.
pub(crate) const BLOCK: usize = 512;

/// The most bytes that one extended header, long name or sparse map may have.
pub(crate) const EXTENDED_LIMIT: u64 = 1 << 20;

/// The most segments of data that one sparse file may have: a map of that many is in memory, some ten megabytes.
pub(crate) const SEGMENT_LIMIT: usize = 1 << 18;
