//! What neither a schema nor CEL can say: time, patterns, paths and addresses that have to parse.
//!
//! Pure: no file, no network and no clock; the time zone database is the one of `jiff`.

use std::path::{Component, Path};

use croner::parser::{CronParser, Seconds, Year};
use ignore::gitignore::GitignoreBuilder;
use serde_json::Value;

use super::backup::BackupSpec;
use super::document::{Document, Kind, is_namespace_name, is_object_name};
use super::hooks::{Hook, Hooks, HttpHook};
use super::problem::{Finding, item_path, member_path};
use super::quantity::DurationText;
use super::restore::RestoreSpec;
use super::schedule::BackupScheduleSpec;
use super::store::BackupStoreSpec;
use super::target::Target;
use super::upgrade::UpgradeSpec;

/// Everything in `document` that its types accept and that cannot work all the same.
pub(super) fn check(document: &Document) -> Vec<Finding> {
    let mut findings = Vec::new();
    match document {
        Document::Backup(backup) => check_backup(&backup.spec, "spec", &mut findings),
        Document::Restore(restore) => check_restore(&restore.spec, &mut findings),
        Document::Upgrade(upgrade) => check_upgrade(&upgrade.spec, &mut findings),
        Document::BackupSchedule(schedule) => check_schedule(&schedule.spec, &mut findings),
        Document::BackupStore(store) => check_store(&store.spec, &mut findings),
    }
    findings
}

/// The names in `metadata`; on JSON, so that they are judged even where another field does not decode.
pub(super) fn check_metadata(kind: Kind, metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A value of another type is the schema's business.
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let filled = |field: &str| text(field).filter(|text| !text.is_empty());
    if let Some(name) = filled("name") {
        if !is_object_name(name) {
            findings.push(
                Finding::value("metadata.name", format!("`{name}` is not an object name"))
                    .with_hint("use at most 253 lower-case letters, digits, - and ."),
            );
        }
    } else if filled("generateName").is_none() {
        let message = if kind.runs_once() {
            "a document needs a name or a generateName"
        } else {
            "a document needs a name"
        };
        findings.push(Finding::key("metadata.name", message));
    }
    if let Some(prefix) = filled("generateName") {
        // Five characters are put behind the prefix.
        if !kind.runs_once() {
            findings.push(
                Finding::key(
                    "metadata.generateName",
                    format!("a {kind} lives on and cannot have a generated name"),
                )
                .with_hint("give it a name"),
            );
        } else if prefix.len() > 248 || !is_object_name(&format!("{prefix}x")) {
            findings.push(
                Finding::value(
                    "metadata.generateName",
                    format!("`{prefix}` is not the beginning of an object name"),
                )
                .with_hint("use at most 248 lower-case letters, digits, - and ."),
            );
        }
    }
    if let Some(namespace) = text("namespace")
        && !is_namespace_name(namespace)
    {
        findings.push(
            Finding::value("metadata.namespace", format!("`{namespace}` is not a namespace name"))
                .with_hint("use at most 63 lower-case letters, digits and -"),
        );
    }
    findings
}

fn check_backup(spec: &BackupSpec, path: &str, findings: &mut Vec<Finding>) {
    check_target(&spec.target, &member_path(path, "target"), findings);
    check_patterns(&spec.exclude, &member_path(path, "exclude"), findings);
    check_positive(&spec.consistency.timeout, &format!("{path}.consistency.timeout"), findings);
    check_hooks(&spec.hooks, &member_path(path, "hooks"), findings);
    if let Some(age) = &spec.expires_after {
        check_positive(age, &member_path(path, "expiresAfter"), findings);
    }
}

fn check_restore(spec: &RestoreSpec, findings: &mut Vec<Finding>) {
    if let Some(target) = &spec.target {
        check_target(target, "spec.target", findings);
    }
    check_patterns(&spec.include, "spec.include", findings);
    check_patterns(&spec.preserve, "spec.preserve", findings);
    check_positive(&spec.consistency.timeout, "spec.consistency.timeout", findings);
    check_positive(&spec.health_timeout, "spec.healthTimeout", findings);
    check_hooks(&spec.hooks, "spec.hooks", findings);
}

fn check_upgrade(spec: &UpgradeSpec, findings: &mut Vec<Finding>) {
    for (name, image) in spec.images.iter().flatten() {
        if image.is_empty() || image.contains(char::is_whitespace) {
            let path = member_path("spec.images", name);
            findings.push(
                Finding::value(path, format!("`{image}` is not an image"))
                    .with_hint("write it as registry/name:tag"),
            );
        }
    }
    if let Some(package) = &spec.package {
        check_url(&package.manifest_url, "spec.package.manifestURL", findings);
    }
    check_positive(&spec.consistency.timeout, "spec.consistency.timeout", findings);
    check_hooks(&spec.hooks, "spec.hooks", findings);
    check_positive(&spec.health_gate.timeout, "spec.healthGate.timeout", findings);
    for (index, probe) in spec.health_gate.probes.iter().enumerate() {
        let path = format!("{}.http", item_path("spec.healthGate.probes", index));
        check_url(&probe.http.url, &member_path(&path, "url"), findings);
        check_headers(probe.http.headers.keys(), &member_path(&path, "headers"), findings);
        if let Some(file) = &probe.http.authorization_file {
            check_absolute(file, &member_path(&path, "authorizationFile"), findings);
        }
    }
}

fn check_schedule(spec: &BackupScheduleSpec, findings: &mut Vec<Finding>) {
    if let Err(message) = check_cron(&spec.schedule) {
        findings.push(
            Finding::value("spec.schedule", message)
                .with_hint("write minute, hour, day of month, month, day of week, or @daily"),
        );
    }
    if jiff::tz::TimeZone::get(&spec.time_zone).is_err() {
        findings.push(
            Finding::value("spec.timeZone", format!("`{}` is not a time zone", spec.time_zone))
                .with_hint("write an IANA name such as Europe/Berlin"),
        );
    }
    if let Some(age) = &spec.overdue_after {
        check_positive(age, "spec.overdueAfter", findings);
    }
    check_positive(&spec.starting_deadline, "spec.startingDeadline", findings);
    check_backup(&spec.template.spec, "spec.template.spec", findings);
}

fn check_cron(schedule: &str) -> Result<(), String> {
    let fields = schedule.split_whitespace().count();
    if fields != 5 && !schedule.starts_with('@') {
        return Err(format!("`{schedule}` has {fields} fields where cron has five"));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(schedule).map_err(|error| {
        format!(
            "`{schedule}` is not a cron expression: {}",
            error.to_string().trim_end_matches('.')
        )
    })?;
    // Any fixed beginning will do: the calendar repeats itself after 400 years at the latest.
    let start = jiff::civil::date(2000, 1, 1).at(0, 0, 0, 0);
    cron.find_next_occurrence(&start, true)
        .map(|_| ())
        .map_err(|_| format!("`{schedule}` never comes"))
}

fn check_store(spec: &BackupStoreSpec, findings: &mut Vec<Finding>) {
    if let Some(local) = &spec.local {
        let path = "spec.local.path";
        check_normalised(&local.path, path, findings);
        if local.path == "/" {
            findings.push(Finding::value(path, "a store needs a directory of its own"));
        }
    }
    if let Some(file) = spec.s3.as_ref().and_then(|s3| s3.credentials_file.as_ref()) {
        check_absolute(file, "spec.s3.credentialsFile", findings);
    }
    if let Some(endpoint) = spec.s3.as_ref().and_then(|s3| s3.endpoint.as_ref()) {
        check_url(endpoint, "spec.s3.endpoint", findings);
    }
}

/// Trees that are no data: reading them never ends or does something, writing them breaks things.
const SYSTEM_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

fn check_target(target: &Target, path: &str, findings: &mut Vec<Finding>) {
    let Some(host) = &target.host else { return };
    let list = format!("{path}.host.paths");
    for (index, written) in host.paths.iter().enumerate() {
        let here = item_path(&list, index);
        let as_path = Path::new(written);
        check_normalised(written, &here, findings);
        if written == "/" {
            findings.push(
                Finding::value(&here, "the whole file system cannot be a target")
                    .with_hint("name the directories that hold the data"),
            );
        } else if SYSTEM_TREES.iter().any(|tree| as_path.starts_with(tree)) {
            findings.push(Finding::value(&here, format!("`{written}` holds no data to keep")));
        }
        let earlier = host.paths[..index].iter().filter(|other| *other != "/").find(|other| {
            as_path.starts_with(other.as_str()) || Path::new(other).starts_with(as_path)
        });
        if let Some(other) = earlier.filter(|_| written != "/") {
            let message = if Path::new(other) == as_path {
                format!("`{written}` is listed twice")
            } else {
                format!("`{written}` and `{other}` lie in each other")
            };
            findings.push(Finding::value(&here, message).with_hint("name the outer one only"));
        }
    }
}

fn check_patterns(patterns: &[String], path: &str, findings: &mut Vec<Finding>) {
    for (index, pattern) in patterns.iter().enumerate() {
        let mut builder = GitignoreBuilder::new("");
        let failed = match builder.add_line(None, pattern) {
            Ok(builder) => builder.build().err(),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            findings.push(Finding::value(
                item_path(path, index),
                format!("`{pattern}` is not a pattern in gitignore syntax: {error}"),
            ));
        }
    }
}

fn check_positive(duration: &DurationText, path: &str, findings: &mut Vec<Finding>) {
    if duration.to_duration().is_zero() {
        findings.push(
            Finding::value(path, "must be longer than zero")
                .with_hint("leave it out for the default"),
        );
    }
}

fn check_hooks(hooks: &Hooks, path: &str, findings: &mut Vec<Finding>) {
    for (list, name) in [(&hooks.before, "before"), (&hooks.after, "after")] {
        let list_path = member_path(path, name);
        for (index, hook) in list.iter().enumerate() {
            check_hook(hook, &item_path(&list_path, index), findings);
        }
    }
}

fn check_hook(hook: &Hook, path: &str, findings: &mut Vec<Finding>) {
    check_positive(&hook.timeout, &member_path(path, "timeout"), findings);
    if let Some(exec) = &hook.exec
        && exec.command.first().is_some_and(String::is_empty)
    {
        let command = format!("{path}.exec.command");
        findings.push(
            Finding::value(item_path(&command, 0), "the program has no name")
                .with_hint("the first item is the program, the others its arguments"),
        );
    }
    if let Some(http) = &hook.http {
        check_http(http, &member_path(path, "http"), findings);
    }
}

fn check_http(http: &HttpHook, path: &str, findings: &mut Vec<Finding>) {
    check_url(&http.url, &member_path(path, "url"), findings);
    check_headers(http.headers.keys(), &member_path(path, "headers"), findings);
    if let Some(file) = &http.authorization_file {
        check_absolute(file, &member_path(path, "authorizationFile"), findings);
    }
}

fn check_headers<'a>(
    names: impl Iterator<Item = &'a String>,
    path: &str,
    findings: &mut Vec<Finding>,
) {
    for name in names {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("`{name}` is not a header name");
            findings.push(Finding::key(member_path(path, name), message));
        } else if name.eq_ignore_ascii_case("authorization") {
            findings.push(
                Finding::key(member_path(path, name), "secrets do not belong in a document")
                    .with_hint("put the value into a file and name it in authorizationFile"),
            );
        }
    }
}

fn check_url(url: &str, path: &str, findings: &mut Vec<Finding>) {
    let parsed = url.parse::<http::Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    match parsed {
        None => findings.push(
            Finding::value(path, format!("`{url}` is not an address"))
                .with_hint("write it as http://host:port/path or https://host/path"),
        ),
        Some(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            findings.push(Finding::value(path, "an address may not hold a password"));
        }
        Some(_) => {}
    }
}

fn check_absolute(file: &str, path: &str, findings: &mut Vec<Finding>) {
    if !file.starts_with('/') {
        findings.push(Finding::value(path, format!("`{file}` is not an absolute path")));
    }
    check_normalised(file, path, findings);
}

/// Refuses `.`, `..`, doubled and trailing slashes, and NUL: two spellings of one place would be
/// two targets. Relative paths are left to the rule that says so.
fn check_normalised(written: &str, path: &str, findings: &mut Vec<Finding>) {
    if !written.starts_with('/') {
        return;
    }
    if written.contains('\0') {
        findings.push(Finding::value(path, "a path cannot hold a NUL"));
        return;
    }
    let parts = Path::new(written).components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let clean = format!("/{}", parts.collect::<Vec<_>>().join("/"));
    if written.split('/').any(|part| part == "..") {
        findings.push(Finding::value(path, format!("`{written}` has a `..` in it")));
    } else if clean != written {
        findings.push(
            Finding::value(path, format!("`{written}` is not normalised"))
                .with_hint(format!("write `{clean}`")),
        );
    }
}
