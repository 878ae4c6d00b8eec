//! Extended attributes and access control lists, as this and other programs write them into PAX records.

use std::collections::HashSet;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::pax::{Record, parse_decimal, unescape_attribute, value};
use crate::engine::entry::{display_start, unescape_numbers};

/// libarchive leaves the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What records say of the attributes of an entry.
#[derive(Default)]
pub(super) struct Attributes {
    /// Names and values as the kernel takes them.
    pub set: Vec<(Vec<u8>, Vec<u8>)>,
    /// Records whose meaning is lost, each with the reason.
    pub left: Vec<String>,
    /// The names in `set`: a header may have tens of thousands of records.
    known: HashSet<Vec<u8>>,
}

/// Reads `SCHILY.xattr` of star and GNU tar, `LIBARCHIVE.xattr` of libarchive, which mostly says the same again, and
/// the texts of access control lists. What else there is of the kind is told.
pub(super) fn attributes(records: &[Record]) -> Attributes {
    let mut found = Attributes::default();
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = unescape_attribute(name);
            found.known.insert(name.clone());
            found.set.push((name, value.clone()));
        }
    }
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            match (unescape_url(name), BASE64.decode(value)) {
                (name, Ok(value)) => found.add(name, value),
                (name, Err(_)) => found.leave(&name, "its value is not base64"),
            }
        }
    }
    for (key, name) in [
        ("SCHILY.acl.access", &b"system.posix_acl_access"[..]),
        ("SCHILY.acl.default", b"system.posix_acl_default"),
    ] {
        let Some(text) = value(records, key) else { continue };
        match access_list(text) {
            Ok(list) => found.add(name.to_vec(), list),
            Err(why) => found.leave(key.as_bytes(), why),
        }
    }
    for key in ["SCHILY.acl.ace", "RHT.security.selinux"] {
        if value(records, key).is_some() {
            found.leave(key.as_bytes(), "this program does not know what it means");
        }
    }
    found
}

impl Attributes {
    /// Adds an attribute unless a record that says it more exactly was there.
    fn add(&mut self, name: Vec<u8>, value: Vec<u8>) {
        if self.known.insert(name.clone()) {
            self.set.push((name, value));
        }
    }

    fn leave(&mut self, record: &[u8], why: &str) {
        self.left.push(format!("its record {} is not applied: {why}", display_start(record)));
    }
}

/// The `%41` of addresses.
fn unescape_url(name: &[u8]) -> Vec<u8> {
    unescape_numbers(name, b'%', 2, 16)
}

/// A POSIX access control list as the kernel takes it, from the text of `acl_to_text(3)` with the numbers of star:
/// `user::rwx,user:name:r-x:1000,group::r-x,mask::rwx,other::---`, with commas or lines, tags short or long.
///
/// Owners are numbers here as everywhere: a name without one may be somebody else's on this host.
fn access_list(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    const MALFORMED: &str = "it is not the text of an access control list";
    let text = std::str::from_utf8(text).map_err(|_| MALFORMED)?;
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for entry in line.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let fields: Vec<&str> = entry.split(':').map(str::trim).collect();
            // Some leave the empty owner of mask and others out.
            let (tag, owner, rights, number) = match fields[..] {
                [tag, rights] => (tag, "", rights, None),
                [tag, owner, rights] => (tag, owner, rights, None),
                [tag, owner, rights, number] => (tag, owner, rights, Some(number)),
                _ => return Err(MALFORMED),
            };
            let tag = match (tag, owner.is_empty()) {
                ("user" | "u", true) => 0x01_u16,
                ("user" | "u", false) => 0x02,
                ("group" | "g", true) => 0x04,
                ("group" | "g", false) => 0x08,
                ("mask" | "m", true) => 0x10,
                ("other" | "o", true) => 0x20,
                _ => return Err(MALFORMED),
            };
            let number = match number.or_else(|| (!owner.is_empty()).then_some(owner)) {
                None => u32::MAX,
                Some(number) => parse_decimal(number.as_bytes())
                    .and_then(|number| u32::try_from(number).ok())
                    .ok_or("it names users or groups without their numbers")?,
            };
            let mut bits = 0_u16;
            for right in rights.chars() {
                bits |= match right {
                    'r' => 4,
                    'w' => 2,
                    'x' => 1,
                    '-' => 0,
                    _ => return Err(MALFORMED),
                };
            }
            entries.push((tag, number, bits));
        }
    }
    if entries.is_empty() {
        return Err(MALFORMED);
    }
    // The kernel refuses any other order.
    entries.sort_unstable();
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, number, bits) in entries {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&bits.to_le_bytes());
        list.extend_from_slice(&number.to_le_bytes());
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::entry::display_bytes;

    fn of(records: &[(&str, &str)]) -> Attributes {
        let records: Vec<Record> = records
            .iter()
            .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        attributes(&records)
    }

    /// As `getfattr -n system.posix_acl_access -e hex` shows what `setfacl -m u:1234:r-x` has set on a file of
    /// mode 640.
    const LIST: &[u8] = b"\x02\0\0\0\
        \x01\0\x06\0\xff\xff\xff\xff\x02\0\x05\0\xd2\x04\0\0\x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

    #[test]
    fn access_lists_of_other_programs_are_read() {
        for text in [
            // GNU tar, of an owner that has no name where it was written.
            "user::rw-\nuser:1234:r-x\ngroup::r--\nmask::r-x\nother::---\n",
            // The same with rights that the mask takes away, and in short.
            "u::rw-\nu:1234:r-x\t#effective:r--\ng::r--\nm::r-x\no::---\n",
            // star and libarchive, which put the mask first.
            "user::rw-,group::r--,mask::r-x,other::---,user:joe:r-x:1234",
            "user::rw-,user:joe:r-x:1234,group::r--,mask:r-x,other:---",
        ] {
            let found = of(&[("SCHILY.acl.access", text)]);
            let expected = (b"system.posix_acl_access".to_vec(), LIST.to_vec());
            assert_eq!((found.set, found.left), (vec![expected], vec![]), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_applied_is_told() {
        for (record, text, why) in [
            ("SCHILY.acl.access", "user::rw-\nuser:joe:r-x\ngroup::r--", "without their numbers"),
            ("SCHILY.acl.default", "user::rw-,user:joe:r-x:4294967296", "without their numbers"),
            ("SCHILY.acl.default", "nonsense", "not the text"),
            ("SCHILY.acl.default", "user::rwz", "not the text"),
            ("SCHILY.acl.default", "everyone@:rwx::allow", "not the text"),
            ("SCHILY.acl.default", " ", "not the text"),
            ("SCHILY.acl.ace", "owner@:rw-p--aARWcCos:-------:allow", "does not know"),
            ("RHT.security.selinux", "system_u:object_r:etc_t:s0", "does not know"),
            ("LIBARCHIVE.xattr.user.a", "?", "not base64"),
        ] {
            let found = of(&[(record, text)]);
            assert_eq!(found.set, [], "{text}");
            let [told] = &found.left[..] else { panic!("{text}: {:?}", found.left) };
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn what_stands_in_two_records_is_taken_once() {
        let both = of(&[
            ("LIBARCHIVE.xattr.user.a%3Db", "b3RoZXI"),
            ("SCHILY.xattr.user.a%3Db", "raw"),
            ("LIBARCHIVE.xattr.user.c", "b3RoZXI"),
            ("SCHILY.xattr.system.posix_acl_access", "exact"),
            ("SCHILY.acl.access", "user::rw-"),
        ]);
        let text = |(name, value): &(Vec<u8>, Vec<u8>)| {
            format!("{}={}", display_bytes(name), display_bytes(value))
        };
        let set: Vec<String> = both.set.iter().map(text).collect();
        assert_eq!(set, ["user.a=b=raw", "system.posix_acl_access=exact", "user.c=other"]);
        assert_eq!(both.left, Vec::<String>::new());
    }
}
