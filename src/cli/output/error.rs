//! The one error that people see: what failed, on which object, why, and what to do next.
//!
//! Every verb turns its failure into this; nothing else is printed for a failure.

use std::fmt::Write as _;

use serde::Serialize;

use super::ExitCode;
use super::table::printable;
use crate::spec::Reason;

/// A failure, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CliError {
    /// For machines.
    pub reason: Reason,
    /// What failed and why, in one sentence without the object's name.
    pub message: String,
    /// What it was about: `Backup shop/before-release`, `./spec.yaml:12:5`.
    pub object: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// The causes, outermost first; shown with `-v`.
    #[serde(skip)]
    pub chain: Vec<String>,
    /// How the process ends.
    #[serde(skip)]
    pub exit_code: ExitCode,
    #[serde(skip)]
    silent: bool,
}

impl CliError {
    /// A failure whose exit code follows from its reason; never [`ExitCode::Done`].
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let exit_code = match ExitCode::of(reason) {
            ExitCode::Done => ExitCode::Failed,
            code => code,
        };
        Self {
            reason,
            message: message.into(),
            object: None,
            hint: None,
            chain: Vec::new(),
            exit_code,
            silent: false,
        }
    }

    /// A mistake on the command line or in a document.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidSpec, message)
    }

    /// Whoever reads our output has gone: nothing to say, and nothing wrong.
    pub(super) fn closed_output() -> Self {
        let closed = Self::new(Reason::InternalError, "nobody reads the output any more");
        Self { exit_code: ExitCode::Done, silent: true, ..closed }
    }

    /// With the object it is about.
    #[must_use]
    pub fn about(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the causes of `error`, itself included.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.chain.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// With an exit code other than the reason's, such as [`ExitCode::Unreachable`].
    #[must_use]
    pub fn exit_code(mut self, exit_code: ExitCode) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// Whether the process ends without a word.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// For people: one line, a hint, and with `verbose` the causes. Every line is ended.
    pub fn text(&self, verbose: bool) -> String {
        let mut text = match &self.object {
            Some(object) => {
                format!("error: {}: {}\n", printable(object), printable(&self.message))
            }
            None => format!("error: {}\n", printable(&self.message)),
        };
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {}", printable(hint));
        }
        if verbose {
            for cause in &self.chain {
                let _ = writeln!(text, "  caused by: {}", printable(cause));
            }
        }
        text
    }

    /// For machines: `{reason, message, object, hint}` on one line.
    pub fn json(&self) -> String {
        // Strings and one enum: this cannot fail, and an empty line would be the lesser evil.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.text(false).trim_end())
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> CliError {
        CliError::new(Reason::NotEnoughSpace, "needs 5.0 GiB and only 1.2 GiB\nare free")
            .about("Backup shop/before-release")
            .hint("free space in /srv/backups or lower `minFree` of the store")
            .caused_by(&std::io::Error::other("disk full"))
    }

    #[test]
    fn people_get_one_line_a_hint_and_the_causes_on_demand() {
        assert_eq!(
            refused().text(true),
            "error: Backup shop/before-release: needs 5.0 GiB and only 1.2 GiB are free\n\
             hint: free space in /srv/backups or lower `minFree` of the store\n  \
             caused by: disk full\n"
        );
        assert_eq!(refused().text(false).lines().count(), 2);
    }

    #[test]
    fn machines_get_four_fields() {
        let value: serde_json::Value = serde_json::from_str(&refused().json()).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["reason", "message", "object", "hint"]);
        assert_eq!(value["reason"], "NotEnoughSpace");
    }

    #[test]
    fn an_error_never_ends_with_success() {
        assert_eq!(refused().exit_code, ExitCode::Refused);
        assert_eq!(CliError::new(Reason::Suspended, "x").exit_code, ExitCode::Failed);
        assert_eq!(CliError::usage("x").exit_code, ExitCode::Usage);
    }
}
