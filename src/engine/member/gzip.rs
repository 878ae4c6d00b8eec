//! The gzip member (RFC 1952) with the FEXTRA subfield that carries its lengths.
//!
//! Subfield identifiers of this program begin with `E`: `EM` is a member's own description, `EI` and
//! `EF` (see [`crate::engine::index`]) are index and footer in empty members.

use std::io;

use super::{Place, RAW_LIMIT};

/// Magic, deflate, FEXTRA; no time, no hints, unknown system. The length of the extra field follows.
const START: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
/// Length of the description in a member's header.
const DESCRIPTION: usize = 20;
/// Bytes before the deflate data of a member.
pub(crate) const MEMBER_HEADER: usize = START.len() + 2 + 4 + DESCRIPTION;
/// CRC-32 and raw length.
const TRAILER: usize = 8;
/// The most that deflate makes out of one byte.
const RATIO: usize = 1032;
const DESCRIPTION_VERSION: u8 = 1;
const BEGINS_ENTRY: u8 = 1;
const STORED: u8 = 2;
/// The end of an empty member: an empty deflate block, the CRC-32 of nothing, its length.
pub(crate) const EMPTY_END: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberHeader {
    pub place: Place,
    /// Length of the whole member in the file.
    pub packed: u32,
    /// Length of what it holds.
    pub raw: u32,
}

/// Puts a member together.
pub(super) fn write_member(
    raw: &[u8],
    deflated: &[u8],
    place: Place,
    stored: bool,
    packed: &mut Vec<u8>,
) -> io::Result<()> {
    let length = MEMBER_HEADER + deflated.len() + TRAILER;
    let packed_length = u32::try_from(length).map_err(io::Error::other)?;
    let raw_length = u32::try_from(raw.len()).map_err(io::Error::other)?;
    let flags = u8::from(place.begins_entry) * BEGINS_ENTRY + if stored { STORED } else { 0 };
    packed.reserve(length);
    packed.extend_from_slice(&START);
    packed.extend_from_slice(&[24, 0, b'E', b'M', 20, 0, DESCRIPTION_VERSION, flags, 0, 0]);
    packed.extend_from_slice(&packed_length.to_le_bytes());
    packed.extend_from_slice(&raw_length.to_le_bytes());
    packed.extend_from_slice(&place.offset.to_le_bytes());
    packed.extend_from_slice(deflated);
    packed.extend_from_slice(&libdeflater::crc32(raw).to_le_bytes());
    packed.extend_from_slice(&raw_length.to_le_bytes());
    Ok(())
}

/// The description at the start of a member that this program wrote, or nothing.
pub(crate) fn parse_member_header(bytes: &[u8]) -> Option<MemberHeader> {
    let header = bytes.get(..MEMBER_HEADER)?;
    let fixed = [24, 0, b'E', b'M', 20, 0, DESCRIPTION_VERSION];
    if header[..10] != START || header[10..17] != fixed || header[17] & !3 != 0 {
        return None;
    }
    let four = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let offset = u64::from_le_bytes(header[28..36].try_into().ok()?);
    let place = Place { offset, begins_entry: header[17] & BEGINS_ENTRY != 0 };
    Some(MemberHeader { place, packed: four(20)?, raw: four(24)? })
}

/// Fills `raw` from a member and checks everything that the member says of itself.
pub(super) fn read_member(
    decompressor: &mut libdeflater::Decompressor,
    packed: &[u8],
    place: Place,
    raw: &mut [u8],
) -> Result<(), String> {
    let header = parse_member_header(packed).ok_or("its gzip header is damaged")?;
    if header.packed as usize != packed.len()
        || header.raw as usize != raw.len()
        || header.place != place
        || packed.len() < MEMBER_HEADER + TRAILER
    {
        return Err("its gzip header does not fit its place".to_owned());
    }
    let (body, trailer) = packed.split_at(packed.len() - TRAILER);
    match decompressor.deflate_decompress(&body[MEMBER_HEADER..], raw) {
        Ok(length) if length == raw.len() => {}
        Ok(length) => return Err(format!("it holds {length} bytes instead of {}", raw.len())),
        Err(error) => return Err(format!("it cannot be decompressed: {error:?}")),
    }
    if trailer[..4] != libdeflater::crc32(raw).to_le_bytes() {
        return Err("its CRC-32 is wrong".to_owned());
    }
    if trailer[4..] != header.raw.to_le_bytes() {
        return Err("its length field is wrong".to_owned());
    }
    Ok(())
}

/// Fills `raw` from a member whose header is damaged, by what follows the header: its own checksum and length have
/// to prove it. Returns the length of the whole member.
pub(crate) fn read_without_header(member: &[u8], raw: &mut Vec<u8>) -> Option<usize> {
    // Index and footer hold nothing.
    if parse_extra_length(member).is_some() {
        return None;
    }
    let body = member.get(MEMBER_HEADER..)?;
    raw.clear();
    raw.reserve(usize::try_from(RAW_LIMIT).ok()?.min(body.len().saturating_mul(RATIO)));
    let mut inflate = flate2::Decompress::new(false);
    let ended = inflate.decompress_vec(body, raw, flate2::FlushDecompress::Finish);
    if !matches!(ended, Ok(flate2::Status::StreamEnd)) || raw.is_empty() {
        return None;
    }
    let end = usize::try_from(inflate.total_in()).ok()?;
    let trailer = body.get(end..end + TRAILER)?;
    let length = u32::try_from(raw.len()).ok()?;
    let proof = [libdeflater::crc32(raw).to_le_bytes(), length.to_le_bytes()].concat();
    (trailer == proof).then_some(MEMBER_HEADER + end + TRAILER)
}

/// Whether so many bytes of a file can be members that hold so many of the tar stream: hardly less than there are, as
/// a stored member is longer only by what frames it, and no more than can be packed into them.
pub(crate) fn may_hold(packed: Option<u64>, raw: Option<u64>) -> bool {
    let (Some(packed @ 1..), Some(raw)) = (packed, raw) else { return false };
    let least = packed.saturating_sub(64 + packed / 1024).max(1);
    let most = packed.saturating_mul(RATIO as u64).saturating_add(RAW_LIMIT);
    (least..=most).contains(&raw)
}

/// The length of an empty member at the start of these bytes that carries index or footer, and whether it is the footer.
pub(crate) fn parse_extra_length(bytes: &[u8]) -> Option<(u64, bool)> {
    let start = bytes.get(..START.len() + 4)?;
    let kind = start[13];
    if start[..10] != START || start[12] != b'E' || !matches!(kind, b'I' | b'F') {
        return None;
    }
    let extra = u16::from_le_bytes([start[10], start[11]]);
    Some(((START.len() + 2 + EMPTY_END.len()) as u64 + u64::from(extra), kind == b'F'))
}

/// An empty member that carries `payload`, of at most 65,531 bytes, in an extra field.
pub(crate) fn extra_member(kind: u8, payload: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let length = u16::try_from(payload.len()).map_err(io::Error::other)?;
    let total = length.checked_add(4).ok_or_else(|| io::Error::other("extra field too long"))?;
    output.extend_from_slice(&START);
    output.extend_from_slice(&total.to_le_bytes());
    output.extend_from_slice(&[b'E', kind]);
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(payload);
    output.extend_from_slice(&EMPTY_END);
    Ok(())
}
