//! Archives that other projects test themselves with, fetched by their packages' own clients: what each
//! holds has to be what at least two of GNU tar, bsdtar and Python's tarfile say, with exceptions that
//! are named here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eider::engine::{Cancel, Silent};
use eider::engine::{detect_format, list_entries, survey};

/// Where we see something else than most, and why that is right.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("go/gnu-incremental.tar", CUT),
    ("go/gnu-multi-hdrs.tar", CUT),
    ("go/nil-uid.tar", CUT),
    ("go/pax-pos-size-file.tar", CUT),
    ("go/ustar-file-reg.tar", CUT),
    ("archives/empty_filename.tar", CUT),
    (
        "go/hdr-only.tar",
        "directories with a size: programs disagree on what follows, GNU tar fails",
    ),
    (
        "tests/archivetestdata/testtar.tar",
        "a directory with a size, as in go/hdr-only.tar: refused for what may hide behind it",
    ),
    ("go/pax-bad-mtime-file.tar", "a time that is no number is damage, not the time 0"),
    ("go/pax-global-records.tar", "a name for every entry only ever serves to hide entries"),
    ("go/pax-multi-hdrs.tar", "two extended headers for one entry; bsdtar refuses it too"),
    ("go/pax-nul-path.tar", "the NUL is listed as it stands, and refused when it is unpacked"),
    ("go/pax-nul-xattrs.tar", "the record is malformed by its name only; others refuse the entry"),
];

/// Every archive of this program ends with its end blocks: what lacks them has lost something.
const CUT: &str = "it ends without its end blocks";

fn cache() -> PathBuf {
    let cache = std::env::var_os("EIDER_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/eider"));
    cache.or(home).unwrap_or_else(std::env::temp_dir).join("corpora-1")
}

/// Fetches what is not there yet; says what cannot be had.
fn fetch(name: &str, script: &str) -> Option<PathBuf> {
    let place = cache().join(name);
    if place.join(".complete").exists() {
        return Some(place);
    }
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).unwrap();
    let output = Command::new("bash").args(["-euc", script]).current_dir(&place).output().unwrap();
    if !output.status.success() {
        println!("SKIPPED: {name} cannot be fetched: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    fs::write(place.join(".complete"), "").unwrap();
    Some(place)
}

fn archives(place: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![place.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Names in an archive as a program lists them, sorted, without final slashes; nothing if it fails.
type Listing = Option<Vec<Vec<u8>>>;

fn tidy<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        names.filter(|name| !name.is_empty()).map(|name| trim(name).to_vec()).collect();
    names.sort();
    names
}

fn trim(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    &name[..end]
}

fn listed(program: &str, arguments: &[&str], separator: u8) -> Listing {
    let output = Command::new("timeout")
        .args(["20", program])
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    output.status.success().then(|| tidy(output.stdout.split(|byte| *byte == separator)))
}

const PYTHON: &str = "
import os, sys, tarfile
for member in tarfile.open(sys.argv[1], errors='surrogateescape'):
    sys.stdout.buffer.write(os.fsencode(member.name) + b'\\0')
";

fn ours(path: &Path) -> Listing {
    let format = detect_format(path).unwrap();
    let mut names = Vec::new();
    let result = list_entries(path, format, &mut |entry| {
        names.push(entry.name.clone());
        Ok(())
    });
    let _ = survey(path, format, &Silent, &Cancel::new());
    result.ok().map(|()| tidy(names.iter().map(Vec::as_slice)))
}

#[test]
fn foreign_corpora_hold_what_other_programs_say() {
    let sources = [
        (
            "go",
            "apt-get download -qq golang-1.19-src && dpkg-deb -x golang-*.deb x && \
             cp x/usr/share/go-1.19/src/archive/tar/testdata/* . && rm -r x *.deb",
        ),
        (
            "astral-tokio-tar",
            "mkdir -p p/src && touch p/src/lib.rs && printf '[package]\\nname=\"p\"\\nversion=\"0.0.0\"\\n\
             edition=\"2021\"\\n[dependencies]\\nastral-tokio-tar=\"=0.7.0\"\\n' > p/Cargo.toml && \
             cd p && cargo vendor -q ../v >/dev/null && cp -r ../v/astral-tokio-tar/tests/archives .. && \
             cd .. && rm -r p v",
        ),
        (
            "backports.tarfile",
            "python3 -m pip download -q --no-deps --no-binary :all: backports.tarfile==1.2.0 && \
             tar xzf backports*.tar.gz && rm backports*.tar.gz",
        ),
    ];
    let mut wrong = Vec::new();
    let (mut count, mut distinct) = (0, BTreeSet::new());
    for (name, script) in sources {
        let Some(place) = fetch(name, script) else { continue };
        for path in archives(&place) {
            let text = path.to_str().unwrap();
            let shown = path.strip_prefix(cache()).unwrap().display().to_string();
            let mine = ours(&path);
            let others = [
                listed("tar", &["--quoting-style=literal", "-tf", text], b'\n'),
                listed("bsdtar", &["-tf", text], b'\n'),
                listed("python3", &["-c", PYTHON, text], 0),
            ];
            let agreeing = others.iter().filter(|other| **other == mine).count();
            count += 1;
            distinct.insert(fs::read(&path).unwrap());
            if agreeing < 2 && !EXCEPTIONS.iter().any(|(name, _)| shown.ends_with(name)) {
                let lengths = |listing: &Listing| listing.as_ref().map(Vec::len);
                let others: Vec<_> = others.iter().map(lengths).collect();
                wrong.push(format!(
                    "{shown}: ours {:?}, GNU tar, bsdtar, Python {others:?}",
                    lengths(&mine)
                ));
            }
        }
    }
    // Each needs a registry, which is not everywhere.
    assert!(count > 0 || std::env::var_os("CI").is_none(), "no corpus could be fetched");
    println!("{count} archives, {} distinct, {} exceptions", distinct.len(), EXCEPTIONS.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
