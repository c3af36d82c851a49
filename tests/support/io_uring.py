"""io_uring by its bare system calls: enough to send and receive. See io_uring(7)."""

from __future__ import annotations

import ctypes as c
import mmap
import os
import struct
from pathlib import Path
from typing import Self

__all__ = ["Ring", "disabled"]

_SETUP, _ENTER = 425, 426  # the same on every architecture
_OFFSET_SQ, _OFFSET_CQ, _OFFSET_SQES = 0, 0x8000000, 0x10000000
_GETEVENTS = 1
_OP_SEND, _OP_RECV = 26, 27
_SQE_BYTES, _CQE_BYTES = 64, 16
_SQE_ASYNC = 16  # IOSQE_ASYNC: by a worker thread
_PARAMS_BYTES = 120
_SQ_OFFSETS, _CQ_OFFSETS = 40, 80
_ENTRIES = 8
_libc = c.CDLL(None, use_errno=True)


def disabled() -> bool:
    """Return whether this host forbids io_uring altogether."""
    switch = Path("/proc/sys/kernel/io_uring_disabled")
    return not switch.exists() or switch.read_text(encoding="ascii").strip() == "2"


class Ring:
    """A small ring. Operations are numbered by the caller."""

    def __init__(self) -> None:
        params = c.create_string_buffer(_PARAMS_BYTES)
        self._fd: int = _libc.syscall(_SETUP, _ENTRIES, params)
        if self._fd < 0:
            raise OSError(c.get_errno(), os.strerror(c.get_errno()))
        sq_entries, cq_entries = struct.unpack_from("II", params)
        self._sq = dict(
            zip(
                ("head", "tail", "mask", "entries", "flags", "dropped", "array"),
                struct.unpack_from("7I", params, _SQ_OFFSETS),
                strict=True,
            )
        )
        self._cq = dict(
            zip(
                ("head", "tail", "mask", "entries", "overflow", "cqes"),
                struct.unpack_from("6I", params, _CQ_OFFSETS),
                strict=True,
            )
        )
        self._sq_map = mmap.mmap(self._fd, self._sq["array"] + 4 * sq_entries, offset=_OFFSET_SQ)
        self._cq_map = mmap.mmap(self._fd, self._cq["cqes"] + _CQE_BYTES * cq_entries, offset=_OFFSET_CQ)
        self._sqes = mmap.mmap(self._fd, _SQE_BYTES * sq_entries, offset=_OFFSET_SQES)
        self._buffers: list[object] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for mapping in (self._sq_map, self._cq_map, self._sqes):
            mapping.close()
        os.close(self._fd)

    def send(self, descriptor: int, data: bytes, number: int, *, worker: bool = False) -> None:
        """Submit a send."""
        self._submit(_OP_SEND, descriptor, c.create_string_buffer(data, len(data)), number, worker=worker)

    def receive(self, descriptor: int, size: int, number: int, *, worker: bool = False) -> c.Array[c.c_char]:
        """Submit a receive; return its buffer."""
        buffer = c.create_string_buffer(size)
        self._submit(_OP_RECV, descriptor, buffer, number, worker=worker)
        return buffer

    def _submit(
        self, operation: int, descriptor: int, buffer: c.Array[c.c_char], number: int, *, worker: bool
    ) -> None:
        self._buffers.append(buffer)
        tail = self._read(self._sq_map, self._sq["tail"])
        index = tail & self._read(self._sq_map, self._sq["mask"])
        entry = struct.pack(
            "BBHiQQIIQ",
            operation,
            _SQE_ASYNC if worker else 0,
            0,
            descriptor,
            0,
            c.addressof(buffer),
            len(buffer),
            0,
            number,
        )
        self._sqes[index * _SQE_BYTES : (index + 1) * _SQE_BYTES] = entry.ljust(_SQE_BYTES, b"\0")
        struct.pack_into("I", self._sq_map, self._sq["array"] + 4 * index, index)
        struct.pack_into("I", self._sq_map, self._sq["tail"], tail + 1)
        self._enter(1, 0)

    def _enter(self, submit: int, wait: int) -> None:
        if _libc.syscall(_ENTER, self._fd, submit, wait, _GETEVENTS if wait else 0, None, 0) < 0:
            raise OSError(c.get_errno(), os.strerror(c.get_errno()))

    @staticmethod
    def _read(mapping: mmap.mmap, offset: int) -> int:
        value: int = struct.unpack_from("I", mapping, offset)[0]
        return value

    def completed(self) -> bool:
        """Return whether a completion waits; makes no system call."""
        return self._read(self._cq_map, self._cq["head"]) != self._read(self._cq_map, self._cq["tail"])

    def wait(self) -> tuple[int, int]:
        """Wait for a completion; return the operation's number and its result."""
        if not self.completed():
            self._enter(0, 1)
        head = self._read(self._cq_map, self._cq["head"])
        index = head & self._read(self._cq_map, self._cq["mask"])
        number, result = struct.unpack_from("Qi", self._cq_map, self._cq["cqes"] + _CQE_BYTES * index)
        struct.pack_into("I", self._cq_map, self._cq["head"], head + 1)
        return number, result
