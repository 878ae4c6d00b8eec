#!/bin/sh
# Looks for the foreign tools by which tests judge Eider, and installs the missing ones where that
# needs no question: as root on a system with apt. promtool is taken out of Debian's package without
# installing it, for the package would start a Prometheus.
#
# Prints the names of those that are missing in the end; exit code 1 if there are any.
set -eu

cache=${EIDER_CACHE:-${HOME:?neither EIDER_CACHE nor HOME is set}/.cache/eider}
PATH=$PATH:$cache/tools/bin

package_of() {
    case $1 in
    bsdtar) echo libarchive-tools ;;
    getfattr) echo attr ;;
    getfacl) echo acl ;;
    xz) echo xz-utils ;;
    busybox) echo busybox-static ;;
    7z) echo p7zip-full ;;
    *) echo "$1" ;;
    esac
}
missing() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || printf '%s ' "$tool"
    done
}
# A list of words.
# shellcheck disable=SC2046,SC2086
{
    apt_tools=$(missing rsync bsdtar python3 strace getfattr getfacl zstd xz busybox jq lua5.1 pigz 7z)
    wanted=$apt_tools$(missing promtool)
    if [ -n "$wanted" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "test-tools.sh: installing what the tests are judged by: $wanted" >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq >&2 || true
        if [ -n "$apt_tools" ]; then
            apt-get install -y -qq --no-install-recommends \
                $(for tool in $apt_tools; do package_of "$tool"; done) >&2 || true
        fi
        if [ -n "$(missing promtool)" ]; then
            work=$(mktemp -d)
            trap 'rm -rf "$work"' EXIT
            chmod 755 "$work"
            (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root prometheus >&2 &&
                dpkg-deb --extract prometheus_*.deb extracted &&
                mkdir -p "$cache/tools/bin" &&
                mv extracted/usr/bin/promtool "$cache/tools/bin/promtool") || true
        fi
    fi
    left=$(missing $wanted)
}
[ -z "$left" ] && exit 0
echo "test-tools.sh: not installed here: $left(as root: apt-get install rsync libarchive-tools python3 strace attr acl zstd xz-utils busybox-static jq; promtool is in prometheus)" >&2
printf '%s\n' "${left% }"
exit 1
