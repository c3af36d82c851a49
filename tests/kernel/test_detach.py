"""The kernel is left as it was: no program, map or link stays behind, however the agent ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

KINDS = ("prog", "map", "link")
WAIT_S = 20
CHILD = """
import time
from masdeepflow.kernel.probes import Probes
probes = Probes()
print("ready", flush=True)
time.sleep(600)
"""


def _held(pid: int | str = "self") -> dict[str, set[int]]:
    """Return kind -> numbers of the programs, maps and links that a process has descriptors of."""
    held: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = entry.read_text(encoding="ascii")
        except FileNotFoundError:  # the descriptor that lists them
            continue
        for kind, number in re.findall(r"^(prog|map|link)_id:\s*(\d+)$", text, re.MULTILINE):
            held[kind].add(int(number))
    return held


def _in_kernel(kind: str) -> set[int]:
    listing = subprocess.run(["bpftool", "--json", kind, "show"], check=True, capture_output=True).stdout
    return {entry["id"] for entry in json.loads(listing)}


def _left(ours: dict[str, set[int]]) -> dict[str, set[int]]:
    return {kind: left for kind in KINDS if (left := ours[kind] & _in_kernel(kind))}


def _assert_gone(ours: dict[str, set[int]]) -> None:
    """The kernel frees behind a grace period: wait for it."""
    assert all(ours.values())
    end = time.monotonic() + WAIT_S
    while _left(ours):
        assert time.monotonic() < end, f"still in the kernel: {_left(ours)}"
        time.sleep(0.05)


def _minus(after: dict[str, set[int]], before: dict[str, set[int]]) -> dict[str, set[int]]:
    return {kind: after[kind] - before[kind] for kind in KINDS}


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds attached probes."""
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_close_leaves_nothing() -> None:
    """After `close`, all that loading brought is gone, descriptors included."""
    before, descriptors = _held(), os.listdir("/proc/self/fd")  # noqa: PTH208  # its own descriptor is in both
    with Probes():
        ours = _minus(_held(), before)
        assert {kind: len(ours[kind]) > 2 for kind in KINDS} == dict.fromkeys(KINDS, True)
        assert _left(ours) == ours
    _assert_gone(ours)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)  # noqa: PTH208


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_agent_leaves_nothing(agent: subprocess.Popen[str], number: int) -> None:
    """A process that has no chance to clean up takes everything with it."""
    ours = _held(agent.pid)
    assert _left(ours) == ours
    agent.send_signal(number)
    agent.wait(WAIT_S)
    _assert_gone(ours)


def test_a_failed_start_leaves_nothing() -> None:
    """Probes that can't be loaded whole give back what they had."""
    before = _held()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(OSError, match=r"BPF|ring"):
        Probes(ring_bytes=0)
    assert _held() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_several_agents_do_not_disturb_each_other() -> None:
    """Probes may be loaded more than once, and each goes alone."""
    with Probes(ring_bytes=1 << 20) as first:
        with Probes(ring_bytes=1 << 20) as second:
            assert first.own_pid() == second.own_pid() == os.getpid()
        first.sweep()
        assert first.counters()["lost_no_memory"] == 0
