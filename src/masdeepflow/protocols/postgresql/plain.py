"""What one common turn asks and answers: a query, or executions up to a Sync, with their whole answers.

Both sides are read with the code that follows connections turn by turn, so both give the same.
"""

from __future__ import annotations

import re
from dataclasses import astuple
from functools import lru_cache
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from masdeepflow.protocols.postgresql.asked import Asked, ask
from masdeepflow.protocols.postgresql.connection import Connection, Turn
from masdeepflow.protocols.postgresql.names import OWN, own_name
from masdeepflow.protocols.postgresql.replies import Reply
from masdeepflow.protocols.postgresql.requests import HIDDEN, Command, Message, Request, read_request
from masdeepflow.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NO_SHAPE",
    "QUERY",
    "TO_END",
    "Answer",
    "Ask",
    "Plain",
    "one_query",
    "read_nameless",
    "read_plain",
    "read_reply",
]

_REMEMBERED = 1024
_SHAPES_MOST = 256
_TURN = int(Kind.TURN)
_KINDS = re.compile(r"Q|[PBDES]+")
# Without a Sync nothing may be left of what is asked, as a portal is.
_ASKED = re.compile(r"QS|(?:(?:P?BD?E|PD?e)S?)+(?<=S)|PD?S?|DS?")
_RESULTS = frozenset("QEe")
NO_SHAPE, QUERY = -1, 0
TO_END = -1
"""Up to the end of what was sent."""
_SHAPES = {"QS": QUERY}
"""Shapes by their kinds, numbered as they are met."""


class Ask(NamedTuple):
    """Something that a request asks and that is shown.

    command: what it shows; None if it executes `statement`, which was parsed in an earlier turn and may be
    `OWN`, or `describes` it; without a text where each request has its own. end: bytes of the request up to
    its end.
    """

    command: Command | None
    statement: str = ""
    describes: bool = False
    end: int = TO_END


class Plain(NamedTuple):
    """A request that needs no more than its answer.

    shape: number of the kinds of what it asks, with `e` for an Execute that may not be there; `NO_SHAPE` of
    any other request. parsed: the last statement that it parses, of the name `parsed_as`, which may be `OWN`.
    """

    shape: int
    asks: tuple[Ask, ...]
    parsed: Command | None = None
    parsed_as: str = ""


class Answer(NamedTuple):
    """The reply to one of what a request asks. end: bytes of the response up to its end."""

    reply: Reply
    end: int


_OTHER = Plain(NO_SHAPE, ())
_ONE = HIDDEN._replace(text="")


def one_query(command: Command) -> Plain:
    """Return the request that is one simple query."""
    return Plain(QUERY, (Ask(command),))


def read_plain(data: bytes, total: int, _kind: int) -> Plain:
    """Return a request of `total` bytes as the columns need it; without a shape if it has to be followed."""
    return _plain(read_request(data, total), total)


def read_nameless(data: bytes, total: int, _kind: int) -> Plain:
    """Return the same of all requests that differ in their own name only (`names`)."""
    return _plain(_with_own_name(read_request(data, total), own_name(data, total).decode()), total)


def _plain(request: Request, total: int) -> Plain:
    # A Flush asks nothing.
    messages = [message for message in request.messages if message.kind != "H"]
    if request.broken or not _KINDS.fullmatch("".join(message.kind for message in messages)):
        return _OTHER
    statements: dict[str, Command] = {}
    asked = ask(request, total, statements, {})
    shape = "".join(one.kind if one.certain else "e" for one in asked)
    if not _ASKED.fullmatch(shape) or any(one.more is not None for one in asked):
        return _OTHER
    asks = _asks([one for one in asked if one.command], messages)
    if len(asks) != _number_of_results(shape):
        return _OTHER
    name = next((message.name for message in messages if message.kind == "P"), None) or ""
    return Plain(_number(shape), asks, statements.get(name), _brief(name))


def _brief(name: str) -> str:
    """Return a name, `OWN` where something as long stands in its place."""
    return OWN if name[:1] == OWN else name


def _with_own_name(request: Request, own: str) -> Request:
    """Return a request with something as long in the place of its own name."""
    if not own:
        return request
    instead = OWN * len(own)
    messages = (one._replace(name=instead) if one.name == own else one for one in request.messages)
    return request._replace(messages=tuple(messages))


def _number(shape: str) -> int:
    """Return the number of a shape; how many a stranger may invent is bounded."""
    if len(_SHAPES) >= _SHAPES_MOST:
        return _SHAPES.get(shape, NO_SHAPE)
    return _SHAPES.setdefault(shape, len(_SHAPES))


def _number_of_results(shape: str) -> int:
    return sum(kind in _RESULTS for kind in shape) or 1


def _asks(shown: Sequence[Asked], messages: Sequence[Message]) -> tuple[Ask, ...]:
    """Return what is asked, nothing if it depends on more than statements of earlier turns."""
    parses, binds, executes, describes = (_of_kind(kind, messages) for kind in "PBED")
    parsed = {message.name for message in parses}
    # Of which a turn has one.
    if any(parsed) and (len(parsed) > 1 or messages[0].kind != "P"):
        return ()
    if any(message.portal for message in binds + executes):
        return ()
    if not binds and not parses and describes:
        about = describes[0].name
        return () if about is None else (Ask(None, about, describes=True),)
    ends = [*accumulate(one.request_bytes for one in shown[:-1]), TO_END]
    together = zip(shown, chain(binds, repeat(None)), ends, strict=False)
    asks = [_executed(one.command, bind, parses, end) for one, bind, end in together]
    return () if None in asks else tuple(filter(None, asks))


def _of_kind(kind: str, messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message.kind == kind]


def _executed(
    command: Command | None, bind: Message | None, parses: Sequence[Message], end: int
) -> Ask | None:
    """Return what shows `command` if its statement was parsed before its Bind, or has none."""
    if bind is None:
        return Ask(command, end=end)
    # How much is hidden behind a Bind matters, where that is more than its Execute.
    if command is None or command.truncated:
        return None
    name = bind.name or ""
    if not parses or name != parses[0].name:
        return Ask(None, _brief(name), end=end)
    return Ask(command, end=end) if parses[0].end < bind.end else None


def read_reply(data: bytes, total: int, shape: int) -> tuple[Answer, ...]:
    """Return the replies to a request of a shape, none if that is not all that the response tells."""
    asked = list(_SHAPES)[shape]
    shown = _RESULTS & set(asked) or {next(kind for kind in "PD" if kind in asked)}
    waiting = [Asked(kind.upper(), _ONE if kind in shown else None, certain=kind != "e") for kind in asked]
    connection = Connection(waiting=waiting, turn=-1)
    found = connection.follow(Turn(0, b"", data, 0, _TURN, 0, 0, 0, total, 0, 0, 0, 0))
    if connection.busy or [one.command for one in found] != [_ONE] * _number_of_results(asked):
        return ()
    ends = [end if end < total else TO_END for end in accumulate(one.response_bytes for one in found)]
    return tuple(Answer(_same(*astuple(one.reply)), end) for one, end in zip(found, ends, strict=True))


@lru_cache(_REMEMBERED)
def _same(*fields: Any) -> Reply:  # noqa: ANN401  # those of `Reply`
    """Return one object for equal replies."""
    return Reply(*fields)
