//! Asks before something is destroyed.
//!
//! Knows nothing of what is asked about; the question comes complete.

use std::io::BufRead;

use super::{CliError, Output};
use crate::spec::Reason;

/// Passes if `assume_yes` (the flag `--yes`) is set or a person on a terminal answers `y` or `yes`.
///
/// Without a terminal to ask on it is a usage error (exit code 2): a script must say that it means
/// it. A person's `no` ends with exit code 1, so that `eider … && next` stops.
pub fn confirm(
    output: &Output,
    question: &str,
    assume_yes: bool,
    input: &mut dyn BufRead,
) -> Result<(), CliError> {
    if assume_yes {
        return Ok(());
    }
    if !output.asks() {
        return Err(CliError::usage(format!("{question} Nobody can be asked here"))
            .hint("add --yes to go ahead without being asked"));
    }
    output.prompt(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(|error| {
        CliError::new(Reason::InternalError, "the answer could not be read").caused_by(&error)
    })?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::new(Reason::Cancelled, "not confirmed; nothing was changed")
            .exit_code(super::ExitCode::Failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::captured;
    use super::super::{ExitCode, Settings};
    use super::*;

    fn ask(terminal: bool, yes: bool, answer: &str) -> (Result<(), CliError>, String) {
        let (output, _, errors) = captured(Settings { terminal, ..Settings::default() });
        let question = "Delete backup 12 and its archive?";
        let result = confirm(&output, question, yes, &mut answer.as_bytes());
        (result, errors.text())
    }

    #[test]
    fn a_script_has_to_say_yes() {
        let (result, asked) = ask(false, false, "y\n");
        let error = result.unwrap_err();
        assert_eq!(error.exit_code, ExitCode::Usage);
        assert!(error.text(false).contains("--yes") && asked.is_empty());
        assert_eq!(ask(false, true, "").0, Ok(()));
    }

    #[test]
    fn a_person_is_asked_and_silence_is_no() {
        let (result, asked) = ask(true, false, "Yes\n");
        assert_eq!(result, Ok(()));
        assert_eq!(asked, "Delete backup 12 and its archive? [y/N] ");
        for answer in ["", "\n", "n\n", "yikes\n"] {
            assert_eq!(ask(true, false, answer).0.unwrap_err().exit_code, ExitCode::Failed);
        }
    }
}
