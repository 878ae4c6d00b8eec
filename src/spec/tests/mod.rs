//! Documents, good and bad, and what is said about them.

use proptest::prelude::*;

use super::*;

const CASES: &str = include_str!("documents.txt");

/// Name, document and expected problems of every case.
fn cases() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let mut cases: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for line in CASES.lines() {
        if let Some(name) = line.strip_prefix("#### ") {
            cases.push((name, String::new(), Vec::new()));
        } else if let Some((_, text, expected)) = cases.last_mut() {
            if let Some(problem) = line.strip_prefix("#> ") {
                expected.push(problem);
            } else if let Some(header) = line.strip_prefix('%') {
                let (kind, name) = header.split_once(' ').unwrap();
                let lines = [
                    "apiVersion: eider.dev/v1alpha1",
                    &format!("kind: {kind}"),
                    &format!("metadata: {{name: {name}}}"),
                    "spec:\n",
                ];
                text.push_str(&lines.join("\n"));
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    cases
}

fn problems(text: &str) -> Vec<String> {
    match load(text, "") {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_document_is_judged_as_the_table_says() {
    let mut wrong = Vec::new();
    for (name, text, expected) in cases() {
        let found = problems(&text);
        let same = found.len() == expected.len()
            && expected.iter().zip(&found).all(|(expected, found)| found.contains(expected));
        if !same {
            wrong.push(format!("#### {name}"));
            wrong.extend(found.iter().map(|problem| format!("#> {problem}")));
        }
    }
    assert!(wrong.is_empty(), "judged otherwise than the table says:\n{}", wrong.join("\n"));
    assert!(cases().len() >= 70);
}

/// The messages of all CEL rules in a schema.
fn rule_messages(node: &serde_json::Value, messages: &mut Vec<String>) {
    for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
        messages.push(rule["message"].as_str().unwrap().to_owned());
    }
    match node {
        serde_json::Value::Object(members) => {
            for member in members.values() {
                rule_messages(member, messages);
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                rule_messages(item, messages);
            }
        }
        _ => {}
    }
}

#[test]
fn every_rule_is_broken_by_some_document_and_none_fails_to_run() {
    let told: Vec<&str> = cases().into_iter().flat_map(|(_, _, expected)| expected).collect();
    for kind in Kind::ALL {
        let mut messages = Vec::new();
        rule_messages(&crd::schema(*kind).unwrap(), &mut messages);
        assert!(messages.len() > 3, "{kind}");
        for message in messages.iter().filter(|message| !message.contains("immutable")) {
            assert!(told.iter().any(|told| told.contains(message)), "{kind}: {message}");
        }
    }
    assert!(told.iter().all(|told| !told.contains(schema::UNDECIDED)));
}

#[test]
fn many_problems_are_told_at_once_and_in_order() {
    let text = "\
apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {name: Before, labels: {tier: 1}}
spec:
  target:
    hots: {paths: [/srv]}
  storeRef: {name: main}
  verify: full
  consistency: {mode: Stop, timeout: 60}
  guards: {maxShrink: 150}
---
apiVersion: eider.dev/v1
kind: Restore
---
apiVersion: eider.dev/v1alpha1
kind: BackupSchedule
metadata: {name: nightly}
spec:
  schedule: '61 2 * * *'
  schedule: '0 2 * * *'
  template: {spec: {target: {host: {paths: [/]}}, storeRef: {name: main}, parentRef: {name: a}}}
---
kind: [
";
    let problems = load(text, "shop.yaml").unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn documents_survive_printing_and_reading() {
    for (name, text, expected) in cases() {
        if !expected.is_empty() {
            continue;
        }
        for document in load(&text, "a.yaml").unwrap() {
            for printed in [to_yaml(&document.value).unwrap(), to_json(&document.value).unwrap()] {
                let again = load(&printed, "b.yaml").unwrap_or_else(|problems| {
                    panic!("{name}: {}\n{printed}", problems[0]);
                });
                assert_eq!(again.len(), 1, "{name}");
                assert_eq!(again[0].value.spec_value(), document.value.spec_value(), "{name}");
                assert_eq!(again[0].value.metadata(), document.value.metadata(), "{name}");
            }
        }
    }
}

/// The only document of a text that is right.
fn only(text: &str) -> Document {
    let mut documents = load(text, "a.yaml").unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0).value
}

const BACKUP: &str = "\
apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {name: a, annotations: {eider.dev/reconcile-at: first}}
spec: {target: {host: {paths: [/srv]}}, storeRef: {name: main}}
";
const SCHEDULE: &str = "\
apiVersion: eider.dev/v1alpha1
kind: BackupSchedule
metadata: {name: a}
spec: {schedule: '@daily', template: {spec: {target: {host: {paths: [/srv]}}, storeRef: {name: main}}}}
";

#[test]
fn documents_know_who_and_where_they_are() {
    let text = format!("# first\n---\n{BACKUP}");
    let documents = load(&text, "shop.yaml").unwrap();
    assert_eq!((documents[0].line, documents[0].column), (3, 1));
    let document = &documents[0].value;
    assert_eq!(document.key().to_string(), "Backup default/a");
    assert_eq!(document.reconcile_at(), Some("first"));
    assert_eq!(document.generate_name(), None);
    assert_eq!(document.spec_value()["storeRef"]["name"], "main");
}

#[test]
fn run_once_kinds_cannot_change_and_the_others_can() {
    let backup = only(BACKUP);
    let annotated = only(&BACKUP.replace("first", "second"));
    assert_eq!(validate_update(&backup, &annotated), Ok(()));
    let spelt_out = only(&BACKUP.replace("main}", "main}, verify: Full, type: Full"));
    assert_eq!(validate_update(&backup, &spelt_out), Ok(()));
    let changed = only(&BACKUP.replace("/srv", "/var/lib/shop"));
    let problems = validate_update(&backup, &changed).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].to_string(), "spec: a Backup is immutable; create a new one");

    let schedule = only(SCHEDULE);
    let changed = only(&SCHEDULE.replace("/srv", "/var/lib/shop"));
    assert_eq!(validate_update(&schedule, &changed), Ok(()));
    assert!(validate_update(&schedule, &backup).is_err());
}

#[test]
fn a_file_may_hold_what_it_likes_as_long_as_it_is_small() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("a: [{}]", "1,".repeat(400_000));
    let long = "a".repeat(9 << 20);
    let many = "---\na: 1\n".repeat(20_000);
    for text in [deep, wide, long, many] {
        assert!(load(&text, "a.yaml").is_err());
    }
}

#[test]
fn byte_order_mark_and_line_ends_do_not_shift_positions() {
    let text = "\u{feff}apiVersion: eider.dev/v1alpha1\r\nkind: Backupp\r\n";
    assert_eq!(load(text, "").unwrap_err()[0].line, 2);
    assert_eq!(load(text, "").unwrap_err()[0].column, 7);
    assert!(load("", "a.yaml").unwrap().is_empty());
}

proptest! {
    #[test]
    fn nothing_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = load(&String::from_utf8_lossy(&bytes), "a.yaml");
    }

    #[test]
    fn no_fragment_makes_the_reader_panic(
        words in proptest::collection::vec(
            prop::sample::select(vec![
                "apiVersion: eider.dev/v1alpha1\n", "kind: Backup\n", "kind: BackupSchedule\n", "spec:\n",
                "metadata: {name: a}\n", "  target: ", "{host: {paths: [/a]}}", "\n", "  ", "- ", "---\n",
                "*a", "&a ", "<<: ", "{", "}", "[", "]", "null", "1e999", "-0", "\"", "'", "!!int ", "|\n",
                "storeRef: {name: b}", ": ", "? ", "\u{feff}", "\t", "%YAML 1.2\n", "schedule: '@daily'\n",
            ]),
            0..40,
        ),
    ) {
        let _ = load(&words.concat(), "a.yaml");
    }

    #[test]
    fn positions_lie_in_the_text(text in "(a: [0-9a-z]{0,5}\n|- b\n|kind: Backup\n|---\n|\\{x: y\\}\n){0,8}") {
        if let Err(problems) = load(&text, "a.yaml") {
            let lines = text.lines().count().max(1);
            for problem in problems {
                prop_assert!(problem.line >= 1 && problem.line as usize <= lines + 1);
                prop_assert!(problem.column >= 1);
            }
        }
    }
}
