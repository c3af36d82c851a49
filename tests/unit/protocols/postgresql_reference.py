"""PostgreSQL turn by turn in obvious code: what the column parser must equal.

No caches, no columns, no memory of distinct payloads. Below, what holds the two equal. What sizes
tell of hidden statements (`hidden.py`) is arithmetic, and held by rules of its own.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from masdeepflow.protocols.postgresql import PROTOCOL, replies, requests
from masdeepflow.protocols.postgresql.hidden import Repeated, answered, begin, going_on, repeated
from masdeepflow.redact import summarize_sql
from masdeepflow.schema import Flag, Kind
from tests.unit.protocols.mysql_reference import BASE, rows_of, strings

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BASE", "check_equal", "rows_of", "strings"]

REQUESTS = "BCDEFHPQSXcdfp"
RESPONSES = "123ACDEGHIKNRSTVWZcdnstv"
ENDS_RESULT = {"C": "", "I": "Empty query", "s": "Portal suspended", "V": ""}
MOST = 1024

Part = tuple[str, bytes, bool, int]


@dataclass
class Shown:
    """What a request, or a statement, shows."""

    text: str | None = None
    query: str | None = None
    operation: str | None = None
    summary: str | None = None
    cut: bool = False

    def labelled(self, label: str) -> Shown:
        """Return it as something else that is done with the statement."""
        return Shown(f"PostgreSQL {label}: {self.query}", self.query, label.upper(), self.summary, self.cut)


@dataclass
class Reply:
    """What a response shows."""

    text: str | None = None
    error: bool = False
    code: str | None = None
    message: str | None = None
    cut: bool = False


@dataclass
class Question:
    """A message without its answer. end: where it ends in its request."""

    kind: str
    end: int = 0
    shown: Shown | None = None
    name: str = ""
    database: str | None = None
    replaced: Shown | None = None
    maybe: bool = False
    let_in: bool = False
    copying: bool = False
    request_first_ns: int = 0
    queue_ns: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    tags: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    result: str = ""
    cut: bool = False
    more: int = 0
    alike: Repeated | None = None

    def is_startup(self) -> bool:
        """Whether it comes before everything else."""
        return self.kind in ("login", "tls", "gss")

    def answer(self, *, ended: bool) -> Reply:
        """Return what its answer showed so far."""
        parts = [tag for tag in self.tags if tag]
        if not ended and self.result:
            parts.append(self.result)
        said = ["; ".join(parts)] if parts else []
        text = ", ".join(said + self.notices)
        if text:
            return Reply(f"PostgreSQL Response: {text}", cut=self.cut or not ended)
        return Reply("PostgreSQL Response: OK") if ended else Reply(cut=True)


@dataclass
class Known:
    """A connection."""

    database: str | None = None
    statements: dict[str, Shown] = field(default_factory=dict)
    portals: dict[str, Shown] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    failed: bool = False
    opaque: bool = False
    turn: int = 0
    idle: bool = False
    astray: bool = False
    alike: tuple[int, Shown, bool | None] | None = None


def text_of(data: bytes, *, unfinished: bool = False) -> str:
    """Decode; of text that goes on beyond the prefix, without half a character, and marked."""
    if not unfinished:
        return data.decode("utf-8", "backslashreplace")
    for length in range(4):
        # Half a character is up to three bytes that would be one with more behind them.
        tail = data[len(data) - length :] if length else b""
        if length <= len(data) and length and is_half(tail):
            data = data[: len(data) - length]
            break
    return data.decode("utf-8", "backslashreplace") + "…"


def is_half(tail: bytes) -> bool:
    """Whether these bytes begin a character of UTF-8 and end before it does."""
    lead = tail[0]
    wanted = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
    return len(tail) < wanted and all(0x80 <= byte <= 0xBF for byte in tail[1:])


def number(data: bytes) -> int:
    """Read an integer."""
    return int.from_bytes(data, "big")


def until_zero(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return the bytes before the first zero, those behind it, and whether there is one."""
    at = data.find(0)
    return (data, b"", False) if at < 0 else (data[:at], data[at + 1 :], True)


def split(data: bytes, total: int, types: str) -> tuple[list[Part], int, bool]:
    """Return messages as (type, body, whether it is cut, end), the bytes left, and whether they are odd."""
    found: list[Part] = []
    at = 0
    while len(data) - at >= 5:
        length = number(data[at + 1 : at + 5])
        end = at + 1 + length
        if chr(data[at]) not in types or length < 4 or end > total:
            return found, total - at, True
        if types == REQUESTS and len(data) < end and half_named(chr(data[at]), data[at + 5 :]):
            break
        found.append((chr(data[at]), data[at + 5 : end], end > len(data), end))
        at = end
    return found, total - at, False


def half_named(kind: str, body: bytes) -> bool:
    """Whether a message is cut within the names that it begins with."""
    names = 2 if kind == "B" else 1 if kind in "PECD" else 0
    return body.count(b"\0") < names


def statement(data: bytes, *, unfinished: bool) -> Shown:
    """Return what executing a statement shows."""
    text = text_of(data, unfinished=unfinished)
    operation, summary = summarize_sql(text)
    return Shown(f"PostgreSQL Query: {text}", text, operation or "QUERY", summary or None, unfinished)


def unknown(name: str) -> Shown:
    """Return what executing a statement that nobody saw shows."""
    return Shown(f"PostgreSQL Query: EXECUTE {name}".rstrip(), None, "EXECUTE")


def startup(data: bytes, total: int) -> Question | None:
    """Return what begins a connection."""
    if len(data) < 8:
        return None
    code = number(data[4:8])
    if code == 80877102:
        text = f"PostgreSQL Cancel: process {number(data[8:12])}"
        return Question("cancel", total, Shown(text, None, "CANCEL"))
    if code == 80877103:
        return Question("tls", total, Shown("PostgreSQL SSL Request", None, "SSL_REQUEST"))
    if code == 80877104:
        return Question("gss", total, Shown("PostgreSQL GSSENC Request", None, "GSSENC_REQUEST"))
    return login(data, total) if code >> 16 == 3 else None


def login(data: bytes, total: int) -> Question:
    """Return the packet that names user and database."""
    unfinished = number(data[:4]) > len(data)
    fields = [text_of(text) for text in data[8:].split(b"\0")]
    if unfinished:
        del fields[-1]
    values = {}
    for at in range(0, len(fields) - 1, 2):
        values[fields[at]] = fields[at + 1]
    user = values.get("user", "")
    database = values.get("database") or ("" if unfinished else user)
    text = f"PostgreSQL Login: {user}"
    if database:
        text += f"@{database}"
    if values.get("application_name"):
        text += f" ({values['application_name']})"
    return Question("login", total, Shown(text, None, "LOGIN", None, unfinished), database=database or None)


class Asking:
    """Makes questions of a request."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.questions: list[Question] = []
        self.fresh: list[tuple[str, Question, Shown]] = []
        self.bound: list[tuple[str, str]] = []

    def read(self, data: bytes, total: int) -> list[Question]:
        """Return the questions of a request."""
        if data[:1] == b"\0":
            found = startup(data, total)
            if found:
                found.request_bytes = total
                return [found]
            return [Question("Q", total, Shown(cut=True), request_bytes=total), Question("S")]
        messages, rest, odd = split(data, total, REQUESTS)
        if not messages:
            return [Question("Q", total, Shown(cut=True), request_bytes=total), Question("S")]
        for kind, body, is_cut, end in messages:
            getattr(self, f"on_{kind}", self.on_other)(kind, body, end, is_cut=is_cut)
            if kind == "X":
                break
        if rest and not odd:
            self.hidden(rest, repeated(requests.read_request(data, total).messages, total), total)
        self.known.astray = odd
        for _, question, shown in self.fresh:
            question.shown = shown.labelled("Prepare")
        if all(question.shown is None for question in self.questions):
            self.show_one(messages)
        self.share(total)
        return self.questions

    def on_other(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:
        """Neither Flush, nor a password, nor data of COPY is answered."""

    def on_Q(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: N802
        """A query."""
        text, _, ended = until_zero(body)
        self.questions.append(Question(kind, end, statement(text, unfinished=is_cut and not ended)))
        self.questions.append(Question("S"))

    def on_F(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """A function call."""
        function = {957: "lo_creat"}.get(number(body[:4]), str(number(body[:4])))
        shown = Shown(f"PostgreSQL Function Call: {function}", None, "FUNCTION_CALL")
        self.questions += [Question(kind, end, shown), Question("S")]

    def on_X(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """The end."""
        self.questions.append(Question(kind, end, Shown("PostgreSQL Terminate", None, "TERMINATE")))

    def on_S(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """Sync closes the portal without a name."""
        self.questions.append(Question(kind, end))
        self.known.portals.pop("", None)

    def on_P(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: N802
        """Parse."""
        raw, behind, _ = until_zero(body)
        text, _, ended = until_zero(behind)
        name, shown = text_of(raw), statement(text, unfinished=is_cut and not ended)
        question = Question(kind, end, name=name, replaced=self.known.statements.pop(name, None))
        for other in [other for other in self.fresh if other[0] == name]:
            other[1].shown = other[2].labelled("Prepare")
            self.fresh.remove(other)
        self.known.statements[name] = shown
        self.fresh.append((name, question, shown))
        self.questions.append(question)

    def on_B(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """Bind."""
        first, behind, _ = until_zero(body)
        portal, name = text_of(first), text_of(until_zero(behind)[0])
        self.known.portals.pop(portal, None)
        self.known.portals[portal] = self.known.statements.get(name) or unknown(name)
        place = next((at for at, other in enumerate(self.bound) if other[0] == portal), None)
        if place is None:
            self.bound.append((portal, name))
        else:
            self.bound[place] = portal, name
        self.questions.append(Question(kind, end))

    def on_E(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """Execute."""
        self.execute(text_of(until_zero(body)[0]), end)

    def execute(self, portal: str, end: int) -> None:
        """Execute a portal: its statement was not only parsed."""
        for other in [other for other in self.bound if other[0] == portal]:
            self.bound.remove(other)
            self.fresh = [one for one in self.fresh if one[0] != other[1]]
        self.questions.append(Question("E", end, self.known.portals.get(portal) or unknown(portal)))

    def on_D(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """Describe."""
        self.questions.append(Question(kind, end))

    def on_C(self, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:  # noqa: ARG002, N802
        """Close."""
        self.questions.append(Question(kind, end))
        name = text_of(until_zero(body[1:])[0])
        (self.known.portals if body[:1] == b"P" else self.known.statements).pop(name, None)

    def hidden(self, rest: int, alike: Repeated | None, total: int) -> None:
        """What may be beyond the prefix."""
        markable: list[Question] = []
        if self.bound and rest >= 10:
            self.execute(self.bound[-1][0], total - (alike.number * alike.size if alike else 0))
            if alike and alike.synced:
                self.questions.append(Question("S"))
            if rest >= 33:
                markable = self.questions[-1:]
        elif self.fresh and rest >= 23 + len(self.fresh[-1][0]):
            _, _, shown = self.fresh.pop()
            self.questions.append(Question("E", total, shown, maybe=True))
            markable = self.questions[-1:]
        elif rest >= 23:
            markable = [question for question in self.questions if question.shown][-1:]
        if alike:
            shown = self.like_the_last(alike.number)
            self.questions.append(Question("E", total, shown, more=min(alike.number, 16384), alike=alike))
            self.known.alike = alike.size, shown, alike.synced
        elif markable:
            self.mark(markable[0])
        self.questions.append(Question("S"))
        self.known.portals.pop("", None)

    def like_the_last(self, number: int) -> Shown:
        """Return what is taken to be executed again: what two were, or the only one, if it is many times."""
        shown = [
            question.shown for question in self.questions if question.kind in ("E", "Q") and question.shown
        ]
        if not shown or shown[-1].text != shown[-2:][0].text or (len(shown) == 1 and number < 4):
            return Shown("PostgreSQL Query: …", cut=True)
        last = deepcopy(shown[-1])
        last.text, last.cut = f"{last.text}".rstrip("…") + "…", True
        return last

    def mark(self, question: Question) -> None:
        """Something of it may be hidden."""
        question.shown = deepcopy(question.shown)
        assert question.shown
        question.shown.cut = True

    def show_one(self, messages: list[Part]) -> None:
        """Of a request with nothing to execute, the most telling message is shown."""
        for kind, label in ("B", "Bind"), ("D", "Describe"), ("C", "Close"):
            for found, body, _, _ in messages:
                if found != kind:
                    continue
                question = next(question for question in self.questions if question.kind == kind)
                question.shown = self.about(kind, label, body)
                return

    def about(self, kind: str, label: str, body: bytes) -> Shown:
        """Return what a message about a statement or portal shows."""
        if kind == "B":
            name, known = text_of(until_zero(until_zero(body)[1])[0]), self.known.statements
        else:
            name = text_of(until_zero(body[1:])[0])
            known = self.known.portals if body[:1] == b"P" else self.known.statements
        shown = known.get(name)
        if shown and shown.query is not None:
            return shown.labelled(label)
        return Shown(f"PostgreSQL {label}" + (f": {name}" if name else ""), None, label.upper())

    def share(self, total: int) -> None:
        """Bytes up to the end of each that is shown are its own, the rest the last one's."""
        shown = [question for question in self.questions if question.shown]
        at = 0
        for question in shown:
            question.request_bytes = (total if question is shown[-1] else question.end) - at
            at += question.request_bytes


class Follower:
    """One turn on one connection."""

    def __init__(self, known: Known, slot: dict[str, Any], request: bytes, response: bytes) -> None:
        self.known, self.slot, self.request, self.response = known, slot, request, response
        self.rows: list[dict[str, Any]] = []
        self.given = 0

    def has(self, flag: Flag) -> bool:
        """Whether the slot has a flag."""
        return bool(self.slot["flags"] & flag)

    def follow(self) -> list[dict[str, Any]]:
        """Return the rows of the turn."""
        known = self.known
        self.give_up_what_is_lost()
        farewell = None
        if self.slot["request_bytes"] and not self.has(Flag.CONTINUED):
            farewell = self.ask()
        if self.slot["response_bytes"]:
            self.take_response()
        if self.slot["kind"] == Kind.OPEN:
            known.questions = [question for question in known.questions if not question.alike]
            self.end_all(Reply())
            return [row for row in self.rows if row["shown"]]
        if self.has(Flag.CLOSED):
            self.end_all(Reply(error=True))
        if farewell:
            self.row(farewell, Reply(), farewell.response_bytes, answered=False)
        known.turn, known.idle = self.slot["turn"], self.has(Flag.IDLE)
        while len(known.questions) > MOST:
            del known.questions[0]
        if known.idle:
            questions, ended = known.questions, len(self.rows)
            known.questions = [question for question in questions if not question.alike]
            self.end_all(Reply())
            known.questions = questions
            self.rows[ended:] = [row | {"paused": True} for row in self.rows[ended:]]
        return self.rows

    def give_up_what_is_lost(self) -> None:
        """Answers that cannot come any more."""
        known = self.known
        if not known.questions:
            return
        first = known.questions[0]
        expected = known.turn if self.has(Flag.CONTINUED) else known.turn + 1
        stays = first.copying or first.is_startup()
        broke_off = known.idle and not self.has(Flag.CONTINUED) and not stays
        if self.slot["turn"] != expected or broke_off or not any(one.shown for one in known.questions):
            self.give_up()

    def give_up(self) -> None:
        """Wait for nothing any more."""
        self.end_all(Reply(cut=True))
        self.known.failed = False

    def end_all(self, reply: Reply) -> None:
        """End all questions with no answer."""
        for question in self.known.questions:
            if question.shown:
                self.row(question, reply, question.response_bytes, answered=False)
        self.known.questions = []

    def ask(self) -> Question | None:
        """Add the request's questions; return one that has no answer."""
        known, total = self.known, self.slot["request_bytes"]
        start = begin(self.request, total) if known.astray else 0
        request = self.request[start or 0 :]
        if known.questions and start is not None:
            first = known.questions[0]
            found = [] if request[:1] == b"\0" else split(request, total - start, REQUESTS)[0]
            kind = found[0][0] if found else ""
            no_start = request[:1] != b"\0" or startup(request, total) is None
            if (first.kind == "login" and kind == "p") or (
                first.kind != "login" and first.copying and no_start and kind in ("", *"dcfHS")
            ):
                first.request_bytes += total
                return None
            if first.copying or first.is_startup():
                self.give_up()
        questions = self.more(total) if start is None else Asking(known).read(request, total - start)
        known.astray |= start is None or any(question.alike for question in questions)
        for question in questions:
            question.request_first_ns = self.slot["request_first_ns"]
            question.queue_ns = self.slot["queue_ns"]
        farewell = questions.pop() if questions and questions[-1].kind in ("X", "cancel") else None
        known.questions += questions
        return farewell

    def more(self, total: int) -> list[Question]:
        """Return what a request holds that begins and ends in the midst of what is repeated."""
        if not self.known.alike or total <= len(self.request):
            return []
        size, shown, synced = self.known.alike
        alike = going_on(size, total, synced=synced)
        if not alike:
            return []
        number = min(alike.number, 16384)
        return [Question("E", total, shown, request_bytes=total, more=number, alike=alike), Question("S")]

    def recount(self, messages: tuple[replies.Message, ...]) -> None:
        """Take the number of hidden statements from their answers."""
        estimates = [one for one in self.known.questions if one.alike and not one.alike.exact]
        count = answered(messages, self.slot["response_bytes"])
        if len(estimates) != 1 or count is None:
            return
        count -= len([one for one in self.known.questions if one.kind == "E" and not one.alike])
        if estimates[0].more // 2 <= count <= 2 * estimates[0].more + 1:
            estimates[0].more = min(count, 16384)

    def take_response(self) -> None:
        """Go over the response."""
        known, total = self.known, self.slot["response_bytes"]
        if total == 1:
            messages: list[Part] = [("!", self.response, False, 1)] if self.response else []
            rest, odd = total - len(messages), False
        else:
            messages, rest, odd = split(self.response, total, RESPONSES)
            at = total - rest
            if rest == 6 and not odd and self.response[at : at + 1] in (b"", b"Z"):
                messages.append(("Z", b"", True, total))
                rest = 0
        for kind, body, is_cut, end in messages:
            self.take(kind, body, end, is_cut=is_cut, odd=odd)
        if rest:
            self.recount(replies.read_response(self.response, total).messages)
            self.take_hidden()
        left = total - self.given
        if self.given:
            self.rows[-1]["response_bytes"] += left
        elif known.questions:
            known.questions[0].response_bytes += left

    def take(  # noqa: C901
        self, kind: str, body: bytes, end: int, *, is_cut: bool, odd: bool
    ) -> None:
        """Take a message."""
        questions = self.known.questions
        startup_waits = bool(questions) and questions[0].is_startup()
        if kind == "A":
            channel, _, ended = until_zero(body[4:])
            unfinished = is_cut and not ended
            fits = re.fullmatch(rb"[^\0-\x1f\x7f]{0,63}", channel) and (bool(channel) if ended else is_cut)
            if not odd and fits:
                text = f"PostgreSQL Notification: {text_of(channel, unfinished=unfinished)}"
                self.unasked(Reply(text, cut=unfinished), end)
        elif kind == "E":
            self.fail(body, end, is_cut=is_cut, odd=odd)
        elif kind == "N":
            severity, code, message, unfinished = notice(body, is_cut=is_cut)
            about = [question for question in questions if question.shown]
            if about:
                about[0].notices.append(said(severity, code, message))
                about[0].cut = about[0].cut or unfinished
        elif kind == "Z" and not startup_waits:
            self.ready(end)
        elif questions and questions[0].kind == "login":
            self.let_in(kind, body, end)
        elif startup_waits:
            if kind == "!":
                accepted = body == {"tls": b"S", "gss": b"G"}[questions[0].kind]
                self.known.opaque = accepted
                self.finish(Reply(f"PostgreSQL Response: {'Accepted' if accepted else 'Refused'}"), end)
        elif questions:
            self.answer(kind, body, end, is_cut=is_cut)

    def let_in(self, kind: str, body: bytes, end: int) -> None:
        """Follow a login."""
        if kind == "R" and len(body) >= 4 and number(body[:4]) == 0:
            self.known.questions[0].let_in = True
        elif self.known.questions[0].let_in and kind in "SKZ":
            self.logged_in(end)

    def logged_in(self, end: int) -> None:
        """End a login."""
        self.known.database = self.known.questions[0].database
        self.finish(Reply("PostgreSQL Response: OK"), end)

    def answer(  # noqa: C901
        self, kind: str, body: bytes, end: int, *, is_cut: bool
    ) -> None:
        """Take a message that answers the first question, if it does."""
        first = self.known.questions[0]
        if first.alike:
            first = one_of(first)
            self.known.questions.insert(0, first)
        if first.kind not in ("Q", "E", "F"):
            if kind in {"P": "1", "B": "2", "C": "3", "D": "Tn"}.get(first.kind, ""):
                self.known.failed = False
                self.finish(first.answer(ended=True), end)
                if kind == "T" and self.known.questions:
                    self.describe(self.known.questions[0], body)
            return
        if kind not in "CIsVTDdHGW":
            return
        self.known.failed = False
        if kind == "W":
            self.finish(Reply("PostgreSQL Response: Copy both"), end)
        elif kind == "T":
            self.describe(first, body)
        elif kind == "D":
            first.result = first.result if first.result.startswith("Result") else "Rows"
        elif kind in "dH":
            first.result = first.result if first.result.startswith("Result") else "Copied rows"
        elif kind == "G":
            first.copying = True
            if first.kind == "E":
                self.drop_sync()
        else:
            self.end_result(first, kind, body, end, is_cut=is_cut)

    def describe(self, question: Question, body: bytes) -> None:
        """Take the description of a result."""
        columns = number(body[:2]) if len(body) >= 2 else None
        plural = "" if columns == 1 else "s"
        question.result = "" if columns is None else f"Result set, {columns} column{plural}"

    def drop_sync(self) -> None:
        """What was sent behind the Execute of a COPY is not looked at, up to the Sync."""
        questions = self.known.questions
        kinds = [question.kind for question in questions]
        if "S" in kinds:
            del questions[1 : kinds.index("S") + 1]

    def end_result(self, first: Question, kind: str, body: bytes, end: int, *, is_cut: bool) -> None:
        """Take the end of a result."""
        if kind != "V":
            tag, _, ended = until_zero(body)
            unfinished = is_cut and not ended and kind == "C"
            first.tags.append(
                (text_of(tag, unfinished=unfinished) if kind == "C" else "") or ENDS_RESULT[kind]
            )
            first.cut = first.cut or unfinished
        first.result, first.copying = "", False
        if first.kind == "E":
            self.finish(first.answer(ended=True), end)

    def ready(self, end: int) -> None:
        """All up to the next Sync is done."""
        failed, self.known.failed = self.known.failed, False
        while self.known.questions:
            first = self.known.questions[0]
            if first.kind == "S":
                del self.known.questions[0]
                break
            if first.alike:
                if first.alike.synced is not False and first.more and end < self.slot["response_bytes"]:
                    break
                if first.alike.synced or not failed:
                    del self.known.questions[0]
                    continue
            if failed:
                self.restore([first])
                reply = skipped()
            elif first.kind in ("Q", "F"):
                reply = first.answer(ended=True)
            elif first.maybe and first.shown:
                first.shown = first.shown.labelled("Prepare")
                reply = Reply("PostgreSQL Response: OK")
            else:
                reply = Reply(cut=True)
            self.finish(reply, end)

    def fail(self, body: bytes, end: int, *, is_cut: bool, odd: bool) -> None:
        """An error ends all up to the next Sync."""
        severity, code, message, unfinished = notice(body, is_cut=is_cut)
        text = f"PostgreSQL Response: {said(severity, code, message)}"
        reply = Reply(text, error=True, code=code, message=message, cut=unfinished)
        failed = []
        while self.known.questions and self.known.questions[0].kind != "S":
            failed.append(self.known.questions.pop(0))
        if failed and failed[-1].alike:
            others = failed.pop()
            if not any(question.shown for question in failed):
                failed.append(one_of(others))
            if others.alike and others.alike.synced:
                self.known.questions.insert(0, others)
            else:
                failed.append(others)
        self.known.failed = bool(failed) and not failed[0].is_startup()
        self.restore(failed)
        shown = [question for question in failed if question.shown]
        if not shown and not odd and code and severity in ("ERROR", "FATAL", "PANIC"):
            self.unasked(reply, end)
        for question in shown:
            self.give(question, reply, end)
            reply = skipped()

    def restore(self, failed: list[Question]) -> None:
        """Statements that were not parsed after all."""
        for question in reversed(failed):
            if question.kind == "P" and question.name:
                self.known.statements.pop(question.name, None)
                if question.replaced:
                    self.known.statements[question.name] = question.replaced

    def take_hidden(self) -> None:
        """The rest was not captured."""
        self.known.failed = False
        total = self.slot["response_bytes"]
        if self.known.questions and self.known.questions[0].is_startup():
            if self.known.questions[0].let_in:
                self.logged_in(total)
            return
        while self.known.questions:
            self.finish(self.known.questions[0].answer(ended=False), total)

    def finish(self, reply: Reply, end: int) -> None:
        """End the first question."""
        self.give(self.known.questions.pop(0), reply, end)

    def give(self, question: Question, reply: Reply, end: int) -> None:
        """Give a question its reply, and the bytes up to its end."""
        if question.shown and not (question.alike and not question.more):
            self.row(question, reply, question.response_bytes + end - self.given, answered=True)
            self.given = end
            gone = re.fullmatch("DEALLOCATE ([a-z0-9_]{1,39})", question.shown.query or "")
            if question.kind == "Q" and gone and not reply.error:
                self.known.statements.pop(gone[1], None)

    def row(self, question: Question, reply: Reply, response_bytes: int, *, answered: bool) -> None:
        """Add a row."""
        database = question.database if question.kind == "login" else self.known.database
        slot = self.slot
        stamps = (slot["response_first_ns"], slot["response_last_ns"]) if answered else (0, 0)
        count = question.more if question.alike else 1
        for number in range(count):
            self.add(question.shown, reply, database, (question.request_first_ns, question.queue_ns, *stamps))
            rest = number == count - 1
            self.rows[-1] |= {
                "request_bytes": share_of(question.request_bytes, count, rest=rest),
                "response_bytes": share_of(response_bytes, count, rest=rest),
            }

    def unasked(self, reply: Reply, end: int) -> None:
        """Add a row of what a server says by itself."""
        last = self.slot["response_last_ns"]
        self.add(None, reply, self.known.database, (0, 0, last, last))
        self.rows[-1] |= {"request_bytes": 0, "response_bytes": end - self.given}
        self.given = end

    def add(
        self, shown: Shown | None, reply: Reply, database: str | None, stamps: tuple[int, int, int, int]
    ) -> None:
        """Add a row without byte counts."""
        names = ("request_first_ns", "queue_ns", "response_first_ns", "response_last_ns")
        self.rows.append(
            {"row": self.slot["row"], "shown": shown, "reply": reply, "database": database}
            | dict(zip(names, stamps, strict=True))
        )


def share_of(size: int, count: int, *, rest: bool) -> int:
    """Return an equal share of bytes; one has the rest."""
    return size // count + (size % count if rest else 0)


def one_of(others: Question) -> Question:
    """Take one of those that a question stands for."""
    more = max(others.more, 1)
    one = replace(others, more=0, alike=None, tags=[], notices=[], request_bytes=others.request_bytes // more)
    others.more, others.request_bytes = more - 1, others.request_bytes - one.request_bytes
    return one


def skipped() -> Reply:
    """Return the reply to what comes behind an error."""
    return Reply("PostgreSQL Response: Skipped after an error", error=True)


def notice(body: bytes, *, is_cut: bool) -> tuple[str, str | None, str | None, bool]:
    """Return severity, code, message, and whether the message is not whole."""
    fields = body.split(b"\0")
    last = fields.pop()
    values: dict[bytes, bytes] = {}
    for one in fields:
        values.setdefault(one[:1], one[1:])
    severity = text_of(values.get(b"V", values.get(b"S", b"ERROR")))
    code = values.get(b"C", b"")
    sqlstate = code.decode("latin-1") if re.fullmatch(rb"[0-9A-Z]{5}", code) else None
    if b"M" in values:
        return severity, sqlstate, text_of(values[b"M"]), False
    if not is_cut:
        return severity, sqlstate, None, False
    return severity, sqlstate, text_of(last[1:], unfinished=True) if last[:1] == b"M" else None, True


def said(severity: str, code: str | None, message: str | None) -> str:
    """Return a notice or an error in one line."""
    text = severity if code in (None, "00000") else f"{severity} {code}"
    return f"{text}: {message}" if message else text


class Reference:
    """Follows all connections, as the parser does."""

    def __init__(self) -> None:
        self.known: dict[int, Known] = {}
        self.encrypted: set[int] = set()
        self.opaque: list[int] = []
        self.paused: list[bool] = []

    def parse(self, slots: np.ndarray) -> list[tuple[object, ...]]:
        """Return rows in the order of `rows_of`."""
        self.opaque, self.paused = [], []
        rows: list[tuple[object, ...]] = []
        for place, slot in enumerate(slots):
            cookie = int(slot["cookie"])
            known = self.known.setdefault(cookie, Known())
            if cookie in self.encrypted:
                continue
            values: dict[str, Any] = {name: int(slot[name]) for name in (*BASE, "kind", "flags", "turn")}
            sides = [slot[side].tobytes()[: int(slot[f"{side}_length"])] for side in ("request", "response")]
            used = deepcopy(known) if values["kind"] == Kind.OPEN else known
            found = Follower(used, values | {"row": place}, *sides).follow()
            rows += [visible(one) for one in found]
            self.paused += [one.get("paused", values["kind"] == Kind.OPEN) for one in found]
            if used is known and used.opaque:
                self.encrypted.add(cookie)
                self.opaque.append(cookie)
        return rows


def visible(row: dict[str, Any]) -> tuple[object, ...]:
    """Return a row as columns show it."""
    shown, reply = row["shown"] or Shown(), row["reply"]
    return (
        row["row"],
        shown.text,
        reply.text,
        reply.error,
        shown.cut or reply.cut,
        "postgresql",
        shown.query,
        shown.summary,
        shown.operation,
        row["database"],
        reply.code,
        reply.message,
        *(row[name] for name in BASE),
    )


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    parser, reference = PROTOCOL(), Reference()
    for slots in batches:
        parsed, expected = parser.parse(slots), reference.parse(slots)
        assert rows_of(slots, parsed) == expected
        in_flight = (slots["kind"] == Kind.OPEN)[parsed.rows]
        still_open = in_flight if parsed.still_open is None else parsed.still_open
        assert still_open.tolist() == reference.paused
        assert sorted(parsed.opaque) == sorted(reference.opaque)
