//! BLAKE3 of files that are hashed piece by piece, on several cores and in any order.
//!
//! A BLAKE3 hash is a tree. A piece whose offset is a multiple of its length, a power of two, is a
//! subtree; its chaining value can be computed alone and merged with the others afterwards (section
//! 2.1 of the BLAKE3 paper). The result is the ordinary hash of the whole.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

/// A piece of an entry's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Offset in the data.
    pub at: u64,
    /// Length of the piece.
    pub length: usize,
    /// Length of the data.
    pub total: u64,
}

impl Piece {
    /// Whether it is all of the data.
    pub(super) fn is_whole(&self) -> bool {
        self.length as u64 == self.total
    }

    /// Whether the data ends with it.
    pub(super) fn is_last(&self) -> bool {
        self.at + self.length as u64 == self.total
    }

    /// The hash of all the data, or the chaining value of this part of it.
    pub(super) fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        if self.is_whole() {
            return *blake3::hash(bytes).as_bytes();
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(self.at);
        hasher.update(bytes);
        hasher.finalize_non_root()
    }
}

/// The hash of data from the chaining values of all its pieces, which are at least two.
pub(super) fn merge(pieces: &[ChainingValue]) -> [u8; 32] {
    let (left, right) = pieces.split_at(left_length(pieces.len()));
    *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
}

fn subtree(pieces: &[ChainingValue]) -> ChainingValue {
    match pieces {
        [] => [0; 32],
        [one] => *one,
        more => {
            let (left, right) = more.split_at(left_length(more.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The left subtree is the largest power of two below the whole.
fn left_length(pieces: usize) -> usize {
    pieces.saturating_sub(1).checked_ilog2().map_or(0, |bits| 1 << bits)
}

/// Puts the hashes of a run of pieces together, in the order of the data.
#[derive(Debug, Default)]
pub(super) struct Merger {
    pieces: Vec<ChainingValue>,
}

impl Merger {
    /// Takes the hash of the next piece; returns that of the data when it was the last.
    pub(super) fn add(&mut self, piece: &Piece, hash: [u8; 32]) -> Option<[u8; 32]> {
        if piece.is_whole() {
            return Some(hash);
        }
        self.pieces.push(hash);
        piece.is_last().then(|| merge(&std::mem::take(&mut self.pieces)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_hash_of_the_whole() {
        let data: Vec<u8> = (0..100_000_u32).map(|at| (at % 253) as u8).collect();
        for length in [1, 1024, 4096, 4097, 8192, 50_000, 65_536, 99_999, 100_000] {
            let data = &data[..length];
            let mut merger = Merger::default();
            let mut found = None;
            for (number, bytes) in data.chunks(4096).enumerate() {
                let piece =
                    Piece { at: number as u64 * 4096, length: bytes.len(), total: length as u64 };
                assert_eq!(found, None);
                found = merger.add(&piece, piece.hash(bytes));
            }
            assert_eq!(found, Some(*blake3::hash(data).as_bytes()), "{length}");
        }
    }
}
