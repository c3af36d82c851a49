"""A file descriptor written to without blocking, whatever is behind it: pipe, socket, terminal or file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DISK_FULL", "Descriptor"]

# Much at once: after each system call the thread has to win the interpreter back, which may take 5 ms.
_CHUNK = 1024 * 1024
_PIPE_BUF = 4096
"""Bytes that a pipe which polls as writable takes at once, pipe(7)."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers that may pass when somebody makes room."""


class Descriptor:
    """Writes what fits. The descriptor's own flags, which it shares with other processes, stay as they are.

    fd: an open descriptor, not closed by this class; a bad one shows as OSError on the first write.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._opened = contextlib.ExitStack()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._wait: Callable[[float], object] = self._wait_ready
        self._send = self._choose()

    def write(self, data: memoryview) -> int:
        """Return how many bytes were taken, 0 when none are now.

        Raises:
            OSError: nothing can be written any more, or as long as the disk is full (`DISK_FULL`);
                ConnectionError when the reader has gone.

        """
        try:
            return self._send(data[:_CHUNK])
        except BlockingIOError:
            return 0

    def wait(self, seconds: float) -> None:
        """Wait until bytes are taken again, at most for `seconds`."""
        self._wait(seconds)

    def close(self) -> None:
        """Release what this class opened."""
        self._opened.close()

    def _choose(self) -> Callable[[memoryview], int]:
        try:
            mode = os.fstat(self._fd).st_mode
            if stat.S_ISSOCK(mode):
                return self._to_socket()
            if stat.S_ISFIFO(mode) or os.isatty(self._fd):
                return self._to_reopened()
        except OSError:
            return self._send_polled
        self._wait = time.sleep  # files always poll as writable, even on a full disk
        return self._send_direct

    def _to_socket(self) -> Callable[[memoryview], int]:
        opened = self._opened.enter_context(socket.socket(fileno=os.dup(self._fd)))
        return lambda data: opened.send(data, socket.MSG_DONTWAIT)

    def _to_reopened(self) -> Callable[[memoryview], int]:
        # O_NONBLOCK belongs to the open file, so we need one of our own; where /proc refuses, poll first.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        opened = os.open(f"/proc/self/fd/{self._fd}", flags)
        self._opened.callback(os.close, opened)
        with contextlib.suppress(OSError):
            fcntl.fcntl(opened, fcntl.F_SETPIPE_SZ, _CHUNK)
        return lambda data: os.write(opened, data)

    def _send_direct(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _send_polled(self, data: memoryview) -> int:
        return os.write(self._fd, data[:_PIPE_BUF]) if self._poll.poll(0) else 0

    def _wait_ready(self, seconds: float) -> None:
        self._poll.poll(int(seconds * 1000))
