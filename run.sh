#!/usr/bin/env bash
# Starts the agent: installs what is missing, then runs `masdeepflow run` with the arguments given.
#
#   sudo ./run.sh [ARGS of masdeepflow run]
set -euo pipefail

# shellcheck source=scripts/setup.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/setup.sh"

require_root ./run.sh
set_up core
exec "$VENV/bin/masdeepflow" run "$@"
