//! Names in archives: which are refused, and which destination they belong to. Pure.

use super::UnpackOptions;
pub(super) use crate::engine::entry::{Key, key};
use crate::engine::error::EngineError;
use crate::engine::index::NAME_LIMIT;
use crate::engine::select::Patterns;

/// The longest name of one file on any file system of Linux.
const COMPONENT_LIMIT: usize = 255;

/// The name relative to the destination, without `.` and slashes to spare; empty for `./`.
pub(super) fn clean(archive: &str, name: &[u8]) -> Result<Vec<u8>, EngineError> {
    let refuse = |detail: &str| Err(EngineError::unsafe_entry(archive, name, detail));
    if name.is_empty() {
        return refuse("its name is empty");
    }
    if name.contains(&0) {
        return refuse("its name contains a NUL byte");
    }
    if name[0] == b'/' {
        return refuse("its name is absolute");
    }
    if name.len() > NAME_LIMIT {
        return refuse("its name is too long");
    }
    let mut cleaned = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return refuse("its name contains `..`"),
            long if long.len() > COMPONENT_LIMIT => {
                return refuse("a component of its name is longer than 255 bytes");
            }
            _ => {}
        }
        if !cleaned.is_empty() {
            cleaned.push(b'/');
        }
        cleaned.extend_from_slice(component);
    }
    Ok(cleaned)
}

/// The directories above a cleaned name, nearest first, without the destination itself.
pub(super) fn ancestors(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(index, _)| &name[..index])
}

/// Where an entry belongs: index of its destination, and name relative to it.
pub(super) type Position = (usize, Vec<u8>);

/// Decides which entries are unpacked where.
pub(super) struct Selector {
    roots: Vec<Vec<u8>>,
    include: Patterns,
    preserve: Patterns,
}

impl Selector {
    pub(super) fn new(options: &UnpackOptions) -> Result<Self, EngineError> {
        let roots = options.destinations.iter();
        Ok(Self {
            roots: roots.map(|(name, _)| name.trim_matches('/').as_bytes().to_vec()).collect(),
            include: Patterns::parse(&options.include)?,
            preserve: Patterns::parse(&options.preserve)?,
        })
    }

    /// The destination of a cleaned name, whether or not it is to be unpacked.
    pub(super) fn position(&self, name: &[u8]) -> Option<Position> {
        self.roots.iter().enumerate().find_map(|(index, root)| {
            if root.is_empty() {
                return Some((index, name.to_vec()));
            }
            let rest = name.strip_prefix(root.as_slice())?;
            match rest {
                [] => Some((index, Vec::new())),
                [b'/', relative @ ..] => Some((index, relative.to_vec())),
                _ => None,
            }
        })
    }

    /// Whether an entry is to be unpacked.
    pub(super) fn selects(&self, name: &[u8], position: &Position, directory: bool) -> bool {
        (self.include.is_empty() || self.include.matches_or_lies_below(name, directory))
            && !self.preserve.matches_or_lies_below(&position.1, directory)
    }

    pub(super) fn takes_everything(&self) -> bool {
        self.include.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_or_refused() {
        assert_eq!(clean("a", b"./x//y/./z/").unwrap(), b"x/y/z");
        assert_eq!(clean("a", b"./").unwrap(), b"");
        assert_eq!(clean("a", b"..x/...").unwrap(), b"..x/...");
        for name in [&b""[..], b"/x", b"x/../y", b"..", b"x\0y", &[b'a'; 256]] {
            assert!(matches!(clean("a", name), Err(EngineError::Unsafe { .. })));
        }
        assert_eq!(ancestors(b"a/b/c").collect::<Vec<_>>(), [&b"a/b"[..], b"a"]);
    }
}
