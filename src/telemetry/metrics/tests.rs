use super::*;
use crate::telemetry::catalogue::CATALOGUE;

const BUILD: BuildInformation<'_> =
    BuildInformation { version: "0.1.0", commit: "abc123", duckdb: "1.5.6" };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn metrics() -> Metrics {
    Metrics::new(&BUILD, at(1_700_000_000)).unwrap()
}

fn backup(reason: Reason, completed_at: i64) -> BackupFinished<'static> {
    BackupFinished {
        namespace: "shop",
        target: "docker:shop",
        reason,
        verified: reason == Reason::Succeeded,
        duration: Duration::from_secs(42),
        completed_at: at(completed_at),
        archive_bytes: 1000,
        source_bytes: 4000,
        files: 7,
    }
}

fn schedule(next_run: Option<Timestamp>, missed_runs: u64) -> ScheduleFacts {
    ScheduleFacts {
        namespace: "shop".to_owned(),
        name: "nightly".to_owned(),
        next_run,
        overdue: false,
        missed_runs,
    }
}

fn store() -> StoreFacts {
    StoreFacts {
        namespace: "shop".to_owned(),
        name: "main".to_owned(),
        backups: 12,
        bytes: 12_000,
        free_bytes: Some(500_000),
        capacity_bytes: Some(1_000_000),
        minimum_free_bytes: 1024,
    }
}

/// One of everything.
fn busy() -> Metrics {
    let metrics = metrics();
    metrics.backup_finished(&backup(Reason::Succeeded, 1_700_000_100));
    metrics.restore_finished(Reason::ArchiveDamaged, Duration::from_secs(3));
    metrics.upgrade_finished(&UpgradeFinished {
        namespace: "shop",
        target: "docker:shop",
        reason: Reason::RolledBack,
        duration: Duration::from_secs(90),
        completed_at: at(1_700_000_200),
    });
    metrics.downtime(Operation::Upgrade, Duration::from_millis(2400));
    metrics.service_up("shop", "docker:shop", true);
    metrics.schedule(&schedule(Some(at(1_700_010_000)), 2));
    metrics.store(&store());
    metrics.operation_started(Kind::Backup, "shop", "before-release");
    metrics.operation_progress(Kind::Backup, "shop", "before-release", 25, 100);
    metrics.reconcile(Kind::Backup, Duration::from_millis(20), Some(Reason::StoreUnavailable));
    metrics
}

/// The value of the series that starts with `series`.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = metrics.render().unwrap();
    let line = text
        .lines()
        .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
}

#[test]
fn the_exposition_holds_exactly_the_catalogue() {
    let text = busy().render().unwrap();
    let mut exposed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let mut listed: Vec<_> =
        CATALOGUE.iter().map(|metric| (metric.name, metric.metric_type.as_str())).collect();
    exposed.sort_unstable();
    listed.sort_unstable();
    assert_eq!(exposed, listed);
}

#[test]
fn the_exposition_is_as_it_was() {
    let text = busy().render().unwrap();
    // What the process uses differs from run to run, and buckets are in the catalogue.
    let stable: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("process_") && !line.contains("_bucket{"))
        .collect();
    insta::assert_snapshot!(stable.join("\n"));
}

#[test]
fn promtool_finds_nothing_to_say() {
    let Some(output) = crate::telemetry::promtool::run(
        &["check", "metrics"],
        &busy().render().unwrap(),
        std::path::Path::new("."),
    ) else {
        return;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_failure_moves_the_attempt_but_not_the_success() {
    let metrics = metrics();
    metrics.backup_finished(&backup(Reason::ArchiveFailed, 1_700_000_050));
    let series = |name: &str| format!("{name}{{namespace=\"shop\",target=\"docker:shop\"}}");
    let success = series("eider_backup_last_success_timestamp_seconds");
    assert_eq!(value(&metrics, &success).as_deref(), Some("0"), "0 says never");
    assert_eq!(value(&metrics, &series("eider_backup_archive_bytes")), None);

    metrics.backup_finished(&backup(Reason::Succeeded, 1_700_000_100));
    metrics.backup_finished(&backup(Reason::ArchiveFailed, 1_700_000_200));
    assert_eq!(value(&metrics, &success).as_deref(), Some("1700000100"));
    assert_eq!(value(&metrics, &series("eider_backup_last_status")).as_deref(), Some("0"));
    let attempt = series("eider_backup_last_attempt_timestamp_seconds");
    assert_eq!(value(&metrics, &attempt).as_deref(), Some("1700000200"));
}

#[test]
fn a_step_of_hours_that_fails_is_an_error_and_no_slow_look() {
    let metrics = metrics();
    metrics.reconcile_failed(Kind::Backup, Reason::NotEnoughSpace);
    let errors = r#"eider_reconcile_errors_total{kind="Backup",reason="NotEnoughSpace"}"#;
    assert_eq!(value(&metrics, errors).as_deref(), Some("1"));
    assert_eq!(value(&metrics, r#"eider_reconcile_duration_seconds_count{kind="Backup"}"#), None);
}

#[test]
fn nothing_is_left_of_objects_that_are_gone() {
    let metrics = busy();
    metrics.operation_finished(Kind::Backup, "shop", "before-release");
    metrics.forget_target("shop", "docker:shop");
    metrics.forget_schedule("shop", "nightly");
    metrics.forget_store("shop", "main");
    let text = metrics.render().unwrap();
    assert!(!text.contains("namespace="), "{text}");
    assert_eq!(
        value(&metrics, "eider_operations_in_progress{kind=\"Backup\"}").as_deref(),
        Some("0")
    );
}

#[test]
fn gauges_come_back_after_a_restart_and_counters_of_operations_do_not() {
    let metrics = metrics();
    metrics.restore_from(&KeptFacts {
        targets: vec![TargetFacts {
            namespace: "shop".to_owned(),
            target: "docker:shop".to_owned(),
            last_success: Some(at(1_700_000_100)),
            last_verified: Some(at(1_700_000_100)),
            last_backup_attempt: Some(at(1_700_000_100)),
            last_backup_succeeded: true,
            archive_bytes: 1000,
            source_bytes: 4000,
            files: 7,
            last_upgrade: Some((at(1_700_000_200), Reason::RolledBack)),
            service_up: Some(true),
        }],
        schedules: vec![schedule(Some(at(1_700_010_000)), 2)],
        stores: vec![store()],
    });
    let objects = |metrics: &Metrics| -> Vec<String> {
        let text = metrics.render().unwrap();
        let wanted = |line: &&str| line.contains("namespace=") && !line.contains("progress");
        text.lines().filter(wanted).map(str::to_owned).collect()
    };
    assert_eq!(objects(&metrics), objects(&busy()));
    let succeeded = "eider_backups_total{reason=\"Succeeded\",result=\"success\"}";
    assert_eq!(value(&metrics, succeeded).as_deref(), Some("0"));
}

#[test]
fn missed_runs_follow_the_record_and_never_go_back() {
    let metrics = metrics();
    let series = "eider_schedule_missed_runs_total{name=\"nightly\",namespace=\"shop\"}";
    for (recorded, shown) in [(2, "2"), (5, "5"), (3, "5")] {
        metrics.schedule(&schedule(None, recorded));
        assert_eq!(value(&metrics, series).as_deref(), Some(shown));
    }
    let next = "eider_schedule_next_run_timestamp_seconds{name=\"nightly\",namespace=\"shop\"}";
    metrics.schedule(&schedule(Some(at(1_700_010_000)), 5));
    assert!(value(&metrics, next).is_some());
    metrics.schedule(&schedule(None, 5));
    assert_eq!(value(&metrics, next), None, "a suspended schedule has no next run");
}
