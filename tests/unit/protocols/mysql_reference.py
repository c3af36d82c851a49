"""MySQL turn by turn in obvious code: what the column parser must equal.

No regular expressions, no caches, no columns. Below, what holds the two equal.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.mysql import PROTOCOL
from masdeepflow.redact import summarize_sql
from masdeepflow.schema import Flag, Kind, Role
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.table import Attribute, Parsed

LABELS = {
    0x01: "Quit",
    0x02: "Init DB",
    0x03: "Query",
    0x04: "Field List",
    0x05: "Create DB",
    0x06: "Drop DB",
    0x07: "Refresh",
    0x08: "Shutdown",
    0x09: "Statistics",
    0x0A: "Process Info",
    0x0C: "Process Kill",
    0x0D: "Debug",
    0x0E: "Ping",
    0x11: "Change User",
    0x12: "Binlog Dump",
    0x13: "Table Dump",
    0x15: "Register Replica",
    0x16: "Prepare",
    0x17: "Execute",
    0x18: "Send Long Data",
    0x19: "Close Statement",
    0x1A: "Reset Statement",
    0x1B: "Set Option",
    0x1C: "Fetch",
    0x1E: "Binlog Dump GTID",
    0x1F: "Reset Connection",
    0x20: "Clone",
    0x21: "Subscribe Group Replication Stream",
    0xFA: "Bulk Execute",
}
OPERATIONS = {code: label.upper().replace(" ", "_") for code, label in LABELS.items()} | {
    0x15: "REGISTER_SLAVE",
    0x16: "STMT_PREPARE",
    0x17: "STMT_EXECUTE",
    0x18: "STMT_SEND_LONG_DATA",
    0x19: "STMT_CLOSE",
    0x1A: "STMT_RESET",
    0x1C: "STMT_FETCH",
    0xFA: "STMT_BULK_EXECUTE",
}
UNANSWERED_CODES = (0x01, 0x18, 0x19)
RESULT_CODES = (0x03, 0x0A, 0x17, 0xFA)
EVENT_CODES = (0x12, 0x13, 0x1E, 0x20)
LAST = 0xFFFFFFFF
BASE = (
    "request_first_ns",
    "queue_ns",
    "request_bytes",
    "response_bytes",
    "response_first_ns",
    "response_last_ns",
)


@dataclass
class Command:
    """A command as it is shown. kind: what answers it. namespace: the database it names."""

    code: int
    kind: str
    text: str | None = None
    operation: str | None = None
    query: str | None = None
    summary: str | None = None
    namespace: str | None = None
    cut: bool = False
    statement: int | None = None


@dataclass
class Reply:
    """A reply as it is shown. end: where it ends in the response, None where that is hidden."""

    what: str
    text: str | None = None
    code: str | None = None
    message: str | None = None
    cut: bool = False
    end: int | None = None


@dataclass
class Waiting:
    """A command that goes on in the next turn."""

    command: Command
    capabilities: int
    request_first_ns: int
    queue_ns: int
    request_bytes: int
    response_bytes: int


@dataclass
class Known:
    """A connection. statements: id -> the prepare."""

    system: str = "mysql"
    offered: int | None = None
    namespace: str | None = None
    statements: dict[int, Command] = field(default_factory=dict)
    last: Command | None = None
    waiting: Waiting | None = None
    opaque: bool = False


@dataclass
class Turn:
    """One slot, with the valid bytes only."""

    row: int
    request: bytes
    response: bytes
    fields: dict[str, int]

    def has(self, flag: Flag) -> bool:
        """Whether the slot has a flag."""
        return bool(self.fields["flags"] & flag)


@dataclass
class Transaction:
    """One row of the parser's columns."""

    turn: Turn
    command: Command
    reply: Reply
    system: str
    namespace: str | None
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    queue_ns: int

    def visible(self) -> tuple[object, ...]:
        """Return it as `rows_of` gives the parser's."""
        command, reply, fields = self.command, self.reply, self.turn.fields
        answered = reply.what not in ("none", "unanswered")
        stamps = [fields[name] if answered else 0 for name in ("response_first_ns", "response_last_ns")]
        return (
            self.turn.row,
            command.text,
            reply.text,
            reply.what in ("error", "unanswered"),
            command.cut or reply.cut,
            self.system,
            command.query,
            command.summary,
            command.operation,
            self.namespace,
            reply.code,
            reply.message,
            self.request_first_ns,
            self.queue_ns,
            self.request_bytes,
            self.response_bytes,
            *stamps,
        )


@dataclass
class Packet:
    """A packet whose header, and first byte if it has one, is visible. body: as far as captured."""

    body: bytes
    length: int
    end: int

    @property
    def first(self) -> int:
        """First byte, -1 if there is none."""
        return self.body[0] if self.body else -1

    def number(self, at: int, width: int) -> int:
        """Return an integer, 0 if it is not visible."""
        data = self.body[at : at + width]
        return int.from_bytes(data, "little") if len(data) == width else 0

    def lenenc(self, at: int) -> tuple[int, int]:
        """Return a length-encoded integer and what is behind it."""
        first = self.number(at, 1)
        if first == 0xFC:
            return self.number(at + 1, 2), at + 3
        if first == 0xFD:
            return self.number(at + 1, 3), at + 4
        if first == 0xFE:
            return self.number(at + 1, 8), at + 9
        return first, at + 1

    def is_eof(self) -> bool:
        """Whether it is an EOF packet of before CLIENT_DEPRECATE_EOF."""
        return self.first == 0xFE and self.length == 5

    def more_results(self) -> bool:
        """Whether the status of an OK or EOF packet says so."""
        if self.is_eof():
            return bool(self.number(3, 2) & 8)
        _, at = self.lenenc(1)
        _, at = self.lenenc(at)
        return bool(self.number(at, 2) & 8)


def packets(data: bytes, at: int) -> list[Packet]:
    """Return the visible packets from `at` on, as long as their sequence numbers follow one another."""
    found: list[Packet] = []
    sequence = None
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 3], "little")
        if length and at + 4 == len(data):
            break
        if sequence is not None and data[at + 3] != sequence % 256:
            break
        sequence = data[at + 3] + 1
        found.append(Packet(data[at + 4 : at + 4 + length], length, at + 4 + length))
        at += 4 + length
    return found


def text_of(data: bytes, *, cut: bool) -> str:
    """Decode; of a text that was cut, drop the start of a character whose rest is missing."""
    if not cut:
        return data.decode("utf-8", "backslashreplace")
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if 0xC2 <= byte <= 0xF4:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            data = data[:-back] if width > back else data
            break
        if not 0x80 <= byte <= 0xBF:
            break
    return data.decode("utf-8", "backslashreplace") + "…"


# Commands


def read_command(packet: bytes) -> Command | None:
    """Read a packet with its header, as far as captured."""
    length, body = int.from_bytes(packet[:3], "little"), packet[4:]
    if not body or body[0] not in LABELS:
        return None
    code = body[0]
    command = Command(code, answer_of(code), f"MySQL {LABELS[code]}", OPERATIONS[code])
    if code not in DETAILS:
        return command
    command.cut = length > len(body)
    detail = DETAILS[code](command, body[1:])
    if detail or code in ALWAYS_DETAILED:
        command.text = f"{command.text}: {detail}"
    return command


def answer_of(code: int) -> str:
    """Name what a server answers a command with."""
    if code in UNANSWERED_CODES:
        return "nothing"
    if code in RESULT_CODES:
        return "results"
    if code in EVENT_CODES:
        return "events"
    special = {0x04: "columns", 0x09: "text", 0x11: "login", 0x16: "prepared", 0x1C: "rows"}
    return special.get(code, "status")


def fill_statement(command: Command, rest: bytes) -> str:
    """Fill in a statement."""
    sql = text_of(without_attributes(rest) if command.code == 0x03 else rest, cut=command.cut)
    operation, summary = summarize_sql(sql)
    command.query, command.summary = sql, summary or None
    if command.code == 0x03:
        command.operation = operation or "QUERY"
        if operation == "USE" and summary != "USE":
            command.namespace = summary[len("USE ") :]
    return sql


def fill_database(command: Command, rest: bytes) -> str:
    """Fill in the database of COM_INIT_DB, COM_CREATE_DB and COM_DROP_DB."""
    name = text_of(rest, cut=command.cut)
    command.namespace = name if command.code == 0x02 else None
    return name


def fill_table(command: Command, rest: bytes) -> str:
    """Fill in the table of a COM_FIELD_LIST."""
    command.cut = command.cut and b"\0" not in rest
    return text_of(rest.split(b"\0")[0], cut=command.cut)


def fill_thread(command: Command, rest: bytes) -> str:
    """Fill in whom a COM_PROCESS_KILL kills."""
    command.cut = False
    return str(int.from_bytes(rest[:4], "little"))


def fill_option(command: Command, rest: bytes) -> str:
    """Fill in the option of a COM_SET_OPTION."""
    command.cut = False
    return "multi statements off" if rest[:1] == b"\1" else "multi statements on"


def fill_binlog(command: Command, rest: bytes) -> str:
    """Fill in where a COM_BINLOG_DUMP starts."""
    return f"{text_of(rest[10:], cut=command.cut)}:{int.from_bytes(rest[:4], 'little')}"


def fill_id(command: Command, rest: bytes) -> str:
    """Fill in the id of a prepared statement."""
    command.cut = False
    command.statement = int.from_bytes(rest[:4], "little")
    name = "last" if command.statement == LAST else str(command.statement)
    return name if command.code in (0x19, 0x1A) else f"statement {name}"


def fill_change_user(command: Command, rest: bytes) -> str:
    """Fill in user and database of a COM_CHANGE_USER."""
    user, _, rest = rest.partition(b"\0")
    database, whole = b"", False
    if rest:
        behind = rest[1 + rest[0] :]
        database, whole = behind.split(b"\0")[0], b"\0" in behind
    command.cut = command.cut and not whole
    return fill_user(command, user, database)


def fill_user(command: Command, user: bytes, database: bytes) -> str:
    """Fill in who logs in."""
    command.namespace = text_of(database, cut=command.cut) if database else None
    return text_of(user + (b"@" + database if database else b""), cut=command.cut)


DETAILS: dict[int, Callable[[Command, bytes], str]] = {
    0x02: fill_database,
    0x03: fill_statement,
    0x04: fill_table,
    0x05: fill_database,
    0x06: fill_database,
    0x0C: fill_thread,
    0x11: fill_change_user,
    0x12: fill_binlog,
    0x16: fill_statement,
    0x17: fill_id,
    0x18: fill_id,
    0x19: fill_id,
    0x1A: fill_id,
    0x1B: fill_option,
    0x1C: fill_id,
    0xFA: fill_id,
}
ALWAYS_DETAILED = (0x03, 0x11, 0x16)


def without_attributes(rest: bytes) -> bytes:
    """Drop the query attributes; all of it where they are cut."""
    if len(rest) < 2 or rest[1] != 1:
        return rest
    if rest[0] == 0:
        return rest[2:]
    try:
        return rest[attributes_end(rest) :]
    except IndexError:
        return b""


def attributes_end(rest: bytes) -> int:
    """Return where the statement starts. Raises IndexError where that is cut."""
    count = rest[0]
    nulls = [bool(rest[2 + number // 8] >> number % 8 & 1) for number in range(count)]
    at = 2 + (count + 7) // 8 + 1
    kinds = []
    for _ in range(count):
        kinds.append(rest[at])
        at = string_end(rest, at + 2)
    widths = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 0, 8: 8, 9: 4, 13: 2}
    for kind, null in zip(kinds, nulls, strict=True):
        if not null:
            at = at + widths[kind] if kind in widths else string_end(rest, at)
    return at


def string_end(data: bytes, at: int) -> int:
    """Return where a length-encoded string ends. Raises IndexError where its length is cut."""
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[at], 0)
    if not width:
        return at + 1 + data[at]
    number = [data[at + 1 + place] for place in range(width)]
    return at + 1 + width + int.from_bytes(bytes(number), "little")


def on_statement(command: Command, prepare: Command | None) -> Command:
    """Show the statement of a command on one, if it is known."""
    if prepare is None or command.code not in (0x17, 0x1C, 0xFA):
        return command
    operation = summarize_sql(prepare.query or "")[0] or "STMT_EXECUTE"
    return Command(
        command.code,
        command.kind,
        f"MySQL {LABELS[command.code]}: {prepare.query}",
        "STMT_FETCH" if command.code == 0x1C else operation,
        prepare.query,
        prepare.summary,
        cut=prepare.cut,
    )


# Replies


def read_reply(kind: str, response: bytes, at: int) -> Reply:
    """Read the reply that starts at `at`."""
    visible = packets(response, at)
    while visible and visible[0].body.startswith(b"\xff\xff\xff"):
        del visible[0]
    if kind == "login":
        return read_login_reply(visible)
    if not visible:
        return Reply("unseen", cut=True)
    if visible[0].first == 0xFF:
        return error_of(visible[0])
    readers = {
        "results": read_results,
        "prepared": read_prepared,
        "columns": read_columns,
        "rows": read_rows,
        "text": read_text,
        "events": read_events,
        "status": read_status,
    }
    return readers[kind](visible)


def read_columns(visible: list[Packet]) -> Reply:
    """Read the reply to a COM_FIELD_LIST."""
    return read_until_eof(visible, "MySQL Response: Columns")


def read_rows(visible: list[Packet]) -> Reply:
    """Read the reply to a COM_STMT_FETCH."""
    return read_until_eof(visible, "MySQL Response: Rows")


def read_text(visible: list[Packet]) -> Reply:
    """Read the reply to a COM_STATISTICS."""
    first = visible[0]
    cut = first.length > len(first.body)
    return Reply("text", f"MySQL Response: {text_of(first.body, cut=cut)}", cut=cut, end=first.end)


def read_events(visible: list[Packet]) -> Reply:
    """Read the reply to a COM_BINLOG_DUMP."""
    return Reply("events", "MySQL Response: Events") if visible[0].first == 0 else read_status(visible)


def read_status(visible: list[Packet]) -> Reply:
    """Read a reply of one packet."""
    return status_of(visible[0])


def error_of(packet: Packet) -> Reply:
    """Show an ERR packet."""
    cut = packet.length > len(packet.body)
    code, text = str(int.from_bytes(packet.body[1:3], "little")), packet.body[3:]
    shown = code
    state = text[1:6]
    if (
        text[:1] == b"#"
        and len(state) == 5
        and all(byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" for byte in state)
    ):
        shown, text = f"{code} ({state.decode()})", text[6:]
    message = text_of(text, cut=cut)
    return Reply("error", f"MySQL Response: ERR {shown}: {message}", code, message, cut, packet.end)


def status_of(packet: Packet) -> Reply:
    """Show an OK or EOF packet."""
    if packet.first == 0:
        return Reply("ok", "MySQL Response: OK", end=packet.end)
    if packet.first == 0xFE:
        return Reply("eof", "MySQL Response: EOF", end=packet.end)
    return Reply("unseen", cut=True, end=packet.end)


def read_results(visible: list[Packet]) -> Reply:
    """Read one or more results; the first is shown, unless one is an error."""
    shown: Reply | None = None
    while visible:
        if visible[0].first == 0xFF:
            return error_of(visible[0])
        reply, more, visible = read_result(visible)
        if reply.what == "error":
            return reply
        shown = shown or reply
        shown.end = reply.end
        if not more:
            return shown
    assert shown is not None
    shown.end = None
    return shown


def read_result(visible: list[Packet]) -> tuple[Reply, bool, list[Packet]]:
    """Return a result, whether another follows, and the packets behind it."""
    first = visible[0]
    if first.first == 0 and first.length not in (2, 4):
        return status_of(first), first.more_results(), visible[1:]
    if first.first == 0xFE:
        return status_of(first), False, visible[1:]
    if first.first == 0xFB:
        return Reply("file", "MySQL Response: Request for a local file", end=first.end), False, visible[1:]
    return read_set(visible)


def read_set(visible: list[Packet]) -> tuple[Reply, bool, list[Packet]]:
    """Read a result set: definitions, an EOF perhaps, rows, an EOF or OK packet."""
    columns, defined = column_count(visible[0])
    reply = Reply("set", f"MySQL Response: Result set, {columns} column" + ("" if columns == 1 else "s"))
    hidden = reply, True, list[Packet]()
    definitions = min(columns, len(visible)) if defined else 0
    for packet in visible[1 : 1 + definitions]:
        if packet.first == 0xFF:
            return error_of(packet), False, []
    rest = visible[1 + definitions :]
    if not rest:
        return hidden
    if rest[0].is_eof():
        if rest[0].number(3, 2) & 0x40:
            reply.end = rest[0].end
            return reply, False, rest[1:]
        rest = rest[1:]
    for place, packet in enumerate(rest):
        if packet.first == 0xFF:
            return error_of(packet), False, []
        if packet.first == 0xFE:
            reply.end = packet.end
            return reply, packet.more_results(), rest[place + 1 :]
    return hidden


def column_count(packet: Packet) -> tuple[int, bool]:
    """Return how many columns there are and whether their definitions follow."""
    columns, at = packet.lenenc(0)
    if at == packet.length:
        return columns, True
    flag = packet.number(at, 1)
    if columns > 1 or (columns == 1 and flag in (0, 1)):
        return columns, flag != 0
    return packet.lenenc(at)[0], columns == 1


def read_prepared(visible: list[Packet]) -> Reply:
    """Read the reply to a prepare."""
    first = visible.pop(0)
    if first.first != 0 or first.length < 12:
        return Reply("unseen", cut=True, end=first.end)
    end = first.end
    for definitions in (first.number(7, 2), first.number(5, 2)):
        for _ in range(definitions):
            if not visible:
                return Reply("ok", "MySQL Response: OK")
            end = visible.pop(0).end
        if definitions and visible and visible[0].is_eof():
            end = visible.pop(0).end
    return Reply("ok", "MySQL Response: OK", end=end)


def read_until_eof(visible: list[Packet], text: str) -> Reply:
    """Read definitions or rows."""
    if visible[0].first == 0xFE:
        return status_of(visible[0])
    for packet in visible[1:]:
        if packet.first == 0xFF:
            return error_of(packet)
        if packet.first == 0xFE:
            return Reply("packets", text, end=packet.end)
    return Reply("packets", text)


def read_login_reply(visible: list[Packet]) -> Reply:
    """Read what ends a login, or what asks for more."""
    for packet in visible:
        if packet.first == 0xFF:
            return error_of(packet)
        if packet.first == 0:
            return status_of(packet)
    return Reply("more")


# The connection phase


def read_greeting(turn: Turn) -> Known | None:
    """Return the connection that a greeting starts."""
    body = only_packet(turn, (0,))
    version, nul, rest = body[1:].partition(b"\0")
    readable = nul and 1 <= len(version) <= 99 and all(0x20 <= byte <= 0x7E for byte in version)
    if not readable or len(rest) < 12 or 0 in rest[4:12]:
        return None
    system = "mariadb" if b"mariadb" in version.lower() else "mysql"
    if body[0] == 10:
        offered = read_offer(rest[12:])
    else:
        offered = 0 if body[0] == 9 and rest[12:] in (b"", b"\0") else None
    return None if offered is None else Known(system, offered)


def read_offer(behind: bytes) -> int | None:
    """Return a server's capabilities from what is behind the salt, None if that is no greeting's."""
    if len(behind) < 3 or behind[0]:
        return None
    if len(behind) == 3:
        return int.from_bytes(behind[1:3], "little")
    if len(behind) < 15 or behind[9:15] != bytes(6):
        return None
    return int.from_bytes(behind[1:3] + behind[6:8], "little")


def is_refusal(turn: Turn) -> bool:
    """Whether an ERR packet stands in the greeting's place."""
    body = only_packet(turn, (0, 1))
    if body[:1] != b"\xff" or not 1000 <= int.from_bytes(body[1:3], "little") < 5000:
        return False
    return len(body) >= 7 and all(byte >= 0x20 and byte != 0x7F for byte in body[3:])


def only_packet(turn: Turn, sequences: tuple[int, ...]) -> bytes:
    """Return the body of the packet that is all of a response."""
    data = turn.response
    if len(data) < 5 or int.from_bytes(data[:3], "little") + 4 != turn.fields["response_bytes"]:
        return b""
    return data[4:] if data[3] in sequences else b""


def read_login(packet: bytes) -> tuple[Command | None, int]:
    """Return the login (None: a request for TLS) and its capabilities; -1 if it is none."""
    length, body = int.from_bytes(packet[:3], "little"), packet[4:]
    modern = bool(int.from_bytes(body[:2], "little") & 0x200)
    capabilities = int.from_bytes(body[: 4 if modern else 2], "little")
    if modern and (len(body) < 28 or any(body[9:28])):
        return None, -1
    if capabilities & 0x800 and length == (32 if modern else 5):
        return None, capabilities
    command = Command(0, "login", None, "LOGIN")
    user, nul, rest = body[32 if modern else 5 : length].partition(b"\0")
    database = b""
    if modern:
        whole = bool(nul)
        if nul and capabilities & 8:
            behind = rest[auth_end(rest, capabilities) :]
            database, whole = behind.split(b"\0")[0], b"\0" in behind
        command.cut = not whole and length > len(body)
    elif not nul or not all(0x20 <= byte <= 0x7E for byte in user):
        return None, -1
    elif capabilities & 8 and 0 in rest:
        database = rest.split(b"\0")[1]
    command.text = "MySQL Login: " + fill_user(command, user, database)
    return command, capabilities


def auth_end(rest: bytes, capabilities: int) -> int:
    """Return where the authentication data ends."""
    if capabilities & (1 << 21 | 1 << 15):
        width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(rest[0], 0) if rest and capabilities & 1 << 21 else 0
        number = rest[1 : 1 + width] if width else rest[:1]
        return 1 + width + int.from_bytes(number, "little")
    return rest.index(0) + 1 if 0 in rest else len(rest)


class Reference:
    """Follows connections. opaque: cookies that became opaque with the last batch."""

    def __init__(self) -> None:
        """Start with no connections."""
        self.known: dict[int, Known] = {}
        self.opaque: list[int] = []

    def parse(self, slots: np.ndarray) -> list[Transaction]:
        """Return the transactions of a batch."""
        self.opaque = []
        return [found for row, slot in enumerate(slots) for found in self.follow(row, slot)]

    def follow(self, row: int, slot: np.void) -> list[Transaction]:
        """Return the transactions of a slot."""
        sides = [
            slot[side][: min(int(slot[f"{side}_length"]), slot[side].shape[0])].tobytes()
            for side in ("request", "response")
        ]
        names = ("cookie", "kind", "flags", "role", "request_segments", *BASE)
        turn = Turn(row, sides[0], sides[1], {name: int(slot[name]) for name in names})
        cookie, in_flight = turn.fields["cookie"], turn.fields["kind"] == Kind.OPEN
        known = self.known.setdefault(cookie, Known())
        if in_flight:
            return follow(deepcopy(known), turn)
        greeted = None if turn.has(Flag.CONTINUED) else read_greeting(turn)
        if greeted:
            self.known[cookie] = greeted
            return []
        was_opaque = known.opaque
        transactions = follow(known, turn)
        if known.opaque and not was_opaque:
            self.opaque.append(cookie)
        return transactions


def follow(known: Known, turn: Turn) -> list[Transaction]:
    """Return the transactions of a turn, and change what is known."""
    if known.opaque:
        return []
    if turn.has(Flag.CONTINUED) or not turn.fields["request_bytes"]:
        return follow_response(known, turn)
    sequence = turn.request[3] if len(turn.request) > 3 else None
    if sequence == 0 or (sequence is None and not known.waiting):
        return follow_commands(known, turn)
    return follow_waiting(known, known.waiting, turn) if known.waiting else follow_login(known, turn)


def follow_response(known: Known, turn: Turn) -> list[Transaction]:
    """Follow a turn without a request."""
    waiting = known.waiting
    if turn.has(Flag.CONTINUED):
        if waiting and waiting.command.kind == "login":
            end_login(known, waiting, read_reply("login", turn.response, 0))
        return []
    if not is_refusal(turn):
        return []
    refused = waiting_for(Command(0, "status"), turn, 0, 0)
    return go_on(known, refused, error_of(packets(turn.response, 0)[0]), turn)


def follow_login(known: Known, turn: Turn) -> list[Transaction]:
    """Follow the first turn of a login."""
    command, capabilities = read_login(turn.request)
    if capabilities < 0 or turn.request[3] != 1:
        return []
    if command is None:
        known.opaque = True
        return []
    waiting = waiting_for(command, turn, capabilities, 0)
    waiting.response_bytes = 0
    return follow_waiting(known, waiting, turn)


def follow_waiting(known: Known, waiting: Waiting, turn: Turn) -> list[Transaction]:
    """Follow another turn of what goes on."""
    waiting.request_bytes += turn.fields["request_bytes"]
    waiting.response_bytes += turn.fields["response_bytes"]
    return go_on(known, waiting, reply_at(turn, waiting.command.kind, 0), turn)


def waiting_for(command: Command, turn: Turn, capabilities: int, request_bytes: int) -> Waiting:
    """Return a command that may go on, with all of the turn's response."""
    fields = turn.fields
    return Waiting(
        command,
        capabilities,
        fields["request_first_ns"],
        fields["queue_ns"],
        request_bytes,
        fields["response_bytes"],
    )


def reply_at(turn: Turn, kind: str, at: int | None) -> Reply:
    """Return the reply that starts at `at`, None: beyond the prefix."""
    if at is None:
        return Reply("unseen", cut=True)
    if at >= turn.fields["response_bytes"]:
        return Reply("unanswered" if turn.has(Flag.CLOSED) else "none", end=at)
    return read_reply(kind, turn.response, at)


def go_on(known: Known, waiting: Waiting, reply: Reply, turn: Turn) -> list[Transaction]:
    """Wait for the next turn, or end."""
    closed = turn.has(Flag.CLOSED)
    if reply.what in ("more", "file", "none"):
        known.waiting = waiting
        if turn.fields["kind"] == Kind.TURN and not closed:
            return []
        reply = Reply("unanswered" if closed else "none")
    else:
        known.waiting = None
        end_login(known, waiting, reply)
    command = waiting.command
    namespace = command.namespace
    if command.kind != "login" and namespace is None:
        namespace = known.namespace
    return [
        Transaction(
            turn,
            command,
            reply,
            known.system,
            namespace,
            waiting.request_bytes,
            waiting.response_bytes,
            waiting.request_first_ns,
            waiting.queue_ns,
        )
    ]


def end_login(known: Known, waiting: Waiting, reply: Reply) -> None:
    """Take over what a login changes."""
    if reply.what == "more":
        return
    known.waiting = None
    if reply.what != "ok" or waiting.command.kind != "login":
        return
    known.namespace = waiting.command.namespace
    known.statements = {}
    known.last = None
    agreed = waiting.capabilities if known.offered is None else waiting.capabilities & known.offered
    known.opaque = bool(agreed & (1 << 5 | 1 << 26))


def follow_commands(known: Known, turn: Turn) -> list[Transaction]:
    """Follow a turn of commands."""
    if known.waiting:
        end_login(known, known.waiting, Reply("ok"))
        known.waiting = None
        if known.opaque:
            return []
    found, left = split_commands(turn)
    likely = left > 4 and (bool(found) or len(turn.request) < 5)
    replies = Replies(sum(command.kind != "nothing" for command, _ in found) + likely)
    if (
        turn.fields["response_bytes"]
        and turn.response[3:4] not in (b"\1", b"")
        and turn.response[3:5] != b"\0\xff"
    ):
        replies.at, replies.unshared = None, turn.fields["response_bytes"]
    transactions: list[Transaction] = []
    visible: list[tuple[Command, int]] = []
    for command, size in found:
        visible.append((with_statement(known, command), size))
        transactions += exchange(known, turn, visible[-1], replies)
    number = hidden_number(visible, left, turn)
    if not number and (not likely or replies.at == turn.fields["response_bytes"]):
        return transactions
    sizes = [left // (number or 1)] * (number or 1)
    sizes[-1] += left - sum(sizes)
    shown = hidden_commands(known, visible, sizes)
    replies.to_come = sum(command.kind != "nothing" for command in shown)
    for asked in zip(shown, sizes, strict=True):
        transactions += exchange(known, turn, asked, replies)
    return transactions


def hidden_number(visible: list[tuple[Command, int]], left: int, turn: Turn) -> int:
    """Return how many commands there are behind visible ones, 0 where that is not known."""
    if turn.fields["kind"] == Kind.OPEN or left <= 4 or not visible:
        return 0
    sizes = [size for _, size in visible]
    calls = turn.fields["request_segments"] - len(visible) if turn.fields["role"] == Role.CLIENT else 0
    if calls > 0 and max(sizes) <= left * 4 // calls and left // calls <= max(sizes) * 4:
        return min(calls, 16384)
    if (
        len(visible) < 2
        or len({command.code for command, _ in visible}) > 1
        or visible[0][0].kind == "nothing"
    ):
        return 0
    average = sum(sizes) / len(sizes)
    return min(max(int(left / average + 0.5), 1), 16384)


def split_commands(turn: Turn) -> tuple[list[tuple[Command, int]], int]:
    """Return the commands with their sizes, and the bytes left behind them."""
    request, total = turn.request, turn.fields["request_bytes"]
    found: list[tuple[Command, int]] = []
    at = 0
    while len(request) - at >= 5 and request[at + 3] == 0:
        length = int.from_bytes(request[at : at + 3], "little")
        command = read_command(request[at : at + 4 + length])
        if command is None:
            break
        if (
            found
            and command.statement is not None
            and len(request[at : at + min(4 + length, 9)]) < min(4 + length, 9)
        ):
            break
        end = total if length == 0xFFFFFF else min(at + 4 + length, total)
        found.append((command, end - at))
        at += 4 + length if length != 0xFFFFFF else end
    return found, total - min(at, total)


def with_statement(known: Known, command: Command) -> Command:
    """Show the statement, if it is known."""
    if command.statement is None:
        return command
    prepare = known.last if command.statement == LAST else known.statements.get(command.statement)
    return on_statement(command, prepare)


def hidden_commands(known: Known, visible: list[tuple[Command, int]], sizes: list[int]) -> list[Command]:
    """Return the commands behind the prefix: those before them, repeated, if these are alike."""
    shown = Command(0, "results", cut=True)
    if len(visible) > 1 and min(size for _, size in visible) <= 2 * sizes[0] <= 4 * max(
        size for _, size in visible
    ):
        whole = [one for one, _ in visible if not one.cut]
        among = whole if len(whole) > 1 else [one for one, _ in visible]
        last = among[-1]
        if len({(one.code, one.operation, one.summary, id_of(one)) for one in among}) == 1:
            same = len({one.query for one in among}) == 1
            text = last.text if same else "MySQL Query: " if last.code == 0x03 else None
            shown = Command(0, last.kind, text and text.removesuffix("…") + "…", last.operation, cut=True)
            shown.query, shown.summary = last.query if text and same else None, last.summary
    everything = [shown] * len(sizes)
    if visible and visible[-1][0].code == 0x18:
        statement = visible[-1][0].statement or 0
        execute = read_command(b"\5\0\0\0\x17" + statement.to_bytes(4, "little"))
        assert execute is not None
        everything = [visible[-1][0]] * len(sizes)
        everything[-1] = with_statement(known, execute)
        everything[-1].code, everything[-1].cut = 0, True
    return everything


def id_of(command: Command) -> int:
    """Return the statement's id where that is all that is known of a statement."""
    return 0 if command.query is not None else command.statement or 0


@dataclass
class Replies:
    """How far a response has been read. at: where the next reply starts, None where that is hidden."""

    to_come: int
    at: int | None = 0
    unshared: int = 0

    def take(self, turn: Turn, kind: str) -> tuple[Reply, int]:
        """Return the next reply and its bytes."""
        if kind == "nothing":
            return Reply("none"), 0
        self.to_come -= 1
        reply, start, total = reply_at(turn, kind, self.at), self.at, turn.fields["response_bytes"]
        if start is None or start >= total:
            share, self.unshared = self.unshared, 0
            return reply, share
        if not self.to_come:
            self.at = total
            return reply, total - start
        self.at = None if reply.end is None else min(reply.end, total)
        return reply, (total if self.at is None else self.at) - start


def exchange(known: Known, turn: Turn, asked: tuple[Command, int], replies: Replies) -> list[Transaction]:
    """Pair a command with the next reply."""
    command, size = asked
    at, fields = replies.at, turn.fields
    reply, response_bytes = replies.take(turn, command.kind)
    if reply.what in ("more", "file") or command.kind == "login":
        waiting = waiting_for(command, turn, 0, size)
        waiting.response_bytes = response_bytes
        return go_on(known, waiting, reply, turn)
    learn(known, command, turn.response[at:] if at is not None else b"")
    return [
        Transaction(
            turn,
            command,
            reply,
            known.system,
            command.namespace or known.namespace,
            size,
            response_bytes,
            fields["request_first_ns"],
            fields["queue_ns"],
        )
    ]


def learn(known: Known, command: Command, answer: bytes) -> None:
    """Take over what a command changes."""
    accepted = answer[4:5] == b"\0"
    if command.code == 0x16:
        known.last = command
        if accepted and len(answer) >= 9:
            known.statements[int.from_bytes(answer[5:9], "little")] = command
    elif command.code == 0x19 and command.statement is not None:
        known.statements.pop(command.statement, None)
    elif command.code == 0x1F and accepted:
        known.statements = {}
        known.last = None
    elif command.namespace and accepted:
        known.namespace = command.namespace


# What holds parser and reference equal


def rows_of(slots: np.ndarray, parsed: Parsed) -> list[tuple[object, ...]]:
    """Return the parser's columns row by row, in the order of `Transaction.visible`."""
    base = [parsed.base.get(name, slots[name][parsed.rows].astype(np.int64)).tolist() for name in BASE]
    shown = [parsed.request_text.to_list(), parsed.response_text.to_list()]
    flags = [parsed.error.tolist(), parsed.truncated.tolist()]
    attributes = [strings(column) for column in parsed.attributes.values()]
    return list(zip(parsed.rows.tolist(), *shown, *flags, *attributes, *base, strict=True))


def strings(column: Attribute) -> list[str | None]:
    """Return the values of a column, all of which are strings here."""
    assert isinstance(column, Encoded)
    assert len(set(column.values)) == len(column.values)
    return column.to_list()


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    parser, reference = PROTOCOL(), Reference()
    for slots in batches:
        parsed, expected = parser.parse(slots), reference.parse(slots)
        assert rows_of(slots, parsed) == [transaction.visible() for transaction in expected]
        assert sorted(parsed.opaque) == sorted(reference.opaque)
