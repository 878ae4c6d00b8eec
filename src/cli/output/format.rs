//! How sizes, spans and moments are written for people, and moments for machines.
//!
//! Pure: the clock and the time zone are arguments.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size in binary units with one decimal: `482.1 MiB`, `512 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths in 128 bits, rounded half up: exact where floating point would not be.
    for (power, unit) in (1u32..).zip(UNITS) {
        let divisor = 1u128 << (10 * power);
        let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
        if tenths < 10_240 || power == 6 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// A span: `850ms`, `2.4s`, `42s`, `2m 13s`, `1h 5m`, `3d 4h`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.subsec_millis()),
        1..10 => format!("{seconds}.{}s", span.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago `moment` was, as kubectl writes ages: `45s`, `12m`, `5h30m`, `3d4h`, `40d`.
/// A moment in the future, by a clock that went back, counts as now.
pub fn age(moment: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second().saturating_sub(moment.as_second())).unwrap_or(0);
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        86_400..864_000 => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment for tables, in `zone`: `2026-11-21 04:15:00`.
pub fn local_time(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A moment for JSON and YAML: RFC 3339 in UTC with whole seconds, `2026-11-21T03:15:00Z`.
pub fn utc_time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_into_the_next_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (505_518_490, "482.1 MiB"),
            (1_048_575, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (milliseconds, text) in [
            (0, "0ms"),
            (850, "850ms"),
            (2_450, "2.4s"),
            (42_900, "42s"),
            (133_000, "2m 13s"),
            (3_900_000, "1h 5m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let now: Timestamp = "2026-11-21T03:15:00Z".parse().unwrap();
        for (seconds, text) in [
            (-5, "0s"),
            (45, "45s"),
            (720, "12m"),
            (19_800, "5h30m"),
            (7200, "2h"),
            (273_600, "3d4h"),
            (3_456_000, "40d"),
        ] {
            assert_eq!(age(now - jiff::SignedDuration::from_secs(seconds), now), text);
        }
    }

    #[test]
    fn people_get_local_time_and_machines_utc() {
        let moment: Timestamp = "2026-11-21T03:15:00.75Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(local_time(moment, &zone), "2026-11-21 04:15:00");
        assert_eq!(utc_time(moment), "2026-11-21T03:15:00Z");
    }
}
