#!/bin/bash
# Fuzzes the archive engine: `scripts/fuzz.sh [SECONDS [TARGET...]]`, one target after the other, a minute each
# unless told otherwise. Needs a nightly toolchain (`rustup toolchain install nightly --profile minimal`) and
# a C++ compiler, but not cargo-fuzz: what that would pass to rustc is below. The corpus begins with the
# golden archives and stays in fuzz/corpus; what was found is in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]})) || targets=(reader index manifest)
toolchain=${EIDER_FUZZ_TOOLCHAIN:-nightly}
if ! cargo "+$toolchain" --version >/dev/null 2>&1; then
    echo "fuzz: no toolchain $toolchain: rustup toolchain install $toolchain --profile minimal" >&2
    exit 1
fi
build=${CARGO_TARGET_DIR:-fuzz/target}/fuzz
# The same versions of everything as the program has.
cp Cargo.lock fuzz/Cargo.lock
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz would pass for every crate, for the engine and the targets only; the others are built as
# quickly as possible, but for those that every input goes through.
flags='["-Cpasses=sancov-module", "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters", "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares", "-Zsanitizer=address", "-Cdebug-assertions=on",
    "-Coverflow-checks=on", "--cfg=fuzzing"]'
options=(--config 'profile.release.package."*".opt-level=0')
for crate in eider-engine blake3 crc32fast flate2 libdeflate-sys libfuzzer-sys serde_json sha2 zlib-rs zstd-sys; do
    options+=(--config "profile.release.package.$crate.opt-level=3")
done
for crate in eider-engine eider-fuzz; do
    options+=(--config "profile.release.package.$crate.rustflags=${flags//$'\n'/}")
done
# A target of its own, so that build scripts and macros are built without all that.
cargo "+$toolchain" build -Zprofile-rustflags --manifest-path fuzz/Cargo.toml --target-dir "$build" \
    --target "$host" --release --config 'profile.release.debug="line-tables-only"' "${options[@]}"
binaries=$build/$host/release

python3 fuzz/seed.py tests/fixtures/archives fuzz/corpus
for target in "${targets[@]}"; do
    mkdir -p "fuzz/artifacts/$target"
    printf '\n==> %s, %s s\n' "$target" "$seconds"
    # An input that takes ten seconds or a gigabyte is a finding too.
    nice "$binaries/$target" "fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 -verbosity=1 2>&1 |
        tee "fuzz/artifacts/$target.log" | grep -E 'ERROR|SUMMARY|stat::|Done' || true
    ! grep -qE '^==[0-9]+==.*ERROR' "fuzz/artifacts/$target.log"
done
