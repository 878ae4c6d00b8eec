#!/bin/bash
# The main job on real files: back up, list, verify, damage, restore, and look at the records.
#
# Writes to one temporary directory only and removes it at the end, unless EIDER_DEMO_KEEP=1. The
# documents are those of examples/host/, with /srv replaced by that directory. Ends with a failure
# if anything is not as it should be. `make demo` builds the binary and calls this.
set -euo pipefail
cd "$(dirname "$0")/.."

# Transcripts read the same everywhere: UTC, no colour, the environment's own settings left out.
export LC_ALL=C TZ=UTC NO_COLOR=1 COLUMNS=100
for variable in $(compgen -e EIDER_); do
    case $variable in EIDER | EIDER_DEMO_KEEP) ;; *) unset "$variable" ;; esac
done
unset RUST_LOG
binary=${EIDER:?run \`make demo\`, or name the binary in EIDER}

DEMO=$(mktemp -d "${TMPDIR:-/tmp}/eider-demo.XXXXXX")
daemon=
finish() {
    local status=$?
    trap - EXIT
    if [[ -n $daemon ]]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
    if [[ ${EIDER_DEMO_KEEP:-} == 1 ]]; then
        printf 'kept: %s\n' "$DEMO"
    else
        chmod -R u+rwX "$DEMO" 2>/dev/null || true
        rm -rf "$DEMO"
    fi
    if ((status)); then printf 'demo: FAILED with status %s\n' "$status" >&2; fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# `eider` on the PATH, so that the commands below are printed exactly as they are run.
mkdir "$DEMO/bin" "$DEMO/scratch"
ln -s "$binary" "$DEMO/bin/eider"
export DEMO PATH="$DEMO/bin:$PATH" TMPDIR="$DEMO/scratch"
export EIDER_CATALOG=$DEMO/eider.duckdb EIDER_SOCKET=$DEMO/eider.sock

surprise() { printf 'demo: %s\n' "$*" >&2; exit 1; }
say() { printf '\n# %s\n' "$*"; }
# Prints a command and runs it.
show() {
    printf '$ %s\n' "$1"
    bash -o pipefail -c "$1" 2>&1
}
# The same for a command that has to fail with the status given first.
refused() {
    local expected=$1 status=0
    show "$2" || status=$?
    printf '[exit status %s]\n' "$status"
    [[ $status == "$expected" ]] || surprise "\`$2\` ended with $status instead of $expected"
}

# A copy of real files: the toolchain's library sources or, without them, sources of crates.
take_tree() {
    local destination=$DEMO/shop/data source
    mkdir -p "$destination" "$DEMO/shop/config"
    printf 'listen = "127.0.0.1:8080"\nworkers = 4\n' >"$DEMO/shop/config/shop.toml"
    source=$(rustc --print sysroot 2>/dev/null || true)/lib/rustlib/src
    if enough "$source"; then
        origin="the toolchain's library sources"
        cp -a "$source/." "$destination/"
        return
    fi
    source=${CARGO_HOME:-${HOME:-/nonexistent}/.cargo}/registry/src
    if [[ -d $source ]]; then
        origin="sources of crates"
        local crate
        while IFS= read -r crate; do
            cp -a "$crate" "$destination/"
            # Looking is what takes time: every fortieth crate is often enough.
            ((++copied % 40)) || ! enough "$destination" || return 0
        done < <(find "$source" -mindepth 2 -maxdepth 2 -type d | sort)
        if enough "$destination"; then return; fi
        rm -rf "$destination"
    fi
    origin="a generated tree, as there are no sources of crates here"
    python3 - "$destination" <<'PYTHON'
import os, random, sys
random.seed(1)
for index in range(10_500):
    directory = f"{sys.argv[1]}/{index % 97:02}/{index % 13}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{index}.bin", "wb") as file:
        file.write(random.randbytes(10_500) + b"the same words again and again " * 330)
PYTHON
}
copied=0
enough() {
    [[ -d $1 ]] || return 1
    (($(find "$1" -type f | wc -l) >= 10000)) && (($(du -sm --apparent-size "$1" | cut -f1) >= 200))
}

origin=
take_tree
enough "$DEMO/shop/data" || surprise 'the tree has fewer than 10,000 files or 200 MB'
# What archives often lose: links, odd names, times before 1970, holes, empty directories, rights.
(
    cd "$DEMO/shop/data"
    mkdir -p odd/empty
    printf 'hello\n' >'odd/a name with spaces and ümlaut'
    printf 'raw bytes in the name\n' >$'odd/not-utf8-\xff'
    ln 'odd/a name with spaces and ümlaut' odd/hard-link
    ln -s ../odd/hard-link odd/symlink
    ln -s /nowhere odd/dangling
    truncate -s 64M odd/sparse
    printf 'end\n' >>odd/sparse
    touch -d '1961-04-12 06:07:00' odd/hard-link
    printf 'secret\n' >odd/private && chmod 600 odd/private
)
cp -a "$DEMO/shop" "$DEMO/reference"
mkdir "$DEMO/documents"
for document in examples/host/{store,backup,restore}.yaml; do
    sed "s|/srv/|$DEMO/|g" "$document" >"$DEMO/documents/$(basename "$document")"
done

printf '# Eider at work on a copy of %s. All of it happens below DEMO=%s\n' "$origin" "$DEMO"
show 'eider --version'
show 'du -sh --apparent-size $DEMO/shop; find $DEMO/shop -type f | wc -l'

say 'What is wanted: examples/host/, with /srv replaced by $DEMO'
show "grep -hv '^#' \$DEMO/documents/store.yaml; echo ---; grep -hv '^#' \$DEMO/documents/backup.yaml"
show 'eider validate -f $DEMO/documents'

say 'Back up. It counts as a success only after the archive was read back.'
show 'eider run --dry-run -f $DEMO/documents/store.yaml -f $DEMO/documents/backup.yaml'
show 'eider run -f $DEMO/documents/store.yaml -f $DEMO/documents/backup.yaml'
show 'eider backup show before-release'
archive=$(find "$DEMO/backups" -name 'backup_manual_*.tar.gz')
archive=${archive##*/}
[[ -n $archive ]] || surprise 'there is no archive'

say 'The same documents again: nothing to do, because nothing in them changed.'
show 'eider run -f $DEMO/documents/store.yaml -f $DEMO/documents/backup.yaml'

say 'List and verify, with Eider and without it.'
show 'eider backup list'
show 'eider backup files before-release | grep -E "  (data/odd|config)/"'
show 'eider backup verify before-release'
show "tar tzf \$DEMO/backups/$archive | wc -l"
show "sha256sum < \$DEMO/backups/$archive"
[[ $(sha256sum <"$DEMO/backups/$archive" | cut -d' ' -f1) == $(eider backup show before-release | sed -n 's/^SHA-256: *//p') ]] ||
    surprise 'the archive has another SHA-256 than its record'

say 'Now the release goes wrong: files deleted, altered, added.'
show 'cd $DEMO/shop && find data -name "*.md" -type f -delete && rm -r data/odd && echo "workers = 400" >> config/shop.toml && echo junk > data/junk'
compare() {
    if command -v rsync >/dev/null; then
        rsync -aHAXn --checksum --delete --itemize-changes "$DEMO/reference/data" "$DEMO/reference/config" "$DEMO/shop/"
    else
        diff -r --no-dereference "$DEMO/reference" "$DEMO/shop" || [[ $? == 1 ]]
    fi
}
if command -v rsync >/dev/null; then
    comparison='rsync -aHAXn --checksum --delete --itemize-changes $DEMO/reference/data $DEMO/reference/config $DEMO/shop/ | wc -l'
else
    comparison='diff -r --no-dereference $DEMO/reference $DEMO/shop | wc -l'
fi
show "$comparison"
[[ -n $(compare) ]] || surprise 'the tree was altered and is still the same'

say 'A damaged archive is refused before anything live changes: one byte of a copy flipped.'
size=$(stat -c %s "$DEMO/backups/$archive")
mkdir "$DEMO/damaged"
cp "$DEMO/backups/$archive" "$DEMO/backups/$archive.manifest.json" "$DEMO/damaged/"
byte=$(dd if="$DEMO/damaged/$archive" bs=1 skip=$((size / 2)) count=1 status=none | od -An -tu1)
printf "\\$(printf %03o $((byte ^ 1)))" |
    dd of="$DEMO/damaged/$archive" bs=1 seek=$((size / 2)) conv=notrunc status=none
cat >"$DEMO/documents/damaged.yaml" <<YAML
apiVersion: eider.dev/v1alpha1
kind: BackupStore
metadata: {name: damaged}
spec: {local: {path: $DEMO/damaged}}
---
apiVersion: eider.dev/v1alpha1
kind: Restore
metadata: {name: from-damaged}
spec:
  from: {archive: {storeRef: {name: damaged}, name: $archive}}
  target: {host: {paths: [$DEMO/shop/data, $DEMO/shop/config]}}
YAML
before=$(cd "$DEMO/shop" && find . -printf '%P %s %T@\n' | sort | sha256sum)
refused 1 'eider run -f $DEMO/documents/damaged.yaml'
after=$(cd "$DEMO/shop" && find . -printf '%P %s %T@\n' | sort | sha256sum)
[[ $before == "$after" ]] || surprise 'the refused restore changed live files'

say 'Restore from the good one. What is there now is backed up first.'
show "grep -v '^#' \$DEMO/documents/restore.yaml"
show 'eider run -f $DEMO/documents/restore.yaml'
show "$comparison"
[[ -z $(compare) ]] || { compare | head >&2; surprise 'the restored tree is not the same'; }
[[ $(ls -A "$DEMO/shop") == $'config\ndata' ]] || { ls -lA "$DEMO/shop" >&2; surprise 'something was left behind'; }
[[ $(stat -c %b "$DEMO/shop/data/odd/sparse") -lt 1000 ]] || surprise 'the sparse file has lost its hole'
[[ $(stat -c %i "$DEMO/shop/data/odd/hard-link") == $(stat -c %i "$DEMO/shop/data/odd/a name with spaces and ümlaut") ]] ||
    surprise 'the hard link is lost'
echo 'identical: names, bytes, times, rights, owners, links, holes'

say 'The records, in SQL.'
show 'eider backup list'
show 'eider history'
show "eider db query \"SELECT id, backup_type, file_count AS files, backup_size AS bytes, round(duration_seconds, 1) AS seconds, verified_at IS NOT NULL AS verified FROM backup_records ORDER BY id\""
show "eider db query \"SELECT operation, count(*) AS lines, strftime(min(recorded_at), '%H:%M:%S') AS began, strftime(max(recorded_at), '%H:%M:%S') AS ended FROM operation_journal GROUP BY operation ORDER BY began\""
show 'eider db check'

say 'The metrics: the daemon for a moment, on a port of its own.'
mkdir "$DEMO/specs"
cp "$DEMO/documents/store.yaml" "$DEMO/specs/"
port=
for ((attempt = 0; attempt < 20; attempt++)); do
    candidate=$((20000 + RANDOM % 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then port=$candidate; break; fi
done
[[ -n $port ]] || surprise 'no free port'
echo "\$ eider daemon --specs \$DEMO/specs --listen 127.0.0.1:$port &"
eider daemon --specs "$DEMO/specs" --listen "127.0.0.1:$port" --log-level warn >"$DEMO/daemon.log" 2>&1 &
daemon=$!
get() {
    if command -v curl >/dev/null; then
        curl -fsS --max-time 5 "http://127.0.0.1:$port$1"
    else
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
        sed '1,/^\r*$/d' <&3
        exec 3>&-
    fi
}
ready=
for ((attempt = 0; attempt < 100; attempt++)); do
    if get /readyz >/dev/null 2>&1; then ready=1; break; fi
    sleep 0.1
done
[[ -n $ready ]] || { cat "$DEMO/daemon.log" >&2; surprise 'the daemon does not become ready'; }
export -f get
export port
printf '$ curl -s http://127.0.0.1:%s/metrics | grep -E "^eider_(backup_last|backup_files|store_b)"\n' "$port"
get /metrics | grep -E '^eider_(backup_last|backup_files|store_b)'
show 'eider backup list | wc -l'
kill -TERM "$daemon"
wait "$daemon" || surprise "the daemon ended with status $?"
daemon=

printf '\n# Done in %s s. Everything was below %s' "$SECONDS" "$DEMO"
[[ ${EIDER_DEMO_KEEP:-} == 1 ]] || printf ', which is removed now'
printf '.\n'
