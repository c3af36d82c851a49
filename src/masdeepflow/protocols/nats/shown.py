"""What NATS commands and answers show: verbs, and subjects without what makes each its own."""

from __future__ import annotations

from typing import NamedTuple

from masdeepflow.keys import key_pattern
from masdeepflow.protocols.nats.wire import ADDRESSED
from masdeepflow.redact import redact_message

__all__ = [
    "FINE",
    "HIDDEN",
    "HIDDEN_ANSWER",
    "NO_ANSWER",
    "NO_COMMAND",
    "PINGED",
    "PONGED",
    "Answer",
    "Command",
]
__all__ += ["read_command", "read_cut_command", "read_error", "status_answer"]

_LABEL, _ANSWER, _ELLIPSIS = "NATS Command: ", "NATS Response: ", "…"
_ERROR_LEAST = 400


class Command(NamedTuple):
    """What a client sends, as shown. truncated: part of that was not captured."""

    text: str | None = None
    operation: str | None = None
    subject: str | None = None
    truncated: bool = False


class Answer(NamedTuple):
    """What the server answers, as shown."""

    text: str | None = None
    failure: str | None = None
    error: bool = False
    truncated: bool = False


HIDDEN = Command(_LABEL + _ELLIPSIS, truncated=True)
HIDDEN_ANSWER = Answer(_ANSWER + _ELLIPSIS, truncated=True)
NO_COMMAND, NO_ANSWER = Command(), Answer()
PINGED = Command(_LABEL + "PING", "PING")
FINE, PONGED = Answer(_ANSWER + "OK"), Answer(_ANSWER + "PONG")
"""What was not captured, what there is not, and what needs no reading."""


def read_command(data: bytes, *, cut: bool = False) -> Command:
    """Read a verb, and the subject behind it where it has one. cut: the last word may go on."""
    words = data.split()
    verb = words[0].decode("latin-1").upper()
    if verb not in ADDRESSED:
        return Command(_LABEL + verb, verb)
    if len(words) == 1:
        return Command(f"{_LABEL}{verb} {_ELLIPSIS}", verb, truncated=True)
    subject = "_INBOX.*" if words[1].startswith(b"_INBOX.") else key_pattern(words[1], cut=cut)
    return Command(
        f"{_LABEL}{verb} {subject}",
        verb,
        subject,
        truncated=subject.endswith(_ELLIPSIS),
    )


def read_cut_command(data: bytes) -> Command:
    """Read a command whose last word may go on."""
    return read_command(data, cut=True)


def read_error(data: bytes) -> Answer:
    """Read what stands behind -ERR: `'Permissions Violation for Publish to "orders"'`."""
    whole = data.endswith(b"\n")
    text = data[len("-ERR") :].strip().decode("utf-8", "surrogateescape")
    message = redact_message(text.strip("'") + _ELLIPSIS * (not whole))
    return Answer(f"{_ANSWER}(error) {message}", message, error=True, truncated=not whole)


def status_answer(number: int) -> Answer:
    """Return what a message with a status in its headers says; -1: not captured."""
    if number < 0:
        return HIDDEN_ANSWER
    if number == 0:
        return FINE
    if number < _ERROR_LEAST:
        return Answer(f"{_ANSWER}{number:03}")
    return Answer(f"{_ANSWER}(error) {number}", str(number), error=True)
