#!/usr/bin/env bash
# Runs the whole test suite: installs what is missing, checks the sources, then runs pytest.
#
#   sudo ./test.sh                 everything
#   sudo ./test.sh ARGS            pytest only, with ARGS; paths count from the checkout
set -euo pipefail

# shellcheck source=scripts/setup.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/setup.sh"

# Runs every check, so that one run shows all that is wrong; fails with the status of the last that failed.
check_sources() {
    local status=0
    check ruff check || status=$?
    check ruff format --check || status=$?
    check mypy || status=$?
    return "$status"
}

check() {
    say "checking: $*"
    "$@"
}

require_root ./test.sh
set_up dev
cd "$ROOT"
PATH=$VENV/bin:$PATH
(($#)) || check_sources
exec pytest "$@"
