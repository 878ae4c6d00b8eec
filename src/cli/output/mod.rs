//! The only place that prints: results to standard output, everything else to standard error.
//!
//! A reader that goes away ends the printing, not the work: what was asked for has been done.

pub mod error;
pub mod format;
pub mod progress;
pub mod stream;
mod table;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

pub use error::{CliError, ExitCode};

use self::progress::ProgressReporter;
use crate::spec::{Problem, Reason};

/// The most remarks that are held back for the end; a verb that lasts must not grow with them.
const NOTES_HELD: usize = 1000;

/// How lists and records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document; lists as `{"items": […]}`. Stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Where results and remarks go.
#[derive(Debug, Clone)]
pub struct Output {
    /// The format of results.
    pub format: OutputFormat,
    quiet: bool,
    color: bool,
    /// With `--output json` remarks wait here: an error has to be the only thing on standard error.
    held: Arc<Mutex<Vec<String>>>,
}

impl Output {
    /// Output as the global options ask for it.
    pub fn new(format: OutputFormat, quiet: bool, no_color: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !no_color && !unwanted && std::io::stderr().is_terminal();
        Self { format, quiet, color, held: Arc::default() }
    }

    /// Writes to standard output. A closed pipe is no error: `eider … | head` has seen enough.
    pub fn raw(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CliError::internal(format!("writing the result failed: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn structured(&self, value: &serde_json::Value) -> Result<(), CliError> {
        let text = if self.format == OutputFormat::Yaml {
            crate::spec::value_to_yaml(value)
                .map_err(|error| CliError::internal(error.to_string()))?
        } else {
            let mut text = serde_json::to_string_pretty(value)
                .map_err(|error| CliError::internal(error.to_string()))?;
            text.push('\n');
            text
        };
        self.raw(&text)
    }

    /// A list: a table for people, `{"items": […]}` for machines.
    pub fn table<T: Serialize>(
        &self,
        headers: &[&str],
        rows: &[Vec<String>],
        items: &[T],
    ) -> Result<(), CliError> {
        if self.format != OutputFormat::Table {
            return self.structured(&json!({"items": items}));
        }
        if rows.is_empty() {
            self.note("nothing to show");
            return Ok(());
        }
        self.raw(&table::render(headers, rows, table::width()))
    }

    /// One record: its fields for people, the whole of it for machines.
    pub fn object<T: Serialize>(
        &self,
        value: &T,
        fields: &[(String, String)],
    ) -> Result<(), CliError> {
        if self.format != OutputFormat::Table {
            return self.structured(&json!(value));
        }
        self.raw(&table::fields(fields))
    }

    /// What a verb did: a sentence for people, facts for machines.
    pub fn done<T: Serialize>(&self, message: &str, value: &T) -> Result<(), CliError> {
        if self.format != OutputFormat::Table {
            return self.structured(&json!(value));
        }
        if self.quiet {
            return Ok(());
        }
        self.raw(&format!("{message}\n"))
    }

    /// A remark to standard error; not with `--quiet`. For machines it is kept for the end of the
    /// verb: see [`Output::flush_notes`] and [`Output::error`].
    pub fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.format == OutputFormat::Json {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.len() < NOTES_HELD {
                held.push(text.to_owned());
            }
            return;
        }
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what was held back, after a verb that succeeded.
    pub fn flush_notes(&self) {
        let mut stderr = std::io::stderr().lock();
        for note in self.take_notes() {
            let _ = writeln!(stderr, "{note}");
        }
    }

    /// Problems of documents, with their places.
    pub fn problems(&self, problems: &[Problem]) -> Result<(), CliError> {
        if self.format != OutputFormat::Table {
            return self.structured(&json!({"problems": problems}));
        }
        let mut stderr = std::io::stderr().lock();
        for problem in problems {
            let _ = writeln!(stderr, "{problem}");
        }
        Ok(())
    }

    /// An error, as the last thing a verb says.
    pub fn error(&self, error: &CliError, verbose: bool) {
        let text = if self.format == OutputFormat::Json {
            let mut value = error.to_json();
            let notes = self.take_notes();
            if let (serde_json::Value::Object(fields), false) = (&mut value, notes.is_empty()) {
                fields.insert("notes".to_owned(), json!(notes));
            }
            format!("{value}\n")
        } else {
            error.to_text(verbose, self.color)
        };
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Asks before something that cannot be undone.
    ///
    /// # Errors
    /// With [`ExitCode::Usage`] where nobody can be asked and `--yes` was not said, with
    /// [`ExitCode::Interrupted`] when the answer is no.
    pub fn confirm(&self, question: &str, yes: bool) -> Result<(), CliError> {
        if yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(CliError::new(
                ExitCode::Usage,
                Reason::Cancelled,
                format!("{question} Nobody can be asked here"),
            )
            .hint("say --yes"));
        }
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(CliError::new(ExitCode::Interrupted, Reason::Cancelled, "nothing was done"))
    }

    /// Draws progress: a bar on a terminal, a line now and then elsewhere, nothing with `--quiet`.
    pub fn progress(&self) -> ProgressReporter {
        let quiet = self.quiet || self.format == OutputFormat::Json;
        ProgressReporter::new(quiet, std::io::stderr().is_terminal())
    }
}

/// Writes one line to standard output at once, for whoever follows it.
pub fn speak(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}
