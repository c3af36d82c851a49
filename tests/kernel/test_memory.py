"""Kernel memory stays flat: a connection's state goes with its socket."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Kind
from tests.support.stage import LOOPBACK, PORT, Gate, Stage, listen, read

pytestmark = pytest.mark.root

CONNECTIONS = 20_000
WAIT_S = 20


def _slab_bytes() -> int:
    """Bytes of objects in use in the kernel's general caches."""
    lines = Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()
    counts = (re.match(r"kmalloc-\S+ +(\d+) +\d+ +(\d+)", line) for line in lines)
    return sum(int(match[1]) * int(match[2]) for match in counts if match)


def test_short_connections_leave_no_growth() -> None:
    """Twenty thousand connections leave less than a tenth of what their states took."""
    ready = Gate()

    def serve() -> None:
        with listen(backlog=1024) as listener:
            ready.open()
            for _ in range(CONNECTIONS):
                with listener.accept()[0] as sock:
                    sock.sendall(sock.recv(8))

    def ask() -> None:
        ready.wait()
        for _ in range(CONNECTIONS):
            with socket.socket() as sock:
                # Without TIME_WAIT: there are not as many ports.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.connect((LOOPBACK, PORT))
                sock.sendall(b"question")
                read(sock, 8)

    with Probes(ring_bytes=1 << 24) as probes, Stage(probes, may_lose=True) as stage:
        state_bytes = probes.layout.structs["slot"][0]
        before = _slab_bytes()
        stage.start(serve)
        asking = stage.start(ask)
        kinds = [slot.kind for slot in stage.settle()]
        assert asking.ended()
        assert kinds.count(Kind.TURN) + probes.counters()["lost_ring_full"] >= 2 * CONNECTIONS
        assert probes.counters()["lost_no_memory"] == 0
        limit = 2 * CONNECTIONS * state_bytes // 10
        end = time.monotonic() + WAIT_S
        while (growth := _slab_bytes() - before) > limit:
            assert time.monotonic() < end, f"{growth} bytes more than before"
            time.sleep(0.1)
