#!/bin/bash
# scripts/image.sh TAG [BINARY]: makes a container image of the eider binary without any registry: the
# binary (default: the debug binary of the build directory), the shared libraries that it is linked
# with, a user and /tmp. Needs Docker, and Linux like the image's.
#
# scripts/image.sh --tree DIRECTORY [BINARY]: only lays out what is in the image, in DIRECTORY/image,
# for the Dockerfile: `docker build --build-arg BUILDER=IMAGE --build-arg BASE=scratch -f Dockerfile
# DIRECTORY` compiles nothing and fetches nothing then.
#
# Does nothing if TAG was made of the same binary already: tests call it often.
set -euo pipefail

die() { printf 'image.sh: %s\n' "$*" >&2; exit 1; }

tree=
if [[ ${1:-} == --tree ]]; then
    [[ $# == 2 || $# == 3 ]] || die 'usage: scripts/image.sh --tree DIRECTORY [BINARY]'
    tree=$(realpath -- "$2")
    shift
fi
[[ $# == 1 || $# == 2 ]] || die 'usage: scripts/image.sh TAG [BINARY]'
tag=$1
if [[ $# == 2 ]]; then
    binary=$(realpath -- "$2")
else
    cd "$(dirname "$0")/.."
    environment=$(scripts/env.sh)
    eval "$environment"
    binary=$CARGO_TARGET_DIR/debug/eider
fi
[[ -x $binary ]] || die "$binary: no such program: run \`make build\` first"
[[ -n $tree ]] || command -v docker >/dev/null || die 'docker is not installed'

# The recipe's own checksum is in it too, or an image of an older recipe would stay.
digest=$(cat -- "$binary" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
label=dev.eider.image
if [[ -n $tree ]]; then
    root=$tree/image
    mkdir -p "$root"
else
    present=$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$tag" 2>/dev/null || true)
    if [[ $present == "$digest" ]]; then
        exit 0
    fi
    root=$(mktemp -d "${TMPDIR:-/tmp}/eider-image.XXXXXX")
    trap 'rm -rf "$root"' EXIT
fi
chmod 755 "$root"
mkdir -p "$root"/{etc,tmp,usr/local/bin,usr/local/lib,home/eider}
chmod 1777 "$root/tmp"

# `ldd` prints `NAME => PATH (ADDRESS)` and, for the loader, `PATH (ADDRESS)`. Libraries of the system
# keep their path, since the loader looks for them there. What is found by the binary's rpath
# (libduckdb) goes where its `$ORIGIN/../lib` leads, so that no LD_LIBRARY_PATH is needed.
libraries=$(ldd "$binary") || die "ldd cannot read $binary"
if missing=$(grep 'not found' <<<"$libraries"); then
    die "libraries that $binary needs are not on this machine:"$'\n'"$missing"
fi
while read -r path; do
    case $path in
    /lib/* | /lib64/* | /usr/lib/* | /usr/lib64/*) place=$root$path ;;
    *) place=$root/usr/local/lib/${path##*/} ;;
    esac
    mkdir -p "${place%/*}"
    cp -L -- "$path" "$place"
    chmod 755 "$place"
done < <(sed -nE 's/^[[:space:]]*(.* => )?(\/[^ ]+) \(0x[0-9a-f]+\)$/\2/p' <<<"$libraries")
install -m 755 "$binary" "$root/usr/local/bin/eider"

# The numbers are those that distroless images call `nonroot`.
printf '%s\n' 'root:x:0:0:root:/:/sbin/nologin' \
    'eider:x:65532:65532:eider:/home/eider:/sbin/nologin' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'eider:x:65532:' >"$root/etc/group"

if [[ -n $tree ]]; then
    printf 'image.sh: laid out %s in %s\n' "$binary" "$root" >&2
    exit 0
fi
tar -C "$root" --numeric-owner --owner=0 --group=0 -c . | docker import \
    --change 'ENTRYPOINT ["/usr/local/bin/eider"]' \
    --change 'ENV PATH=/usr/local/bin' \
    --change 'ENV HOME=/home/eider' \
    --change 'USER 65532:65532' \
    --change "LABEL $label=$digest" \
    - "$tag" >/dev/null
printf 'image.sh: made %s of %s\n' "$tag" "$binary" >&2
