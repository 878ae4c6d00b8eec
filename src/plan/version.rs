//! Versions of services: comparing them and writing them into names. Pure text.

use std::cmp::Ordering;

/// How a wanted version relates to the running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChange {
    /// The wanted one is newer.
    Newer,
    /// Both are the same release; build metadata after `+` does not count (Semantic Versioning, 10).
    Same,
    /// The wanted one is older.
    Older,
    /// At least one is free text and they differ; nobody can say.
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
struct Version<'a> {
    numbers: [u64; 4],
    pre_release: Option<&'a str>,
}

/// Reads `[v]MAJOR.MINOR.PATCH[.BUILD][-pre][+meta]`; anything else is free text.
fn parse(text: &str) -> Option<Version<'_>> {
    let text = text.trim();
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(version, _)| version);
    let (core, pre_release) = match text.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (text, None),
    };
    if pre_release.is_some_and(|pre| pre.split('.').any(str::is_empty)) {
        return None;
    }
    let mut numbers = [0; 4];
    let mut count = 0;
    for part in core.split('.') {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *numbers.get_mut(count)? = part.parse().ok()?;
        count += 1;
    }
    (count >= 3).then_some(Version { numbers, pre_release })
}

/// Precedence of pre-releases after Semantic Versioning 2.0.0, item 11.
fn compare_pre_release(left: &str, right: &str) -> Ordering {
    let mut left = left.split('.');
    let mut right = right.split('.');
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => compare_identifiers(one, other),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn compare_identifiers(one: &str, other: &str) -> Ordering {
    let numeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (numeric(one), numeric(other)) {
        (true, true) => {
            // Any length: without leading zeros the longer number is the larger one.
            let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}

/// How `wanted` relates to `running`.
pub fn compare(running: &str, wanted: &str) -> VersionChange {
    if running.trim() == wanted.trim() {
        return VersionChange::Same;
    }
    let (Some(running), Some(wanted)) = (parse(running), parse(wanted)) else {
        return VersionChange::Unknown;
    };
    let order = wanted.numbers.cmp(&running.numbers).then_with(|| {
        match (wanted.pre_release, running.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(wanted), Some(running)) => compare_pre_release(wanted, running),
        }
    });
    match order {
        Ordering::Less => VersionChange::Older,
        Ordering::Equal => VersionChange::Same,
        Ordering::Greater => VersionChange::Newer,
    }
}

/// Why this is no upgrade, as a sentence's end; nothing if it is one, or nobody knows. `unchanged`:
/// the very images run already.
pub fn refusal(running: Option<&str>, wanted: &str, unchanged: bool) -> Option<String> {
    if unchanged {
        return Some("it runs these images already".to_owned());
    }
    let running = running?;
    match compare(running, wanted) {
        VersionChange::Same => Some(format!("{wanted} is what runs")),
        VersionChange::Older => Some(format!("{wanted} is older than {running}")),
        VersionChange::Newer | VersionChange::Unknown => None,
    }
}

/// The version that an image's tag names; nothing for `latest` and digests.
pub fn of_image(image: &str) -> Option<String> {
    let name = image.split('@').next().unwrap_or_default();
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    (tag != "latest" && !tag.is_empty()).then(|| tag.to_owned())
}

/// A version as it may stand in a file name: `[A-Za-z0-9._+-]`, at most 64 bytes, other characters
/// become `-`, and one leading `v` before a digit is dropped. Nothing left gives `0`.
pub fn sanitise(version: &str) -> String {
    let version = version.trim();
    let version = match version.strip_prefix(['v', 'V']) {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_digit()) => rest,
        _ => version,
    };
    let name: String = version
        .chars()
        .take(64)
        .map(|one| if one.is_ascii_alphanumeric() || "._+-".contains(one) { one } else { '-' })
        .collect();
    if name.is_empty() { "0".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_versioning_says() {
        for (running, wanted, expected) in [
            ("1.2.0", "1.3.0", VersionChange::Newer),
            ("v1.2.0", "1.2.0", VersionChange::Same),
            ("1.10.0", "1.9.9", VersionChange::Older),
            ("1.2.3", "1.2.3.1", VersionChange::Newer),
            ("1.2.3", "1.2.3.0", VersionChange::Same),
            ("1.0.0-rc.1", "1.0.0", VersionChange::Newer),
            ("1.0.0-rc.2", "1.0.0-rc.10", VersionChange::Newer),
            ("1.0.0-alpha.1", "1.0.0-alpha.beta", VersionChange::Newer),
            ("1.0.0-alpha", "1.0.0-alpha.1", VersionChange::Newer),
            ("1.0.0+one", "1.0.0+two", VersionChange::Same),
            ("latest", "latest", VersionChange::Same),
            ("latest", "1.0.0", VersionChange::Unknown),
            ("1.2", "1.3", VersionChange::Unknown),
            ("1.0.0", "99999999999999999999.0.0", VersionChange::Unknown),
            ("1.0.0", "1..0", VersionChange::Unknown),
            ("1.0.0", "1.0.0.0.0", VersionChange::Unknown),
        ] {
            assert_eq!(compare(running, wanted), expected, "{running} to {wanted}");
        }
    }

    #[test]
    fn names_hold_only_harmless_characters() {
        assert_eq!(sanitise("v1.2.0+meta"), "1.2.0+meta");
        assert_eq!(sanitise("vanilla"), "vanilla");
        assert_eq!(sanitise("../e t/ü"), "..-e-t--");
        assert_eq!(sanitise(" "), "0");
        assert_eq!(sanitise(&"x".repeat(100)).len(), 64);
    }
}
