//! What is wrong with a document, where it stands, and what was probably meant.
//!
//! Pure text: nothing here reads files or knows YAML.

use std::fmt;

use super::reason::Reason;
use super::tree::Position;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Name of the file, as it was given; empty when the object did not come from a file.
    pub file: String,
    /// Line, counted from 1; 0 when the object did not come from a file.
    pub line: u32,
    /// Column in characters, counted from 1; 0 when the object did not come from a file.
    pub column: u32,
    /// The field, as `spec.target.host.paths[0]`; empty for the document as a whole.
    pub path: String,
    /// Always [`Reason::InvalidSpec`]; kept here so that errors and events need no translation.
    pub reason: Reason,
    /// What is wrong and what was expected.
    pub message: String,
    /// What would probably help, as a clause without a full stop.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(formatter, "{}:", self.file)?;
        }
        if self.line > 0 {
            write!(formatter, "{}:{}:", self.line, self.column)?;
        }
        if !self.file.is_empty() || self.line > 0 {
            formatter.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(formatter, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A problem before its position is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
    /// Whether the key of the field is to blame rather than its value.
    pub at_key: bool,
    /// Where it stands, when the path alone does not tell.
    pub position: Option<Position>,
}

impl Finding {
    /// A value that is wrong.
    pub fn value(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            hint: None,
            at_key: false,
            position: None,
        }
    }

    /// A field that is wrong as such.
    pub fn key(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            hint: None,
            at_key: true,
            position: None,
        }
    }

    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_optional_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// The path of a member of the object at `parent`.
pub(super) fn member_path(parent: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{key:?}]"),
    }
}

/// The path of an item of the list at `parent`.
pub(super) fn item_path(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// The path that holds `path`; the empty path holds itself.
pub(super) fn parent_path(path: &str) -> &str {
    let end = if path.ends_with("\"]") {
        path.find("[\"").unwrap_or(0)
    } else if path.ends_with(']') {
        path.rfind('[').unwrap_or(0)
    } else {
        path.rfind('.').unwrap_or(0)
    };
    &path[..end]
}

/// Whether `path` is `ancestor` or lies within it.
pub(super) fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| {
        ancestor.is_empty() || rest.is_empty() || rest.starts_with('.') || rest.starts_with('[')
    })
}

/// "did you mean `x`?" for the nearest of `candidates`, when one is near enough to be a slip.
pub fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // A text this long is no slip of the pen, and the distance is quadratic in its length.
    if written.len() > 64 {
        return None;
    }
    let folded = written.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(&folded, &candidate.to_lowercase());
            let allowed = (written.chars().count().min(candidate.len()) / 3).max(1);
            (distance <= allowed).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row];
        for column in 1..=right.len() {
            let same = left[row - 1] == right[column - 1];
            let mut best = (above[column] + 1)
                .min(current[column - 1] + 1)
                .min(above[column - 1] + usize::from(!same));
            let swapped = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if swapped {
                best = best.min(before[column - 2] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let fields = ["host", "docker", "workload", "volumeClaims"];
        assert_eq!(did_you_mean("hots", fields).unwrap(), "did you mean `host`?");
        assert_eq!(did_you_mean("volumeclaim", fields).unwrap(), "did you mean `volumeClaims`?");
        assert_eq!(did_you_mean("kubernetes", fields), None);
        assert_eq!(did_you_mean("", fields), None);
    }

    #[test]
    fn paths_are_taken_apart_as_they_are_put_together() {
        let annotation = member_path("metadata.annotations", "eider.dev/reconcile-at");
        assert_eq!(annotation, r#"metadata.annotations["eider.dev/reconcile-at"]"#);
        assert_eq!(parent_path(&annotation), "metadata.annotations");
        assert_eq!(parent_path("spec.paths[3]"), "spec.paths");
        assert_eq!(parent_path("spec"), "");
        assert!(is_within("spec.target.host", "spec.target"));
        assert!(!is_within("spec.targets", "spec.target"));
    }
}
