#!/bin/bash
# Runs every test. Needs the variables of scripts/env.sh; `make test` sets them.
#
# EIDER_REQUIRE, a comma-separated list of `docker`, `kubernetes` and `tools`, turns a skip of that
# part into a failure; without it, what cannot be run here is skipped and named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

required() { [[ ",${EIDER_REQUIRE:-}," == *",$1,"* ]]; }
skipped=()

# A suite of a real engine: skipped if the engine does not answer, failed if it was required.
engine() {
    local name=$1 probe=$2
    [[ -e tests/it/$name.rs || -d tests/it/$name ]] || return 0
    if timeout 20 bash -c "$probe" >/dev/null 2>&1; then
        return 0
    fi
    if required "$name"; then
        echo "test: EIDER_REQUIRE names $name, but it does not answer ($probe)" >&2
        exit 1
    fi
    skipped+=("$name: it does not answer ($probe)")
}
engine docker 'docker info'
engine kubernetes 'kubectl version --request-timeout=15s'

# The foreign judges (rsync, promtool, bsdtar, ...): without one, tests that need it skip themselves.
if ! missing=$(scripts/test-tools.sh); then
    if required tools; then
        echo "test: EIDER_REQUIRE names tools, but these are missing: $missing" >&2
        exit 1
    fi
    skipped+=("tests judged by: $missing")
fi

read -r -a flags <<<"${EIDER_CARGO_FLAGS:-}"
# nextest leaves examples in the documentation out; and they are linked without the rpath.
# First, so that the output ends with the real count.
if [[ $# == 0 ]]; then
    LD_LIBRARY_PATH="${DUCKDB_LIB_DIR:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
        cargo test --quiet --locked --doc "${flags[@]}"
fi

if command -v cargo-nextest >/dev/null; then
    cargo nextest run --locked "${flags[@]}" "$@"
else
    echo 'test: cargo-nextest is not installed, running cargo test' >&2
    cargo test --locked --lib --bins --tests "${flags[@]}" "$@"
fi

if ((${#skipped[@]})); then
    printf '\n================ SKIPPED ================\n'
    printf '  %s\n' "${skipped[@]}"
    printf '  (EIDER_REQUIRE=docker,kubernetes,tools makes a skip a failure)\n'
    printf '=========================================\n'
fi
