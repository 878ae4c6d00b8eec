//! Holds `deploy/monitoring/` and `docs/runbooks/` to the catalogue of metrics.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::catalogue::{CATALOGUE, MetricType};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path: PathBuf = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every series name that Prometheus can know from the catalogue.
fn known_series() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for metric in CATALOGUE {
        if metric.metric_type == MetricType::Histogram {
            known.extend(["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", metric.name)));
        } else {
            known.insert(metric.name.to_owned());
        }
    }
    known
}

/// Every word of `text` that starts as a metric of Eider does.
fn named_series(text: &str) -> BTreeSet<String> {
    text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
        .filter(|word| word.starts_with("eider_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let known = known_series();
    for path in ["deploy/monitoring/rules.yaml", "deploy/monitoring/grafana/eider.json"] {
        let named = named_series(&read(path));
        assert!(!named.is_empty(), "{path} names no metric");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_runbook_a_test_that_fires_and_one_that_does_not() {
    let rules = read("deploy/monitoring/rules.yaml");
    let tests = read("deploy/monitoring/rules_test.yaml");
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(alerts.len(), 8, "{alerts:?}");
    for alert in alerts {
        assert!(alert.starts_with("Eider"), "{alert}");
        let runbook = format!("docs/runbooks/{alert}.md");
        assert!(rules.contains(&format!("runbook_url: {runbook}\n")), "{alert} names no runbook");
        let page = read(&runbook);
        for heading in ["## Meaning", "## Impact", "## Diagnosis", "## Fix"] {
            assert!(page.contains(heading), "{runbook} has no {heading}");
        }
        let cases: Vec<_> = tests.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let quiet = |case: &&str| case.trim_start().starts_with("exp_alerts: []");
        assert!(cases.iter().any(quiet), "no test in which {alert} stays quiet");
        assert!(cases.iter().any(|case| !quiet(case)), "no test in which {alert} fires");
    }
}

#[test]
fn the_dashboard_is_json_with_a_chosen_data_source() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/monitoring/grafana/eider.json")).unwrap();
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

#[test]
fn promtool_passes_the_alert_rules() {
    let directory = root().join("deploy/monitoring");
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let Some(output) = super::promtool::run(&arguments, "", &directory) else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {}: {text}", arguments.join(" "));
    }
}
