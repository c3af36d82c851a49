"""DNS over UDP and TCP: RFC 1035, with EDNS (RFC 6891).

Queries and responses belong together by socket, transaction id and question, not by order: a resolver asks
for A and AAAA back to back, a server has thousands of peers. What is not answered within `TIMEOUT_NS` of the
slots' clock is reported as an error, once; so is, sooner, what its client asks again, and what the close of
its connection leaves without an answer.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.failed import failed
from masdeepflow.protocols.dns.glances import joined, told
from masdeepflow.protocols.dns.names import as_objects
from masdeepflow.protocols.dns.pairing import Over, Pairs, again, mixed, pair, settled_elsewhere
from masdeepflow.protocols.dns.parsed import Transactions, no_responses, timed_out, to_parsed
from masdeepflow.protocols.dns.reading import FEW, Batch, Reader, turn_messages
from masdeepflow.protocols.dns.recognition import Recognition
from masdeepflow.protocols.dns.unseen import match_unseen
from masdeepflow.protocols.dns.waiting import OVERDUE_TURN, Queries
from masdeepflow.schema import Flag, Kind, Role, Transport
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.table import Parsed

__all__ = ["PROTOCOL", "TIMEOUT_NS", "Dns"]

TIMEOUT_NS = 5_000_000_000
"""UNANSWERED_NS of bpf/turn.h, and what resolvers wait by default (resolv.conf(5))."""
_NAMES = 4096
_NOBODYS = 2  # no message's key
_UNSENT = np.uint64(0x5555555555555554)  # nobody answers what was not sent
_SECOND_NS = 1_000_000_000
_CLOSED = int(Flag.CLOSED)


class Dns:
    """Follows `masdeepflow.protocols.base.Waiting`."""

    name = "dns"
    datagram_ports = frozenset({53})

    def __init__(self, few: int = FEW) -> None:
        """Start with nothing asked. few: datagrams at a time that are read one by one."""
        self._reader = Reader(few)
        self._recognition = Recognition(self._reader, self.datagram_ports)
        self._waiting = Queries(TIMEOUT_NS)
        self._names: deque[tuple[bytes, bool, str | None, int]] = deque(maxlen=_NAMES)
        self._names_dropped = 0

    @property
    def evicted(self) -> int:
        """Queries forgotten before they were answered or timed out, and names before anybody took them."""
        return self._waiting.evicted + self._names_dropped

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8, for turns and datagrams not known yet: 0 is "not mine"."""
        return self._recognition.scores(slots)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of slots that are this protocol's, or of those that were `overdue`."""
        if len(slots) and (slots["turn"] == OVERDUE_TURN).all():
            due = self._reader.datagrams(slots)
            return timed_out(due.messages, due.names, slots, TIMEOUT_NS)
        in_flight = slots["kind"] == Kind.OPEN
        if not in_flight.any():
            return to_parsed(slots, self._follow(slots, self._reader.read(slots)))
        ended = np.flatnonzero(~in_flight)
        batch = self._reader.read(slots[ended])
        batch.messages["row"] = ended[batch.messages["row"]]
        unseen = [one._replace(row=int(ended[one.row])) for one in batch.unseen]
        batch = batch._replace(unseen=unseen)
        transactions = self._follow(slots, batch)
        return to_parsed(slots, _with_open(transactions, slots, np.flatnonzero(in_flight)))

    def _follow(self, slots: np.ndarray, batch: Batch) -> Transactions:
        """Pair the queries that wait and the messages of a batch; remember what waits on."""
        count, places = len(self._waiting), len(batch.names)
        names = batch.names.joined(self._waiting.names)
        old = self._waiting.messages
        old["place"] = places + np.arange(count)
        messages = joined(old, batch.messages)
        pairs = self._pair(slots, messages)
        hidden, pairs = match_unseen(slots, batch.unseen, messages, pairs)
        if batch.streamed:
            self._leave_datagrams(slots, messages, pairs.waiting, len(batch.streamed))
        if batch.streamed or messages["elsewhere"].any():
            for name in "doubtful", "elsewhere", "unheard":
                old[name], batch.messages[name] = np.split(messages[name], [count])
        if len(hidden.rows):
            hidden.asked["place"][hidden.asked["key"] == 0] = len(names)
            names = names.joined(as_objects([None]))
        # Not in the order of keys, which are other ones in every run.
        order = np.lexsort((pairs.queries, pairs.responses))
        queries, responses = pairs.queries[order], messages.take(pairs.responses[order])
        self._learn(batch, responses)
        over = failed(slots, messages, pairs.waiting).before(self._retried(slots, messages, pairs))
        waiting = np.setdiff1d(pairs.waiting, over.queries) if len(over.queries) else pairs.waiting
        asks = ~batch.messages["response"]
        self._waiting.leave(slots, batch.messages[asks])
        if messages["watched"].any():
            self._waiting.hear(slots, batch.messages[~asks])
        fresh, left = waiting[waiting >= count], waiting[waiting < count]
        rows = messages["row"].take(fresh)
        closed = _closed(slots, rows)
        self._waiting.keep(left, slots, batch, fresh[~closed] - count)
        unanswered = np.concatenate((over.queries, fresh))
        # What was asked before is over before it is asked again, in the same slot.
        return Transactions(
            np.concatenate((responses["row"], hidden.rows, over.rows, rows)),
            joined(messages.take(queries), hidden.asked, messages.take(unanswered)),
            joined(responses, hidden.answered, no_responses(len(over.queries) + len(fresh))),
            names,
            *_ended(len(responses) + len(hidden.rows), over, closed),
            batch.remarks,
        )

    def _pair(self, slots: np.ndarray, messages: np.ndarray) -> Pairs:
        """Pair messages (n,) by socket, id and question; a response without a question by socket and id.

        Where a client has asked several servers the same, first by the server too. Who has one answer may not
        read the others': unless these are told of all the same, nobody knows whether there were any.
        """
        queries, stamps = ~messages["response"], messages["first_ns"]
        questions = messages["key"].copy()
        bare = ~queries & (questions == 0)
        questions[bare] = _NOBODYS
        questions[messages["errno"] > 0] ^= _UNSENT
        keys = mixed(messages["cookie"], messages["id"], questions)
        pairs = pair(keys, stamps, queries)
        if len(pairs.earlier):
            own = self._by_server(keys, slots, messages, pairs)
            if own is not None:
                pairs = again(pair(own, stamps, queries), keys, stamps, queries)
                settled = settled_elsewhere(pairs, keys, own, stamps)
                messages["elsewhere"][settled] = True
                settled = settled[messages["watched"][settled]]
                messages["unheard"][settled] = True
                if len(settled):
                    unsure = ~messages["watched"][pairs.responses]
                    guessed = pairs._replace(queries=pairs.queries[unsure], responses=pairs.responses[unsure])
                    messages["unheard"][settled_elsewhere(guessed, keys, own, stamps)] = False
        if bare.any() and len(pairs.waiting):
            unsent = np.where(messages["errno"] > 0, _UNSENT, np.uint64(0))
            by_id = mixed(messages["cookie"], messages["id"], unsent)
            pairs = again(pairs, by_id, stamps, queries, bare)
        return pairs

    def _by_server(
        self, keys: NDArray[np.uint64], slots: np.ndarray, messages: np.ndarray, pairs: Pairs
    ) -> NDArray[np.uint64] | None:
        """Return keys (n,) that differ by server where a client asked again; None if it asked one only."""
        places = np.flatnonzero(np.isin(keys, keys[pairs.earlier]))
        ends = self._waiting.ends(places, slots, messages)
        clients = ends["role"] == Role.CLIENT
        places, ends = places[clients], ends[clients]
        words = np.ascontiguousarray(ends["remote_address"]).view(np.uint64)
        servers = mixed(words[:, 0], words[:, 1], ends["remote_port"].astype(np.uint64))
        own = keys.copy()
        own[places] = mixed(keys[places], servers)
        same = len(np.unique(own[places])) == len(np.unique(keys[places]))
        return None if same else own

    def _retried(self, slots: np.ndarray, messages: np.ndarray, pairs: Pairs) -> Over:
        """Return the clients' queries that go unanswered because they were asked again.

        Only of the same server: some ask several at once. A server's peers can't be told apart.
        """
        if not len(pairs.earlier):
            return Over.none()
        mine = (pairs.later >= len(self._waiting)) & np.isin(pairs.earlier, pairs.waiting)
        earlier, later = pairs.earlier[mine], pairs.later[mine]
        before, after = self._waiting.ends(earlier, slots, messages), slots[messages["row"][later]]
        same = (before["role"] == Role.CLIENT) & (before["remote_port"] == after["remote_port"])
        same &= (before["remote_address"] == after["remote_address"]).all(axis=1)
        same &= (before["remote_port"] > 0) & (messages["first_ns"][earlier] < messages["first_ns"][later])
        rows, stamps = messages["row"][later[same]], messages["first_ns"][later[same]]
        return Over(earlier[same], rows, stamps, np.zeros(len(rows), np.int32))

    def _leave_datagrams(
        self, slots: np.ndarray, messages: np.ndarray, waiting: NDArray[np.intp], streamed: int
    ) -> None:
        """Mark of `waiting` (k,) what the last of messages (n,), as many as are `streamed`, ask again.

        One of a client's responses was truncated: it goes on by a stream, and reads no other datagram.
        """
        streams = np.arange(len(messages) - streamed, len(messages))
        streams = streams[slots["transport"][messages["row"][streams]] == Transport.TCP]
        again = streams[~messages["response"][streams] & (messages["key"][streams] > 0)]
        if not len(again):
            return
        keys = mixed(messages["id"], messages["key"])
        for place in waiting[np.isin(keys[waiting], keys[again])].tolist():
            (before,) = self._waiting.ends(np.array([place]), slots, messages)
            if before["transport"] != Transport.UDP or before["role"] != Role.CLIENT:
                continue
            later = again[
                (keys[again] == keys[place]) & (messages["first_ns"][again] > messages["first_ns"][place])
            ]
            after = slots[messages["row"][later]]
            same = (after["pid"] == before["pid"]) & (after["remote_port"] == before["remote_port"])
            same &= (after["remote_address"] == before["remote_address"]).all(axis=1)
            messages["doubtful"][place] |= same.any()

    def _learn(self, batch: Batch, responses: np.ndarray) -> None:
        """Note the addresses in responses (m,) of a batch, the latest of each."""
        if not len(batch.addresses):
            return
        stamps = np.full(len(batch.names), ABSENT, np.int64)
        stamps[responses["place"]] = responses["last_ns"]
        told = batch.addresses[stamps[batch.addresses["place"]] != ABSENT]
        told = told[np.argsort(stamps[told["place"]], kind="stable")]
        if len(told) > FEW:
            told = _last_of_each(told)[-_NAMES:]
        until = stamps[told["place"]] + told["ttl"] * _SECOND_NS
        names = batch.names.some(told["place"])
        packed = map(bytes, told["packed"])
        self._names_dropped += max(len(self._names) + len(told) - _NAMES, 0)
        self._names.extend(zip(packed, told["six"].tolist(), names, until.tolist(), strict=True))

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return copies (m,) of the slots of queries that were not answered in time, and forget them."""
        return self._waiting.overdue(now_ns)

    def take_names(self) -> list[tuple[str, str, int]]:
        """Return what was resolved since the last call: address, name, and until when, on the slots' clock.

        The oldest are dropped if nobody takes them.
        """
        taken = [(_address(packed, six=six), name or "", until) for packed, six, name, until in self._names]
        self._names.clear()
        return taken

    def forget(self, cookies: Sequence[int]) -> None:
        """Keep what waits: the close of a connection does not answer it."""


def _address(packed: bytes, *, six: bool) -> str:
    return socket.inet_ntop(socket.AF_INET6, packed) if six else socket.inet_ntop(socket.AF_INET, packed[:4])


def _closed(slots: np.ndarray, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which of `rows` (m,) of slots (n,) the connection's close ended, with no byte of a response."""
    closed: NDArray[np.bool_] = (slots["flags"][rows] & _CLOSED) > 0
    closed &= slots["response_bytes"][rows] == 0
    return closed


def _ended(
    answered: int, over: Over, closed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int32]]:
    """Return `ended_ns` and `errno` of `Transactions`: the answered, what is over, what is left or closed."""
    if not len(over.queries) and not closed.any():
        return None, over.errno
    return (
        np.concatenate((np.full(answered, ABSENT), over.ended_ns, np.where(closed, 0, ABSENT))),
        np.pad(over.errno, (answered, len(closed))),
    )


def _last_of_each(addresses: np.ndarray) -> np.ndarray:
    """Return those of addresses (a,) that do not come again further behind, in their order."""
    words = addresses["packed"].copy().view(np.uint64)
    keys = mixed(words[:, 0], words[:, 1], addresses["six"].astype(np.uint64))
    _, first = np.unique(keys[::-1], return_index=True)
    return addresses[np.sort(len(keys) - 1 - first)]


def _with_open(found: Transactions, slots: np.ndarray, rows: NDArray[np.intp]) -> Transactions:
    """Return these and the queries of turns in flight, `rows` (m,), which come again."""
    asking = [one for one in turn_messages(slots, rows) if not one.message.response]
    if not asking:
        return found
    messages = told([one.message for one in asking])
    messages["place"] = len(found.names) + np.arange(len(asking))
    for name in "row", "first_ns", "size":
        messages[name] = [getattr(one, name) for one in asking]
    return Transactions(
        np.concatenate((found.rows, messages["row"])),
        joined(found.asked, messages),
        joined(found.answered, no_responses(len(asking))),
        found.names.joined(as_objects([one.message.name for one in asking])),
        None if found.ended_ns is None else np.pad(found.ended_ns, (0, len(asking)), constant_values=ABSENT),
        np.pad(found.errno, (0, len(asking))),
        found.remarks,
    )


PROTOCOL = Dns
"""What the registry loads."""
