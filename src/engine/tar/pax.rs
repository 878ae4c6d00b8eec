//! PAX extended header records: `<length> <key>=<value>\n`.

/// One record; the last of a key wins, an empty value means that the key is not given.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// Appends a record. The length counts itself, so it is found by trying.
pub(super) fn push_record(block: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    block.extend_from_slice(length.to_string().as_bytes());
    block.push(b' ');
    block.extend_from_slice(key);
    block.push(b'=');
    block.extend_from_slice(value);
    block.push(b'\n');
}

/// Takes an extended header apart; `None` if it is malformed anywhere.
pub(super) fn parse_records(mut block: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !block.is_empty() {
        let space = block.iter().take(8).position(|byte| *byte == b' ')?;
        let digits = &block[..space];
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if length <= space + 1 || length > block.len() {
            return None;
        }
        let (last, record) = block[space + 1..length].split_last()?;
        if *last != b'\n' {
            return None;
        }
        let equals = record.iter().position(|byte| *byte == b'=')?;
        if equals == 0 {
            return None;
        }
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        block = &block[length..];
    }
    Some(records)
}

/// The value of a key: the last record decides.
pub(super) fn value<'a>(records: &'a [Record], key: &str) -> Option<&'a [u8]> {
    let (_, value) = records.iter().rev().find(|(name, _)| name == key.as_bytes())?;
    (!value.is_empty()).then_some(value.as_slice())
}

/// A decimal number without sign.
pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, as POSIX writes times; digits beyond nanoseconds are dropped.
pub(super) fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let dot = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    let seconds = i64::try_from(parse_decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds: u32 = 0;
    for index in 0..9 {
        let digit = fraction.get(index).map_or(0, |byte| u32::from(byte - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// The inverse of [`parse_time`], without trailing zeros.
pub(super) fn format_time(seconds: i64, nanoseconds: u32) -> String {
    let (sign, whole, fraction) = if seconds < 0 && nanoseconds > 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000_u32.saturating_sub(nanoseconds))
    } else {
        (if seconds < 0 { "-" } else { "" }, seconds.unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An attribute name as GNU tar writes it: `%` and `=` escaped, since `=` ends a key.
pub(super) fn escape_attribute(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            other => escaped.push(*other),
        }
    }
    escaped
}

/// The inverse of [`escape_attribute`].
pub(super) fn unescape_attribute(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    loop {
        match rest {
            [b'%', b'2', b'5', tail @ ..] => {
                plain.push(b'%');
                rest = tail;
            }
            [b'%', b'3', b'D' | b'd', tail @ ..] => {
                plain.push(b'=');
                rest = tail;
            }
            [byte, tail @ ..] => {
                plain.push(*byte);
                rest = tail;
            }
            [] => return plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_read_back(key in "[a-zA-Z.]{1,120}", value in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut block = Vec::new();
            push_record(&mut block, key.as_bytes(), &value);
            push_record(&mut block, b"next", b"1");
            let records = parse_records(&block).unwrap();
            prop_assert_eq!(&records[0], &(key.into_bytes(), value));
            prop_assert_eq!(records.len(), 2);
        }

        #[test]
        fn times_read_back(seconds in -100_000_000_000_i64..100_000_000_000, nanoseconds in 0_u32..1_000_000_000) {
            let text = format_time(seconds, nanoseconds);
            prop_assert_eq!(parse_time(text.as_bytes()), Some((seconds, nanoseconds)), "{}", text);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for block in [
            &b"6 a=b"[..],
            b"99 a=b\n",
            b"5 a=b\n",
            b"x a=b\n",
            b"5 =bc\n",
            b"3 a\n",
            b" 6 a=b\n",
            b"0 \n",
        ] {
            assert_eq!(parse_records(block), None, "{}", block.escape_ascii());
        }
        assert!(parse_records(b"6 a=b\n").is_some());
    }

    #[test]
    fn attribute_names_survive_escaping() {
        let name = b"user.100%=%3D";
        assert_eq!(unescape_attribute(&escape_attribute(name)), name);
    }
}
