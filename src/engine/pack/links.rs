//! Which files have further names to come: these become hard links to the first. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rustix::fs::Stat;

use crate::engine::entry::Moment;
use crate::engine::index::number::{Numbers, push, push_bytes};

/// Bits of [`First`] that say where the name is; the others count.
const PLACE_BITS: u32 = 40;
/// Names to come that are counted down; of a file with more it is never known that all were met.
const MOST: u64 = (1 << (u64::BITS - PLACE_BITS)) - 1;

/// First names of files with several. A farm of links has millions of which no second name is ever met, so
/// every one takes twenty-five bytes of a table and its last part of the name; what comes before that is there
/// once for all that follow one another in a directory.
#[derive(Default)]
pub(super) struct FirstNames {
    directories: Vec<u8>,
    /// Where the last of them begins.
    directory: usize,
    /// Of each name where its directory begins, and its last part.
    names: Vec<u8>,
    /// By file system and inode.
    of: HashMap<u64, HashMap<u64, First>>,
}

/// Where a name begins and how many more there are, and what the file was.
#[derive(Clone, Copy)]
struct First {
    packed: u64,
    state: u64,
}

impl First {
    /// Nothing for a place beyond a terabyte of names.
    fn new(place: usize, remaining: u64, state: u64) -> Option<Self> {
        let place = u64::try_from(place).ok().filter(|place| place >> PLACE_BITS == 0)?;
        Some(Self { packed: (remaining.min(MOST) << PLACE_BITS) | place, state })
    }

    fn place(self) -> usize {
        usize::try_from(self.packed & ((1 << PLACE_BITS) - 1)).unwrap_or(usize::MAX)
    }

    fn remaining(self) -> u64 {
        self.packed >> PLACE_BITS
    }
}

/// What is known of a name of a file with several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It is the first.
    First,
    /// The file is in the archive under this name.
    Again(Vec<u8>),
    /// The file of its inode that is in the archive was another one, or may have been: an inode is free for others as
    /// soon as nobody has it any more.
    Other,
}

/// A stand-in for what a file is: kind, device and when it was made, whatever is written to it. Where nothing tells
/// that, size and last write have to do: an inode that is used again is another file.
fn state(stat: &Stat, born: Option<Moment>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode).as_raw_mode();
    (kind, stat.st_rdev).hash(&mut hasher);
    match born {
        Some(born) => (born.seconds, born.nanoseconds).hash(&mut hasher),
        None => (stat.st_size, stat.st_mtime, stat.st_mtime_nsec).hash(&mut hasher),
    }
    hasher.finish()
}

impl FirstNames {
    /// Notes the first name of a file, if it has further ones. `born` says when the file was made.
    pub(super) fn remember(
        &mut self,
        name: &[u8],
        stat: &Stat,
        born: impl FnOnce() -> Option<Moment>,
    ) {
        if stat.st_nlink < 2 {
            return;
        }
        if self.of.values().all(HashMap::is_empty) {
            self.directories.clear();
            self.names.clear();
        }
        // The field is narrower than this on other architectures.
        #[allow(clippy::useless_conversion)]
        let links = u64::from(stat.st_nlink);
        let Some(first) = First::new(self.names.len(), links - 1, state(stat, born())) else {
            return;
        };
        let (directory, last) = split(name);
        if self.directories.is_empty() || bytes_at(&self.directories, self.directory) != directory {
            self.directory = self.directories.len();
            push_bytes(&mut self.directories, directory);
        }
        push(&mut self.names, self.directory as u64);
        push_bytes(&mut self.names, last);
        self.of.entry(stat.st_dev).or_default().insert(stat.st_ino, first);
    }

    /// Looks for the first name of a file. What was read under that is what it holds, also if it was written to since.
    pub(super) fn take(&mut self, stat: &Stat, born: impl FnOnce() -> Option<Moment>) -> Met {
        if stat.st_nlink < 2 {
            return Met::First;
        }
        let Some(of_device) = self.of.get_mut(&stat.st_dev) else { return Met::First };
        let Some(first) = of_device.get(&stat.st_ino).copied() else { return Met::First };
        let remaining = first.remaining();
        let is_other = first.state != state(stat, born());
        if is_other || remaining <= 1 {
            of_device.remove(&stat.st_ino);
        } else if let Some(next) = First::new(first.place(), remaining - 1, first.state)
            && remaining < MOST
        {
            of_device.insert(stat.st_ino, next);
        }
        if is_other {
            return Met::Other;
        }
        self.name_at(first.place()).map_or(Met::First, Met::Again)
    }

    fn name_at(&self, place: usize) -> Option<Vec<u8>> {
        let mut numbers = Numbers(self.names.get(place..)?);
        let directory = usize::try_from(numbers.number()?).ok()?;
        let last = numbers.bytes()?;
        Some([bytes_at(&self.directories, directory), last].concat())
    }
}

fn bytes_at(bytes: &[u8], place: usize) -> &[u8] {
    bytes.get(place..).and_then(|rest| Numbers(rest).bytes()).unwrap_or_default()
}

/// A name as everything up to its last slash, and what follows.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let slash = name.iter().rposition(|byte| *byte == b'/');
    name.split_at(slash.map_or(0, |at| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(device: u64, inode: u64, links: u32) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_dev = device;
        stat.st_ino = inode;
        stat.st_nlink = links.into();
        stat
    }

    #[test]
    fn every_further_name_finds_the_first() {
        let mut names = FirstNames::default();
        let all =
            ["data/a/one", "data/a/two", "data/b/c/three", "data/a/four", "five", "volumes/x/"];
        for round in 0..2 {
            for (number, name) in (0..).zip(all) {
                let met = names.take(&stat(number % 2, number, 3), || None);
                assert_eq!(met, Met::First, "{round}: {name}");
                names.remember(name.as_bytes(), &stat(number % 2, number, 3), || None);
            }
            names.remember(b"alone", &stat(0, 99, 1), || None);
            for _ in 0..2 {
                for (number, name) in (0..).zip(all) {
                    let found = names.take(&stat(number % 2, number, 3), || None);
                    assert_eq!(found, Met::Again(name.as_bytes().to_vec()), "{round}");
                    let elsewhere = names.take(&stat(7, number, 3), || None);
                    assert_eq!(elsewhere, Met::First, "another file system");
                }
            }
        }
    }

    #[test]
    fn more_names_than_can_be_counted_are_all_links() {
        let mut names = FirstNames::default();
        let links = u32::MAX;
        names.remember(b"data/first", &stat(1, 1, links), || None);
        for _ in 0..10 {
            assert_eq!(names.take(&stat(1, 1, links), || None), Met::Again(b"data/first".to_vec()));
        }
        let first = names.of[&1][&1];
        assert_eq!((first.place(), first.remaining()), (0, MOST));
    }

    /// A file that got the inode of one that was gone was stored as a link to it, with that one's data.
    #[test]
    fn an_inode_that_is_used_again_is_no_further_name() {
        let before = stat(1, 1, 2);
        let changes: [fn(&mut Stat); 3] = [
            |stat| stat.st_size += 1,
            |stat| stat.st_mtime_nsec ^= 1,
            |stat| stat.st_mode ^= 0o170_000 & (stat.st_mode ^ 0o120_777),
        ];
        for change in changes {
            let mut names = FirstNames::default();
            names.remember(b"data/gone", &before, || None);
            let mut other = before;
            change(&mut other);
            assert_eq!(names.take(&other, || None), Met::Other);
            names.remember(b"data/other", &other, || None);
            assert_eq!(names.take(&other, || None), Met::Again(b"data/other".to_vec()));
        }
    }

    /// A file that was written to between the reading of its names was stored twice, and restored as two.
    #[test]
    fn a_file_is_known_by_when_it_was_made() {
        let born = |seconds| move || Some(Moment { seconds, nanoseconds: 1 });
        let before = stat(1, 1, 3);
        let mut written = before;
        (written.st_size, written.st_mtime) = (before.st_size + 1, before.st_mtime + 1);
        let mut names = FirstNames::default();
        names.remember(b"data/first", &before, born(7));
        assert_eq!(names.take(&written, born(7)), Met::Again(b"data/first".to_vec()));
        assert_eq!(names.take(&before, born(8)), Met::Other);
        names.remember(b"data/first", &before, born(7));
        assert_eq!(names.take(&before, || None), Met::Other, "nothing tells that it is the same");
    }
}
