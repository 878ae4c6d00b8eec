//! Judging a JSON value by the schema and the CEL rules of its kind, in words for people.
//!
//! The schema is the one of the CRD, closed against unknown fields: what a server would silently
//! drop is an error in a file. Positions are not known here; findings carry paths.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use kube::core::cel;
use serde_json::{Map, Value, json};

use super::crd::{self, CrdError};
use super::document::Kind;
use super::problem::{Finding, did_you_mean, item_path, member_path};

/// How a finding begins whose rule could not be evaluated on what was written.
pub(super) const UNDECIDED: &str = "cannot be checked";

/// What a document of one kind has to fulfil.
struct Rules {
    /// The schema of the definition, with defaults and CEL rules.
    open: Value,
    /// The same closed against unknown fields, with `metadata`.
    closed: Value,
    validator: Validator,
}

static RULES: LazyLock<Result<Vec<Rules>, String>> =
    LazyLock::new(|| Kind::ALL.iter().map(|kind| rules(*kind)).collect());

fn rules(kind: Kind) -> Result<Rules, String> {
    let open = crd::schema(kind).map_err(|error: CrdError| error.to_string())?;
    let mut spec = open["properties"]["spec"].clone();
    close(&mut spec);
    let text_map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let closed = json!({
        "type": "object",
        "required": ["metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "name": { "type": "string" },
                    "generateName": { "type": "string" },
                    "namespace": { "type": "string" },
                    "labels": text_map,
                    "annotations": text_map,
                    // Set by a server; accepted so that what `get -o yaml` prints can be applied.
                    "creationTimestamp": { "type": "string", "format": "date-time" },
                    "deletionGracePeriodSeconds": { "type": "integer" },
                    "deletionTimestamp": { "type": "string", "format": "date-time" },
                    "finalizers": { "type": "array", "items": { "type": "string" } },
                    "generation": { "type": "integer" },
                    "managedFields": { "type": "array" },
                    "ownerReferences": { "type": "array" },
                    "resourceVersion": { "type": "string" },
                    "selfLink": { "type": "string" },
                    "uid": { "type": "string" },
                },
            },
            "spec": spec,
            // Written by Eider alone; what a file says about it is ignored.
            "status": {},
        },
    });
    let validator = jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&closed)
        .map_err(|error| error.to_string())?;
    Ok(Rules { open, closed, validator })
}

/// Refuses unknown fields wherever the schema lists the known ones.
fn close(node: &mut Value) {
    let Some(object) = node.as_object_mut() else { return };
    // Width of integers is the API server's business, and no format of JSON Schema.
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format != "date-time") {
        object.remove("format");
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
        object.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(inner) {
            close(inner);
        }
    }
}

fn rules_of(kind: Kind) -> Result<&'static Rules, Finding> {
    // A schema that does not compile is a mistake in the types, which the tests would show; a
    // document is refused rather than accepted unchecked.
    match &*RULES {
        Ok(rules) => rules
            .get(kind as usize)
            .ok_or_else(|| Finding::key("", format!("{kind} has no schema; this is a defect"))),
        Err(message) => Err(Finding::key("", format!("the schema is defective: {message}"))),
    }
}

/// Everything in `value` that breaks the schema of `kind`.
pub(super) fn check_structure(kind: Kind, value: &Value) -> Vec<Finding> {
    let rules = match rules_of(kind) {
        Ok(rules) => rules,
        Err(finding) => return vec![finding],
    };
    let mut findings = Vec::new();
    for error in rules.validator.iter_errors(value) {
        reword(&rules.closed, value, &error, &mut findings);
    }
    findings
}

/// Every CEL rule of `kind` that `value` breaks; rules on changes need `old`.
pub(super) fn check_rules(kind: Kind, value: &Value, old: Option<&Value>) -> Vec<Finding> {
    let rules = match rules_of(kind) {
        Ok(rules) => rules,
        Err(finding) => return vec![finding],
    };
    let old = old.map(|old| cel::apply_defaults(&rules.open, old));
    let value = cel::apply_defaults(&rules.open, value);
    let Err(errors) = cel::Validator::new().validate(&rules.open, &value, old.as_ref()) else {
        return Vec::new();
    };
    errors
        .into_vec()
        .into_iter()
        .map(|error| {
            let message = match error.kind {
                cel::ErrorKind::ValidationFailure => error.message,
                // Fails closed: the rule could not be evaluated on what was written.
                _ => format!("{UNDECIDED}: {}", error.message),
            };
            // A rule on the whole object has its own field path appended to an empty one.
            Finding::key(error.field_path.trim_start_matches('.'), message)
        })
        .collect()
}

/// Turns a JSON pointer into a path, telling list items from members by what is there.
fn path_of(value: &Value, pointer: &str) -> String {
    let mut path = String::new();
    let mut node = Some(value);
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        match (node, part.parse::<usize>()) {
            (Some(Value::Array(items)), Ok(index)) => {
                path = item_path(&path, index);
                node = items.get(index);
            }
            (inner, _) => {
                path = member_path(&path, &part);
                node = inner.and_then(|inner| inner.get(&part));
            }
        }
    }
    path
}

/// The schema node that holds the keyword at `pointer`.
fn node_of<'a>(schema: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    schema.pointer(parent)?.as_object()
}

fn reword(schema: &Value, value: &Value, error: &ValidationError<'_>, findings: &mut Vec<Finding>) {
    let path = path_of(value, error.instance_path().as_str());
    let node = node_of(schema, error.schema_path().as_str());
    let found = error.instance().as_ref();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known: Vec<&str> = node
                .and_then(|node| node.get("properties")?.as_object())
                .map(|properties| properties.keys().map(String::as_str).collect())
                .unwrap_or_default();
            for field in unexpected {
                let free = known.iter().copied().filter(|known| found.get(known).is_none());
                let hint = did_you_mean(field, free).or_else(|| known_fields(&known));
                findings.push(
                    Finding::key(member_path(&path, field), "unknown field")
                        .with_optional_hint(hint),
                );
            }
        }
        ValidationErrorKind::Required { property } => {
            let field = property.as_str().unwrap_or_default();
            findings.push(Finding::key(member_path(&path, field), "required field is missing"));
        }
        ValidationErrorKind::Type { kind } => findings.push(wrong_type(path, kind, found)),
        ValidationErrorKind::Enum { options } => findings.push(wrong_choice(path, options, found)),
        ValidationErrorKind::Pattern { pattern } => {
            findings.push(wrong_pattern(path, pattern, found));
        }
        ValidationErrorKind::Format { .. } => findings.push(
            Finding::value(path, format!("{} is not a time", written(found)))
                .with_hint("write it as 2026-11-21T02:00:00Z"),
        ),
        kind => findings.push(Finding::value(path, limit_broken(kind, found))),
    }
}

/// A short list of fields is a better help than none.
fn known_fields(known: &[&str]) -> Option<String> {
    (!known.is_empty() && known.len() <= 8).then(|| format!("known are {}", known.join(", ")))
}

fn limit_broken(kind: &ValidationErrorKind, found: &Value) -> String {
    let counted =
        |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    match kind {
        ValidationErrorKind::Minimum { limit } => {
            format!("{found} is too small; the smallest is {}", whole(limit))
        }
        ValidationErrorKind::Maximum { limit } => {
            format!("{found} is too large; the largest is {}", whole(limit))
        }
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => {
            format!("{} is too short; it needs {}", written(found), counted(*limit, "character"))
        }
        ValidationErrorKind::MaxLength { limit } => {
            format!("is too long; it may have {}", counted(*limit, "character"))
        }
        ValidationErrorKind::MinItems { limit } => {
            format!("the list needs at least {}", counted(*limit, "item"))
        }
        ValidationErrorKind::MaxItems { limit } => {
            format!("the list may have at most {}", counted(*limit, "item"))
        }
        // Nothing else is in the schemas; should it come, it is refused in the checker's words.
        other => format!("does not fulfil `{}`", other.keyword()),
    }
}

/// A limit without the `.0` that the definition's type gives to every number.
fn whole(limit: &Value) -> String {
    let text = limit.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn wrong_type(path: String, kind: &TypeKind, found: &Value) -> Finding {
    let TypeKind::Single(wanted) = kind else {
        return Finding::value(path, format!("{} is of the wrong type", described(found)));
    };
    let wanted = wanted.to_string();
    let name = match wanted.as_str() {
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    };
    let hint = match (wanted.as_str(), found) {
        ("string", Value::Number(_) | Value::Bool(_)) => Some("put the value in quotes".to_owned()),
        ("array", Value::String(_)) => Some("write it as a list, as in [a, b]".to_owned()),
        ("integer" | "number" | "boolean", Value::String(_)) => {
            Some("remove the quotes".to_owned()).filter(|_| is_bare_scalar(found))
        }
        _ => None,
    };
    Finding::value(path, format!("expected {name}, found {}", described(found)))
        .with_optional_hint(hint)
}

/// Whether a string would be a number or boolean without its quotes.
fn is_bare_scalar(found: &Value) -> bool {
    found
        .as_str()
        .is_some_and(|text| text.parse::<f64>().is_ok() || matches!(text, "true" | "false"))
}

fn wrong_choice(path: String, options: &Value, found: &Value) -> Finding {
    let options: Vec<&str> =
        options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let message = format!("{} is not one of {}", written(found), options.join(", "));
    let hint = found.as_str().and_then(|found| did_you_mean(found, options.iter().copied()));
    Finding::value(path, message).with_optional_hint(hint)
}

fn wrong_pattern(path: String, pattern: &str, found: &Value) -> Finding {
    let found = written(found);
    // Told apart by what only that pattern allows.
    let (what, hint) = if pattern.contains("ms|s|m") {
        ("a duration", "write it as 90s, 30m, 12h, 7d or 1h30m")
    } else if pattern.contains("Ki|Mi") {
        ("a size", "write it as \"512\", 500M, 1Gi or 1.5Ti")
    } else if pattern.contains("age1") {
        ("an age recipient", "it begins with age1")
    } else if pattern.contains("[^/]") {
        ("a file name", "leave out the directory")
    } else if pattern.contains("._+-") {
        ("a version", "use letters, digits and . _ + -, beginning with a letter or digit")
    } else if pattern.contains("-a-z0-9.") {
        ("an object name", "use lower-case letters, digits, - and .")
    } else {
        return Finding::value(path, format!("{found} does not match {pattern}"));
    };
    Finding::value(path, format!("{found} is not {what}")).with_hint(hint)
}

/// A value as it is quoted in a message; long ones are cut.
fn written(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut characters = text.chars().map(|character| match character {
        control if control.is_control() => '\u{fffd}',
        other => other,
    });
    let start: String = characters.by_ref().take(60).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("`{start}{more}`")
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("{flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => format!("the string {}", written(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
