//! Which files have further names to come: these become hard links to the first. Pure.

use std::collections::HashMap;

use rustix::fs::Stat;

/// First names of files with several, all in one piece of memory: a farm of links has millions.
#[derive(Default)]
pub(super) struct FirstNames {
    names: Vec<u8>,
    of: HashMap<(u64, u64), First>,
}

struct First {
    start: usize,
    length: u32,
    /// Names that were not met yet; more than this many are never counted down to none.
    remaining: u32,
}

impl FirstNames {
    /// Notes the first name of a file, if it has further ones.
    pub(super) fn remember(&mut self, name: &[u8], stat: &Stat) {
        if stat.st_nlink < 2 {
            return;
        }
        if self.of.is_empty() {
            self.names.clear();
        }
        // The field is narrower than this on other architectures.
        #[allow(clippy::useless_conversion)]
        let links = u64::from(stat.st_nlink);
        let first = First {
            start: self.names.len(),
            length: u32::try_from(name.len()).unwrap_or(0),
            remaining: u32::try_from(links - 1).unwrap_or(u32::MAX),
        };
        self.names.extend_from_slice(name);
        self.of.insert((stat.st_dev, stat.st_ino), first);
    }

    /// The first name of a file that was met before.
    pub(super) fn take(&mut self, stat: &Stat) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        let first = self.of.get_mut(&key)?;
        first.remaining = first.remaining.saturating_sub(1);
        let name = self.names.get(first.start..first.start + first.length as usize)?.to_vec();
        if first.remaining == 0 {
            self.of.remove(&key);
        }
        Some(name)
    }
}
