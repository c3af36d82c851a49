"""DNS message by message in obvious code: what the column parser must equal.

No columns, no caches, no hashes. Below, what holds the two equal.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from masdeepflow.protocols.dns import PROTOCOL, TIMEOUT_NS
from masdeepflow.protocols.dns.reading import FEW
from masdeepflow.schema import Flag, Kind, Role, Transport
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from masdeepflow.table import Attribute, Parsed

NAMES = """
1 A 2 NS 5 CNAME 6 SOA 10 NULL 12 PTR 13 HINFO 15 MX 16 TXT 17 RP 18 AFSDB 24 SIG 25 KEY 28 AAAA 29 LOC 33 SRV
35 NAPTR 36 KX 37 CERT 39 DNAME 41 OPT 42 APL 43 DS 44 SSHFP 45 IPSECKEY 46 RRSIG 47 NSEC 48 DNSKEY 49 DHCID
50 NSEC3 51 NSEC3PARAM 52 TLSA 53 SMIMEA 55 HIP 59 CDS 60 CDNSKEY 61 OPENPGPKEY 62 CSYNC 63 ZONEMD 64 SVCB
65 HTTPS 99 SPF 108 EUI48 109 EUI64 249 TKEY 250 TSIG 251 IXFR 252 AXFR 255 ANY 256 URI 257 CAA 32768 TA
32769 DLV
""".split()  # noqa: SIM905  # as a table
TYPES = {int(number): name for number, name in zip(NAMES[::2], NAMES[1::2], strict=True)}
CODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET"]
CODES += ["NOTAUTH", "NOTZONE"]
LIMIT = 8192

Row = tuple[object, ...]


class Short(Exception):  # noqa: N818  # it is no error here
    """The bytes end."""


class Wrong(Exception):  # noqa: N818  # likewise
    """These bytes are no message."""


@dataclass
class Read:
    """A message as it is shown."""

    response: bool
    opcode: int
    rcode: int = 0
    name: str | None = None
    kind: int | None = None
    answers: int = 0
    cut: bool = False
    addresses: list[tuple[str, int]] = field(default_factory=list)
    end: int | None = None
    extended: str | None = None


def _take(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise Short
    return int.from_bytes(data[at : at + size], "big")


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """Return the name at a place and where it ends."""
    labels, length, behind, jumps = [], 0, None, 0
    while (size := _take(data, at, 1)) != 0:
        if size >= 0xC0:
            target = _take(data, at, 2) & 0x3FFF
            behind = at + 2 if behind is None else behind
            jumps += 1
            if target >= at or jumps > 32:
                raise Wrong
            at = target
            continue
        if size > 63:
            raise Wrong
        length += size + 1
        if length > 255:
            raise Wrong
        _take(data, at, size + 1)
        text = ""
        for byte in data[at + 1 : at + 1 + size]:
            if chr(byte) in ".\\":
                text += "\\" + chr(byte)
            elif 32 < byte < 127:
                text += chr(byte)
            else:
                text += f"\\{byte:03d}"
        labels.append(text)
        at += size + 1
    if length + 1 > 255:
        raise Wrong
    return ".".join(labels) or ".", at + 1 if behind is None else behind


def _skip(data: bytes, at: int) -> int:
    for _ in range(128):
        size = _take(data, at, 1)
        if size >= 0xC0:
            return at + 2
        if size > 63:
            raise Wrong
        at += size + 1
        if size == 0:
            return at
    raise Wrong


def read(data: bytes) -> Read | None:
    """Return a message, None if it is none."""
    if len(data) < 12:
        return None
    message = Read(bool(data[2] & 128), data[2] // 8 % 16, data[3] % 16, cut=bool(data[2] & 2))
    questions, *counts = [_take(data, place, 2) for place in (4, 6, 8, 10)]
    message.answers = counts[0]
    if questions > 2:
        return None
    at = 12
    asked = []
    try:
        for _ in range(questions):
            name, at = read_name(data, at)
            asked.append((name, _take(data, at, 4) >> 16))
            at += 4
        if asked:
            message.name, message.kind = asked[0]
        message.end = _records(data, at, counts, message)
    except Wrong:
        return None
    except Short:
        pass
    return message


EXTENDED = ["Other Error", "Unsupported DNSKEY Algorithm", "Unsupported DS Digest Type", "Stale Answer"]


def _extended(options: bytes) -> str | None:
    """Return the first extended error among EDNS options."""
    for _ in range(16):
        if len(options) < 4:
            break
        code, size = int.from_bytes(options[:2], "big"), int.from_bytes(options[2:4], "big")
        value, rest = options[4 : 4 + size], options[4 + size :]
        if code == 15 and len(value) == size >= 2:
            number, text = int.from_bytes(value[:2], "big"), value[2:].decode("utf-8", "replace").strip("\0 ")
            name = EXTENDED[number] if number < len(EXTENDED) else f"EDE {number}"
            return f"{name}: {text}" if text else name
        options = rest
    return None


def _records(data: bytes, at: int, counts: list[int], message: Read) -> int:
    alias = 2**31 - 1
    for section, count in enumerate(counts):
        if count > 256:
            raise Short
        for _ in range(count):
            at = _skip(data, at)
            _take(data, at, 10)
            kind, ttl, size = _take(data, at, 2), _take(data, at + 4, 4), _take(data, at + 8, 2)
            at += 10
            if kind == 41:
                message.rcode = message.rcode % 16 + ttl // 2**24 * 16
                message.extended = _extended(data[at : at + size])
            if at + size > len(data):
                raise Short
            value = data[at : at + size]
            at += size
            if section == 0 and kind == 5:
                alias = min(alias, ttl)
            if section == 0 and (kind, size) in {(1, 4), (28, 16)} and len(message.addresses) < 64:
                address = ipaddress.IPv4Address(value) if size == 4 else ipaddress.IPv6Address(value)
                shown = str(address)
                if size == 16 and address.ipv4_mapped is not None:  # type: ignore[union-attr]
                    shown = f"::ffff:{address.ipv4_mapped}"  # type: ignore[union-attr]
                message.addresses.append((shown, min(ttl, alias)))
    return at


@dataclass(eq=False)
class Part:
    """A message in its slot."""

    slot: np.void
    row: int
    place: int
    data: bytes
    first_ns: int
    last_ns: int
    size: int
    asked: bool = True

    def __post_init__(self) -> None:
        self.slot = self.slot.copy()
        self.message: Any = read(b"\0\0" + self.data[2:]) if len(self.data) > 1 else None

    @property
    def errno(self) -> int:
        """Why it could not be sent; 0 if it was."""
        return int(self.slot["error"]) if self.has(Flag.FAILED) and not self.message.response else 0

    def has(self, flag: Flag) -> bool:
        """Return whether a datagram's slot has a flag."""
        return bool(self.slot["kind"] == Kind.DATAGRAM and self.slot["flags"] & flag)

    @property
    def order(self) -> tuple[int, bool, int, int]:
        """By time; a query before a response."""
        return self.first_ns, self.message.response, self.row, self.place

    @property
    def shown_open(self) -> bool:
        """Whether it gives a line while its turn goes on."""
        return not self.message.response and bool(self.slot["remote_port"])


@dataclass(eq=False)
class Waiting:
    """A query without a response yet. row: of the batch that it came in, None afterwards.

    batch: its number.
    """

    part: Part
    row: int | None
    batch: int
    doubtful: bool = False
    elsewhere: bool = False
    unheard: bool = False
    anew_ns: int = 0

    @property
    def age(self) -> tuple[int, int, bool, int, int]:
        """What the oldest has least of."""
        part = self.part
        return part.first_ns, self.batch, part.slot["kind"] != Kind.DATAGRAM, part.row, part.place


@dataclass
class Unseen:
    """A response of which no byte was captured."""


@dataclass
class Shown:
    """A transaction, as far as it is compared. row: None where it is overdue."""

    row: int | None
    query: Read
    response: Read | Unseen | None
    request_first_ns: int
    queue_ns: int
    request_bytes: int
    response_first_ns: int = 0
    response_last_ns: int = 0
    response_bytes: int = 0
    still_open: bool = False
    lost: bool = False
    reason: str | None = None
    unread: bool = False


class Reference:
    """Follows batches of slots."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.heard: dict[Row, int] = {}
        self.batches = 0

    def parse(self, slots: np.ndarray) -> list[Shown]:
        """Return the transactions of a batch."""
        self.batches += 1
        found = [
            Part(slots[row], row, place, *part)
            for row in range(len(slots))
            for place, part in enumerate(_messages(slots[row]))
        ]
        parts = [part for part in found if part.message is not None]
        shown = [_in_flight(part) for part in parts if part.slot["kind"] == Kind.OPEN and part.shown_open]
        ended = sorted(
            (part for part in parts if part.slot["kind"] != Kind.OPEN), key=lambda part: part.order
        )
        queries = [part for part in ended if not part.message.response]
        queries.sort(key=lambda part: (part.slot["kind"] != Kind.DATAGRAM, part.row, part.place))
        old = [query.part for query in self.waiting]
        several = self._asked_of_several(ended)
        self.answered: list[tuple[Part, Part]] = []
        bare, strange = [], []
        for part in ended:
            if not part.message.response:
                self.waiting.append(Waiting(part, part.row, self.batches))
            elif part.message.name is None:
                bare.append(part)
            else:
                answered = self._answer(part, of_server=_key(part) in several)
                shown += answered
                strange += [] if answered else [part]
        for part in [*strange, *bare]:
            shown += self._answer(part)
        for row in range(len(slots)):
            if slots[row]["kind"] == Kind.TURN and slots[row]["transport"] != Transport.UDP:
                shown += self._hidden(slots[row], row, [part for part in parts if part.row == row])
        for query in self.waiting:
            self._settle(query)
            query.doubtful |= any(_moves_on(query.part, part) for part in queries)
        shown += self._failed(slots) + self._retried(old, queries) + self._closed()
        self._leave(old, queries)
        self.heard |= {
            _server(part): part.first_ns
            for part in ended
            if part.message.response and part.slot["role"] == Role.CLIENT
        }
        for query in self.waiting:
            if query.row is not None and query.part.slot["remote_port"]:
                shown.append(_in_flight(query.part, int(query.part.slot["queue_ns"])))
            query.row = None
        del self.waiting[:-LIMIT]
        return shown

    def _hidden(self, slot: np.void, row: int, parts: list[Part]) -> list[Shown]:
        """Return what a stream's turn must hold behind `parts`, its messages that were captured."""
        sizes = [part.size for part in parts if part.asked]
        rest = _uncaptured(slot, "response") - sum(part.size for part in parts if not part.asked)
        stamps = (int(slot["response_first_ns"]), int(slot["response_last_ns"]), 0)
        found = []
        for query in sorted(self.waiting, key=lambda query: query.age) if rest > 0 else []:
            asked = query.part
            if asked.slot["cookie"] != slot["cookie"] or asked.first_ns > stamps[0]:
                continue
            if rest < 14:
                query.doubtful = True
                continue
            rest -= asked.size
            self.waiting.remove(query)
            queue_ns = int(asked.slot["queue_ns"])
            found.append(Shown(row, asked.message, Unseen(), asked.first_ns, queue_ns, asked.size, *stamps))
        more = _uncaptured(slot, "request") - sum(sizes)
        if not sizes or not slot["response_bytes"] or more < 14:
            return found
        count = max(more * len(sizes) // sum(sizes), 1)
        nothing = (int(slot["request_last_ns"]), int(slot["queue_ns"]), 0)
        return found + [Shown(row, Read(response=False, opcode=0), Unseen(), *nothing, *stamps)] * count

    def _settle(self, query: Waiting) -> None:
        if not _is_settled(query.part, self.answered):
            return
        certain = [pair for pair in self.answered if pair[1].has(Flag.WATCHED)]
        guessed = [pair for pair in self.answered if pair not in certain]
        query.elsewhere = True
        query.unheard = query.part.has(Flag.WATCHED) and not _is_settled(query.part, guessed)

    def _leave(self, old: list[Part], queries: list[Part]) -> None:
        for query in self.waiting:
            if query.part in old and not query.doubtful:
                query.anew_ns = _asked_anew(query.part, queries)

    def _failed(self, slots: np.ndarray) -> list[Shown]:
        """Return what could not be sent, and what an error on its socket is about."""
        errors = [
            (int(max(slot["request_first_ns"], slot["response_first_ns"])), row)
            for row, slot in enumerate(slots)
            if slot["flags"] & Flag.FAILED and (not slot["request_first_ns"] or slot["error"] == 111)
        ]
        found = []
        for query in self.waiting:
            part = query.part
            behind = [
                (at_ns, row)
                for at_ns, row in sorted(errors)
                if slots[row]["cookie"] == part.slot["cookie"] and at_ns >= part.first_ns
            ]
            if part.errno:
                found.append((query, part.row, part.errno))
            elif behind:
                row = behind[0][1]
                found.append((query, row, int(slots[row]["error"])))
        for query, _, _ in found:
            self.waiting.remove(query)
        return [
            _lost(query.part, row, errno.errorcode[error])
            for query, row, error in found
            if slots[row]["remote_port"]
        ]

    def _retried(self, old: list[Part], queries: list[Part]) -> list[Shown]:
        """Return what waits and was asked again, by one of a batch's `queries`. old: what waited before."""
        found = []
        for query in self.waiting:
            same = [
                part
                for part in old + queries
                if _alike(query.part, part) and _server(query.part) == _server(part)
            ]
            same.sort(key=lambda part: part.first_ns)
            later = same[same.index(query.part) + 1 :]
            if later and later[0] in queries and _is_retry(query.part, later[0]):
                found.append((query, later[0]))
        for query, _ in found:
            self.waiting.remove(query)
        return [_lost(query.part, retry.row, "retried") for query, retry in found]

    def _closed(self) -> list[Shown]:
        """Return what came in this batch on connections that were closed without an answer."""
        found = [
            query
            for query in self.waiting
            if query.row is not None
            and query.part.slot["flags"] & Flag.CLOSED
            and not query.part.slot["response_bytes"]
        ]
        self.waiting = [query for query in self.waiting if query not in found]
        return [_lost(query.part, query.part.row) for query in found if query.part.slot["remote_port"]]

    def _asked_of_several(self, ended: list[Part]) -> set[Row]:
        """Return what was asked again before an answer came, if a client asked different servers."""
        by_key: dict[Row, list[Part]] = {}
        for part in [query.part for query in self.waiting] + ended:
            by_key.setdefault(_key(part), []).append(part)
        for parts in by_key.values():
            parts.sort(key=lambda part: (part.first_ns, part.message.response))
        repeated = {
            key: parts
            for key, parts in by_key.items()
            if any(not (a.message.response or b.message.response) for a, b in itertools.pairwise(parts))
        }
        return set(repeated)

    def _answer(self, part: Part, *, of_server: bool = False) -> list[Shown]:
        candidates = [
            query
            for query in self.waiting
            if _belong(query.part, part) and (not of_server or _server(query.part) == _server(part))
        ]
        if not candidates:
            return []
        query = max(reversed(candidates), key=lambda known: known.part.first_ns)
        self.waiting.remove(query)
        if part.message.name is not None:
            self.answered.append((query.part, part))
        asked = query.part
        queue_ns = int(asked.slot["queue_ns"])
        stamps = (part.first_ns, part.last_ns, part.size)
        shown = Shown(part.row, asked.message, part.message, asked.first_ns, queue_ns, asked.size, *stamps)
        shown.unread = part.has(Flag.UNREAD)
        return [shown]

    def overdue(self, now_ns: int) -> list[Waiting]:
        """Return what has waited too long, and forget it."""
        limit = now_ns - TIMEOUT_NS
        late = [query for query in self.waiting if query.part.first_ns <= limit or query.anew_ns]
        for query in late:
            if query.unheard:
                heard = self.heard.get(_server(query.part))
                query.elsewhere = heard is not None and heard >= query.part.first_ns - TIMEOUT_NS
        self.waiting = [query for query in self.waiting if query not in late]
        return late


def _uncaptured(slot: np.void, side: str) -> int:
    """Return how many bytes a side has, 0 if all of them were captured."""
    size = int(slot[f"{side}_bytes"])
    return size if size > slot[f"{side}_length"] else 0


def _in_flight(part: Part, queue_ns: int = 0) -> Shown:
    return Shown(part.row, part.message, None, part.first_ns, queue_ns, part.size, still_open=True)


def _lost(part: Part, row: int, reason: str | None = None) -> Shown:
    queue_ns = int(part.slot["queue_ns"])
    return Shown(row, part.message, None, part.first_ns, queue_ns, part.size, lost=True, reason=reason)


def _asked_anew(query: Part, queries: list[Part]) -> int:
    """Return when a process went on to ask another server, half a second later at least; 0 if it did not."""
    later = [
        part.first_ns
        for part in queries
        if part.first_ns >= query.first_ns + 500_000_000
        and query.message.name is not None
        and query.slot["role"] == part.slot["role"] == Role.CLIENT
        and query.slot["pid"] == part.slot["pid"]
        and query.data[:2] == part.data[:2]
        and _question(query.message) == _question(part.message)
        and _server(query) != _server(part)
    ]
    return min(later, default=0)


def _is_settled(query: Part, answered: list[tuple[Part, Part]]) -> bool:
    """Whether another server, asked the same, has answered since, and this one nothing at all."""
    same = [(other, response) for other, response in answered if _key(other) == _key(query)]
    return any(response.first_ns >= query.first_ns for _, response in same) and all(
        _server(other) != _server(query) for other, _ in same
    )


def _server(part: Part) -> Row:
    """Return whom a client has asked, or was answered by."""
    if part.slot["role"] != Role.CLIENT:
        return ()
    return int(part.slot["remote_port"]), part.slot["remote_address"].tobytes()


def _key(part: Part) -> Row:
    return (
        int(part.slot["cookie"]),
        part.data[:2],
        _question(part.message),
        part.message.response and not part.message.name,
    )


def _alike(query: Part, other: Part) -> bool:
    return (
        query.slot["cookie"] == other.slot["cookie"]
        and query.data[:2] == other.data[:2]
        and _question(query.message) == _question(other.message)
    )


def _moves_on(query: Part, other: Part) -> bool:
    """Whether a client's datagram is asked again by a stream."""
    before, after = query.slot, other.slot
    return bool(
        before["transport"] == Transport.UDP
        and before["role"] == Role.CLIENT
        and after["transport"] == Transport.TCP
        and after["kind"] != Kind.DATAGRAM
        and before["pid"] == after["pid"]
        and before["remote_port"] == after["remote_port"]
        and before["remote_address"].tobytes() == after["remote_address"].tobytes()
        and query.data[:2] == other.data[:2]
        and query.message.name is not None
        and _question(query.message) == _question(other.message)
        and query.first_ns < other.first_ns
    )


def _is_retry(query: Part, retry: Part) -> bool:
    peers = [
        (int(part.slot["remote_port"]), part.slot["remote_address"].tobytes()) for part in (query, retry)
    ]
    return bool(
        query.slot["role"] == Role.CLIENT
        and peers[0] == peers[1]
        and peers[0][0]
        and query.first_ns < retry.first_ns
    )


def _belong(query: Part, response: Part) -> bool:
    return (
        query.slot["cookie"] == response.slot["cookie"]
        and not query.errno
        and query.data[:2] == response.data[:2]
        and query.first_ns <= response.first_ns
        and (response.message.name is None or _question(query.message) == _question(response.message))
    )


def _question(message: Read) -> tuple[str, int | None] | None:
    return None if message.name is None else (message.name.lower(), message.kind)


def _messages(slot: np.void) -> list[tuple[bytes, int, int, int, bool]]:
    """Return bytes, stamps and size of each message in a slot, and whether the client sent it."""
    sides = [slot[side][: slot[f"{side}_length"]].tobytes() for side in ("request", "response")]
    if slot["kind"] == Kind.DATAGRAM:
        stamp = int(max(slot["request_first_ns"], slot["response_first_ns"]))
        size = int(max(slot["request_bytes"], slot["response_bytes"]))
        return [(sides[0] + sides[1], stamp, stamp, size, True)]
    found = []
    for name, data in zip(("request", "response"), sides, strict=True):
        first, last, total = (int(slot[f"{name}_{what}"]) for what in ("first_ns", "last_ns", "bytes"))
        parts = _glued(data, total) if slot["transport"] == Transport.UDP else _framed(data)
        asked = name == "request"
        first = last if slot["flags"] & Flag.CONTINUED else first
        found += [
            (part, last if number else first, last, size, asked) for number, (part, size) in enumerate(parts)
        ]
    return found


def _glued(data: bytes, total: int) -> list[tuple[bytes, int]]:
    parts, at = [], 0
    while len(data) - at >= 12:
        message = read(b"\0\0" + data[at + 2 :])
        size = total - at
        if message is not None and message.end is not None and at + message.end < len(data):
            size = message.end
        parts.append((data[at : at + size], size))
        at += size
    return parts


def _framed(data: bytes) -> list[tuple[bytes, int]]:
    parts, at = [], 0
    while len(data) - at >= 14:
        size = int.from_bytes(data[at : at + 2], "big") + 2
        parts.append((data[at + 2 : at + size], size))
        at += size
    return parts


def _texts(column: Attribute) -> list[str | None]:
    assert isinstance(column, Encoded)
    return column.to_list()


def _shown_row(found: Shown) -> Row:
    message, response = found.query, found.response
    noun = {0: "Query", 4: "Notify", 5: "Update"}.get(message.opcode, f"Opcode {message.opcode}")
    kind = None if message.kind is None else TYPES.get(message.kind, f"TYPE{message.kind}")
    text = f"DNS {noun}: {kind or '?'} {'?' if message.name is None else message.name}"
    told = response if isinstance(response, Read) else None
    return (
        found.row,
        text,
        _response_text(told, unread=found.unread) if told else "DNS Response: …" if response else None,
        message.name,
        kind,
        None if told is None else _code(told),
        -1 if told is None else told.answers,
        found.lost or (told is not None and told.rcode not in {0, 3}),
        message.name is None or isinstance(response, Unseen),
        found.still_open,
        found.reason,
        None if told is None else told.extended,
        found.request_first_ns,
        found.queue_ns,
        found.request_bytes,
        found.response_first_ns,
        found.response_last_ns,
        found.response_bytes,
    )


def _code(message: Read) -> str:
    if message.rcode < len(CODES):
        return CODES[message.rcode]
    return {16: "BADVERS", 22: "BADTRUNC", 23: "BADCOOKIE"}.get(message.rcode, f"RCODE{message.rcode}")


def _response_text(message: Read, *, unread: bool) -> str:
    text = f"DNS Response: {_code(message)}"
    if message.answers or message.rcode == 0:
        text += f" {message.answers} answer" + ("" if message.answers == 1 else "s")
    text += f" ({message.extended})" if message.extended else ""
    return text + (", truncated" if message.cut else "") + (", not read" if unread else "")


def _parsed_rows(parsed: Parsed) -> list[Row]:
    attributes = parsed.attributes
    assert parsed.still_open is not None
    answers = attributes["dns.answer_count"]
    assert isinstance(answers, np.ndarray)
    columns = (
        parsed.rows.tolist(),
        parsed.request_text.to_list(),
        parsed.response_text.to_list(),
        _texts(attributes["dns.question.name"]),
        _texts(attributes["dns.question.type"]),
        _texts(attributes["dns.response_code"]),
        answers.tolist(),
        parsed.error.tolist(),
        parsed.truncated.tolist(),
        parsed.still_open.tolist(),
        _texts(attributes["error.type"]),
        _texts(attributes.get("dns.extended_error") or Encoded.absent(len(parsed.rows))),
        *(
            parsed.base[name].tolist()
            for name in (
                "request_first_ns",
                "queue_ns",
                "request_bytes",
                "response_first_ns",
                "response_last_ns",
                "response_bytes",
            )
        ),
    )
    return list(zip(*columns, strict=True))


def check_equal(batches: list[np.ndarray], few: int = FEW) -> None:
    """Assert that the parser shows of each batch what the reference does, what is overdue included."""
    ours, theirs = PROTOCOL(few), Reference()
    for slots in batches:
        if not len(slots):
            continue
        parsed = ours.parse(slots)
        parsed.check(len(slots))
        assert (np.diff(parsed.rows) >= 0).all()
        expected = [_shown_row(found) for found in theirs.parse(slots)]
        assert sorted(_parsed_rows(parsed), key=repr) == sorted(expected, key=repr)
        stamps = ("request_first_ns", "request_last_ns", "response_first_ns", "response_last_ns")
        now = int(max(slots[name].max() for name in stamps))
        _check_overdue(ours, theirs, now)
    _check_overdue(ours, theirs, 1 << 62)


def _check_overdue(ours: PROTOCOL, theirs: Reference, now_ns: int) -> None:
    due, expected = ours.overdue(now_ns), theirs.overdue(now_ns)
    assert len(due) == len(expected)
    if not expected:
        return
    parsed = ours.parse(due)
    parsed.check(len(due))
    assert parsed.rows.tolist() == list(range(len(due)))
    columns = (
        due["request_first_ns"].tolist(),
        due["request_bytes"].tolist(),
        parsed.request_text.to_list(),
        parsed.error.tolist(),
        _texts(parsed.attributes["error.type"]),
        parsed.base["request_last_ns"].tolist(),
    )
    found = list(zip(*columns, strict=True))
    shown = [
        (one.part.first_ns, one.part.size, _shown_row(_in_flight(one.part))[1], *_overdue_end(one))
        for one in expected
    ]
    assert sorted(found, key=repr) == sorted(shown, key=repr)


def _overdue_end(query: Waiting) -> tuple[bool, str | None, int]:
    """Return whether it is an error, which, and when it ended."""
    limit = query.part.first_ns + TIMEOUT_NS
    if query.anew_ns:
        return True, "retried", query.anew_ns
    if query.elsewhere and not query.doubtful:
        return False, "answered_elsewhere", limit
    return not query.doubtful, None if query.doubtful else "timeout", limit
