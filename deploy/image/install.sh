#!/bin/sh
# Image build, stage `builder`: installs the checkout, compiled, into /opt/masdeepflow, and takes away what
# running it does not need. The argument is the commit that `masdeepflow version` shows.
set -eu

venv=/opt/masdeepflow
printf '%s\n' "$1" >src/masdeepflow/commit.txt
"$venv/bin/pip" install --quiet --no-deps --no-build-isolation .
"$venv/bin/pip" uninstall --quiet --yes setuptools pip
find "$venv" \( -path '*/site-packages/*/tests' -o -name '*.pyi' -o -name '*.a' \) -prune -exec rm -rf {} +
