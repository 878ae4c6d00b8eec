//! One 512-byte tar header: fields, numbers, checksum.

use super::BLOCK;

/// A header as it was read; fields are taken out on demand.
pub(super) struct Header<'a>(pub &'a [u8; BLOCK]);

/// Whether bytes begin with a POSIX or GNU header whose checksum is right.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    let Some(Ok(block)) = bytes.get(..BLOCK).map(TryInto::try_into) else { return false };
    let header = Header(block);
    header.field(257, 5) == b"ustar" && header.checksum_is_right()
}

/// The sparse table of an old GNU header.
pub(super) struct OldSparse {
    pub pairs: Vec<(u64, u64)>,
    /// Whether further blocks continue the table.
    pub more: bool,
    pub real_size: u64,
}

/// A numeric field that is neither octal nor base-256, or does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadNumber;

impl Header<'_> {
    fn field(&self, start: usize, length: usize) -> &[u8] {
        &self.0[start..start + length]
    }

    /// Whether the stored checksum is that of the block. Old programs summed signed bytes.
    pub(super) fn checksum_is_right(&self) -> bool {
        let Ok(stored) = parse_number(self.field(148, 8)) else { return false };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        stored == unsigned || stored == signed
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name with the ustar or star prefix before it.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0, 100));
        // GNU's magic is "ustar  \0" and its header keeps other things where ustar has the prefix.
        if self.field(257, 6) != b"ustar\0" {
            return name.to_vec();
        }
        let star = self.field(508, 4) == b"tar\0";
        let prefix = until_nul(self.field(345, if star { 131 } else { 155 }));
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link_name(&self) -> &[u8] {
        until_nul(self.field(157, 100))
    }

    pub(super) fn mode(&self) -> Result<i64, BadNumber> {
        parse_number(self.field(100, 8))
    }

    pub(super) fn uid(&self) -> Result<i64, BadNumber> {
        parse_number(self.field(108, 8))
    }

    pub(super) fn gid(&self) -> Result<i64, BadNumber> {
        parse_number(self.field(116, 8))
    }

    pub(super) fn size(&self) -> Result<u64, BadNumber> {
        parse_number(self.field(124, 12)).and_then(|size| size.try_into().map_err(|_| BadNumber))
    }

    pub(super) fn modified(&self) -> Result<i64, BadNumber> {
        parse_number(self.field(136, 12))
    }

    /// Major and minor number; v7 headers have none.
    pub(super) fn device(&self) -> Result<(u32, u32), BadNumber> {
        if self.field(257, 5) != b"ustar" {
            return Ok((0, 0));
        }
        let number = |start| {
            parse_number(self.field(start, 8))
                .and_then(|value| u32::try_from(value).map_err(|_| BadNumber))
        };
        Ok((number(329)?, number(337)?))
    }

    /// Old GNU sparse: the four pairs, whether more blocks follow, and the real size.
    pub(super) fn old_sparse(&self) -> Result<OldSparse, BadNumber> {
        let mut pairs = Vec::new();
        push_pairs(self.field(386, 96), &mut pairs)?;
        let real = parse_number(self.field(483, 12))?;
        let real_size = real.try_into().map_err(|_| BadNumber)?;
        Ok(OldSparse { pairs, more: self.0[482] != 0, real_size })
    }
}

/// Adds the pairs of an old GNU sparse table until the first unused one.
pub(super) fn push_pairs(table: &[u8], pairs: &mut Vec<(u64, u64)>) -> Result<(), BadNumber> {
    for pair in table.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        let offset = parse_number(&pair[..12])?.try_into().map_err(|_| BadNumber)?;
        let length = parse_number(&pair[12..])?.try_into().map_err(|_| BadNumber)?;
        pairs.push((offset, length));
    }
    Ok(())
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.iter().position(|byte| *byte == 0).map_or(field, |end| &field[..end])
}

/// Octal text, or GNU's base-256: the top bit of the first byte set, big-endian two's complement.
fn parse_number(field: &[u8]) -> Result<i64, BadNumber> {
    let first = *field.first().ok_or(BadNumber)?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 && !negative { *byte & 0x7f } else { *byte };
            value = value.checked_mul(256).ok_or(BadNumber)? | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| BadNumber);
    }
    let text = until_nul(field).trim_ascii();
    let mut value: i64 = 0;
    for byte in text {
        if !(b'0'..=b'7').contains(byte) {
            return Err(BadNumber);
        }
        value = value.checked_mul(8).ok_or(BadNumber)? + i64::from(byte - b'0');
    }
    Ok(value)
}

/// The fields of a header to write; each fits or is clipped, PAX records then carry the truth.
pub(super) struct HeaderFields<'a> {
    pub prefix: &'a [u8],
    pub name: &'a [u8],
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub modified: u64,
    pub kind: u8,
    pub link: &'a [u8],
    pub device: (u32, u32),
}

impl HeaderFields<'_> {
    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0_u8; BLOCK];
        put_text(&mut block[0..100], self.name);
        put_octal(&mut block[100..108], u64::from(self.mode));
        put_octal(&mut block[108..116], self.uid);
        put_octal(&mut block[116..124], self.gid);
        put_octal(&mut block[124..136], self.size);
        put_octal(&mut block[136..148], self.modified);
        block[148..156].fill(b' ');
        block[156] = self.kind;
        put_text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], u64::from(self.device.0));
        put_octal(&mut block[337..345], u64::from(self.device.1));
        put_text(&mut block[345..500], self.prefix);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, NUL, space: the one field whose terminator is fixed by tradition.
        put_octal(&mut block[148..155], sum);
        block
    }
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Zero-padded octal with a final NUL; a number that does not fit becomes all zeros.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let value = if fits_octal(value, digits) { value } else { 0 };
    for (index, byte) in field[..digits].iter_mut().rev().enumerate() {
        let shift = u32::try_from(index * 3).unwrap_or(u32::MAX);
        let digit = value.checked_shr(shift).unwrap_or(0) & 7;
        *byte = b'0' + u8::try_from(digit).unwrap_or(0);
    }
    field[digits] = 0;
}

/// Whether a number can be written with so many octal digits.
pub(super) fn fits_octal(value: u64, digits: usize) -> bool {
    digits >= 21 || value >> (3 * digits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(parse_number(b"0000644\0"), Ok(0o644));
        assert_eq!(parse_number(b"   644 \0"), Ok(0o644));
        assert_eq!(parse_number(&[0; 8]), Ok(0));
        assert_eq!(parse_number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Ok(256));
        assert_eq!(parse_number(&[0xff; 12]), Ok(-1));
        assert_eq!(
            parse_number(&[0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
            Err(BadNumber)
        );
        assert_eq!(parse_number(b"00009\0"), Err(BadNumber));
        assert_eq!(parse_number(b"-0000001"), Err(BadNumber));
    }
}
