//! Tells the linker where the DuckDB library is, and the program what it was built from.
//!
//! May not compile anything and may not touch the network: fetching DuckDB is the work of
//! `scripts/duckdb.sh`, which `make` runs. Must work in a source tree without git.

// A build script speaks to cargo over standard output.
#![allow(clippy::print_stdout)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that `Cargo.toml` pins, as in the cache directory's name. `scripts/duckdb.sh` has it
/// too, and fails when the two differ.
const DUCKDB_VERSION: &str = "1.5.6";

/// The names under which a DuckDB library can be linked.
const LIBRARY_NAMES: [&str; 3] = ["libduckdb.so", "libduckdb.dylib", "libduckdb_static.a"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    build_facts();
    pack_relocations();
    if env::var_os("CARGO_FEATURE_BUNDLED").is_none() {
        link_duckdb();
    }
}

/// Sets `EIDER_COMMIT`, `EIDER_TARGET` and `EIDER_RUSTC` for `eider version`.
fn build_facts() {
    // A packager who builds from an archive without git may name the commit.
    println!("cargo::rerun-if-env-changed=EIDER_COMMIT");
    let commit = env::var("EIDER_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(commit);
    println!("cargo::rustc-env=EIDER_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    println!(
        "cargo::rustc-env=EIDER_TARGET={}",
        env::var("TARGET").as_deref().unwrap_or("unknown")
    );
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = output(Command::new(rustc).arg("--version"));
    println!("cargo::rustc-env=EIDER_RUSTC={}", version.as_deref().unwrap_or("unknown"));
}

/// Has the linker write relative relocations in the packed form (`DT_RELR`): two megabytes that the
/// loader would read, and that stay resident, become twenty kilobytes. The C library reads it from
/// 2.36 on, hence only where the program is to run on this machine; linkers that do not know the word
/// say so and go on.
fn pack_relocations() {
    let target = env::var("TARGET").unwrap_or_default();
    if !target.ends_with("-linux-gnu") || env::var("HOST").as_ref() != Ok(&target) {
        return;
    }
    let said = output(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default();
    let version = said.rsplit(' ').next().unwrap_or_default().split('.');
    let numbers: Vec<u32> = version.filter_map(|part| part.parse().ok()).collect();
    if numbers.as_slice() >= [2, 36].as_slice() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The short id of the checked-out commit, if this is a git work tree of Eider itself.
fn commit() -> Option<String> {
    // An unpacked source archive inside somebody else's repository must not take that one's commit.
    if !Path::new(".git").exists() {
        return None;
    }
    let commit = output(git(&["rev-parse", "--short=12", "HEAD"]))?;
    // HEAD's log grows with every commit and every switch, in a linked work tree as well, and stays
    // where it is when git packs its references.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = output(git(&["rev-parse", "--git-path", file]))
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments);
    command
}

/// The trimmed standard output of a command, if it could be run, succeeded and said something.
fn output(mut command: impl std::borrow::BorrowMut<Command>) -> Option<String> {
    let output = command.borrow_mut().output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// Makes the binary find `libduckdb.so` from wherever it is started, or says how to get one.
fn link_duckdb() {
    for name in ["DUCKDB_LIB_DIR", "DUCKDB_DOWNLOAD_LIB", "EIDER_CACHE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // Beside the binary, and in lib/ beside its bin/: how releases and images lay it out.
    rpath("$ORIGIN");
    rpath("$ORIGIN/../lib");
    match env::var_os("DUCKDB_LIB_DIR") {
        Some(directory) => {
            let directory = PathBuf::from(directory);
            if has_library(&directory) {
                rpath(&directory.to_string_lossy());
            } else {
                println!(
                    "cargo::error=DUCKDB_LIB_DIR={}: there is no libduckdb in this directory. \
                     Run `eval \"$(make -s env)\"`, which fetches one and sets the variable",
                    directory.display()
                );
            }
        }
        None => match cache_directory() {
            // libduckdb-sys only asks for `-lduckdb` in this case; the search path is given here, so
            // that plain cargo works in a tree where `make build` ran once.
            Some(directory) if has_library(&directory) => {
                println!("cargo::rerun-if-changed={}", directory.display());
                println!("cargo::rustc-link-search=native={}", directory.display());
                rpath(&directory.to_string_lossy());
            }
            _ if found_elsewhere() => {}
            _ => println!(
                "cargo::error=no libduckdb {DUCKDB_VERSION} to link with: run `make build`, or \
                 `eval \"$(make -s env)\"` before cargo; or build DuckDB from its sources with \
                 `--features bundled`, which takes about half an hour on two cores"
            ),
        },
    }
}

fn rpath(directory: &str) {
    println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
}

fn has_library(directory: &Path) -> bool {
    LIBRARY_NAMES.iter().any(|name| directory.join(name).exists())
}

/// Where `scripts/duckdb.sh` keeps the library.
fn cache_directory() -> Option<PathBuf> {
    let cache = env::var_os("EIDER_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/eider")))?;
    Some(cache.join(format!("duckdb-{DUCKDB_VERSION}")))
}

/// Whether the linker may find a library by itself: one in the system's directories, or one that
/// libduckdb-sys downloads. A cross build has search paths this script cannot see, and is let through.
fn found_elsewhere() -> bool {
    if env::var("TARGET") != env::var("HOST") || env::var_os("DUCKDB_DOWNLOAD_LIB").is_some() {
        return true;
    }
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    LIBRARY_NAMES.iter().any(|name| {
        // The compiler answers with the bare name when it does not know the file.
        output(Command::new(&compiler).arg(format!("-print-file-name={name}")))
            .is_some_and(|path| Path::new(&path).is_absolute())
    })
}
