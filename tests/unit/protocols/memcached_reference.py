"""Memcached message by message in obvious code: what the column parser must equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masdeepflow.protocols.memcached import PROTOCOL
from masdeepflow.redact import redact_message
from tests.unit.protocols.http_reference import rows_of
from tests.unit.protocols.pipelined_reference import Language, Reference, Side, Transaction
from tests.unit.protocols.redis_reference import CutError, WrongError, pattern_of

if TYPE_CHECKING:
    import numpy as np

STORING = ["set", "add", "replace", "append", "prepend", "cas"]
ONE_KEY = ["get", "gets", "delete", "incr", "decr", "touch", "mg", "md", "ma", "me", "ms", *STORING]
KEYLESS = (
    "mn version quit stats flush_all verbosity cache_memlimit shutdown slabs lru lru_crawler watch misbehave"
)
WORDS_OF_REPLIES = (
    "STORED NOT_STORED EXISTS NOT_FOUND DELETED TOUCHED OK RESET END STAT VERSION HD EN NS EX NF MN ME"
)
WORDS_OF_REPLIES += " BUSY BADCLASS VALUE VA"
OPERATIONS = (
    "get set add replace delete increment decrement quit flush getq noop version getk getkq append prepend"
)
OPERATIONS += (
    " stat setq addq replaceq deleteq incrementq decrementq quitq flushq appendq prependq verbosity touch"
)
OPERATIONS += " gat gatq"
NUMBERED = dict(enumerate(OPERATIONS.split()))
NUMBERED |= {32: "sasl_list", 33: "sasl_auth", 34: "sasl_step", 35: "gatk", 36: "gatkq"}
FINE = {0: "OK", 1: "NOT_FOUND", 2: "EXISTS", 5: "NOT_STORED", 33: "AUTH_CONTINUE"}
WRONG = {3: "TOO_LARGE", 4: "INVALID", 6: "NON_NUMERIC", 32: "AUTH_ERROR", 129: "UNKNOWN_COMMAND"}
WRONG |= {130: "OUT_OF_MEMORY"}


def line_of(data: bytes, at: int) -> tuple[bytes, int]:
    """Return a line and where the next begins; it ends in a line feed that a carriage return precedes."""
    feed = data.find(b"\n", at)
    if feed < 0:
        raise CutError
    if (feed == at and at == 0) or data[feed - 1 : feed] != b"\r" or feed == at:
        raise WrongError
    return data[at : feed - 1], feed + 1


def block(data: bytes, at: int, digits: bytes | None, *, request: bool) -> int:
    """Return where the block of data behind a line ends."""
    if digits is None or not digits or len(digits) > 9 or any(byte not in b"0123456789" for byte in digits):
        if request:
            return at
        raise WrongError
    end = at + int(digits) + 2
    if end <= len(data) and data[end - 2 : end] != b"\r\n":
        raise WrongError
    return end


def binary(data: bytes, at: int) -> int:
    """Return where a binary message ends."""
    if len(data) - at < 24:
        raise CutError
    return at + 24 + int.from_bytes(data[at + 8 : at + 12], "big")


def word(line: bytes, number: int) -> bytes | None:
    """Return a word of a line."""
    words = line.split(b" ")
    return words[number] if number < len(words) else None


def skip_request(data: bytes, at: int) -> int:
    """Return where a request ends."""
    if data[at] == 0x80:
        return binary(data, at)
    line, after = line_of(data, at)
    name = line.split(b" ")[0].decode("latin-1")
    if name in STORING and word(line, 4) is not None:
        return block(data, after, word(line, 4), request=True)
    if name == "ms" and word(line, 2) is not None:
        return block(data, after, word(line, 2), request=True)
    return after


def skip_reply(data: bytes, at: int) -> int:
    """Return where a reply ends, all its lines included."""
    while True:
        if at >= len(data):
            raise CutError
        if data[at] == 0x81:
            more = data[at + 1 : at + 2] == b"\x10" and data[at + 2 : at + 4] != b"\0\0"
            at = binary(data, at)
            if not more:
                return at
            continue
        line, after = line_of(data, at)
        if not known_reply(line):
            raise WrongError
        first = line.split(b" ")[0]
        if first == b"VA":
            return block(data, after, word(line, 1), request=False)
        if first == b"VALUE":
            after = block(data, after, word(line, 3), request=False)
        if first not in (b"VALUE", b"STAT"):
            return after
        at = after


def known_reply(line: bytes) -> bool:
    """Whether a line is one of a reply."""
    first = line.split(b" ")[0].decode("latin-1")
    if first in ("VALUE", "VA"):
        size = word(line, 3 if first == "VALUE" else 1)
        return size is not None and (size != b"" or first != "")
    number = line.rstrip(b" ")
    digits = bool(number) and all(byte in b"0123456789" for byte in number)
    return first in WORDS_OF_REPLIES.split() or first in ("ERROR", "CLIENT_ERROR", "SERVER_ERROR") or digits


def side_of(data: bytes, at: int, *, requests: bool) -> Side:
    """Read all messages from `at` on."""
    side = Side([], good=True, ended=at)
    while at < len(data):
        start = at
        try:
            at = skip_request(data, at) if requests else skip_reply(data, at)
        except CutError:
            side.messages.append((start, None, data[start:]))
            return side
        except WrongError:
            side.good = False
            return side
        side.messages.append((start, at, data[start:at]))
        side.ended = at
    return side


@dataclass
class Asked:
    """A request as shown."""

    text: str | None = None
    query: str | None = None
    operation: str | None = None
    silent: bool = False
    truncated: bool = False


@dataclass
class Told:
    """A reply as shown."""

    text: str | None = None
    error: bool = False
    code: str | None = None
    message: str | None = None
    quiet: bool = False
    truncated: bool = False


def asked_of(data: bytes) -> Asked:
    """Read a request."""
    if data[:1] == b"\x80":
        return binary_asked(data)
    line, ended, _ = data.partition(b"\r\n")
    words = line.split(b" ")
    name = words[0].decode("latin-1")
    if name not in ONE_KEY and name not in ("gat", "gats") and name not in KEYLESS.split():
        shown = "…" if not ended else "*"
        return Asked("Memcached Command: " + shown, truncated=not ended)
    place = 1 if name in ONE_KEY else 2 if name in ("gat", "gats") else 0
    key = ""
    if place and place < len(words):
        key = pattern_of(words[place], cut=not ended and place == len(words) - 1)
    elif place and not ended:
        key = "…"
    silent = (
        name == "quit" or words[-1] == b"noreply" or (name in ("mg", "ms", "md", "ma") and b"q" in words[2:])
    )
    query = f"{name} {key}" if key else name
    return Asked("Memcached Command: " + query, query, name, silent and bool(ended), key.endswith("…"))


def binary_asked(data: bytes) -> Asked:
    """Read a binary request."""
    if len(data) < 2:
        return Asked("Memcached Command: …", truncated=True)
    cut = len(data) < 24
    name = NUMBERED.get(data[1])
    if name is None:
        return Asked(f"Memcached Command: {data[1]:#04x}", truncated=cut)
    start, length = 24 if cut else 24 + data[4], int.from_bytes(data[2:4], "big")
    key = ""
    if length and not name.startswith("sasl"):
        key = pattern_of(data[start : start + length], cut=start + length > len(data))
    query = f"{name} {key}" if key else name
    silent = name.endswith("q") or name == "quit"
    return Asked("Memcached Command: " + query, query, name, silent, cut or key.endswith("…"))


def told_of(data: bytes) -> Told:
    """Read a reply by its first line or head."""
    if data[:1] == b"\x81":
        return binary_told(data)
    line, ended, _ = data.partition(b"\r\n")
    first, _, rest = line.partition(b" ")
    name = first.decode("latin-1")
    if name in ("ERROR", "CLIENT_ERROR", "SERVER_ERROR"):
        message = redact_message(rest.decode("utf-8", "surrogateescape") + "…" * (not ended))
        text = f"Memcached Response: (error) {name} {message}".rstrip()
        return Told(text, True, name, message or None, truncated=not ended)  # noqa: FBT003
    if name in WORDS_OF_REPLIES.split():
        return Told("Memcached Response: " + name)
    return Told("Memcached Response: OK", truncated=not ended)


def binary_told(data: bytes) -> Told:
    """Read a binary reply."""
    if len(data) < 8:
        return Told("Memcached Response: …", truncated=True)
    status, name = int.from_bytes(data[6:8], "big"), NUMBERED.get(data[1], "")
    quiet = name.endswith("q") or name == "quit"
    if status in FINE:
        return Told("Memcached Response: " + FINE[status], quiet=quiet)
    code = WRONG.get(status, f"0x{status:04x}")
    return Told(f"Memcached Response: (error) {code}", True, code, quiet=quiet)  # noqa: FBT003


class Session:
    """Nothing is remembered."""

    followed = False

    def expects(self, asked: Asked) -> bool:
        """All but the silent ones."""
        return not asked.silent

    def answers(self, told: Told, asked: Asked | None) -> bool:
        """All but quiet ones, and what comes before the answer to a fence."""
        if told.quiet:
            return False
        if asked is not None and asked.operation == "mn":
            return told.error or (told.text or "").endswith("MN")
        return True


def plain(asked: Side, told: Side) -> bool:
    """Whether no quiet command is answered in a turn."""
    fenced = any(start > 0 and asked_of(data).operation == "mn" for start, _, data in asked.messages)
    return not fenced and not any(told_of(data).quiet for _, _, data in told.messages)


WORDS = Language(
    side_of, asked_of, told_of, (Asked(truncated=True), Told(truncated=True)), lambda _: Session(), plain
)


def visible(one: Transaction) -> tuple[object, ...]:
    """Return what can be compared with a row of the parser's columns."""
    asked, told = one.asked or Asked(), one.told or Told()
    return (
        one.row,
        asked.text,
        told.text,
        told.error or one.unanswered,
        one.truncated or asked.truncated or told.truncated,
        "memcached",
        asked.query,
        asked.query,
        asked.operation,
        told.code,
        told.message,
        one.first_ns,
        one.queue_ns,
        one.request_bytes,
        one.response_bytes,
        *(one.response_ns if one.answered else (0, 0)),
    )


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    parser, reference = PROTOCOL(), Reference(WORDS)
    for batch in batches:
        parsed, expected = parser.parse(batch), reference.parse(batch)
        assert rows_of(batch, parsed) == [visible(one) for one in expected]
