#!/bin/sh
# Finds or fetches the DuckDB library that Eider links with, and prints the directory it is in.
#
# Order: DUCKDB_LIB_DIR; the cache directory; DuckDB's own release; the npm package of DuckDB's Node
# binding, which carries the same library. A library whose SHA-256 is known here must have it. One
# whose SHA-256 is not known must be loadable and answer with the right version; its SHA-256 is then
# written down, and a later change of the file is noticed.
#
# Exit codes: 0 the directory is on standard output; 3 there is none to be had (build with
# `--features bundled`); 1 anything else. Safe to run several times at once.
set -eu

version=1.5.6
npm_revision=1.5.6-r.1

say() { printf 'duckdb.sh: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# The crate's version has DuckDB's inside: 1.10506.x is DuckDB 1.5.6.
grep -q 'duckdb = { version = "=1\.10506\.' "$root/Cargo.toml" ||
    die "Cargo.toml no longer pins DuckDB $version: update scripts/duckdb.sh and build.rs with it"
grep -q "DUCKDB_VERSION: &str = \"$version\"" "$root/build.rs" ||
    die "build.rs names another DuckDB than $version"

if [ -n "${DUCKDB_LIB_DIR:-}" ]; then
    for name in libduckdb.so libduckdb.dylib libduckdb_static.a; do
        if [ -e "$DUCKDB_LIB_DIR/$name" ]; then
            printf '%s\n' "$DUCKDB_LIB_DIR"
            exit 0
        fi
    done
    die "DUCKDB_LIB_DIR=$DUCKDB_LIB_DIR has no libduckdb in it: unset it to have one fetched"
fi

cache=${EIDER_CACHE:-${HOME:?neither EIDER_CACHE nor HOME is set}/.cache/eider}
directory=$cache/duckdb-$version
library=$directory/libduckdb.so
stamp=$directory/libduckdb.stamp

platform=$(uname -s)-$(uname -m)
case $platform in
Linux-x86_64)
    release_name=libduckdb-linux-amd64.zip
    npm_name=@duckdb/node-bindings-linux-x64
    # Of the file in the npm package. The release's library may be another build of the same
    # version; its SHA-256 is not known here, so it is judged by the version it reports.
    known_sha256=3f4962cdd266eab2b479a5b5a4a6d063d279b2954ae814ed00385d553b747633
    ;;
Linux-aarch64)
    release_name=libduckdb-linux-arm64.zip
    npm_name=@duckdb/node-bindings-linux-arm64
    known_sha256=
    ;;
*)
    say "there is no prebuilt DuckDB for $platform that this script knows of"
    say "install libduckdb $version and set DUCKDB_LIB_DIR, or build it: cargo build --features bundled (half an hour)"
    exit 3
    ;;
esac

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }
size_and_time_of() { stat -c '%s %Y' "$1"; }

# Loads the library by a three-line C program; a C compiler is there, Rust links with it.
reported_version() {
    probe=$work/probe
    printf '%s\n' 'extern const char *duckdb_library_version(void); int puts(const char *);' \
        'int main(void) { return puts(duckdb_library_version()) < 0; }' >"$probe.c"
    "${CC:-cc}" -o "$probe" "$probe.c" "$1" -Wl,-rpath,"$(dirname "$1")" >&2 && "$probe"
}

# Accepts or refuses the file $1, called $2 in messages.
is_right() {
    sha256=$(sha256_of "$1")
    if [ -n "$known_sha256" ] && [ "$sha256" = "$known_sha256" ]; then
        return 0
    fi
    if [ "$2" != release ] && [ -n "$known_sha256" ]; then
        say "$1: SHA-256 is $sha256, expected $known_sha256"
        return 1
    fi
    reported=$(reported_version "$1") || reported='nothing (it cannot be loaded)'
    if [ "$reported" = "v$version" ]; then
        say "$1: its SHA-256 ($sha256) is not one known to this script; it was fetched over TLS and reports v$version"
        return 0
    fi
    say "$1: reports $reported, expected v$version"
    return 1
}

# The stamp makes the usual run cost two stats instead of hashing 70 MB; it holds what was accepted.
if [ -f "$library" ] && [ -f "$stamp" ]; then
    read -r stamped_size stamped_time stamped_sha256 <"$stamp" || true
    if [ "$(size_and_time_of "$library")" = "$stamped_size $stamped_time" ]; then
        printf '%s\n' "$directory"
        exit 0
    fi
fi

mkdir -p "$directory"
# What a run that was killed left behind.
find "$directory" -maxdepth 1 -name '.fetch.*' -mmin +120 -exec rm -rf {} + 2>/dev/null || true
work=$(mktemp -d "$directory/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

write_stamp() {
    # npm gives every file the same date of long ago, by which no change could be noticed.
    touch "$1"
    printf '%s %s\n' "$(size_and_time_of "$1")" "$(sha256_of "$1")" >"$work/stamp"
    mv -f "$work/stamp" "$stamp"
}

if [ -f "$library" ]; then
    if [ "$(sha256_of "$library")" = "${stamped_sha256:-$known_sha256}" ]; then
        write_stamp "$library"
        printf '%s\n' "$directory"
        exit 0
    fi
    say "$library is not the file that was checked: fetching it again"
fi

# Each source leaves $work/libduckdb.so, or fails.
from_release() {
    command -v curl >/dev/null || return 1
    url=https://github.com/duckdb/duckdb/releases/download/v$version/$release_name
    curl --fail --silent --location --proto '=https' --connect-timeout 5 --max-time 600 \
        -o "$work/release.zip" "$url" || return 1
    if command -v unzip >/dev/null; then
        unzip -q -o "$work/release.zip" libduckdb.so -d "$work"
    elif command -v bsdtar >/dev/null; then
        bsdtar -xf "$work/release.zip" -C "$work" libduckdb.so
    elif command -v python3 >/dev/null; then
        python3 -m zipfile -e "$work/release.zip" "$work"
    else
        say "unzip, bsdtar or python3 is needed to unpack DuckDB's release"
        return 1
    fi
}
from_npm() {
    command -v npm >/dev/null || { say "npm is not installed"; return 1; }
    # --ignore-scripts: nothing of the package is run, it is only unpacked.
    (cd "$work" && npm pack --silent --ignore-scripts "$npm_name@$npm_revision" >/dev/null 2>npm.log) ||
        { tail -3 "$work/npm.log" >&2; return 1; }
    tar -xzf "$work"/*.tgz -C "$work" package/libduckdb.so && mv "$work/package/libduckdb.so" "$work/"
}

for source in release npm; do
    say "fetching DuckDB $version ($source)"
    rm -rf "$work/libduckdb.so"
    if "from_$source" && [ -s "$work/libduckdb.so" ]; then
        if is_right "$work/libduckdb.so" "$source"; then
            # Renames within one directory: another run sees the old state or the new one.
            mv -f "$work/libduckdb.so" "$library"
            write_stamp "$library"
            printf '%s\n' "$directory"
            exit 0
        fi
    else
        say "not to be had from there"
    fi
done
say "no prebuilt DuckDB $version can be had: it has to be compiled (--features bundled), which takes about half an hour on two cores"
exit 3
