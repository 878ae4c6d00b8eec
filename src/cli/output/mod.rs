//! Everything that is printed goes through one [`Output`]: results to stdout, the rest to stderr.
//!
//! Owns both streams, knows what they lead to (a terminal, a file, a closed pipe) and decides
//! colours and widths. It knows nothing of backups; rows bring their own [`TableView`].

mod confirm;
mod error;
mod exit_code;
pub mod format;
mod progress;
mod table;

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

pub use confirm::confirm;
pub use error::CliError;
pub use exit_code::ExitCode;
pub use progress::Progress;
pub use table::{Align, Cell, Column, DEFAULT_WIDTH, Table, TableView, Tone, printable, shorten};

use crate::spec::Reason;

/// The flag `--output`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For machines: stable names, sizes in bytes, times in RFC 3339 UTC.
    Json,
    /// As JSON, in YAML.
    Yaml,
}

/// Now and here: what cells need to write times and ages.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The time of the command.
    pub now: Timestamp,
    /// The zone of the reader.
    pub zone: TimeZone,
}

/// How to print.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The flag `--output`.
    pub format: OutputFormat,
    /// The flag `--quiet`: no progress and no notes.
    pub quiet: bool,
    /// The flag `-v`: errors with their causes.
    pub verbose: bool,
    /// Whether there is a terminal on stdin and stderr to ask on and to draw on.
    pub terminal: bool,
    /// Whether stdout may carry colours.
    pub color: bool,
    /// Width of the terminal behind stdout.
    pub width: Option<usize>,
}

impl Settings {
    /// What the environment and the flags ask for.
    pub fn detect(format: OutputFormat, quiet: bool, no_color: bool, verbose: bool) -> Self {
        let no_color = no_color
            || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            format,
            quiet,
            verbose,
            terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
            color: std::io::stdout().is_terminal() && !no_color,
            width: comfy_table::Table::new().width().map(usize::from),
        }
    }
}

/// The two streams of the command. Clones share them.
#[derive(Clone)]
pub struct Output {
    streams: Arc<Streams>,
    settings: Settings,
}

struct Streams {
    results: Mutex<Box<dyn Write + Send>>,
    messages: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    /// Prints to the streams of the process.
    pub fn standard(settings: Settings) -> Self {
        Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), settings)
    }

    /// Prints results to `results` and everything else to `messages`.
    pub fn new(
        results: Box<dyn Write + Send>,
        messages: Box<dyn Write + Send>,
        settings: Settings,
    ) -> Self {
        let streams = Streams { results: Mutex::new(results), messages: Mutex::new(messages) };
        Self { streams: Arc::new(streams), settings }
    }

    /// A list of rows in the chosen format. An empty table is said on stderr; empty JSON is `[]`.
    pub fn list<R: Serialize + TableView>(
        &self,
        rows: &[R],
        moment: &Moment,
    ) -> Result<(), CliError> {
        if self.settings.format != OutputFormat::Table {
            return self.value(&rows);
        }
        if rows.is_empty() {
            self.note(R::when_empty());
            return Ok(());
        }
        let mut table = Table::new(R::columns());
        for row in rows {
            table.push(row.cells(moment));
        }
        self.table(&table)
    }

    /// One object: `fields` as `Name: value` lines for people, `value` for machines.
    pub fn details<V: Serialize>(
        &self,
        fields: &[(&str, String)],
        value: &V,
    ) -> Result<(), CliError> {
        if self.settings.format != OutputFormat::Table {
            return self.value(value);
        }
        let widest = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for (name, value) in fields {
            let line = format!("{:widest$}  {}", format!("{name}:"), printable(value));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        self.text(&text)
    }

    /// A table whose columns are known only now, such as a query's result.
    pub fn table(&self, table: &Table) -> Result<(), CliError> {
        let width = self.settings.width.unwrap_or(DEFAULT_WIDTH);
        self.text(&table.render(width, self.settings.color))
    }

    /// Any value in JSON, or in YAML if that is chosen.
    pub fn value<V: Serialize>(&self, value: &V) -> Result<(), CliError> {
        let refuse = |error: &dyn std::error::Error| {
            CliError::new(Reason::InternalError, "the result cannot be written in this format")
                .caused_by(error)
        };
        let mut text = if self.settings.format == OutputFormat::Yaml {
            serde_saphyr::to_string(value).map_err(|error| refuse(&error))?
        } else {
            serde_json::to_string_pretty(value).map_err(|error| refuse(&error))?
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.text(&text)
    }

    /// Text to stdout as it is.
    pub fn text(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Bytes to stdout as they are: a file out of an archive.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        write(&self.streams.results, bytes)
    }

    /// A line to stderr for people, unless quiet. Nobody to read it is no failure.
    pub fn note(&self, line: &str) {
        if !self.settings.quiet {
            let _ = write(&self.streams.messages, format!("{}\n", printable(line)).as_bytes());
        }
    }

    /// A line to stderr that is shown even when quiet.
    pub fn warning(&self, line: &str) {
        let line = format!("warning: {}\n", printable(line));
        let _ = write(&self.streams.messages, line.as_bytes());
    }

    /// Shows the error that ends the command and returns the exit code.
    pub fn error(&self, error: &CliError) -> ExitCode {
        if !error.is_silent() {
            let text = match self.settings.format {
                OutputFormat::Json => error.json(),
                OutputFormat::Table | OutputFormat::Yaml => error.text(self.settings.verbose),
            };
            let _ = write(&self.streams.messages, text.as_bytes());
        }
        error.exit_code
    }

    /// Starts to show how far long work is.
    pub fn progress(&self, phase: &str) -> Progress {
        Progress::new(self.clone(), phase)
    }

    /// The chosen format.
    pub fn format(&self) -> OutputFormat {
        self.settings.format
    }

    /// Whether notes and progress are left out.
    pub fn is_quiet(&self) -> bool {
        self.settings.quiet
    }

    fn asks(&self) -> bool {
        self.settings.terminal
    }

    fn draws(&self) -> bool {
        self.settings.terminal
    }

    fn prompt(&self, question: &str) -> Result<(), CliError> {
        write(&self.streams.messages, printable(question).as_bytes())
    }
}

fn write(stream: &Mutex<Box<dyn Write + Send>>, bytes: &[u8]) -> Result<(), CliError> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| {
        if error.kind() == ErrorKind::BrokenPipe {
            return CliError::closed_output();
        }
        CliError::new(Reason::InternalError, format!("the output cannot be written: {error}"))
            .hint("look at where the output goes: the disk may be full")
    })
}

#[cfg(test)]
pub(crate) mod tests;
