//! The archive engine alone, for `make bench`: what a whole command does, from the walk to the fsync
//! of the manifest's directory, without catalog and documents. Driven by `benches/run.py`.
//!
//! `archive pack ROOT STORE NAME [LEVEL [PARENT]]`, `archive restore STORE NAME TO`, `archive list
//! STORE NAME`, `archive one STORE NAME ENTRY`, `archive verify STORE NAME`

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

use std::path::Path;
use std::process::ExitCode;

use eider::engine::{
    Cancel, EngineError, LocalStore, Manifest, PackOptions, ParentArchive, ParentOptions, Silent,
    extract_one, extract_tree, list_entries, name_roots, pack, verify,
};
use eider::spec::{ArchiveFormat, VerifyMode};
use jiff::Timestamp;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("usage: see benches/run.py; `make bench` runs it");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<bool, EngineError> {
    let cancel = Cancel::new();
    match words {
        ["pack", root, store, name, rest @ ..] => {
            let store = LocalStore::open(Path::new(store), "bench", true)?;
            let options = PackOptions {
                roots: name_roots(&[(*root).to_owned()])?,
                format: format_of(name),
                level: rest.first().and_then(|level| level.parse().ok()),
                parent: rest.get(1).map(|parent| parent_of(&store, parent)).transpose()?,
                ..PackOptions::default()
            };
            let started = Timestamp::now();
            let mut pending = store.begin(name)?;
            let summary = pack(&options, &mut pending, &Silent, &cancel)?;
            let mut manifest = Manifest::new(pending.name(), options.format, &summary, started);
            manifest.parent = options.parent.map(|parent| parent.archive);
            pending.seal(&manifest)?;
            verify(&store, name, VerifyMode::Quick, &Silent, &cancel)?;
            println!("{} entries, {} bytes", summary.counts.entries, summary.archive_bytes);
        }
        ["restore", store, name, to] => {
            let path = Path::new(store).join(name);
            extract_tree(&path, format_of(name), &[], Path::new(to), &Silent, &cancel)?;
        }
        ["list", store, name] => {
            let mut bytes = 0;
            list_entries(&Path::new(store).join(name), format_of(name), &mut |entry| {
                bytes += entry.name.len();
                Ok(())
            })?;
            println!("{bytes}");
        }
        ["one", store, name, entry] => {
            let path = Path::new(store).join(name);
            extract_one(&path, format_of(name), entry, &mut std::io::stdout().lock())?;
        }
        ["verify", store, name] => {
            let store = LocalStore::open(Path::new(store), "bench", false)?;
            verify(&store, name, VerifyMode::Full, &Silent, &cancel)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn parent_of(store: &LocalStore, name: &str) -> Result<ParentOptions, EngineError> {
    let manifest = store.read_manifest(name)?;
    Ok(ParentOptions {
        path: store.archive_path(name),
        format: manifest.format,
        archive: ParentArchive { name: manifest.name, sha256: manifest.sha256 },
        started: manifest.created_at.as_second(),
    })
}

fn format_of(name: &str) -> ArchiveFormat {
    [ArchiveFormat::TarGz, ArchiveFormat::TarZst]
        .into_iter()
        .find(|format| name.ends_with(format.extension()))
        .unwrap_or(ArchiveFormat::Tar)
}
