#!/bin/sh
# Writes the generated files, or with --check fails if one is not up to date.
# Needs the variables of scripts/env.sh; `make generate` and `make generate-check` set them.
set -eu
cd "$(dirname "$0")/.."

# EIDER_CARGO_FLAGS is a list of words.
# shellcheck disable=SC2086
cargo build --quiet --locked ${EIDER_CARGO_FLAGS:-}
status=0
for what in crds rbac docs; do
    "$CARGO_TARGET_DIR/debug/eider" generate "$what" "$@" || status=1
done
# A chart has to hold its files itself, and charts with links in them are refused by Argo CD.
rules=deploy/helm/eider/files/rules.yaml
if ! cmp -s deploy/monitoring/rules.yaml "$rules"; then
    if [ "${1:-}" = --check ]; then
        echo "not up to date: $rules" >&2
        status=1
    else
        cp deploy/monitoring/rules.yaml "$rules"
    fi
fi
if [ "$status" != 0 ] && [ "${1:-}" = --check ]; then
    echo 'generated files are not up to date: run `make generate` and commit the result' >&2
fi
exit "$status"
