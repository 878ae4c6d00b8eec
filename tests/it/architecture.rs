//! Holds the sources to the shape that ARCHITECTURE.md describes: which room may use which, what a
//! room may not know, and the rules for files. Reads the sources as text; may not call the library.

use std::path::{Path, PathBuf};

/// Every room and the rooms it may use besides itself. A new room has to be added here first, so
/// that its place is thought about. `cli` and `web` see everything below them; of the two only the
/// command line starts the other.
const ARROWS: &[(&str, &[&str])] = &[
    ("failpoint", &[]),
    ("spec", &["failpoint"]),
    ("plan", &["failpoint", "spec"]),
    ("engine", &["failpoint", "spec"]),
    ("runtime", &["failpoint", "spec", "plan", "engine"]),
    ("catalog", &["failpoint", "spec", "plan"]),
    ("telemetry", &["failpoint", "spec"]),
    ("operator", &["failpoint", "spec", "plan", "engine", "runtime", "catalog", "telemetry"]),
    (
        "web",
        &["failpoint", "spec", "plan", "engine", "runtime", "catalog", "operator", "telemetry"],
    ),
    (
        "cli",
        &[
            "failpoint",
            "spec",
            "plan",
            "engine",
            "runtime",
            "catalog",
            "operator",
            "telemetry",
            "web",
        ],
    ),
];

/// Crates that only one place may name: replacing one of them has to stay a local change.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("duckdb", &["src/catalog/"]),
    ("serde_saphyr", &["src/spec/yaml", "src/spec/tree.rs", "tests/it/packaging.rs"]),
];

/// What a room may not know. The planner is pure: it does no input or output, runs nothing and gets
/// the time as an argument. The engine moves bytes and knows nothing of who asked for it.
const UNKNOWN_TO: &[(&str, &[&str])] = &[
    (
        "src/plan/",
        &[
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "SystemTime::now",
            "Instant::now",
            "Timestamp::now",
            "Zoned::now",
            "tokio",
            "rustix",
            "ureq",
            "kube",
        ],
    ),
    ("src/engine/", &["kube", "k8s_openapi", "bollard", "axum", "hyper", "ureq", "tokio"]),
    ("src/catalog/", &["kube", "k8s_openapi", "bollard"]),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "manager", "misc"];

const MOST_LINES: usize = 500;

#[test]
fn the_sources_keep_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        rust_files(&root.join(directory), &mut files);
    }
    files.sort();
    assert!(files.len() > 3, "found only {} source files below {}", files.len(), root.display());
    let mut problems = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(root).unwrap().to_str().unwrap();
        problems.extend(check(name, &text));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// All that is wrong with one file. `name` is its path from the repository's root.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        problems.push(format!("{name}: {lines} lines, more than {MOST_LINES}: split it"));
    }
    if !text.starts_with("//!") && !is_test_file(name) {
        problems.push(format!("{name}: does not begin with `//!`: what is it for?"));
    }
    for part in name.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            problems.push(format!("{name}: `{part}` does not say what is inside"));
        }
    }
    let tokens = tokens(text);
    if tokens.iter().any(|token| token == "unsafe") {
        problems.push(format!("{name}: `unsafe`"));
    }
    for window in tokens.windows(2) {
        if window[0] == "mod" && EMPTY_NAMES.contains(&window[1].as_str()) {
            problems.push(format!("{name}: module `{}` does not say what is inside", window[1]));
        }
    }
    for (external, places) in ONLY_IN {
        let inside = places.iter().any(|place| name.starts_with(place));
        if !inside && names(&tokens, external) {
            problems.push(format!("{name}: names `{external}`, which only {places:?} may"));
        }
    }
    for (place, unknown) in UNKNOWN_TO {
        if name.starts_with(place) && !is_test_file(name) {
            for path in unknown.iter().filter(|path| names(without_tests(&tokens), path)) {
                problems.push(format!("{name}: uses `{path}`, of which {place} may not know"));
            }
        }
    }
    if let Some((room, depth)) = place(name) {
        match ARROWS.iter().find(|(from, _)| *from == room) {
            None => problems.push(format!("{name}: the room `{room}` is not in ARROWS")),
            Some((_, allowed)) => {
                for to in rooms_used(&tokens, depth) {
                    if to != room && !allowed.contains(&to) {
                        problems.push(format!("{name}: `{room}` may not use `{to}`"));
                    }
                }
            }
        }
    }
    problems
}

/// The room a source file belongs to and how many modules deep it is, none for `lib.rs` and
/// `main.rs`, which are no rooms, and for tests.
fn place(name: &str) -> Option<(&str, usize)> {
    let path = name.strip_prefix("src/")?.strip_suffix(".rs")?;
    if matches!(path, "lib" | "main") {
        return None;
    }
    let path = path.strip_suffix("/mod").unwrap_or(path);
    Some((path.split('/').next()?, path.split('/').count()))
}

/// A file of unit tests beside what it tests; what it is for is clear from where it is.
fn is_test_file(name: &str) -> bool {
    name.starts_with("src/")
        && (name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/"))
}

/// The tokens before an inline `mod tests {`.
fn without_tests(tokens: &[String]) -> &[String] {
    let end = tokens.windows(3).position(|window| window == ["mod", "tests", "{"]);
    &tokens[..end.unwrap_or(tokens.len())]
}

/// Whether the path `std::fs` or the crate `kube` is named: as a path, or inside the braces of a
/// `use std::{…}`.
fn names(tokens: &[String], path: &str) -> bool {
    let (first, second) = path.split_once("::").map_or((path, None), |(a, b)| (a, Some(b)));
    (0..tokens.len()).any(|at| {
        let starts = at == 0 || tokens[at - 1] != "::";
        if tokens[at] != first || (second.is_none() && !starts) {
            return false;
        }
        let follows = tokens.get(at + 1).is_some_and(|token| token == "::");
        match second {
            Some(second) => follows && heads(&tokens[at + 2..]).contains(&second),
            None => follows || (at > 0 && tokens[at - 1] == "use"),
        }
    })
}

/// The rooms that paths from the crate's root lead to. `depth` supers lead to the root as well.
fn rooms_used(tokens: &[String], depth: usize) -> Vec<&str> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 1 < tokens.len() {
        let mut next = at + 1;
        if tokens[at] == "crate" && tokens[at + 1] == "::" {
            found.extend(heads(&tokens[at + 2..]));
        } else if tokens[at] == "super" {
            let mut supers = 0;
            next = at;
            while tokens.get(next).is_some_and(|token| token == "super")
                && tokens.get(next + 1).is_some_and(|token| token == "::")
            {
                supers += 1;
                next += 2;
            }
            if supers >= depth {
                // Inside an inline module one `super` less counts, so a name that is no room is not
                // necessarily an error.
                found.extend(heads(&tokens[next..]));
            }
            next = next.max(at + 1);
        }
        at = next;
    }
    found.retain(|name| ARROWS.iter().any(|(room, _)| room == name));
    found.sort_unstable();
    found.dedup();
    found
}

/// The first names of what follows a `::`: one, or with braces those of the group's paths.
fn heads(tokens: &[String]) -> Vec<&str> {
    match tokens.first().map(String::as_str) {
        Some("{") => {}
        Some(name) => return vec![name],
        None => return Vec::new(),
    }
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut begins = true;
    for token in tokens {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => begins = true,
            name if depth == 1 && begins => {
                heads.push(name);
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The identifiers and marks of the source, without comments, strings and characters; `::` is one.
fn tokens(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += block_comment(rest);
        } else if let Some(length) = string(rest).or_else(|| character(rest)) {
            at += length;
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let first = rest.chars().next().map_or(1, char::len_utf8);
            if length > 0 || !rest.starts_with(char::is_whitespace) {
                tokens.push(rest[..length.max(first)].to_owned());
            }
            at += length.max(first);
        }
    }
    tokens
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal at the start of the text, raw, byte and C strings included.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            let rest = if prefix.ends_with('r') { rest.trim_start_matches('#') } else { rest };
            rest.starts_with('"')
        })
    })?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let body = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()));
    }
    let mut escaped = false;
    for (at, character) in text[body..].char_indices() {
        match character {
            '"' if !escaped => return Some(body + at + 1),
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    Some(text.len())
}

/// The length of a character literal at the start of the text; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let mut characters = rest.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        let (after, _) = characters.nth(1)?;
        return Some(1 + after + rest[after..].find('\'')? + 1);
    }
    let (at, second) = characters.next()?;
    (second == '\'').then_some(at + 2)
}

mod proof {
    //! That the checker sees what it is there for, and nothing else.

    use super::check;

    fn problems(name: &str, code: &str) -> Vec<String> {
        check(name, &format!("//! A file.\n{code}"))
    }

    fn refused(name: &str, code: &str, because: &str) {
        let problems = problems(name, code);
        assert!(
            problems.iter().any(|problem| problem.contains(because)),
            "{name} with {code:?}: expected {because:?}, got {problems:?}"
        );
    }

    fn accepted(name: &str, code: &str) {
        assert_eq!(problems(name, code), Vec::<String>::new(), "{name} with {code:?}");
    }

    #[test]
    fn an_edge_against_the_arrows_is_seen_in_every_spelling() {
        for code in [
            "use crate::runtime::Host;",
            "use crate::{spec, runtime::Host};",
            "use crate::{\n    spec::{Backup, Restore},\n    runtime,\n};",
            "fn f() { crate :: runtime::host() }",
            "pub use super::super::runtime;",
            "use super::super::{plan, runtime};",
            "mod tests { use super::super::super::runtime::memory; }",
        ] {
            refused("src/engine/pack.rs", code, "`engine` may not use `runtime`");
        }
        refused("src/spec/mod.rs", "use crate::plan::Step;", "`spec` may not use `plan`");
        refused("src/spec/mod.rs", "use super::plan::Step;", "`spec` may not use `plan`");
        refused(
            "src/catalog/actor.rs",
            "use crate::engine::pack;",
            "`catalog` may not use `engine`",
        );
        refused("src/telemetry/log.rs", "use crate::plan::Step;", "`telemetry` may not use `plan`");
        refused("src/web/mod.rs", "use crate::cli::main;", "`web` may not use `cli`");
        refused("src/failpoint.rs", "use crate::spec::Backup;", "`failpoint` may not use `spec`");
        refused("src/cellar/mod.rs", "", "room `cellar` is not in ARROWS");
    }

    #[test]
    fn edges_along_the_arrows_pass() {
        accepted("src/engine/pack.rs", "use crate::spec::Quantity; use crate::engine::walk;");
        accepted("src/operator/drive.rs", "use crate::{catalog::Handle, runtime::Runtime};");
        accepted("src/cli/mod.rs", "use crate::web; use crate::telemetry::log;");
        accepted("src/plan/backup/steps.rs", "use super::super::journal; use super::mode;");
        accepted("src/plan/backup.rs", "mod tests { use super::super::journal; }");
        accepted("src/main.rs", "fn main() { eider::cli::main() }");
    }

    #[test]
    fn comments_strings_and_lifetimes_are_not_code() {
        accepted(
            "src/spec/mod.rs",
            r##"
            /// See [`crate::runtime`]; nothing unsafe here.
            /* crate::runtime /* duckdb::Connection */ unsafe */
            fn f<'a>(x: &'a str) -> char { let _ = "crate::runtime \" unsafe"; '"' }
            const A: &str = r#"duckdb::Connection " crate::cli"#;
            const B: &[u8] = b"unsafe"; const C: char = '\''; const D: char = '\u{1F986}';
            "##,
        );
        refused("src/spec/mod.rs", "const A: char = '\"'; use crate::cli;", "may not use `cli`");
        refused(
            "src/spec/mod.rs",
            "const A: &str = \"\\\\\"; use crate::cli;",
            "may not use `cli`",
        );
    }

    #[test]
    fn crates_stay_in_their_place() {
        refused("src/cli/database.rs", "use duckdb::Connection;", "names `duckdb`");
        refused("src/cli/database.rs", "use duckdb as database;", "names `duckdb`");
        refused("src/operator/files.rs", "serde_saphyr::from_str(x)", "names `serde_saphyr`");
        accepted("src/catalog/actor.rs", "use duckdb::Connection;");
        accepted("src/spec/yaml.rs", "use serde_saphyr::Options;");
        accepted("src/spec/yaml/position.rs", "use serde_saphyr::Options;");
        accepted("src/cli/database.rs", "let duckdb = 1; let version = catalog.duckdb();");
    }

    #[test]
    fn the_planner_is_pure_and_the_engine_alone() {
        refused("src/plan/schedule.rs", "let now = Timestamp::now();", "`Timestamp::now`");
        refused("src/plan/schedule.rs", "let now = jiff::Timestamp::now();", "`Timestamp::now`");
        refused("src/plan/schedule.rs", "use std::{fmt, fs};", "`std::fs`");
        refused("src/plan/schedule.rs", "async fn f() { tokio::time::sleep(x) }", "`tokio`");
        refused("src/engine/pack.rs", "use kube::Client;", "`kube`");
        accepted("src/plan/schedule.rs", "mod tests { fn f() { std::fs::read(x) } }");
        accepted("src/plan/tests.rs", "use std::fs;");
    }

    #[test]
    fn the_rules_for_files_hold() {
        refused("src/spec/utils.rs", "", "`utils`");
        refused("src/runtime/common/mod.rs", "", "`common`");
        refused("src/spec/mod.rs", "mod helpers;", "`helpers`");
        refused("src/spec/mod.rs", "pub unsafe fn f() {}", "`unsafe`");
        refused("src/spec/mod.rs", &"\n".repeat(500), "501 lines");
        accepted("src/spec/mod.rs", &"\n".repeat(499));
        assert_eq!(check("src/spec/mod.rs", "use std::fmt;\n").len(), 1);
        assert!(check("src/spec/tests.rs", "use std::fmt;\n").is_empty());
    }
}
