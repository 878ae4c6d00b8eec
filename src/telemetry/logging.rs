//! Where log lines go: to stderr, for people on a terminal and as JSON lines otherwise.
//!
//! Called once, by `main`. Nothing here decides what is logged; secrets never reach a field.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The flag `--log-format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `human` if stderr is a terminal, `json` otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error(
        "`{text}` from {origin} is not a log level: {source}; write `error`, `warn`, `info`, \
         `debug`, `trace`, or directives such as `warn,eider=debug`"
    )]
    Level {
        /// What was given.
        text: String,
        /// Where it was given.
        origin: &'static str,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is there already.
    #[error("logging is set up already: {0}")]
    Twice(tracing_subscriber::util::TryInitError),
}

/// How to log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The flag `--log-format`.
    pub format: LogFormat,
    /// The flag `--log-level`; wins over `RUST_LOG`.
    pub level: Option<String>,
    /// The flag `--no-color`. `NO_COLOR` in the environment does the same.
    pub no_color: bool,
}

/// Sets logging up for the whole process, once.
pub fn initialize(options: &LogOptions) -> Result<(), LoggingError> {
    let terminal = std::io::stderr().is_terminal();
    let no_color =
        options.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let filter = filter(options.level.as_deref(), std::env::var("RUST_LOG").ok().as_deref())?;
    let json = is_json(options.format, terminal);
    subscriber(json, terminal && !no_color, filter, std::io::stderr)
        .try_init()
        .map_err(LoggingError::Twice)
}

fn is_json(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    }
}

/// `--log-level`, else `RUST_LOG`, else `info`. A bare level is meant for Eider: libraries stay at
/// `warn`, or their connection chatter drowns what matters.
fn filter(flag: Option<&str>, environment: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let (text, origin) = match (flag, environment.filter(|text| !text.trim().is_empty())) {
        (Some(text), _) => (text, "--log-level"),
        (None, Some(text)) => (text, "RUST_LOG"),
        (None, None) => ("info", "the default"),
    };
    let directives = match text.trim().to_ascii_lowercase().as_str() {
        "off" => "off".to_owned(),
        level @ ("error" | "warn" | "info" | "debug" | "trace") => {
            let libraries = if level == "error" { "error" } else { "warn" };
            format!("{libraries},eider={level}")
        }
        _ => text.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|source| LoggingError::Level {
        text: text.to_owned(),
        origin,
        source,
    })
}

fn subscriber<W>(
    json: bool,
    color: bool,
    filter: EnvFilter,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        Box::new(registry.with(layer.json().flatten_event(true).with_span_list(false)))
    } else {
        Box::new(registry.with(layer.with_target(false)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, level: Option<&str>) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber =
            subscriber(json, false, filter(level, None).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(target: "eider", "operation", kind = "Backup");
            let _entered = span.enter();
            tracing::info!(target: "eider", files = 3, "archived");
            tracing::debug!(target: "eider", "detail");
            tracing::info!(target: "hyper", "chatter");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_the_span() {
        let text = logged(true, None);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "archived");
        assert_eq!(line["files"], 3);
        assert_eq!(line["span"]["kind"], "Backup");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn lines_for_people_have_no_escapes_without_colour() {
        let text = logged(false, Some("debug"));
        assert!(text.contains("archived") && text.contains("detail"), "{text}");
        assert!(!text.contains("chatter") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_nonsense_is_refused() {
        assert_eq!(filter(Some("debug"), Some("trace")).unwrap().to_string(), "eider=debug,warn");
        assert_eq!(filter(None, Some("hyper=info")).unwrap().to_string(), "hyper=info");
        assert_eq!(filter(None, Some("")).unwrap().to_string(), "eider=info,warn");
        let error = filter(Some("eider=loud"), None).unwrap_err().to_string();
        assert!(error.contains("--log-level") && error.contains("eider=loud"), "{error}");
    }

    #[test]
    fn auto_is_json_where_nobody_watches() {
        assert!(is_json(LogFormat::Auto, false) && !is_json(LogFormat::Auto, true));
        assert!(is_json(LogFormat::Json, true) && !is_json(LogFormat::Human, false));
    }
}
