"""Lines to a file descriptor from a thread of its own, so that a slow reader never holds up the agent."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from masdeepflow.sinks.descriptor import DISK_FULL, Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LineWriter"]

_LIMIT = 24 * 1024 * 1024  # a burst of JSON is 170 MB/s; memory that only a reader that is behind costs
_WAIT_S = 0.1
_GRACE_S = 1.0


@dataclass(slots=True)
class _Patience:
    """When to give up on a reader: `stall_s` after its last sign of life, at the latest at `end`."""

    stall_s: float = inf
    alive: float = inf
    end: float = inf

    def over(self) -> bool:
        return time.monotonic() > min(self.alive + self.stall_s, self.end)


class LineWriter:
    """A bounded queue of lines and the thread that writes them. Every line is written or counted in `lost`.

    A full disk is a slow reader: room may be made while the agent runs.

    fd: where lines go, not closed here. limit: bytes queued at most.
    blocking: `offer` waits for the reader instead of losing lines, and `close` waits for as long as it takes.
        Nobody waits for a full disk: it ends the writing, with `error` set.
    """

    def __init__(self, fd: int, *, limit: int = _LIMIT, blocking: bool = False) -> None:
        self._target = Descriptor(fd)
        self._limit = limit
        self._blocking = blocking
        self._queue: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._queued = 0  # bytes accepted and not written
        self._pending = 0  # lines accepted and not written to their end
        self._lost = 0
        self._clogged = self._closing = self._broken = False
        self._error: OSError | None = None
        self._cut = b""  # what is missing of the line in which patience ended
        self._last: Callable[[int], str] | None = None
        self._patience = _Patience()
        self._stall_s = self._total_s = inf
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines lost so far; final once `close` has returned."""
        return self._lost

    @property
    def broken(self) -> bool:
        """Whether nothing can be written any more."""
        return self._broken

    @property
    def error(self) -> OSError | None:
        """Why nothing can be written any more; None as long as it can, and when the reader has just gone."""
        return self._error

    def full(self) -> bool:
        """Tell whether formatting would be wasted: after a line did not fit, until a quarter is free."""
        if self._clogged and self._queued <= self._limit * 3 // 4:
            self._clogged = False
        return self._clogged or self._broken

    def skip(self, count: int) -> None:
        """Count lines as lost that nobody formatted."""
        with self._changed:
            self._lost += count

    def offer(self, lines: list[str]) -> bool:
        """Queue lines, each without its line break; return whether all were taken."""
        if not lines:
            return True
        blob = ("\n".join(lines) + "\n").encode(errors="backslashreplace")
        with self._changed:
            if self._blocking:
                self._changed.wait_for(lambda: self._fits(len(blob)))
            taken = self._fitting(blob)
            count = len(lines) if len(taken) == len(blob) else taken.count(b"\n")
            self._lost += len(lines) - count
            self._clogged |= count < len(lines)
            self._put(taken, count)
        return count == len(lines)

    def close(
        self, last: Callable[[int], str] | None = None, *, stall_s: float = 0.8, total_s: float = 10.0
    ) -> None:
        """Write what the reader takes, count the rest as lost, then write one more line.

        last: makes that line from the final number of lost lines; it is written however many were lost.
        stall_s: the reader is given up when it takes nothing for so long. total_s: then at the latest.
            The last line gets the same time once more: whoever stops the agent before a reader that stands
            still waits for less than 2 s. Neither holds when `blocking`.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._last, self._stall_s, self._total_s = last, stall_s, total_s
            self._be_patient()
            self._changed.notify_all()
        self._thread.join(None if self._blocking else 2 * total_s + _GRACE_S)
        if self._thread.is_alive():
            self._break()

    def _be_patient(self) -> None:
        if not self._blocking:
            now = time.monotonic()
            self._patience = _Patience(self._stall_s, now, now + self._total_s)

    def _fits(self, size: int) -> bool:
        # A blob larger than the queue goes in when the queue is empty.
        return self._broken or self._closing or self._queued + size <= max(self._limit, size)

    def _fitting(self, blob: bytes) -> bytes:
        """Return the leading lines of `blob` that there is room for."""
        if self._broken or self._closing:
            return b""
        room = self._limit - self._queued
        return blob if self._blocking or len(blob) <= room else blob[: blob.rfind(b"\n", 0, room) + 1]

    def _put(self, blob: bytes, count: int) -> None:
        if blob:
            self._queue.append(blob)
            self._queued += len(blob)
            self._pending += count
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._write_queued()
            self._drop(keep=1 if self._cut else 0)
            self._write_last()
        except ConnectionError:
            self._break()
        except OSError as error:
            self._error = error
            self._break()
        finally:
            self._target.close()

    def _write_queued(self) -> None:
        while (blob := self._next()) is not None:
            if not self._write(blob):
                return

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _write(self, blob: bytes) -> bool:
        """Write all of `blob`; False when patience ended before."""
        done = 0
        while done < len(blob):
            if self._patience.over():
                self._cut = _rest_of_line(blob, done)
                return False
            sent = self._send(memoryview(blob)[done:])
            self._progress(sent, blob.count(b"\n", done, done + sent))
            done += sent
            if not sent:
                self._target.wait(_WAIT_S)
        return True

    def _send(self, data: memoryview) -> int:
        try:
            return self._target.write(data)
        except OSError as error:
            if self._blocking or error.errno not in DISK_FULL:
                raise
            return 0

    def _progress(self, size: int, lines: int) -> None:
        if size:
            with self._changed:
                self._queued -= size
                self._pending -= lines
                self._patience.alive = time.monotonic()
                self._changed.notify_all()

    def _write_last(self) -> None:
        """Finish the line that was cut, so that the last one starts on its own."""
        last = [self._last(self._lost)] if self._last else []
        blob = self._cut + "".join(f"{line}\n" for line in last).encode(errors="backslashreplace")
        with self._changed:
            self._queued += len(blob)
            self._pending += len(last)
            self._be_patient()
        if not self._write(blob):
            self._drop(keep=0)

    def _drop(self, keep: int) -> None:
        """Count what is queued as lost, but for the first `keep` lines."""
        with self._changed:
            self._queue.clear()
            self._queued = 0
            kept = min(keep, self._pending)
            self._lost += self._pending - kept
            self._pending = kept
            self._changed.notify_all()

    def _break(self) -> None:
        self._broken = True
        self._drop(keep=0)


def _rest_of_line(blob: bytes, done: int) -> bytes:
    """Return what is missing of the line that the first `done` bytes end in; nothing between two lines."""
    if done == 0 or blob[done - 1 : done] == b"\n":
        return b""
    return blob[done : blob.index(b"\n", done) + 1]
