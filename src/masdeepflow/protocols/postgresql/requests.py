"""What a client sends: messages, and the packets without a type that begin a connection.

Source: PostgreSQL Documentation, chapter "Frontend/Backend Protocol", version 3. Nothing here raises or keeps
state of connections, whatever the bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from masdeepflow.redact import summarize_sql

__all__ = [
    "DEALLOCATE",
    "HEADER_BYTES",
    "HIDDEN",
    "LENGTH_BYTES",
    "NOTHING",
    "Command",
    "Message",
    "Request",
    "Startup",
    "command_of",
    "decode",
    "described",
    "read_request",
    "statement_text",
    "unknown_statement",
]

HEADER_BYTES = 5
"""Of a message: type, then the length of what follows the type, itself included."""
LENGTH_BYTES = 4
"""Of a length, and of what a packet without a type begins with."""

DEALLOCATE = re.compile(r"DEALLOCATE ([0-9_a-z]{1,39})")
"""A query that has a statement forgotten, as PDO sends it."""

_ELLIPSIS = "…"
# The first bytes of a UTF-8 character whose rest is beyond the end.
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")

_NAMES = {"B": 2, "E": 1, "C": 1, "D": 1, "P": 1}
"""Type of a message -> names in it, each of which ends with a zero."""
_TYPES = frozenset(b"BCDEFHPQSXcdfp")
_FUNCTIONS = {
    715: "lo_create",
    952: "lo_open",
    953: "lo_close",
    954: "loread",
    955: "lowrite",
    956: "lo_lseek",
    957: "lo_creat",
    958: "lo_tell",
    964: "lo_unlink",
    1004: "lo_truncate",
    3170: "lo_lseek64",
    3171: "lo_tell64",
    3172: "lo_truncate64",
}
"""What drivers call: their numbers are the same on every server (pg_proc.dat)."""
_STARTUP, _CANCEL, _TLS, _GSS = 3, (1234, 5678), (1234, 5679), (1234, 5680)


class Command(NamedTuple):
    """A request as a transaction shows it.

    text: of the log line. query: the statement, None if there is none or it is unknown. truncated: something
    shown was cut, or more commands may be behind it, beyond the payload prefix.
    """

    text: str | None
    query: str | None
    operation: str | None
    summary: str | None
    truncated: bool = False

    def prepared(self) -> Command:
        """Return what parsing this statement shows, when it is not executed in the same turn."""
        return self._replace(text=f"PostgreSQL Prepare: {self.query}", operation="PREPARE")


HIDDEN = Command(None, None, None, None, truncated=True)
"""A command beyond the payload prefix."""
NOTHING = Command(None, None, None, None)
"""What there is of a command where a server says something unasked."""


class Message(NamedTuple):
    """One message, of which the head is visible.

    kind: its type, as a character. name: of the statement (Parse, Bind, and with `portal` empty Describe and
    Close) that it is about. portal: of Bind, Execute, Describe and Close. command: what it shows by itself.
    end: bytes of the request up to its end.
    """

    kind: str
    end: int
    name: str | None = None
    portal: str | None = None
    command: Command | None = None


class Startup(NamedTuple):
    """What begins a connection.

    kind: `login`, `cancel`, `tls` or `gss`. database: of a login.
    """

    kind: str
    command: Command
    database: str | None = None


class Request(NamedTuple):
    """The request bytes of a turn. rest: bytes behind the last message, beyond the prefix or unreadable.

    broken: what was visible of the rest is no message.
    """

    messages: tuple[Message, ...]
    rest: int = 0
    broken: bool = False
    startup: Startup | None = None


def decode(data: bytes, *, cut: bool) -> str:
    """Return text as the log shows it, with `…` behind it where the payload limit cut it."""
    if not cut:
        return data.decode("utf-8", "backslashreplace")
    return _CUT_CHARACTER.sub(b"", data).decode("utf-8", "backslashreplace") + _ELLIPSIS


def command_of(statement: bytes, *, cut: bool) -> Command:
    """Return what running a statement shows. cut: the rest of it is beyond the prefix."""
    text = decode(statement, cut=cut)
    operation, summary = summarize_sql(text)
    return Command(f"PostgreSQL Query: {text}", text, operation or "QUERY", summary or None, truncated=cut)


def statement_text(statement: bytes, cut: bool) -> str:  # noqa: FBT001  # a column
    """Return what is shown of a statement as it is sent: up to a zero, if there is one."""
    text, nul, _ = statement.partition(b"\0")
    return decode(text, cut=cut and not nul)


def unknown_statement(name: str) -> Command:
    """Return what executing a statement or portal of which only the name is known shows."""
    return Command(f"PostgreSQL Query: EXECUTE {name}".rstrip(), None, "EXECUTE", None)


def described(statement: Command | None, name: str, label: str = "Describe") -> Command:
    """Return what a message about a statement or a portal shows, where it is all that there is."""
    if statement and statement.query is not None:
        return statement._replace(text=f"PostgreSQL {label}: {statement.query}", operation=label.upper())
    return Command(f"PostgreSQL {label}: {name}".removesuffix(": "), None, label.upper(), None)


def read_request(data: bytes, total: int) -> Request:
    """Return the messages of a turn's request. data: as far as captured. total: bytes that were sent."""
    if data[:1] == b"\0":
        startup = _read_startup(data)
        return Request((), startup=startup) if startup else Request((), total, broken=True)
    messages: list[Message] = []
    at = 0
    while at + HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big")
        end = at + 1 + length
        if data[at] not in _TYPES or length < LENGTH_BYTES or end > total:
            return Request(tuple(messages), total - at, broken=True)
        kind, body = chr(data[at]), data[at + HEADER_BYTES : end]
        if end > len(data) and body.count(0) < _NAMES.get(kind, 0):
            break  # Half a name is none.
        messages.append(_read_message(kind, body, end, len(data)))
        at = end
    return Request(tuple(messages), total - at)


def _read_message(kind: str, body: bytes, end: int, captured: int) -> Message:
    cut = end > captured
    if kind == "Q":
        query, nul, _ = body.partition(b"\0")
        return Message(kind, end, command=command_of(query, cut=cut and not nul))
    if kind == "P":
        return _read_parse(body, end, cut=cut)
    if kind == "B":
        portal, statement, _ = _strings(body)
        return Message(kind, end, name=statement, portal=portal)
    if kind == "E":
        return Message(kind, end, portal=_strings(body)[0])
    if kind in "CD":
        about = _strings(body[1:])[0]
        return Message(kind, end, portal=about) if body[:1] == b"P" else Message(kind, end, name=about)
    return Message(kind, end, command=_COMMANDS[kind](body) if kind in _COMMANDS else None)


def _read_parse(body: bytes, end: int, *, cut: bool) -> Message:
    """Statement name, query, types of the parameters."""
    name, _, rest = body.partition(b"\0")
    statement, nul, _ = rest.partition(b"\0")
    return Message("P", end, name=decode(name, cut=False), command=command_of(statement, cut=cut and not nul))


def _strings(body: bytes) -> tuple[str, str, bytes]:
    """Return two strings that end with a zero, and what follows."""
    first, _, rest = body.partition(b"\0")
    second, _, rest = rest.partition(b"\0")
    return decode(first, cut=False), decode(second, cut=False), rest


def _call(body: bytes) -> Command:
    function = int.from_bytes(body[:4], "big")
    shown = _FUNCTIONS.get(function, str(function))
    return Command(f"PostgreSQL Function Call: {shown}", None, "FUNCTION_CALL", None)


def _terminate(_body: bytes) -> Command:
    return Command("PostgreSQL Terminate", None, "TERMINATE", None)


_COMMANDS = {"F": _call, "X": _terminate}


def _read_startup(data: bytes) -> Startup | None:
    """Length (4), then the protocol's version or a code that no version will have, as two numbers (2, 2)."""
    if len(data) < 2 * LENGTH_BYTES:
        return None
    major, minor = int.from_bytes(data[4:6], "big"), int.from_bytes(data[6:8], "big")
    if major == _STARTUP:
        return _read_login(data[8:], cut=int.from_bytes(data[:4], "big") > len(data))
    if (major, minor) == _CANCEL:
        process = int.from_bytes(data[8:12], "big")
        return Startup("cancel", Command(f"PostgreSQL Cancel: process {process}", None, "CANCEL", None))
    kind = {_TLS: "tls", _GSS: "gss"}.get((major, minor))
    if kind is None:
        return None
    label, operation = {"tls": ("SSL", "SSL_REQUEST"), "gss": ("GSSENC", "GSSENC_REQUEST")}[kind]
    return Startup(kind, Command(f"PostgreSQL {label} Request", None, operation, None))


def _read_login(body: bytes, *, cut: bool) -> Startup:
    """Names and values; the database is the user's name unless it is given."""
    strings = [decode(text, cut=False) for text in body.split(b"\0")]
    if cut:
        strings.pop()
    values = dict(zip(strings[::2], strings[1::2], strict=False))
    user = values.get("user", "")
    database = values.get("database") or (user if not cut else None) or None
    text = f"PostgreSQL Login: {user}" + (f"@{database}" if database else "")
    if application := values.get("application_name"):
        text += f" ({application})"
    return Startup("login", Command(text, None, "LOGIN", None, truncated=cut), database)
