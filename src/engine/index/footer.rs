//! The footer: 76 bytes of fixed layout that say where the index is.

use super::INDEX_LIMIT;

/// Length of the footer, without what frames it.
pub(in crate::engine) const FOOTER: usize = 76;
const MAGIC: &[u8; 8] = b"EIDERIDX";
const VERSION: u16 = 1;

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Footer {
    /// Offset in the file of the index's first byte, which is also the end of the last member.
    pub offset: u64,
    /// Bytes in the file from there to the footer.
    pub length: u64,
    /// Bytes of the index without what frames it.
    pub payload: u64,
    /// BLAKE3 of the index without what frames it.
    pub hash: [u8; 32],
}

/// Why a footer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum BadFooter {
    /// There is none: an archive of another program, or of version 1.
    None,
    /// A later version.
    Newer(u64),
    /// It was damaged.
    Damaged,
}

impl Footer {
    pub(in crate::engine) fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.payload.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.hash);
        let sum = libdeflater::crc32(&bytes[..72]);
        bytes[72..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a footer whose first byte is at `position` of the file.
    pub(in crate::engine) fn decode(bytes: &[u8], position: u64) -> Result<Self, BadFooter> {
        let bytes: &[u8; FOOTER] = bytes.try_into().map_err(|_| BadFooter::None)?;
        if bytes[..8] != *MAGIC {
            return Err(BadFooter::None);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(BadFooter::Newer(u64::from(version)));
        }
        let eight = |at: usize| {
            bytes[at..at + 8].try_into().map(u64::from_le_bytes).map_err(|_| BadFooter::Damaged)
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[40..72]);
        let footer = Self { offset: eight(16)?, length: eight(24)?, payload: eight(32)?, hash };
        let sum = libdeflater::crc32(&bytes[..72]);
        let fits = version == VERSION
            && bytes[10..16] == [0; 6]
            && bytes[72..] == sum.to_le_bytes()
            && footer.payload <= footer.length
            && footer.length <= INDEX_LIMIT + INDEX_LIMIT / 64
            && footer.payload <= INDEX_LIMIT
            && footer.offset.checked_add(footer.length) == Some(position);
        if fits { Ok(footer) } else { Err(BadFooter::Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_points_exactly_at_what_is_before_it() {
        let footer = Footer { offset: 1000, length: 200, payload: 150, hash: [7; 32] };
        let bytes = footer.encode();
        assert_eq!(Footer::decode(&bytes, 1200), Ok(footer));
        assert_eq!(Footer::decode(&bytes, 1201), Err(BadFooter::Damaged));
        assert_eq!(Footer::decode(&bytes[1..], 1200), Err(BadFooter::None));
        for at in 8..FOOTER {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert!(Footer::decode(&broken, 1200).is_err(), "byte {at}");
        }
        let far = Footer { offset: u64::MAX, length: 201, payload: 150, hash: [7; 32] };
        assert_eq!(Footer::decode(&far.encode(), 200), Err(BadFooter::Damaged));
    }
}
