#!/usr/bin/env bash
# Measures what the agent costs and prints a table; the figures go to bench/out/*.json too.
#
#   sudo bench/run.sh [--quick] [--only NAME]... [--write-docs]
#
# Needs nginx, wrk and bpftool beside what the agent needs: ./test.sh installs them. Uses .venv if there is one,
# otherwise the interpreter named by PYTHON, otherwise python3.
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
python=$PWD/.venv/bin/python
[[ -x $python ]] || python=${PYTHON:-python3}
# bson is one of the packages that ./test.sh installs and ./run.sh does not.
"$python" -c 'import bson, masdeepflow' 2>/dev/null || {
    echo "bench/run.sh: $python lacks masdeepflow or packages of its tests: run ./test.sh once, or name another interpreter" \
        "with PYTHON=" >&2
    exit 1
}
# Servers and administration tools live there, and `su` leaves it out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin exec "$python" -m bench "$@"
