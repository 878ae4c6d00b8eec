//! Which paths are meant: patterns in gitignore syntax over names relative to a root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::EngineError;

/// A set of gitignore patterns; empty sets match nothing.
#[derive(Debug)]
pub(super) struct Patterns(Option<Gitignore>);

impl Patterns {
    /// Reads the patterns in order; a later one, also with `!`, overrides an earlier one.
    pub(super) fn parse(patterns: &[String]) -> Result<Self, EngineError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let refuse = |pattern: &str, error: &ignore::Error| EngineError::InvalidPattern {
            pattern: pattern.to_owned(),
            detail: error.to_string(),
        };
        // Names are relative, so the root is never stripped from them.
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| refuse(pattern, &error))?;
        }
        let set = builder.build().map_err(|error| refuse(&patterns.join(" "), &error))?;
        Ok(Self(Some(set)))
    }

    /// Whether the name itself matches; for walks that do not descend into what matches.
    pub(super) fn matches(&self, relative: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(relative));
        self.0.as_ref().is_some_and(|set| set.matched(path, directory).is_ignore())
    }

    /// Whether the name or a directory above it matches; for names that come without order.
    pub(super) fn matches_or_lies_below(&self, relative: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(relative));
        !relative.is_empty()
            && self
                .0
                .as_ref()
                .is_some_and(|set| set.matched_path_or_any_parents(path, directory).is_ignore())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_gitignore() {
        let patterns =
            Patterns::parse(&["*.log".into(), "/cache/".into(), "!keep.log".into()]).unwrap();
        assert!(patterns.matches(b"a/b.log", false));
        assert!(!patterns.matches(b"a/keep.log", false));
        assert!(patterns.matches(b"cache", true));
        assert!(!patterns.matches(b"cache", false));
        assert!(!patterns.matches(b"a/cache", true));
        assert!(patterns.matches_or_lies_below(b"cache/x/y", false));
        assert!(Patterns::parse(&["[z-a]".into()]).is_err());
    }
}
