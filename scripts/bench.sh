#!/bin/bash
# Builds the benchmark in release, installs the peers where that needs no question (as root, with apt),
# and compares. Arguments go to benches/run.py, such as `--only zstd` or `--rounds 1`.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=(pigz:pigz zstd:zstd restic:restic borg:borgbackup bsdtar:libarchive-tools)
packages=()
for pair in "${peers[@]}"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
if ((${#packages[@]})) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || true
fi

read -r -a flags <<<"${EIDER_CARGO_FLAGS:-}"
binary=$(cargo bench --locked --no-run --bench archive "${flags[@]}" --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["name"] == "archive":
        print(found["executable"])')
export LD_LIBRARY_PATH="${DUCKDB_LIB_DIR:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec python3 benches/run.py "$binary" --output docs/reference/benchmarks.md "$@"
