"""Redis turn by turn in obvious code: what the column parser must equal.

No vectors, no caches, no regular expressions; of the parser only its tables of names. Below, what holds the
two equal.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masdeepflow.protocols.redis import PROTOCOL
from masdeepflow.protocols.redis import commands as names
from masdeepflow.redact import redact_message
from tests.unit.protocols.http_reference import rows_of
from tests.unit.protocols.pipelined_reference import Language, Reference, Side, Transaction

if TYPE_CHECKING:
    import numpy as np

LETTERS, DIGITS = string.ascii_letters, string.digits
SEPARATORS = ":/.|,;#{}()<>&?_-[]"
PUBSUB = [b"message", b"pmessage", b"smessage"]
PUBSUB += [how + b"subscribe" for how in (b"", b"p", b"s", b"un", b"pun", b"sun")]


class CutError(Exception):
    """The bytes end before the element does."""


class WrongError(Exception):
    """The bytes are no element."""


def line_at(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a line and where the next starts."""
    end = data.find(b"\r", at)
    if end < 0 or end + 1 >= len(data):
        raise CutError
    if data[end + 1] != 10:
        raise WrongError
    return data[at:end], end + 2


def count_in(line: bytes) -> int:
    """Return the number behind the type, -1 for null."""
    if line[1:] == b"-1":
        return -1
    if not line[1:] or len(line) > 11 or any(byte not in DIGITS.encode() for byte in line[1:]):
        raise WrongError
    return int(line[1:])


def skip(data: bytes, at: int, *, last: bool) -> int:
    """Return where the reply element at `at` ends. last: nothing follows, so its text may be missing."""
    if at >= len(data):
        raise CutError
    kind = chr(data[at])
    if kind not in "+-:_,#($=!*~>%|":
        raise WrongError
    line, at = line_at(data, at)
    if kind in "+-:_,#(":
        return at
    count = count_in(line)
    if kind in "$=!":
        return at if count < 0 else text_end(data, at, count, last=last)
    elements = max(count, 0) * (2 if kind in "%|" else 1)
    if kind == "|" and count >= 0:
        elements += 1
    for number in range(elements):
        at = skip(data, at, last=last and number == elements - 1)
    return at


def text_end(data: bytes, at: int, count: int, *, last: bool) -> int:
    """Return where a text of `count` bytes and its line end end."""
    end = at + count + 2
    if end <= len(data):
        if data[end - 2 : end] != b"\r\n":
            raise WrongError
    elif not last:
        raise CutError
    return end


def skip_command(data: bytes, at: int) -> int:
    """Return where the command at `at` ends."""
    if chr(data[at]) in LETTERS:
        return line_at(data, at)[1]
    if data[at : at + 1] != b"*":
        raise WrongError
    line, at = line_at(data, at)
    count = count_in(line)
    if count < 0:
        raise WrongError
    for number in range(count):
        if at >= len(data):
            raise CutError
        if data[at : at + 1] != b"$":
            raise WrongError
        line, at = line_at(data, at)
        size = count_in(line)
        if size < 0:
            raise WrongError
        at = text_end(data, at, size, last=number == count - 1)
    return at


def pattern_of(key: bytes, *, cut: bool) -> str:
    """Return the pattern of a key, token by token."""
    cut = cut or len(key) > 160
    parts: list[str] = []
    token = ""
    for char in key[:160].decode("latin-1") + "\0":
        if char in SEPARATORS or char == "\0":
            if token:
                parts.append(shown_token(token))
            if char != "\0":
                parts.append(char)
            token = ""
        else:
            token += char
    if b"\0" in key[:160]:  # no sentinel then: the straightforward way
        parts = parts_of(key[:160].decode("latin-1"))
    parts = join_variable(parts)
    if cut:
        while parts and parts[-1] not in SEPARATORS:
            parts.pop()
        parts.append("*")
    text = "".join(parts)
    return text[:80] + "…" if cut or len(text) > 80 else text


def parts_of(text: str) -> list[str]:
    """Split into shown tokens and separators."""
    parts: list[str] = []
    start = 0
    for at in range(len(text) + 1):
        if at == len(text) or text[at] in SEPARATORS:
            if at > start:
                parts.append(shown_token(text[start:at]))
            if at < len(text):
                parts.append(text[at])
            start = at + 1
    return parts


def shown_token(token: str) -> str:
    """Return a word, a word with a star for its number, or a star."""
    word = token.rstrip(DIGITS)
    if not 0 < len(word) <= 20 or any(char not in LETTERS for char in word):
        return "*"
    if word == token:
        return word
    return "*" if all(char in "abcdefABCDEF" for char in word) else word + "*"


def join_variable(parts: list[str]) -> list[str]:
    """Make one star of stars, and groups of four hexadecimal letters behind them, joined by - _ or a dot."""
    joined: list[str] = []
    for part in parts:
        joined.append(part)
        if len(joined) >= 3 and joined[-3].endswith("*") and joined[-2] in "-_.":
            four = len(part) == 4 and all(char in "abcdefABCDEF" for char in part)
            if four or part == "*":
                del joined[-2:]
            elif part.startswith("*"):
                pytest_never(part)
    return joined


def pytest_never(part: str) -> None:
    """Tokens are words, words with a star behind them, or a star."""
    raise AssertionError(part)


def arguments_of(data: bytes) -> tuple[list[bytes], bool, int]:
    """Return the arguments that are visible, whether the last is cut, and how many there should be."""
    if not data.startswith(b"*"):
        words = data.split()
        return words, b"\r\n" not in data, len(words)
    try:
        line, at = line_at(data, 0)
    except CutError:
        return [], True, 0
    count = count_in(line)
    found: list[bytes] = []
    while at < len(data) and len(found) < count:
        try:
            line, at = line_at(data, at)
        except CutError:
            return found, False, count
        size = count_in(line)
        found.append(data[at : at + size])
        if at + size > len(data):
            return found, True, count
        at += size + 2
    return found, False, count


@dataclass
class Asked:
    """A command as shown."""

    text: str | None = None
    query: str | None = None
    operation: str | None = None
    name: str = ""
    arguments: list[bytes] = field(default_factory=list)
    followed: bool = False
    empty: bool = False
    silent: bool = False
    truncated: bool = False

    @property
    def blocking(self) -> str | None:
        """`true` for those that wait."""
        waits = self.name in names._BLOCKING or (self.operation or "").endswith(" BLOCK")
        return "true" if waits else None


def asked_of(data: bytes) -> Asked:
    """Read a command."""
    arguments, cut, count = arguments_of(data)
    if not arguments or (cut and len(arguments) == 1):
        empty = data.startswith(b"*0")
        return Asked("Redis Command: …", truncated=True, followed=empty, empty=empty)
    name = arguments[0].decode("latin-1").upper()
    module, _, rest = name.partition(".")
    known = module in ["BF", "CF", "CMS", "FT", "GRAPH", "JSON", "TDIGEST", "TOPK", "TS"]
    known = known and 2 <= len(rest) <= 20 and all(char in string.ascii_uppercase for char in rest)
    if name not in names._NAMES and not known:
        pattern = pattern_of(arguments[0], cut=False) if data.startswith(b"*") else "*"
        return Asked("Redis Command: " + pattern, pattern)
    words = [word.decode("latin-1").upper() for word in arguments]
    before_streams = words[: words.index("STREAMS")] if "STREAMS" in words else words
    operation, place = name, names._KEY_AT.get(name, 1)
    if name in names._CONTAINERS:
        if len(words) > 1 and words[1] in names._SUBCOMMANDS:
            operation += " " + words[1]
        if name not in names._KEY_AT:
            place = 0
    if name in ("XREAD", "XREADGROUP"):
        operation += " BLOCK" * ("BLOCK" in before_streams)
        place = len(before_streams) + 1
    if (name in names._NUMBERED and words[2:3] == ["0"]) or name in names._NO_KEY:
        place = 0
    key = ""
    if 0 < place < count:
        key = "…"
        if place < len(arguments):
            key = pattern_of(arguments[place], cut=cut and place == len(arguments) - 1)
    followed = name in names._FOLLOWED and (name != "CLIENT" or operation == "CLIENT REPLY")
    query = operation + " " + key if key else operation
    return Asked(
        "Redis Command: " + query,
        query,
        operation,
        name,
        [argument[:16] for argument in arguments[1:3]],
        followed,
        truncated=key.endswith("…"),
    )


@dataclass
class Told:
    """A reply as shown."""

    text: str | None = None
    error: bool = False
    code: str | None = None
    message: str | None = None
    word: bytes = b""
    status: str = ""
    nil: bool = False
    push: bool = False
    truncated: bool = False


def told_of(data: bytes) -> Told:
    """Read a reply."""
    kind, line = data[:1], data.split(b"\r\n")[0]
    if kind == b"-":
        return error_of(line[1:], cut=b"\r\n" not in data)
    if kind == b"!":
        second = data.split(b"\r\n")[1] if b"\r\n" in data else b""
        return error_of(second, cut=data.count(b"\r\n") < 2)
    if kind == b"_" or line[:2] in (b"$-", b"*-"):
        return Told("Redis Response: (nil)", nil=True)
    if line in (b"+PONG", b"+QUEUED", b"+RESET"):
        return Told("Redis Response: " + line[1:].decode(), status=line[1:].decode())
    if kind == b">":
        return Told(push=True, word=first_word(data))
    return Told("Redis Response: OK", word=first_word(data) if kind == b"*" else b"")


def first_word(data: bytes) -> bytes:
    """Return the first text of an array."""
    if b"\r\n$" not in data[:16]:
        return b""
    try:
        line, at = line_at(data, data.index(b"\r\n") + 2)
        size = count_in(line) if line.startswith(b"$") else -1
    except (CutError, WrongError):
        return b""
    return data[at : at + size].lower()[:16] if size >= 0 and at < len(data) else b""


def error_of(line: bytes, *, cut: bool) -> Told:
    """Read an error line."""
    text = line.decode("utf-8", "surrogateescape")
    word = text.split(" ", maxsplit=1)[0]
    capitals = string.ascii_uppercase
    upper = 2 <= len(word) <= 24 and word[0] in capitals and all(c in capitals + DIGITS + "_" for c in word)
    code, rest = (word, text[len(word) :].lstrip(" ")) if upper else (None, text)
    message = redact_message(rest.split(", with args beginning with:")[0] + "…" * cut)
    shown = (f"{code} {message}").rstrip() if code else message
    return Told(f"Redis Response: (error) {shown}", True, code, message or None, truncated=cut)  # noqa: FBT003


FAREWELLS = ["QUIT", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]
HIDDEN_ASKED, HIDDEN_TOLD = Asked(truncated=True), Told(truncated=True)


@dataclass
class Session:
    """What is known of a connection."""

    first: str | None
    database: str | None
    queued: str | None = None
    subscribed: bool = False
    stream: bool = False
    silent: bool = False
    skipped: bool = False

    @property
    def followed(self) -> bool:
        """Whether it makes a difference to replies."""
        flags = self.subscribed or self.stream or self.silent or self.skipped
        return flags or self.queued is not None

    def expects(self, asked: Asked) -> bool:
        """Whether a reply will come."""
        if asked.operation == "CLIENT REPLY":
            mode = asked.arguments[1].upper() if len(asked.arguments) > 1 else b""
            self.skipped = mode == b"SKIP"
            if mode in (b"ON", b"OFF"):
                self.silent = mode == b"OFF"
            return mode not in (b"SKIP", b"OFF")
        skipped, self.skipped = self.skipped, False
        return not (skipped or asked.empty or self.silent or self.stream or asked.name == "SHUTDOWN")

    def answers(self, told: Told, asked: Asked | None) -> bool:
        """Whether a reply is one."""
        if asked is None:
            if self.silent and not (told.push or self.subscribed or self.stream):
                self.silent = False
            return not told.push and not self.followed
        if told.word in PUBSUB and told.word == asked.name.lower().encode():
            self.subscribed = True
            return True
        if told.push or (self.subscribed and told.word in PUBSUB):
            return False
        if not told.error:
            self.change(asked, told)
        return True

    def change(self, asked: Asked, told: Told) -> None:
        """Note what a command that succeeded changes."""
        if asked.name == "SELECT" and asked.arguments:
            database = asked.arguments[0].decode("latin-1")
            if told.status == "QUEUED":
                self.queued = database
            else:
                self.database = database
        if asked.name == "EXEC" and not told.nil and self.queued is not None:
            self.database = self.queued
        if asked.name in ("EXEC", "DISCARD", "RESET"):
            self.queued = None
        if asked.name == "RESET":
            self.database, self.subscribed = "0", False
        if asked.name in ("MONITOR", "PSYNC", "SYNC") and told.status != "QUEUED":
            self.stream = True


def side_of(data: bytes, at: int, *, requests: bool) -> Side:
    """Read all messages from `at` on; lines beside arrays are parts of values."""
    side = read_side(data, at, requests=requests)
    if requests and at == 0 and any(text.startswith(b"*") for _, _, text in side.messages):
        side.messages = [
            (start, end, text if text.startswith(b"*") else bytes(len(text)))
            for start, end, text in side.messages
        ]
    return side


def read_side(data: bytes, at: int, *, requests: bool) -> Side:
    """Read all messages from `at` on, whatever they are."""
    side = Side([], good=True, ended=at)
    while at < len(data):
        start = at
        try:
            at = skip_command(data, at) if requests else skip(data, at, last=True)
        except CutError:
            side.messages.append((start, None, data[start:]))
            return side
        except WrongError:
            side.good = False
            return side
        side.messages.append((start, at, data[start:at]))
        side.ended = at
    return side


def visible(one: Transaction) -> tuple[object, ...]:
    """Return what can be compared with a row of the parser's columns."""
    asked, told = one.asked or Asked(), one.told or Told()
    database = one.session.database
    shown = database if database and len(database) <= 4 else None
    if shown is not None and any(char not in DIGITS for char in shown):
        shown = None
    return (
        one.row,
        asked.text,
        told.text,
        told.error or (one.unanswered and asked.name not in FAREWELLS),
        one.truncated or asked.truncated or told.truncated,
        "redis",
        asked.query,
        asked.query,
        asked.operation,
        None if shown is None else str(int(shown)),
        told.code,
        told.message,
        asked.blocking,
        one.first_ns,
        one.queue_ns,
        one.request_bytes,
        one.response_bytes,
        *(one.response_ns if one.answered else (0, 0)),
    )


def plain(asked: Side, told: Side) -> bool:
    """Whether nothing in a turn changes its connection."""
    followed = any(asked_of(data).followed for _, _, data in asked.messages)
    return not followed and not any(data.startswith(b">") for _, _, data in told.messages)


WORDS = Language(
    side_of, asked_of, told_of, (HIDDEN_ASKED, HIDDEN_TOLD), lambda first: Session(first, first), plain
)


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    parser, reference = PROTOCOL(), Reference(WORDS)
    for batch in batches:
        parsed, expected = parser.parse(batch), reference.parse(batch)
        assert rows_of(batch, parsed) == [visible(one) for one in expected]
