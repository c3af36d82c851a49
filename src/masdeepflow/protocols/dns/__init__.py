"""DNS over UDP and TCP: RFC 1035, with EDNS (RFC 6891).

Queries and responses belong together by socket, transaction id and question, not by order: a resolver asks
for A and AAAA back to back, a server has thousands of peers. What is not answered within `TIMEOUT_NS` of the
slots' clock is reported as an error, once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.pairing import Pairs, mixed, pair
from masdeepflow.protocols.dns.parsed import Transactions, timed_out, to_parsed
from masdeepflow.protocols.dns.reading import Messages, Reader, turn_messages
from masdeepflow.protocols.dns.recognition import Recognition
from masdeepflow.protocols.dns.waiting import OVERDUE_TURN, Queries
from masdeepflow.schema import Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.message import Message
    from masdeepflow.table import Parsed

__all__ = ["PROTOCOL", "TIMEOUT_NS", "Dns"]

TIMEOUT_NS = 5_000_000_000
"""UNANSWERED_NS of bpf/turn.h, and what resolvers wait by default (resolv.conf(5))."""
_NAMES = 4096
_NOBODYS = 2  # no message's key
_SECOND_NS = 1_000_000_000


class Dns:
    """Follows `masdeepflow.protocols.base.Waiting`."""

    name = "dns"
    datagram_ports = frozenset({53})

    def __init__(self) -> None:
        """Start with nothing asked."""
        self._reader = Reader()
        self._recognition = Recognition(self._reader)
        self._waiting = Queries(TIMEOUT_NS)
        self._names: deque[tuple[str, str, int]] = deque(maxlen=_NAMES)

    @property
    def evicted(self) -> int:
        """Queries that had to be forgotten before they were answered or timed out."""
        return self._waiting.evicted

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8, for turns and datagrams not known yet: 0 is "not mine"."""
        return self._recognition.scores(slots)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of slots that are this protocol's, or of those that were `overdue`."""
        if len(slots) and (slots["turn"] == OVERDUE_TURN).all():
            _, codes, values = self._reader.encode(slots)
            return timed_out(slots, codes, values, TIMEOUT_NS)
        in_flight = slots["kind"] == Kind.OPEN
        ended = np.flatnonzero(~in_flight)
        messages = self._reader.read(slots if len(ended) == len(slots) else slots[ended])
        messages = messages._replace(rows=ended[messages.rows])
        transactions = self._follow(slots, messages)
        if len(ended) < len(slots):
            transactions = transactions.with_open(turn_messages(slots, np.flatnonzero(in_flight)))
        return to_parsed(slots, transactions)

    def _follow(self, slots: np.ndarray, messages: Messages) -> Transactions:
        """Pair the queries that wait and the messages of a batch; remember what waits on."""
        old, count = self._waiting, len(self._waiting)
        values = [*messages.values, *old.messages]
        codes = np.concatenate((len(messages.values) + np.arange(count), messages.codes))
        first_ns = np.concatenate((old.first_ns, messages.first_ns))
        pairs = _pair(
            values,
            codes,
            np.concatenate((old.cookies, slots["cookie"][messages.rows])),
            np.concatenate((old.ids, messages.ids)),
            first_ns,
        )
        size = np.concatenate((old.size, messages.size))
        queue_ns = np.concatenate((old.queue_ns, slots["queue_ns"][messages.rows].astype(np.int64)))
        # Not in the order of keys, which are other ones in every run.
        order = np.lexsort((pairs.queries, pairs.responses))
        answers = pairs.responses[order] - count
        fresh, left = pairs.waiting[pairs.waiting >= count] - count, pairs.waiting[pairs.waiting < count]
        asked = np.concatenate((pairs.queries[order], fresh + count))
        nothing = np.zeros(len(fresh), np.int64)
        self._learn(values, messages.codes[answers], messages.last_ns[answers])
        old.keep(left, slots, messages, fresh)
        return Transactions(
            values,
            np.concatenate((messages.rows[answers], messages.rows[fresh])),
            codes[asked],
            np.concatenate((messages.codes[answers], nothing + ABSENT)),
            first_ns[asked],
            queue_ns[asked],
            size[asked],
            *(
                np.concatenate((column[answers], nothing))
                for column in (messages.first_ns, messages.last_ns, messages.size)
            ),
        )

    def _learn(self, values: list[Message], codes: NDArray[np.int64], last_ns: NDArray[np.int64]) -> None:
        """Note the addresses in responses (m,)."""
        latest = np.zeros(len(values), np.int64)
        np.maximum.at(latest, codes, last_ns)
        fresh = [(int(latest[place]), values[place]) for place in np.flatnonzero(latest).tolist()]
        for until, message in sorted(fresh, key=lambda known: (known[0], known[1].name or "")):
            name = message.name or ""
            self._names.extend(
                (address, name, until + ttl * _SECOND_NS) for address, ttl in message.addresses
            )

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return copies (m,) of the slots of queries that were not answered in time, and forget them."""
        return self._waiting.overdue(now_ns)

    def take_names(self) -> list[tuple[str, str, int]]:
        """Return what was resolved since the last call: address, name, and until when, on the slots' clock.

        The oldest are dropped if nobody takes them.
        """
        taken = list(self._names)
        self._names.clear()
        return taken

    def forget(self, cookies: Sequence[int]) -> None:
        """Keep what waits: the close of a connection does not answer it."""


def _pair(
    values: list[Message],
    codes: NDArray[np.int64],
    cookies: NDArray[np.uint64],
    ids: NDArray[np.uint64],
    stamps: NDArray[np.int64],
) -> Pairs:
    """Pair messages (n,) by socket, id and question; a response without a question by socket and id."""
    queries = np.array([not message.response for message in values], bool)[codes]
    questions = np.array([message.key for message in values], np.uint64)[codes]
    bare = ~queries & (questions == 0)
    questions[bare] = _NOBODYS
    pairs = pair(mixed(cookies, ids, questions), stamps, queries)
    if not bare.any() or not len(pairs.waiting):
        return pairs
    left = np.concatenate((pairs.waiting, np.flatnonzero(bare)))
    more = pair(mixed(cookies[left], ids[left]), stamps[left], queries[left])
    return Pairs(
        np.concatenate((pairs.queries, left[more.queries])),
        np.concatenate((pairs.responses, left[more.responses])),
        np.sort(left[more.waiting]),
    )


PROTOCOL = Dns
"""What the registry loads."""
