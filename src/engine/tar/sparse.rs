//! Maps of sparse files: which parts of a file hold data.

use super::{BLOCK, SEGMENT_LIMIT};

/// A part of a file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The map as GNU sparse format 1.0 puts it before the data: decimal lines, padded to a block.
pub(crate) fn encode_map(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for segment in segments {
        map.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Checks pairs against the sizes: ascending, apart, inside the file, and exactly the stored data.
pub(super) fn check_map(
    pairs: &[(u64, u64)],
    real_size: u64,
    stored: u64,
) -> Result<Vec<Segment>, &'static str> {
    if pairs.len() > SEGMENT_LIMIT {
        return Err("the sparse map has too many segments");
    }
    let (mut end, mut total) = (0_u64, 0_u64);
    let mut segments = Vec::with_capacity(pairs.len());
    for (offset, length) in pairs.iter().copied() {
        if offset < end {
            return Err("the segments of the sparse map overlap");
        }
        end = offset.checked_add(length).ok_or("the sparse map overflows")?;
        total = total.checked_add(length).ok_or("the sparse map overflows")?;
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if end > real_size {
        return Err("the sparse map reaches beyond the file's size");
    }
    if total != stored {
        return Err("the sparse map does not match the stored data");
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_describe_exactly_the_stored_data() {
        assert_eq!(check_map(&[(0, 5), (10, 5), (100, 0)], 100, 10).unwrap().len(), 2);
        assert!(check_map(&[(0, 5), (4, 5)], 100, 10).is_err());
        assert!(check_map(&[(0, 5), (98, 5)], 100, 10).is_err());
        assert!(check_map(&[(0, 5)], 100, 10).is_err());
        assert!(check_map(&[(u64::MAX, 5)], u64::MAX, 5).is_err());
        assert_eq!(encode_map(&[Segment { offset: 1, length: 2 }])[..6], *b"1\n1\n2\n");
    }
}
