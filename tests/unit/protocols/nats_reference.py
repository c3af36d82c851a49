"""NATS turn by turn in obvious code: what the column parser must equal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masdeepflow.protocols.nats import PROTOCOL
from masdeepflow.redact import redact_message
from masdeepflow.schema import Flag, Kind
from tests.unit.protocols.http_reference import rows_of
from tests.unit.protocols.redis_reference import pattern_of

if TYPE_CHECKING:
    import numpy as np

ASKED = {"CONNECT": (2, 999), "PING": (1, 1), "PONG": (1, 1), "SUB": (3, 4), "UNSUB": (2, 3)}
ASKED |= {"PUB": (3, 4), "HPUB": (4, 5)}
TOLD = {"INFO": (2, 999), "MSG": (4, 5), "HMSG": (5, 6), "PING": (1, 1), "PONG": (1, 1), "+OK": (1, 1)}
TOLD |= {"-ERR": (2, 999)}
SIZED = ["PUB", "HPUB", "MSG", "HMSG"]
MOST_HIDDEN, MOST_WAITING, MINUTE = 16384, 1024, 60 * 10**9


@dataclass
class Message:
    """One message. end: None where its line, and so the rest, was not captured. line_end: behind the line."""

    verb: str
    words: list[bytes]
    start: int
    end: int | None
    line_end: int
    last_is_cut: bool = False


@dataclass
class Side:
    """Messages of one side of a turn. ended: where the last of them ends whose end is known."""

    messages: list[Message]
    ended: int
    good: bool

    @property
    def done(self) -> list[Message]:
        """Those whose end is known."""
        return [message for message in self.messages if message.end is not None]


def read_side(data: bytes, at: int, verbs: dict[str, tuple[int, int]]) -> Side:
    """Return the messages from `at` on."""
    side = Side([], at, good=True)
    while at < len(data):
        feed = data.find(b"\n", at)
        line = data[at : feed if feed >= 0 else len(data)]
        words = [word for word in re.split(rb"[\0- ]", line) if word]
        if not words or not line.startswith(words[0]):
            side.good = False
            return side
        verb = words[0].decode("latin-1").upper() if words[0].isascii() else ""
        if feed < 0:
            if line != words[0]:
                side.good = verb in verbs
                if side.good:
                    cut = line.endswith(words[-1])
                    side.messages.append(Message(verb, words, at, None, len(data), cut))
            return side
        end = message_end(data, feed, verb, words, verbs.get(verb))
        if end is None:
            side.good = False
            return side
        side.messages.append(Message(verb, words, at, end, feed + 1))
        side.ended = at = end
    return side


def message_end(
    data: bytes, feed: int, verb: str, words: list[bytes], counts: tuple[int, int] | None
) -> int | None:
    """Return where a message with a whole line ends, None if it is none."""
    if counts is None or data[feed - 1 : feed] != b"\r":
        return None
    fewest, most = counts
    if not fewest <= len(words) <= most:
        return None
    if verb not in SIZED:
        return feed + 1
    if not re.fullmatch(rb"[0-9]{1,9}", words[-1]):
        return None
    end = feed + 1 + int(words[-1]) + 2
    if end <= len(data) and data[end - 2 : end] != b"\r\n":
        return None
    return end


@dataclass(frozen=True)
class Shown:
    """What a command or an answer shows: text, and operation and subject, or what went wrong."""

    text: str | None = None
    first: str | None = None
    second: str | None = None
    error: bool = False
    truncated: bool = False


NOTHING = Shown()
HIDDEN_COMMAND = Shown("NATS Command: …", truncated=True)
HIDDEN_ANSWER = Shown("NATS Response: …", truncated=True)


def command_of(message: Message) -> Shown:
    """Return what a command shows."""
    if message.verb not in {"SUB", "PUB", "HPUB"}:
        return Shown(f"NATS Command: {message.verb}", message.verb)
    if len(message.words) == 1:
        return Shown(f"NATS Command: {message.verb} …", message.verb, truncated=True)
    subject, cut = message.words[1], message.last_is_cut and len(message.words) == 2
    shown = "_INBOX.*" if subject.startswith(b"_INBOX.") else pattern_of(subject, cut=cut)
    return Shown(f"NATS Command: {message.verb} {shown}", message.verb, shown, truncated=shown.endswith("…"))


def answer_of(message: Message, data: bytes) -> Shown:
    """Return what an answer shows."""
    if message.verb == "PONG":
        return Shown("NATS Response: PONG")
    if message.verb == "-ERR":
        line = data[message.start : message.line_end]
        text = re.sub(r"\A[ \t\r\n\v\f]+|[ \t\r\n\v\f]+\Z", "", line[4:].decode("utf-8", "surrogateescape"))
        quoted = redact_message(text.strip("'") + "…" * (message.end is None))
        return Shown(
            f"NATS Response: (error) {quoted}",
            quoted,
            error=True,
            truncated=message.end is None,
        )
    if message.verb == "HMSG":
        head = data[message.line_end : message.line_end + 12]
        if len(head) < 12:
            return HIDDEN_ANSWER
        match = re.fullmatch(rb"NATS/1\.0 ([0-9]{3})", head)
        if match and match[1] != b"000":
            code = match[1].decode()
            if code < "400":
                return Shown(f"NATS Response: {code}")
            return Shown(f"NATS Response: (error) {code}", code, error=True)
    return Shown("NATS Response: OK")


def tie_of(message: Message) -> bytes | None:
    """Return what a reply to a command names."""
    if message.verb == "PING":
        return b"PONG"
    most = ASKED[message.verb][1]
    replies = message.verb in {"PUB", "HPUB"} and message.end is not None and len(message.words) == most
    return b"to " + message.words[2] if replies else None


@dataclass
class Exchange:
    """One transaction."""

    order: int
    command: Shown = NOTHING
    verb: str = ""
    tie: bytes | None = None
    first_ns: int = 0
    queue_ns: int = 0
    request_bytes: int = 0
    truncated: bool = False
    answer: Shown | None = None
    response_bytes: int = 0


@dataclass
class Connection:
    """What is kept of a connection."""

    order: int = 0
    left: dict[str, int] = field(default_factory=lambda: {"request": 0, "response": 0})
    waiting: list[Exchange] = field(default_factory=list)


class Reference:
    """The parser, slowly: every turn is followed."""

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}

    def parse(self, slots: np.ndarray) -> list[tuple[object, ...]]:
        """Return what can be compared with the rows of the parser's columns."""
        found = []
        for row, slot in enumerate(slots):
            exchanges = self.in_flight(slot) if slot["kind"] == Kind.OPEN else self.turn(slot)
            found += [visible(row, slot, one) for one in exchanges]
        return found

    @staticmethod
    def in_flight(slot: np.void) -> list[Exchange]:
        """Return what a turn in flight shows."""
        return [
            Exchange(
                0,
                command_of(message),
                first_ns=int(slot["request_first_ns"]),
                queue_ns=int(slot["queue_ns"]),
                request_bytes=min(message.end or int(slot["request_bytes"]), int(slot["request_bytes"]))
                - message.start,
                truncated=message.end is None,
            )
            for message in read_side(payload(slot, "request"), 0, ASKED).messages
            if message.verb != "PONG"
        ]

    def turn(self, slot: np.void) -> list[Exchange]:
        """Return what a turn ends."""
        connection = self.connections.setdefault(int(slot["cookie"]), Connection())
        waiting = connection.waiting
        ended: list[Exchange] = []
        now = max(int(slot["request_first_ns"]), int(slot["response_last_ns"]))
        while waiting and waiting[0].first_ns + MINUTE < now:
            ended.append(waiting.pop(0))
        alike = 0 if waiting else None
        resumed = connection.left["request"] > 0 and slot["request_bytes"] > 0
        asked = self.side(connection, slot, "request", ASKED)
        told = self.side(connection, slot, "response", TOLD)
        pongs = sum(message.verb == "PONG" for message in told.messages)
        pongs -= sum(one.tie == b"PONG" for one in waiting)
        commands = commands_of(asked, int(slot["request_bytes"]), pongs)
        if alike is None:
            alike = fill(asked, int(slot["request_bytes"])) if asked.good else 0
        for one in commands:
            connection.order += 1
            one.order = connection.order
            one.first_ns, one.queue_ns = int(slot["request_first_ns"]), int(slot["queue_ns"])
            if one.tie is not None and begins_late(one, commands, asked, resumed=resumed):
                one.queue_ns = one.queue_ns if slot["request_last_ns"] == one.first_ns else 0
                one.first_ns = int(slot["request_last_ns"])
            (ended if one.tie is None else waiting).append(one)
        ended += self.answers(waiting, slot, commands, told, alike)
        closed = int(slot["flags"]) & Flag.CLOSED
        while waiting and (closed or len(waiting) > MOST_WAITING):
            ended.append(waiting.pop(0))
        if closed:
            connection.left = {"request": 0, "response": 0}
        return sorted(ended, key=lambda one: one.order)

    @staticmethod
    def side(connection: Connection, slot: np.void, name: str, verbs: dict[str, tuple[int, int]]) -> Side:
        """Return what a side shows behind what belongs to an earlier turn; remember what it lacks."""
        total = int(slot[f"{name}_bytes"])
        skipped = min(connection.left[name], total)
        side = read_side(payload(slot, name), skipped, verbs)
        connection.left[name] += max(side.ended - total, 0) - skipped
        return side

    @staticmethod
    def answers(
        waiting: list[Exchange], slot: np.void, commands: list[Exchange], told: Side, alike: int
    ) -> list[Exchange]:
        """Give answers to what waits for them; return what does no longer, and what nobody asked."""
        data, total = payload(slot, "response"), int(slot["response_bytes"])
        unacknowledged = [one for one in commands if one.verb != "PING"]
        ended: list[Exchange] = []
        tied = []
        for message in told.done:
            one: Exchange | None = None
            answer = answer_of(message, data)
            if message.verb == "+OK":
                one = unacknowledged.pop(0) if unacknowledged else None
                if one is None or one.tie is not None:
                    continue
            elif message.verb == "-ERR":
                one = next((other for other in commands if other.answer is None), None)
                if one is None:
                    one = Exchange(1 << 62)
                    ended.append(one)
            elif message.verb in {"MSG", "HMSG", "PONG"}:
                tied.append(answer)
                name = b"PONG" if message.verb == "PONG" else b"to " + message.words[1]
                one = next((other for other in waiting if other.tie == name), None)
            if one is not None:
                one.answer, one.response_bytes = answer, min(message.end or 0, total) - message.start
                ended += take(waiting, one)
        rest = total - told.ended
        if told.good and rest > 0:
            sure = alike > 0 and alike == fill(told, total) and bool(tied)
            for one in waiting[: behind(told.done, rest)]:
                one.answer = tied[-1] if sure else HIDDEN_ANSWER
                one.truncated = one.truncated and not sure
                ended += take(waiting, one)
        return ended


def begins_late(one: Exchange, commands: list[Exchange], asked: Side, *, resumed: bool) -> bool:
    """Return whether a request came behind what gets no answer, or ends a turn that it did not begin.

    resumed: the turn began with the rest of a message.
    """
    place = next(place for place, other in enumerate(commands) if other is one)
    done = asked.done
    # Those captured are in front of those that were not; of these none is a PONG.
    if place < sum(message.verb != "PONG" for message in done):
        at = [number for number, message in enumerate(done) if message.verb != "PONG"][place]
        before = [tie_of(message) if message.verb != "PONG" else None for message in done[:at]]
        more = len(commands) > place + 1 or any(message.verb == "PONG" for message in done[at + 1 :])
    else:
        before = [tie_of(message) if message.verb != "PONG" else None for message in done]
        before += [other.tie for other in commands[len([m for m in done if m.verb != "PONG"]) : place]]
        more = len(commands) > place + 1
    if resumed:
        before.insert(0, None)
    return bool(before) and (None in before or not more)


def take(waiting: list[Exchange], one: Exchange) -> list[Exchange]:
    """Return one of those that wait, which then does no longer; nothing if it does not."""
    found = [other for other in waiting if other is one]
    waiting[:] = [other for other in waiting if other is not one]
    return found


def commands_of(side: Side, total: int, pongs: int) -> list[Exchange]:
    """Return the commands of a side of `total` bytes, those behind the visible included.

    pongs: how many tell of a PING, seen or not.
    """
    done = [message for message in side.done if message.verb != "PONG"]
    found = [
        Exchange(
            0,
            command_of(message),
            message.verb,
            tie_of(message),
            request_bytes=min(message.end or 0, total) - message.start,
        )
        for message in done
    ]
    rest = total - side.ended
    if not side.good or rest <= 0:
        return found
    like = Exchange(0, HIDDEN_COMMAND, "PUB")
    if done:
        like = Exchange(0, command_of(done[-1]), done[-1].verb, tie_of(done[-1]) and b"unknown")
    cut = side.messages[-1] if side.messages and side.messages[-1].end is None else None
    pings = max(min(pongs - sum(one.tie == b"PONG" for one in found), rest // 6), 0)
    rest -= 6 * pings
    count = min(behind(side.done, rest), MOST_HIDDEN) if rest else 0
    for number in range(count):
        one = Exchange(0, like.command, like.verb, like.tie)
        if number == 0 and cut and cut.verb != "PONG":
            tie = like.tie if cut.verb in {"PUB", "HPUB"} else tie_of(cut)
            one = Exchange(0, command_of(cut), cut.verb, tie)
        one.request_bytes, one.truncated = rest // count, True
        if number == count - 1:
            one.request_bytes += rest % count
        found.append(one)
    ping = Shown("NATS Command: PING", "PING")
    return found + [Exchange(0, ping, "PING", b"PONG", request_bytes=6) for _ in range(pings)]


def behind(done: list[Message], rest: int) -> int:
    """Return how many messages of the mean size of those seen `rest` bytes are, rounded, at least one."""
    if not done:
        return 1
    span = (done[-1].end or 0) - done[0].start
    return max((2 * rest * len(done) + span - span % 2) // (2 * span), 1)


def fill(side: Side, total: int) -> int:
    """Return how many messages of one size fill `total` bytes, 0 if those seen have more than one."""
    sizes = {(message.end or 0) - message.start for message in side.done}
    return total // min(sizes) if len(sizes) == 1 and total % min(sizes) == 0 else 0


def payload(slot: np.void, side: str) -> bytes:
    """Return what was captured of a side."""
    return bytes(slot[side][: slot[f"{side}_length"]].tobytes())


def visible(row: int, slot: np.void, one: Exchange) -> tuple[object, ...]:
    """Return what can be compared with a row of the parser's columns."""
    command, answer = one.command, one.answer or NOTHING
    stamps = (int(slot["response_first_ns"]), int(slot["response_last_ns"]))
    return (
        row,
        command.text,
        answer.text,
        answer.error,
        one.truncated or command.truncated or answer.truncated,
        "nats",
        command.first,
        command.second,
        answer.first,
        one.first_ns,
        one.queue_ns,
        one.request_bytes,
        one.response_bytes,
        *(stamps if one.answer else (0, 0)),
    )


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    parser, reference = PROTOCOL(), Reference()
    for batch in batches:
        assert rows_of(batch, parser.parse(batch)) == reference.parse(batch)
