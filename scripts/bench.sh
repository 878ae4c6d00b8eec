#!/bin/bash
# Builds the engine in release, installs the peers where that needs no question (as root, with apt),
# and compares. Arguments go to benches/run.py, such as `--only zstd` or `--rounds 1`.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=(pigz:pigz zstd:zstd restic:restic borg:borgbackup bsdtar:libarchive-tools time:time)
packages=()
for pair in "${peers[@]}"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
if ((${#packages[@]})) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 || true
fi

# The engine's two rooms alone: no need of the whole program.
binary=$(cargo build --locked --release --package eider-engine --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["name"] == "archive":
        print(found["executable"])')
exec python3 benches/run.py "$binary" --output docs/reference/benchmarks.md "$@"
