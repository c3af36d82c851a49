"""Memcached: the text protocol, its meta commands, and the binary protocol; over TCP and Unix sockets.

Source: doc/protocol.txt and the binary protocol specification of the memcached project. Over UDP there is a
header before each datagram: that is not read.

::

    set user:1 0 60 5 noreply CR LF hello CR LF         VALUE user:1 0 5 CR LF hello CR LF END CR LF
    mg user:1 v t CR LF                                 VA 5 t60 CR LF hello CR LF
    | 80 | opcode | key length (2) | extras length | 0 | vbucket (2) | body length (4) | opaque (4) | cas (8)
    | 81 | opcode | key length (2) | extras length | 0 | status (2)  | body length (4) | opaque (4) | cas (8)

Of a command only its name and the pattern of its first key are shown, of a reply its first word. Commands
that ask for no reply (`noreply`, quiet ones) are transactions without a response; what quiet commands are
answered nevertheless is not paired with them.

Turns are not known by kind (`masdeepflow.pairing`): a key in a line is as long as no space is in it, which
`masdeepflow.outlines`, made for keys behind their length, does not look at.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import Memo, cut_out
from masdeepflow.keys import VARIABLE, key_pattern, mask_variable
from masdeepflow.ordered import Message, Ordered, Turn, merge
from masdeepflow.pipelined import Messages, Pairs, pair
from masdeepflow.protocols.base import LIKELY, POSSIBLE
from masdeepflow.redact import redact_message
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.ordered import Exchange

__all__ = ["PROTOCOL", "Memcached"]

_LABEL, _ANSWER, _ELLIPSIS = "Memcached Command: ", "Memcached Response: ", "…"
_LINE_MOST = 64  # bytes of a line that most keys fit in
_HEADER = 24
_ASKS, _TELLS = 0x80, 0x81
_FIRST, _SIZED, _EXTRAS, _BODY = 1, 2, 4, 8  # offsets: opcode, key length, extras length, body length
_STORED = {"set": 4, "add": 4, "replace": 4, "append": 4, "prepend": 4, "cas": 4, "ms": 2}
"""Text commands with a block of data -> which word is its size."""
_KEYED = {
    **dict.fromkeys(("get", "gets", "delete", "incr", "decr", "touch", "mg", "md", "ma", "me", *_STORED), 1),
    **dict.fromkeys(("gat", "gats"), 2),
}
"""Text commands with a key -> which word it is."""
_WORDS_LEAST = {"touch": 3, "incr": 3, "decr": 3}
_PLAIN = {"mn", "version", "quit", "stats", "flush_all", "verbosity", "cache_memlimit", "shutdown"}
_PLAIN |= {"slabs", "lru", "lru_crawler", "watch", "misbehave"}
_QUIET_META = {"mg", "ms", "md", "ma"}
_VALUES = {"VALUE": 3, "VA": 1}
"""Words that begin a reply with a block of data -> which word is its size."""
_STATUSES = {
    "STORED",
    "NOT_STORED",
    "EXISTS",
    "NOT_FOUND",
    "DELETED",
    "TOUCHED",
    "OK",
    "RESET",
    "END",
    "STAT",
}
_STATUSES |= {"VERSION", "HD", "EN", "NS", "EX", "NF", "MN", "ME", "BUSY", "BADCLASS", *_VALUES}
_ERRORS = {"ERROR", "CLIENT_ERROR", "SERVER_ERROR"}
_NAMES = """
get set add replace delete increment decrement quit flush getq noop version getk getkq append prepend stat
setq addq replaceq deleteq incrementq decrementq quitq flushq appendq prependq verbosity touch gat gatq
"""
_LATER = {0x20: "sasl_list", 0x21: "sasl_auth", 0x22: "sasl_step", 0x23: "gatk", 0x24: "gatkq"}
_OPCODES = dict(enumerate(_NAMES.split())) | _LATER
_STAT = 0x10
_NAMELESS = range(0x20, 0x23)  # their "key" is a mechanism of authentication
_NOT_ERRORS = {0: "OK", 1: "NOT_FOUND", 2: "EXISTS", 5: "NOT_STORED", 0x21: "AUTH_CONTINUE"}
_FAILURES = {
    3: "TOO_LARGE",
    4: "INVALID",
    6: "NON_NUMERIC",
    0x20: "AUTH_ERROR",
    0x81: "UNKNOWN_COMMAND",
    0x82: "OUT_OF_MEMORY",
}
_ZERO = np.uint8(ord("0"))
_NUMBER_MOST = 9  # digits of a size that is believed


class _Line(NamedTuple):
    """What one line, or the head of a binary message, says of itself.

    text, query, operation: as shown. code, message: of an error. silent: no reply will come. size: from where
    to where its digits go that tell the size of the block behind it; (0, 0) without one. more: the message
    goes on. known: a word of the protocol. quiet: no reply that is waited for.
    """

    text: str | None = None
    query: str | None = None
    operation: str | None = None
    code: str | None = None
    message: str | None = None
    error: bool = False
    silent: bool = False
    size: tuple[int, int] = (0, 0)
    more: bool = False
    known: bool = False
    quiet: bool = False
    truncated: bool = False


_HIDDEN = _Line(truncated=True)
_NOTHING = _Line()


def _place(line: bytes, number: int) -> tuple[int, int]:
    """Return where word `number` begins and ends; (0, 0) if there is none."""
    at = 0
    for _ in range(number):
        at = line.find(b" ", at) + 1
        if at == 0:
            return 0, 0
    end = line.find(b" ", at)
    return (at, len(line) if end < 0 else end)


def _read_request_line(data: bytes) -> _Line:
    """Read the line that `data` is, or begins with if it is cut."""
    if data[:1] == bytes([_ASKS]):
        return _read_request_head(data)
    line, ended, _ = data.partition(b"\r\n")
    words = line.split(b" ")
    name = words[0].decode("latin-1")
    if name not in _KEYED and name not in _PLAIN:
        # It may be the rest of a value: nothing of it is shown.
        return _Line(_LABEL + (VARIABLE if ended else _ELLIPSIS), truncated=not ended)
    place = _KEYED.get(name, 0)
    key = ""
    if 0 < place < len(words):
        key = key_pattern(words[place], cut=not ended and place == len(words) - 1)
    elif place:
        key = _ELLIPSIS if not ended else ""
    query = f"{name} {key}" if key else name
    silent = name == "quit" or words[-1] == b"noreply" or (name in _QUIET_META and b"q" in words[2:])
    size = _place(line, _STORED[name]) if name in _STORED and ended else (0, 0)
    sized = name not in _STORED or size != (0, 0)
    return _Line(
        _LABEL + query,
        query,
        name,
        silent=silent and bool(ended),
        size=size,
        known=(sized and len(words) >= _WORDS_LEAST.get(name, 1)) or not ended,
        truncated=key.endswith(_ELLIPSIS),
    )


def _read_request_head(data: bytes) -> _Line:
    """Read the head of a binary request, with its key. A head that is cut tells no more than what it does."""
    if len(data) <= _FIRST:
        return _Line(_LABEL + _ELLIPSIS, truncated=True)
    operation, cut = _OPCODES.get(data[_FIRST]), len(data) < _HEADER
    if operation is None:
        return _Line(f"{_LABEL}{data[_FIRST]:#04x}", truncated=cut)
    length = int.from_bytes(data[_SIZED : _SIZED + 2], "big")
    start = _HEADER if cut else _HEADER + data[_EXTRAS]
    key = ""
    if length and data[_FIRST] not in _NAMELESS:
        key = key_pattern(data[start : start + length], cut=start + length > len(data))
    query = f"{operation} {key}" if key else operation
    silent = operation.endswith("q") or operation == "quit"
    return _Line(
        _LABEL + query,
        query,
        operation,
        silent=silent,
        known=not cut,
        truncated=cut or key.endswith(_ELLIPSIS),
    )


def _read_reply_line(data: bytes) -> _Line:
    """Read the line that `data` is, or begins with if it is cut."""
    if data[:1] == bytes([_TELLS]):
        return _read_reply_head(data)
    line, ended, _ = data.partition(b"\r\n")
    word, _, rest = line.partition(b" ")
    name = word.decode("latin-1")
    if name in _ERRORS:
        message = redact_message(rest.decode("utf-8", "surrogateescape") + _ELLIPSIS * (not ended))
        text = f"{_ANSWER}(error) {name} {message}".rstrip()
        return _Line(text, code=name, message=message or None, error=True, known=True, truncated=not ended)
    if name in _VALUES and ended:
        size = _place(line, _VALUES[name])
        return _Line(_ANSWER + name, size=size, more=name == "VALUE", known=size != (0, 0))
    if name in _STATUSES:
        return _Line(_ANSWER + name, more=name == "STAT", known=True)
    number = line.rstrip(b" ").isdigit()  # incr and decr may pad their numbers
    return _Line(_ANSWER + "OK" if number or not ended else None, known=number, truncated=not ended)


def _read_reply_head(data: bytes) -> _Line:
    """Read the head of a binary reply."""
    if len(data) < _BODY:
        return _Line(_ANSWER + _ELLIPSIS, truncated=True)
    status, operation = int.from_bytes(data[6:_BODY], "big"), _OPCODES.get(data[_FIRST], "")
    more = data[_FIRST] == _STAT and data[_SIZED : _SIZED + 2] != b"\0\0"
    quiet = operation.endswith("q") or operation == "quit"
    if status in _NOT_ERRORS:
        return _Line(_ANSWER + _NOT_ERRORS[status], more=more, known=True, quiet=quiet)
    code = _FAILURES.get(status, f"{status:#06x}")
    return _Line(f"{_ANSWER}(error) {code}", code=code, error=True, known=True, quiet=quiet)


class _Side(NamedTuple):
    """How one side of a connection is read."""

    magic: int
    read: Memo[_Line]
    requests: bool


class _Walk:
    """Rows on their way through their messages, one line or one binary message a step."""

    def __init__(self, side: _Side, payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> None:
        count, width = payload.shape
        self._side, self._payload = side, payload
        self._flat = np.zeros(count * width + _HEADER, np.uint8)
        self._flat[: count * width].reshape(count, width)[:] = payload
        self._line_feeds = np.flatnonzero(self._flat == ord("\n"))
        self.ended = np.zeros(count, np.int64)
        self.good = np.ones(count, bool)
        self.found: list[tuple[NDArray[np.int64], ...]] = []
        self.values: list[_Line] = []
        rows = np.flatnonzero(lengths > 0)
        none = np.full(len(rows), -1)
        # row, base, limit, at, start, code of the first line
        self._state = np.stack([rows, rows * width, np.minimum(lengths[rows], width), *[0 * rows] * 2, none])

    def run(self) -> Messages[_Line]:
        """Go on until no row has more to be seen; return the messages."""
        while self._state.shape[1]:
            self._step()
        columns = [np.concatenate(parts) for parts in zip(*self.found, strict=True)]
        columns = columns or [np.zeros(0, np.int64)] * 4
        order = np.argsort(columns[0], kind="stable")
        row, start, end, code = (column[order] for column in columns)
        silent = np.array([line.silent for line in self.values], bool)
        return Messages(
            row, start, end, code.astype(np.int32), self.values, self.ended, self.good, silent[code]
        )

    def _step(self) -> None:
        row, base, limit, at, start, first = self._state
        binary = self._flat[base + at] == self._side.magic
        head, after = self._extents(binary)
        cut = after > limit - at
        codes, lines = self._encode(binary, np.minimum(head, limit - at))
        np.copyto(first, codes, where=first < 0)
        sized = np.array([line.size != (0, 0) for line in lines], bool)[codes - self._before] & ~binary & ~cut
        end = at + after
        end[sized] += self._sizes(sized, codes[sized], lines)
        more = np.array([line.more for line in lines], bool)[codes - self._before]
        known = np.array([line.known for line in lines], bool)[codes - self._before]
        good = self._side.requests | known | cut
        good &= self._closed(sized, base, end, limit) & (end > at)
        self.good[row[~good]] = False
        unknown = cut & ~(binary & (limit - at >= _HEADER))
        partial = good & (unknown | (more & (end >= limit)))
        done = good & ~partial & ~more
        self.found.append((row[done], start[done], end[done], first[done]))
        self.found.append((row[partial], start[partial], np.full(int(partial.sum()), -1), first[partial]))
        self.ended[row[done]] = end[done]
        np.copyto(start, end, where=done)
        np.copyto(first, -1, where=done)
        np.copyto(at, end)
        self._state = self._state[:, good & ~partial & (end < limit)]

    def _extents(self, binary: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the length (m,) of what tells of each message, and of the message up to a block of data."""
        _, base, limit, at, _, _ = self._state
        place = base + at
        feeds = np.append(self._line_feeds, len(self._flat))
        after = feeds[np.searchsorted(self._line_feeds, place)] + 1 - place
        bare = (after <= limit - at) & ((after == 1) | (self._flat[place + after - 2] != ord("\r")))
        head = after.copy()
        after[bare] = 0
        rows = np.flatnonzero(binary)
        if len(rows):
            fields = self._flat[place[rows][:, None] + np.arange(_HEADER)].astype(np.int64)
            body = fields[:, _BODY : _BODY + 4] @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
            key = fields[:, _EXTRAS] + (fields[:, _SIZED] << 8) + fields[:, _SIZED + 1]
            whole = limit[rows] - at[rows] >= _HEADER
            head[rows] = np.where(whole, _HEADER + key if self._side.requests else _BODY, _HEADER)
            after[rows] = np.where(whole, _HEADER + body, _HEADER)
        return head, after

    def _encode(
        self, binary: NDArray[np.bool_], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], list[_Line]]:
        """Return codes (m,) of what the heads say, and the values they add."""
        row, _, _, at, _, _ = self._state
        self._before = len(self.values)
        codes = np.zeros(len(row), np.int32)
        near = lengths <= _LINE_MOST
        for rows in (np.flatnonzero(near), np.flatnonzero(~near)):
            if len(rows):
                texts = cut_out(self._payload, row[rows], at[rows], lengths[rows])
                self._mask(texts, binary[rows], lengths[rows])
                found, lines = self._side.read.encode(texts, lengths[rows])
                codes[rows] = found + len(self.values)
                self.values += lines
        return codes, self.values[self._before :]

    def _mask(self, texts: NDArray[np.uint8], binary: NDArray[np.bool_], lengths: NDArray[np.int64]) -> None:
        """Make heads equal that say the same: digits do not count, nor most fields of binary ones."""
        starts = np.zeros(len(texts), np.int64)
        if not self._side.requests:
            starts = _value_starts(texts)
            number = texts[:, 0] - _ZERO < 10  # noqa: PLR2004  # digits
            texts[number[:, None] & (texts - _ZERO < 10)] = _ZERO  # noqa: PLR2004  # digits
        if binary.any() and self._side.requests and texts.shape[1] > _HEADER:
            extras = _HEADER + texts[:, _EXTRAS].astype(np.int64)
            starts[binary] = extras[binary]
            places = np.arange(texts.shape[1])
            texts[binary[:, None] & (places > _EXTRAS) & (places < extras[:, None])] = 0
        mask_variable(texts, starts, lengths)

    def _sizes(
        self, sized: NDArray[np.bool_], codes: NDArray[np.int32], lines: list[_Line]
    ) -> NDArray[np.int64]:
        """Return how long the blocks of data behind lines are, line ends included; far below 0 if unknown."""
        _, base, _, at, _, _ = self._state[:, sized]
        places = np.array([line.size for line in lines], np.int64).reshape(-1, 2)[codes - self._before]
        start, digits = base + at + places[:, 0], places[:, 1] - places[:, 0]
        number, wrong = np.zeros(len(start), np.int64), digits > _NUMBER_MOST
        for place in range(min(int(digits.max(initial=0)), _NUMBER_MOST)):
            inside = place < digits
            digit = self._flat[np.minimum(start + place, len(self._flat) - 1)].astype(np.int64) - ord("0")
            wrong |= inside & ((digit < 0) | (digit > 9))  # noqa: PLR2004  # digits
            number = np.where(inside, number * 10 + digit, number)
        # The server refuses such a request and takes what follows for the next.
        unknown = 0 if self._side.requests else -(1 << 40)
        return np.where(wrong | (digits <= 0), unknown, number + 2)

    def _closed(
        self,
        sized: NDArray[np.bool_],
        base: NDArray[np.int64],
        end: NDArray[np.int64],
        limit: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which messages (m,) do not lack the line end behind their block of data."""
        checked = np.flatnonzero(sized & (end <= limit) & (end > 1))
        closed = np.ones(len(base), bool)
        last = base[checked] + end[checked]
        closed[checked] = (self._flat[last - 2] == ord("\r")) & (self._flat[last - 1] == ord("\n"))
        return closed


def _value_starts(texts: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return where the key begins (m,) in lines of values, the end in others."""
    starts = np.full(len(texts), texts.shape[1])
    for word in (b"VALUE ", b"VA "):
        starts[(texts[:, : len(word)] == np.frombuffer(word, np.uint8)).all(axis=1)] = len(word)
    return starts


class _Session:
    """Follows `masdeepflow.ordered.Session`: nothing has to be remembered of a connection."""

    kept = followed = False

    @staticmethod
    def expects(request: _Line) -> bool:
        return not request.silent

    @staticmethod
    def answers(reply: _Line, request: _Line | None) -> bool:
        if reply.quiet:
            return False
        # What quiet commands are answered comes before.
        fence = request is not None and request.operation == "mn"
        return not fence or reply.error or (reply.text or "").endswith("MN")


def _session(turn: Turn[_Line, _Line]) -> _Session:
    del turn
    return _Session()


class Memcached:
    """The protocol (see `masdeepflow.protocols.base.Protocol`)."""

    name = "memcached"

    def __init__(self) -> None:
        """Start with no connections."""
        self._asked = _Side(_ASKS, Memo(_read_request_line), requests=True)
        self._told = _Side(_TELLS, Memo(_read_reply_line), requests=False)
        self._ordered: Ordered[_Line, _Line, _Session] = Ordered(
            self._read_request, _session, (_HIDDEN, _HIDDEN)
        )

    @property
    def evicted(self) -> int:
        """Connections, and commands that waited, that had to be forgotten before their time."""
        return self._ordered.evicted

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8: `LIKELY` for commands with their replies, else 0.

        Commands alone will do if no reply is expected to them, or if they are binary. `POSSIBLE`: `delete`
        of a number, which beanstalkd has too, with the same replies.
        """
        score = np.zeros(len(slots), np.uint8)
        asked, answered = slots["request"][:, 0], slots["response"][:, 0]
        no_reply = slots["response_length"] == 0
        text = _IS_LOWER[asked] & (no_reply | _IS_UPPER[answered])
        binary = (asked == _ASKS) & (no_reply | (answered == _TELLS))
        rows = np.flatnonzero((slots["request_length"] > 0) & (text | binary))
        if len(rows):
            score[rows] = self._scores(slots[rows])
        return score

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns of Memcached connections."""
        requests, replies = self._read(slots)
        alone, build = pair(slots, requests, replies, (_HIDDEN, _HIDDEN), _NOTHING)
        quiet = np.array([line.quiet for line in replies.values], bool)
        alone[replies.row[quiet[replies.code]]] = False
        fence = np.array([line.operation == "mn" for line in requests.values], bool)
        alone[requests.row[fence[requests.code] & (requests.start > 0)]] = False
        chosen, others = self._ordered.choose(slots, alone)
        exchanges: list[Exchange[_Line, _Line, _Session]] = []
        if len(others):
            sub = slots[others]
            exchanges, left = self._ordered.follow(sub, others, alone[others], self._read(sub))
            chosen[list(left)] = True
        pairs, base, places = merge(slots, build(chosen), exchanges, (_NOTHING, _NOTHING))
        parsed = _parsed(pairs, base)
        parsed.error[places] |= np.array([exchange.unanswered for exchange in exchanges], bool)
        return parsed

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a request waits for its reply."""
        return self._ordered.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._ordered.forget(cookies)

    def _read(self, slots: np.ndarray) -> tuple[Messages[_Line], Messages[_Line]]:
        return (
            _Walk(self._asked, slots["request"], slots["request_length"]).run(),
            _Walk(self._told, slots["response"], slots["response_length"]).run(),
        )

    def _read_request(self, data: bytes, at: int) -> Message[_Line] | None:
        """Return the request at `at`: for turns that begin with the end of another."""
        rest = np.zeros((1, (len(data) - at + 7) // 8 * 8), np.uint8)
        rest[0, : len(data) - at] = np.frombuffer(data[at:], np.uint8)
        found = _Walk(self._asked, rest, np.array([len(data) - at])).run()
        if not len(found.row):
            return None
        end = int(found.end[0])
        return Message(at, end if end < 0 else at + end, found.values[found.code[0]])

    def _scores(self, slots: np.ndarray) -> NDArray[np.uint8]:
        requests, replies = self._read(slots)
        count, binary = len(slots), slots["request"][:, 0] == _ASKS
        asked, answered = _first_known(requests, count), _first_known(replies, count)
        no_reply = slots["response_length"] == 0
        seen = requests.ended == slots["request_bytes"]
        mute = np.array([line.silent for line in requests.values], bool)
        silent = np.zeros(count, bool)
        silent[requests.row[mute[requests.code] & (requests.start == 0)]] = True
        silent &= _starts_with(requests, {*_STORED, *_QUIET}, count)
        fits = np.where(no_reply, seen & (silent | binary), answered & replies.good)
        fits &= asked & requests.good & ~_starts_with(requests, {"quit"}, count)
        number = _IS_DIGIT[slots["response"][:, 0]] & ~no_reply
        fits &= ~number | _starts_with(requests, {"incr", "decr"}, count)
        fits &= ~binary | _is_binary(slots["request"], slots["response"], no_reply)
        fits &= _goes_on(slots, "request", requests) & (no_reply | _goes_on(slots, "response", replies))
        numbered = {f"delete {VARIABLE}"}
        shared = ~binary & _starts_with(requests, numbered, count, "query")
        return np.where(fits, np.where(shared, np.uint8(POSSIBLE), np.uint8(LIKELY)), np.uint8(0))


_QUIET = {name for name in _OPCODES.values() if name.endswith("q")}
_IS_LOWER = np.isin(np.arange(256), list(b"acdfgimprstvq"))
_IS_DIGIT = np.isin(np.arange(256), list(b"0123456789"))
_IS_UPPER = np.isin(np.arange(256), list(b"0123456789ABCDEHMNORSTV"))


def _starts_with(
    messages: Messages[_Line], chosen: set[str], count: int, name: str = "operation"
) -> NDArray[np.bool_]:
    """Return which of `count` turns start with a message whose field `name` is one of `chosen`."""
    fits = np.array([getattr(line, name) in chosen for line in messages.values], bool)
    result = np.zeros(count, bool)
    result[messages.row[fits[messages.code] & (messages.start == 0)]] = True
    return result


def _goes_on(slots: np.ndarray, side: str, messages: Messages[_Line]) -> NDArray[np.bool_]:
    """Return in which turns (n,) the first message has an end, or may have one behind what was captured."""
    goes_on: NDArray[np.bool_] = (messages.ended > 0) | (slots[f"{side}_bytes"] > slots[f"{side}_length"])
    return goes_on


def _first_known(messages: Messages[_Line], count: int) -> NDArray[np.bool_]:
    """Return of which of `count` turns the first message is one of the protocol."""
    known = np.array([line.known for line in messages.values], bool)
    result = np.zeros(count, bool)
    result[messages.row[known[messages.code] & (messages.start == 0)]] = True
    return result


def _is_binary(
    request: NDArray[np.uint8], response: NDArray[np.uint8], no_reply: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which rows (n, w) hold together as a binary request, and as its reply where there is one."""
    fields = request[:, :_HEADER].astype(np.int64)
    body = fields[:, _BODY : _BODY + 4] @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
    key = (fields[:, _SIZED] << 8) + fields[:, _SIZED + 1]
    sane = (fields[:, 5] == 0) & (fields[:, _EXTRAS] <= 20) & (key <= 250)  # noqa: PLR2004  # protocol limits
    sane &= fields[:, _EXTRAS] + key <= body
    opaque = slice(12, 16)
    same = (request[:, opaque] == response[:, opaque]).all(axis=1) & (request[:, 1] == response[:, 1])
    plain: NDArray[np.bool_] = sane & np.where(no_reply, fields[:, 6] == 0, same)
    return plain


def _parsed(pairs: Pairs[_Line, _Line], base: dict[str, NDArray[np.int64]]) -> Parsed:
    query = pairs.asked(attrgetter("query"))
    return Parsed(
        pairs.rows,
        pairs.asked(attrgetter("text")),
        pairs.told(attrgetter("text")),
        pairs.either(lambda _: False, attrgetter("error")),
        pairs.truncated[pairs.which] | pairs.either(attrgetter("truncated"), attrgetter("truncated")),
        {
            "db.system.name": Encoded(np.zeros(len(pairs.rows), np.int32), ["memcached"]),
            "db.query.text": query,
            "db.query.summary": query,
            "db.operation.name": pairs.asked(attrgetter("operation")),
            "db.response.status_code": pairs.told(attrgetter("code")),
            "db.response.message": pairs.told(attrgetter("message")),
        },
        base,
    )


PROTOCOL = Memcached
"""What the registry loads."""
