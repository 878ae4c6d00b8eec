//! `eider generate …`: files that are made from the code, and the check that they are up to date.

mod rbac;

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::json;

use super::arguments::{Arguments, GenerateArguments, GenerateCommand};
use super::output::{CliError, ExitCode, Output};
use crate::spec::crd::{crd_yaml, crds as definitions, write_crds};
use crate::spec::reference_page::reference_page;
use crate::spec::{Kind, Reason};
use crate::telemetry::catalogue;

/// Carries one of them out.
pub fn generate(command: &GenerateCommand, output: &Output) -> Result<(), CliError> {
    match command {
        GenerateCommand::Crds(arguments) => crds(arguments, output),
        GenerateCommand::Rbac(arguments) => rbac(arguments, output),
        GenerateCommand::Docs(arguments) => docs(arguments, output),
        GenerateCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "eider", &mut script);
            output.raw(&String::from_utf8_lossy(&script))
        }
        GenerateCommand::Man { directory } => man(directory, output),
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> CliError {
    CliError::new(ExitCode::Failed, Reason::InternalError, format!("{what}: {error}"))
}

fn report(
    drift: &[PathBuf],
    check: bool,
    directory: &Path,
    output: &Output,
) -> Result<(), CliError> {
    let names: Vec<String> = drift.iter().map(|path| path.display().to_string()).collect();
    if check && !drift.is_empty() {
        return Err(CliError::new(
            ExitCode::Failed,
            Reason::InvalidSpec,
            format!("not up to date: {}", names.join(", ")),
        )
        .hint("run `make generate` and commit what it writes"));
    }
    let message = if drift.is_empty() {
        format!("{} is up to date", directory.display())
    } else {
        format!("written: {}", names.join(", "))
    };
    output.done(&message, &json!({"directory": directory, "changed": names}))
}

/// Writes the files that differ, or with `check` none, and returns their paths.
fn write(
    files: impl IntoIterator<Item = (PathBuf, String)>,
    check: bool,
) -> Result<Vec<PathBuf>, CliError> {
    let mut drift = Vec::new();
    for (path, text) in files {
        if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        if !check {
            path.parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|error| failed(&path.display().to_string(), error))?;
        }
        drift.push(path);
    }
    Ok(drift)
}

fn crds(arguments: &GenerateArguments, output: &Output) -> Result<(), CliError> {
    let directory = arguments.directory.clone().unwrap_or_else(|| PathBuf::from("crds"));
    let drift = write_crds(&directory, arguments.check)
        .map_err(|error| failed("the CRDs could not be written", error))?;
    let mut drift: Vec<PathBuf> = drift.into_iter().map(|drift| drift.path).collect();
    if arguments.directory.is_none() {
        drift.extend(write(chart_of_crds()?, arguments.check)?);
    }
    report(&drift, arguments.check, &directory, output)
}

/// The definitions once more as the templates of their Helm chart: there they carry the annotation
/// that keeps them, and with them every object, when the chart is uninstalled.
fn chart_of_crds() -> Result<Vec<(PathBuf, String)>, CliError> {
    let failed = |error| failed("the chart of the CRDs", error);
    let mut files = Vec::new();
    for (name, mut definition) in definitions().map_err(failed)? {
        let annotations = definition.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        // A description with braces must not be taken for an instruction to the template engine.
        let text = crd_yaml(&definition).map_err(failed)?.replace("{{", "{{ \"{{\" }}");
        files.push((Path::new("deploy/helm/eider-crds/templates").join(name), text));
    }
    Ok(files)
}

fn rbac(arguments: &GenerateArguments, output: &Output) -> Result<(), CliError> {
    let directory = arguments.directory.clone().unwrap_or_else(|| PathBuf::from("deploy"));
    let files = rbac::files().into_iter().map(|(path, text)| (directory.join(path), text));
    let drift = write(files, arguments.check)?;
    report(&drift, arguments.check, &directory, output)
}

fn docs(arguments: &GenerateArguments, output: &Output) -> Result<(), CliError> {
    let directory = arguments.directory.clone().unwrap_or_else(|| PathBuf::from("docs/reference"));
    let resources = reference_page().map_err(|error| failed("the reference page", error))?;
    let pages = [
        ("resources.md", resources),
        ("metrics.md", catalogue::reference_page()),
        ("cli.md", command_page()),
    ];
    let pages = pages.into_iter().map(|(name, text)| (directory.join(name), text));
    let drift = write(pages, arguments.check)?;
    report(&drift, arguments.check, &directory, output)
}

/// Every verb with its help, as one page.
fn command_page() -> String {
    fn section(command: &mut clap::Command, path: &str, depth: usize, page: &mut String) {
        let heading = "#".repeat(depth.min(4));
        let help = command.clone().term_width(96).disable_help_subcommand(true).render_long_help();
        page.push_str(&format!("\n{heading} `{path}`\n\n```text\n"));
        for line in help.to_string().lines() {
            page.push_str(line.trim_end());
            page.push('\n');
        }
        page.push_str("```\n");
        for child in command.get_subcommands_mut() {
            if child.is_hide_set() || child.get_name() == "help" {
                continue;
            }
            let path = format!("{path} {}", child.get_name());
            section(child, &path, depth + 1, page);
        }
    }
    let mut page = String::from(
        "<!-- Generated by `eider generate docs`; do not edit. -->\n\n# Command line\n",
    );
    let mut command = Arguments::command();
    command.build();
    section(&mut command, "eider", 2, &mut page);
    page.push_str("\n## Kinds\n\n| kind | plural | short name |\n| --- | --- | --- |\n");
    for kind in Kind::ALL {
        page.push_str(&format!("| {kind} | {} | {} |\n", kind.plural(), kind.short_name()));
    }
    page
}

fn man(directory: &Path, output: &Output) -> Result<(), CliError> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|error| failed(&directory.display().to_string(), error))?;
    output.done(
        &format!("man pages written to {}", directory.display()),
        &json!({"directory": directory}),
    )
}
