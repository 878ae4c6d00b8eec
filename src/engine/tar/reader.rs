//! A strict streaming reader: every header is checked, everything it announces must be there.

use std::io::Read;

use super::attributes::{Attributes, attributes};
use super::halt::Halt;
use super::header::{BadNumber, Header, OldSparse, push_pairs, until_nul};
use super::pax::{Record, parse_decimal, parse_records, parse_time, value};
use super::sparse::{Segment, check_map};
use super::{BLOCK, EXTENDED_LIMIT, SEGMENT_LIMIT};
use crate::engine::entry::{EntryInfo, EntryKind, Moment, display_bytes};
use crate::engine::error::EngineError;

/// Zeros after the end blocks: programs fill up their last record, of rarely more than 1 MiB.
const TRAILING_LIMIT: u64 = 16 << 20;

/// Records that describe every entry: real archives have a few.
const GLOBALS_LIMIT: usize = 1000;

/// One entry, its data not yet read.
pub(crate) struct TarEntry {
    /// What the archive says of it.
    pub info: EntryInfo,
    /// Where its data belongs; a file without holes has one segment, an empty one none.
    pub segments: Vec<Segment>,
    /// The map that a sparse file's data begins with in the archive, as it stands there.
    pub map: Vec<u8>,
    /// What the archive says of its attributes and nobody can apply, each with the reason.
    pub left: Vec<String>,
}

/// Reads entries one after the other; data that is not read is skipped.
pub(crate) struct TarReader<R> {
    input: R,
    archive: String,
    position: u64,
    data: u64,
    fill: u64,
    entry: String,
    map: Vec<u8>,
    global: Vec<Record>,
    finished: bool,
    halt: Halt,
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    records: Vec<Record>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// A reader over an uncompressed tar stream; `archive` is its name for messages.
    pub(crate) fn new(input: R, archive: &str) -> Self {
        Self::at(input, archive, 0)
    }

    /// A reader over a part of a tar stream that begins with an entry, `position` bytes into it.
    pub(crate) fn at(input: R, archive: &str, position: u64) -> Self {
        Self {
            input,
            archive: archive.to_owned(),
            position,
            data: 0,
            fill: 0,
            entry: String::new(),
            map: Vec::new(),
            global: Vec::new(),
            finished: false,
            halt: Halt::default(),
        }
    }

    /// How much of the stream was read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How far reading came.
    pub(crate) fn halt(&self) -> Halt {
        let left = self.data.saturating_add(self.fill);
        let next = (left > 0).then_some(self.position.saturating_add(left));
        Halt { position: self.position, next, ..self.halt }
    }

    /// The next entry, or nothing after the end blocks and all that follows them.
    pub(crate) fn next_entry(&mut self) -> Result<Option<TarEntry>, EngineError> {
        if self.finished {
            return Ok(None);
        }
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let at = self.position;
            let size = value(&extensions.records, "size").and_then(parse_decimal);
            self.halt = Halt { header: at, size, ..Halt::default() };
            let mut block = [0_u8; BLOCK];
            self.fill_block(&mut block)?;
            if block == [0; BLOCK] {
                if !extensions.is_empty() {
                    return Err(self.damaged(at, "an extended header is followed by no entry"));
                }
                self.finish(at)?;
                return Ok(None);
            }
            let header = Header(&block);
            if !header.checksum_is_right() {
                return Err(self.damaged(at, "the header's checksum is wrong"));
            }
            let size = header.size().map_err(|BadNumber| self.number(at, "size"))?;
            match header.kind() {
                kind @ (b'x' | b'X' | b'g') => {
                    let text = self.read_extension(at, size)?;
                    let records = parse_records(&text)
                        .ok_or_else(|| self.damaged(at, "an extended header is malformed"))?;
                    if kind == b'g' {
                        self.add_globals(records)?;
                    } else if extensions.records.is_empty() {
                        extensions.records = records;
                    } else {
                        return Err(self.damaged(at, "two extended headers for one entry"));
                    }
                }
                b'L' => extensions.long_name = Some(self.read_long(at, size)?),
                b'K' => extensions.long_link = Some(self.read_long(at, size)?),
                b'V' => {}
                b'M' | b'N' => {
                    return Err(EngineError::Unsupported {
                        name: self.archive.clone(),
                        detail: "it is part of a multi-volume archive or of a very old format"
                            .to_owned(),
                    });
                }
                _ => return self.entry(at, &block, size, &extensions).map(Some),
            }
        }
    }

    /// Reads the next bytes of the current entry's stored data; 0 at its end.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, EngineError> {
        let wanted = buffer.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..wanted]).map_err(|error| self.failed(&error))?;
        if count == 0 {
            return Err(self.truncated());
        }
        self.position += count as u64;
        self.data -= count as u64;
        Ok(count)
    }

    fn entry(
        &mut self,
        at: u64,
        block: &[u8; BLOCK],
        header_size: u64,
        extensions: &Extensions,
    ) -> Result<TarEntry, EngineError> {
        self.map.clear();
        let header = Header(block);
        let records: Vec<Record> = self.global.iter().chain(&extensions.records).cloned().collect();
        let name = value(&records, "GNU.sparse.name")
            .or_else(|| value(&records, "path"))
            .map(<[u8]>::to_vec)
            .or_else(|| extensions.long_name.clone())
            .unwrap_or_else(|| header.name());
        self.entry = display_bytes(&name);
        let kind = match header.kind() {
            0 | b'0' | b'7' if name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharacterDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let detail = format!("its type `{}` is not known", other.escape_ascii());
                return Err(EngineError::unsafe_entry(&self.archive, &name, detail));
            }
        };
        // POSIX: the record overrides the header, also when both are given and differ.
        let stored = match value(&records, "size") {
            Some(text) => parse_decimal(text).ok_or_else(|| self.number(at, "size"))?,
            None => header_size,
        };
        self.data = match kind {
            EntryKind::File => stored,
            EntryKind::HardLink => 0,
            EntryKind::Directory if header.kind() == b'D' => stored,
            _ if stored != 0 => {
                let detail = "it has a size although it has no data; programs disagree on what \
                              follows it";
                return Err(EngineError::unsafe_entry(&self.archive, &name, detail));
            }
            _ => 0,
        };
        self.fill = self
            .data
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| self.number(at, "size"))?
            - self.data;
        let (size, segments, sparse) = if kind == EntryKind::File {
            self.layout(at, &header, &records)?
        } else {
            (0, Vec::new(), false)
        };
        let info = self.describe(at, &header, kind, &records, extensions)?;
        let map = std::mem::take(&mut self.map);
        let Attributes { set: xattrs, left, .. } = attributes(&records);
        let info = EntryInfo { name, size, xattrs, sparse, ..info };
        Ok(TarEntry { info, segments, map, left })
    }

    /// The metadata of an entry apart from its name and size.
    fn describe(
        &self,
        at: u64,
        header: &Header<'_>,
        kind: EntryKind,
        records: &[Record],
        extensions: &Extensions,
    ) -> Result<EntryInfo, EngineError> {
        let owner = |key: &str, field: Result<i64, BadNumber>| match value(records, key) {
            Some(text) => parse_decimal(text).ok_or_else(|| self.number(at, key)),
            None => field
                .ok()
                .and_then(|number| number.try_into().ok())
                .ok_or_else(|| self.number(at, key)),
        };
        let modified = match value(records, "mtime") {
            Some(text) => parse_time(text),
            None => header.modified().ok().map(|seconds| (seconds, 0)),
        };
        let (seconds, nanoseconds) = modified.ok_or_else(|| self.number(at, "mtime"))?;
        let mode = header.mode().map_err(|BadNumber| self.number(at, "mode"))?;
        let link_target = matches!(kind, EntryKind::Symlink | EntryKind::HardLink).then(|| {
            value(records, "linkpath")
                .map(<[u8]>::to_vec)
                .or_else(|| extensions.long_link.clone())
                .unwrap_or_else(|| header.link_name().to_vec())
        });
        let device = if kind.is_device() {
            header.device().map_err(|BadNumber| self.number(at, "device"))?
        } else {
            (0, 0)
        };
        Ok(EntryInfo {
            name: Vec::new(),
            kind,
            size: 0,
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: owner("uid", header.uid())?,
            gid: owner("gid", header.gid())?,
            modified: Moment { seconds, nanoseconds },
            link_target,
            device,
            xattrs: Vec::new(),
            sparse: false,
        })
    }

    /// Size and segments of a file, whichever of the five ways it is stored in.
    fn layout(
        &mut self,
        at: u64,
        header: &Header<'_>,
        records: &[Record],
    ) -> Result<(u64, Vec<Segment>, bool), EngineError> {
        let decimal = |reader: &Self, text: &[u8]| {
            parse_decimal(text).ok_or_else(|| reader.number(at, "sparse map"))
        };
        let (pairs, real_size) = if header.kind() == b'S' {
            let table = header.old_sparse().map_err(|BadNumber| self.number(at, "sparse map"))?;
            let OldSparse { mut pairs, mut more, real_size } = table;
            while more {
                let mut block = [0_u8; BLOCK];
                self.fill_block(&mut block)?;
                push_pairs(&block[..504], &mut pairs)
                    .map_err(|BadNumber| self.number(at, "sparse map"))?;
                more = block[504] != 0;
                if pairs.len() > SEGMENT_LIMIT {
                    return Err(self.damaged(at, "the sparse map has too many segments"));
                }
            }
            (pairs, real_size)
        } else if value(records, "GNU.sparse.major").is_some() {
            let version = (value(records, "GNU.sparse.major"), value(records, "GNU.sparse.minor"));
            if version != (Some(b"1"), Some(b"0")) {
                return Err(EngineError::Unsupported {
                    name: self.archive.clone(),
                    detail: format!("`{}` has an unknown sparse format", self.entry),
                });
            }
            let real = value(records, "GNU.sparse.realsize").unwrap_or_default();
            let real = decimal(self, real)?;
            (self.read_map(at)?, real)
        } else if let Some(size) = value(records, "GNU.sparse.size") {
            let real = decimal(self, size)?;
            let mut numbers = Vec::new();
            if let Some(map) = value(records, "GNU.sparse.map") {
                for number in map.split(|byte| *byte == b',') {
                    numbers.push(decimal(self, number)?);
                }
            } else {
                for (key, text) in records {
                    if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
                        numbers.push(decimal(self, text)?);
                    }
                }
            }
            if numbers.len() % 2 != 0 {
                return Err(self.damaged(at, "the sparse map is incomplete"));
            }
            (numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), real)
        } else {
            let whole = Segment { offset: 0, length: self.data };
            return Ok((self.data, if self.data == 0 { vec![] } else { vec![whole] }, false));
        };
        let segments =
            check_map(&pairs, real_size, self.data).map_err(|detail| self.damaged(at, detail))?;
        Ok((real_size, segments, true))
    }

    /// The map that sparse format 1.0 puts at the start of the data.
    fn read_map(&mut self, at: u64) -> Result<Vec<(u64, u64)>, EngineError> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        loop {
            if self.data < BLOCK as u64 {
                return Err(self.damaged(at, "the sparse map is longer than the entry"));
            }
            let mut block = [0_u8; BLOCK];
            self.fill_block(&mut block)?;
            self.data -= BLOCK as u64;
            self.map.extend_from_slice(&block);
            text.extend_from_slice(&block);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let number = parse_decimal(&text[..end]);
                numbers.push(number.ok_or_else(|| self.number(at, "sparse map"))?);
                text.drain(..=end);
                let wanted = numbers[0].checked_mul(2).and_then(|count| count.checked_add(1));
                let wanted = wanted.and_then(|count| usize::try_from(count).ok());
                match wanted {
                    Some(wanted) if wanted <= 2 * SEGMENT_LIMIT + 1 => {
                        if numbers.len() == wanted {
                            let pairs = numbers[1..].chunks_exact(2);
                            return Ok(pairs.map(|pair| (pair[0], pair[1])).collect());
                        }
                    }
                    _ => return Err(self.damaged(at, "the sparse map has too many segments")),
                }
            }
            if text.len() > BLOCK {
                return Err(self.number(at, "sparse map"));
            }
        }
    }

    fn read_extension(&mut self, at: u64, size: u64) -> Result<Vec<u8>, EngineError> {
        if size > EXTENDED_LIMIT + 4 * BLOCK as u64 {
            return Err(self.damaged(at, format!("an extended header of {size} bytes")));
        }
        let padded = usize::try_from(size.next_multiple_of(BLOCK as u64)).unwrap_or(0);
        let mut text = vec![0; padded];
        self.fill_block(&mut text)?;
        text.truncate(usize::try_from(size).unwrap_or(0));
        Ok(text)
    }

    fn read_long(&mut self, at: u64, size: u64) -> Result<Vec<u8>, EngineError> {
        let text = self.read_extension(at, size)?;
        Ok(until_nul(&text).to_vec())
    }

    /// Globals may describe, but not rename or resize: that only ever serves to smuggle entries.
    fn add_globals(&mut self, records: Vec<Record>) -> Result<(), EngineError> {
        for (key, text) in records {
            if matches!(key.as_slice(), b"path" | b"linkpath" | b"size")
                || key.starts_with(b"GNU.sparse.")
            {
                let detail = "a global header sets the name or size of every entry";
                return Err(EngineError::unsafe_entry(&self.archive, &key, detail));
            }
            self.global.retain(|(known, _)| *known != key);
            self.global.push((key, text));
            // Every entry is described by all of them.
            if self.global.len() > GLOBALS_LIMIT {
                return Err(self.damaged(self.position, "there are too many global records"));
            }
        }
        let length: usize = self.global.iter().map(|(key, text)| key.len() + text.len()).sum();
        if length as u64 > EXTENDED_LIMIT {
            return Err(self.damaged(self.position, "the global headers are too long"));
        }
        Ok(())
    }

    /// Reads what is left of the current entry.
    pub(crate) fn skip_data(&mut self) -> Result<(), EngineError> {
        if self.data == 0 && self.fill == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; 64 << 10];
        while self.read_data(&mut buffer)? > 0 {}
        let fill = usize::try_from(self.fill).unwrap_or(0);
        self.fill = 0;
        self.fill_block(&mut buffer[..fill])
    }

    /// After the first end block: the second, then nothing but zeros to the end of the stream.
    fn finish(&mut self, at: u64) -> Result<(), EngineError> {
        let mut block = [0_u8; BLOCK];
        self.fill_block(&mut block)?;
        if block != [0; BLOCK] {
            return Err(self.damaged(at, "a single end block is followed by more entries"));
        }
        self.halt.end = Some(self.position);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.input.read(&mut buffer).map_err(|error| self.failed(&error))?;
            if count == 0 {
                self.finished = true;
                return Ok(());
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                return Err(self.damaged(self.position, "there is data after the end blocks"));
            }
            self.position += count as u64;
            if self.position - at > TRAILING_LIMIT {
                return Err(self.damaged(at, "the end blocks are followed by endless zeros"));
            }
        }
    }

    fn fill_block(&mut self, mut buffer: &mut [u8]) -> Result<(), EngineError> {
        while !buffer.is_empty() {
            match self.input.read(buffer) {
                Ok(0) => return Err(self.truncated()),
                Ok(count) => {
                    self.position += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    fn damaged(&self, at: u64, detail: impl AsRef<str>) -> EngineError {
        let place = if self.entry.is_empty() {
            String::new()
        } else {
            format!(", at or after entry `{}`", self.entry)
        };
        let detail = format!("{} (byte {at} of the tar stream{place})", detail.as_ref());
        EngineError::damaged(&self.archive, detail)
    }

    fn number(&self, at: u64, field: &str) -> EngineError {
        self.damaged(at, format!("the {field} is not a number"))
    }

    fn truncated(&self) -> EngineError {
        self.damaged(self.position, "the archive ends too early")
    }

    /// An error of the decompressor is damage; one of the system is not.
    fn failed(&self, error: &std::io::Error) -> EngineError {
        if let Some(code) = error.raw_os_error() {
            return EngineError::Store {
                action: "reading",
                path: self.archive.clone().into(),
                source: std::io::Error::from_raw_os_error(code),
            };
        }
        self.damaged(self.position, format!("the compressed data cannot be read: {error}"))
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.long_name.is_none() && self.long_link.is_none()
    }
}
