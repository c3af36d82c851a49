"""Facts from a thread of its own to the thread that reads the ring, which never waits for them."""

from __future__ import annotations

import asyncio
import threading
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from masdeepflow.enrich.facts import PodFact, ServiceFact
    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["Feed"]

_LIMIT = 100_000
_TAKE = 500
_PATIENCE_S = 2.0


class Feed:
    """A thread with an event loop, and the facts it has found that nobody took yet.

    Of an object only the last fact waits: it says all that the earlier ones did. work: what runs in the
    thread until it is cancelled. More than `_LIMIT` objects are dropped, and counted.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], counters: Counters) -> None:
        self._work = work
        self._counters = counters
        self._pending: dict[str, PodFact | ServiceFact] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, fact: PodFact | ServiceFact) -> None:
        """Let a fact wait to be taken."""
        with self._lock:
            if len(self._pending) < _LIMIT or fact.uid in self._pending:
                self._pending[fact.uid] = fact
            else:
                self._counters.dropped += 1

    def take(self) -> list[PodFact | ServiceFact]:
        """Return facts that wait, the oldest first, at most `_TAKE` of them."""
        if not self._pending:
            return []
        with self._lock:
            uids = list(islice(self._pending, _TAKE))
            return [self._pending.pop(uid) for uid in uids]

    def close(self) -> None:
        """End the thread; at the latest after `_PATIENCE_S` it is left to end with the process."""
        with self._lock:
            self._closed = True
            if self._loop and self._task:
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            return

    async def _main(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            await self._work()
        finally:
            with self._lock:
                self._loop = self._task = None
