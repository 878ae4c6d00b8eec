//! Reading documents with their positions, and printing them.
//!
//! The only place that names `serde-saphyr`. A text is parsed into a tree that knows where every
//! key and value stands; what `schema` and `checks` find by path is given its line and column here.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::checks;
use super::compose;
use super::document::{API_VERSION, Document, Kind};
use super::problem::{
    Finding, Problem, did_you_mean, is_within, item_path, member_path, parent_path,
};
use super::reason::Reason;
use super::schema;
use super::tree::{self, Content, Node, Position};

/// Largest text that is read, in bytes: eight times what a ConfigMap may hold.
const MAXIMUM_BYTES: usize = 8 << 20;

/// A value and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Name of the file, as it was given.
    pub file: String,
    /// Line of its first key, counted from 1.
    pub line: u32,
    /// Column of its first key in characters, counted from 1.
    pub column: u32,
}

/// Where a field stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: Position,
    value: Position,
}

/// The place of every field of a document, by path.
type Places = HashMap<String, Place>;

/// A document that is not for Eider, as a directory of manifests holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What it says it is, as `apps/v1 Deployment`.
    pub what: String,
    /// Its name; empty if it has none.
    pub name: String,
}

impl Foreign {
    /// A document of another API, of a kind that Eider does not have. What could be a slip of the pen in a
    /// document of Eider's is none.
    fn read(value: &Value) -> Option<Self> {
        let (version, kind) = (value["apiVersion"].as_str()?, value["kind"].as_str()?);
        if kind.parse::<Kind>().is_ok() || version.to_lowercase().contains("eider") {
            return None;
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Some(Self { what: format!("{version} {kind}"), name })
    }
}

/// Reads all documents of `text`, YAML or JSON; `file_name` is for messages only.
///
/// # Errors
/// All problems of all documents, in the order of the text.
pub fn load(text: &str, file_name: &str) -> Result<Vec<Located<Document>>, Vec<Problem>> {
    load_beside(text, file_name, None)
}

/// The same where documents of others are no problem but listed.
///
/// # Errors
/// All problems of all documents, in the order of the text.
pub fn load_beside(
    text: &str,
    file_name: &str,
    mut foreign: Option<&mut Vec<Foreign>>,
) -> Result<Vec<Located<Document>>, Vec<Problem>> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    let problem = |position: Position, finding: Finding| Problem {
        file: file_name.to_owned(),
        line: position.line,
        column: position.column,
        path: finding.path,
        reason: Reason::InvalidSpec,
        message: finding.message,
        hint: finding.hint,
    };
    if text.len() > MAXIMUM_BYTES {
        let message = format!("the file is larger than {} MiB", MAXIMUM_BYTES >> 20);
        return Err(vec![problem(Position::START, Finding::key("", message))]);
    }
    for parsed in tree::parse(text) {
        let node = match parsed {
            Ok(node) => node,
            Err((position, message)) => {
                let hint = syntax_hint(text, position, &message);
                let finding = Finding::key("", message).with_optional_hint(hint);
                problems.push(problem(position, finding));
                continue;
            }
        };
        if is_empty(&node) {
            continue;
        }
        let mut places = Places::new();
        let mut findings = Vec::new();
        let root = Place { key: node.position, value: node.position };
        places.insert(String::new(), root);
        let mut value = to_value(&node, "", &mut places, &mut findings);
        if let Some(document) = compose::as_document(&value, file_name) {
            value = document;
            let moved = |(path, place): (&String, &Place)| Some((compose::moved(path)?, *place));
            places = places.iter().filter_map(moved).chain([(String::new(), root)]).collect();
        }
        if let Some(list) = foreign.as_deref_mut()
            && let Some(other) = Foreign::read(&value)
        {
            list.push(other);
            continue;
        }
        match judge(&value, &mut findings) {
            Some(document) if findings.is_empty() => documents.push(Located {
                value: document,
                file: file_name.to_owned(),
                line: node.position.line,
                column: node.position.column,
            }),
            _ => problems.extend(
                findings.into_iter().map(|finding| problem(find(&places, &finding), finding)),
            ),
        }
    }
    if problems.is_empty() {
        Ok(documents)
    } else {
        problems.sort_by(|left, right| {
            (left.line, left.column, &left.path).cmp(&(right.line, right.column, &right.path))
        });
        problems.dedup();
        Err(problems)
    }
}

/// What an update from `old` to `new` may not change.
///
/// # Errors
/// The rules it breaks; the problems carry no position, since both may come from anywhere.
pub fn validate_update(old: &Document, new: &Document) -> Result<(), Vec<Problem>> {
    let mut findings = Vec::new();
    if old.key() != new.key() {
        let message = format!("{} cannot become {}", old.key(), new.key());
        findings.push(Finding::key("metadata.name", message));
    } else if old.spec_value() != new.spec_value() {
        let old = old.to_value();
        findings = schema::check_rules(new.kind(), &new.to_value(), Some(&old));
    }
    let problem = |finding: Finding| Problem {
        file: String::new(),
        line: 0,
        column: 0,
        path: finding.path,
        reason: Reason::InvalidSpec,
        message: finding.message,
        hint: finding.hint,
    };
    if findings.is_empty() { Ok(()) } else { Err(findings.into_iter().map(problem).collect()) }
}

/// The document as YAML, as `get -o yaml` shows it; [`load`] reads it back.
///
/// # Errors
/// When the printer fails, which no valid document makes it do.
pub fn to_yaml(document: &Document) -> Result<String, serde_saphyr::ser::Error> {
    print(&document.to_value())
}

/// The document as indented JSON, as `get -o json` shows it.
///
/// # Errors
/// When the printer fails, which no valid document makes it do.
pub fn to_json(document: &Document) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&document.to_value())
}

/// Prints anything as YAML, without folding long lines.
///
/// # Errors
/// When the printer fails, which no plain data makes it do.
pub fn print<T: Serialize>(value: &T) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}

/// A syntax error is told in the parser's words; the two that people meet get a hint.
fn syntax_hint(text: &str, position: Position, message: &str) -> Option<String> {
    let line = text.lines().nth(usize::try_from(position.line).ok()?.checked_sub(1)?)?;
    if line.contains(": @") {
        Some("a value that begins with @ needs quotes, as in \"@daily\"".to_owned())
    } else if line.trim_start_matches([' ', '-']).starts_with('\t') {
        Some("indent with spaces, not with tabs".to_owned())
    } else if message.contains("anchor")
        && (line.contains(": *") || line.contains("- *") || line.contains("[*"))
    {
        Some("a value that begins with * needs quotes".to_owned())
    } else {
        None
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.content {
        Content::Null => true,
        Content::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The JSON of a node. Nulls in mappings are left out, as an API server prunes them.
fn to_value(node: &Node, path: &str, places: &mut Places, findings: &mut Vec<Finding>) -> Value {
    match &node.content {
        Content::Null => Value::Null,
        Content::Boolean(flag) => Value::Bool(*flag),
        Content::Integer(number) => Value::Number(number.clone()),
        Content::Float(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Content::String(text) => Value::String(text.clone()),
        Content::List(items) => {
            let convert = |(index, item): (usize, &Node)| {
                let path = item_path(path, index);
                places.insert(path.clone(), Place { key: item.position, value: item.position });
                to_value(item, &path, places, findings)
            };
            Value::Array(items.iter().enumerate().map(convert).collect())
        }
        Content::Mapping(entries) => {
            let mut object = Map::new();
            for (key, item) in entries {
                let path = member_path(path, &key.name);
                let place = Place { key: key.position, value: item.position };
                if let Some(first) = places.get(&path) {
                    if key.merged {
                        continue;
                    }
                    let message =
                        format!("duplicate key; it stands in line {} too", first.key.line);
                    findings.push(Finding::key(&path, message).at(key.position));
                    continue;
                }
                places.insert(path.clone(), place);
                let value = to_value(item, &path, places, findings);
                if !value.is_null() {
                    object.insert(key.name.clone(), value);
                }
            }
            Value::Object(object)
        }
    }
}

/// Judges a document as a whole; the document is returned when its types accept it.
fn judge(value: &Value, findings: &mut Vec<Finding>) -> Option<Document> {
    let Some(object) = value.as_object() else {
        findings.push(
            Finding::value("", "a document is a mapping")
                .with_hint("it begins with apiVersion, kind, metadata and spec"),
        );
        return None;
    };
    let kind = header(object, findings)?;
    let structure = schema::check_structure(kind, value);
    // Eider alone writes the status; what a file says about it is neither judged nor kept.
    let mut wanted = object.clone();
    wanted.remove("status");
    let typed = Document::from_value(kind, Value::Object(wanted));
    let mut rules = schema::check_rules(kind, value, None);
    if let Some(metadata) = object.get("metadata").filter(|metadata| metadata.is_object()) {
        rules.extend(checks::check_metadata(kind, metadata));
    }
    match &typed {
        Ok(document) => {
            // Where a rule speaks already, the finer check would only say it again.
            let mut finer = checks::check(document);
            finer.retain(|finding| rules.iter().all(|rule| rule.path != finding.path));
            rules.extend(finer);
        }
        Err(error) if structure.is_empty() => {
            rules.push(Finding::value(blamed(value, &error.to_string()), error.to_string()));
        }
        Err(_) => {}
    }
    // One slip is told once: the type is wrong before the pattern is.
    let mut seen = HashSet::new();
    let mut structure = structure;
    structure.retain(|slip| seen.insert(slip.path.clone()));
    // A rule that is broken because of a slip beside or above it would only repeat the slip.
    rules.retain(|rule| {
        !structure.iter().any(|slip| {
            parent_path(&slip.path) == rule.path
                || is_within(&rule.path, &slip.path)
                || rule.message.starts_with(schema::UNDECIDED)
        })
    });
    findings.extend(structure);
    findings.extend(rules);
    typed.ok()
}

/// `apiVersion` and `kind`; without them there is no schema to judge by.
fn header(object: &Map<String, Value>, findings: &mut Vec<Finding>) -> Option<Kind> {
    let expected = format!("write `apiVersion: {API_VERSION}`");
    match object.get("apiVersion") {
        Some(Value::String(version)) if version == API_VERSION => {}
        Some(Value::String(version)) => findings.push(
            Finding::value("apiVersion", format!("`{version}` is not an API version of Eider"))
                .with_hint(expected),
        ),
        Some(_) => {
            findings.push(Finding::value("apiVersion", "expected a string").with_hint(expected));
        }
        None => findings
            .push(Finding::key("apiVersion", "required field is missing").with_hint(expected)),
    }
    let names = || Kind::ALL.iter().map(|kind| kind.as_str());
    let all = names().collect::<Vec<_>>().join(", ");
    match object.get("kind") {
        Some(Value::String(word)) => {
            let exact = Kind::ALL.iter().find(|kind| kind.as_str() == word).copied();
            if exact.is_none() {
                let hint = match word.parse::<Kind>() {
                    Ok(kind) => Some(format!("did you mean `{kind}`?")),
                    Err(_) => did_you_mean(word, names()),
                };
                let message = format!("`{word}` is not one of {all}");
                findings.push(Finding::value("kind", message).with_optional_hint(hint));
            }
            exact.filter(|_| findings.iter().all(|finding| finding.path != "apiVersion"))
        }
        Some(_) => {
            findings.push(Finding::value("kind", format!("expected one of {all}")));
            None
        }
        None => {
            findings.push(
                Finding::key("kind", "required field is missing")
                    .with_hint(format!("write one of {all}")),
            );
            None
        }
    }
}

/// The field whose value a decoding error quotes; the types speak of values, not of paths.
fn blamed(value: &Value, message: &str) -> String {
    fn search(value: &Value, path: &str, message: &str) -> Option<String> {
        match value {
            Value::String(text) if message.contains(&format!("`{text}`")) => Some(path.to_owned()),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| search(item, &item_path(path, index), message)),
            Value::Object(members) => members
                .iter()
                .find_map(|(key, member)| search(member, &member_path(path, key), message)),
            _ => None,
        }
    }
    search(value, "", message).unwrap_or_else(|| "spec".to_owned())
}

/// Where a finding stands: at its field or, when that is not there, at the nearest field around it.
fn find(places: &Places, finding: &Finding) -> Position {
    if let Some(position) = finding.position {
        return position;
    }
    if let Some(place) = places.get(&finding.path) {
        return if finding.at_key { place.key } else { place.value };
    }
    let mut path = finding.path.as_str();
    while !path.is_empty() {
        path = parent_path(path);
        if let Some(place) = places.get(path) {
            return place.key;
        }
    }
    Position::START
}
