//! Durations and sizes as people write them in documents: `90s`, `30m`, `7d`, `5Gi`.
//!
//! Both keep the text that was written, so that a document survives a round trip unchanged, and
//! both are refused while decoding when they do not parse: nothing later has to ask again.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a duration or a size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text is not a sequence of number and unit.
    #[error("`{0}` is not a duration; write it as `90s`, `30m`, `12h`, `7d` or `1h30m`")]
    Duration(String),
    /// The text is not a number with an optional binary or decimal suffix.
    #[error("`{0}` is not a size; write it as `512`, `500M`, `1Gi` or `1.5Ti`")]
    Size(String),
    /// The value does not fit into 64 bits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// A number with its noun, which gets an `s` unless there is one of it: `1 file`, `2 files`.
pub fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(0);
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What there is instead of what was looked for, the first ten by name: more help nobody. Nothing if there is nothing.
pub fn there_are(mut names: Vec<String>) -> Option<String> {
    const MANY_NAMES: usize = 10;
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MANY_NAMES);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.truncate(MANY_NAMES);
    (!names.is_empty()).then(|| format!("there are: {}{more}", names.join(", ")))
}

/// A span of time: one or more of `<number><unit>` with the units `ms`, `s`, `m`, `h`, `d`, `w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurationText {
    text: String,
    milliseconds: u64,
}

impl DurationText {
    /// A duration of whole seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self { text: format!("{seconds}s"), milliseconds: seconds.saturating_mul(1000) }
    }

    /// The length as a [`std::time::Duration`].
    pub fn to_duration(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.milliseconds)
    }

    /// The length for arithmetic on timestamps; saturates at the calendar's limits.
    pub fn to_signed(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_millis(i64::try_from(self.milliseconds).unwrap_or(i64::MAX))
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for DurationText {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || QuantityError::Duration(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let factor: u64 = match &rest[..unit] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => return Err(refuse()),
            };
            rest = &rest[unit..];
            total = number
                .checked_mul(factor)
                .and_then(|part| total.checked_add(part))
                .filter(|total| i64::try_from(*total).is_ok())
                .ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        }
        Ok(Self { text: text.to_owned(), milliseconds: total })
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// A number of bytes: a plain number, or with a binary (`Ki` … `Ei`) or decimal (`k` … `E`) suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteSize {
    text: String,
    bytes: u64,
}

impl ByteSize {
    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || QuantityError::Size(text.to_owned());
        let number_length =
            text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = text.split_at(number_length);
        let factor: u64 = match suffix {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "P" => 1000_u64.pow(5),
            "E" => 1000_u64.pow(6),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            "Ei" => 1 << 60,
            _ => return Err(refuse()),
        };
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let bytes = if let Some((whole, fraction)) = number.split_once('.') {
            let digits = u32::try_from(fraction.len()).map_err(|_| refuse())?;
            if whole.is_empty() || digits == 0 || digits > 6 || fraction.contains('.') {
                return Err(refuse());
            }
            let whole: u128 = whole.parse().map_err(|_| refuse())?;
            let fraction: u128 = fraction.parse().map_err(|_| refuse())?;
            let scale = 10_u128.pow(digits);
            let scaled = whole
                .checked_mul(scale)
                .and_then(|value| value.checked_add(fraction))
                .and_then(|value| value.checked_mul(u128::from(factor)))
                .ok_or_else(too_large)?;
            u64::try_from(scaled / scale).map_err(|_| too_large())?
        } else {
            let number: u64 = number.parse().map_err(|_| refuse())?;
            number.checked_mul(factor).ok_or_else(too_large)?
        };
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

macro_rules! text_value {
    ($type:ident, $pattern:literal, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

/// Bytes with a binary unit: `482.1 MiB`.
pub fn readable_size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes.unsigned_abs() < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value.abs() >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

text_value!(
    DurationText,
    r"^([0-9]{1,9}(ms|s|m|h|d|w)){1,6}$",
    "A duration such as 90s, 30m, 12h, 7d or 1h30m."
);
text_value!(
    ByteSize,
    r"^[0-9]+(\.[0-9]{1,6})?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    "A number of bytes such as 512, 500M, 1Gi or 1.5Ti. Quote a plain number."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_their_parts() {
        for (text, milliseconds) in
            [("90s", 90_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("250ms", 250), ("0s", 0)]
        {
            let parsed: DurationText = text.parse().unwrap();
            assert_eq!(parsed.to_duration().as_millis(), milliseconds, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn durations_without_unit_or_number_are_refused() {
        for text in ["", "90", "s", "1.5h", "-3s", "3 s", "3y", "99999999999999999999s"] {
            assert!(text.parse::<DurationText>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_suffixes() {
        for (text, bytes) in
            [("0", 0), ("1Gi", 1 << 30), ("1.5Ki", 1536), ("500M", 500_000_000), ("15Ei", 15 << 60)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        for text in ["", "Gi", "1GB", "1.Gi", "16Ei", "-1", "1..5Gi"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
