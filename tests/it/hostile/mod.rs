//! Archives that mean harm, unpacked into empty and into prepared places: nothing outside may change.

// The counts are what a reader of the log wants to see.
#![allow(clippy::print_stdout)]

mod corpora;
mod shapes;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eider::engine::{
    Cancel, EngineError, Limits, PackOptions, Silent, UnpackOptions, UnpackSummary, extract_one,
    list_entries, name_roots, pack, survey, unpack,
};
use eider::spec::ArchiveFormat;

use shapes::{Shape, Tar, names_and_links, structure};

/// No archive of a few kilobytes may keep a reader busy for longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Peak memory of the whole test process, in KiB.
const MEMORY: u64 = 256 << 10;

/// Everything about a tree that an attack could change.
fn state(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let mut text =
            format!("{:o} {} {} {}", meta.mode(), meta.uid(), meta.nlink(), meta.mtime_nsec());
        if kind.is_symlink() {
            text.push_str(&fs::read_link(&path).unwrap().to_string_lossy());
        } else if kind.is_file() {
            text.push_str(&fs::read_to_string(&path).unwrap());
        } else if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, text);
    }
    found
}

/// A place with something outside, and a destination that is empty or prepared for the attack.
struct Place {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    /// `planted` are names of symlinks in the destination that lead outside.
    fn new(planted: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir_all(outside.join("dir")).unwrap();
        fs::write(outside.join("file"), "safe").unwrap();
        let to = directory.path().join("to");
        fs::create_dir(&to).unwrap();
        for (number, name) in planted.iter().enumerate() {
            let targets = ["../outside", "../outside/file", "../outside/new", ".."];
            symlink(targets[number % targets.len()], to.join(name)).unwrap();
        }
        let before = state(&outside);
        Self { directory, before }
    }

    fn to(&self) -> PathBuf {
        self.directory.path().join("to")
    }

    fn unpack(&self, bytes: &[u8], format: ArchiveFormat) -> Result<UnpackSummary, EngineError> {
        let archive = self.directory.path().join("archive");
        fs::write(&archive, bytes).unwrap();
        let options = UnpackOptions {
            destinations: vec![(String::new(), self.to())],
            allow_devices: false,
            restore_owner: false,
            limits: Limits { entries: Some(100_000), bytes: Some(1 << 62) },
            ..UnpackOptions::default()
        };
        let started = Instant::now();
        let result = unpack(&archive, format, &options, &Silent, &Cancel::new());
        // Reading it in every other way must be as harmless.
        let _ = list_entries(&archive, format, &mut |_| Ok(()));
        let _ = survey(&archive, format, &Silent, &Cancel::new());
        let _ = extract_one(&archive, format, "x", &mut std::io::sink());
        assert!(started.elapsed() < PATIENCE);
        result
    }

    fn unharmed(&self, what: &str) {
        let outside = self.directory.path().join("outside");
        assert_eq!(state(&outside), self.before, "{what}");
        let mut here: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        here.sort();
        assert_eq!(here, ["archive", "outside", "to"], "{what}");
        assert!(!Path::new("/tmp/eider-hostile").exists(), "{what}");
    }
}

fn compressed(bytes: &[u8], format: ArchiveFormat) -> Vec<u8> {
    match format {
        ArchiveFormat::Tar => bytes.to_vec(),
        ArchiveFormat::TarGz => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ArchiveFormat::TarZst => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// The names that an attack could find something at: the first components in the archive.
fn names_to_plant(bytes: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = bytes
        .chunks_exact(512)
        .filter(|block| block[257..262] == *b"ustar")
        .filter_map(|block| {
            let name = block[..100].split(|byte| *byte == 0).next()?;
            let first = name.split(|byte| *byte == b'/').find(|part| !part.is_empty())?;
            let name = std::str::from_utf8(first).ok()?;
            (!matches!(name, "." | "..") && !name.contains("Pax")).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names.truncate(20);
    names
}

fn check(shapes: &[Shape]) {
    let mut ways = 0;
    for shape in shapes {
        for format in [ArchiveFormat::Tar, ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
            let bytes = compressed(&shape.bytes, format);
            for planted in [Vec::new(), names_to_plant(&shape.bytes)] {
                let empty = planted.is_empty();
                let place = Place::new(&planted);
                let result = place.unpack(&bytes, format);
                place.unharmed(shape.what);
                if shape.refused {
                    assert!(result.is_err(), "`{}` is taken as {format:?}: {result:?}", shape.what);
                }
                if let (true, Err(EngineError::Unsafe { .. })) = (empty, &result) {
                    let left = fs::read_dir(place.to()).unwrap().count();
                    assert_eq!(left, 0, "`{}` is refused after something was written", shape.what);
                }
                ways += 1;
            }
        }
    }
    let memory = fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
        })
        .unwrap_or(0_u64);
    assert!(memory < MEMORY, "{memory} KiB of memory");
    println!("{} shapes, {ways} ways, nothing harmed, {} MiB at most", shapes.len(), memory >> 10);
}

#[test]
fn hostile_names_and_links_change_nothing_outside() {
    let shapes = names_and_links();
    assert!(shapes.len() >= 60, "{}", shapes.len());
    check(&shapes);
}

#[test]
fn hostile_sizes_records_and_ends_are_refused() {
    let shapes = structure();
    assert!(shapes.len() >= 50, "{}", shapes.len());
    check(&shapes);
}

#[test]
fn hostile_compression_is_refused() {
    let tar = Tar::new().file("f").end();
    let gzip = compressed(&tar, ArchiveFormat::TarGz);
    let zstd = compressed(&tar, ArchiveFormat::TarZst);
    let (gz, zst) = (ArchiveFormat::TarGz, ArchiveFormat::TarZst);
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0xff;
        bytes
    };
    // A frame that wants two gigabytes of window, and one that wants a dictionary.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let dictionary =
        [0x28, 0xb5, 0x2f, 0xfd, 0x23, 1, 2, 3, 4, 4, 0x21, 0, 0, b'a', b'b', b'c', b'd'];
    let cases: Vec<(&str, ArchiveFormat, Vec<u8>)> = vec![
        ("cut gzip", gz, gzip[..gzip.len() / 2].to_vec()),
        ("gzip without its end", gz, gzip[..gzip.len() - 3].to_vec()),
        ("a wrong CRC", gz, flipped(&gzip, gzip.len() - 6)),
        ("a wrong length", gz, flipped(&gzip, gzip.len() - 2)),
        ("a wrong method", gz, flipped(&gzip, 2)),
        ("reserved flags", gz, {
            let mut b = gzip.clone();
            b[3] = 0xe0;
            b
        }),
        ("something behind gzip", gz, [&gzip[..], b"more"].concat()),
        ("gzip in gzip", gz, compressed(&gzip, gz)),
        ("cut zstd", zst, zstd[..zstd.len() / 2].to_vec()),
        ("something behind zstd", zst, [&zstd[..], b"more"].concat()),
        ("a window of two gigabytes", zst, window.to_vec()),
        ("a dictionary", zst, dictionary.to_vec()),
        (
            "a skippable frame without end",
            zst,
            [&zstd[..], &[0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255]].concat(),
        ),
        ("a bomb in gzip", gz, compressed(&bomb(), gz)),
        ("a bomb in zstd", zst, compressed(&bomb(), zst)),
    ];
    for (what, format, bytes) in &cases {
        let place = Place::new(&[]);
        let archive = place.directory.path().join("archive");
        fs::write(&archive, bytes).unwrap();
        let options = UnpackOptions {
            destinations: vec![(String::new(), place.to())],
            limits: Limits { entries: Some(100), bytes: Some(1 << 20) },
            ..UnpackOptions::default()
        };
        let result = unpack(&archive, *format, &options, &Silent, &Cancel::new());
        assert!(result.is_err(), "{what}");
        place.unharmed(what);
        assert_eq!(fs::read_dir(place.to()).unwrap().count(), 0, "{what}");
    }
    println!("{} ways of compressing, nothing harmed", cases.len());
}

/// 200 MiB of zeros in one file: 200 KiB compressed.
fn bomb() -> Vec<u8> {
    let size = 200 << 20;
    Tar::new().header(b'0', b"zeros", b"", size as u64).raw(&vec![0; size]).end()
}

/// Footers that point anywhere, each with a checksum that is right.
#[test]
fn hostile_footers_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    let roots = name_roots(&[root.to_str().unwrap().to_owned()]).unwrap();
    let mut count = 0;
    for (format, before_end) in
        [(ArchiveFormat::TarGz, 10), (ArchiveFormat::Tar, 0), (ArchiveFormat::TarZst, 0)]
    {
        let options = PackOptions { roots: roots.clone(), format, ..PackOptions::default() };
        let mut bytes = Vec::new();
        pack(&options, &mut bytes, &Silent, &Cancel::new()).unwrap();
        let magic = bytes.windows(8).rposition(|window| window == b"EIDERIDX").unwrap();
        if format != ArchiveFormat::TarZst {
            assert_eq!(magic, bytes.len() - before_end - 76);
        }
        let number =
            |at: usize| u64::from_le_bytes(bytes[magic + at..magic + at + 8].try_into().unwrap());
        let (offset, length, payload) = (number(16), number(24), number(32));
        let numbers = [
            0,
            1,
            2,
            75,
            76,
            77,
            offset,
            length,
            payload,
            offset + 1,
            offset - 1,
            length + 1,
            length - 1,
            payload + 1,
            payload - 1,
            1 << 31,
            1 << 32,
            1 << 40,
            u64::MAX / 2,
            u64::MAX - 1,
            u64::MAX,
        ];
        for field in [16, 24, 32] {
            for value in numbers {
                let mut broken = bytes.clone();
                broken[magic + field..magic + field + 8].copy_from_slice(&value.to_le_bytes());
                let sum = crc32fast::hash(&broken[magic..magic + 72]);
                broken[magic + 72..magic + 76].copy_from_slice(&sum.to_le_bytes());
                if broken == bytes {
                    continue;
                }
                let place = Place::new(&[]);
                let result = place.unpack(&broken, format);
                assert!(result.is_err(), "{format:?}: field {field} says {value}: {result:?}");
                place.unharmed("footer");
                count += 1;
            }
        }
    }
    println!("{count} footers, each refused");
}
