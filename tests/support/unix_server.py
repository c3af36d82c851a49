"""Servers on Unix sockets that do what a test says, however wrong that is."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["serving"]


@contextlib.contextmanager
def serving(path: Path, handle: Callable[[socket.socket], object]) -> Iterator[Path]:
    """Call `handle` with each connection, on a thread of its own; the socket is closed after it."""
    path.unlink(missing_ok=True)
    connections: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handle(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            for waiting in (listener, *connections):
                with contextlib.suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)
            thread.join(10)
    path.unlink(missing_ok=True)
