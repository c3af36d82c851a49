"""Command packets: what each command is called, how it is answered, what a log line shows of it.

Sources: MySQL Source Code Documentation, page_protocol_command_phase and my_command.h; MariaDB Knowledge
Base, "Client/Server Protocol", parts "Text Protocol" and "Binary Protocol". Nothing here raises or keeps
state of connections, whatever the bytes.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.redact import summarize_sql

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COMMANDS",
    "HEADER_BYTES",
    "HIDDEN",
    "LAST_STATEMENT",
    "MAX_LENGTH",
    "ON_STATEMENT",
    "QUERY_LABEL",
    "REFUSED",
    "Answer",
    "Code",
    "Command",
    "Kind",
    "decode",
    "on_known_statement",
    "on_statement",
    "query_command",
    "read_command",
    "read_commands",
    "read_plain_command",
    "shown_text",
    "statement_text",
    "user_command",
]

HEADER_BYTES = 4
"""Of a packet: length (3 bytes, little-endian), sequence number."""
MAX_LENGTH = 0xFFFFFF
"""Length of a packet that the next one continues."""
LAST_STATEMENT = 0xFFFFFFFF
"""MariaDB's statement id for the one prepared last."""

_ELLIPSIS = "…"
_ID_END = HEADER_BYTES + 5
_REMEMBERED = 4096
# The first bytes of a UTF-8 character whose rest is beyond the end.
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")


class Code(enum.IntEnum):
    """First byte of the commands that are more than a name here."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    PROCESS_KILL = 0x0C
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    RESET_CONNECTION = 0x1F
    STMT_BULK_EXECUTE = 0xFA


class Answer(enum.Enum):
    """What a server sends back."""

    NONE = enum.auto()  # nothing
    STATUS = enum.auto()  # one OK, ERR or EOF packet
    RESULTS = enum.auto()  # one or more results: OK, a result set, or a request for a file
    PREPARED = enum.auto()  # a statement id, then definitions of parameters and columns
    COLUMNS = enum.auto()  # definitions of columns, without their count
    ROWS = enum.auto()  # rows of a cursor
    TEXT = enum.auto()  # a string
    EVENTS = enum.auto()  # packets without end
    LOGIN = enum.auto()  # questions of an authentication method, then OK or ERR


class Kind(NamedTuple):
    """label: of the log line. operation: the command's name in the manual, without COM_."""

    label: str
    operation: str
    answer: Answer


COMMANDS: dict[int, Kind] = {
    Code.QUIT: Kind("Quit", "QUIT", Answer.NONE),
    Code.INIT_DB: Kind("Init DB", "INIT_DB", Answer.STATUS),
    Code.QUERY: Kind("Query", "QUERY", Answer.RESULTS),
    Code.FIELD_LIST: Kind("Field List", "FIELD_LIST", Answer.COLUMNS),
    Code.CREATE_DB: Kind("Create DB", "CREATE_DB", Answer.STATUS),
    Code.DROP_DB: Kind("Drop DB", "DROP_DB", Answer.STATUS),
    0x07: Kind("Refresh", "REFRESH", Answer.STATUS),
    0x08: Kind("Shutdown", "SHUTDOWN", Answer.STATUS),
    0x09: Kind("Statistics", "STATISTICS", Answer.TEXT),
    0x0A: Kind("Process Info", "PROCESS_INFO", Answer.RESULTS),
    Code.PROCESS_KILL: Kind("Process Kill", "PROCESS_KILL", Answer.STATUS),
    0x0D: Kind("Debug", "DEBUG", Answer.STATUS),
    Code.PING: Kind("Ping", "PING", Answer.STATUS),
    Code.CHANGE_USER: Kind("Change User", "CHANGE_USER", Answer.LOGIN),
    Code.BINLOG_DUMP: Kind("Binlog Dump", "BINLOG_DUMP", Answer.EVENTS),
    0x13: Kind("Table Dump", "TABLE_DUMP", Answer.EVENTS),
    0x15: Kind("Register Replica", "REGISTER_SLAVE", Answer.STATUS),
    Code.STMT_PREPARE: Kind("Prepare", "STMT_PREPARE", Answer.PREPARED),
    Code.STMT_EXECUTE: Kind("Execute", "STMT_EXECUTE", Answer.RESULTS),
    Code.STMT_SEND_LONG_DATA: Kind("Send Long Data", "STMT_SEND_LONG_DATA", Answer.NONE),
    Code.STMT_CLOSE: Kind("Close Statement", "STMT_CLOSE", Answer.NONE),
    Code.STMT_RESET: Kind("Reset Statement", "STMT_RESET", Answer.STATUS),
    Code.SET_OPTION: Kind("Set Option", "SET_OPTION", Answer.STATUS),
    Code.STMT_FETCH: Kind("Fetch", "STMT_FETCH", Answer.ROWS),
    0x1E: Kind("Binlog Dump GTID", "BINLOG_DUMP_GTID", Answer.EVENTS),
    Code.RESET_CONNECTION: Kind("Reset Connection", "RESET_CONNECTION", Answer.STATUS),
    0x20: Kind("Clone", "CLONE", Answer.EVENTS),
    0x21: Kind("Subscribe Group Replication Stream", "SUBSCRIBE_GROUP_REPLICATION_STREAM", Answer.STATUS),
    Code.STMT_BULK_EXECUTE: Kind("Bulk Execute", "STMT_BULK_EXECUTE", Answer.RESULTS),
}
"""First byte -> command. Left out are those that no client sends, as they name a server's own threads in
my_command.h: Sleep, Connect, Time, Delayed Insert, Connect Out and Daemon.
"""

ON_STATEMENT = frozenset(
    {
        Code.STMT_EXECUTE,
        Code.STMT_SEND_LONG_DATA,
        Code.STMT_CLOSE,
        Code.STMT_RESET,
        Code.STMT_FETCH,
        Code.STMT_BULK_EXECUTE,
    }
)
"""Commands whose first four bytes are the id of a prepared statement."""
_SHOW_STATEMENT = frozenset({Code.STMT_EXECUTE, Code.STMT_BULK_EXECUTE, Code.STMT_FETCH})


@dataclass(slots=True, eq=False)
class Command:
    """One command packet, or a login, as a transaction shows it; equal only to itself.

    code: its first byte, 0 for what is no command. text: of the log line, None where the command is not
    visible. query, summary: of commands that carry or execute a statement. namespace: the database it names
    to work in. truncated: something shown was cut. statement: id of a prepared statement. execute: of a
    prepare, the command that executes it.
    """

    code: int
    answer: Answer
    text: str | None
    operation: str | None
    query: str | None = None
    summary: str | None = None
    namespace: str | None = None
    truncated: bool = False
    statement: int = 0
    execute: Command | None = None


HIDDEN = Command(0, Answer.RESULTS, None, None, truncated=True)
"""A command beyond the payload prefix: only its answer may be known."""
REFUSED = Command(0, Answer.STATUS, None, None)
"""What a server answers that sends an error in place of its greeting."""


QUERY_LABEL = "MySQL Query: "
"""What the log shows in front of a query's text."""


def decode(data: bytes, *, cut: bool) -> str:
    """Return text as the log shows it, with `…` behind it where the payload limit cut it."""
    if not cut:
        return data.decode("utf-8", "backslashreplace")
    return _CUT_CHARACTER.sub(b"", data).decode("utf-8", "backslashreplace") + _ELLIPSIS


def read_commands(request: bytes, request_bytes: int) -> tuple[list[tuple[Command, int]], int]:
    """Return the commands of a request and how many bytes each has, and how many bytes are left behind them.

    request: as far as captured. request_bytes: the length of it all.
    """
    found = []
    at = 0
    while at + HEADER_BYTES < len(request) and not request[at + 3]:
        length = int.from_bytes(request[at : at + 3], "little")
        end = at + HEADER_BYTES + length
        command = read_command(request[at:end])
        # An id that is cut is none.
        cut = at > 0 and len(request) < min(end, at + _ID_END)
        if command is None or (cut and command.code in ON_STATEMENT):
            break
        # Nothing tells where the packets end that continue one of the greatest length.
        end = request_bytes if length == MAX_LENGTH else min(end, request_bytes)
        found.append((command, end - at))
        at = end
    return found, request_bytes - at


def read_command(packet: bytes) -> Command | None:
    """Return the command of a packet with its header, as far as captured; None if it is none."""
    code = packet[HEADER_BYTES] if len(packet) > HEADER_BYTES else 0
    if code in ON_STATEMENT:
        return on_statement(code, int.from_bytes(packet[HEADER_BYTES + 1 : HEADER_BYTES + 5], "little"))
    return _read_remembered(packet) if code in COMMANDS else None


@lru_cache(_REMEMBERED)
def _read_remembered(packet: bytes) -> Command:
    return read_plain_command(packet)


@lru_cache(_REMEMBERED)
def on_statement(code: int, statement: int) -> Command:
    """Return the command on a prepared statement of which only the id is known."""
    name = "last" if statement == LAST_STATEMENT else str(statement)
    kind = COMMANDS[code]
    detail = name if code in {Code.STMT_CLOSE, Code.STMT_RESET} else f"statement {name}"
    text = f"MySQL {kind.label}: {detail}"
    return Command(code, kind.answer, text, kind.operation, statement=statement)


def on_known_statement(command: Command, execute: Command | None) -> Command:
    """Return `command`, of `ON_STATEMENT`, with the text of its statement if that is known and shown."""
    if execute is None or command.code not in _SHOW_STATEMENT:
        return command
    if command.code == Code.STMT_EXECUTE:
        return execute
    kind = COMMANDS[command.code]
    operation = kind.operation if command.code == Code.STMT_FETCH else execute.operation
    text = f"MySQL {kind.label}: {execute.query}"
    return replace(execute, code=command.code, answer=kind.answer, text=text, operation=operation)


class _Body(NamedTuple):
    """A packet behind its header. data: what follows the command byte, as far as captured. cut: not all."""

    code: int
    data: bytes
    cut: bool


def read_plain_command(packet: bytes) -> Command:
    """Return the command of a packet whose command byte is in `COMMANDS` and not in `ON_STATEMENT`."""
    code, data = packet[HEADER_BYTES], packet[HEADER_BYTES + 1 :]
    cut = packet[0] + (packet[1] << 8) + (packet[2] << 16) > len(data) + 1
    return _READERS.get(code, _read_name)(_Body(code, data, cut))


def _show(code: int, detail: str = "", *, namespace: str | None = None, truncated: bool = False) -> Command:
    kind = COMMANDS[code]
    text = f"MySQL {kind.label}: {detail}" if detail else f"MySQL {kind.label}"
    return Command(code, kind.answer, text, kind.operation, namespace=namespace, truncated=truncated)


def _read_name(body: _Body) -> Command:
    return _show(body.code)


def _read_query(body: _Body) -> Command:
    sql = decode(statement_text(body.data), cut=body.cut)
    operation, summary = summarize_sql(sql)
    return query_command(sql, operation or "QUERY", summary or None, cut=body.cut)


def query_command(sql: str | None, operation: str, summary: str | None, *, cut: bool) -> Command:
    """Return what a query shows; sql: None where its text is kept elsewhere."""
    text = None if sql is None else f"{QUERY_LABEL}{sql}"
    namespace = summary[4:] or None if summary and operation == "USE" else None
    return Command(Code.QUERY, Answer.RESULTS, text, operation, sql, summary, namespace, cut)


def shown_text(statement: bytes, cut: bool) -> str:  # noqa: FBT001  # a column
    """Return what is shown of a statement."""
    return decode(statement, cut=cut)


def statement_text(data: bytes) -> bytes:
    """Return the statement of a COM_QUERY, behind the query attributes that MySQL 8.0.23 and later may send.

    ::

        | count (lenenc) | 1 | NULL bitmap | 1 | type (2), name (lenenc) ... | values ... | statement
        | 0              | 1 | statement

    No statement has 01 as its second byte. Source: page_protocol_com_query.
    """
    if data[1:2] != b"\1":
        return data
    return data[_attributes_end(data) :] if data[0] else data[2:]


def _attributes_end(data: bytes) -> int:
    count = data[0]
    at = 2 + (count + 7) // 8
    null_bits = int.from_bytes(data[2:at], "little")
    at += 1
    types = []
    for _ in range(count):
        types.append(data[at : at + 1])
        at = _lenenc_end(data, at + 2)
    for number, kind in enumerate(types):
        if not null_bits >> number & 1:
            at = at + _WIDTHS[kind] if kind in _WIDTHS else _lenenc_end(data, at)
    return at


_WIDTHS = {b"\1": 1, b"\2": 2, b"\3": 4, b"\4": 4, b"\5": 8, b"\6": 0, b"\x08": 8, b"\x09": 4, b"\x0d": 2}
"""enum_field_types -> bytes of a binary value; other types have a length in front, as strings do."""


def _lenenc_end(data: bytes, at: int) -> int:
    """Return where the string at `at` ends; beyond the end of `data` where it is cut."""
    width = {b"\xfc": 2, b"\xfd": 3, b"\xfe": 8}.get(data[at : at + 1], 0)
    number = data[at + 1 : at + 1 + width] if width else data[at : at + 1]
    return at + 1 + width + int.from_bytes(number, "little")


def _read_prepare(body: _Body) -> Command:
    sql = decode(body.data, cut=body.cut)
    operation, summary = summarize_sql(sql)
    execute = Command(
        Code.STMT_EXECUTE,
        Answer.RESULTS,
        f"MySQL Execute: {sql}",
        operation or "STMT_EXECUTE",
        sql,
        summary or None,
        truncated=body.cut,
    )
    text = f"MySQL Prepare: {sql}"
    return replace(
        execute, code=body.code, answer=Answer.PREPARED, text=text, operation="STMT_PREPARE", execute=execute
    )


def _read_database(body: _Body) -> Command:
    name = decode(body.data, cut=body.cut)
    namespace = name if body.code == Code.INIT_DB else None
    return _show(body.code, name, namespace=namespace, truncated=body.cut)


def _read_table(body: _Body) -> Command:
    """COM_FIELD_LIST: table, NUL, pattern of columns."""
    table, nul, _ = body.data.partition(b"\0")
    cut = body.cut and not nul
    return _show(body.code, decode(table, cut=cut), truncated=cut)


def _read_thread(body: _Body) -> Command:
    return _show(body.code, str(int.from_bytes(body.data[:4], "little")))


def _read_option(body: _Body) -> Command:
    return _show(body.code, "multi statements off" if body.data[:1] == b"\1" else "multi statements on")


def _read_binlog(body: _Body) -> Command:
    """COM_BINLOG_DUMP: position (4 bytes), flags (2), server id (4), file name."""
    position = int.from_bytes(body.data[:4], "little")
    return _show(body.code, f"{decode(body.data[10:], cut=body.cut)}:{position}", truncated=body.cut)


def _read_user(body: _Body) -> Command:
    """COM_CHANGE_USER: user, NUL, length of authentication data (1 byte) and the data, database, NUL, ..."""
    user, _, rest = body.data.partition(b"\0")
    database, nul, _ = rest[rest[0] + 1 :].partition(b"\0") if rest else (b"", b"", b"")
    return user_command(COMMANDS[body.code], user, database, cut=body.cut and not nul)


def user_command(kind: Kind, user: bytes, database: bytes, *, cut: bool) -> Command:
    """Return the command of a login; `cut`: the payload limit cut the names."""
    name = decode(user + b"@" + database if database else user, cut=cut)
    namespace = decode(database, cut=cut) if database else None
    return Command(
        0, Answer.LOGIN, f"MySQL {kind.label}: {name}", kind.operation, namespace=namespace, truncated=cut
    )


_READERS: dict[int, Callable[[_Body], Command]] = {
    Code.QUERY: _read_query,
    Code.STMT_PREPARE: _read_prepare,
    Code.INIT_DB: _read_database,
    Code.CREATE_DB: _read_database,
    Code.DROP_DB: _read_database,
    Code.FIELD_LIST: _read_table,
    Code.PROCESS_KILL: _read_thread,
    Code.SET_OPTION: _read_option,
    Code.BINLOG_DUMP: _read_binlog,
    Code.CHANGE_USER: _read_user,
}
