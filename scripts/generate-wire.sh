#!/usr/bin/env bash
# Makes the Python of the .proto files, beside them; needs the environment that test.sh makes.
#
#   scripts/generate-wire.sh [DIRECTORY]    to DIRECTORY instead, in the same tree
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
output=$(realpath "${1:-$root}")

# make DIRECTORY: paths in the output count from it, as the modules' names do.
make() {
    mkdir -p "$output/$1"
    (
        cd "$root/$1"
        find . -name '*.proto' -printf '%P\n' | sort | xargs "$root/.venv/bin/python" -m grpc_tools.protoc \
            --proto_path=. --python_out="$output/$1" --pyi_out="$output/$1"
    )
}

make src
make tests/support/containers
