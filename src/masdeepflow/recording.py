"""Recordings: batches as they came from the ring, with all that a replay needs to print the same lines.

Layout: a line of magic, then frames. A frame is `<II I>`: lengths of its JSON and of its data, CRC-32 of both; the
JSON; the data, zlib-compressed slots. The first frame holds the layout, the last says that the recording is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import struct
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masdeepflow.enrich.process import ProcessNames
from masdeepflow.kernel.layout import Layout, LayoutError, from_text, slot_dtype, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["End", "Frame", "LostTurns", "Recorder", "Recording", "RecordingError"]

_MAGIC = b"masdeepflow recording 1\n"
_HEAD = struct.Struct("<III")
_FRAME_LIMIT = 1 << 30
_QUEUED_FRAMES = 64


class RecordingError(ValueError):
    """The file is no recording, damaged, or cut off."""


@dataclass(frozen=True, slots=True)
class LostTurns:
    """Turns that the ring lost but the kernel counted. histogram: counts by bucket, see bpf/ring.h."""

    service: str
    protocol: str
    role: str
    turns: int
    histogram: list[int]


@dataclass(frozen=True, slots=True)
class Frame:
    """One batch. watermark_ns: what had been given out before it. processes: names learnt while it was read."""

    slots: np.ndarray
    offset_ns: int
    watermark_ns: int
    processes: list[tuple[int, str, ProcessNames]]


@dataclass(frozen=True, slots=True)
class End:
    """The last frame. lost: reason -> count, what this host's log lost not included."""

    lost: dict[str, int]
    turns: list[LostTurns] = field(default_factory=list)


class Recorder:
    """Writes a recording, compressed by a thread of its own, under another name until it is whole.

    Raises OSError if the file can't be made. A failure while writing (disk full) is kept in `error`; what was written
    is removed.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory", str(path))
        self._file: BinaryIO = self._partial.open("wb")
        self.error: OSError | None = None
        self._queue: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue(_QUEUED_FRAMES)
        self._thread = threading.Thread(target=self._write_queued, name="recorder", daemon=True)
        self._thread.start()
        self._put(self._file.write, _MAGIC)
        self._queue.put(({"layout": to_text(layout)}, b""))

    def write(self, frame: Frame) -> None:
        """Queue a copy of one batch; waits when the disk is slower than the host: the ring counts what that costs."""
        if self.error is not None:
            return
        processes = [(pid, comm, names.executable, names.command) for pid, comm, names in frame.processes]
        meta = {"offset_ns": frame.offset_ns, "watermark_ns": frame.watermark_ns, "processes": processes}
        self._queue.put((meta, frame.slots.tobytes()))

    def close(self, end: End) -> None:
        """Finish the file and give it its name. `error` tells whether that worked."""
        turns = [[t.service, t.protocol, t.role, t.turns, t.histogram] for t in end.turns]
        self._queue.put(({"end": True, "lost": end.lost, "turns": turns}, b""))
        self._queue.put(None)
        self._thread.join()
        if self.error is None:
            self._put(lambda _: self._file.close(), b"")
        if self.error is None:
            self._put(lambda _: self._partial.replace(self._path), b"")
        if self.error is not None:
            self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _put(self, action: Any, data: bytes) -> None:  # noqa: ANN401  # write or rename: what matters is the OSError
        try:
            action(data)
        except OSError as error:
            self.error = error

    def _write_queued(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.error is None:
                self._put(self._file.write, _encode(*item))


def _encode(meta: dict[str, Any], data: bytes) -> bytes:
    head, body = json.dumps(meta).encode(), zlib.compress(data, 1) if data else b""
    return _HEAD.pack(len(head), len(body), zlib.crc32(body, zlib.crc32(head))) + head + body


class Recording:
    """Reads a recording. Raises RecordingError at once for anything but a whole one, unless `partial` is allowed."""

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self._file = path.open("rb")
        self._partial = partial
        if self._file.read(len(_MAGIC)) != _MAGIC:
            raise RecordingError(f"{path} is not a recording of masdeepflow")
        first = self._next()
        try:
            self.layout = from_text(first[0]["layout"])
            self._dtype = slot_dtype(self.layout)
        except (KeyError, TypeError, LayoutError) as error:
            raise RecordingError(f"{path} has no readable layout: it is damaged") from error
        self.end: End | None = None
        """How the recording ended; known once `frames` has been read to the end. None if it was cut off."""
        self._check()

    def _check(self) -> None:
        """Read all of it once, so that nothing of a damaged file is printed."""
        start = self._file.tell()
        whole = self._scan()
        if not whole and not self._partial:
            raise RecordingError(
                f"{self._file.name} ends before its recording does (the agent or the disk was stopped): "
                "`--partial` replays the whole batches that it has"
            )
        self._file.seek(start)

    def _scan(self) -> bool:
        try:
            while True:
                meta, data = self._next()
                if meta.get("end"):
                    self._read_end(meta)
                    return True
                self._frame(meta, data)
        except RecordingError:
            if os.fstat(self._file.fileno()).st_size > self._file.tell() and not self._partial:
                raise
            return False

    def _read_end(self, meta: dict[str, Any]) -> None:
        self.end = End(dict(meta["lost"]), [LostTurns(*turn) for turn in meta["turns"]])

    def frames(self) -> Iterator[Frame]:
        """Yield the batches in order."""
        while True:
            try:
                meta, data = self._next()
            except RecordingError:
                if self._partial:
                    return
                raise
            if meta.get("end"):
                return
            yield self._frame(meta, data)

    def _frame(self, meta: dict[str, Any], data: bytes) -> Frame:
        try:
            slots = np.frombuffer(zlib.decompress(data) if data else b"", self._dtype)
            processes = [(pid, comm, ProcessNames(exe, command)) for pid, comm, exe, command in meta["processes"]]
            return Frame(slots, int(meta["offset_ns"]), int(meta["watermark_ns"]), processes)
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise RecordingError(f"{self._file.name} is damaged: {error}") from error

    def _next(self) -> tuple[dict[str, Any], bytes]:
        at = self._file.tell()
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise RecordingError(f"{self._file.name} is cut off at byte {at}")
        meta_length, data_length, crc = _HEAD.unpack(head)
        if meta_length + data_length > _FRAME_LIMIT:
            raise RecordingError(f"{self._file.name} is damaged at byte {at}")
        body = self._file.read(meta_length + data_length)
        if len(body) < meta_length + data_length:
            raise RecordingError(f"{self._file.name} is cut off in the batch at byte {at}")
        if zlib.crc32(body) != crc:
            raise RecordingError(f"{self._file.name} is damaged: the checksum of the batch at byte {at} is wrong")
        try:
            meta = json.loads(body[:meta_length])
        except ValueError as error:
            raise RecordingError(f"{self._file.name} is damaged at byte {at}") from error
        return meta, body[meta_length:]
