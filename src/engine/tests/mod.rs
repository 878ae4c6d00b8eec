//! The engine as a whole, judged by other programs wherever there is one.

mod caching;
mod changing;
mod corruption;
mod foreign;
mod hostile;
mod incremental;
mod layout;
mod reading;
mod roundtrip;
mod salvaging;
mod selecting;
mod storing;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;

use super::*;
use crate::spec::{ArchiveFormat, BackupTrigger, BackupType, DeletionPolicy, Target};

const FORMATS: [ArchiveFormat; 3] =
    [ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Tar];

fn options(root: &Path, format: ArchiveFormat) -> PackOptions {
    let roots = name_roots(&[root.to_str().unwrap().to_owned()]).unwrap();
    PackOptions { roots, format, ..PackOptions::default() }
}

/// Packs into a file beside the root and returns its path.
fn pack_to(options: &PackOptions, path: &Path) -> Result<PackSummary, EngineError> {
    let mut file = std::fs::File::create(path).unwrap();
    pack(options, &mut file, &Silent, &Cancel::new())
}

/// Unpacks the root `name` into a fresh directory.
fn unpack_to(archive: &Path, name: &str, to: &Path) -> Result<UnpackSummary, EngineError> {
    std::fs::create_dir_all(to).unwrap();
    let format = detect_format(archive).unwrap();
    let options = UnpackOptions {
        destinations: vec![(name.to_owned(), to.to_owned())],
        ..UnpackOptions::default()
    };
    unpack(archive, format, &options, &Silent, &Cancel::new())
}

fn names_in(archive: &Path) -> Vec<String> {
    let mut names = Vec::new();
    list_entries(archive, detect_format(archive).unwrap(), &mut |entry| {
        names.push(entry.display_name());
        Ok(())
    })
    .unwrap();
    names.sort();
    names
}

/// Runs a program; `None`, said loudly, if it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).env("LC_ALL", "C").output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {text}{errors}");
            Some(text)
        }
        Err(error) => {
            println!("SKIPPED: {program} cannot be run here: {error}");
            None
        }
    }
}

fn shell(directory: &Path, script: &str) {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Asserts by rsync that two trees are the same in every attribute.
fn assert_same_by_rsync(one: &Path, other: &Path) {
    let (one, other) = (format!("{}/", one.display()), format!("{}/", other.display()));
    let differences = run(
        "rsync",
        &[
            "-aHAXn",
            "--checksum",
            "--delete",
            "--itemize-changes",
            "--modify-window=-1",
            &one,
            &other,
        ],
    );
    assert_eq!(differences.unwrap_or_default(), "");
}

/// Everything about a tree that must survive, by name; hard links as the first name they share.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn visit(
        path: &Path,
        root: &Path,
        out: &mut BTreeMap<PathBuf, String>,
        links: &mut BTreeMap<(u64, u64), PathBuf>,
    ) {
        let meta = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let kind = meta.file_type();
        let mut text = format!(
            "{:o} {}:{} {}.{}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if kind.is_dir() {
            let mut children: Vec<_> =
                std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            for child in children {
                visit(&child, root, out, links);
            }
        } else {
            let first =
                links.entry((meta.dev(), meta.ino())).or_insert_with(|| relative.clone()).clone();
            write!(text, " same as {}", first.display()).unwrap();
            if kind.is_file() {
                let data = std::fs::read(path).unwrap();
                write!(text, " {} {}", data.len(), blake3::hash(&data)).unwrap();
            } else if kind.is_symlink() {
                write!(text, " -> {}", std::fs::read_link(path).unwrap().display()).unwrap();
            } else if !kind.is_fifo() {
                write!(text, " device {}", meta.rdev()).unwrap();
            }
        }
        out.insert(relative, text);
    }
    let mut out = BTreeMap::new();
    visit(root, root, &mut out, &mut BTreeMap::new());
    out
}

fn manifest(name: &str, summary: &PackSummary) -> Manifest {
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        tool: "eider test".into(),
        name: name.into(),
        format: detect_extension(name),
        namespace: "default".into(),
        backup: "nightly".into(),
        generation: Some(3),
        trigger: BackupTrigger::default(),
        backup_type: BackupType::default(),
        target: Target::default(),
        target_summary: "host /data".into(),
        service_version: None,
        description: Some("ein \"Wort\"".into()),
        parent: None,
        exclude: Vec::new(),
        cross_file_systems: false,
        schedule: None,
        store: "main".into(),
        deletion_policy: DeletionPolicy::default(),
        host: "here".into(),
        created_at: Timestamp::UNIX_EPOCH,
        completed_at: None,
        expires_at: None,
        verified_at: None,
        duration_seconds: 1.25,
        downtime_seconds: None,
        definitions: None,
        roots: vec![],
        counts: Counts::default(),
        source_bytes: 0,
        size_bytes: 0,
        sha256: String::new(),
        content_digest: String::new(),
        warnings: vec![],
        warning_count: 0,
        other: serde_json::Map::new(),
        digest: ManifestDigest::default(),
    };
    manifest.record(summary);
    manifest
}

fn detect_extension(name: &str) -> ArchiveFormat {
    FORMATS
        .into_iter()
        .find(|format| name.ends_with(&format!(".{}", format.extension())))
        .unwrap_or_default()
}

/// A tree with one of everything that has to survive.
fn build_tree(root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    shell(
        root,
        r"
        mkdir -p empty a/b/c 'with space' deep
        printf hello > a/file; chmod 755 a/file
        : > a/zero
        head -c 3000000 /dev/urandom > a/big
        ln a/file a/b/link; ln a/file a/b/c/link2
        ln -s nowhere a/dangling; ln -s / a/absolute; ln -s b a/todir
        ln a/dangling a/dangling2 2>/dev/null || true
        mkfifo a/pipe; chmod 640 a/pipe
        truncate -s 20M a/hole; printf x | dd of=a/hole bs=1 seek=10000000 conv=notrunc 2>/dev/null
        printf y | dd of=a/hole bs=1 conv=notrunc 2>/dev/null
        truncate -s 5M a/allhole
        printf t > 'with space/tab	and
newline'
        chmod 1777 empty; chmod 755 a/b; chmod 400 a/zero
        touch -d '1969-12-31 23:59:58.25 UTC' a/b/c/link2
        touch -d '2300-01-01 UTC' a/big
        touch -h -d '2001-02-03 04:05:06.123456789 UTC' a/dangling
        n=$(printf 'd%.0s' $(seq 1 120)); mkdir -p deep/$n/$n/$n; echo z > deep/$n/$n/$n/$(printf 'f%.0s' $(seq 1 255))
        ln -s $(printf 'x%.0s' $(seq 1 300)) deep/longlink
        touch -d '2020-01-01 00:00:00.5 UTC' a empty
        ",
    );
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\xfe \x01 =%name");
    std::fs::write(root.join(odd), "odd").unwrap();
    if rustix::process::geteuid().is_root() {
        shell(
            root,
            "mknod a/null c 1 3; mknod a/blk b 7 200; chown 12345:54321 a/big; \
             chown -h 7:8 a/dangling; chown 3000000:4000000 a/b/c; \
             chmod 4755 a/file; chmod 2755 a/b; chmod 000 a/zero",
        );
        run(
            "setfattr",
            &["-n", "user.eider=x", "-v", "va\\012lue", root.join("a/big").to_str().unwrap()],
        );
        run("setfattr", &["-n", "user.empty", root.join("a").to_str().unwrap()]);
        run(
            "setfattr",
            &["-n", "trusted.t", "-v", "sym", "-h", root.join("a/dangling").to_str().unwrap()],
        );
        run("setfacl", &["-m", "u:1234:rwx,d:g:77:r", root.join("a/b").to_str().unwrap()]);
        shell(
            root,
            "if command -v setcap >/dev/null; then setcap cap_net_bind_service=ep a/big; fi",
        );
    }
}
