"""What a server sends: messages, read as far as the payload prefix shows them.

Source: PostgreSQL Documentation, chapter "Frontend/Backend Protocol", version 3. Nothing here raises or keeps
state of connections, whatever the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from masdeepflow.protocols.postgresql.requests import HEADER_BYTES, LENGTH_BYTES, decode

__all__ = [
    "ACCEPTED",
    "NO_REPLY",
    "OK",
    "REFUSED",
    "SKIPPED",
    "UNANSWERED",
    "UNSEEN",
    "Message",
    "Notice",
    "Reply",
    "Response",
    "read_response",
]

_TYPES = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
_ROWS = frozenset(b"Dd")
_READY_BYTES = 6
_SQLSTATE = re.compile(rb"[0-9A-Z]{5}\Z")
_CHANNEL = re.compile(rb"[^\0-\x1f\x7f]{0,63}\Z")
_SUCCESS = "00000"


@dataclass(slots=True, eq=False)
class Reply:
    """A reply as a transaction shows it; equal only to itself.

    text: of the log line. code, message: of an error. truncated: something of it is beyond the prefix.
    """

    text: str | None
    error: bool = False
    code: str | None = None
    message: str | None = None
    truncated: bool = False


OK = Reply("PostgreSQL Response: OK")
ACCEPTED = Reply("PostgreSQL Response: Accepted")
REFUSED = Reply("PostgreSQL Response: Refused")
SKIPPED = Reply("PostgreSQL Response: Skipped after an error", error=True)
"""Of what a server does not do because something before it, up to the next Sync, failed."""
NO_REPLY = Reply(None)
"""None yet, or none at all."""
UNANSWERED = Reply(None, error=True)
"""None, and the connection is closed."""
UNSEEN = Reply(None, truncated=True)
"""One that is beyond the payload prefix."""


class Notice(NamedTuple):
    """The fields of an ErrorResponse or a NoticeResponse that are shown. cut: its message is not whole."""

    severity: str
    code: str | None
    message: str | None
    cut: bool

    @property
    def text(self) -> str:
        """Severity, code and message; the code of success says nothing."""
        code = f" {self.code}" if self.code and self.code != _SUCCESS else ""
        return f"{self.severity}{code}: {self.message}" if self.message else f"{self.severity}{code}"

    def reply(self) -> Reply:
        """Return the reply that is this error."""
        return Reply(
            f"PostgreSQL Response: {self.text}",
            error=True,
            code=self.code,
            message=self.message,
            truncated=self.cut,
        )


class Message(NamedTuple):
    """One message. kind: its type, as a character; `!` for the byte that answers a request for encryption.

    end: bytes of the response up to its end. text: a command's tag, or the channel of a notification, empty
    if that is none, or that byte. number: columns of a result, or what an authentication asks for. cut: the
    text is not whole.
    """

    kind: str
    end: int
    text: str = ""
    number: int = 0
    notice: Notice | None = None
    cut: bool = False


class Response(NamedTuple):
    """The response bytes of a turn. Of several rows in a sequence the last is given.

    rest: bytes behind the last message, beyond the prefix or unreadable. broken: what was visible of them is
    no message.
    """

    messages: tuple[Message, ...]
    rest: int = 0
    broken: bool = False


def read_response(data: bytes, total: int) -> Response:
    """Return the messages of a turn's response. data: as far as captured. total: bytes that were sent.

    Where six bytes are left they are a ReadyForQuery, though they were not captured: no other message that
    can stand at the end has that length.
    """
    if total == 1:
        return Response((Message("!", 1, data.decode("latin-1")),) if data else (), 0 if data else 1)
    messages: list[Message] = []
    at = 0
    while at + HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big")
        end = at + 1 + length
        if data[at] not in _TYPES or length < LENGTH_BYTES or end > total:
            return Response(tuple(messages), total - at, broken=True)
        if data[at] in _ROWS and messages and messages[-1].kind == chr(data[at]):
            messages.pop()
        messages.append(_read_message(chr(data[at]), data[at + HEADER_BYTES : end], end, len(data)))
        at = end
    if total - at == _READY_BYTES and data[at : at + 1] in {b"", b"Z"}:
        messages.append(Message("Z", total))
        at = total
    return Response(tuple(messages), total - at)


def _read_message(kind: str, body: bytes, end: int, captured: int) -> Message:
    cut = end > captured
    if kind == "C":
        tag, nul, _ = body.partition(b"\0")
        unfinished = cut and not nul
        return Message(kind, end, decode(tag, cut=unfinished), cut=unfinished)
    if kind in "EN":
        return Message(kind, end, notice=_read_notice(body, cut=cut))
    if kind == "T":
        return Message(kind, end, number=int.from_bytes(body[:2], "big") if len(body) > 1 else -1)
    if kind == "R":
        return Message(kind, end, number=int.from_bytes(body[:4], "big") if len(body) >= LENGTH_BYTES else -1)
    if kind == "A":
        channel, nul, _ = body[4:].partition(b"\0")
        unfinished = cut and not nul
        named = _CHANNEL.match(channel) and (channel if nul else cut)
        return Message(kind, end, decode(channel, cut=unfinished) if named else "", cut=unfinished)
    return Message(kind, end)


def _read_notice(body: bytes, *, cut: bool) -> Notice:
    """Fields: a type (1) and a string; V is the severity, S the same in the server's language."""
    *whole, last = body.split(b"\0")
    fields = {field[:1]: field[1:] for field in reversed(whole)}
    unfinished = cut and b"M" not in fields
    severity = fields.get(b"V", fields.get(b"S", b"ERROR"))
    code = fields.get(b"C", b"")
    message = last[1:] if unfinished and last[:1] == b"M" else fields.get(b"M")
    return Notice(
        decode(severity, cut=False),
        code.decode() if _SQLSTATE.match(code) else None,
        None if message is None else decode(message, cut=unfinished),
        unfinished,
    )
