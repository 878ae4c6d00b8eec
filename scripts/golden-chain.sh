#!/bin/bash
# Makes a golden chain: a full archive and two incremental ones of a small tree in each format, their
# manifests, and what the tree was each time as tests/oracle/walk.py sees it.
#
#     scripts/golden-chain.sh PROGRAM DIRECTORY
#
# Run as root, once for each version of the format; what it made is kept and never made again.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "$1")
mkdir -p "$2"
to=$(realpath "$2")
walk=$PWD/tests/oracle/walk.py

# The place is in the manifests: nothing of the machine is to be.
place=/tmp/golden-chain
rm -rf "$place"
mkdir -p "$place/data" "$place/store"
trap 'rm -rf "$place"' EXIT
cd "$place/data"
export EIDER_CATALOG=$place/catalog/eider.duckdb TZ=UTC LC_ALL=C

state() { # NUMBER TYPE
    # What was changed within the last seconds is stored again whatever its times say.
    sleep 3
    for format in tar.gz tar.zst tar; do
        name=${format//./-}
        more="type: $2"
        (($1 == 0)) || more="$more, parentRef: {name: $name-$(($1 - 1))}"
        cat >"$place/documents.yaml" <<END
apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {name: main}
spec: {local: {path: $place/store}}
---
apiVersion: eider.dev/v1alpha1
kind: Backup
metadata: {name: $name-$1}
spec: {target: {host: {paths: [$place/data]}}, storeRef: {name: main}, archive: {format: $format}, $more}
END
        # A name of nobody's instead of that of this machine.
        unshare --uts sh -ec 'hostname golden; exec "$@"' sh "$program" run -f "$place/documents.yaml"
    done
    python3 "$walk" "$place/data" >"$to/state-$1.txt"
}

mkdir -p dir/deeper empty
seq 400 >keep
ln keep dir/link
echo first >changed
echo gone >gone
seq 50 >dir/deeper/moved
truncate -s 300000 hole
printf data | dd of=hole bs=1 seek=100000 conv=notrunc status=none
ln -s ../nowhere dir/dangling
mkfifo pipe
printf odd >$'odd \xff name'
echo file >becomes-a-directory
setfattr -n user.colour -v red keep
setfacl -m u:1234:r-x changed
chown 1000:1001 gone dir
chmod 4751 changed
chmod 1777 empty
touch -h -d '1969-12-31 23:59:58.25 UTC' dir/dangling
touch -d '2300-01-01 00:00:00.123456789 UTC' gone
state 0 Full

echo second >changed
rm gone becomes-a-directory
mkdir becomes-a-directory
echo within >becomes-a-directory/within
mv dir renamed
setfattr -n user.colour -v blue hole
echo new >new
state 1 Incremental

# The same length and time as before: only the inode's change tells.
cp -p keep ../stamp
printf 99 | dd of=keep conv=notrunc status=none
touch -r ../stamp keep
rm -r becomes-a-directory
echo 'a file again' >becomes-a-directory
ln new renamed/linked
chmod 700 renamed/deeper
printf more | dd of=hole bs=1 seek=200000 conv=notrunc status=none
state 2 Incremental

cp "$place"/store/* "$to"
