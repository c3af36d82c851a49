"""Turns for tests, built field by field in the layout that the kernel side writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from masdeepflow.kernel.layout import committed, slot_dtype
from masdeepflow.schema import Flag, Kind, Role, Transport

DTYPE = slot_dtype(committed())
MILLISECOND = 1_000_000
START = 1_000_000_000


def turn(request: bytes = b"", response: bytes = b"", **fields: object) -> dict[str, object]:
    """Return one turn: a client's on TCP, answered after 1 ms; its payload is cut as the kernel cuts it."""
    return {"request": request, "response": response, **fields}


def make_slots(*turns: dict[str, object]) -> np.ndarray:
    """Return a structured array (n,) of the given turns, stale bytes (0xAA) behind every payload prefix."""
    slots = np.zeros(len(turns), DTYPE)
    for number, (slot, fields) in enumerate(zip(slots, turns, strict=True)):
        _fill(slot, number, dict(fields))
    return slots


def random_turns(count: int) -> np.ndarray:
    """Return turns (count,) of random bytes, the same each time."""
    generator = np.random.default_rng(1)
    slots = make_slots(*[turn(b"x" * 200, b"y" * 100)] * count)
    for side in ("request", "response"):
        slots[side] = generator.integers(0, 256, slots[side].shape, np.uint8)
    return slots


def _fill(slot: np.void, number: int, fields: dict[str, Any]) -> None:
    request, response = bytes(fields.pop("request")), bytes(fields.pop("response"))
    start = START + 10 * MILLISECOND * number
    slot["kind"], slot["role"], slot["transport"], slot["family"] = Kind.TURN, Role.CLIENT, Transport.TCP, 2
    slot["cookie"], slot["turn"], slot["pid"], slot["comm"] = 1, number + 1, 100, b"client"
    slot["local_address"][:4], slot["remote_address"][:4] = (127, 0, 0, 1), (127, 0, 0, 1)
    slot["local_port"], slot["remote_port"] = 50000, 80
    for side, data, first in (("request", request, start), ("response", response, start + MILLISECOND)):
        room = slot[side].shape[0]
        slot[side][:] = 0xAA
        slot[side][: min(len(data), room)] = np.frombuffer(data[:room], np.uint8)
        slot[f"{side}_length"], slot[f"{side}_bytes"] = min(len(data), room), len(data)
        if data:
            slot[f"{side}_first_ns"] = slot[f"{side}_last_ns"] = first
            slot[f"{side}_segments"] = 1
    if response and not request:
        slot["flags"] = Flag.SERVER_FIRST
    for name, value in fields.items():
        slot[name] = value


def fork(pid: int, parent: int) -> dict[str, object]:
    """Return the record of a new process."""
    return {"kind": Kind.FORK, "pid": pid, "tid": parent, "request": b"", "response": b""}


def cgroup(pid: int, path: str) -> dict[str, object]:
    """Return the record of a process's cgroup: of its path's last three names."""
    top, middle, own = [b"", b"", b"", *(name.encode() for name in path.split("/"))][-3:]
    request = own.ljust(128, b"\0") + middle.ljust(80, b"\0")
    return {"kind": Kind.CGROUP, "pid": pid, "request": request, "response": top.ljust(104, b"\0")}


def execute(pid: int, *arguments: bytes, service: bytes = b"", user: int = 0) -> dict[str, object]:
    """Return the record of a process that runs a program, called as its first argument's base name."""
    executable = arguments[0].rpartition(b"/")[2] if arguments else b""
    return {
        "kind": Kind.EXEC,
        "pid": pid,
        "tid": user,
        "comm": executable[:15],
        "request": b"".join(argument + b"\0" for argument in arguments),
        "response": executable[:39].ljust(40, b"\0") + service.ljust(64, b"\0"),
    }


def cut(slots: np.ndarray, request: int, response: int) -> np.ndarray:
    """Return the slots as a build with payload prefixes of these sizes (multiples of 8) would write them."""
    fields = dict(slots.dtype.fields or {})
    sizes = {"request": request, "response": response}
    formats = [(name, (np.uint8, (sizes[name],)) if name in sizes else fields[name][0]) for name in fields]
    aligned = np.dtype(formats, align=True)
    narrow = np.zeros(len(slots), aligned)
    for name in fields:
        narrow[name] = slots[name][:, : sizes[name]] if name in sizes else slots[name]
    for name, size in sizes.items():
        narrow[f"{name}_length"] = np.minimum(slots[f"{name}_length"], size)
    return narrow
