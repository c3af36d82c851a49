"""Servers in a thread and commands in a process, each on a free port of loopback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from masdeepflow.traffic_gen.net import Handle, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMMAND = [
    sys.executable,
    "-c",
    "from masdeepflow.traffic_gen.cli import main; main(prog_name='traffic_gen')",
]


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], int]]:
    """Give a function that serves a handler until the test ends and returns the port."""
    with contextlib.ExitStack() as stack:

        def start(handle: Handle) -> int:
            server = stack.enter_context(Server("127.0.0.1", 0, handle))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return int(server.socket.getsockname()[1])

        yield start


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs ``traffic_gen`` to its end."""

    def run_command(*args: object) -> subprocess.CompletedProcess[str]:
        command = [*_COMMAND, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run_command


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Give a function that starts a ``traffic_gen`` server and returns it and its port once it listens."""
    with contextlib.ExitStack() as stack:

        def start_command(*args: object) -> tuple[subprocess.Popen[str], int]:
            command = [*_COMMAND, *map(str, args), "--port", "0"]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, int(process.stdout.readline().rpartition(":")[2])

        yield start_command
