"""What a request asks, message by message, each until it is answered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from masdeepflow.protocols.postgresql.hidden import Repeated, repeated
from masdeepflow.protocols.postgresql.replies import OK, UNSEEN, Reply
from masdeepflow.protocols.postgresql.requests import HIDDEN, Command, described, unknown_statement

if TYPE_CHECKING:
    from masdeepflow.protocols.postgresql import replies, requests
    from masdeepflow.protocols.postgresql.requests import Request

__all__ = ["TURN_MOST", "Asked", "ask", "more_of"]

TURN_MOST = 16384
"""Statements that one turn may stand for without being captured: sizes are the peer's."""

_ANSWERS = {"P": "1", "B": "2", "C": "3", "D": "Tn"}
"""Type of a message -> types of the messages that answer it."""
_RESULTS = frozenset("QEF")
_TAGS = {"I": "Empty query", "s": "Portal suspended"}
_ROWS = {"D": "Rows", "d": "Copied rows", "H": "Copied rows"}
_ACCEPTED = {"tls": "S", "gss": "G"}
_STARTUPS = frozenset({"login", "tls", "gss"})

_EXECUTE_BYTES = 10
_BIND_BYTES = 13
_SECOND_BYTES = 2 * _EXECUTE_BYTES + _BIND_BYTES
_LEAST, _MANY = 2, 4
_OTHERS = Command("PostgreSQL Query: …", None, None, None, truncated=True)
"""Statements of which it is not known that they are those before them."""


@dataclass(slots=True)
class Asked:
    """Something that waits for its answer.

    kind: type of the message, as a character, or `login`, `cancel`, `tls`, `gss`. command: what is shown of
    it; None for what is no transaction of its own, such as most Binds. name: of the statement that a Parse is
    about, or of the database of a login. before: the statement that a Parse replaces. certain: whether it
    is known that it was asked. accepted: what a server says that lets it in, or has said.
    tags, notices, columns, rows: what came of the answer so far. cut: some of that is not whole.
    copying: it waits for the client's data. done: the answer is complete.
    more: how many it stands for, of an Execute beyond the prefix that repeats, None of any other; `repeated`
    tells of them.
    """

    kind: str
    command: Command | None = None
    name: str | None = None
    before: Command | None = None
    certain: bool = True
    accepted: str = ""
    request_first_ns: int = 0
    queue_ns: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    tags: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    columns: int = -1
    rows: str = ""
    cut: bool = False
    copying: bool = False
    done: bool = False
    more: int | None = None
    repeated: Repeated | None = None

    def one(self) -> Asked:
        """Return one of those that this stands for, which is left with the others."""
        more = max(self.more or 0, 1)
        share = self.request_bytes // more
        first = replace(self, more=None, repeated=None, request_bytes=share, tags=[], notices=[])
        self.more, self.request_bytes = more - 1, self.request_bytes - share
        return first

    @property
    def startup(self) -> bool:
        """Whether it is no message but what begins a connection."""
        return self.kind in _STARTUPS

    @property
    def patient(self) -> bool:
        """Whether it goes on in the next turn, however long that takes."""
        return self.copying or self.startup

    def take(self, message: replies.Message) -> bool:
        """Take a message of the answer; False if it is not for this."""
        if self.kind not in _RESULTS:
            self.done = message.kind in _ANSWERS.get(self.kind, "")
            return self.done
        if message.kind in "CIsV":
            self._end_result(message)
        elif message.kind == "T":
            self.columns, self.rows = message.number, ""
        elif message.kind in _ROWS:
            self.rows = _ROWS[message.kind]
        elif message.kind == "G":
            self.copying = True
        else:
            return message.kind == "W"
        return True

    def _end_result(self, message: replies.Message) -> None:
        if message.kind != "V":
            self.tags.append(message.text or _TAGS.get(message.kind, ""))
        self.cut |= message.cut
        self.columns, self.rows, self.copying = -1, "", False
        self.done = self.kind == "E"

    def reply(self, *, whole: bool) -> Reply:
        """Return what came of the answer. whole: it has ended; else the rest of it was not captured."""
        parts = [*self.tags, self._result()] if not whole else self.tags
        text = ", ".join(filter(None, ("; ".join(filter(None, parts)), *self.notices)))
        if text:
            return Reply(f"PostgreSQL Response: {text}", truncated=self.cut or not whole)
        return OK if whole else UNSEEN

    def _result(self) -> str:
        """Return what is known of a result whose end is not."""
        if self.columns < 0:
            return self.rows
        return f"Result set, {self.columns} column{'s' * (self.columns != 1)}"

    def at_ready(self) -> Reply:
        """Return the reply when the server is ready for the next query."""
        if self.kind in {"Q", "F"}:
            return self.reply(whole=True)
        if not self.certain and self.command:
            # There was no Execute beyond the prefix after all.
            self.command = self.command.prepared()
            return OK
        return UNSEEN


def ask(
    request: Request,
    total: int,
    statements: dict[str, Command],
    portals: dict[str, Command],
    most: int = TURN_MOST,
) -> list[Asked]:
    """Return what a request of `total` bytes asks, in order; a Sync closes what it closes.

    statements, portals: of the connection, which the request changes. most: statements beyond the prefix.
    """
    if request.startup:
        startup = request.startup
        accepted = _ACCEPTED.get(startup.kind, "")
        return [_of(startup.kind, startup.command, total, name=startup.database, accepted=accepted)]
    if not request.messages:
        return [_of("Q", HIDDEN, total), Asked("S")]
    return _Asking(statements, portals, most).ask(request, total)


def more_of(found: Repeated, command: Command, total: int, most: int) -> Asked:
    """Return what stands for repeated statements of a request of `total` bytes."""
    asked = _of("E", command, total)
    asked.more, asked.repeated = min(found.number, most), found
    return asked


def _of(
    kind: str, command: Command | None, end: int, *, name: str | None = None, accepted: str = ""
) -> Asked:
    return Asked(kind, command, name, accepted=accepted, request_bytes=end)


class _Asking:
    """Goes over the messages of a request.

    While it does, `request_bytes` of what is asked is where the message ends. _parsed: by name, statements
    that were parsed and not executed yet, and what they show. _bound: portal to statement name, likewise.
    """

    def __init__(self, statements: dict[str, Command], portals: dict[str, Command], most: int) -> None:
        self._most = most
        self._statements = statements
        self._portals = portals
        self._asked: list[Asked] = []
        self._parsed: dict[str, tuple[Asked, Command]] = {}
        self._bound: dict[str, str] = {}

    def ask(self, request: Request, total: int) -> list[Asked]:
        for message in request.messages:
            self._add(message)
            if message.kind == "X":
                break
        if request.rest and not request.broken:
            self._add_hidden(request, total)
        for name in list(self._parsed):
            self._show_prepared(name)
        if not any(asked.command for asked in self._asked):
            self._show_something(request.messages)
        self._share(total)
        return self._asked

    def _add(self, message: requests.Message) -> None:
        kind, end = message.kind, message.end
        if kind in {"Q", "F"}:
            self._asked += [_of(kind, message.command, end), Asked("S")]
        elif kind == "P":
            self._parse(message)
        elif kind == "B":
            self._bind(message)
        elif kind == "E":
            self._execute(message.portal or "", end)
        elif kind in {"C", "D", "S", "X"}:
            self._asked.append(_of(kind, message.command, end))
            self._close(message)

    def _parse(self, message: requests.Message) -> None:
        name = message.name or ""
        asked = _of("P", None, message.end, name=name)
        asked.before = self._statements.pop(name, None)
        self._show_prepared(name)
        if message.command:
            self._statements[name] = message.command
            self._parsed[name] = asked, message.command
        self._asked.append(asked)

    def _show_prepared(self, name: str) -> None:
        """Show a statement by itself that was parsed, and not executed in the same turn."""
        if name in self._parsed:
            asked, command = self._parsed.pop(name)
            asked.command = command.prepared()

    def _bind(self, message: requests.Message) -> None:
        name, portal = message.name or "", message.portal or ""
        self._portals.pop(portal, None)
        self._portals[portal] = self._statements.get(name) or unknown_statement(name)
        self._bound[portal] = name
        self._asked.append(_of("B", None, message.end))

    def _execute(self, portal: str, end: int) -> None:
        if portal in self._bound:
            self._parsed.pop(self._bound.pop(portal), None)
        self._asked.append(_of("E", self._portals.get(portal) or unknown_statement(portal), end))

    def _close(self, message: requests.Message) -> None:
        if message.kind == "S":
            self._portals.pop("", None)
        elif message.kind == "C":
            if message.name is not None:
                self._statements.pop(message.name, None)
            if message.portal is not None:
                self._portals.pop(message.portal, None)

    def _add_hidden(self, request: Request, total: int) -> None:
        """Add what must be beyond the prefix: the Execute of what was bound or parsed last, and what repeats.

        Two Executes with a Bind between them take 33 bytes; so in less there is one.
        """
        rest, found = request.rest, repeated(request.messages, total)
        shown = [asked for asked in self._asked if asked.command]
        if self._bound and rest >= _EXECUTE_BYTES:
            self._execute(next(reversed(self._bound)), total - (found.number * found.size if found else 0))
            self._asked += [Asked("S")] * bool(found and found.synced)
            shown = self._asked[-1:] if rest >= _SECOND_BYTES and not found else []
        elif self._parsed and rest >= _EXECUTE_BYTES + _BIND_BYTES + len(next(reversed(self._parsed))):
            _, (_, command) = self._parsed.popitem()
            shown = [_of("E", command, total)]
            shown[0].certain = False
            self._asked += shown
        elif rest < _EXECUTE_BYTES + _BIND_BYTES:
            shown = []
        if found:
            self._asked.append(more_of(found, self._last_executed(found.number), total, self._most))
        else:
            for asked in shown[-1:]:
                asked.command = asked.command and asked.command._replace(truncated=True)
        self._asked.append(Asked("S"))
        self._portals.pop("", None)

    def _last_executed(self, number: int) -> Command:
        """Return what `number` more executions show: the last statement, if that before it was the same.

        One alone is taken to be repeated where there are many more.
        """
        last = [asked.command for asked in self._asked if asked.kind in "EQ" and asked.command][-2:]
        if not last or len(last) + number // _MANY < _LEAST or last[0].text != last[-1].text:
            return _OTHERS
        text = f"{last[-1].text}".removesuffix("…")
        return last[-1]._replace(text=f"{text}…", truncated=True)

    def _show_something(self, messages: tuple[requests.Message, ...]) -> None:
        """Show the Bind, Describe or Close of a request in which there is nothing else."""
        for kind, label in (("B", "Bind"), ("D", "Describe"), ("C", "Close")):
            message = next((message for message in messages if message.kind == kind), None)
            if message:
                asked = next(asked for asked in self._asked if asked.kind == kind)
                asked.command = self._about(label, message)
                return

    def _about(self, label: str, message: requests.Message) -> Command:
        name = message.name if message.name is not None else message.portal
        known = self._statements if message.name is not None else self._portals
        return described(known.get(name or ""), name or "", label)

    def _share(self, total: int) -> None:
        """Give each that is shown the bytes behind the one before, and the last all that are left."""
        shown = [asked for asked in self._asked if asked.command]
        start = 0
        for asked in shown:
            end = total if asked is shown[-1] else asked.request_bytes
            asked.request_bytes, start = end - start, end
