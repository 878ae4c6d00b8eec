#!/bin/sh
# Has Docker Compose 2 or newer for the tests: the one that is installed, or else Debian's package of a later
# release than this machine's, unpacked beside the other tools and not installed. It needs nothing but a C
# library. Exit code 1 if there is none in the end.
set -eu

cache=${EIDER_CACHE:-${HOME:?neither EIDER_CACHE nor HOME is set}/.cache/eider}
PATH=$PATH:$cache/tools/bin

there() {
    for words in 'docker compose' docker-compose; do
        # Words, on purpose.
        # shellcheck disable=SC2086
        case $($words version --short 2>/dev/null) in
        [2-9]* | v[2-9]* | [1-9][0-9]*) return 0 ;;
        esac
    done
    return 1
}

there && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Where this machine gets Debian's packages from.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian //p' | head -n 1)
    for release in trixie forky stable; do
        [ -n "$mirror" ] || break
        mkdir -p "$work/lists/partial"
        echo "deb $mirror $release main" >"$work/sources.list"
        set -- -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
            -o "Dir::State::lists=$work/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" \
            -o APT::Sandbox::User=root
        (cd "$work" && apt-get "$@" update >&2 && apt-get "$@" download docker-compose >&2) || continue
        dpkg-deb --extract "$work"/docker-compose_*.deb "$work/extracted" || continue
        found=$(find "$work/extracted/usr" -name docker-compose -type f -perm -u+x | head -n 1)
        [ -n "$found" ] || continue
        mkdir -p "$cache/tools/bin"
        mv -f "$found" "$cache/tools/bin/docker-compose"
        there && exit 0
    done
fi
echo 'compose.sh: no Docker Compose 2 or newer, and none could be had (Debian: docker-compose of trixie or later)' >&2
exit 1
