#!/bin/bash
# Fails if a tracked file names a path of the machine it was written on or the host of a package
# mirror: such a thing works for its author only. Checks the scripts' syntax on the way.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each is written so that it does not match its own line.
patterns=('(^|[^[:alnum:]_./-])/wor[k]/' '(^|[^[:alnum:]_./-])/roo[t]/' '\.pyen[v]\b'
    'registry\.npmj[s]' 'index\.crates\.i[o]' 'pypi\.or[g]' 'deb\.debian\.or[g]')
# What this machine is called now, unless it is a name that anybody's machine may have.
literal() { printf '%s' "$1" | sed 's/[][\.*^$+?(){}|/]/\\&/g'; }
for path in "$HOME" "$PWD"; do
    [[ $path == /*/* ]] && patterns+=("(^|[^[:alnum:]_.-])$(literal "$path")(/|\\b)")
done

status=0
for pattern in "${patterns[@]}"; do
    # Cargo.lock is cargo's own text.
    if git grep -nIE --untracked -e "$pattern" -- . ':!Cargo.lock'; then
        echo "scan: the lines above name a path or host of a machine (pattern $pattern)" >&2
        status=1
    fi
done
for script in scripts/*.sh .ci/run; do
    [[ -e $script ]] || continue
    [[ -x $script ]] || { echo "scan: $script is not executable" >&2; status=1; }
    case $(head -1 "$script") in
    *bash*) bash -n "$script" || status=1 ;;
    *) sh -n "$script" || status=1 ;;
    esac
done
exit "$status"
