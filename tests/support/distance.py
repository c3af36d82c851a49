"""Two namespaces a long way apart: a relay carries packets between two TUN devices, late."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.stage import Gate

__all__ = ["ADDRESSES", "relay"]

ADDRESSES = ("10.9.0.1", "10.9.0.2")
"""Of the first and of the second namespace."""

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_NAME = b"far"
_MAX_PACKET = 65536


def _open_device(address: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            fcntl.ioctl(
                control,
                request,
                struct.pack("16sHH4s8x", _NAME, socket.AF_INET, 0, socket.inet_aton(value)),
            )
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", _NAME, _IFF_UP))
    return device


def relay(enter: Sequence[Callable[[], None]], one_way_s: float, ready: Gate, done: Gate) -> None:
    """Carry packets until `done` opens. enter: functions that enter the two namespaces."""
    devices = []
    for step, address in zip(enter, ADDRESSES, strict=True):
        step()
        devices.append(_open_device(address))
    ready.open()
    under_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select([*devices, done.fileno()], [], [], pause)
        if done.fileno() in readable:
            return
        for device in readable:
            other = devices[1 - devices.index(device)]
            under_way.append((time.monotonic() + one_way_s, other, os.read(device, _MAX_PACKET)))
        while under_way and under_way[0][0] <= time.monotonic():
            _, device, packet = under_way.popleft()
            os.write(device, packet)
