//! Every metric Eider exports: the one list from which the registry and the reference page are made.
//!
//! Pure data. Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` on
//! counters. No label is unbounded: names of run-once objects are labels only while they run, and
//! `target` is one value for each thing that is backed up.

use std::fmt::Write as _;

/// The kind of a time series, as in the `# TYPE` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only ever grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted in buckets.
    Histogram,
}

impl MetricType {
    /// As written in the exposition and on the reference page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Seconds since 1970-01-01 UTC; 0 means never.
    UnixTime,
    /// 1 or 0.
    Boolean,
    /// 0 to 1.
    Ratio,
    /// A number of things.
    Count,
}

impl Unit {
    /// As written on the reference page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::UnixTime => "seconds since 1970 (0: never)",
            Self::Boolean => "1 or 0",
            Self::Ratio => "0 to 1",
            Self::Count => "count",
        }
    }
}

/// One metric family.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name, with prefix and unit.
    pub name: &'static str,
    /// Its type.
    pub metric_type: MetricType,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What a value counts.
    pub unit: Unit,
    /// One sentence for people.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets, in the unit; empty for the other types.
    pub buckets: &'static [f64],
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    unit: Unit,
    help: &'static str,
) -> Metric {
    Metric { name, metric_type: MetricType::Counter, labels, unit, help, buckets: &[] }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    unit: Unit,
    help: &'static str,
) -> Metric {
    Metric { name, metric_type: MetricType::Gauge, labels, unit, help, buckets: &[] }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric { name, metric_type: MetricType::Histogram, labels, unit: Unit::Seconds, help, buckets }
}

/// From a second to eight hours: what archives of a few megabytes to a few terabytes take.
const OPERATION_BUCKETS: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0];
/// Downtime is what people feel: finer below a minute.
const DOWNTIME_BUCKETS: &[f64] =
    &[0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// One turn of the loop, without the operation it may start.
const RECONCILE_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const TARGET: &[&str] = &["namespace", "target"];
const OBJECT: &[&str] = &["namespace", "name"];
const OUTCOME: &[&str] = &["result", "reason"];
const RESULT: &[&str] = &["result"];

macro_rules! catalogue {
    ($($constant:ident = $metric:expr;)+) => {
        $(
            #[doc = "One entry of [`CATALOGUE`]; its help text says what it means."]
            pub const $constant: Metric = $metric;
        )+

        /// Every metric, in the order of the reference page.
        pub const CATALOGUE: &[Metric] = &[$($constant,)+];
    };
}

catalogue! {
    BACKUP_LAST_SUCCESS = gauge("eider_backup_last_success_timestamp_seconds", TARGET, Unit::UnixTime,
        "When the newest successful backup of the target completed.");
    BACKUP_LAST_VERIFIED = gauge("eider_backup_last_verified_timestamp_seconds", TARGET, Unit::UnixTime,
        "When a backup of the target was last read back and found whole.");
    BACKUP_LAST_ATTEMPT = gauge("eider_backup_last_attempt_timestamp_seconds", TARGET, Unit::UnixTime,
        "When the newest backup of the target ended, whatever came of it.");
    BACKUP_LAST_STATUS = gauge("eider_backup_last_status", TARGET, Unit::Boolean,
        "Whether the newest backup of the target succeeded.");
    BACKUP_ARCHIVE_BYTES = gauge("eider_backup_archive_bytes", TARGET, Unit::Bytes,
        "Size of the archive of the newest successful backup of the target.");
    BACKUP_SOURCE_BYTES = gauge("eider_backup_source_bytes", TARGET, Unit::Bytes,
        "Bytes read from the target by its newest successful backup.");
    BACKUP_FILES = gauge("eider_backup_files", TARGET, Unit::Count,
        "Files in the newest successful backup of the target.");
    BACKUPS = counter("eider_backups_total", OUTCOME, Unit::Count,
        "Backups that ended, by result and reason.");
    BACKUP_DURATION = histogram("eider_backup_duration_seconds", RESULT, OPERATION_BUCKETS,
        "How long backups took from start to end, verification included.");
    RESTORES = counter("eider_restores_total", OUTCOME, Unit::Count,
        "Restores that ended, by result and reason.");
    RESTORE_DURATION = histogram("eider_restore_duration_seconds", RESULT, OPERATION_BUCKETS,
        "How long restores took from start to end.");
    UPGRADES = counter("eider_upgrades_total", OUTCOME, Unit::Count,
        "Upgrades that ended, by result and reason; a rolled back one is a failure.");
    UPGRADE_DURATION = histogram("eider_upgrade_duration_seconds", RESULT, OPERATION_BUCKETS,
        "How long upgrades took from start to end, soak and rollback included.");
    UPGRADE_LAST_ATTEMPT = gauge("eider_upgrade_last_attempt_timestamp_seconds", TARGET, Unit::UnixTime,
        "When the newest upgrade of the target ended, whatever came of it.");
    UPGRADE_LAST_STATUS = gauge("eider_upgrade_last_status", TARGET, Unit::Boolean,
        "Whether the newest upgrade of the target succeeded.");
    UPGRADE_LAST_ROLLED_BACK = gauge("eider_upgrade_last_rolled_back", TARGET, Unit::Boolean,
        "Whether the newest upgrade of the target was rolled back.");
    SERVICE_UP = gauge("eider_service_up", TARGET, Unit::Boolean,
        "Whether the service of the target runs: on a Docker host as it was last seen, elsewhere as the newest operation left it.");
    SERVICE_DOWNTIME = histogram("eider_service_downtime_seconds", &["operation"], DOWNTIME_BUCKETS,
        "How long operations kept services stopped or paused.");
    SCHEDULE_NEXT_RUN = gauge("eider_schedule_next_run_timestamp_seconds", OBJECT, Unit::UnixTime,
        "When the schedule runs next; absent while it is suspended.");
    SCHEDULE_OVERDUE = gauge("eider_schedule_overdue", OBJECT, Unit::Boolean,
        "Whether the last success of the schedule is longer ago than it allows.");
    SCHEDULE_MISSED_RUNS = counter("eider_schedule_missed_runs_total", OBJECT, Unit::Count,
        "Runs of the schedule skipped because they were late by more than the starting deadline.");
    STORE_BYTES = gauge("eider_store_bytes", OBJECT, Unit::Bytes,
        "Bytes that backups take in the store.");
    STORE_FREE_BYTES = gauge("eider_store_free_bytes", OBJECT, Unit::Bytes,
        "Bytes free for Eider on the file system of the store.");
    STORE_CAPACITY_BYTES = gauge("eider_store_capacity_bytes", OBJECT, Unit::Bytes,
        "Size of the file system of the store; absent where there is no such limit.");
    STORE_MINIMUM_FREE_BYTES = gauge("eider_store_minimum_free_bytes", OBJECT, Unit::Bytes,
        "Free bytes below which the store takes no further backup.");
    STORE_BACKUPS = gauge("eider_store_backups", OBJECT, Unit::Count,
        "Backups kept in the store.");
    OPERATIONS_IN_PROGRESS = gauge("eider_operations_in_progress", &["kind"], Unit::Count,
        "Operations that run now.");
    OPERATION_PROGRESS = gauge("eider_operation_progress_ratio", &["kind", "namespace", "name"], Unit::Ratio,
        "Share of the bytes of a running operation that is done; gone when the operation ends.");
    RECONCILE_DURATION = histogram("eider_reconcile_duration_seconds", &["kind"], RECONCILE_BUCKETS,
        "How long one turn of the loop took for one object.");
    RECONCILE_ERRORS = counter("eider_reconcile_errors_total", &["kind", "reason"], Unit::Count,
        "Turns of the loop that ended in an error and will be tried again.");
    SPECS_INVALID = gauge("eider_specs_invalid", &[], Unit::Count,
        "Documents in the daemon's directory that are not valid and therefore not carried out.");
    BUILD_INFO = gauge("eider_build_info", &["version", "commit", "duckdb"], Unit::Boolean,
        "Always 1; its labels say what is running.");
    PROCESS_RESIDENT_MEMORY = gauge("process_resident_memory_bytes", &[], Unit::Bytes,
        "Resident memory of this process.");
    PROCESS_CPU = counter("process_cpu_seconds_total", &[], Unit::Seconds,
        "User and system CPU time spent by this process.");
    PROCESS_START_TIME = gauge("process_start_time_seconds", &[], Unit::UnixTime,
        "When this process started.");
    PROCESS_OPEN_FDS = gauge("process_open_fds", &[], Unit::Count,
        "File descriptors this process has open.");
    PROCESS_MAX_FDS = gauge("process_max_fds", &[], Unit::Count,
        "File descriptors this process may have open.");
}

/// The page `docs/reference/metrics.md`, complete.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Generated from src/telemetry/catalogue.rs by `eider generate docs`. Do not edit. -->\n\n\
         Served on `/metrics` in the Prometheus text format. Every label has a closed set of values \
         or one value for each object:\n\n\
         - `namespace`, `name`: of the BackupSchedule or BackupStore, or of an operation while it runs.\n\
         - `target`: what is backed up, as `eider backup list` shows it.\n\
         - `kind`: `Backup`, `Restore`, `Upgrade`, `BackupSchedule` or `BackupStore`.\n\
         - `operation`: `backup`, `restore` or `upgrade`.\n\
         - `result`: `success` or `failure`.\n\
         - `reason`: one of the reasons that conditions carry.\n\n\
         Series of an object go when the object goes. After a restart the gauges come back from the \
         catalog; counters and histograms start at zero, as Prometheus expects.\n\n\
         | metric | type | labels | unit | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for metric in CATALOGUE {
        let labels =
            metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.metric_type.as_str(),
            labels,
            metric.unit.as_str(),
            metric.help
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_unit_and_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in CATALOGUE {
            assert!(seen.insert(metric.name), "{} is listed twice", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let is_counter = metric.metric_type == MetricType::Counter;
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            let base = metric.name.trim_end_matches("_total");
            match metric.unit {
                Unit::Bytes => assert!(base.ends_with("_bytes"), "{base}"),
                Unit::Seconds | Unit::UnixTime => assert!(base.ends_with("_seconds"), "{base}"),
                Unit::Ratio => assert!(base.ends_with("_ratio"), "{base}"),
                Unit::Boolean | Unit::Count => {}
            }
            let is_histogram = metric.metric_type == MetricType::Histogram;
            assert_eq!(!metric.buckets.is_empty(), is_histogram, "{}", metric.name);
            assert!(metric.buckets.is_sorted());
        }
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
        if std::env::var_os("EIDER_UPDATE_GENERATED").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == reference_page(),
            "docs/reference/metrics.md is out of date: run `eider generate docs`"
        );
    }
}
