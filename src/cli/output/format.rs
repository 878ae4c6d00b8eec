//! Numbers and times for people.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use crate::spec::readable_size as size;

/// A span of time: `0.4s`, `2m 13s`, `3h 5m`, `2d 4h`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..=9 => format!("{:.1}s", span.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago, as kubectl shows it: `12s`, `5m`, `3h`, `3d4h`.
pub fn age(at: Timestamp) -> String {
    age_at(at, Timestamp::now())
}

fn age_at(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        172_800..=863_999 if seconds % 86_400 >= 3600 => {
            format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600)
        }
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Date and time in the zone of this machine.
pub fn local_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Date and time to the minute in the zone of this machine, for lists.
pub fn local_minute(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_their_unit_before_they_show_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (505_500_000, "482.1 MiB"),
            (1_048_575, "1.0 MiB"),
            (i64::MAX, "8.0 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn spans_show_two_parts_at_most() {
        for (milliseconds, text) in [
            (400, "0.4s"),
            (59_000, "59s"),
            (133_000, "2m 13s"),
            (11_100_000, "3h 5m"),
            (187_200_000, "2d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn ages_are_those_of_kubectl_and_never_negative() {
        let now = Timestamp::from_second(10_000_000).unwrap();
        for (seconds, text) in [
            (-5, "0s"),
            (12, "12s"),
            (300, "5m"),
            (10_800, "3h"),
            (273_600, "3d4h"),
            (864_000, "10d"),
        ] {
            let at = Timestamp::from_second(10_000_000 - seconds).unwrap();
            assert_eq!(age_at(at, now), text);
        }
    }
}
