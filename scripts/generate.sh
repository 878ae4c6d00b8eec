#!/bin/sh
# Writes the generated files, or with --check fails if one is not up to date.
# Needs the variables of scripts/env.sh; `make generate` and `make generate-check` set them.
set -eu
cd "$(dirname "$0")/.."

# EIDER_CARGO_FLAGS is a list of words.
# shellcheck disable=SC2086
cargo build --quiet --locked ${EIDER_CARGO_FLAGS:-}
status=0
for what in crds docs; do
    "$CARGO_TARGET_DIR/debug/eider" generate "$what" "$@" || status=1
done
if [ "$status" != 0 ] && [ "${1:-}" = --check ]; then
    echo 'generated files are not up to date: run `make generate` and commit the result' >&2
fi
exit "$status"
