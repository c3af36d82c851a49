"""The BPF ring buffer as an array: every record has the same size, so it is mapped and read as one.

Layout: kernel/bpf/ringbuf.c, struct bpf_ringbuf: the consumer's page, the producer's page, the data.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

__all__ = ["Ring"]

_BUSY = np.uint32(1 << 31)  # BPF_RINGBUF_BUSY_BIT


class Ring:
    """Reads slots without copying them.

    What `read` returns is a lease: the kernel may overwrite it as soon as `release` is called.
    """

    def __init__(self, map_fd: int, size: int, dtype: np.dtype[np.void]) -> None:
        page = mmap.PAGESIZE
        self.capacity = size // dtype.itemsize
        """Slots in the ring."""
        self._slot_bytes = dtype.itemsize
        self._consumer_map = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # Once, not twice as for records of any size: slots never wrap, and a second mapping would count as
        # resident too.
        self._data_map = mmap.mmap(map_fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._data_map, np.uint64, 1)
        self._slots = np.frombuffer(self._data_map, dtype, self.capacity, page)
        self._position = int(self._consumer[0])

    def pending(self) -> int:
        """Return how many slots wait, those being written included."""
        return (int(self._producer[0]) - self._position) // self._slot_bytes

    def written(self) -> int:
        """Return how many slots were ever written, or begun."""
        return int(self._producer[0]) // self._slot_bytes

    def read(self, limit: int) -> np.ndarray:
        """Return up to `limit` finished slots (n,), oldest first; n is 0 when there are none.

        Fewer come at the ring's end: read again after `release`.
        """
        start = self._position // self._slot_bytes % self.capacity
        count = min(self.pending(), limit, self.capacity - start)
        slots = self._slots[start : start + count]
        busy = slots["ring_length"] & _BUSY
        if busy.any():
            slots = slots[: int(busy.argmax())]
        return slots

    def release(self, count: int) -> None:
        """Give the first `count` slots that `read` returned back to the kernel."""
        self._position += count * self._slot_bytes
        self._consumer[0] = self._position

    def close(self) -> None:
        """Unmap; what views handed out before hold on to goes with the last of them."""
        del self._consumer, self._producer, self._slots
        for mapping in (self._consumer_map, self._data_map):
            # An error on its way up holds the views of the batch it happened in.
            with contextlib.suppress(BufferError):
                mapping.close()
