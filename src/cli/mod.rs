//! The command line: what people type and what they see.
//!
//! `arguments` is what can be typed, one file a group of verbs gives it meaning, `output` is the only
//! place that prints. May use every other room; none uses this one.

mod allocator;
pub mod arguments;
mod backup;
mod daemon;
mod database;
mod generate;
mod get;
mod health;
mod in_cluster;
mod mover;
mod operator;
pub mod output;
mod progress_adapter;
mod records;
mod restore;
mod run;
mod schedule;
mod session;
mod store;
mod upgrade;

use clap::Parser;

use arguments::{Arguments, Command, GlobalArguments};
use output::{CliError, ExitCode, Output, OutputFormat};

use crate::telemetry::logging::{self, LogOptions};

/// Parses, carries out and reports. Returns the process's exit code.
pub fn main() -> u8 {
    allow_open_files();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else is a mistake in typing.
            if !error.use_stderr() {
                let _ = error.print();
                return ExitCode::Done.code();
            }
            if wants_json(std::env::args_os()) {
                let output = Output::new(OutputFormat::Json, false, true);
                output.error(&usage(&error), false);
            } else {
                let _ = error.print();
            }
            return ExitCode::Usage.code();
        }
    };
    let global = &arguments.global;
    let output = Output::new(global.output, global.quiet, global.no_color);
    let result = start_logging(&arguments).and_then(|()| dispatch(&arguments, output.clone()));
    match result {
        Ok(()) => {
            output.flush_notes();
            ExitCode::Done.code()
        }
        Err(error) => {
            output.error(&error, global.verbose);
            error.exit_code.code()
        }
    }
}

/// As many open files as this process may have, within reason: a walk has one open for each directory above
/// another, and trees are deeper than the thousand that shells give.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 1 << 16;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_some_and(|current| current < wanted) {
        // Without it only such trees fail, and say so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Whether `--output json` stands in a line that could not be parsed.
fn wants_json(words: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let mut before = None;
    for word in words {
        let word = word.to_string_lossy().into_owned();
        let option = before.as_deref();
        if matches!(word.as_str(), "-ojson" | "-o=json" | "--output=json")
            || (word == "json" && matches!(option, Some("-o" | "--output")))
        {
            return true;
        }
        before = Some(word);
    }
    false
}

/// A mistake in typing, for machines: what is wrong without the drawing around it.
fn usage(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let said = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error:");
    let message = said.split_whitespace().collect::<Vec<_>>().join(" ");
    CliError::new(ExitCode::Usage, crate::spec::Reason::InvalidSpec, message)
        .hint("`--help` after the verb tells what it takes")
}

fn start_logging(arguments: &Arguments) -> Result<(), CliError> {
    let global = &arguments.global;
    // A verb that ends by itself says its errors itself; its log would say them twice.
    let lasting =
        matches!(arguments.command, Command::Daemon(_) | Command::Operator(_) | Command::Mover(_));
    let quiet = !lasting;
    let unset = std::env::var_os("RUST_LOG").is_none_or(|value| value.is_empty());
    let level = match &global.log_level {
        Some(level) => Some(level.clone()),
        None if quiet && unset => Some("off".to_owned()),
        None => None,
    };
    logging::initialize(&LogOptions { format: global.log_format, level, no_color: global.no_color })
        .map_err(|error| {
            CliError::new(ExitCode::Usage, crate::spec::Reason::InvalidSpec, error.to_string())
        })
}

fn dispatch(arguments: &Arguments, output: Output) -> Result<(), CliError> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Validate(files) => run::validate(files, &output),
        Command::Generate(command) => generate::generate(command, &output),
        Command::ProbeCatalog { path } => crate::catalog::probe(path).map_err(CliError::from),
        command => {
            if matches!(command, Command::Daemon(_) | Command::Operator(_)) {
                allocator::settle();
            }
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|error| CliError::internal(error.to_string()))?;
            runtime.block_on(dispatch_async(global, command, output))
        }
    }
}

async fn dispatch_async(
    global: &GlobalArguments,
    command: &Command,
    output: Output,
) -> Result<(), CliError> {
    in_cluster::check(global, command).await?;
    match command {
        Command::Run(arguments) => run::run(global, arguments, output).await,
        Command::Daemon(arguments) => Box::pin(daemon::daemon(global, arguments, output)).await,
        Command::Operator(arguments) => operator::operator(global, arguments, output).await,
        Command::Mover(arguments) => mover::mover(arguments).await,
        Command::Health => health::health(global, output).await,
        Command::Backup(command) => backup::backup(global, command, output).await,
        Command::Restore(command) => restore::restore(global, command, output).await,
        Command::Rollback(arguments) => restore::rollback(global, arguments, output).await,
        Command::Upgrade(command) => upgrade::upgrade(global, command, output).await,
        Command::Schedule(command) => schedule::schedule(global, command, output).await,
        Command::AutoBackup(command) => {
            Box::pin(schedule::auto_backup(global, command, output)).await
        }
        Command::Store(command) => store::store(global, command, output).await,
        Command::Get(arguments) => get::get(global, arguments, output).await,
        Command::Describe(arguments) => get::describe(global, arguments, output).await,
        Command::Service(command) => records::service(global, command, output).await,
        Command::History(arguments) => records::history(global, arguments, output).await,
        Command::Config(command) => records::config(global, command, output).await,
        Command::Db(command) => database::database(global, command, output).await,
        Command::Validate(_) | Command::Generate(_) | Command::ProbeCatalog { .. } => Ok(()),
    }
}
