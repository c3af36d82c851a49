"""The ring reader over a memory file that is laid out as the kernel's struct bpf_ringbuf."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.kernel.ring import Ring
from tests.support.slots import DTYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
SIZE = PAGE
CAPACITY = SIZE // DTYPE.itemsize
BUSY = 1 << 31


class Producer:
    """The kernel's side: reserves and commits slots as kernel/bpf/ringbuf.c does.

    Positions only ever grow; they start at `start`, as if so many bytes had gone through already.
    """

    def __init__(self, start: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + SIZE)
        self._memory = mmap.mmap(self.fd, 2 * PAGE + SIZE)
        self._consumer = np.frombuffer(self._memory, np.uint64, 1)
        self._position = np.frombuffer(self._memory, np.uint64, 1, PAGE)
        self._slots = np.frombuffer(self._memory, DTYPE, CAPACITY, 2 * PAGE)
        self._consumer[0] = self._position[0] = start

    def used(self) -> int:
        """Return how many slots the consumer has not given back."""
        return int(self._position[0] - self._consumer[0]) // DTYPE.itemsize

    def reserve(self) -> int | None:
        """Mark the next slot as being written and move the position; None when the ring is full."""
        if self.used() == CAPACITY:
            return None
        place = int(self._position[0]) // DTYPE.itemsize % CAPACITY
        self._slots[place]["ring_length"] = BUSY | (DTYPE.itemsize - 8)
        self._position[0] += DTYPE.itemsize
        return place

    def commit(self, place: int, cookie: int) -> None:
        """Write a reserved slot and mark it as finished."""
        self._slots[place]["cookie"] = cookie
        self._slots[place]["ring_length"] = DTYPE.itemsize - 8

    def write(self, *cookies: int) -> None:
        """Write slots that carry these cookies; the ring must have room."""
        for cookie in cookies:
            place = self.reserve()
            assert place is not None
            self.commit(place, cookie)

    def close(self) -> None:
        """Free the memory."""
        del self._consumer, self._position, self._slots
        self._memory.close()
        os.close(self.fd)


@pytest.fixture
def producer() -> Iterator[Producer]:
    """Give the writing end of an empty ring."""
    producer = Producer()
    yield producer
    producer.close()


@pytest.fixture
def ring(producer: Producer) -> Iterator[Ring]:
    """Give the reading end of the same ring."""
    ring = Ring(producer.fd, SIZE, DTYPE)
    yield ring
    ring.close()


def _take(ring: Ring, limit: int = CAPACITY) -> list[int]:
    slots = ring.read(limit)
    cookies: list[int] = slots["cookie"].tolist()
    ring.release(len(slots))
    return cookies


def test_empty_ring_gives_nothing(ring: Ring) -> None:
    """Nothing written, nothing pending, nothing read."""
    assert ring.pending() == 0
    assert len(ring.read(10)) == 0
    assert ring.capacity == CAPACITY


def test_slots_come_in_the_order_written(producer: Producer, ring: Ring) -> None:
    """The oldest comes first."""
    producer.write(1, 2, 3)
    assert ring.pending() == 3
    assert _take(ring) == [1, 2, 3]
    assert ring.pending() == 0


def test_reading_again_without_release_gives_the_same(producer: Producer, ring: Ring) -> None:
    """What is not given back is not lost."""
    producer.write(1, 2)
    assert ring.read(10)["cookie"].tolist() == [1, 2]
    assert ring.read(10)["cookie"].tolist() == [1, 2]
    assert producer.used() == 2


def test_limit_bounds_a_batch(producer: Producer, ring: Ring) -> None:
    """A batch is never larger than asked for; the rest comes next."""
    producer.write(1, 2, 3)
    assert _take(ring, 2) == [1, 2]
    assert _take(ring, 0) == []
    assert _take(ring, 2) == [3]


def test_slots_being_written_are_not_read(producer: Producer, ring: Ring) -> None:
    """A busy slot ends the batch, so that order is kept, though it counts as pending."""
    producer.write(1)
    place = producer.reserve()
    assert place is not None
    producer.write(3)
    assert ring.pending() == 3
    assert _take(ring) == [1]
    assert _take(ring) == []
    producer.commit(place, 2)
    assert _take(ring) == [2, 3]


def test_batch_ends_where_the_ring_does(producer: Producer, ring: Ring) -> None:
    """Slots never wrap; those at the ring's start come with the next read."""
    producer.write(*range(CAPACITY - 2))
    _take(ring)
    producer.write(10, 11, 12, 13)
    assert _take(ring) == [10, 11]
    assert _take(ring) == [12, 13]


def test_batch_is_a_lease_without_a_copy(producer: Producer, ring: Ring) -> None:
    """Until it is released nothing overwrites a batch; after that the kernel does."""
    producer.write(*range(CAPACITY))
    lease = ring.read(2)
    assert producer.reserve() is None
    ring.release(2)
    producer.write(100)
    assert lease["cookie"].tolist() == [100, 1]


def test_batch_can_not_be_written_to(producer: Producer, ring: Ring) -> None:
    """The kernel's memory is mapped for reading only: a stage that tries fails, not the host."""
    producer.write(1)
    slots = ring.read(1)
    with pytest.raises(ValueError, match="read-only"):
        slots["cookie"] = 2


def test_full_ring_is_read_whole(producer: Producer, ring: Ring) -> None:
    """A full ring is not mistaken for an empty one."""
    producer.write(*range(CAPACITY))
    assert producer.reserve() is None
    assert ring.pending() == CAPACITY
    assert _take(ring) == list(range(CAPACITY))


@pytest.mark.parametrize("start", [2**32 - DTYPE.itemsize, 2**32, 2**53 + 5 * DTYPE.itemsize, 2**62])
def test_positions_go_on_beyond_32_bits(start: int) -> None:
    """After days of traffic positions need more than 32 bits, later than a float holds exactly."""
    producer = Producer(start)
    ring = Ring(producer.fd, SIZE, DTYPE)
    for cookie in range(3 * CAPACITY):
        producer.write(cookie)
        assert _take(ring) == [cookie]
    assert producer.used() == 0
    ring.close()
    producer.close()


def test_reader_goes_on_where_the_ring_stands(producer: Producer) -> None:
    """A second reader of a ring that was read before gets what the first left."""
    producer.write(1, 2)
    first = Ring(producer.fd, SIZE, DTYPE)
    _take(first, 1)
    first.close()
    second = Ring(producer.fd, SIZE, DTYPE)
    assert _take(second) == [2]
    second.close()


def test_close_survives_a_batch_still_in_hand(producer: Producer) -> None:
    """An error on its way up keeps the batch it happened in: closing must not hide it behind another."""
    producer.write(1)
    ring = Ring(producer.fd, SIZE, DTYPE)
    slots = ring.read(1)
    ring.close()
    assert slots["cookie"].tolist() == [1]


@given(st.integers(0, 2**40), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
def test_every_slot_is_read_once_and_in_order(start: int, steps: list[tuple[int, int]]) -> None:
    """However writing and reading alternate: what had room in the ring comes out, nothing twice."""
    producer = Producer(start * DTYPE.itemsize)
    ring = Ring(producer.fd, SIZE, DTYPE)
    written: list[int] = []
    read: list[int] = []
    for writes, limit in steps:
        for _ in range(writes):
            place = producer.reserve()
            if place is not None:
                producer.commit(place, len(written))
                written.append(len(written))
        read += _take(ring, limit)
        assert ring.pending() == producer.used() == len(written) - len(read)
    while cookies := _take(ring):
        read += cookies
    assert read == written
    ring.close()
    producer.close()
