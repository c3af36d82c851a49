"""Recordings: batches as they came from the ring, with all that a replay needs to print the same lines.

Layout: a line of magic, then frames. A frame is `<III`: lengths of its JSON and of its data, CRC-32 of both;
the JSON; the data, zlib-compressed slots. The first frame holds the layout, the last tells that it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import queue
import struct
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import numpy as np

from masdeepflow.enrich.facts import Fact, ProcessFact
from masdeepflow.kernel.layout import (
    Layout,
    LayoutError,
    Member,
    committed,
    from_text,
    slot_dtype,
    to_text,
)
from masdeepflow.schema import MAX_SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["End", "Frame", "LostTurns", "Moved", "Recorder", "Recording", "RecordingError"]

_MAGIC = b"masdeepflow recording 2\n"
_BEFORE_FACTS = b"masdeepflow recording 1\n"
_HEAD = struct.Struct("<III")
_BATCH_LIMIT = 1 << 28
"""Bytes of slots in a frame: four times the largest batch of the largest slots."""
_QUEUED_BYTES = 1 << 26
_NO_ID = 0xFFFFFFFF  # chown(2) would leave the owner as it is

T = TypeVar("T")
_Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Index = Annotated[int, msgspec.Meta(ge=0, lt=MAX_SERVICES)]


class RecordingError(ValueError):
    """The file is no recording, damaged, or cut off."""


class LostTurns(msgspec.Struct, frozen=True, array_like=True):
    """Turns that the ring lost but the kernel counted. histogram: counts by bucket, see bpf/ring.h.

    pid, port: the process and the server port that they were counted under, 0 where unknown.
    comm: the process's short name. namespace, pod, container: where it runs, empty where unknown.
    """

    service: str
    protocol: str
    role: str
    turns: int
    histogram: list[_Int64]
    pid: int = 0
    port: int = 0
    comm: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that the sockets of a service have moved since it was looked at last.

    index: what the kernel counts it under. The rest as in `LostTurns`.
    """

    service: str
    comm: str
    index: _Index
    moved_bytes: _Int64
    pid: int = 0
    port: int = 0
    namespace: str = ""
    pod: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One batch. watermark_ns: what had been given out before it. facts: what was learnt before it.

    turns, moved: what was found to be lost, or moved, between the batch before and this one.
    """

    slots: np.ndarray
    offset_ns: int
    watermark_ns: int
    facts: list[Fact]
    turns: list[LostTurns] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class End:
    """The last frame. lost: reason -> count, without what this host's log lost. The rest as in `Frame`."""

    lost: dict[str, int]
    turns: list[LostTurns] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)


class _Start(msgspec.Struct):
    layout: str
    pod_labels: tuple[str, ...] = ()


class _Batch(msgspec.Struct):
    offset_ns: _Int64
    watermark_ns: _Int64
    turns: list[LostTurns]
    moved: list[Moved] = []
    facts: list[Fact] = []
    processes: list[tuple[int, str, str | None, str | None]] = []


class _End(msgspec.Struct):
    lost: dict[str, int]
    turns: list[LostTurns]
    moved: list[Moved] = []


class Recorder:
    """Writes a recording, compressed by a thread of its own, under another name until it is whole.

    pod_labels: keys of those that were shown.

    It holds the beginnings of everybody's requests, so only its owner may read it: whoever runs this, or
    called sudo to. Raises OSError if the file can't be made, or another recording to it is under way. A
    failure while writing (disk full) is kept in `error`; what was written is removed.
    """

    def __init__(self, path: Path, layout: Layout, pod_labels: Sequence[str] = ()) -> None:
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "it is not a regular file", str(path))
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._file: BinaryIO = _new_file(self._partial)
        self.error: OSError | None = None
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._write_queued, name="recorder", daemon=True)
        self._thread.start()
        shown = {"pod_labels": list(pod_labels)} if pod_labels else {}
        self._put({"layout": to_text(layout), **shown}, b"")

    def write(self, frame: Frame) -> None:
        """Queue a copy of one batch.

        Waits when the disk is slower than the host: the ring counts what that costs.
        """
        if self.error is not None:
            return
        meta = {
            "offset_ns": frame.offset_ns,
            "watermark_ns": frame.watermark_ns,
            "facts": msgspec.to_builtins(frame.facts, str_keys=True),
            "turns": msgspec.to_builtins(frame.turns),
            "moved": msgspec.to_builtins(frame.moved),
        }
        self._put(meta, frame.slots.tobytes())

    def close(self, end: End) -> None:
        """Finish the file and give it its name. `error` tells whether that worked."""
        lists = {"turns": msgspec.to_builtins(end.turns), "moved": msgspec.to_builtins(end.moved)}
        self._put({"end": True, "lost": end.lost, **lists}, b"")
        self._stop()
        self._try(self._file.close)
        self._try(lambda: self._partial.replace(self._path))
        if self.error is not None:
            self._remove()

    def abandon(self) -> None:
        """Stop without a recording: what was written is removed."""
        self._stop()
        self._remove()

    def _put(self, meta: dict[str, Any], data: bytes) -> None:
        with self._room:
            self._room.wait_for(
                lambda: not self._queued_bytes or self._queued_bytes + len(data) <= _QUEUED_BYTES
            )
            self._queued_bytes += len(data)
        self._queue.put((meta, data))

    def _stop(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _remove(self) -> None:
        for step in (self._file.close, self._partial.unlink):
            with contextlib.suppress(OSError):
                step()

    def _try(self, step: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            step()
        except OSError as error:
            self.error = error
        except MemoryError:
            self.error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def _write_queued(self) -> None:
        self._try(lambda: self._file.write(_MAGIC))
        while (item := self._queue.get()) is not None:
            self._write_frame(*item)

    def _write_frame(self, meta: dict[str, Any], data: bytes) -> None:
        self._try(lambda: self._file.write(_encode(meta, data)))
        with self._room:
            self._queued_bytes -= len(data)
            self._room.notify()


def _new_file(path: Path) -> BinaryIO:
    """Make a file that nobody else reads or writes, in place of one that no process is at any more.

    Never one that a link of somebody else's leads to: this runs as root.
    """
    _remove_abandoned(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise _busy(path) from None
    # Between the two calls another may have taken it for an abandoned one.
    if not _lock(fd) or not _is_at(path, fd):
        os.close(fd)
        raise _busy(path)
    if (owner := _sudo_caller()) is not None:
        with contextlib.suppress(OSError):  # a file system that knows no owners
            os.fchown(fd, *owner)
    return open(fd, "wb")  # noqa: PTH123  # a descriptor


def _remove_abandoned(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError:  # a link, or nothing that could be opened: not one of ours
        path.unlink()
        return
    try:
        if not _lock(fd):
            raise _busy(path)
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Lock for as long as it is open; False if another process has. Where files can't be locked, none has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {errno.EWOULDBLOCK, errno.EACCES}
    return True


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _busy(path: Path) -> OSError:
    return OSError(errno.EBUSY, "another recording to it is under way", str(path))


def _sudo_caller() -> tuple[int, int] | None:
    """Return user and group of whoever called sudo, sudo(8); None if nobody did."""
    numbers = [os.environ.get(name, "") for name in ("SUDO_UID", "SUDO_GID")]
    if os.geteuid() != 0 or not all(number.isascii() and number.isdecimal() for number in numbers):
        return None
    uid, gid = map(int, numbers)
    return (uid, gid) if max(uid, gid) < _NO_ID else None


def _encode(meta: dict[str, Any], data: bytes) -> bytes:
    head, body = json.dumps(meta).encode(), zlib.compress(data, 1) if data else b""
    return _HEAD.pack(len(head), len(body), zlib.crc32(body, zlib.crc32(head))) + head + body


class Recording:
    """Reads a recording, once.

    Raises RecordingError at once for anything but a whole one, unless `partial` is allowed: then it ends with
    the last whole batch before the damage.
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self._file = path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size
        self._partial = partial
        if self._file.read(len(_MAGIC)) not in (_MAGIC, _BEFORE_FACTS):
            raise RecordingError(f"{path} is not a recording of masdeepflow")
        self.layout, self._dtype, self.pod_labels = self._read_start()
        self.end: End | None = None
        """How the recording ended. None if it was cut off."""
        self._check()

    def _read_start(self) -> tuple[Layout, np.dtype[np.void], tuple[str, ...]]:
        start = self._converted(self._next()[0], _Start)
        try:
            layout = from_text(start.layout)
            dtype = slot_dtype(layout)
        except LayoutError as error:
            raise RecordingError(f"{self._file.name} has no readable layout: it is damaged") from error
        if _head(layout) != _head(committed()):
            raise RecordingError(
                f"{self._file.name} was made by another version of masdeepflow: replay it with that version"
            )
        return layout, dtype, start.pod_labels

    def _check(self) -> None:
        """Read all of it once, so that nothing of a damaged file is printed."""
        start = self._file.tell()
        try:
            self.end = self._read_end()
        except _CutOffError as error:
            if not self._partial:
                raise RecordingError(
                    f"{self._file.name} ends before its recording does (the agent or the disk was stopped): "
                    "`--partial` replays the whole batches that it has"
                ) from error
        except RecordingError:
            if not self._partial:
                raise
        self._file.seek(start)

    def _read_end(self) -> End:
        while "end" not in (frame := self._next())[0]:
            self._frame(*frame)
        end = self._converted(frame[0], _End)
        if self._file.tell() < self._size:
            raise RecordingError(f"{self._file.name} is damaged: it goes on behind its end")
        return End(end.lost, end.turns, end.moved)

    def frames(self) -> Iterator[Frame]:
        """Yield the batches in order."""
        while True:
            try:
                meta, data = self._next()
                if "end" in meta:
                    return
                frame = self._frame(meta, data)
            except RecordingError:
                if self._partial:
                    return
                raise
            yield frame

    def _frame(self, meta: dict[str, Any], data: bytes) -> Frame:
        batch = self._converted(meta, _Batch)
        try:
            slots = np.frombuffer(_decompressed(data), self._dtype)
        except (ValueError, zlib.error) as error:
            raise RecordingError(f"{self._file.name} is damaged: {error}") from error
        facts = batch.facts + _facts(batch)
        return Frame(slots, batch.offset_ns, batch.watermark_ns, facts, batch.turns, batch.moved)

    def _converted(self, meta: dict[str, Any], kind: type[T]) -> T:
        try:
            return msgspec.convert(meta, kind, str_keys=True)
        except msgspec.ValidationError as error:
            raise RecordingError(f"{self._file.name} is damaged: {error}") from error

    def _next(self) -> tuple[dict[str, Any], bytes]:
        at = self._file.tell()
        meta_length, data_length, crc = _HEAD.unpack(self._read(_HEAD.size))
        body = self._read(meta_length + data_length)
        if zlib.crc32(body) != crc:
            raise RecordingError(
                f"{self._file.name} is damaged: the checksum of the batch at byte {at} is wrong"
            )
        try:
            meta = json.loads(body[:meta_length])
        except (ValueError, RecursionError) as error:
            raise RecordingError(f"{self._file.name} is damaged at byte {at}") from error
        if not isinstance(meta, dict):
            raise RecordingError(f"{self._file.name} is damaged at byte {at}")
        return meta, body[meta_length:]

    def _read(self, size: int) -> bytes:
        """Return the next `size` bytes; a wrong length must not cost memory before it is refused."""
        at = self._file.tell()
        if size > self._size - at:
            raise _CutOffError(f"{self._file.name} is cut off behind byte {at}")
        return self._file.read(size)


def _facts(batch: _Batch) -> list[Fact]:
    """Return what recordings of the first version say of processes."""
    return [
        ProcessFact(pid, comm, executable, (command,) if command else ())
        for pid, comm, executable, command in batch.processes
        if executable is not None
    ]


class _CutOffError(RecordingError):
    """The file ends within a frame, or between two."""


def _decompressed(data: bytes) -> bytes:
    if not data:
        return b""
    stream = zlib.decompressobj()
    slots = stream.decompress(data, _BATCH_LIMIT)
    if not stream.eof:
        raise ValueError("a batch has no end, or is too large")
    return slots


def _head(layout: Layout) -> list[Member]:
    """Return the members of a slot that are the same whatever its size: all but the payload."""
    return [member for member in layout.structs["slot"][1] if member.name not in ("request", "response")]
