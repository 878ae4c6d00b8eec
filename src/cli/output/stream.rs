//! Lists of any length, printed as they come: nothing of them is kept.

use std::io::{BufWriter, ErrorKind, Stdout, Write};

use serde_json::{Value, json};

use super::{CliError, Output, OutputFormat, table};

/// One line of a long list.
pub trait Line {
    /// Its cells, for people.
    fn cells(&self) -> Vec<String>;
    /// Its facts, for machines.
    fn item(&self) -> Value;
}

/// A column: its header, and how many places it has at least. The last one is never cut, and what is longer than its
/// column moves the rest of its line.
pub type Column = (&'static str, usize);

/// A list that is being printed. An error in writing is told by [`Lines::finish`].
pub struct Lines<'a> {
    output: &'a Output,
    columns: &'a [Column],
    sink: Sink<BufWriter<Stdout>>,
    count: u64,
}

impl Output {
    /// Begins a list of any length: a table for people, `{"items": […]}` for machines.
    pub fn lines<'a>(&'a self, columns: &'a [Column]) -> Lines<'a> {
        let sink = Sink { inner: BufWriter::new(std::io::stdout()), failed: None };
        Lines { output: self, columns, sink, count: 0 }
    }
}

impl Lines<'_> {
    /// Prints the next line.
    pub fn add(&mut self, line: &dyn Line) {
        // Who has gone away needs no text.
        if self.sink.failed.is_none() {
            let text = render(self.output.format, self.columns, line, self.count == 0);
            self.sink.write(&text);
        }
        self.count += 1;
    }

    /// Ends the list.
    ///
    /// # Errors
    /// If a line could not be written; not if the reader has seen enough.
    pub fn finish(mut self) -> Result<(), CliError> {
        match (self.output.format, self.count) {
            (OutputFormat::Table, 0) => self.output.note("nothing to show"),
            (OutputFormat::Table | OutputFormat::Yaml, 1..) => {}
            (OutputFormat::Yaml | OutputFormat::Json, 0) => {
                return self.output.structured(&json!({"items": []}));
            }
            (OutputFormat::Json, 1..) => self.sink.write("\n  ]\n}\n"),
        }
        self.sink.finish()
    }
}

fn render(format: OutputFormat, columns: &[Column], line: &dyn Line, is_first: bool) -> String {
    match format {
        OutputFormat::Table => {
            let mut text = String::new();
            if is_first {
                let headers: Vec<String> =
                    columns.iter().map(|(header, _)| (*header).to_owned()).collect();
                text = table::line(&headers, columns);
            }
            text + &table::line(&line.cells(), columns)
        }
        OutputFormat::Json => {
            let item = serde_json::to_string_pretty(&line.item()).unwrap_or_default();
            let before = if is_first { "{\n  \"items\": [\n    " } else { ",\n    " };
            format!("{before}{}", item.replace('\n', "\n    "))
        }
        OutputFormat::Yaml => {
            let item = crate::spec::value_to_yaml(&json!([line.item()])).unwrap_or_default();
            format!("{}{item}", if is_first { "items:\n" } else { "" })
        }
    }
}

/// Writes until something fails.
struct Sink<W: Write> {
    inner: W,
    failed: Option<std::io::Error>,
}

impl<W: Write> Sink<W> {
    fn write(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.inner.write_all(text.as_bytes()).err();
        }
    }

    fn finish(mut self) -> Result<(), CliError> {
        if self.failed.is_none() {
            self.failed = self.inner.flush().err();
        }
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(CliError::internal(format!("writing the result failed: {error}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl Line for Named {
        fn cells(&self) -> Vec<String> {
            vec!["-".to_owned(), self.0.to_owned()]
        }

        fn item(&self) -> Value {
            json!({"name": self.0, "of": {"length": self.0.len()}})
        }
    }

    fn printed(format: OutputFormat) -> String {
        let columns: [Column; 2] = [("KIND", 6), ("NAME", 0)];
        let lines = [Named("one"), Named("a name that is longer than any page is wide\u{1b}")];
        let mut text = String::new();
        for (index, line) in lines.iter().enumerate() {
            text += &render(format, &columns, line, index == 0);
        }
        text
    }

    #[test]
    fn a_list_that_is_printed_as_it_comes_is_the_same_document() {
        let items = [Named("one"), Named("a name that is longer than any page is wide\u{1b}")];
        let whole = json!({"items": items.iter().map(Line::item).collect::<Vec<_>>()});
        let text = printed(OutputFormat::Json) + "\n  ]\n}\n";
        assert_eq!(text, serde_json::to_string_pretty(&whole).unwrap() + "\n");
        assert_eq!(printed(OutputFormat::Yaml), crate::spec::value_to_yaml(&whole).unwrap());
    }

    /// Names of files were cut at the width of a page, in a pipe too.
    #[test]
    fn names_are_not_cut() {
        assert_eq!(
            printed(OutputFormat::Table),
            "KIND    NAME\n-       one\n-       a name that is longer than any page is wide\u{fffd}\n"
        );
    }
}
