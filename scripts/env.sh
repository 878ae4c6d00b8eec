#!/bin/sh
# Prints the variables cargo needs to build Eider, for `eval "$(make -s env)"`.
#
# The build directory is outside the clone, so that a second clone starts warm. Without a prebuilt
# DuckDB, EIDER_CARGO_FLAGS asks for the one that is compiled in.
set -eu
cd "$(dirname "$0")/.."

cache=${EIDER_CACHE:-${HOME:?neither EIDER_CACHE nor HOME is set}/.cache/eider}
quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }
export_line() { printf 'export %s=%s\n' "$1" "$(quote "$2")"; }

status=0
directory=$(scripts/duckdb.sh) || status=$?
case $status in
0)
    export_line DUCKDB_LIB_DIR "$directory"
    # libduckdb-sys looks for the header here; its bindings are made beforehand, none is needed.
    export_line DUCKDB_INCLUDE_DIR "${DUCKDB_INCLUDE_DIR:-$directory}"
    export_line EIDER_CARGO_FLAGS "${EIDER_CARGO_FLAGS:-}"
    ;;
3)
    printf '%s\n' 'Falling back to --features bundled: DuckDB is compiled from its sources, about half an hour on two cores.' >&2
    export_line EIDER_CARGO_FLAGS "--features bundled ${EIDER_CARGO_FLAGS:-}"
    ;;
*) exit "$status" ;;
esac
export_line CARGO_TARGET_DIR "${CARGO_TARGET_DIR:-$cache/target}"
case :$PATH: in
*":$cache/tools/bin:"*) ;;
*) printf 'export PATH="$PATH":%s\n' "$(quote "$cache/tools/bin")" ;;
esac
