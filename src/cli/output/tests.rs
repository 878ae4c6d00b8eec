use super::*;

/// A stream that keeps what was written.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An output whose stdout and stderr can be read.
pub(crate) fn captured(settings: Settings) -> (Output, Captured, Captured) {
    let (results, messages) = (Captured::default(), Captured::default());
    let output = Output::new(Box::new(results.clone()), Box::new(messages.clone()), settings);
    (output, results, messages)
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    bytes: u64,
}

impl TableView for Row {
    fn columns() -> Vec<Column> {
        vec![Column::text("name"), Column::number("size")]
    }
    fn cells(&self, _: &Moment) -> Vec<Cell> {
        vec![self.name.into(), format::size(self.bytes).into()]
    }
    fn when_empty() -> &'static str {
        "No backups yet."
    }
}

fn moment() -> Moment {
    Moment { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC }
}

fn listed(format: OutputFormat, rows: &[Row]) -> (String, String) {
    let (output, results, messages) = captured(Settings { format, ..Settings::default() });
    output.list(rows, &moment()).unwrap();
    (results.text(), messages.text())
}

#[test]
fn one_list_in_three_formats() {
    let rows = [Row { name: "nightly", bytes: 2048 }];
    assert_eq!(listed(OutputFormat::Table, &rows).0, "NAME        SIZE\nnightly  2.0 KiB\n");
    assert_eq!(
        listed(OutputFormat::Json, &rows).0,
        "[\n  {\n    \"name\": \"nightly\",\n    \"bytes\": 2048\n  }\n]\n"
    );
    assert_eq!(listed(OutputFormat::Yaml, &rows).0, "- name: nightly\n  bytes: 2048\n");
}

#[test]
fn an_empty_list_is_said_on_stderr_and_is_a_list_to_machines() {
    let said = (String::new(), "No backups yet.\n".to_owned());
    assert_eq!(listed(OutputFormat::Table, &[]), said);
    assert_eq!(listed(OutputFormat::Json, &[]), ("[]\n".to_owned(), String::new()));
}

#[test]
fn details_stand_in_two_columns() {
    let (output, results, _) = captured(Settings::default());
    let fields = [("Name", "nightly".to_owned()), ("Store", String::new())];
    output.details(&fields, &Row { name: "nightly", bytes: 1 }).unwrap();
    assert_eq!(results.text(), "Name:   nightly\nStore:\n");
}

#[test]
fn a_closed_pipe_ends_the_command_without_a_word() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let messages = Captured::default();
    let output = Output::new(Box::new(Closed), Box::new(messages.clone()), Settings::default());
    let error = output.text("row\n").unwrap_err();
    assert_eq!(output.error(&error), ExitCode::Done);
    assert_eq!(messages.text(), "");
}

#[test]
fn errors_follow_the_format_and_go_to_stderr() {
    let error = CliError::new(Reason::BackupNotFound, "there is no such backup").about("Backup 12");
    let (output, results, messages) = captured(Settings::default());
    assert_eq!(output.error(&error), ExitCode::NotFound);
    assert_eq!(messages.text(), "error: Backup 12: there is no such backup\n");
    let (output, _, messages) =
        captured(Settings { format: OutputFormat::Json, ..Settings::default() });
    output.error(&error);
    assert_eq!(
        messages.text(),
        "{\"reason\":\"BackupNotFound\",\"message\":\"there is no such backup\",\
         \"object\":\"Backup 12\",\"hint\":null}\n"
    );
    assert_eq!(results.text(), "");
}
