//! Errors as people and scripts see them, and the exit codes of the process.

use serde_json::{Value, json};

use crate::spec::Reason;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// An operation failed.
    Failed = 1,
    /// Wrong usage or an invalid document.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// Refused for safety.
    Refused = 4,
    /// The daemon, Docker or Kubernetes cannot be reached.
    Unreachable = 5,
    /// Interrupted, after everything was put back.
    Interrupted = 130,
}

impl ExitCode {
    /// The number for the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code that an operation's reason stands for.
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::InvalidSpec | Reason::UnsupportedTarget => Self::Usage,
            Reason::TargetNotFound
            | Reason::StoreNotFound
            | Reason::BackupNotFound
            | Reason::ArchiveMissing => Self::NotFound,
            Reason::TargetBusy
            | Reason::NotEnoughSpace
            | Reason::ArchiveUnverified
            | Reason::ArchiveUnsafe
            | Reason::ArchiveNeeded
            | Reason::BackupNotReady
            | Reason::NotAnUpgrade => Self::Refused,
            Reason::ClusterUnavailable | Reason::EngineUnavailable => Self::Unreachable,
            Reason::Cancelled => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

/// What ends a verb.
#[derive(Debug, Clone)]
pub struct CliError {
    /// The process's exit code.
    pub exit_code: ExitCode,
    /// For machines.
    pub reason: Reason,
    /// What failed and why.
    pub message: String,
    /// On what.
    pub object: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// What it came from, outermost first.
    pub chain: Vec<String>,
}

impl CliError {
    /// An error with this code.
    pub fn new(exit_code: ExitCode, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            exit_code,
            reason,
            message: message.into(),
            object: None,
            hint: None,
            chain: Vec::new(),
        }
    }

    /// An error with the code that the reason stands for.
    pub fn for_reason(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(ExitCode::of(reason), reason, message)
    }

    /// Something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failed, Reason::InternalError, message)
            .hint("this is a defect of Eider; please report it with the output of `--verbose`")
    }

    /// The end after Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(ExitCode::Interrupted, Reason::Cancelled, "interrupted; everything was put back")
    }

    /// The same with the object it is about.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// For people: one line, the advice, and with `verbose` the reason and the chain.
    pub fn to_text(&self, verbose: bool, color: bool) -> String {
        let (red, reset) = if color { ("\x1b[31;1m", "\x1b[0m") } else { ("", "") };
        let mut text = format!("{red}error:{reset} ");
        if let Some(object) = &self.object
            && !self.message.contains(object.as_str())
        {
            text.push_str(object);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        text.push('\n');
        if let Some(hint) = &self.hint {
            text.push_str("hint: ");
            text.push_str(hint);
            text.push('\n');
        }
        if verbose {
            text.push_str(&format!("reason: {}\n", self.reason));
            for cause in &self.chain {
                text.push_str(&format!("caused by: {cause}\n"));
            }
        }
        text
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        json!({
            "reason": self.reason,
            "message": self.message,
            "object": self.object,
            "hint": self.hint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_and_none_of_a_failure_is_zero() {
        for reason in Reason::ALL {
            assert_ne!(ExitCode::of(*reason), ExitCode::Done, "{reason}");
        }
        assert_eq!(ExitCode::of(Reason::NotEnoughSpace).code(), 4);
        assert_eq!(ExitCode::of(Reason::ArchiveDamaged).code(), 1);
        assert_eq!(ExitCode::of(Reason::BackupNotFound).code(), 3);
        assert_eq!(ExitCode::of(Reason::Cancelled).code(), 130);
    }

    #[test]
    fn an_error_names_object_cause_and_advice() {
        let error = CliError::for_reason(Reason::StoreNotFound, "there is no store `x`")
            .object("Backup default/a")
            .hint("make one");
        let text = error.to_text(true, false);
        assert_eq!(
            text,
            "error: Backup default/a: there is no store `x`\nhint: make one\nreason: StoreNotFound\n"
        );
        assert_eq!(error.to_json()["reason"], "StoreNotFound");
    }
}
