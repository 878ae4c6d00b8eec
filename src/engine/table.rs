//! What is known of many names, as small as it gets: rows sorted by the names' stand-ins, built once and then
//! only asked. A hash table would take twice the memory while it grows. Pure.

use super::entry::Key;

/// Rows by name.
pub(super) struct Table<T> {
    rows: Vec<(Key, T)>,
    /// Where the rows begin whose keys have these first sixteen bits; the keys are hashes and fill them evenly.
    starts: Vec<usize>,
}

impl<T> Table<T> {
    /// A table of these rows. Of several with one name the last counts.
    pub(super) fn new(mut rows: Vec<(Key, T)>) -> Self {
        rows.sort_by_key(|row| row.0);
        let mut starts = vec![0; (1 << 16) + 1];
        for (name, _) in &rows {
            starts[first_bits(name) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Self { rows, starts }
    }

    fn position(&self, name: &Key) -> Option<usize> {
        let bits = first_bits(name);
        let (from, to) = (self.starts[bits], self.starts[bits + 1]);
        let after = from + self.rows[from..to].partition_point(|row| row.0 <= *name);
        (after > from && self.rows[after - 1].0 == *name).then(|| after - 1)
    }

    /// The row of a name.
    pub(super) fn get(&self, name: &Key) -> Option<&T> {
        self.position(name).map(|at| &self.rows[at].1)
    }

    /// The row of a name, to note something in it.
    pub(super) fn get_mut(&mut self, name: &Key) -> Option<&mut T> {
        self.position(name).map(|at| &mut self.rows[at].1)
    }

    /// All rows, in no order that means anything.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.rows.iter().map(|row| &row.1)
    }
}

fn first_bits(name: &Key) -> usize {
    usize::from(u16::from_be_bytes([name[0], name[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::entry::key;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn a_table_is_a_map_built_once(rows in proptest::collection::vec((0_u16..300, any::<u8>()), 0..500)) {
            // Real keys, and some that share their beginning.
            let name = |number: u16| {
                let mut name = key(&number.to_le_bytes());
                if number.is_multiple_of(3) {
                    name[..15].fill(if number.is_multiple_of(2) { 0 } else { 255 });
                }
                name
            };
            let rows: Vec<_> = rows.into_iter().map(|(number, row)| (name(number), row)).collect();
            let map: HashMap<_, _> = rows.iter().copied().collect();
            let mut table = Table::new(rows);
            for number in 0..310 {
                prop_assert_eq!(table.get(&name(number)), map.get(&name(number)));
                prop_assert_eq!(table.get_mut(&name(number)).copied(), map.get(&name(number)).copied());
            }
        }
    }
}
