//! The `process_*` metrics, read anew at every scrape from the kernel.
//!
//! Own rather than the `process` feature of the prometheus crate: five values do not justify the
//! procfs crate and libc. What cannot be read is left out; a scrape never fails because of it.

use jiff::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts, Registry};

use super::MetricsError;
use crate::telemetry::catalogue::{self as list, Metric};

/// Adds the collector to `registry`.
pub(super) fn register(registry: &Registry, started: Timestamp) -> Result<(), MetricsError> {
    let refuse = |source| MetricsError::Register { name: list::PROCESS_CPU.name, source };
    let mut descriptions = Vec::new();
    for metric in [
        &list::PROCESS_RESIDENT_MEMORY,
        &list::PROCESS_CPU,
        &list::PROCESS_START_TIME,
        &list::PROCESS_OPEN_FDS,
        &list::PROCESS_MAX_FDS,
    ] {
        let gauge = Gauge::with_opts(Opts::new(metric.name, metric.help)).map_err(refuse)?;
        descriptions.extend(gauge.desc().into_iter().cloned());
    }
    registry.register(Box::new(ProcessCollector { started, descriptions })).map_err(refuse)
}

struct ProcessCollector {
    started: Timestamp,
    descriptions: Vec<Desc>,
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    fn collect(&self) -> Vec<MetricFamily> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let gauges: [(&Metric, Option<f64>); 4] = [
            (&list::PROCESS_RESIDENT_MEMORY, resident_bytes().map(|bytes| bytes as f64)),
            (&list::PROCESS_START_TIME, Some(self.started.as_second() as f64)),
            (&list::PROCESS_OPEN_FDS, open_descriptors().map(|count| count as f64)),
            (&list::PROCESS_MAX_FDS, limit.map(|count| count as f64)),
        ];
        let mut families = Vec::new();
        for (metric, value) in gauges {
            let gauge = Gauge::with_opts(Opts::new(metric.name, metric.help));
            if let (Some(value), Ok(gauge)) = (value, gauge) {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        let metric = &list::PROCESS_CPU;
        if let Ok(counter) = Counter::with_opts(Opts::new(metric.name, metric.help)) {
            counter.inc_by(processor_seconds());
            families.extend(counter.collect());
        }
        families
    }
}

/// Resident memory in bytes, from `VmRSS` of proc(5).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Open descriptors, without the one that reads the list.
fn open_descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// CPU time of the whole process in seconds.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    std::time::Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanoseconds).as_secs_f64()
}
