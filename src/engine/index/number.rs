//! Numbers of variable length: seven bits a byte, lowest first, the top bit set on all but the last.

use crate::engine::entry::Moment;

pub(in crate::engine) fn push(output: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        output.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    output.push(u8::try_from(value).unwrap_or(0));
}

/// Signed numbers alternate: 0, -1, 1, -2 …
pub(super) fn push_signed(output: &mut Vec<u8>, value: i64) {
    push(output, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(in crate::engine) fn push_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    push(output, bytes.len() as u64);
    output.extend_from_slice(bytes);
}

pub(super) fn push_moment(output: &mut Vec<u8>, moment: Moment) {
    push_signed(output, moment.seconds);
    push(output, u64::from(moment.nanoseconds));
}

/// Takes numbers off the front of a block; nothing where the block is malformed.
pub(in crate::engine) struct Numbers<'a>(pub &'a [u8]);

impl<'a> Numbers<'a> {
    pub(in crate::engine) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(in crate::engine) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only; and there is one way to write a number.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(in crate::engine) fn narrow<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(in crate::engine) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(in crate::engine) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.narrow()?;
        self.take(length)
    }

    pub(super) fn moment(&mut self) -> Option<Moment> {
        let seconds = self.signed()?;
        let nanoseconds = self.narrow::<u32>()?;
        (nanoseconds < 1_000_000_000).then_some(Moment { seconds, nanoseconds })
    }
}
