#!/usr/bin/env bash
# Makes core.lock, image.lock and dev.lock agree with pyproject.toml. Each pin carries the hashes of all its files, so
# one lock serves every interpreter and architecture. Pins that still fit stay:
#
#   requirements/lock.sh                            after a change of pyproject.toml
#   requirements/lock.sh --upgrade                  everything to its newest version
#   requirements/lock.sh --upgrade-package numpy    one package
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs in a private environment, so that uv is needed by nobody who only installs.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv

# The build backend is locked too: the project and mysqlclient are then built without unhashed downloads.
"$work/venv/bin/python" - "$root/pyproject.toml" >"$work/build.in" <<'EOF'
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["build-system"]["requires"], sep="\n")
EOF

# compile OUTPUT [OPTION...]: without addresses and comments, which would differ from machine to machine.
compile() {
    local output=$1
    shift
    "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --output-file "$output" "$@" "$root/pyproject.toml" "$work/build.in"
}

compile "$here/core.lock" "$@"
# What the image has beside the core: all that the agent can use there.
compile "$here/image.lock" --extra cri --extra kubernetes --constraint "$here/core.lock" "$@"
compile "$here/dev.lock" --extra cri --extra kubernetes --extra dev --constraint "$here/image.lock" "$@"

if grep -nE '://|^ *(--(extra-)?index-url|--find-links|-[if]) ' "$here"/*.lock; then
    echo "lock.sh: an address got into a lock file (above): remove it before committing" >&2
    exit 1
fi
