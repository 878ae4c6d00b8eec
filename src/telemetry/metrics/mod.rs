//! The typed registry: the only way in which a value reaches `/metrics`.
//!
//! It owns its registry (nothing is global) and is made from [`catalogue`](super::catalogue).
//! Callers give facts, not series; label values come from closed enums or from object names.

mod facts;
mod process;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::catalogue::{self as list, Metric};
use crate::spec::{Kind, Reason};
pub use facts::{
    BackupFinished, BuildInformation, KeptFacts, Operation, Result as OperationResult,
    ScheduleFacts, StoreFacts, TargetFacts, UpgradeFinished,
};

/// Why the registry could not be made or rendered.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A definition was refused; a mistake in the catalogue of metrics.
    #[error("metric {name} cannot be registered: {source}")]
    Register {
        /// The metric.
        name: &'static str,
        /// What the library says.
        source: prometheus::Error,
    },
    /// The text could not be written.
    #[error("metrics cannot be rendered: {0}")]
    Render(prometheus::Error),
}

/// All metrics of one process. Cheap to share behind an `Arc`; every method takes `&self`.
pub struct Metrics {
    registry: Registry,
    backup_last_success: IntGaugeVec,
    backup_last_verified: IntGaugeVec,
    backup_last_attempt: IntGaugeVec,
    backup_last_status: IntGaugeVec,
    backup_archive_bytes: IntGaugeVec,
    backup_source_bytes: IntGaugeVec,
    backup_files: IntGaugeVec,
    backups: IntCounterVec,
    backup_duration: HistogramVec,
    restores: IntCounterVec,
    restore_duration: HistogramVec,
    upgrades: IntCounterVec,
    upgrade_duration: HistogramVec,
    upgrade_last_attempt: IntGaugeVec,
    upgrade_last_status: IntGaugeVec,
    upgrade_last_rolled_back: IntGaugeVec,
    service_up: IntGaugeVec,
    service_downtime: HistogramVec,
    schedule_next_run: IntGaugeVec,
    schedule_overdue: IntGaugeVec,
    schedule_missed_runs: IntCounterVec,
    store_bytes: IntGaugeVec,
    store_free_bytes: IntGaugeVec,
    store_capacity_bytes: IntGaugeVec,
    store_minimum_free_bytes: IntGaugeVec,
    store_backups: IntGaugeVec,
    operations_in_progress: IntGaugeVec,
    operation_progress: GaugeVec,
    reconcile_duration: HistogramVec,
    reconcile_errors: IntCounterVec,
    specs_invalid: IntGaugeVec,
}

impl Metrics {
    /// A registry with every metric of the catalogue. `started` is when the process started.
    pub fn new(build: &BuildInformation<'_>, started: Timestamp) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let build_info = gauge(&registry, &list::BUILD_INFO)?;
        set(&build_info, &[build.version, build.commit, build.duckdb], 1);
        process::register(&registry, started)?;
        let metrics = Self {
            backup_last_success: gauge(&registry, &list::BACKUP_LAST_SUCCESS)?,
            backup_last_verified: gauge(&registry, &list::BACKUP_LAST_VERIFIED)?,
            backup_last_attempt: gauge(&registry, &list::BACKUP_LAST_ATTEMPT)?,
            backup_last_status: gauge(&registry, &list::BACKUP_LAST_STATUS)?,
            backup_archive_bytes: gauge(&registry, &list::BACKUP_ARCHIVE_BYTES)?,
            backup_source_bytes: gauge(&registry, &list::BACKUP_SOURCE_BYTES)?,
            backup_files: gauge(&registry, &list::BACKUP_FILES)?,
            backups: counter(&registry, &list::BACKUPS)?,
            backup_duration: histogram(&registry, &list::BACKUP_DURATION)?,
            restores: counter(&registry, &list::RESTORES)?,
            restore_duration: histogram(&registry, &list::RESTORE_DURATION)?,
            upgrades: counter(&registry, &list::UPGRADES)?,
            upgrade_duration: histogram(&registry, &list::UPGRADE_DURATION)?,
            upgrade_last_attempt: gauge(&registry, &list::UPGRADE_LAST_ATTEMPT)?,
            upgrade_last_status: gauge(&registry, &list::UPGRADE_LAST_STATUS)?,
            upgrade_last_rolled_back: gauge(&registry, &list::UPGRADE_LAST_ROLLED_BACK)?,
            service_up: gauge(&registry, &list::SERVICE_UP)?,
            service_downtime: histogram(&registry, &list::SERVICE_DOWNTIME)?,
            schedule_next_run: gauge(&registry, &list::SCHEDULE_NEXT_RUN)?,
            schedule_overdue: gauge(&registry, &list::SCHEDULE_OVERDUE)?,
            schedule_missed_runs: counter(&registry, &list::SCHEDULE_MISSED_RUNS)?,
            store_bytes: gauge(&registry, &list::STORE_BYTES)?,
            store_free_bytes: gauge(&registry, &list::STORE_FREE_BYTES)?,
            store_capacity_bytes: gauge(&registry, &list::STORE_CAPACITY_BYTES)?,
            store_minimum_free_bytes: gauge(&registry, &list::STORE_MINIMUM_FREE_BYTES)?,
            store_backups: gauge(&registry, &list::STORE_BACKUPS)?,
            operations_in_progress: gauge(&registry, &list::OPERATIONS_IN_PROGRESS)?,
            operation_progress: {
                let metric = &list::OPERATION_PROGRESS;
                register(&registry, metric, GaugeVec::new(options(metric), metric.labels))?
            },
            reconcile_duration: histogram(&registry, &list::RECONCILE_DURATION)?,
            reconcile_errors: counter(&registry, &list::RECONCILE_ERRORS)?,
            specs_invalid: gauge(&registry, &list::SPECS_INVALID)?,
            registry,
        };
        // A counter that appears with its first event already counted hides that event from
        // `increase()`; so the outcomes that matter start at zero.
        for family in [&metrics.backups, &metrics.restores, &metrics.upgrades] {
            let _ = family.get_metric_with_label_values(&["success", "Succeeded"]);
        }
        let _ = metrics.upgrades.get_metric_with_label_values(&["failure", "RolledBack"]);
        metrics.invalid_documents(0);
        for kind in [Kind::Backup, Kind::Restore, Kind::Upgrade] {
            set(&metrics.operations_in_progress, &[kind.as_str()], 0);
        }
        Ok(metrics)
    }

    /// A Backup has ended.
    pub fn backup_finished(&self, backup: &BackupFinished<'_>) {
        let result = OperationResult::of(backup.reason);
        count(&self.backups, &[result.as_str(), backup.reason.as_str()], 1);
        observe(&self.backup_duration, &[result.as_str()], backup.duration);
        let labels = [backup.namespace, backup.target];
        // 0 says "never": the series exist from the first attempt on, so that alerts can compare.
        raise(&self.backup_last_success, &labels, None);
        raise(&self.backup_last_verified, &labels, None);
        raise(&self.backup_last_attempt, &labels, Some(backup.completed_at));
        set(&self.backup_last_status, &labels, i64::from(result == OperationResult::Success));
        if result == OperationResult::Success {
            raise(&self.backup_last_success, &labels, Some(backup.completed_at));
            self.set_sizes(&labels, backup.archive_bytes, backup.source_bytes, backup.files);
        }
        if backup.verified {
            raise(&self.backup_last_verified, &labels, Some(backup.completed_at));
        }
    }

    /// An archive of the target was read back, outside of its Backup, and found whole.
    pub fn backup_verified(&self, namespace: &str, target: &str, at: Timestamp) {
        raise(&self.backup_last_verified, &[namespace, target], Some(at));
    }

    /// A Restore has ended for `reason` ([`Reason::Succeeded`] on success) after `duration`.
    pub fn restore_finished(&self, reason: Reason, duration: Duration) {
        let result = OperationResult::of(reason);
        count(&self.restores, &[result.as_str(), reason.as_str()], 1);
        observe(&self.restore_duration, &[result.as_str()], duration);
    }

    /// An Upgrade has ended.
    pub fn upgrade_finished(&self, upgrade: &UpgradeFinished<'_>) {
        let result = OperationResult::of(upgrade.reason);
        count(&self.upgrades, &[result.as_str(), upgrade.reason.as_str()], 1);
        observe(&self.upgrade_duration, &[result.as_str()], upgrade.duration);
        self.set_upgrade(upgrade.namespace, upgrade.target, upgrade.completed_at, upgrade.reason);
    }

    /// An operation kept a service stopped or paused for `downtime`.
    pub fn downtime(&self, operation: Operation, downtime: Duration) {
        observe(&self.service_downtime, &[operation.as_str()], downtime);
    }

    /// Whether the service of a target runs, as an operation left it or as it was seen.
    pub fn service_up(&self, namespace: &str, target: &str, up: bool) {
        set(&self.service_up, &[namespace, target], i64::from(up));
    }

    /// How a BackupSchedule stands now.
    pub fn schedule(&self, schedule: &ScheduleFacts) {
        let labels = [schedule.namespace.as_str(), schedule.name.as_str()];
        match schedule.next_run {
            Some(at) => set(&self.schedule_next_run, &labels, at.as_second()),
            None => forget(&self.schedule_next_run, &labels),
        }
        set(&self.schedule_overdue, &labels, i64::from(schedule.overdue));
        if let Ok(counter) = self.schedule_missed_runs.get_metric_with_label_values(&labels) {
            // The record is a total; the counter follows it upwards and never goes back.
            counter.inc_by(schedule.missed_runs.saturating_sub(counter.get()));
        }
    }

    /// How a BackupStore stands now.
    pub fn store(&self, store: &StoreFacts) {
        let labels = [store.namespace.as_str(), store.name.as_str()];
        set(&self.store_bytes, &labels, signed(store.bytes));
        set(&self.store_backups, &labels, signed(store.backups));
        set(&self.store_minimum_free_bytes, &labels, signed(store.minimum_free_bytes));
        for (family, value) in [
            (&self.store_free_bytes, store.free_bytes),
            (&self.store_capacity_bytes, store.capacity_bytes),
        ] {
            match value {
                Some(value) => set(family, &labels, signed(value)),
                None => forget(family, &labels),
            }
        }
    }

    /// An operation has started (or was taken up again after a restart).
    pub fn operation_started(&self, kind: Kind, namespace: &str, name: &str) {
        if let Ok(gauge) =
            self.operations_in_progress.get_metric_with_label_values(&[kind.as_str()])
        {
            gauge.inc();
        }
        self.operation_progress(kind, namespace, name, 0, 0);
    }

    /// `done` of `total` bytes of a running operation are done; an unknown total (0) counts as 0.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
    pub fn operation_progress(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        done: u64,
        total: u64,
    ) {
        let ratio = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
        let labels = [kind.as_str(), namespace, name];
        if let Ok(gauge) = self.operation_progress.get_metric_with_label_values(&labels) {
            gauge.set(ratio);
        }
    }

    /// The operation has ended; once for each [`Metrics::operation_started`].
    pub fn operation_finished(&self, kind: Kind, namespace: &str, name: &str) {
        if let Ok(gauge) =
            self.operations_in_progress.get_metric_with_label_values(&[kind.as_str()])
        {
            gauge.dec();
        }
        let _ = self.operation_progress.remove_label_values(&[kind.as_str(), namespace, name]);
    }

    /// One turn of the loop for one object; `error` if it will be tried again because of one.
    pub fn reconcile(&self, kind: Kind, duration: Duration, error: Option<Reason>) {
        observe(&self.reconcile_duration, &[kind.as_str()], duration);
        if let Some(reason) = error {
            self.reconcile_failed(kind, reason);
        }
    }

    /// An error that is no turn's own: of a step, which takes as long as its work, or of a document.
    pub fn reconcile_failed(&self, kind: Kind, reason: Reason) {
        count(&self.reconcile_errors, &[kind.as_str(), reason.as_str()], 1);
    }

    /// The daemon's directory holds this many documents that are not valid.
    pub fn invalid_documents(&self, count: u64) {
        set(&self.specs_invalid, &[], signed(count));
    }

    /// Fills the gauges from what the catalog remembers, after a restart. Counters stay at zero.
    pub fn restore_from(&self, kept: &KeptFacts) {
        for target in &kept.targets {
            self.target(target);
        }
        for schedule in &kept.schedules {
            self.schedule(schedule);
        }
        for store in &kept.stores {
            self.store(store);
        }
    }

    /// Sets every gauge of one target from what the catalog remembers of it.
    pub fn target(&self, target: &TargetFacts) {
        let labels = [target.namespace.as_str(), target.target.as_str()];
        if target.last_backup_attempt.is_some() {
            raise(&self.backup_last_success, &labels, target.last_success);
            raise(&self.backup_last_verified, &labels, target.last_verified);
            raise(&self.backup_last_attempt, &labels, target.last_backup_attempt);
            set(&self.backup_last_status, &labels, i64::from(target.last_backup_succeeded));
        }
        if target.last_success.is_some() {
            self.set_sizes(&labels, target.archive_bytes, target.source_bytes, target.files);
        }
        if let Some((at, reason)) = target.last_upgrade {
            self.set_upgrade(&target.namespace, &target.target, at, reason);
        }
        if let Some(up) = target.service_up {
            self.service_up(&target.namespace, &target.target, up);
        }
    }

    /// The last record of a target is gone: so are its series.
    pub fn forget_target(&self, namespace: &str, target: &str) {
        for family in [
            &self.backup_last_success,
            &self.backup_last_verified,
            &self.backup_last_attempt,
            &self.backup_last_status,
            &self.backup_archive_bytes,
            &self.backup_source_bytes,
            &self.backup_files,
            &self.upgrade_last_attempt,
            &self.upgrade_last_status,
            &self.upgrade_last_rolled_back,
            &self.service_up,
        ] {
            forget(family, &[namespace, target]);
        }
    }

    /// A BackupSchedule is gone: so are its series.
    pub fn forget_schedule(&self, namespace: &str, name: &str) {
        forget(&self.schedule_next_run, &[namespace, name]);
        forget(&self.schedule_overdue, &[namespace, name]);
        let _ = self.schedule_missed_runs.remove_label_values(&[namespace, name]);
    }

    /// A BackupStore is gone: so are its series.
    pub fn forget_store(&self, namespace: &str, name: &str) {
        for family in [
            &self.store_bytes,
            &self.store_free_bytes,
            &self.store_capacity_bytes,
            &self.store_minimum_free_bytes,
            &self.store_backups,
        ] {
            forget(family, &[namespace, name]);
        }
    }

    /// The Prometheus text format, version 0.0.4, families sorted by name.
    pub fn render(&self) -> Result<String, MetricsError> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(MetricsError::Render)
    }

    fn set_sizes(&self, labels: &[&str], archive: u64, source: u64, files: u64) {
        set(&self.backup_archive_bytes, labels, signed(archive));
        set(&self.backup_source_bytes, labels, signed(source));
        set(&self.backup_files, labels, signed(files));
    }

    fn set_upgrade(&self, namespace: &str, target: &str, at: Timestamp, reason: Reason) {
        let labels = [namespace, target];
        let success = OperationResult::of(reason) == OperationResult::Success;
        raise(&self.upgrade_last_attempt, &labels, Some(at));
        set(&self.upgrade_last_status, &labels, i64::from(success));
        set(&self.upgrade_last_rolled_back, &labels, i64::from(reason == Reason::RolledBack));
    }
}

fn options(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: &Metric,
    made: prometheus::Result<C>,
) -> Result<C, MetricsError> {
    let refuse = |source| MetricsError::Register { name: metric.name, source };
    let collector = made.map_err(refuse)?;
    registry.register(Box::new(collector.clone())).map_err(refuse)?;
    Ok(collector)
}

fn gauge(registry: &Registry, metric: &Metric) -> Result<IntGaugeVec, MetricsError> {
    register(registry, metric, IntGaugeVec::new(options(metric), metric.labels))
}

fn counter(registry: &Registry, metric: &Metric) -> Result<IntCounterVec, MetricsError> {
    register(registry, metric, IntCounterVec::new(options(metric), metric.labels))
}

fn histogram(registry: &Registry, metric: &Metric) -> Result<HistogramVec, MetricsError> {
    let options = HistogramOpts::from(options(metric)).buckets(metric.buckets.to_vec());
    register(registry, metric, HistogramVec::new(options, metric.labels))
}

// The `get_…` calls below fail only when the number of labels is wrong, which the snapshot test of
// the whole exposition would show; a metric must never bring an operation down.

fn set(family: &IntGaugeVec, labels: &[&str], value: i64) {
    if let Ok(gauge) = family.get_metric_with_label_values(labels) {
        gauge.set(value);
    }
}

/// Moves a "newest" time stamp forward, never back: operations may end out of order.
fn raise(family: &IntGaugeVec, labels: &[&str], at: Option<Timestamp>) {
    if let Ok(gauge) = family.get_metric_with_label_values(labels) {
        gauge.set(gauge.get().max(at.map_or(0, Timestamp::as_second)));
    }
}

fn forget(family: &IntGaugeVec, labels: &[&str]) {
    // An error means that there was no such series, which is what is wanted.
    let _ = family.remove_label_values(labels);
}

fn count(family: &IntCounterVec, labels: &[&str], by: u64) {
    if let Ok(counter) = family.get_metric_with_label_values(labels) {
        counter.inc_by(by);
    }
}

fn observe(family: &HistogramVec, labels: &[&str], duration: Duration) {
    if let Ok(histogram) = family.get_metric_with_label_values(labels) {
        histogram.observe(duration.as_secs_f64());
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
