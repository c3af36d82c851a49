"""What the tests of the logs share."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from masdeepflow.sinks.line_log import LineLog
    from masdeepflow.table import Output

    Logged = Callable[..., list[str]]

__all__ = ["Logged", "Pipe", "Reader"]


class Reader:
    """Reads a pipe to its end on a thread of its own, once told to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def lines(self) -> list[str]:
        """Return all lines once the writing end is closed."""
        self._thread.join()
        text = b"".join(self._chunks).decode()
        assert text.endswith("\n")
        return text.split("\n")[:-1]

    def _run(self) -> None:
        while chunk := os.read(self._fd, 65536):
            self._chunks.append(chunk)


class Pipe:
    """A pipe, its reader and the descriptor to write to."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.reader = Reader(self.out)

    def lines(self) -> list[str]:
        """Close the writing end and return what came out."""
        os.close(self.into)
        self.into = -1
        return self.reader.lines()

    def close(self) -> None:
        """Close what is open."""
        for fd in (self.into, self.out):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return a pipe whose reader does not read yet."""
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    """Return what runs a log over batches into a file and returns the file's lines."""

    def run(log: type[LineLog], *outputs: Output, summary: Summary | None = None) -> list[str]:
        file = tmp_path / "log"
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sink = log(LineWriter(fd, blocking=True))
        for output in outputs:
            sink.write(output)
        sink.close(summary or Summary(0))
        os.close(fd)
        return file.read_text().split("\n")[:-1]

    return run
