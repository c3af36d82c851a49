"""Rules of writing to whatever standard output is, without blocking."""

from __future__ import annotations

import errno
import os
import pty
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from masdeepflow.sinks.descriptor import DISK_FULL, Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEBIBYTE = memoryview(bytes(1024 * 1024))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe's ends for reading and writing."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def _fill(target: Descriptor) -> int:
    total = 0
    while taken := target.write(MEBIBYTE):
        total += taken
    return total


def test_full_pipe_takes_nothing_and_does_not_block(pipe: tuple[int, int]) -> None:
    """Writing ends with 0 when the reader does not read, and goes on when it does."""
    with closing(Descriptor(pipe[1])) as target:
        filled = _fill(target)
        assert filled >= 4096
        read = 0
        while read < filled:
            read += len(os.read(pipe[0], 65536))
        assert _fill(target) >= 4096


def test_flags_of_the_callers_descriptor_stay(pipe: tuple[int, int]) -> None:
    """Other processes share the open file: it must not become non-blocking under them."""
    with closing(Descriptor(pipe[1])) as target:
        _fill(target)
        assert os.get_blocking(pipe[1])


def test_pipe_that_proc_does_not_reopen_is_polled(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc, or without permission, a pipe that is ready gets what it takes at once."""

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "no", path, flags)

    monkeypatch.setattr(os, "open", refuse)
    with closing(Descriptor(pipe[1])) as target:
        assert _fill(target) >= 4096


def test_nonblocking_pipe(pipe: tuple[int, int]) -> None:
    """A descriptor that is non-blocking already is written to as it is."""
    os.set_blocking(pipe[1], False)
    with closing(Descriptor(pipe[1])) as target:
        assert _fill(target) >= 4096


def test_socket() -> None:
    """Standard output may be a socket, as under systemd: it stays blocking for others."""
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Descriptor(ours.fileno())) as target:
        assert _fill(target) >= 4096
        assert os.get_blocking(ours.fileno())
        theirs.close()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            target.write(MEBIBYTE)


def test_terminal() -> None:
    """A terminal that nobody reads is not waited for."""
    ours, theirs = pty.openpty()
    with closing(Descriptor(theirs)) as target:
        assert _fill(target) >= 1
        assert os.get_blocking(theirs)
    os.close(theirs)
    os.close(ours)


def test_file_is_appended_to_where_its_offset_is(tmp_path: Path) -> None:
    """`{ echo; agent; } > file` shares one offset: the file is written through the given descriptor."""
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"before ")
    with closing(Descriptor(fd)) as target:
        assert target.write(memoryview(b"now ")) == 4
    os.write(fd, b"after")
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"before now after"


def test_full_disk_is_told() -> None:
    """No space left is an error that may pass: whoever writes decides whether to wait for it."""
    fd = os.open("/dev/full", os.O_WRONLY)
    with closing(Descriptor(fd)) as target:
        with pytest.raises(OSError, match="No space left") as caught:
            target.write(MEBIBYTE)
        assert caught.value.errno in DISK_FULL
        target.wait(0.0)
    os.close(fd)


def test_reader_gone_is_an_error() -> None:
    """Once the reader has closed its end, writing raises, whether it went before or after the start."""
    reader, writer = os.pipe()
    with closing(Descriptor(writer)) as early:
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            early.write(MEBIBYTE)
    with closing(Descriptor(writer)) as late, pytest.raises(BrokenPipeError):
        late.write(MEBIBYTE)
    os.close(writer)


def test_bad_descriptor_is_an_error_on_the_first_write() -> None:
    """A closed standard output is no reason not to start."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    target = Descriptor(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        target.write(MEBIBYTE)


def test_waiting_ends_when_bytes_are_taken_again(pipe: tuple[int, int]) -> None:
    """The wait for a pipe is over as soon as there is room; this test hangs otherwise."""
    with closing(Descriptor(pipe[1])) as target:
        target.wait(3600.0)
