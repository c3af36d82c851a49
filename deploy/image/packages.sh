#!/bin/sh
# Image build, stage `builder`: puts the packages that the image needs beside what its base has into
# /packages, then installs the tools that build.
set -eu

apt-get update -q

# has_python: whether the base brings a Python that will do.
has_python() {
    command -v python3 >/dev/null && python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
}

runtime=libbpf1
tools="clang libbpf-dev llvm make"
if ! has_python; then
    runtime="$runtime python3"
    tools="$tools python3-venv"
fi

# Before anything is installed, so that none of their dependencies counts as there already.
mkdir -p /packages/partial
# shellcheck disable=SC2086  # lists of names
apt-get install -q -y --no-install-recommends --download-only -o Dir::Cache::Archives=/packages $runtime
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $tools
